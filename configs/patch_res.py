"""ResNet50 patch classifier on s10 (section 2.2).

Presets: `paper` (default), `s1`, `from_scratch` (without ImageNet's weights),
`one_stage`, `phantom`.
"""

from mammo_jax import config as base
from mammo_jax.common.errors import UserError


def get_config(preset: str = "paper"):
    """The configuration of a preset."""
    config = base.apply_preset(base.whole_config(), preset)
    if "patch" not in config:
        raise UserError(f"the preset {preset!r} has no patch stage")
    return config.patch
