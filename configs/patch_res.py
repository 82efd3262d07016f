"""ResNet50 patch classifier on s10 (section 2.2).

Presets: `paper` (default), `s1`, `from_scratch` (without ImageNet's weights),
`one_stage`, `phantom`.
"""

from mammo_jax.common.errors import UserError
from mammo_jax.config import apply_preset, whole_config


def get_config(preset: str = "paper"):
    """Returns the configuration of a preset."""
    config = apply_preset(whole_config(), preset)
    if "patch" not in config:
        raise UserError(f"the preset {preset!r} has no patch stage")
    return config.patch
