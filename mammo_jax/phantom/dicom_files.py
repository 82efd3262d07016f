"""Writes DICOM files whose bytes depend on the arguments alone."""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import UInt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

# Derived from a UUID (DICOM PS3.5 B.2); names this writer in every file.
_IMPLEMENTATION_UID = "2.25.226907231471482563414612921938018275604"
_IMPLEMENTATION_NAME = "MAMMO_JAX"


@dataclasses.dataclass(frozen=True)
class Identity:
    """Whose image it is and where it belongs.

    Attributes:
      study_uid: StudyInstanceUID.
      series_uid: SeriesInstanceUID.
      instance_uid: SOPInstanceUID.
      instance_number: InstanceNumber, from 1.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    instance_number: int = 1


def write_dicom(
    path: Path,
    pixels: UInt[np.ndarray, "height width"],
    identity: Identity,
    attributes: dict[str, str],
    *,
    bits_stored: int | None = None,
    sop_class: str = SecondaryCaptureImageStorage,
    compress: bool = False,
) -> None:
    """Writes a grey image, MONOCHROME2.

    Args:
      path: its folder is made.
      pixels: 8 or 16 bits.
      identity: the UIDs.
      attributes: further DICOM attributes by keyword.
      bits_stored: fewer than the pixels' own where the detector has fewer.
      sop_class: SOPClassUID.
      compress: RLE Lossless instead of Explicit VR Little Endian.
    """
    bits = 8 * pixels.dtype.itemsize
    dataset = Dataset()
    dataset.file_meta = _file_meta(identity, sop_class)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = identity.instance_uid
    dataset.StudyInstanceUID = identity.study_uid
    dataset.SeriesInstanceUID = identity.series_uid
    dataset.InstanceNumber = identity.instance_number
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = bits
    dataset.BitsStored = bits_stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    data = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    if compress:
        # By name: another encoder would make other bytes.
        dataset.compress(
            RLELossless, encoding_plugin="gdcm", generate_instance_uid=False
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def _file_meta(identity: Identity, sop_class: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(identity.instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(_IMPLEMENTATION_UID)
    meta.ImplementationVersionName = _IMPLEMENTATION_NAME
    return meta
