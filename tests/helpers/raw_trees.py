"""Writes small CBIS-DDSM trees, row by row and file by file, for the tests."""

import csv
import dataclasses
from pathlib import Path

import cv2
import numpy as np
from raw_files import write_dicom

from mammo_jax.datasets.cbis_tables import TABLE_NAMES

HEIGHT, WIDTH = 128, 96
UID = "1.2.826.0.1.3680043.8.498."


@dataclasses.dataclass
class Row:
    """Row of a table; its names and UIDs follow from what it says."""

    patient: int = 1
    side: str = "LEFT"
    view: str = "CC"
    number: int = 1
    kind: str = "mass"
    release: str = "train"
    pathology: str = "BENIGN"

    @property
    def image_folder(self) -> str:
        kind = {"mass": "Mass", "calc": "Calc"}[self.kind]
        release = {"train": "Training", "test": "Test"}[self.release]
        return f"{kind}-{release}_P_{self.patient:05d}_{self.side}_{self.view}"

    @property
    def roi_folder(self) -> str:
        return f"{self.image_folder}_{self.number}"

    def uid(self, what: str) -> str:
        """Returns the study or series UID of the image or the ROI."""
        text = f"{self.image_folder if 'image' in what else self.roi_folder} {what}"
        return (
            UID
            + str(int.from_bytes(text.encode(), "big"))[:30]
            + str(sum(text.encode()))
        )

    def cells(self) -> list[str]:
        image = "/".join(
            [
                self.image_folder,
                self.uid("image study"),
                self.uid("image"),
                "000000.dcm",
            ]
        )
        roi = "/".join([self.roi_folder, self.uid("study"), self.uid("series")])
        crop, mask = {"mass": (0, 1), "calc": (1, 0)}[self.kind]
        return [
            f"P_{self.patient:05d}",
            "3",
            self.side,
            self.view,
            str(self.number),
            {"mass": "mass", "calc": "calcification"}[self.kind],
            "OVAL",
            "N/A",
            "4",
            self.pathology,
            "5",
            image,
            f"{roi}/{crop:06d}.dcm",
            f"{roi}/{mask:06d}.dcm\n",
        ]


def write_tables(root: Path, rows: list[Row]) -> None:
    """Writes the four tables, with CRLF and the real ones' line break in a cell."""
    root.mkdir(parents=True, exist_ok=True)
    for (kind, release), name in TABLE_NAMES.items():
        own = {
            "mass": ["breast_density", "mass shape", "mass margins"],
            "calc": ["breast density", "calc type", "calc distribution"],
        }[kind]
        with (root / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                [
                    "patient_id",
                    own[0],
                    "left or right breast",
                    "image view",
                    "abnormality id",
                    "abnormality type",
                    *own[1:],
                    "assessment",
                    "pathology",
                    "subtlety",
                    "image file path",
                    "cropped image file path",
                    "ROI mask file path",
                ]
            )
            writer.writerows(
                row.cells()
                for row in rows
                if (row.kind, row.release) == (kind, release)
            )


def draw_image(seed: int = 0, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Draws half an ellipse of noise on black, as a breast lies on film."""
    height, width = shape
    breast = np.zeros(shape, np.uint8)
    axes = (int(width * 0.8), int(height * 0.45))
    cv2.ellipse(breast, (0, height // 2), axes, 0, 0, 360, 1, -1)
    noise = np.random.default_rng(seed).integers(20000, 60000, shape)
    return (breast * noise).astype(np.uint16)


def draw_mask(
    centre: tuple[int, int] = (60, 30),
    radius: int = 10,
    shape: tuple[int, int] = (HEIGHT, WIDTH),
) -> np.ndarray:
    """Draws a disc of 255 around (row, column)."""
    mask = np.zeros(shape, np.uint8)
    cv2.circle(mask, centre[::-1], radius, 255, -1)
    return mask


def write_image(root: Path, row: Row, image: np.ndarray, **attributes) -> Path:
    """Writes the full image of a row, as a current download has it."""
    folder = root / row.image_folder / "01-01-2017-DDSM-NA-1" / "1.0-full images-1"
    return write_dicom(
        folder / "1-1.dcm",
        image,
        PatientID=row.image_folder,
        SeriesInstanceUID=row.uid("image"),
        **attributes,
    )


def write_roi(
    root: Path, row: Row, mask: np.ndarray, crop: np.ndarray, *, exchanged=False
) -> tuple[Path, Path]:
    """Writes mask and crop of a row, as its table says or the other way round."""
    folder = root / row.roi_folder / "01-01-2017-DDSM-NA-2" / "1.0-ROI mask images-2"
    attributes = {"PatientID": row.roi_folder, "SeriesInstanceUID": row.uid("series")}
    crop_first = (row.kind == "mass") != exchanged
    return (
        write_dicom(folder / f"1-{1 + crop_first}.dcm", mask, **attributes),
        write_dicom(folder / f"1-{2 - crop_first}.dcm", crop, **attributes),
    )


def write_tree(root: Path, rows: list[Row]) -> None:
    """Writes tables, an image for each view, a mask and a crop for each row."""
    write_tables(root, rows)
    for number, row in enumerate(rows):
        image = draw_image(row.patient)
        write_image(root, row, image)
        mask = draw_mask((50 + 3 * number % 20, 30))
        write_roi(root, row, mask, image[40:70, 20:50].copy())
