"""Whole classifiers: a trunk, and what turns its features into logits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from mammo_jax.common.errors import UserError
from mammo_jax.models import variables
from mammo_jax.models.initial_values import draw_values
from mammo_jax.models.layers import Window, global_average, make_dense
from mammo_jax.models.model_config import BATCH_NORM, ModelConfig
from mammo_jax.models.normalization import BatchNorm
from mammo_jax.models.resnet import ResNet50
from mammo_jax.models.tops import (
    BLOCKS,
    PATCH_CLASSES,
    ConnectedTop,
    ConvolutionalTop,
    patch_logits,
)
from mammo_jax.models.vgg import VGG


class ClassLogits(NamedTuple):
    """The logits of whole images, and those behind their class maps."""

    whole: Float[Array, "batch class"] | None  # a patch classifier sees no whole
    at_positions: Float[Array, "batch rows columns class2"]


class Classifier(nnx.Module):
    """A network from images to logits: trunk, and the top that `config` names.

    A patch classifier (section 2.2) averages the features over all positions and
    applies a dense layer, `head`. Of those for whole images (section 2.3), a heatmap
    design slides the two over the features and reads the map by its `top`; the
    all-convolutional ones have a `top` alone.

    Attributes:
      smallest: least height and width of the images.
      window: side of a patch in the trunk's positions; None but in a heatmap design.
    """

    def __init__(self, config: ModelConfig):
        self.trunk = _make_trunk(config)
        self.trunk_name, self.kind = config.trunk, config.top.kind
        self.num_classes = config.num_classes
        self.batch_statistics = BATCH_NORM[config.batch_norm]
        self.stride = self.smallest = config.stride
        self.window: int | None = None
        self.feature_size: tuple[int, int] | None = None
        channels = self.trunk.channels
        if self.kind == "patch":
            self.head = make_dense(channels, config.num_classes)
        elif self.kind == "heatmap":
            self.image_size, self.window = config.image_size, config.top.window
            self.feature_size = feature_size(self.trunk, self.image_size)
            self.head = make_dense(channels, PATCH_CLASSES)
            self.top: Any = _connected_top(config, self.feature_size)
        else:
            if self.kind == "vgg":
                self.smallest = self.stride * 2 ** len(config.top.blocks)
            self.top = ConvolutionalTop(
                self.kind,
                config.top.blocks,
                channels_in=channels,
                num_classes=config.num_classes,
                dtype=jnp.dtype(config.compute_dtype),
                remat=config.remat,
            )
        for _, layer in nnx.iter_modules(self):
            if isinstance(layer, BatchNorm):
                layer.per_device = config.batch_norm_per_device

    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch class"]:
        """Computes the logits, float32.

        Args:
          images: float32, 0..255 less the training mean.
          train: True to normalise by the batch and move the running statistics,
            unless the configuration freezes them.

        Raises:
          UserError: the images are too small for the network, or of another size
            than a heatmap model was built for.
        """
        features = _rows_together(self.features(images, train))
        return self.classify(features, train and self.batch_statistics.top)

    def features(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch rows columns channel"]:
        """Computes the trunk's features, at 1/32 of the images' size by default."""
        height, width = images.shape[1:3]
        if min(height, width) < self.smallest:
            raise UserError(
                f"images of {height}x{width} are too small for {self.trunk_name} with "
                f"this top: it needs at least {self.smallest}x{self.smallest}"
            )
        features: Array = self.trunk(images, train and self.batch_statistics.trunk)
        if self.feature_size not in (None, features.shape[1:3]):
            raise UserError(
                f"images of {height}x{width} do not fit this heatmap model: its dense "
                f"layers were made for {'x'.join(map(str, self.image_size))} "
                "(model.image_size)"
            )
        return features

    def classify(
        self, features: Float[Array, "batch rows columns channel"], train: bool
    ) -> Float[Array, "batch class"]:
        """Computes the logits from the trunk's features."""
        if self.kind == "patch":
            return self.head(global_average(features))
        if self.window:
            features = patch_logits(features, self.head, self.window)
        logits: Array = self.top(features, train)
        return logits

    def class_map(
        self, images: Float[Array, "batch height width 3"], window: int | None
    ) -> ClassLogits:
        """Computes the logits of whole images, and those at every position.

        A patch classifier is slid with the window, whose side is in the trunk's
        positions; the other networks do not read it.

        Raises:
          UserError: the images are smaller than a patch.
        """
        features = self.features(images, False)
        if self.kind in BLOCKS:
            return ClassLogits(*self.top.class_map(features))
        side = self._side(window)
        if min(features.shape[1:3]) < side:
            height, width = images.shape[1:3]
            raise UserError(
                f"images of {height}x{width} are too small for heatmaps: a patch is "
                f"{side} positions of {self.trunk_name} wide (model.top.window)"
            )
        logits = patch_logits(features, self.head, side)
        return ClassLogits(self.top(logits, False) if self.window else None, logits)

    def windows(self, window: int | None) -> tuple[Window, ...]:
        """Lists the layers below a class map that are not centred or have a stride."""
        is_map = self.kind not in BLOCKS
        last = (Window(self._side(window), 1),) if is_map else self.top.windows()
        return (*self.trunk.windows(), *last)

    def _side(self, window: int | None) -> int:
        if (side := self.window or window) is None:
            raise ValueError("a patch classifier is slid with a window; none is given")
        return side


def _connected_top(config: ModelConfig, features: tuple[int, int]) -> ConnectedTop:
    """Makes the top of a heatmap design for a trunk's features of that size."""
    top, (height, width) = config.top, config.image_size
    rows, columns = (size - top.window + 1 for size in features)
    if min(rows, columns) < top.pool:
        raise UserError(
            f"images of {height}x{width} are too small for a heatmap with window "
            f"{top.window} and pool {top.pool}: it needs at least "
            f"{config.stride * (top.window + top.pool - 1)} pixels on each side"
        )
    return ConnectedTop(
        (rows, columns),
        activation=top.activation,
        pool=top.pool,
        fc=top.fc,
        num_classes=config.num_classes,
    )


def _rows_together(features: Array) -> Array:
    """Ends the spreading of an image's rows over a mesh's devices.

    The trunk holds nearly all of the memory and of the work. After it an image is a
    few rows, and XLA (jaxlib 0.10.2) doubles gradients of strided convolutions where
    a device of a mesh with both axes in use is left with a single row.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if "spatial" not in mesh.axis_names:
        return features
    whole: Array = jax.lax.with_sharding_constraint(features, PartitionSpec("data"))
    return whole


def build_model(config: ModelConfig, seed: int) -> Classifier:
    """Builds the network that a configuration describes; `seed` draws its values.

    Raises:
      UserError: the images are too small for a heatmap.
    """
    graphdef, *undrawn = variables.split(abstract_model(config))
    drawn = jax.tree.map(jnp.asarray, draw_values(config, seed, *undrawn))
    model: Any = variables.merge(graphdef, *drawn)
    assert isinstance(model, Classifier)
    return model


def abstract_model(config: ModelConfig) -> Classifier:
    """Builds the same network with shapes and dtypes in the place of values."""
    return Classifier(config)


def feature_size(trunk: Any, image_size: tuple[int, int]) -> tuple[int, int]:
    """Computes rows and columns of the trunk's features; 1152x896 gives 36x28."""
    graphdef, params, stats = variables.split(trunk)
    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    features = jax.eval_shape(
        lambda p, s, x: variables.merge(graphdef, p, s)(x, False), params, stats, images
    )
    _, rows, columns, _ = features.shape
    return rows, columns


def _make_trunk(config: ModelConfig) -> Any:
    common: dict[str, Any] = {
        "width": config.width,
        "stride": config.stride,
        "dtype": jnp.dtype(config.compute_dtype),
        "remat": config.remat,
    }
    if config.trunk == "resnet50":
        return ResNet50(wiring=config.wiring, stem=config.stem, **common)
    return VGG(config.trunk, **common)
