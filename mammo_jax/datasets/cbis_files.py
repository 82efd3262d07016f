"""The places of CBIS-DDSM's files: found by folder names and by UIDs in the headers.

The file names in the tables do not exist on disk, and downloads differ in what lies
between a case's folder and its files. Two things are stable: the name of the case's
folder ("Mass-Training_P_00001_LEFT_CC_1", also written to PatientID), and the
SeriesInstanceUID.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path

from mammo_jax.common.errors import UserError
from mammo_jax.common.progress import progress
from mammo_jax.datasets.cbis_tables import CbisView
from mammo_jax.images.dicom import read_header

_CASE_FOLDER = re.compile(
    r"(Mass|Calc)-(Training|Test)_P_\d{5}_(LEFT|RIGHT)_(CC|MLO)(_\d+)?"
)


@dataclasses.dataclass
class FileIndex:
    """The DICOM files below each case folder, sorted, and those below none."""

    by_folder: dict[str, list[str]]
    loose: list[str]

    @functools.cached_property
    def _loose_by_key(self) -> dict[str, list[str]]:
        """Loose files by the case name and by the series in their headers."""
        found: dict[str, list[str]] = {}
        for path in progress(self.loose, "reading headers", unit="file"):
            try:
                header = read_header(path, ["PatientID"])
            except UserError:  # not an image of the collection; nothing asks for it
                continue
            pseudonym = str(header.identifying.get("PatientID", ""))
            for key in {pseudonym, header.series_instance_uid}:
                found.setdefault(key, []).append(path)
        return found

    def find(self, folder: str, series: Iterable[str]) -> list[str]:
        """Returns a case folder's files; where there is none, those of the series."""
        if folder in self.by_folder:
            return self.by_folder[folder]
        keys = (folder, *series) if self.loose else ()
        paths = (path for key in keys for path in self._loose_by_key.get(key, []))
        return list(dict.fromkeys(paths))


def index_files(root: str | Path) -> FileIndex:
    """Lists the DICOM files below `root`; symbolic links to folders are not followed.

    Raises:
      UserError: `root` is not a folder.
    """
    if not Path(root).is_dir():
        raise UserError(
            f"{root}: no such folder; give the folder that holds the CBIS-DDSM tables"
            " and images"
        )
    index = FileIndex({}, [])
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        relative = Path(folder).relative_to(root)
        cases = [part for part in relative.parts if _CASE_FOLDER.fullmatch(part)]
        files = index.by_folder.setdefault(cases[-1], []) if cases else index.loose
        files += [
            str(Path(folder, name))
            for name in sorted(names)
            if name.lower().endswith(".dcm")
        ]
    return index


def find_files(view: CbisView, index: FileIndex) -> CbisView:
    """Returns the view with the candidates for its files; none where there are none."""
    images = tuple(
        dict.fromkeys(
            path
            for folder, series in view.image_sources
            for path in index.find(folder, (series,))
        )
    )
    rois = tuple(
        tuple(index.find(a.roi_folder, a.roi_series)) for a in view.abnormalities
    )
    sources = (*images, *(path for paths in rois for path in paths))
    return dataclasses.replace(view, images=images, rois=rois, sources=sources)
