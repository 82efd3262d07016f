"""Writer of results for a PACS: overlay as Secondary Capture, structured report.

Both refer to the mammogram by its UIDs and lie in its study, each in a series of its
own. Without identifiers the patient is called by the case number, and nothing else of
the patient is copied. The structured report is a Comprehensive SR after TID 1500
("Measurement Report", DICOM PS3.16) with one measurement, the probability of cancer in
percent.
"""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from jaxtyping import UInt8
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

import mammo_jax
from mammo_jax.common.errors import UserError
from mammo_jax.common.files import replace_file
from mammo_jax.prediction.identity import Identity
from mammo_jax.prediction.reading import Input

_MANUFACTURER = "mammo_jax"
_CAVEAT = "For research; not for diagnosis"
# A code of this program's own: value, scheme and meaning.
UNCALIBRATED = ("uncalibrated-score", "99MAMMOJAX", "Uncalibrated model score")
# Attributes of the patient and the study, which both objects repeat.
IDENTIFYING = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_REFERENCES = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_IMAGE = (
    *("Modality", "Rows", "Columns", "Laterality", "ImageLaterality"),
    *("PatientOrientation", "BurnedInAnnotation"),
)
# A defined one, such as A\\FR, as pydicom returns it.
_ORIENTATION = re.compile(r"[APRLHF]{1,3}")
# highdicom wants one, and refuses a mammogram's own, such as A and FR.
_ANY_ORIENTATION = ("A", "F")
# Attributes of the source that its results need, whoever the patient is.
KEYWORDS = (*_REFERENCES, *_IMAGE)
# Characters of a value of representation ST (PS3.5).
_SHORT_TEXT = 1024
_SERIES_NUMBERS = {"overlay": 9001, "report": 9002}


def write_dicom(
    folder: Path,
    source: Input,
    identity: Identity,
    overlay: UInt8[np.ndarray, "height width 3"],
    score: float,
    *,
    calibrated: bool,
    keep_identifiers: bool,
    credit: str,
) -> None:
    """Writes `ID_overlay.dcm` and `ID_report.dcm`, each whole or not at all.

    Args:
      folder: an existing one.
      source: the mammogram, read with `KEYWORDS` and, to keep identifiers,
        `IDENTIFYING`.
      identity: the identity of the mammogram.
      overlay: RGB.
      score: 0..1.
      calibrated: the score is a probability of malignancy; if not, the report calls it
        an uncalibrated model score.
      keep_identifiers: copy the source's patient and study attributes.
      credit: licence and citation of the models of others, which both objects state;
        "" for none.

    Raises:
      UserError: the source lacks valid UIDs to refer to, or has invalid attributes.
    """
    reference = _make_reference(source, identity, keep_identifiers=keep_identifiers)
    makers: dict[str, Callable[[], Dataset]] = {
        "overlay": lambda: _secondary_capture(reference, overlay, credit),
        "report": lambda: _structured_report(
            reference, identity, score, calibrated, credit
        ),
    }
    for name, make in makers.items():
        try:
            # highdicom's and pydicom's warnings may quote values of the header.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = make()
                path = folder / f"{identity.image_id}_{name}.dcm"
                with replace_file(path) as partial:
                    made.save_as(partial)
        except OSError:
            raise
        except Exception as error:  # invalid attributes fail in too many ways to list
            raise UserError(
                f"{source.path}: no DICOM {name} can refer to it "
                f"({type(error).__name__}); an attribute of its header is invalid"
            ) from None


def _make_reference(
    source: Input, identity: Identity, *, keep_identifiers: bool
) -> Dataset:
    """Returns the mammogram's header as the results refer to it."""
    dataset, header = Dataset(), source.identifying
    for keyword in (*KEYWORDS, *(IDENTIFYING if keep_identifiers else ())):
        if keyword in header:
            dataset[keyword] = header[keyword]
    for keyword in _REFERENCES:
        if not UID(str(dataset.get(keyword, ""))).is_valid:
            raise UserError(
                f"{source.path}: its header has no valid {keyword} to refer to"
            )
    for keyword in IDENTIFYING:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    if not dataset.PatientID:
        dataset.PatientID = identity.patient_id
    return dataset


def _series(name: str) -> dict[str, Any]:
    return {
        "series_instance_uid": generate_uid(),
        "series_number": _SERIES_NUMBERS[name],
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": _MANUFACTURER,
    }


def _secondary_capture(
    reference: Dataset, overlay: UInt8[np.ndarray, "height width 3"], credit: str
) -> Dataset:
    import highdicom

    side = str(reference.get("ImageLaterality") or reference.get("Laterality") or "")
    image: Dataset = highdicom.sc.SCImage.from_ref_dataset(
        ref_dataset=reference,
        pixel_array=np.ascontiguousarray(overlay),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=_ANY_ORIENTATION,
        laterality=side if side in ("L", "R") else None,
        transfer_syntax_uid=pydicom.uid.ExplicitVRLittleEndian,
        series_description="Class map",
        **_series("overlay"),
    )
    image.PatientOrientation = _orientation(reference)
    image.ImageType = ["DERIVED", "SECONDARY"]
    # Text that is burnt into the source is here too.
    if reference.get("BurnedInAnnotation") in ("YES", "NO"):
        image.BurnedInAnnotation = reference.BurnedInAnnotation
    said = f"Class map of malignancy. {_CAVEAT}. {credit}".rstrip(" .")
    image.DerivationDescription = said[:_SHORT_TEXT]
    item = Dataset()
    item.ReferencedSOPClassUID = reference.SOPClassUID
    item.ReferencedSOPInstanceUID = reference.SOPInstanceUID
    image.SourceImageSequence = [item]
    return image


def _orientation(reference: Dataset) -> list[str] | str:
    """Returns PatientOrientation; empty where it has not rows' and columns' own."""
    value = reference.get("PatientOrientation") or ""
    values = [value] if isinstance(value, str) else [str(one) for one in value]
    if len(values) == 2 and all(map(_ORIENTATION.fullmatch, values)):
        return values
    return ""


def _structured_report(
    reference: Dataset, identity: Identity, score: float, calibrated: bool, credit: str
) -> Dataset:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    measured = {
        "name": sr.CodedConcept(*UNCALIBRATED),
        "value": round(score, 6),
        "unit": codes.UCUM.NoUnits,
    }
    if calibrated:
        measured = {
            "name": codes.DCM.ProbabilityOfCancer,
            "value": round(100 * score, 4),
            "unit": codes.UCUM.Percent,
        }
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(),
            name=_MANUFACTURER,
            manufacturer_name=_MANUFACTURER,
            model_name=f"version {mammo_jax.__version__}",
        ),
    )
    side = {"L": codes.SCT.Left, "R": codes.SCT.Right}.get(
        str(reference.get("ImageLaterality") or reference.get("Laterality") or "")
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=generate_uid(), identifier=identity.image_id
        ),
        algorithm_id=sr.AlgorithmIdentification(
            name=f"{_MANUFACTURER}. {_CAVEAT}",
            version=mammo_jax.__version__,
            parameters=[credit] if credit else None,
        ),
        finding_sites=[sr.FindingSite(codes.SCT.Breast, laterality=side)],
        source_images=[
            sr.SourceImageForMeasurementGroup(
                reference.SOPClassUID, reference.SOPInstanceUID
            )
        ],
        measurements=[sr.Measurement(**measured)],
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.DCM.Mammography,
        imaging_measurements=[group],
    )
    return sr.ComprehensiveSR(
        evidence=[reference],
        content=content[0],
        is_complete=True,
        series_description=measured["name"].meaning,
        **_series("report"),
    )
