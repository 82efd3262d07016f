"""What the TFDS builders share: features, grids, and the way from views to records."""

import abc
import dataclasses
import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mammo_jax.common.parallel import parallel_map
from mammo_jax.datasets import packaging
from mammo_jax.datasets.labels import PATCH_CLASSES, WHOLE_CLASSES
from mammo_jax.datasets.sampling import PatchSampling
from mammo_jax.datasets.views import Grid, View
from tfds_builders.beam_runs import beam_map, beam_records
from tfds_builders.split_files import list_places, read_records, write_split

# Paper: 1152x896 with patches of 224. The others are the same in proportion; the
# largest has about the film's own resolution.
HEIGHTS = (1152, 288, 576, 4608)
_HEIGHT, _WIDTH, _PATCH_SIZE = 1152, 896, 224
SAMPLINGS = {
    "whole": None,
    "s1": PatchSampling(per_roi=1),
    "s10": PatchSampling(per_roi=10),
    "s30": PatchSampling(per_roi=30),
    "s10hard": PatchSampling(per_roi=10, hard_share=0.5),
}
KIND_DESCRIPTIONS = {
    "whole": "Whole mammograms, malignant or not, with their regions of interest.",
    "s1": "One patch centred on each ROI, one of background for each.",
    "s10": "Ten patches of each ROI, ten of background for each.",
    "s30": "Thirty patches of each ROI, thirty of background for each.",
    "s10hard": (
        "Ten patches of each ROI, ten of background for each: half of these near"
        " bright structures."
    ),
}


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
    """One way to cut a data set.

    Attributes:
      grid: see `mammo_jax.datasets.views.Grid`.
      split_seed: of the split by patient.
    """

    grid: Grid
    split_seed: int = 0


def make_grid(kind: str, height: int, *, stretch: bool) -> Grid:
    """The grid of a kind ("whole", "s10") at a height, in the paper's proportions."""
    return Grid(
        height=height,
        width=height * _WIDTH // _HEIGHT,
        patch_size=height * _PATCH_SIZE // _HEIGHT,
        sampling=SAMPLINGS[kind],
        seed=0,
        stretch=stretch,
    )


def config_name(stem: str, height: int) -> str:
    """`stem`, with the height behind it where it is not the paper's."""
    return stem if height == _HEIGHT else f"{stem}_h{height}"


class MammogramBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder whose subclasses say which views there are and how to read one."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    HOMEPAGE: ClassVar[str]
    LICENSE: ClassVar[str]
    # Reads one view; a function of a module, for the workers.
    make_examples: ClassVar[packaging.Maker]

    builder_config: Config

    def __init__(
        self,
        *,
        num_workers: int | None = None,
        beam_options: Sequence[str] | None = None,
        **kwargs: Any,
    ):
        """Makes the builder; nothing is read yet.

        Args:
          num_workers: processes that read images, None for one each core.
          beam_options: use Apache Beam instead, with these options; TFDS needs its
            own in the `DownloadConfig`, too.
          **kwargs: what every TFDS builder takes.
        """
        self._num_workers = num_workers
        self._beam_options = beam_options
        # The one format that is written and read without TensorFlow.
        super().__init__(**{"file_format": "array_record", **kwargs})

    @abc.abstractmethod
    def plan(self, manual_dir: Path) -> Mapping[str, Sequence[View]]:
        """The views of each split."""

    @property
    def work_dir(self) -> Path:
        """Finished images of a build that is under way or was interrupted."""
        return Path(
            self.data_dir_root, self.name, self.builder_config.name, "unfinished"
        )

    def _info(self) -> tfds.core.DatasetInfo:
        grid = self.builder_config.grid
        make_features = _whole_features if grid.sampling is None else _patch_features
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(make_features(grid)),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Any]:
        config = self.builder_config
        finished = packaging.process_views(
            self.plan(Path(dl_manager.manual_dir)),
            type(self).make_examples,
            config.grid,
            self.work_dir,
            self._mapper(),
        )
        packaging.write_problems(Path(self.data_dir, "problems.csv"), finished.problems)
        self.info.metadata.update(
            pixel_mean=finished.pixel_mean,
            pixel_mean_of=finished.pixel_mean_of,
            repairs=finished.repairs,
            problems=len(finished.problems),
            config={
                field.name: _as_json(getattr(config, field.name))
                for field in dataclasses.fields(config)
                if field.name not in _CONFIG_BASE_FIELDS
            },
        )
        return {
            split: self._generate_examples(paths)
            for split, paths in finished.paths.items()
        }

    def _mapper(self) -> packaging.Mapper:
        if self._beam_options is None:
            return functools.partial(parallel_map, num_workers=self._num_workers)
        return functools.partial(beam_map, options=self._beam_options)

    def _generate_examples(self, paths: Sequence[Path]) -> Any:
        """Key and place of each example; on Beam, the transform that reads them."""
        if self._beam_options is None:
            return list_places(paths)
        return beam_records(read_records, paths)

    def _generate_splits(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig,
    ) -> Sequence[tfds.core.SplitInfo]:
        if self._beam_options is not None:
            return super()._generate_splits(dl_manager, download_config)
        return [
            write_split(
                split,
                places,
                self.info.features,
                self._get_filename_template(split_name=split),
                self._example_writer(),
            )
            for split, places in self._split_generators(dl_manager).items()
        ]

    def _post_download_and_prepare_hook(self) -> None:
        shutil.rmtree(self.work_dir, ignore_errors=True)


_CONFIG_BASE_FIELDS = {
    field.name for field in dataclasses.fields(tfds.core.BuilderConfig)
}


def _as_json(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def _whole_features(grid: Grid) -> dict[str, Any]:
    return {
        "image": _image_feature(grid.height, grid.width),
        "label": tfds.features.ClassLabel(names=list(WHOLE_CLASSES)),
        **_view_features(),
        "breast_density": np.int32,
        "rois": tfds.features.Sequence(
            {
                "class": tfds.features.ClassLabel(names=list(PATCH_CLASSES)),
                # top, left, bottom, right, the last two outside
                "bbox": tfds.features.Tensor(shape=(4,), dtype=np.int32),
                "corners": np.int32,  # of its outline
            }
        ),
        # The corners (row, column) of all outlines, one after the other: see
        # `mammo_jax.datasets.records.split_outlines`. TFDS reads sequences of sequences
        # with TensorFlow alone.
        "outlines": tfds.features.Tensor(
            shape=(None, 2), dtype=np.int32, encoding="zlib"
        ),
    }


def _patch_features(grid: Grid) -> dict[str, Any]:
    return {
        "image": _image_feature(grid.patch_size, grid.patch_size),
        "label": tfds.features.ClassLabel(names=list(PATCH_CLASSES)),
        **_view_features(),
        "centre": tfds.features.Tensor(shape=(2,), dtype=np.int32),  # row, column
        "overlap": np.float32,
    }


def _view_features() -> dict[str, Any]:
    return {
        "image_id": tfds.features.Text(),
        "patient_id": tfds.features.Text(),
        "laterality": tfds.features.Text(),  # LEFT or RIGHT
        "view": tfds.features.Text(),  # CC or MLO
    }


def _image_feature(height: int, width: int) -> tfds.features.Image:
    return tfds.features.Image(
        shape=(height, width, 1), dtype=np.uint16, encoding_format="png"
    )
