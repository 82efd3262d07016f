"""INbreast for transfer experiments (paper, section 3).

Importing this module registers the builder with TFDS. It needs no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mammo_jax.datasets import inbreast
from tfds_builders import base


@dataclasses.dataclass(kw_only=True)
class Config(base.Config):
    """One way to cut the data set.

    Attributes:
      patients: train on so many patients only; None for all.
    """

    patients: int | None = None


def _make_configs() -> list[Config]:
    parts = [(kind, kind, None) for kind in base.SAMPLINGS] + [
        (f"whole_{patients}patients", "whole", patients)
        for patients in inbreast.SUBSETS
    ]
    return [
        Config(
            name=base.config_name(stem, height),
            description=base.KIND_DESCRIPTIONS[kind],
            # 14-bit detectors: without the stretch they would be almost black.
            grid=base.make_grid(kind, height, stretch=True),
            patients=patients,
        )
        for height in base.HEIGHTS
        for stem, kind, patients in parts
    ]


class Builder(base.MammogramBuilder):
    """Builds INbreast from a download in `manual_dir`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    INbreast is given on request. Put its folder "INbreast Release 1.0", with
    INbreast.csv, AllDICOMs and AllXML, into `manual_dir`.
    """
    HOMEPAGE = "https://doi.org/10.1016/j.acra.2011.09.014"
    LICENSE = "On request, for research only; not to be passed on."
    BUILDER_CONFIGS: ClassVar[list[Config]] = _make_configs()
    make_examples = inbreast.make_view_examples

    builder_config: Config

    def plan(self, manual_dir: Path) -> Mapping[str, Sequence[inbreast.InbreastView]]:
        """The views of each split and their files."""
        config = self.builder_config
        return inbreast.plan_splits(manual_dir, config.split_seed, config.patients)


def take_inventory(manual_dir: str | Path, config: Config) -> dict[str, Any]:
    """What a build of `config` would use (`mammo_jax.datasets.inbreast`)."""
    return inbreast.take_inventory(manual_dir, config.split_seed, config.patients)
