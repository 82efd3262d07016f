"""Anyone's own images: a table of files with labels, and one of regions if wanted.

`manifest.csv` has the columns path, patient_id, laterality, view, label and, if
wanted, split. `rois.csv`, if there is one, has path, class and one of mask, polygon
or circle in each row. Paths are relative to the folder and must not lead out of it.
"""

import collections
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mammo_jax.common.errors import UserError
from mammo_jax.common.tables import (
    LABEL,
    LATERALITY,
    OddRow,
    read_table,
    text_column,
    word_column,
)
from mammo_jax.datasets.labels import PATCH_CLASSES, SPLITS
from mammo_jax.datasets.polygons import (
    circle_points,
    parse_numbers,
    parse_points,
    polygon_regions,
)
from mammo_jax.datasets.sampling import Region, find_region
from mammo_jax.datasets.splits import draw_paper_splits, label_patients
from mammo_jax.datasets.views import (
    Packing,
    Problems,
    Repairs,
    View,
    ViewResult,
    count_views,
    make_result,
    note_problems,
)
from mammo_jax.images.dicom import Mammogram
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
    "laterality": LATERALITY,
    "view": word_column(
        {"CC": "CC", "MLO": "MLO"},
        "CC or MLO, the views that are packaged (some sets write ML for MLO)",
    ),
    "label": LABEL,
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
      shape: "mask", "polygon" or "circle"; "" for a row that cannot be understood.
      value: the mask's path; "x y; x y; ..."; or "x y radius"; in image pixels. What
        is wrong with a row that cannot be understood.
    """

    patch_class: str
    shape: str
    value: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestView(View):
    """One row of the manifest with its regions.

    Its `image_id` is made of patient, side and view, numbered where there are several.

    Attributes:
      split: "" where the manifest does not say.
      rois: its regions.
    """

    split: str
    rois: tuple[Roi, ...]


def read_views(
    manual_dir: str | Path,
    problems: Problems | None = None,
    *,
    with_rois: bool = True,
) -> list[ManifestView]:
    """Reads the rows of the manifest, with their regions unless `with_rois` is False.

    A row is odd if a cell cannot be understood, its path leads out of the folder or is
    in another row too, or it alone lacks a split. A region of an odd row makes its
    image's regions unknown. Odd rows are left out and added to `problems`, or are
    errors without it. `manual_dir` may be the manifest itself.

    Raises:
      UserError: a table is missing, its header is malformed, or no row is usable.
    """
    root, table = Path(manual_dir), Path(manual_dir, MANIFEST)
    if root.is_file():
        root, table = root.parent, root
    needed = ", ".join(name for name, column in _COLUMNS.items() if column.needed)
    remedy = f"write one with the columns {needed}"
    odd_rows: list[OddRow] = []
    rows = read_table(table, _COLUMNS, remedy=remedy, odd_rows=odd_rows)
    odd = [(table, row.number, row.reason) for row in odd_rows]
    by_image: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, row in rows:
        try:
            image = _inside(root, row["path"], number)
        except ValueError as error:
            odd.append((table, number, str(error)))
        else:
            by_image.setdefault(image, []).append((number, row))
    kept = []
    have_split = any(row["split"] for _, row in rows)
    for image, ((first, row), *others) in by_image.items():
        reasons = []
        for number, other in others:
            reason = f"row {number}, column 'path': {row['path']!r} is also in row"
            odd.append((table, number, f"{reason} {first}"))
            if other != row:
                reasons.append(f": row {number} says otherwise of {row['path']!r}")
        if have_split and not row["split"]:
            reasons.append(", column 'split': fill it in every row, or in none")
        odd += [(table, first, f"row {first}{reason}") for reason in reasons]
        if not reasons:
            kept.append((image, row))
    rois = _read_rois(table, by_image, odd) if with_rois else {}
    odd.sort(key=lambda found: (found[0] != table, found[1]))
    problems = problems if kept else None
    note_problems([(f"row {n}", str(path), why) for path, n, why in odd], problems)
    counts: collections.Counter[str] = collections.Counter()
    return [_make_view(image, row, rois.get(image, ()), counts) for image, row in kept]


def _make_view(
    image: str,
    row: Mapping[str, Any],
    rois: Sequence[Roi],
    counts: collections.Counter[str],
) -> ManifestView:
    """Makes the view of a row; `counts` has those made before, by name."""
    name = f"{row['patient_id']}_{row['laterality']}_{row['view']}"
    counts[name] += 1
    return ManifestView(
        image_id=name if counts[name] == 1 else f"{name}_{counts[name]}",
        is_malignant=bool(row["label"]),
        sources=(image, *(roi.value for roi in rois if roi.shape == "mask")),
        rois=tuple(rois),
        **{key: row[key] for key in ("patient_id", "laterality", "view", "split")},
    )


def plan_splits(
    manual_dir: str | Path, seed: int, problems: Problems | None = None
) -> dict[str, list[ManifestView]]:
    """Takes the manifest's splits, or draws the paper's by patient: 15 %, then 10 %.

    Images of patients in two splits are left out and added to `problems`, as odd rows
    are, or are errors without it.

    Raises:
      UserError: what `read_views` raises, or a patient is in two splits.
    """
    table = Path(manual_dir) / MANIFEST
    views = read_views(manual_dir, problems)
    if not views:
        raise UserError(f"{table}: lists no image")
    if views[0].split:
        given: dict[str, set[str]] = {}
        for view in views:
            given.setdefault(view.patient_id, set()).add(view.split)
        split_of = {who: min(own) for who, own in given.items() if len(own) == 1}
        reason = "is in two splits; keep each patient's images together"
        found = [
            (view.image_id, str(table), f"patient {view.patient_id} {reason}")
            for view in views
            if view.patient_id not in split_of
        ]
        note_problems(found, problems)
    else:
        labels = label_patients((view.patient_id, view.is_malignant) for view in views)
        drawn = draw_paper_splits(labels, seed)
        split_of = {who: split for split, whole in drawn.items() for who in whole}
    splits = {
        split: [view for view in views if split_of.get(view.patient_id) == split]
        for split in SPLITS
    }
    return {split: found for split, found in splits.items() if found}


def take_inventory(manual_dir: str | Path, seed: int) -> dict[str, Any]:
    """Counts what a build would use, for JSON; raises what `plan_splits` raises."""
    problems: Problems = []
    return {
        "seed": seed,
        "splits": {
            split: {
                **count_views(views),
                "rois": sum(len(view.rois) for view in views),
                "images_missing": sum(not Path(view.image).is_file() for view in views),
            }
            for split, views in plan_splits(manual_dir, seed, problems).items()
        },
        "rows_left_out": len(problems),
    }


def make_view_examples(view: ManifestView, packing: Packing) -> ViewResult:
    """Reads a view's image and regions and makes its examples."""
    rois = [(r.value if r.shape == "mask" else view.image, r) for r in view.rois]
    return make_result(
        *(view, packing, rois, _read_roi),
        check=lambda view, image: check_header(view, image.laterality, image.view),
    )


def check_header(view: View, *found: str) -> None:
    """Refuses an image whose header says another side or view than the table.

    ML in a header is no contradiction to MLO: some sets write it so.

    Args:
      view: as the table has it.
      *found: laterality and view of the header; empty strings contradict nothing.

    Raises:
      UserError: it does.
    """
    said = [
        f"{mine} in the table and {other} in the file's header"
        for mine, other in zip((view.laterality, view.view), found, strict=True)
        if other not in ("", mine) and (mine, other) != ("MLO", "ML")
    ]
    if said:
        raise UserError(f"{view.image}: {', '.join(said)}; correct what is wrong")


def _read_roi(
    roi: Roi, view: ManifestView, image: Mammogram, grid: Grid, repairs: Repairs
) -> list[tuple[str, Region]]:
    if not roi.shape:
        raise UserError(roi.value)
    if roi.shape == "mask":
        mask = read_image(roi.value)
        if mask.pixels.shape != image.pixels.shape:
            repairs["masks_resized"] += 1
        region = find_region(mask_to_grid(mask.pixels, grid.height, grid.width))
        found = [] if region is None else [region]
    else:
        try:
            if roi.shape == "circle":
                points = circle_points(*parse_numbers(roi.value, 3))
            else:
                points = parse_points(roi.value.split(";")[:_MAX_POINTS])
        except ValueError as error:
            raise UserError(
                f"{view.image}: its {roi.shape} {roi.value[:40]!r} is malformed; write"
                " 'x y; x y; x y' or 'x y radius', with decimal points"
            ) from error
        found = polygon_regions(points, image.pixels.shape, grid[:2])
    if not found:
        raise UserError(f"{view.image}: its {roi.shape} is empty; draw it again")
    return [(roi.patch_class, region) for region in found]


def _read_rois(
    table: Path, images: Collection[str], odd: list[tuple[Path, int, str]]
) -> dict[str, list[Roi]]:
    """Reads the regions beside a manifest by image; odd rows are added to `odd`."""
    root, path = table.parent, table.with_name(ROIS)
    rois: dict[str, list[Roi]] = {}
    if not path.exists():
        return rois
    odd_rows: list[OddRow] = []
    rows = read_table(path, _ROI_COLUMNS, remedy="write one", odd_rows=odd_rows)
    found: list[tuple[int, Mapping[str, str], str]] = [
        *((number, row, "") for number, row in rows),
        *((row.number, row.cells, row.reason) for row in odd_rows),
    ]
    for number, row, reason in sorted(found, key=lambda row: row[0]):
        given = [shape for shape in _SHAPES if row[shape]]
        if not reason and len(given) != 1:
            shapes = ", ".join(_SHAPES)
            reason = f"row {number}: give one of {shapes}, not {len(given)}"
        image = ""
        try:
            image = _inside(root, row["path"], number)
            if not reason and given == ["mask"]:
                row = {**row, "mask": _inside(root, row["mask"], number)}
        except ValueError as error:
            reason = reason or str(error)
        if image not in images:
            where = f"row {number}, column 'path'"
            reason = reason or f"{where}: {image} is not in {table.name}"
        if reason:
            odd.append((path, number, reason))
            roi = Roi("", "", f"{path}: {reason}")
        else:
            roi = Roi(row["class"], given[0], row[given[0]])
        rois.setdefault(image, []).append(roi)
    return rois


def _inside(root: Path, text: str, number: int) -> str:
    r"""Returns the path of a cell; a backslash is Windows' separator if it must be.

    Raises:
      ValueError: it leads out of the folder.
    """
    path = root / text
    if "\\" in text and not path.exists():
        path = root / text.replace("\\", "/")
    try:
        path.resolve().relative_to(root.resolve())
    except (ValueError, OSError, RuntimeError):
        raise ValueError(
            f"row {number}: {text[:80]!r} leads out of {root}; copy the file into it"
        ) from None
    return str(path)
