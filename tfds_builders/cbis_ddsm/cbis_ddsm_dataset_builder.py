"""CBIS-DDSM for whole-image and for patch classifiers (paper, section 2.1).

Importing this module registers the builder with TFDS. It needs no TensorFlow.
"""

from typing import ClassVar

from mammo_jax.datasets import cbis_ddsm
from mammo_jax.datasets.cbis_views import make_view_examples
from mammo_jax.datasets.splits import PROTOCOLS
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
    planner = cbis_ddsm
    make_examples = make_view_examples
