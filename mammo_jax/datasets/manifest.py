"""Anyone's own images: a table of files with labels, and one of regions if wanted.

`manifest.csv` has the columns path, patient_id, laterality, view, label and, if
wanted, split. `rois.csv`, if there is one, has path, class and one of mask, polygon
or circle in each row. Paths are relative to the folder and must not lead out of it.
"""

import collections
import dataclasses
import functools
from pathlib import Path
from typing import Any

from mammo_jax.common.errors import UserError
from mammo_jax.common.tables import read_table, text_column
from mammo_jax.datasets.labels import PATCH_CLASSES, SPLITS
from mammo_jax.datasets.polygons import circle_points, parse_points, polygon_regions
from mammo_jax.datasets.sampling import Region, find_region
from mammo_jax.datasets.splits import draw_paper_splits, label_patients
from mammo_jax.datasets.views import (
    Packing,
    ViewResult,
    check_image,
    count_views,
    make_result,
)
from mammo_jax.images.grid import Grid, mask_to_grid
from mammo_jax.images.pictures import read_image

MANIFEST, ROIS = "manifest.csv", "rois.csv"
_MAX_POINTS = 100_000
# Column -> what its cells may hold, and whether it must be there.
_COLUMNS = {
    "path": text_column(r".+"),
    "patient_id": text_column(r"[A-Za-z0-9._-]{1,64}")._replace(
        expected="1 to 64 letters, digits, dots, underscores or hyphens", shown=False
    ),
    "laterality": text_column(r"LEFT|RIGHT"),
    "view": text_column(r"CC|MLO"),
    "label": text_column(r"0|1"),
    "split": text_column("|".join(SPLITS), needed=False),
}
_ROI_COLUMNS = {
    "path": text_column(r".+"),
    "class": text_column("|".join(PATCH_CLASSES[1:])),
    "mask": text_column(r".*", needed=False),
    "polygon": text_column(r"[-\d. ,;]*", needed=False),
    "circle": text_column(r"[-\d. ,]*", needed=False),
}
_SHAPES = ("mask", "polygon", "circle")


@dataclasses.dataclass(frozen=True)
class Roi:
    """A region of interest, in one of three ways.

    Attributes:
      patch_class: "calc_benign" and so on.
      shape: "mask", "polygon" or "circle".
      value: the mask's path; "x y; x y; ..."; or "x y radius"; in image pixels.
    """

    patch_class: str
    shape: str
    value: str


@dataclasses.dataclass(frozen=True)
class ManifestView:
    """One row of the manifest with its regions.

    Attributes:
      image_id: patient, side and view, numbered where there are several of them.
      patient_id: the user's own code.
      laterality: LEFT or RIGHT.
      view: CC or MLO.
      is_malignant: the label.
      split: "" where the manifest does not say.
      image: its file.
      rois: its regions.
      breast_density: 0, unknown.
    """

    image_id: str
    patient_id: str
    laterality: str
    view: str
    is_malignant: bool
    split: str
    image: str
    rois: tuple[Roi, ...]
    breast_density: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """The image and the masks of its regions."""
        return (self.image, *(r.value for r in self.rois if r.shape == "mask"))


def read_views(manual_dir: str | Path) -> list[ManifestView]:
    """Reads the rows of the manifest, with their regions.

    Raises:
      UserError: a table is missing or malformed, a path leads out of the folder, a
        file is listed twice, or some rows have a split and some have none.
    """
    root = Path(manual_dir)
    columns = ", ".join(name for name, column in _COLUMNS.items() if column.needed)
    rows = read_table(
        root / MANIFEST, _COLUMNS, remedy=f"write one with the columns {columns}"
    )
    rois = _read_rois(root)
    images: dict[str, int] = {}
    counts: collections.Counter[str] = collections.Counter()
    views = []
    for number, row in rows:
        image = _inside(root, row["path"], root / MANIFEST, number)
        if image in images:
            raise UserError(
                f"{root / MANIFEST}: row {number}, column 'path': {row['path']!r} is"
                f" also in row {images[image]}"
            )
        images[image] = number
        name = f"{row['patient_id']}_{row['laterality']}_{row['view']}"
        counts[name] += 1
        views.append(
            ManifestView(
                image_id=name if counts[name] == 1 else f"{name}_{counts[name]}",
                patient_id=row["patient_id"],
                laterality=row["laterality"],
                view=row["view"],
                is_malignant=row["label"] == "1",
                split=row["split"],
                image=image,
                rois=tuple(rois.pop(image, ())),
            )
        )
    if rois:
        raise UserError(
            f"{root / ROIS}: column 'path': {min(rois)} is not in {MANIFEST}"
        )
    if len({bool(view.split) for view in views}) > 1:
        raise UserError(
            f"{root / MANIFEST}: column 'split': fill it in every row, or in none"
        )
    return views


def plan_splits(manual_dir: str | Path, seed: int) -> dict[str, list[ManifestView]]:
    """Takes the manifest's splits, or draws the paper's by patient: 15 %, then 10 %.

    Raises:
      UserError: what `read_views` raises, or a patient is in two splits.
    """
    views = read_views(manual_dir)
    if not views:
        raise UserError(f"{Path(manual_dir) / MANIFEST}: lists no image")
    split_of = {view.patient_id: view.split for view in views}
    if not views[0].split:
        split_of = _draw_splits(views, seed)
    for view in views:
        if view.split and split_of[view.patient_id] != view.split:
            raise UserError(
                f"{Path(manual_dir) / MANIFEST}: patient {view.patient_id} is in two"
                " splits; keep each patient's images together"
            )
    splits = {
        split: [view for view in views if split_of[view.patient_id] == split]
        for split in SPLITS
    }
    return {split: found for split, found in splits.items() if found}


def take_inventory(manual_dir: str | Path, seed: int) -> dict[str, Any]:
    """Counts what a build would use; JSON can hold it.

    Raises:
      UserError: what `plan_splits` raises.
    """
    return {
        "seed": seed,
        "splits": {
            split: {
                **count_views(views),
                "rois": sum(len(view.rois) for view in views),
                "images_missing": sum(not Path(view.image).is_file() for view in views),
            }
            for split, views in plan_splits(manual_dir, seed).items()
        },
    }


def make_view_examples(view: ManifestView, packing: Packing) -> ViewResult:
    """Reads a view's image and regions and makes its examples."""
    try:
        mammogram = read_image(view.image)
        check_image(view.image, mammogram)
    except UserError as error:
        return ViewResult(problems=[(view.image, str(error))])
    repairs: collections.Counter[str] = collections.Counter()
    shape = mammogram.rows, mammogram.columns
    readers = [
        (
            roi.value if roi.shape == "mask" else view.image,
            functools.partial(_read_roi, roi, view.image, shape, packing.grid, repairs),
        )
        for roi in view.rois
    ]
    return make_result(view, mammogram, readers, packing, repairs)


def _read_roi(
    roi: Roi,
    image: str,
    shape: tuple[int, int],
    grid: Grid,
    repairs: collections.Counter[str],
) -> list[tuple[str, Region]]:
    if roi.shape == "mask":
        mask = read_image(roi.value)
        if (mask.rows, mask.columns) != shape:
            repairs["masks_resized"] += 1
        region = find_region(mask_to_grid(mask.pixels, grid.height, grid.width))
        found = [] if region is None else [region]
    else:
        try:
            if roi.shape == "circle":
                x, y, radius = map(float, roi.value.replace(",", " ").split())
                points = circle_points(x, y, radius)
            else:
                points = parse_points(roi.value.split(";")[:_MAX_POINTS])
        except ValueError as error:
            raise UserError(
                f"{image}: its {roi.shape} {roi.value[:40]!r} is malformed; write"
                " 'x y; x y; x y' or 'x y radius'"
            ) from error
        found = polygon_regions(points, shape, grid.height, grid.width)
    if not found:
        raise UserError(f"{image}: its {roi.shape} is empty; draw it again")
    return [(roi.patch_class, region) for region in found]


def _draw_splits(views: list[ManifestView], seed: int) -> dict[str, str]:
    malignant = label_patients((view.patient_id, view.is_malignant) for view in views)
    splits = draw_paper_splits(malignant, seed)
    return {patient: split for split, found in splits.items() for patient in found}


def _read_rois(root: Path) -> dict[str, list[Roi]]:
    path = root / ROIS
    rois: dict[str, list[Roi]] = {}
    if not path.exists():
        return rois
    for number, row in read_table(path, _ROI_COLUMNS, remedy="write one"):
        given = [shape for shape in _SHAPES if row[shape]]
        if len(given) != 1:
            raise UserError(
                f"{path}: row {number}: give one of {', '.join(_SHAPES)}, not"
                f" {len(given)}"
            )
        (shape,) = given
        value = row[shape]
        if shape == "mask":
            value = _inside(root, value, path, number)
        image = _inside(root, row["path"], path, number)
        rois.setdefault(image, []).append(Roi(row["class"], shape, value))
    return rois


def _inside(root: Path, text: str, table: Path, number: int) -> str:
    """Returns the path of a cell; refuses it if it leads out of the folder."""
    path = root / text
    try:
        path.resolve().relative_to(root.resolve())
    except (ValueError, OSError, RuntimeError):
        raise UserError(
            f"{table}: row {number}: {text[:80]!r} leads out of {root}; copy the file"
            " into it"
        ) from None
    return str(path)
