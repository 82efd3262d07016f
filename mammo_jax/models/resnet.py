"""The ResNet50 trunk, in the three wirings that published weights exist for.

He et al., "Deep Residual Learning for Image Recognition", 2015. The wirings
have equal kernels and differ in padding, in the place of the stride, in biases
and in batch normalisation, so weights of one give wrong features in another.
"""

import functools
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float

from mammo_jax.models.layers import (
    HALVINGS,
    Chain,
    MaxPool,
    Padding,
    Window,
    make_conv,
    recompute,
)
from mammo_jax.models.normalization import BatchNorm


class Wiring(NamedTuple):
    """The points in which the ResNet50s of the libraries differ."""

    stem_padding: Padding  # of the 7x7 convolution
    pool_padding: Padding  # of the 3x3 max-pool after it
    strided_conv: int  # which convolution of a unit carries the stride, 1 or 2
    use_bias: bool  # of convolutions
    epsilon: float  # see `BatchNorm`, as for the momentum
    momentum: float
    last_relu: bool = True  # after the last sum, before the features end

    def norm(self, channels: int) -> BatchNorm:
        """Makes a batch normalisation."""
        return BatchNorm(channels, epsilon=self.epsilon, momentum=self.momentum)


WIRINGS = {
    # Keras 2.0.8, the version that the paper used.
    "keras2017": Wiring("SAME", "VALID", 1, True, 1e-3, 0.99),
    # The same, cut off a patch classifier one layer too low, as the authors' code did
    # with a classifier that has no dropout.
    "keras2017_cut": Wiring("SAME", "VALID", 1, True, 1e-3, 0.99, last_relu=False),
    # keras.applications from 2.2.5 on, Keras 3 among them.
    "keras": Wiring(((3, 3), (3, 3)), ((1, 1), (1, 1)), 1, True, 1.001e-5, 0.99),
    # torchvision.models.resnet50; its momentum 0.1 weighs the new statistics.
    "torchvision": Wiring(((3, 3), (3, 3)), ((1, 1), (1, 1)), 2, False, 1e-5, 0.9),
}

# stage: (units, filters of a unit's three convolutions, stride of the first unit)
STAGES = {
    "stage2": (3, (64, 64, 256), 1),
    "stage3": (4, (128, 128, 512), 2),
    "stage4": (6, (256, 256, 1024), 2),
    "stage5": (3, (512, 512, 2048), 2),
}
STEM_CHANNELS = 64

# stem: (stride of the max-pool, stride of stage 2's last unit). The gentle stem
# works on twice the resolution up to the end of stage 2; what leaves stage 2 has
# the usual size, and every kernel keeps its shape, so the same weights load. It
# answers the paper's discussion (section 5), where the first layers reduce the
# resolution too fast for small lesions.
STEMS = {"standard": (2, 1), "gentle": (1, 2)}


class Bottleneck(nnx.Module):
    """A residual unit: 1x1, 3x3, 1x1 convolutions around a shortcut.

    The wiring names the convolution that carries the stride, 1 or 2. With `project` the
    shortcut is a 1x1 convolution; if not, it keeps every `stride`-th position, and
    `filters[-1]` must equal `channels_in`. With `remat` the unit is computed again in
    the backward pass.
    """

    def __init__(
        self,
        channels_in: int,
        filters: tuple[int, int, int],
        *,
        stride: int,
        project: bool,
        wiring: Wiring,
        dtype: Any,
        remat: bool,
    ):
        conv = functools.partial(make_conv, use_bias=wiring.use_bias, dtype=dtype)
        first, second, third = filters
        strides = {1: 1, 2: 1} | {wiring.strided_conv: stride}
        self.conv1 = conv(channels_in, first, 1, stride=strides[1])
        self.bn1 = wiring.norm(first)
        self.conv2 = conv(first, second, 3, stride=strides[2])
        self.bn2 = wiring.norm(second)
        self.conv3 = conv(second, third, 1)
        self.bn3 = wiring.norm(third)
        if project:
            self.shortcut_conv = conv(channels_in, third, 1, stride=stride)
            self.shortcut_bn = wiring.norm(third)
        self.project, self.last_relu = project, True
        self.stride = stride
        self.remat = remat

    def __call__(
        self, x: Float[Array, "batch height width channel"], train: bool
    ) -> Float[Array, "batch height2 width2 channel2"]:
        """Applies the unit; sizes are divided by the stride, rounding up."""
        return recompute(Bottleneck._forward, self, x, train, enabled=self.remat)

    def _forward(self, x: Array, train: bool) -> Array:
        y = jax.nn.relu(self.bn1(self.conv1(x), train))
        y = jax.nn.relu(self.bn2(self.conv2(y), train))
        y = self.bn3(self.conv3(y), train)
        if self.project:
            shortcut = self.shortcut_bn(self.shortcut_conv(x), train)
        else:
            shortcut = x[:, :: self.stride, :: self.stride]
        total = y + shortcut
        return jax.nn.relu(total) if self.last_relu else total


def make_residual_block(
    channels_in: int,
    filters: tuple[int, int, int],
    units: int,
    *,
    stride: int,
    last_stride: int = 1,
    **unit_options: Any,
) -> Chain:
    """Makes `units` bottlenecks; the first has the stride and projects."""
    strides = [stride] + [1] * (units - 1)
    strides[-1] *= last_stride
    return Chain(
        {
            f"unit{index + 1}": Bottleneck(
                filters[-1] if index else channels_in,
                filters,
                stride=strides[index],
                project=index == 0,
                **unit_options,
            )
            for index in range(units)
        }
    )


class ResNet50(nnx.Module):
    """ResNet50 without its classifier.

    Args:
      wiring: a key of `WIRINGS`.
      stem: a key of `STEMS`.
      width: multiplies every number of channels; 1.0 is ResNet50.
      stride: a key of `HALVINGS`; below 32 the last stages are left out.
      dtype: compute dtype.
      remat: recompute every unit in the backward pass.
    """

    def __init__(
        self,
        *,
        wiring: str,
        stem: str,
        width: float,
        stride: int,
        dtype: Any,
        remat: bool,
    ):
        rules = WIRINGS[wiring]
        pool_stride, self.stage2_last_stride = STEMS[stem]
        self.stem_padding = rules.stem_padding
        self.pool = MaxPool(Window(3, pool_stride, rules.pool_padding))
        channels = scale_channels(STEM_CHANNELS, width)
        self.conv1 = make_conv(
            3,
            channels,
            7,
            stride=2,
            padding=rules.stem_padding,
            use_bias=rules.use_bias,
            dtype=dtype,
        )
        self.bn1 = rules.norm(channels)
        # The stem halves twice, and the first stage does not.
        self.stages = tuple(STAGES)[: HALVINGS[stride] - 1]
        for name in self.stages:
            units, filters, stage_stride = STAGES[name]
            a, b, c = (scale_channels(count, width) for count in filters)
            stage = make_residual_block(
                channels,
                (a, b, c),
                units,
                stride=stage_stride,
                last_stride=self.stage2_last_stride if name == "stage2" else 1,
                remat=remat,
                wiring=rules,
                dtype=dtype,
            )
            setattr(self, name, stage)
            channels = c
        getattr(stage, stage.names[-1]).last_relu = rules.last_relu
        self.channels = channels
        self.dtype = dtype
        self.remat = remat

    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch rows columns channel"]:
        """Computes features: of 1152x896 pixels 36x28x2048 at a stride of 32."""
        modules, x = (self.conv1, self.bn1), images.astype(self.dtype)
        x = recompute(self._stem, modules, x, train, enabled=self.remat)
        for name in self.stages:
            x = getattr(self, name)(x, train)
        return x

    def _stem(self, modules: tuple[nnx.Conv, Any], x: Array, train: bool) -> Array:
        conv, bn = modules
        return self.pool(jax.nn.relu(bn(conv(x), train)))

    def windows(self) -> tuple[Window, ...]:
        """Lists the layers that are not centred on their position or have a stride.

        Whichever convolution of a unit has the stride, the unit sees every second
        position, as its shortcut does.
        """
        strides = (STAGES[name][2] for name in self.stages)
        return (
            Window(7, 2, self.stem_padding),
            self.pool.window,
            *(Window(1, stride) for stride in (self.stage2_last_stride, *strides)),
        )


def scale_channels(count: int, width: float) -> int:
    """Multiplies a number of channels by the width, to at least one."""
    return max(1, round(count * width))
