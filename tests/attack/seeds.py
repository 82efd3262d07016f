"""Whole files of every kind that the program reads from strangers, to be damaged."""

import io
import json
import plistlib
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import imagecodecs
import numpy as np
import safetensors.numpy
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from raw_files import make_dataset, save

# Stands in every attribute that identifies; it must appear in no message.
CANARY = "CANARYNAME"
# Stands between files of a directory that are damaged as one.
BETWEEN_FILES = b"\n-----\n"
_HEIGHT, _WIDTH = 96, 64
_UNCOMPRESSED = (
    str(uid.ExplicitVRLittleEndian),
    str(uid.ImplicitVRLittleEndian),
)
# Encoders of a frame by transfer syntax.
_ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    str(uid.JPEGLosslessSV1): imagecodecs.ljpeg_encode,
    str(uid.JPEGLSLossless): imagecodecs.jpegls_encode,
    str(uid.JPEG2000Lossless): lambda film: imagecodecs.jpeg2k_encode(
        film, codecformat="j2k", reversible=True
    ),
    str(uid.JPEGBaseline8Bit): lambda film: imagecodecs.jpeg8_encode(
        (film >> 4).astype(np.uint8)
    ),
}


def make_seeds(folder: Path) -> dict[str, list[bytes]]:
    """Makes whole files, by the kind of their reader.

    Args:
      folder: gets files while they are made.

    Returns:
      Kind (see `targets.TARGETS`) to the files' bytes.
    """
    film = _film()
    table = "image_index,malignant_pred,malignant_label,patient_id,laterality,view\n"
    rows = [f"im{n},0.{n},{n % 2},p{n // 2},LEFT,CC\n" for n in range(1, 9)]
    manifest = "path,patient_id,laterality,view,label\n" + "".join(
        f"{n}.png,p{n},{'LR'[n % 2]},CC,{n % 2}\n" for n in range(6)
    )
    return {
        "dicom": [*_dicom_files(folder, film)],
        "picture": [*_pictures(film)],
        "prediction table": [(table + "".join(rows)).encode()],
        "manifest": [manifest.encode("utf-16"), manifest.replace(",", ";").encode()],
        "regions": [_regions()],
        "weights": [_keras(folder), safetensors.numpy.save({"a/kernel": film})],
        "description": [_description()],
        "expected scores": [_expected()],
    }


def _film() -> np.ndarray:
    """Draws 12 bits of a bright half on black, with noise."""
    random = np.random.default_rng(0)
    film = random.normal(300, 80, (_HEIGHT, _WIDTH))
    film[:, : _WIDTH // 2] += 2500
    return np.clip(film, 0, 4095).astype(np.uint16)


def _dicom_files(folder: Path, film: np.ndarray) -> list[bytes]:
    found = [_saved(folder, _mammogram(film), syntax) for syntax in _UNCOMPRESSED]
    rle = _mammogram(film)
    rle.compress(uid.RLELossless, encoding_plugin="pydicom")
    found.append(_saved(folder, rle, str(uid.RLELossless)))
    for syntax, encode in _ENCODERS.items():
        eight = syntax == uid.JPEGBaseline8Bit
        stored = (film >> 4).astype(np.uint8) if eight else film
        dataset = _mammogram(stored)
        dataset.PixelData = encapsulate([encode(film)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        found.append(_saved(folder, dataset, syntax))
    return found


def _mammogram(pixels: np.ndarray) -> Dataset:
    bits = 8 if pixels.dtype == np.uint8 else 12
    dataset = make_dataset(
        pixels,
        BitsStored=bits,
        HighBit=bits - 1,
        PatientName=CANARY,
        PatientID=CANARY,
        AccessionNumber=CANARY,
        InstitutionName=CANARY,
        PatientBirthDate="19500101",
        PresentationIntentType="FOR PRESENTATION",
        ImageLaterality="L",
        ViewPosition="CC",
        RescaleSlope="1",
        RescaleIntercept="0",
        PixelPaddingValue=0,
        NumberOfFrames="1",
    )
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "399162004", "SCT"
    code.CodeMeaning = CANARY
    dataset.ViewCodeSequence = [code]
    return dataset


def _saved(folder: Path, dataset: Dataset, syntax: str) -> bytes:
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    return save(dataset, folder / "seed.dcm").read_bytes()


def _pictures(film: np.ndarray) -> list[bytes]:
    """Encodes the film by two libraries, in every format and depth that is read."""
    eight = (film >> 4).astype(np.uint8)
    found = []
    for name in (".png", ".tif", ".pgm", ".jpg"):
        for image in (film << 4, eight)[name == ".jpg" :]:
            ok, content = cv2.imencode(name, image)
            assert ok
            found.append(content.tobytes())
    for options in ({"compression": "tiff_lzw"}, {"tiffinfo": {281: 65520}}):
        stream = io.BytesIO()
        Image.fromarray(film << 4).save(stream, "TIFF", **options)
        found.append(stream.getvalue())
    return found


def _regions() -> bytes:
    points = [f"({x}.5, {y}.25)" for x, y in ((1, 2), (30, 2), (30, 40), (1, 40))]
    roi = {"Name": "Mass", "Point_px": points, "NumberOfPoints": len(points)}
    return plistlib.dumps({"Images": [{"ImageIndex": 0, "ROIs": [roi]}]})


def _keras(folder: Path) -> bytes:
    path = folder / "seed.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        group = file.create_group("conv1")
        group.attrs["weight_names"] = [b"conv1/kernel:0", b"conv1/bias:0"]
        group["conv1/kernel:0"] = np.ones((3, 3, 1, 4), np.float32)
        group["conv1/bias:0"] = np.zeros(4, np.float32)
    return path.read_bytes()


def _expected() -> bytes:
    rows = [f"{n},1,0,1152,{n:064x},0.{n}25\n" for n in range(1, 5)]
    return ("phantom,generator,seed,height,pixels,score\n" + "".join(rows)).encode()


def _description() -> bytes:
    """Joins the files of a model's directory that say what it is."""
    model = {
        "task": "whole",
        "dataset": "cbis_ddsm/x",
        "class_names": ["benign", "malignant"],
        "malignant_classes": [1],
        "pixel_mean": 52.18,
        "height": 1152,
        "width": 896,
        "stretch": True,
        "patch_size": 0,
        "format": 2,
        "sha256": "0" * 64,
        "intent": "film",
        "phantoms": True,
        "calibration": [1.5, -0.25],
        "threshold": 0.5,
        "credit": "CC BY 4.0",
    }
    files = [{"model": {"trunk": "resnet50"}}, model, {}]
    return BETWEEN_FILES.join(json.dumps(file).encode() for file in files)
