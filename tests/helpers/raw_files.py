"""Writes small DICOM files, good and bad, for the tests."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

# What may stand in a text attribute, by its value representation.
_SECRET_TEXTS = {
    **dict.fromkeys(["LO", "SH", "ST", "LT", "UT", "UC", "AE"], "SECRETtext"),
    "CS": "SECRETCODE",
    "PN": "SECRETname^JANE",
    "DA": "19330102",
    "DT": "19330102010203",
    "AS": "SECR",
    "UR": "http://secret.example",
}


# Those that would make it another image, or another kind of file.
_TECHNICAL = {"SpecificCharacterSet", "PhotometricInterpretation", "Modality"}
# Parts of them, which no output may hold.
HEADER_SECRETS = (b"SECR", b"secret.example", b"JANE", b"19330102")


def make_dataset(pixels: np.ndarray, **attributes) -> Dataset:
    """Makes an uncompressed mammogram of `pixels` (8 or 16 bits, signed or not)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.Modality = "MG"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel = 1
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in attributes.items():
            setattr(dataset, name, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Writes a data set, whatever nonsense it holds, and returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def write_dicom(path: Path, pixels: np.ndarray, **attributes) -> Path:
    """`make_dataset` and `save`."""
    return save(make_dataset(pixels, **attributes), path)


def fill_with_secrets(dataset: Dataset) -> Dataset:
    """Every text attribute that DICOM knows, and two private ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag, (kind, _, _, _, keyword) in DicomDictionary.items():
            if kind in _SECRET_TEXTS and tag >> 16 > 2 and keyword not in _TECHNICAL:
                dataset.add_new(tag, kind, _SECRET_TEXTS[kind])
        for group in (0x0009, 0x0029):
            block = dataset.private_block(group, "SECRETOWNER", create=True)
            block.add_new(1, "LO", "SECRETprivate")
    return dataset
