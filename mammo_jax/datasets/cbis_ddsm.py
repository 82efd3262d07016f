"""CBIS-DDSM: from a download to splits and an inventory."""

import collections
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.cbis_files import find_files, index_files
from mammo_jax.datasets.cbis_tables import (
    Abnormality,
    CbisView,
    merge_views,
    read_tables,
)
from mammo_jax.datasets.labels import PATCH_CLASSES
from mammo_jax.datasets.splits import PROTOCOL_RELEASES, PROTOCOLS, leaking_patients
from mammo_jax.datasets.views import Problems, count_views


def plan_splits(
    manual_dir: str | Path, protocol: str, seed: int, problems: Problems | None = None
) -> dict[str, list[CbisView]]:
    """Plans the views of each split and their files; empty splits are left out.

    Args:
      manual_dir: folder with the tables and, anywhere below it, the images.
      protocol: "paper" or "official".
      seed: seed of the split.
      problems: see `read_tables`.

    Raises:
      UserError: what `read_tables` raises, or there is no image at all.
    """
    abnormalities = read_tables(manual_dir, PROTOCOL_RELEASES[protocol], problems)
    splits = _find_splits(manual_dir, abnormalities, protocol, seed)
    if not any(view.images for views in splits.values() for view in views):
        raise UserError(
            f"{manual_dir}: holds the tables of CBIS-DDSM but none of the images of the"
            f" {protocol} protocol; put the downloaded folders there"
        )
    return splits


def take_inventory(manual_dir: str | Path, protocol: str, seed: int) -> dict[str, Any]:
    """Counts what a build would use, in tables, release, splits and files; for JSON.

    Raises:
      UserError: the tables are missing or malformed.
    """
    releases = PROTOCOL_RELEASES[protocol]
    odd_rows: Problems = []
    abnormalities = read_tables(manual_dir, releases, odd_rows)
    splits = _find_splits(manual_dir, abnormalities, protocol, seed)
    leaking = leaking_patients(abnormalities)
    train, test = (
        {a.image_id for a in abnormalities if a.release == release}
        for release in ("train", "test")
    )
    used = {view.image_id for views in splits.values() for view in views}
    return {
        "protocol": protocol,
        "seed": seed,
        "rows_left_out": len(odd_rows),
        "tables": {
            f"{kind}_{release}": _count_table(
                [a for a in abnormalities if (a.kind, a.release) == (kind, release)]
            )
            for release in releases
            for kind in ("mass", "calc")
        },
        "release": _count(merge_views(abnormalities)),
        "leaking": {
            "patients": len(leaking),
            "views_in_both": len(train & test),
            "patient_ids": leaking,
            "views_left_out": len((train | test) - used),
        },
        "splits": {
            split: {
                **_count(views),
                "images_missing": sum(not view.images for view in views),
                "masks_missing": sum(not roi for view in views for roi in view.rois),
            }
            for split, views in splits.items()
        },
    }


def _find_splits(
    manual_dir: str | Path,
    abnormalities: Sequence[Abnormality],
    protocol: str,
    seed: int,
) -> dict[str, list[CbisView]]:
    index = index_files(manual_dir)
    return {
        split: [find_files(view, index) for view in views]
        for split, views in PROTOCOLS[protocol](abnormalities, seed).items()
        if views
    }


def _count_table(abnormalities: Sequence[Abnormality]) -> dict[str, Any]:
    return {
        "abnormalities": len(abnormalities),
        "patients": len({a.patient_id for a in abnormalities}),
        "images": len({a.image_id for a in abnormalities}),
        "pathology": _count_values(a.pathology for a in abnormalities),
    }


def _count(views: Sequence[CbisView]) -> dict[str, Any]:
    """Counts a set of views; "files" are the images that the tables list."""
    abnormalities = [a for view in views for a in view.abnormalities]
    classes = collections.Counter(a.patch_class for a in abnormalities)
    files = sum(len(view.image_sources) for view in views)
    labels = [{a.is_malignant for a in view.abnormalities} for view in views]
    return {
        "files": files,
        **count_views(views),
        "views_of_mixed_pathology": sum(len(found) == 2 for found in labels),
        "duplicates_merged": files - len(views),
        "duplicates_with_different_labels": sum(map(_tables_disagree, views)),
        "abnormalities": len(abnormalities),
        "abnormalities_by_class": {name: classes[name] for name in PATCH_CLASSES[1:]},
        "pathology": _count_values(a.pathology for a in abnormalities),
    }


def _count_values(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(collections.Counter(values).items()))


def _tables_disagree(view: CbisView) -> bool:
    """Returns True if the tables that list a view would give it different labels."""
    labels: dict[str, bool] = {}
    for a in view.abnormalities:
        labels[a.image_folder] = labels.get(a.image_folder, False) or a.is_malignant
    return len(set(labels.values())) > 1
