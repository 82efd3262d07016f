"""ResNet50 patch classifier on s10 (section 2.2)."""

from mammo_jax import config as base


def get_config(preset: str = "paper"):
    """The configuration of a preset."""
    return base.apply_preset(base.whole_config(), preset).patch
