"""Reading the files to score, a few ahead, and putting them on the models' grids."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from pydicom.dataset import Dataset

from mammo_jax.common.errors import UserError
from mammo_jax.common.parallel import Limits, parallel_map
from mammo_jax.datasets.views import bring_to_grid, check_image
from mammo_jax.images.dicom import Mammogram
from mammo_jax.images.grid import Grid, shrink
from mammo_jax.images.pictures import PICTURE_NAMES, read_image

# Longer side of the pictures that overlays are drawn on, in pixels.
PICTURE_SIDE = 1024
_READERS = 2
# Far more than the largest film needs, in gigabytes and seconds of processor time.
_MOST = Limits(2 << 30, 20)


@dataclasses.dataclass(frozen=True)
class Input:
    """Mammogram that was read.

    Attributes:
      path: its file.
      identifying: attributes of its header that the reader was asked for.
      study: StudyInstanceUID, or empty.
      instance: SOPInstanceUID, or empty.
      laterality: LEFT, RIGHT or empty.
      view: CC, MLO, another view's DICOM name, or empty.
      intent: "FOR PRESENTATION" of a detector's image, else empty.
      is_dicom: True if there is an instance for DICOM output to refer to.
      size: rows and columns of the original.
      checksum: the checksum of the original's pixels.
      grids: the image on each grid.
      picture: the original made small, with its aspect ratio, for looking at.
      original: likewise in the original's size, where it was asked for.
    """

    path: Path
    identifying: Dataset = dataclasses.field(repr=False)
    study: str = dataclasses.field(repr=False)
    instance: str = dataclasses.field(repr=False)
    laterality: str
    view: str
    intent: str
    is_dicom: bool
    size: tuple[int, int]
    checksum: int
    grids: dict[Grid, UInt16[np.ndarray, "height width"]]
    picture: UInt8[np.ndarray, "rows columns"]
    original: UInt8[np.ndarray, "rows2 columns2"] | None


@dataclasses.dataclass(frozen=True)
class Problem:
    """File that could not be scored, or remark on one that was.

    Attributes:
      path: the file.
      reason: the fault, for the user to read.
      scored: True if it was scored all the same.
      of_row: True for a row of a table; the reason may quote its cells.
    """

    path: Path
    reason: str
    scored: bool = False
    of_row: bool = False


@contextlib.contextmanager
def reading(
    files: Sequence[Path],
    grids: Iterable[Grid],
    *,
    identifying: Sequence[str] = (),
    with_original: bool,
) -> Iterator[Iterator[Input | Problem]]:
    """Reads the files in their order, the first from now on, a few ahead of the caller.

    In processes of its own, which a hostile file may end.

    Args:
      files: to read.
      grids: to put the images on.
      identifying: attributes to read that identify, see `dicom.read_mammogram`.
      with_original: also keep them in their own size.
    """
    read = functools.partial(
        read_or_report,
        grids=tuple(dict.fromkeys(grids)),
        identifying=identifying,
        with_original=with_original,
    )
    images = parallel_map(read, files, _READERS, _report_death, _MOST)
    with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(1) as thread:
        # Results hold attributes of headers, which pydicom's warnings may quote.
        warnings.simplefilter("ignore")
        first = thread.submit(list, itertools.islice(images, 1))
        try:
            yield (one for part in (first.result, lambda: images) for one in part())
        finally:
            first.exception()
            images.close()


def _report_death(path: Path) -> Problem:
    return Problem(
        path,
        f"reading it takes more than {_MOST.memory >> 30} GiB of memory or"
        f" {_MOST.seconds} s of processor time, or crashes; export it again",
    )


def read_or_report(
    path: Path,
    *,
    grids: Sequence[Grid],
    identifying: Sequence[str],
    with_original: bool,
) -> Input | Problem:
    """Reads one file, or says why it cannot be scored; see `reading`."""
    try:
        mammogram = read_image(path, identifying)
        return prepare(path, mammogram, grids, with_original=with_original)
    except UserError as error:
        return Problem(path, str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return Problem(path, error.strerror or type(error).__name__)
    except MemoryError:
        return _report_death(path)
    except Exception as error:  # codecs fail in too many ways to list
        kind = type(error).__name__
        return Problem(path, f"cannot be read ({kind}); export it again")


def prepare(
    path: Path,
    mammogram: Mammogram,
    grids: Iterable[Grid],
    *,
    with_original: bool = False,
) -> Input:
    """Puts a mammogram on the grids, and makes a picture of it.

    Args:
      path: its file.
      mammogram: that was read from the file.
      grids: the grids of the models.
      with_original: also keep the picture in the original's size.

    Raises:
      UserError: the image cannot be a whole mammogram.
    """
    check_image(path, mammogram)
    picture, levels = small_picture(mammogram.pixels)
    return Input(
        path=path,
        identifying=mammogram.identifying,
        study=mammogram.study_instance_uid,
        instance=mammogram.sop_instance_uid,
        laterality=mammogram.laterality,
        view=mammogram.view,
        intent=mammogram.intent,
        is_dicom=path.suffix.lower() not in PICTURE_NAMES,
        size=(mammogram.rows, mammogram.columns),
        checksum=zlib.crc32(np.ascontiguousarray(mammogram.pixels).data),
        grids={grid: bring_to_grid(path, mammogram, grid) for grid in grids},
        picture=picture,
        original=levels[mammogram.pixels] if with_original else None,
    )


def small_picture(
    pixels: UInt16[np.ndarray, "rows columns"],
) -> tuple[UInt8[np.ndarray, "rows2 columns2"], UInt8[np.ndarray, " 65536"]]:
    """Shrinks the image to at most `PICTURE_SIDE` on its longer side, in 8 bits.

    Its darkest value is black, and its brightest but for one pixel in two hundred
    white.

    Returns:
      The picture, and its grey level by stored value.
    """
    pixels = shrink(pixels, PICTURE_SIDE / max(pixels.shape))
    dark, bright = np.percentile(pixels, [0, 99.5])
    shares = (np.arange(1 << 16, dtype=np.float32) - dark) / max(bright - dark, 1)
    levels = np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)
    return levels[pixels], levels
