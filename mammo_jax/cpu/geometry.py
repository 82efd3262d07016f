"""What a convolution is besides its arrays."""

from typing import NamedTuple

Sizes = tuple[int, int]
Padding = tuple[tuple[int, int], tuple[int, int]]

# Of `lax.conv_general_dilated`: features, kernel, result.
LAYOUT = ("NHWC", "HWIO", "NHWC")


class Geometry(NamedTuple):
    """Steps and edges.

    Attributes:
      strides: of rows and columns.
      padding: zeros before and after, of rows, then of columns.
    """

    strides: Sizes
    padding: Padding
