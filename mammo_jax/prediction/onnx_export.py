"""Scoring programs as ONNX files, by jax2onnx."""

import contextlib
import logging
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt16

from mammo_jax.common.errors import UserError

SUFFIX = ".onnx"
# ONNX Runtime reads it from version 1.18 on.
OPSET = 21
# Some versions of protobuf write more, and none reads it.
LARGEST = 2**31 - 1


def convert(
    score: Callable[[UInt16[Array, "batch height width"]], Float[Array, " batch"]],
    height: int,
    width: int,
    credit: str,
) -> bytes:
    """Converts a function from `images` to `scores`, for any number of images.

    Args:
      score: the function, with its weights in it.
      height: rows of the images.
      width: their columns.
      credit: licence and citation, for the file's metadata; may be empty.

    Raises:
      UserError: the file would be too large for its readers.
    """
    # They tell of every library that could be converted, too, and is not there.
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import jax2onnx  # Late: it takes seconds, and only this needs it.
    import onnx
    from google.protobuf.message import EncodeError

    images = jax.ShapeDtypeStruct(("batch", height, width), jnp.uint16)
    with (
        # ONNX has neither platforms nor functions compiled by themselves.
        mock.patch.object(lax, "platform_dependent", _by_default),
        jax.disable_jit(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # It uses older names of JAX's and Flax's.
        model = jax2onnx.to_onnx(
            score,
            [images],
            model_name="mammo_jax",
            opset=OPSET,
            input_names=["images"],
            output_names=["scores"],
        )
    # Its shapes of what is in between are not always true; readers find them.
    del model.graph.value_info[:]
    onnx.helper.set_model_props(model, {"credit": credit} if credit else {})
    with contextlib.suppress(ValueError, EncodeError):
        if len(content := bytes(model.SerializeToString())) <= LARGEST:
            return content
    raise UserError(
        "ONNX's files hold no more than 2 GB, and the models' is larger; give it "
        "another ending than .onnx, for jax.export, or name fewer models"
    )


def _by_default(*arguments: Any, default: Callable[..., Any], **_: object) -> Any:
    return default(*arguments)
