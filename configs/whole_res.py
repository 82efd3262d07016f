"""ResNet50 with residual top blocks: the paper's best single model (section 2.3).

Presets: `paper` (default), `phantom` (embedded synthetic data, minutes on a CPU),
`inbreast` (transfer, section 3.2), `one_stage` (every layer group at its own rate from
the first step), `from_scratch` (without ImageNet's weights), `s1`, `full_resolution`
(4608x3584), `real` (a short run at the paper's scale on a few real mammograms).
"""

from mammo_jax import config as base


def get_config(preset: str = "paper"):
    """The configuration of a preset."""
    return base.apply_preset(base.whole_config(), preset)
