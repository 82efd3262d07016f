"""Files to score: found, read, put on the models' grids, and told apart.

Nothing that identifies leaves this module unless it is asked for: images are named by
case numbers. Which images are of one patient is read from PatientID (0010,0020), and
where that names nobody from StudyInstanceUID (0020,000D), if that is a valid one;
both stay in memory.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import glob
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8, UInt16
from pydicom import config as pydicom_config
from pydicom.uid import UID

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.views import check_image
from mammo_jax.images.dicom import Mammogram, find_pseudonym
from mammo_jax.images.grid import Grid, shrink, to_grid
from mammo_jax.images.pictures import READERS, read_image

# Longer side of the pictures that overlays are drawn on, in pixels.
PICTURE_SIDE = 1024
# Height over width of mammograms is 1.1 to 3.
_ASPECTS = (0.8, 5.0)
_DICOM_NAMES = (".dcm", ".dicom")
_MARK, _MARK_AT = b"DICM", 128
# CBIS-DDSM gives every view of a patient a PatientID of its own.
_CBIS_ID = re.compile(r"(?:Mass|Calc)-(?:Training|Test)_(P_\d{5})_\w+")
_READERS_AT_ONCE = 2


@dataclasses.dataclass(frozen=True)
class Input:
    """A mammogram that was read.

    Attributes:
      path: its file.
      patient: PatientID; empty where there is none or it stands for anybody.
      study: StudyInstanceUID; empty where there is none or it stands for any study.
      laterality: LEFT, RIGHT or empty.
      view: CC, MLO, another view's DICOM name, or empty.
      is_dicom: whether there is an instance for DICOM output to refer to.
      size: rows and columns of the original.
      grids: the image on each grid.
      picture: the original made small, with its aspect ratio, for looking at.
      original: likewise in the original's size, where it was asked for.
    """

    path: Path
    patient: str
    study: str
    laterality: str
    view: str
    is_dicom: bool
    size: tuple[int, int]
    grids: dict[Grid, UInt16[np.ndarray, "height width"]]
    picture: UInt8[np.ndarray, "rows columns"]
    original: UInt8[np.ndarray, "rows2 columns2"] | None


@dataclasses.dataclass(frozen=True)
class Problem:
    """A file that could not be scored, and why; or what is to be said of one that was.

    Attributes:
      path: the file.
      reason: what is wrong.
      scored: whether it was scored all the same.
    """

    path: Path
    reason: str
    scored: bool = False


def find_files(arguments: Sequence[str]) -> list[Path]:
    """The files that the arguments name, each once, in a stable order.

    Args:
      arguments: files, folders (searched to the bottom for DICOM files and pictures)
        or globs, in which ** stands for any folders.

    Raises:
      UserError: an argument names nothing.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        files = list(_files_of(argument))
        if not files:
            raise UserError(f"{argument}: {_nothing(argument)}")
        found |= dict.fromkeys(files)
    return list(found)


def _files_of(argument: str) -> Iterator[Path]:
    path = Path(argument).expanduser()
    if path.is_dir():
        yield from _images_below(path)
    elif path.exists():
        yield path
    else:
        for name in sorted(glob.glob(str(path), recursive=True)):
            match = Path(name)
            if match.is_dir():
                yield from _images_below(match)
            else:
                yield match


def _images_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or path.name == "DICOMDIR":
            continue
        # A link to a file that is gone is read, and so reported.
        if not path.is_file() and not (path.is_symlink() and not path.exists()):
            continue
        suffix = path.suffix.lower()
        if suffix in READERS or suffix in _DICOM_NAMES or _has_mark(path):
            yield path


def _has_mark(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(_MARK_AT)
            return file.read(len(_MARK)) == _MARK
    except OSError:
        return False


def _nothing(argument: str) -> str:
    if Path(argument).expanduser().is_dir():
        return "the folder holds no DICOM file and no PNG, TIFF, JPEG or PGM picture"
    if glob.has_magic(argument):
        return "matches no file; check the pattern"
    return "no such file or folder; check the path"


@contextlib.contextmanager
def reading(
    files: Sequence[Path], grids: Iterable[Grid], *, with_original: bool
) -> Iterator[Iterator[Input | Problem]]:
    """Reads the files in their order, the first from now on, a few ahead of the caller.

    Args:
      files: to read.
      grids: to put the images on.
      with_original: also keep them in their own size.
    """
    wanted = tuple(dict.fromkeys(grids))
    paths = iter(files)
    with (
        # Readers put filters of their own, which are the whole process's: the one
        # that ends first must not let the other's warnings, with header values, out.
        warnings.catch_warnings(),
        concurrent.futures.ThreadPoolExecutor(_READERS_AT_ONCE) as pool,
    ):
        warnings.simplefilter("ignore")

        def submit(count: int) -> list[concurrent.futures.Future]:
            return [
                pool.submit(_read_or_report, path, wanted, with_original)
                for path in itertools.islice(paths, count)
            ]

        pending = collections.deque(submit(2 * _READERS_AT_ONCE + 1))

        def results() -> Iterator[Input | Problem]:
            while pending:
                result = pending.popleft().result()
                pending.extend(submit(1))
                yield result

        try:
            yield results()
        finally:
            pool.shutdown(cancel_futures=True)


def _read_or_report(
    path: Path, grids: Sequence[Grid], with_original: bool
) -> Input | Problem:
    try:
        return read_input(path, grids, with_original=with_original)
    except UserError as error:
        return Problem(path, str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return Problem(path, error.strerror or type(error).__name__)


def read_input(path: Path, grids: Sequence[Grid], *, with_original: bool) -> Input:
    """Reads one file.

    Raises:
      UserError: what the readers raise, or the image cannot be a whole mammogram.
    """
    mammogram = read_image(path)
    check_image(str(path), mammogram)
    lowest, highest = _ASPECTS
    if not lowest <= mammogram.rows / mammogram.columns <= highest:
        raise UserError(
            f"{path}: {mammogram.rows}x{mammogram.columns} pixels (height x width) are "
            "not the shape of a mammogram; turn it upright, or cut it to one breast"
        )
    is_dicom = path.suffix.lower() not in READERS
    picture, levels = small_picture(mammogram.pixels)
    return Input(
        path=path,
        patient=_patient(path) if is_dicom else "",
        study=_study(mammogram.study_instance_uid.strip()),
        laterality=mammogram.laterality,
        view=mammogram.view,
        is_dicom=is_dicom,
        size=(mammogram.rows, mammogram.columns),
        grids={grid: _on_grid(mammogram, grid) for grid in grids},
        picture=picture,
        original=levels[mammogram.pixels] if with_original else None,
    )


def _on_grid(mammogram: Mammogram, grid: Grid) -> np.ndarray:
    pixels = mammogram.pixels
    if not grid.stretch and mammogram.bits_stored < 16:
        # Such a grid was filled from 16-bit films; eight bits would be black on it.
        scale = 65535 / ((1 << mammogram.bits_stored) - 1)
        pixels = np.rint(pixels * np.float32(scale)).astype(np.uint16)
    return to_grid(pixels, grid.height, grid.width, stretch=grid.stretch)


# What de-identified files have instead of a patient's code, INbreast's "removed" among
# it; compared in small letters, without what is neither letter nor digit.
_NOBODY = re.compile(
    "|anon|anonym[a-z]*|deidentified|removed|none|null|nobody|noname|na|unknown|xx+|0+"
)


def _patient(path: Path) -> str:
    patient = find_pseudonym(path).strip()
    if _NOBODY.fullmatch(re.sub(r"[\W_]+", "", patient.casefold())):
        return ""
    cbis = _CBIS_ID.fullmatch(patient)
    return cbis[1] if cbis else patient


def _study(uid: str) -> str:
    """The study; empty for "REMOVED", "0", "1" and the like, which all files share."""
    known = "." in uid and UID(uid, validation_mode=pydicom_config.IGNORE).is_valid
    return uid if known else ""


def small_picture(
    pixels: UInt16[np.ndarray, "rows columns"],
) -> tuple[UInt8[np.ndarray, "rows2 columns2"], UInt8[np.ndarray, " 65536"]]:
    """The image with its longer side at most `PICTURE_SIDE`, in 8 bits.

    Its darkest value is black, and its brightest but for one pixel in two hundred
    white.

    Returns:
      The image, and what every stored value becomes.
    """
    pixels = shrink(pixels, PICTURE_SIDE / max(pixels.shape))
    dark, bright = np.percentile(pixels, [0, 99.5])
    shares = (np.arange(1 << 16, dtype=np.float32) - dark) / max(bright - dark, 1)
    levels = np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)
    return levels[pixels], levels


class Identity(NamedTuple):
    """What an image is called in tables, names and reports.

    Attributes:
      image_id: `case_0001_LEFT_CC`, with a number behind it for a second such image.
      case: `case_0001`; all images of one PatientID share it, or of one study where
        PatientID names nobody.
      patient_id: the case, or PatientID where identifiers are kept.
    """

    image_id: str
    case: str
    patient_id: str


class CaseBook:
    """Gives images their names, in the order in which they come.

    Args:
      keep_identifiers: call patients by their PatientID.
    """

    def __init__(self, *, keep_identifiers: bool):
        self._keep = keep_identifiers
        self._cases: dict[str | Path, str] = {}
        self._counts: collections.Counter[str] = collections.Counter()

    def name(self, image: Input) -> Identity:
        """The image's names; one without PatientID and study is a case of its own."""
        number = len(self._cases) + 1
        whose = image.patient or image.study or image.path
        case = self._cases.setdefault(whose, f"case_{number:04d}")
        name = "_".join(part for part in (case, image.laterality, image.view) if part)
        self._counts[name] += 1
        if self._counts[name] > 1:
            name = f"{name}_{self._counts[name]}"
        kept = image.patient if self._keep else ""
        return Identity(name, case, kept or case)
