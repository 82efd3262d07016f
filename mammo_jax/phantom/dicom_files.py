"""Writes DICOM files whose bytes depend on the arguments alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

# Derived from a UUID (DICOM PS3.5 B.2); names this writer in every file.
_IMPLEMENTATION_UID = "2.25.226907231471482563414612921938018275604"
_IMPLEMENTATION_NAME = "MAMMO_JAX"


def write_dicom(
    path: Path,
    pixels: UInt[np.ndarray, "height width"],
    attributes: Mapping[str, Any],
    *,
    bits_stored: int | None = None,
    compress: bool = False,
) -> None:
    """Writes a grey image, MONOCHROME2; its folder is made.

    Args:
      path: the file.
      pixels: 8 or 16 bits.
      attributes: DICOM attributes by keyword, the UIDs among them.
      bits_stored: fewer than the pixels' own where the detector has fewer.
      compress: RLE Lossless instead of Explicit VR Little Endian.
    """
    bits = 8 * pixels.dtype.itemsize
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(_IMPLEMENTATION_UID)
    meta.ImplementationVersionName = _IMPLEMENTATION_NAME
    dataset.SpecificCharacterSet = "ISO_IR 100"
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
