"""Names of images, cases and patients that identify nobody.

Images are named by case numbers. Which images are of one patient is read from PatientID
(0010,0020), and where that names nobody from StudyInstanceUID (0020,000D), if that is a
valid one; both stay in memory unless the user asks for them.
"""

import collections
import re
from pathlib import Path
from typing import NamedTuple

from pydicom import config as pydicom_config
from pydicom.uid import UID

from mammo_jax.prediction.reading import Input

# Attributes that identify a patient, which the reader is asked for.
KEYWORDS = ("PatientID",)
# CBIS-DDSM gives every view of a patient a PatientID of its own.
_CBIS_ID = re.compile(r"(?:Mass|Calc)-(?:Training|Test)_(P_\d{5})_\w+")
# De-identified files have these instead of a patient's code, INbreast "removed"; they
# are compared in small letters, without what is neither letter nor digit.
_NOBODY = re.compile(
    "|anon|anonym[a-z]*|deidentified|removed|none|null|nobody|noname|na|unknown|xx+|0+"
)


class Identity(NamedTuple):
    """Names of an image in tables, files and reports.

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
    """Names images in the order in which they come.

    Args:
      keep_identifiers: call patients by their PatientID.
    """

    def __init__(self, *, keep_identifiers: bool):
        self._keep = keep_identifiers
        self._cases: dict[str | Path, str] = {}
        self._counts: collections.Counter[str] = collections.Counter()

    def name(self, image: Input) -> Identity:
        """Names an image; one without PatientID and study is a case of its own."""
        number = len(self._cases) + 1
        patient = _patient(image)
        whose = patient or _study(image) or image.path
        case = self._cases.setdefault(whose, f"case_{number:04d}")
        name = "_".join(part for part in (case, image.laterality, image.view) if part)
        self._counts[name] += 1
        if self._counts[name] > 1:
            name = f"{name}_{self._counts[name]}"
        kept = patient if self._keep else ""
        return Identity(name, case, kept or case)


def _patient(image: Input) -> str:
    """Reads PatientID; empty where it stands for anybody."""
    patient = str(image.identifying.get("PatientID") or "").strip()
    if _NOBODY.fullmatch(re.sub(r"[\W_]+", "", patient.casefold())):
        return ""
    cbis = _CBIS_ID.fullmatch(patient)
    return cbis[1] if cbis else patient


def _study(image: Input) -> str:
    """Returns the study; empty for "REMOVED", "0" and the like, which all share."""
    study = image.study.strip()
    uid = UID(study, validation_mode=pydicom_config.IGNORE)
    return study if "." in study and uid.is_valid else ""
