"""Names of images, cases and patients that identify nobody.

Images are named by case numbers. Which images are of one patient is read from PatientID
(0010,0020), and where that names nobody from StudyInstanceUID (0020,000D), if that is a
valid one; both stay in memory unless the user asks for them.
"""

import collections
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydicom import config as pydicom_config
from pydicom.uid import UID

from mammo_jax.datasets.views import View
from mammo_jax.prediction.reading import Input

# Attributes that identify a patient, which the reader is asked for.
KEYWORDS = ("PatientID",)
# CBIS-DDSM gives every view of a patient a PatientID of its own.
_CBIS_ID = re.compile(r"(?:Mass|Calc)-(?:Training|Test)_(P_\d{5})_\w+")
# De-identified files have these instead of a patient's code, INbreast "removed"; they
# are compared in small letters, without what is neither letter nor digit.
_NOBODY = re.compile(
    "|anon|anonym[a-z]*|deidentified|removed|redacted|hidden|masked|private|withheld|none"
    "|null|nobody|no(pa?t(ient)?)?(id|name)|na|notavailable|unknown|unidentified|test"
    "|test(pa?t(ient)?|id)|dummy|default|empty|blank|pat(ient)?(id|name)?|id|x+|0+"
)


# With these a spreadsheet takes a cell for a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class Identity(NamedTuple):
    """Names of an image in tables, files and reports.

    Attributes:
      image_id: `case_0001_LEFT_CC`, with a number behind it for a second such image;
        of an image in a manifest, with the manifest's patient for the case.
      case: `case_0001`; all images of one PatientID share it, or of one study where
        PatientID names nobody.
      patient_id: the case, or PatientID where identifiers are kept.
      exam: number of the examination (study) within the case, from 1.
    """

    image_id: str
    case: str
    patient_id: str
    exam: int


class CaseBook:
    """Names images in the order in which they come.

    Args:
      keep_identifiers: call patients by their PatientID.
      planned: the images in a manifest, by their files, which are called as there.
    """

    def __init__(
        self, *, keep_identifiers: bool, planned: Mapping[Path, View] | None = None
    ):
        self._keep, self._planned = keep_identifiers, planned or {}
        self._cases: dict[str | Path, str] = {}
        self._counts: collections.Counter[str] = collections.Counter()
        self._exams: dict[str, dict[str, int]] = {}
        self._seen: set[tuple[str | Path, object]] = set()

    def name(self, image: Input) -> Identity:
        """Names an image; one without PatientID and study is a case of its own."""
        number, planned = len(self._cases) + 1, self._planned.get(image.path)
        case = self._cases.setdefault(self._whose(image), f"case_{number:04d}")
        case = planned.patient_id if planned else case
        name = "_".join(part for part in (case, image.laterality, image.view) if part)
        self._counts[name] += 1
        if self._counts[name] > 1:
            name = f"{name}_{self._counts[name]}"
        name = planned.image_id if planned else name
        kept = _patient(image) if self._keep and not planned else ""
        kept = f"'{kept}" if kept.startswith(FORMULA_STARTS) else kept
        exams = self._exams.setdefault(case, {})
        exam = exams.setdefault(_uid(image.study), len(exams) + 1)
        return Identity(name, case, kept or case, exam)

    def is_copy(self, image: Input) -> bool:
        """Returns True if the same image of the same case came before.

        Copies share the SOPInstanceUID, or the pixels and the view.
        """
        whose = self._whose(image)
        pixels = (image.size, image.checksum)
        marks: list[object] = [(pixels, image.laterality, image.view)]
        if instance := _uid(image.instance):
            marks.append(instance)
        seen = {(whose, mark) for mark in marks}
        is_copy = not self._seen.isdisjoint(seen)
        self._seen |= seen
        return is_copy

    def _whose(self, image: Input) -> str | Path:
        if planned := self._planned.get(image.path):
            return planned.patient_id
        return _patient(image) or _uid(image.study) or image.path


def _patient(image: Input) -> str:
    """Reads PatientID; empty where it stands for anybody."""
    patient = str(image.identifying.get("PatientID") or "").strip()
    if _NOBODY.fullmatch(re.sub(r"[\W_]+", "", patient.casefold())):
        return ""
    cbis = _CBIS_ID.fullmatch(patient)
    return cbis[1] if cbis else patient


def _uid(text: str) -> str:
    """Returns a UID; empty for "REMOVED", "0" and the like, which all files share."""
    found = UID(text.strip(), validation_mode=pydicom_config.IGNORE)
    return str(found) if "." in found and found.is_valid else ""
