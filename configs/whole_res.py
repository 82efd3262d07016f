"""ResNet50 with residual top blocks: the paper's best single model (section 2.3).

Presets: `paper` (default), `phantom` (embedded synthetic data, minutes on a CPU),
`real` (a short run at the paper's scale on a few real mammograms).
"""

from mammo_jax import config as base


def get_config(preset: str = "paper"):
    """The configuration of a preset."""
    return base.apply_preset(base.whole_config(), preset)
