"""Anyone's own mammograms, listed in a table.

Importing this module registers the builder with TFDS. It needs no TensorFlow.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mammo_jax.datasets import manifest
from tfds_builders import base


class Builder(base.MammogramBuilder):
    """Builds a data set from `manifest.csv` in `manual_dir`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Write `manifest.csv` into `manual_dir`, with the columns path, patient_id,
    laterality (LEFT or RIGHT), view (CC or MLO), label (1 malignant, 0 not) and, if
    wanted, split (train, validation or test); and, if wanted, `rois.csv`.
    """
    HOMEPAGE = ""
    LICENSE = "Its owner's."
    BUILDER_CONFIGS: ClassVar[list[base.Config]] = [
        base.Config(
            name=base.config_name(kind, height),
            description=base.KIND_DESCRIPTIONS[kind],
            # Detectors and exports differ in how many bits they fill.
            grid=base.make_grid(kind, height, stretch=True),
        )
        for height in base.HEIGHTS
        for kind in base.SAMPLINGS
    ]
    make_examples = manifest.make_view_examples

    def plan(self, manual_dir: Path) -> Mapping[str, Sequence[manifest.ManifestView]]:
        """The views of each split and their files."""
        return manifest.plan_splits(manual_dir, self.builder_config.split_seed)


def take_inventory(manual_dir: str | Path, config: base.Config) -> dict[str, Any]:
    """What a build of `config` would use (`mammo_jax.datasets.manifest`)."""
    return manifest.take_inventory(manual_dir, config.split_seed)
