"""Anyone's own mammograms, listed in a table.

Importing this module registers the builder with TFDS. It needs no TensorFlow.
"""

from typing import ClassVar

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
    # Detectors and exports differ in how many bits they fill.
    BUILDER_CONFIGS: ClassVar[list[base.Config]] = base.make_configs(
        ((kind, kind, {}) for kind in base.SAMPLINGS), stretch=True
    )
    planner = manifest
    make_examples = manifest.make_view_examples
