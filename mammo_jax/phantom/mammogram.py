"""A whole synthetic mammogram: breast, lesions, grey scale."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt16

from mammo_jax.phantom import render
from mammo_jax.phantom.anatomy import Anatomy, draw_shape, smooth_fields
from mammo_jax.phantom.lesions import Lesion, add_lesion, place_lesion
from mammo_jax.phantom.parenchyma import draw_tissue
from mammo_jax.phantom.seeding import named_generator

# Version of the drawings, to be raised when other pixels come of the same arguments:
# the scores of phantoms that travel with models name it.
VERSION = 1
# Spread of the heights, and the widths over the heights, of CBIS-DDSM's films.
_HEIGHT_SPREAD = 0.04
_ASPECTS = (0.56, 0.66)


class ViewPlan(NamedTuple):
    """Plan of what a mammogram is to show.

    Attributes:
      name: unique among the set's views, "P_00016_LEFT_CC"; seeds the drawing.
      laterality: "LEFT" or "RIGHT".
      view: "CC" or "MLO".
      anatomy: the breast.
      lesions: in the breast, in the order of their outlines.
    """

    name: str
    laterality: str
    view: str
    anatomy: Anatomy
    lesions: tuple[Lesion, ...]


class Mammogram(NamedTuple):
    """A drawn mammogram, and the outline of each lesion: (x, y) in image heights."""

    pixels: UInt16[np.ndarray, "height width"]
    outlines: tuple[Float[np.ndarray, "point 2"], ...]


def film_size(seed: int, name: str, height: int) -> tuple[int, int]:
    """Rows and columns of a film of about the given height."""
    generator = named_generator(seed, "size", name)
    rows = round(height * generator.uniform(1 - _HEIGHT_SPREAD, 1 + _HEIGHT_SPREAD))
    return rows, round(rows * generator.uniform(*_ASPECTS))


def draw_mammogram(
    seed: int,
    plan: ViewPlan,
    rows: int,
    columns: int,
    *,
    scale: str = "film",
    contrast: float = 1.0,
) -> Mammogram:
    """Draws a mammogram; contrast 1 of its lesions looks like real ones.

    Its grey scale is "film" (with markers and borders, 16 bits) or "digital" (14 bits).
    """
    aspect = columns / rows
    generator = named_generator(seed, "breast", plan.name)
    shape = draw_shape(generator, plan.anatomy, plan.view, aspect)
    fields = smooth_fields(shape, rows, columns)
    tissue = draw_tissue(generator, plan.anatomy, shape, fields, rows, columns)
    # The lesions have a generator of their own: the breast around them, and the
    # film, stay the same whatever they are.
    generator = named_generator(seed, "lesions", plan.name)
    placed: list[tuple[tuple[float, float], float]] = []
    outlines = []
    for lesion in plan.lesions:
        centre = place_lesion(generator, lesion, fields, placed)
        placed.append((centre, lesion.diameter))
        outlines.append(add_lesion(generator, lesion, contrast, centre, tissue))
    if plan.laterality == "RIGHT":
        tissue = cv2.flip(tissue, 1)
        # Pixel i of c becomes pixel c - 1 - i.
        mirror = (columns - 1) / rows
        outlines = [np.array([mirror, 0.0]) + o * [-1.0, 1.0] for o in outlines]
    generator = named_generator(seed, "film", plan.name)
    if scale == "film":
        pixels = render.to_film(generator, tissue, plan.laterality, plan.view)
    else:
        pixels = render.to_digital(generator, tissue)
    return Mammogram(pixels, tuple(outlines))
