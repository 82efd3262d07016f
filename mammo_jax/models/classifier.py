"""Whole classifiers: a trunk, and what turns its features into logits."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from mammo_jax.common.errors import UserError
from mammo_jax.models import heatmap, variables
from mammo_jax.models.initial_values import draw_values
from mammo_jax.models.layers import Window, global_average, make_dense
from mammo_jax.models.model_config import (
    BATCH_NORM,
    PATCH_CLASSES,
    HeatmapTop,
    ModelConfig,
    PatchTop,
    ResidualTop,
    Top,
    VGGTop,
)
from mammo_jax.models.resnet import ResNet50
from mammo_jax.models.vgg import VGG
from mammo_jax.models.whole_image import ConvolutionalTop


class ClassLogits(NamedTuple):
    """The logits of whole images, and those behind their class maps.

    Attributes:
      whole: logits of the image; None for a patch classifier, which sees no whole.
      at_positions: logits at every position.
    """

    whole: Float[Array, "batch class"] | None
    at_positions: Float[Array, "batch rows columns class2"]


class Classifier(nnx.Module):
    """A network from images to logits.

    Attributes:
      maps_patches: True if the class map's logits are of the patch classes.

    Args:
      config: settings of the network.
    """

    maps_patches: ClassVar[bool] = True
    head: nnx.Linear

    def __init__(self, config: ModelConfig):
        self.trunk = _make_trunk(config)
        self.trunk_name = config.trunk
        self.num_classes = config.num_classes
        self.batch_statistics = BATCH_NORM[config.batch_norm]
        self.stride = self.smallest = config.stride
        # Height and width, and what the trunk makes of them, where the layers on top
        # depend on it.
        self.image_size: tuple[int, int] | None = None
        self.feature_size: tuple[int, int] | None = None
        # Side of a patch in the trunk's positions, where the layers on top have one.
        self.window: int | None = None

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
        height, width = images.shape[1:3]
        if min(height, width) < self.smallest:
            raise UserError(
                f"images of {height}x{width} are too small for {self.trunk_name} with "
                f"this top: it needs at least {self.smallest}x{self.smallest}"
            )
        by_batch = self.batch_statistics
        features = self.trunk(images, train and by_batch.trunk)  # (B, rows, columns, C)
        if self.feature_size not in (None, features.shape[1:3]):
            raise UserError(
                f"images of {height}x{width} do not fit this heatmap model: its dense "
                f"layers were made for {'x'.join(map(str, self.image_size or ()))} "
                "(model.image_size)"
            )
        return self.classify(_rows_together(features), train and by_batch.top)

    @abc.abstractmethod
    def classify(
        self, features: Float[Array, "batch rows columns channel"], train: bool
    ) -> Float[Array, "batch class"]:
        """Computes the logits from the trunk's features."""

    def class_map(
        self, images: Float[Array, "batch height width 3"], window: int | None
    ) -> ClassLogits:
        """Computes the logits of whole images, and those at every position.

        Args:
          images: as of `__call__`.
          window: side of the window that a patch classifier is slid with, in the
            trunk's positions; the other networks do not read it.

        Raises:
          UserError: the images are smaller than a patch.
        """
        at_positions = self.slide(images, self._own(window))
        return ClassLogits(self.read(at_positions, False), at_positions)

    def windows(self, window: int | None) -> tuple[Window, ...]:
        """Lists the layers below a class map that are not centred or have a stride."""
        return (*self.trunk.windows(), Window(self._own(window), 1))

    def _own(self, window: int | None) -> int:
        """Returns the heatmap's window, or else the one that is given."""
        if (found := self.window or window) is None:
            raise ValueError("a patch classifier is slid with a window; none is given")
        return found

    def read(
        self, heatmap: Float[Array, "batch rows columns class"], train: bool
    ) -> Float[Array, "batch class2"] | None:
        """Computes the image's logits from the patch classes' at every position.

        A patch classifier has none of a whole image.
        """
        return None

    def slide(
        self, images: Float[Array, "batch height width 3"], window: int
    ) -> Float[Array, "batch rows columns class"]:
        """Computes the patch classes' logits at every position of whole images.

        Args:
          images: as of `__call__`.
          window: side of a patch in the trunk's positions.

        Raises:
          UserError: the images are smaller than a patch.
        """
        height, width = images.shape[1:3]
        if min(feature_size(self.trunk, (height, width))) < window:
            raise UserError(
                f"images of {height}x{width} are too small for heatmaps: a patch is "
                f"{window} positions of {self.trunk_name} wide (model.top.window)"
            )
        return heatmap.patch_logits(self.trunk(images, False), self.head, window)


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


class PatchClassifier(Classifier):
    """Trunk, global average pooling, dense (section 2.2)."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.head = make_dense(self.trunk.channels, config.num_classes)

    def classify(
        self, features: Float[Array, "batch rows columns channel"], train: bool
    ) -> Float[Array, "batch class"]:
        """Computes the logits of the patch classes."""
        return self.head(global_average(features))


class WholeImageClassifier(Classifier):
    """Trunk, then residual or VGG blocks (section 2.3, all-convolutional)."""

    maps_patches = False

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        top = config.top
        assert isinstance(top, ResidualTop | VGGTop)
        if isinstance(top, VGGTop):
            self.smallest = self.stride * 2 ** len(top.blocks)
        self.top = ConvolutionalTop(
            top.kind,
            top.blocks,
            channels_in=self.trunk.channels,
            num_classes=config.num_classes,
            dtype=jnp.dtype(config.compute_dtype),
            remat=config.remat,
        )

    def classify(
        self, features: Float[Array, "batch rows columns channel"], train: bool
    ) -> Float[Array, "batch class"]:
        """Computes the logits of the whole-image classes."""
        return self.top(features, train)

    def class_map(
        self, images: Float[Array, "batch height width 3"], window: int | None
    ) -> ClassLogits:
        """Applies the top at every position."""
        return ClassLogits(*self.top.class_map(self.trunk(images, False)))

    def windows(self, window: int | None) -> tuple[Window, ...]:
        """Lists the layers of the trunk and of the blocks."""
        return (*self.trunk.windows(), *self.top.windows())


class HeatmapClassifier(Classifier):
    """Trunk, heatmap of the patch classes, fully connected layers (section 2.3)."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        top = config.top
        assert isinstance(top, HeatmapTop)
        self.image_size = height, width = config.image_size
        self.feature_size = rows, columns = feature_size(self.trunk, self.image_size)
        positions = (rows - top.window + 1, columns - top.window + 1)
        if min(positions) < top.pool:
            raise UserError(
                f"images of {height}x{width} are too small for a heatmap with window "
                f"{top.window} and pool {top.pool}: it needs at least "
                f"{self.stride * (top.window + top.pool - 1)} pixels on each side"
            )
        self.head = make_dense(self.trunk.channels, PATCH_CLASSES)
        self.top = heatmap.ConnectedTop(
            positions,
            patch_classes=PATCH_CLASSES,
            pool=top.pool,
            fc=top.fc,
            num_classes=config.num_classes,
        )
        self.window = top.window
        self.activation = top.activation

    def classify(
        self, features: Float[Array, "batch rows columns channel"], train: bool
    ) -> Float[Array, "batch class"]:
        """Computes the logits of the whole-image classes."""
        logits = heatmap.patch_logits(features, self.head, self._own(None))
        return self.read(logits, train)

    def read(
        self, logits: Float[Array, "batch rows columns class"], train: bool
    ) -> Float[Array, "batch class2"]:
        """Applies the fully connected layers."""
        return self.top(heatmap.ACTIVATIONS[self.activation](logits), train)


_CLASSIFIERS: dict[type[Top], Callable[..., Classifier]] = {
    PatchTop: PatchClassifier,
    ResidualTop: WholeImageClassifier,
    VGGTop: WholeImageClassifier,
    HeatmapTop: HeatmapClassifier,
}


def build_model(config: ModelConfig, seed: int) -> Classifier:
    """Builds the network that a configuration describes, with its first values.

    Args:
      config: of the network.
      seed: of the first values.

    Returns:
      A module to call with `(images, train)`; see `Classifier.__call__`.

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
    return _CLASSIFIERS[type(config.top)](config)


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
    dtype = jnp.dtype(config.compute_dtype)
    if config.trunk == "resnet50":
        return ResNet50(
            wiring=config.wiring,
            stem=config.stem,
            width=config.width,
            stride=config.stride,
            dtype=dtype,
            remat=config.remat,
        )
    return VGG(
        config.trunk,
        width=config.width,
        stride=config.stride,
        dtype=dtype,
        remat=config.remat,
    )
