"""Places in a breast that look like a lesion: brighter than what lies around them.

Background patches near them are the hard examples of patch training. Bright spots and
lumps are told from their surroundings by differences of Gaussians at two sizes: on a
film of 23 cm some 6 mm, as a cluster of calcifications has, and 17 mm, as a mass has.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt16

from mammo_jax.images.grid import shrink

# Patches are shrunk to this size before the search: the sizes below are in its pixels.
_PATCH_PIXELS = 56
_SIGMAS = (2.0, 6.0)
_SURROUNDING = 1.6  # of a size, over which the surrounding is averaged
# In standard deviations of the breast's own texture.
_MINIMUM_CONTRAST = 1.0
_MAX_STRUCTURES = 20


def find_bright_structures(
    image: UInt16[np.ndarray, "height width"],
    breast: Bool[np.ndarray, "height width"],
    patch_size: int,
) -> Int[np.ndarray, "structures 2"]:
    """Finds centres (row, column) of bright structures, the brightest first.

    At most twenty, at least a quarter of a patch from each other; none in a breast of
    one grey. The size of a patch in pixels sets the structures' size.
    """
    height, width = image.shape
    scale = min(1.0, _PATCH_PIXELS / patch_size)
    grey = shrink(image.astype(np.float32), scale)
    share = shrink(breast.astype(np.float32), scale)
    inside = share >= 0.5
    # Films have white borders, which are no part of the breast.
    reach = int(patch_size * scale / 4)
    edge = min(reach // 2 + 1, *(length // 4 for length in inside.shape))
    inside[:edge] = inside[-edge:] = inside[:, :edge] = inside[:, -edge:] = False
    if not inside.any():
        return np.zeros((0, 2), int)
    contrast = np.max([_contrast(grey, inside, sigma) for sigma in _SIGMAS], axis=0)
    neighbours = cv2.dilate(contrast, np.ones((2 * reach + 1, 2 * reach + 1)))
    peaks = (contrast == neighbours) & inside & (contrast > _MINIMUM_CONTRAST)
    rows, columns = np.nonzero(peaks)
    order = np.argsort(-contrast[rows, columns], kind="stable")
    found = _keep_apart(np.stack([rows[order], columns[order]], axis=1), reach)
    centres = ((found + 0.5) / scale).astype(int)
    return np.asarray(np.minimum(centres, [height - 1, width - 1]))


def _keep_apart(places: np.ndarray, reach: int) -> np.ndarray:
    """Keeps the first of places within reach of each other: equal peaks touch."""
    kept = np.zeros((0, 2), int)
    for place in places:
        if len(kept) == _MAX_STRUCTURES:
            break
        if (np.abs(kept - place).max(axis=1) > reach).all():
            kept = np.concatenate([kept, place[None]])
    return kept


def _contrast(grey: np.ndarray, inside: np.ndarray, sigma: float) -> np.ndarray:
    """Measures grey over that of the surrounding, in deviations, within the breast."""
    weights = inside.astype(np.float32)

    def average(sigma: float) -> np.ndarray:
        total = cv2.GaussianBlur(grey * weights, (0, 0), sigma)
        return total / np.maximum(cv2.GaussianBlur(weights, (0, 0), sigma), 1e-6)

    difference = np.where(inside, average(sigma) - average(sigma * _SURROUNDING), 0)
    # Less than one grey level is rounding.
    deviation = max(float(difference[inside].std()), 1.0)
    return np.asarray(difference / deviation)
