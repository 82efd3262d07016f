"""CBIS-DDSM: from a download to splits and an inventory."""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mammo_jax.common.errors import UserError
from mammo_jax.datasets.cbis_files import ViewFiles, find_view_files, index_files
from mammo_jax.datasets.cbis_tables import Abnormality, View, merge_views, read_tables
from mammo_jax.datasets.labels import PATCH_CLASSES
from mammo_jax.datasets.splits import PROTOCOL_RELEASES, PROTOCOLS, leaking_patients


def plan_splits(
    manual_dir: str | Path, protocol: str, seed: int
) -> dict[str, list[ViewFiles]]:
    """The views of each split and where their files are; empty splits are left out.

    Args:
      manual_dir: holds the tables and, anywhere below it, the images.
      protocol: "paper" or "official".
      seed: of the split.

    Raises:
      UserError: the tables are missing or malformed, or there is no image at all.
    """
    abnormalities = read_tables(manual_dir, PROTOCOL_RELEASES[protocol])
    index = index_files(manual_dir)
    splits = {
        split: [find_view_files(view, index) for view in views]
        for split, views in PROTOCOLS[protocol](abnormalities, seed).items()
    }
    if not any(files.images for views in splits.values() for files in views):
        raise UserError(
            f"{manual_dir}: holds the tables of CBIS-DDSM but none of the images of the"
            f" {protocol} protocol; put the downloaded folders there"
        )
    return {split: views for split, views in splits.items() if views}


def take_inventory(manual_dir: str | Path, protocol: str, seed: int) -> dict[str, Any]:
    """What a build would use, from the tables and the files' places and headers.

    Returns:
      JSON-able counts: of each table, of the release, of each split, of the files.

    Raises:
      UserError: the tables are missing or malformed.
    """
    releases = PROTOCOL_RELEASES[protocol]
    abnormalities = read_tables(manual_dir, releases)
    index = index_files(manual_dir)
    splits = PROTOCOLS[protocol](abnormalities, seed)
    leaking = leaking_patients(abnormalities)
    used = {view.image_id for views in splits.values() for view in views}
    return {
        "protocol": protocol,
        "seed": seed,
        "tables": {
            f"{kind}_{release}": _count_table(
                [a for a in abnormalities if (a.kind, a.release) == (kind, release)]
            )
            for release in releases
            for kind in ("mass", "calc")
        },
        "release": _count_views(merge_views(abnormalities)),
        "leaking": {
            "patients": len(leaking),
            "views_in_both": len(_views_in_both(abnormalities)),
            "patient_ids": leaking,
            "views_left_out": len({a.image_id for a in abnormalities} - used),
        },
        "splits": {
            split: _count_views(views)
            | _count_files([find_view_files(view, index) for view in views])
            for split, views in splits.items()
            if views
        },
    }


def _count_table(abnormalities: Sequence[Abnormality]) -> dict[str, Any]:
    return {
        "abnormalities": len(abnormalities),
        "patients": len({a.patient_id for a in abnormalities}),
        "images": len({a.image_id for a in abnormalities}),
        "pathology": dict(
            sorted(collections.Counter(a.pathology for a in abnormalities).items())
        ),
    }


def _count_views(views: Sequence[View]) -> dict[str, Any]:
    """Counts of a set of views; "files" are the images that the tables list."""
    classes = collections.Counter(
        a.patch_class for view in views for a in view.abnormalities
    )
    files = sum(len(view.image_sources) for view in views)
    labels = [{a.is_malignant for a in view.abnormalities} for view in views]
    return {
        "files": files,
        "views": len(views),
        "patients": len({view.patient_id for view in views}),
        "malignant_views": sum(view.is_malignant for view in views),
        "malignant_patients": len({v.patient_id for v in views if v.is_malignant}),
        "views_of_mixed_pathology": sum(len(found) == 2 for found in labels),
        "duplicates_merged": files - len(views),
        "duplicates_with_different_labels": sum(
            _tables_disagree(view) for view in views
        ),
        "abnormalities": sum(classes.values()),
        "abnormalities_by_class": {
            name: classes[name] for name in PATCH_CLASSES if name != "background"
        },
        "pathology": dict(
            sorted(
                collections.Counter(
                    a.pathology for view in views for a in view.abnormalities
                ).items()
            )
        ),
    }


def _tables_disagree(view: View) -> bool:
    """Whether the tables that list a view would each give it another label."""
    labels: dict[str, bool] = {}
    for a in view.abnormalities:
        labels[a.image_folder] = labels.get(a.image_folder, False) or a.is_malignant
    return len(set(labels.values())) > 1


def _views_in_both(abnormalities: Sequence[Abnormality]) -> set[str]:
    train, test = (
        {a.image_id for a in abnormalities if a.release == release}
        for release in ("train", "test")
    )
    return train & test


def _count_files(views: Sequence[ViewFiles]) -> dict[str, Any]:
    return {
        "images_missing": sum(not files.images for files in views),
        "masks_missing": sum(not paths for files in views for paths in files.rois),
    }
