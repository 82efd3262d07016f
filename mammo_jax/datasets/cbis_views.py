"""One view of CBIS-DDSM: from its files to the examples of a data set.

What workers run. It imports neither TFDS nor JAX.
"""

import collections
import functools
from collections.abc import Sequence

import numpy as np

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.cbis_files import ViewFiles
from mammo_jax.datasets.cbis_tables import Abnormality
from mammo_jax.datasets.sampling import Region, find_region
from mammo_jax.datasets.views import (
    Facts,
    Grid,
    RegionReader,
    ViewResult,
    check_image,
    make_result,
    skipped,
)
from mammo_jax.images.dicom import Header, Mammogram, read_header, read_mammogram
from mammo_jax.images.grid import mask_to_grid

# Masks differ from their images by up to 15 % in both directions alike; a mask whose
# proportions differ by more than this belongs to another image.
_MAX_DISTORTION = 1.15


def make_view_examples(files: ViewFiles, grid: Grid) -> ViewResult:
    """Reads a view's image and masks and makes its examples.

    Patches need all masks. A whole image does without those that are nowhere to be
    found, as in a download of the images alone.
    """
    repairs: collections.Counter[str] = collections.Counter()
    problems: list[tuple[str, str]] = []
    mammogram = _read_image(files, repairs, problems)
    if mammogram is None:
        return skipped(problems)
    readers: list[tuple[str, RegionReader]] = []
    for abnormality, paths in zip(files.view.abnormalities, files.rois, strict=True):
        if not paths and grid.sampling is None:
            repairs["masks_missing"] += 1
            continue
        read = functools.partial(
            _read_region, abnormality, paths, mammogram, grid, repairs
        )
        readers.append((paths[0] if paths else abnormality.roi_folder, read))
    v = files.view
    facts = Facts(v.image_id, v.patient_id, v.laterality, v.view, v.breast_density)
    return make_result(mammogram, facts, v.is_malignant, readers, grid, repairs)


def _read_image(
    files: ViewFiles,
    repairs: collections.Counter[str],
    problems: list[tuple[str, str]],
) -> Mammogram | None:
    """The first candidate that is a whole mammogram; the others are spares."""
    if not files.images:
        folders = " or ".join(folder for folder, _ in files.view.image_sources)
        problems.append((folders, "no image found: download the folder"))
    failures: list[tuple[str, str]] = []
    for path in files.images:
        try:
            mammogram = read_mammogram(path)
            check_image(path, mammogram)
        except UserError as error:
            failures.append((path, str(error)))
            continue
        if failures:
            repairs["other_copy_of_image_used"] += 1
        return mammogram
    problems += failures
    return None


def _read_region(
    abnormality: Abnormality,
    paths: Sequence[str],
    image: Mammogram,
    grid: Grid,
    repairs: collections.Counter[str],
) -> list[tuple[str, Region]]:
    """Finds the mask among the candidates by content and brings it to the grid.

    Raises:
      UserError: none of them is a mask of this image.
    """
    where = abnormality.roi_folder
    if not paths:
        raise UserError(f"{where}: no mask found; download the folder")
    headers, failures = _read_headers(paths)
    # Masks are of 8 bits and of about the image's size, crops of 16 and small.
    order = sorted(
        headers,
        key=lambda path: (
            headers[path].bits_allocated,
            abs(headers[path].rows - image.rows),
        ),
    )
    for path in order:
        try:
            mask = read_mammogram(path)
        except UserError as error:
            failures.append(str(error))
            continue
        if not _is_mask(mask):
            continue
        failure = _misfit(path, mask, image)
        region = find_region(mask_to_grid(mask.pixels, grid.height, grid.width))
        if failure is None and region is not None:
            _count_repairs(abnormality, path, headers, image, repairs)
            return [(abnormality.patch_class, region)]
        failures.append(failure or f"{path}: the mask is empty")
    raise UserError(failures[0] if failures else f"{where}: holds no mask, only crops")


def _read_headers(paths: Sequence[str]) -> tuple[dict[str, Header], list[str]]:
    headers, failures = {}, []
    for path in paths:
        try:
            headers[path] = read_header(path)
        except UserError as error:
            failures.append(str(error))
    return headers, failures


def _is_mask(mammogram: Mammogram) -> bool:
    """Masks hold two values, zero outside; a crop of a film holds many."""
    pixels = mammogram.pixels
    highest = pixels.max()
    return bool(np.all((pixels == 0) | (pixels == highest)))


def _misfit(path: str, mask: Mammogram, image: Mammogram) -> str | None:
    """Why a mask cannot belong to an image, or None."""
    distortion = (mask.rows * image.columns) / (mask.columns * image.rows)
    if 1 / _MAX_DISTORTION < distortion < _MAX_DISTORTION:
        return None
    return (
        f"{path}: a mask of {mask.rows}x{mask.columns} pixels does not fit the image of"
        f" {image.rows}x{image.columns}; download both again"
    )


def _count_repairs(
    abnormality: Abnormality,
    path: str,
    headers: dict[str, Header],
    image: Mammogram,
    repairs: collections.Counter[str],
) -> None:
    chosen = headers[path]
    if (chosen.rows, chosen.columns) != (image.rows, image.columns):
        repairs["masks_resized"] += 1
    mask_series, _ = abnormality.roi_series
    series = [p for p, h in headers.items() if h.series_instance_uid == mask_series]
    position = int("".join(c for c in abnormality.mask_name if c.isdigit()) or 0)
    claimed = series[min(position, len(series) - 1)] if series else path
    if claimed != path:
        repairs["masks_and_crops_exchanged"] += 1
