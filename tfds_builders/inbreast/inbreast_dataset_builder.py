"""INbreast for transfer experiments (paper, section 3).

Importing this module registers the builder with TFDS. It needs no TensorFlow.
"""

from typing import ClassVar

from mammo_jax.datasets import inbreast
from tfds_builders import base

# Number of patients to train on; None for all.
_WAYS = [(kind, kind, {"patients": None}) for kind in base.SAMPLINGS] + [
    (f"whole_{patients}patients", "whole", {"patients": patients})
    for patients in inbreast.SUBSETS
]


class Builder(base.MammogramBuilder):
    """Builds INbreast from a download in `manual_dir`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    INbreast is given on request. Put its folder "INbreast Release 1.0", with
    INbreast.csv, AllDICOMs and AllXML, into `manual_dir`.
    """
    HOMEPAGE = "https://doi.org/10.1016/j.acra.2011.09.014"
    LICENSE = "On request, for research only; not to be passed on."
    # 14-bit detectors: without the stretch they would be almost black.
    BUILDER_CONFIGS: ClassVar[list[base.Config]] = base.make_configs(
        _WAYS, stretch=True
    )
    planner = inbreast
    make_examples = inbreast.make_view_examples
