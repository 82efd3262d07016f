"""ResNet50 with residual top blocks: the paper's best single model (section 2.3).

Presets: `paper` (default), `phantom` (embedded synthetic data, minutes on a CPU),
`inbreast` (transfer, section 3.2), `one_stage` (every layer group at its own rate from
the first step), `from_scratch` (without ImageNet's weights), `s1`, `fast` (bfloat16),
`full_resolution` (4608x3584), `yaroslav` (another trunk, from random values), `real`
(a short run at the paper's scale on a few real mammograms).
"""

from mammo_jax.config import apply_preset, whole_config


def get_config(preset: str = "paper"):
    """Returns the configuration of a preset."""
    return apply_preset(whole_config(), preset)
