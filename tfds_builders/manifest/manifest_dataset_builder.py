"""Anyone's own mammograms, listed in a table.

Importing this module registers the builder with TFDS. It needs no TensorFlow.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mammo_jax.datasets import manifest
from mammo_jax.datasets.views import Problems
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
    # Detectors and exports differ in how many bits they fill.
    BUILDER_CONFIGS: ClassVar[list[base.Config]] = base.make_configs(
        ((kind, kind, {}) for kind in base.SAMPLINGS), stretch=True
    )
    make_examples = manifest.make_view_examples

    def plan(
        self, manual_dir: Path, problems: Problems
    ) -> Mapping[str, Sequence[manifest.ManifestView]]:
        """Plans the views of each split; adds odd rows of the table to `problems`."""
        seed = self.builder_config.split_seed
        return manifest.plan_splits(manual_dir, seed, problems)

    @classmethod
    def take_inventory(cls, manual_dir: Path, config: base.Config) -> dict[str, Any]:
        """Counts what a build of `config` would use."""
        return manifest.take_inventory(manual_dir, config.split_seed)
