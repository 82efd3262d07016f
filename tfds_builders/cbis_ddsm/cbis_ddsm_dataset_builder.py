"""CBIS-DDSM for whole-image and for patch classifiers (paper, section 2.1).

Importing this module registers the builder with TFDS. It needs no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mammo_jax.datasets import cbis_ddsm
from mammo_jax.datasets.cbis_files import ViewFiles
from mammo_jax.datasets.cbis_views import make_view_examples
from mammo_jax.datasets.splits import PROTOCOLS
from tfds_builders import base


@dataclasses.dataclass(kw_only=True)
class Config(base.Config):
    """One way to cut and split the data set.

    Attributes:
      protocol: "paper" or "official", see `mammo_jax.datasets.splits`.
    """

    protocol: str


class Builder(base.MammogramBuilder):
    """Builds CBIS-DDSM from a download in `manual_dir`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Download CBIS-DDSM from The Cancer Imaging Archive,
    doi:10.7937/K9/TCIA.2016.7O02S9CY: the four tables *_case_description_*.csv into
    `manual_dir`, the folders with the images anywhere below it.
    """
    HOMEPAGE = "https://www.cancerimagingarchive.net/collection/cbis-ddsm/"
    LICENSE = "CC BY 3.0"
    BUILDER_CONFIGS: ClassVar[list[Config]] = [
        Config(
            name=base.config_name(f"{protocol}_{kind}", height),
            description=base.KIND_DESCRIPTIONS[kind],
            protocol=protocol,
            grid=base.make_grid(kind, height, stretch=False),
        )
        for height in base.HEIGHTS
        for protocol in PROTOCOLS
        for kind in base.SAMPLINGS
    ]
    make_examples = make_view_examples

    builder_config: Config

    def plan(self, manual_dir: Path) -> Mapping[str, Sequence[ViewFiles]]:
        """The views of each split and their files."""
        config = self.builder_config
        return cbis_ddsm.plan_splits(manual_dir, config.protocol, config.split_seed)


def take_inventory(manual_dir: str | Path, config: Config) -> dict[str, Any]:
    """What a build of `config` would use (`mammo_jax.datasets.cbis_ddsm`)."""
    return cbis_ddsm.take_inventory(manual_dir, config.protocol, config.split_seed)
