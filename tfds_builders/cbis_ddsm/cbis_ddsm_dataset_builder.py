"""CBIS-DDSM for whole-image and for patch classifiers (paper, section 2.1).

Importing this module registers the builder with TFDS. It needs no TensorFlow.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mammo_jax.datasets import cbis_ddsm
from mammo_jax.datasets.cbis_tables import CbisView
from mammo_jax.datasets.cbis_views import make_view_examples
from mammo_jax.datasets.splits import PROTOCOLS
from mammo_jax.datasets.views import Problems
from tfds_builders import base


class Builder(base.MammogramBuilder):
    """Builds CBIS-DDSM from a download in `manual_dir`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Download CBIS-DDSM from The Cancer Imaging Archive,
    doi:10.7937/K9/TCIA.2016.7O02S9CY: the four tables *_case_description_*.csv into
    `manual_dir`, the folders with the images anywhere below it.
    """
    HOMEPAGE = "https://www.cancerimagingarchive.net/collection/cbis-ddsm/"
    LICENSE = "CC BY 3.0"
    BUILDER_CONFIGS: ClassVar[list[base.Config]] = base.make_configs(
        (
            (f"{protocol}_{kind}", kind, {"protocol": protocol})
            for protocol in PROTOCOLS
            for kind in base.SAMPLINGS
        ),
        stretch=False,
    )
    make_examples = make_view_examples

    def plan(
        self, manual_dir: Path, problems: Problems
    ) -> Mapping[str, Sequence[CbisView]]:
        """Plans the views of each split; adds odd rows of the tables to `problems`."""
        config = self.builder_config
        protocol = config.options["protocol"]
        return cbis_ddsm.plan_splits(manual_dir, protocol, config.split_seed, problems)

    @classmethod
    def take_inventory(cls, manual_dir: Path, config: base.Config) -> dict[str, Any]:
        """Counts what a build of `config` would use."""
        return cbis_ddsm.take_inventory(
            manual_dir, config.options["protocol"], config.split_seed
        )
