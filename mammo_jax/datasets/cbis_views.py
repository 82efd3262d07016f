"""One view of CBIS-DDSM: from its files to the examples of a data set.

Workers run it; it imports neither TFDS nor JAX.
"""

import collections
from collections.abc import Mapping, Sequence

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.cbis_tables import Abnormality, CbisView
from mammo_jax.datasets.sampling import Region, find_region
from mammo_jax.datasets.views import (
    Packing,
    Repairs,
    ViewResult,
    make_result,
    read_whole,
)
from mammo_jax.images.dicom import Mammogram, read_mammogram
from mammo_jax.images.grid import Grid, mask_to_grid

# Masks differ from their images by up to 15 % in both directions alike; a mask whose
# proportions differ by more than this belongs to another image.
_MAX_DISTORTION = 1.15


def make_view_examples(view: CbisView, packing: Packing) -> ViewResult:
    """Reads a view's image and masks and makes its examples.

    Patches need all masks. A whole image does without those that are nowhere to be
    found, as in a download of the images alone.
    """
    repairs: Repairs = collections.Counter()
    problems: list[tuple[str, str]] = []
    mammogram = _read_image(view, repairs, problems)
    if mammogram is None:
        return ViewResult(problems=problems)
    rois = []
    for abnormality, paths in zip(view.abnormalities, view.rois, strict=True):
        if not paths and packing.sampling is None:
            repairs["masks_missing"] += 1
        else:
            source = paths[0] if paths else abnormality.roi_folder
            rois.append((source, (abnormality, paths)))
    return make_result(
        view, packing, rois, _read_region, mammogram=mammogram, repairs=repairs
    )


def _read_image(
    view: CbisView, repairs: Repairs, problems: list[tuple[str, str]]
) -> Mammogram | None:
    """Reads the first candidate that is a whole mammogram; the others are spares."""
    if not view.images:
        folders = " or ".join(folder for folder, _ in view.image_sources)
        problems.append((folders, "no image found: download the folder"))
    for path in view.images:
        try:
            mammogram = read_whole(path)
        except UserError as error:
            problems.append((path, str(error)))
            continue
        if problems:
            repairs["other_copy_of_image_used"] += 1
        return mammogram
    return None


def _read_region(
    roi: tuple[Abnormality, Sequence[str]],
    view: CbisView,
    image: Mammogram,
    grid: Grid,
    repairs: Repairs,
) -> list[tuple[str, Region]]:
    """Finds the mask among the candidates by content and brings it to the grid.

    Raises:
      UserError: none of them is a mask of this image.
    """
    abnormality, paths = roi
    where = abnormality.roi_folder
    if not paths:
        raise UserError(f"{where}: no mask found; download the folder")
    found, failures = {}, []
    for path in paths:
        try:
            found[path] = read_mammogram(path)
        except UserError as error:
            failures.append(str(error))

    def rank(path: str) -> tuple[int, int]:
        # Masks are of 8 bits and of about the image's size, crops of 16 and small.
        return found[path].bits_allocated, abs(found[path].rows - image.rows)

    for path in sorted(found, key=rank):
        mask = found[path]
        # Masks hold two values, zero outside; crops hold many.
        if not ((mask.pixels == 0) | (mask.pixels == mask.pixels.max())).all():
            continue
        distortion = (mask.rows * image.columns) / (mask.columns * image.rows)
        region = find_region(mask_to_grid(mask.pixels, grid.height, grid.width))
        if not 1 / _MAX_DISTORTION < distortion < _MAX_DISTORTION:
            failures.append(
                f"{path}: a mask of {mask.rows}x{mask.columns} pixels does not fit the"
                f" image of {image.rows}x{image.columns}; download both again"
            )
        elif region is None:
            failures.append(f"{path}: the mask is empty")
        else:
            _count_repairs(abnormality, path, found, image, repairs)
            return [(abnormality.patch_class, region)]
    raise UserError(failures[0] if failures else f"{where}: holds no mask, only crops")


def _count_repairs(
    abnormality: Abnormality,
    path: str,
    found: Mapping[str, Mammogram],
    image: Mammogram,
    repairs: Repairs,
) -> None:
    """Counts what the file in use has otherwise than its image or its table says."""
    mask = found[path]
    if (mask.rows, mask.columns) != (image.rows, image.columns):
        repairs["masks_resized"] += 1
    mask_series, _ = abnormality.roi_series
    series = [p for p, file in found.items() if file.series_instance_uid == mask_series]
    position = int("".join(c for c in abnormality.mask_name if c.isdigit()) or 0)
    claimed = series[min(position, len(series) - 1)] if series else path
    if claimed != path:
        repairs["masks_and_crops_exchanged"] += 1
