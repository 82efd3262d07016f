"""Networks by the names that the paper's tables give them."""

from collections.abc import Sequence
from typing import Any

from mammo_jax.common.errors import UserError
from mammo_jax.models import classifier
from mammo_jax.models.model_config import TOPS, read_model_config


def build_model(
    trunk: str = "resnet50",
    *,
    top: str | Sequence[str] = "residual_512-512-1024x2",
    seed: int = 0,
    **settings: Any,
) -> classifier.Classifier:
    """Builds a network with its first values.

    Args:
      trunk: "resnet50", "vgg16" or "vgg19".
      top: a row of the paper's Tables 2 and 3, see
        `mammo_jax.models.model_config.TOPS`; or a list of blocks, all residual
        ("512-512-1024x2") or all VGG ("512x1").
      seed: the seed of the first values, 0 or more; the same on every device.
      **settings: other fields of `mammo_jax.models.model_config.ModelConfig`, such as
        `num_classes=5`, `width=0.25` or `compute_dtype="bfloat16"`.

    Returns:
      An `nnx.Module` with float32 parameters; see `Classifier.__call__`.

    Raises:
      UserError: a name, a block or a setting that does not exist, with the choices; or
        the images (`image_size`) are too small for a heatmap.
    """
    if type(seed) is not int or seed < 0:
        raise UserError(f"seed is {seed!r}; it must be a whole number from 0 on")
    if isinstance(top, str) and top in TOPS:
        fields = TOPS[top]
    elif isinstance(top, str) or not isinstance(top, Sequence):
        raise UserError(
            f"top is {top!r}; it must be one of {', '.join(TOPS)}, or a list of blocks "
            "such as ['512-512-1024x2']"
        )
    else:
        is_residual = any("-" in str(block) for block in top)
        fields = {"kind": "residual" if is_residual else "vgg", "blocks": tuple(top)}
    default = {"num_classes": 5} if fields["kind"] == "patch" else {}
    settings = {**default, "trunk": trunk, "top": fields, **settings}
    return classifier.build_model(read_model_config(settings, "model"), seed)
