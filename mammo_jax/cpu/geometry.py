"""Strides and padding of a convolution, and the layout of its arrays."""

from typing import NamedTuple

Sizes = tuple[int, int]
Padding = tuple[tuple[int, int], tuple[int, int]]

# Dimension numbers of `lax.conv_general_dilated`: features, kernel, result.
LAYOUT = ("NHWC", "HWIO", "NHWC")


class Geometry(NamedTuple):
    """Strides and padding of a convolution."""

    strides: Sizes  # along rows and columns, in pixels
    padding: Padding  # zeros before and after rows, then columns; negative: cropped
