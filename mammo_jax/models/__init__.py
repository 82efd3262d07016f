"""The networks: trunks, the paper's tops, and weights."""

from mammo_jax.models.classifier import abstract_model, build_model
from mammo_jax.models.groups import groups_of
from mammo_jax.models.model_config import (
    TOPS,
    ModelConfig,
    default_model_config,
    read_model_config,
)

__all__ = [
    "TOPS",
    "ModelConfig",
    "abstract_model",
    "build_model",
    "default_model_config",
    "groups_of",
    "read_model_config",
]
