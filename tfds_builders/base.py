"""Common part of the TFDS builders: configs, features, from views to records."""

import dataclasses
import functools
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mammo_jax.common.parallel import Limits, parallel_map
from mammo_jax.common.run_directory import PHANTOM_NOTE
from mammo_jax.common.tables import write_table
from mammo_jax.datasets import packaging
from mammo_jax.datasets.records import PATCH, WHOLE, Field
from mammo_jax.datasets.sampling import PatchSampling
from mammo_jax.datasets.views import Packing, Problems
from mammo_jax.images.grid import Grid
from tfds_builders.beam_runs import beam_map, beam_records
from tfds_builders.split_files import list_places, read_records, write_split

# Far more than a mammogram and its regions need: bytes, seconds of processor time.
_MOST = Limits(4 << 30, 120)
# Paper: 1152x896 with patches of 224. The others are the same in proportion; the
# largest has about the film's own resolution.
_HEIGHTS = (1152, 288, 576, 4608)
_HEIGHT, _WIDTH, _PATCH_SIZE = 1152, 896, 224
SAMPLINGS = {
    "whole": None,
    "s1": PatchSampling(per_roi=1),
    "s10": PatchSampling(per_roi=10),
    "s30": PatchSampling(per_roi=30),
    "s10hard": PatchSampling(per_roi=10, hard_share=0.5),
}
_DESCRIPTIONS = {
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
class Config(tfds.core.BuilderConfig):  # type: ignore[misc]  # TFDS has no types
    """One way to cut a data set.

    Attributes:
      packing: form that the mammograms are kept in.
      split_seed: seed of the split by patient.
      options: further arguments of the functions of the data set's `planner`.
    """

    packing: Packing
    split_seed: int = 0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def make_configs(
    ways: Iterable[tuple[str, str, Mapping[str, Any]]], *, stretch: bool
) -> list[Config]:
    """Makes the configs of a data set, each way at each height.

    Args:
      ways: name, kind ("whole", "s10") and options of each way to cut it.
      stretch: True if each image is stretched to the full range first.
    """
    ways = list(ways)
    return [
        Config(
            # The paper's height is not named.
            name=name if height == _HEIGHT else f"{name}_h{height}",
            description=_DESCRIPTIONS[kind],
            packing=Packing(
                grid=Grid(height, height * _WIDTH // _HEIGHT, stretch),
                patch_size=height * _PATCH_SIZE // _HEIGHT,
                sampling=SAMPLINGS[kind],
            ),
            options=options,
        )
        for height in _HEIGHTS
        for name, kind, options in ways
    ]


class MammogramBuilder(  # type: ignore[call-arg]  # TFDS has no types
    tfds.core.GeneratorBasedBuilder,  # type: ignore[misc]
    skip_registration=True,
):
    """A builder whose subclasses name what plans the views and what reads one."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    HOMEPAGE: ClassVar[str]
    LICENSE: ClassVar[str]
    # The data set's module: its `plan_splits` says which views there are, its
    # `take_inventory` counts what a build would use. Options are arguments of both.
    planner: ModuleType
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

    @property
    def work_dir(self) -> Path:
        """Folder of the finished images of a build under way or interrupted."""
        return Path(
            self.data_dir_root, self.name, self.builder_config.name, "unfinished"
        )

    def _info(self) -> tfds.core.DatasetInfo:
        packing = self.builder_config.packing
        layout, image_shape = PATCH, (packing.patch_size, packing.patch_size)
        if packing.sampling is None:
            layout, image_shape = WHOLE, packing.grid[:2]
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {name: _feature(field, image_shape) for name, field in layout.items()}
            ),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Any]:
        config = self.builder_config
        problems: Problems = []
        finished = packaging.process_views(
            self.planner.plan_splits(
                Path(dl_manager.manual_dir),
                seed=config.split_seed,
                problems=problems,
                **config.options,
            ),
            type(self).make_examples,
            config.packing,
            self.work_dir,
            self._mapper(),
        )
        problems += finished.problems
        table = Path(self.data_dir, "problems.csv")
        write_table(table, packaging.PROBLEM_COLUMNS, problems)
        for folder in (Path(dl_manager.manual_dir), Path(dl_manager.manual_dir).parent):
            if (folder / PHANTOM_NOTE).is_file():
                shutil.copy(folder / PHANTOM_NOTE, self.data_dir)
        self.info.metadata.update(
            pixel_mean=finished.pixel_mean,
            pixel_mean_of=finished.pixel_mean_of,
            repairs=finished.repairs,
            problems=len(problems),
            examples_version=packaging.EXAMPLES_VERSION,
            config={
                "grid": config.packing.to_json(),
                "split_seed": config.split_seed,
                **config.options,
            },
        )
        return {
            split: self._generate_examples(paths)
            for split, paths in finished.paths.items()
        }

    def _mapper(self) -> packaging.Mapper:
        if self._beam_options is None:
            workers = self._num_workers
            return functools.partial(parallel_map, num_workers=workers, limits=_MOST)
        return functools.partial(beam_map, options=self._beam_options)

    def _generate_examples(self, paths: Sequence[Path]) -> Any:
        """Lists key and place of each example; on Beam, makes their transform."""
        if self._beam_options is None:
            return list_places(paths)
        return beam_records(read_records, paths)

    def _generate_splits(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig,
    ) -> Sequence[tfds.core.SplitInfo]:
        if self._beam_options is not None:
            splits: Sequence[tfds.core.SplitInfo] = super()._generate_splits(
                dl_manager, download_config
            )
            return splits
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


def _feature(field: Field | Mapping[str, Field], image_shape: tuple[int, int]) -> Any:
    """Returns the TFDS feature of a field of a record."""
    if not isinstance(field, Field):
        parts = {name: _feature(part, image_shape) for name, part in field.items()}
        return tfds.features.Sequence(parts)
    if field.classes:
        return tfds.features.ClassLabel(names=list(field.classes))
    if field.dtype is str:
        return tfds.features.Text()
    if field.dtype is np.uint16:
        return tfds.features.Image(
            shape=(*image_shape, 1), dtype=np.uint16, encoding_format="png"
        )
    if not field.shape:
        return field.dtype
    encoding = "zlib" if None in field.shape else "none"
    return tfds.features.Tensor(shape=field.shape, dtype=field.dtype, encoding=encoding)
