"""Convolutions of the library oneDNN, for the CPU, in compiled functions.

On a CPU with AVX-512, XLA's own kernels reach about two thirds of its float32 speed in
convolutions, and a tenth of its bfloat16 speed where it has matrix units; on one
without, they are the faster ones. oneDNN is what PyTorch and TensorFlow call. Its C
interface is called from here, and this module by XLA (`mammo_jax.cpu.foreign`), so
nothing is compiled at installation. Where the package or something that it needs is
not there, `computes_in` says so.
"""

import ctypes
import functools
import importlib.metadata
import itertools
import logging
import threading
from collections.abc import Sequence
from ctypes import byref, c_int, c_int64, c_size_t, c_void_p
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mammo_jax.cpu import foreign
from mammo_jax.cpu.geometry import Geometry

_log = logging.getLogger(__name__)

_PACKAGE, _FILE = "onednn-cpu-gomp", "libdnnl.so.3"
_TARGET = "mammo_jax_onednn"

# Values of the enumerations in oneDNN's headers dnnl_types.h and dnnl_common_types.h.
_CPU, _IN_ORDER, _TRAINING, _DIRECT, _ANY_LAYOUT = 1, 1, 64, 1, 1
_BFLOAT16, _FLOAT32 = 2, 3
_AVX512_CORE = 0x20
_SOURCE, _RESULT, _WEIGHTS = 1, 17, 33
_SOURCE_GRADIENT, _RESULT_GRADIENT, _WEIGHTS_GRADIENT = 129, 145, 161
_SCRATCHPAD, _SCRATCHPAD_OF_CALLER = 80, 1
_WEIGHTS_LAYOUT, _WEIGHTS_GRADIENT_LAYOUT, _SCRATCHPAD_LAYOUT = 131, 132, 136

_DTYPES = {foreign.FLOAT32: _FLOAT32, foreign.BFLOAT16: _BFLOAT16}
_DTYPE_NAMES = {"float32": _FLOAT32, "bfloat16": _BFLOAT16}
_ALIGNMENT = 64
_MOST_DIMENSIONS = 12
# oneDNN's dimensions are batch, channels, rows, columns, of kernels the channels after,
# before, rows, columns; these are the orders of the arrays here, slowest first.
_FEATURES_ORDER, _KERNEL_ORDER = (0, 2, 3, 1), (2, 3, 1, 0)

_FORWARD, _INPUT_GRADIENT, _KERNEL_GRADIENT = range(3)
# Roles in oneDNN of the features before, the kernel, and the features after.
_ROLES = {
    _FORWARD: (_SOURCE, _WEIGHTS, _RESULT),
    _INPUT_GRADIENT: (_SOURCE_GRADIENT, _WEIGHTS, _RESULT_GRADIENT),
    _KERNEL_GRADIENT: (_SOURCE, _WEIGHTS_GRADIENT, _RESULT_GRADIENT),
}

# Errors where there is no package or file, it cannot be loaded, lacks a function, or
# oneDNN or JAX does not start.
_NOT_THERE = (ImportError, StopIteration, OSError, AttributeError, RuntimeError)

Shape = tuple[int, ...]


class _Argument(ctypes.Structure):
    """Structure `dnnl_exec_arg_t`."""

    _fields_ = (("role", c_int), ("memory", c_void_p))


class _Primitive(NamedTuple):
    """A convolution, or a gradient of one, of given shapes."""

    run: c_void_p  # oneDNN's primitive
    roles: tuple[int, int, int]  # see `_ROLES`
    layouts: tuple[c_void_p, c_void_p, c_void_p]  # of the three arrays as they are here
    inner: c_void_p  # the kernel's layout that oneDNN chose
    scratchpad: c_void_p  # layout of the memory that it works in
    sizes: tuple[int, int]  # bytes of the inner kernel and of the scratchpad
    reorder: c_void_p  # primitive that brings the kernel from one layout to the other


class Library:
    """oneDNN on the CPU; its primitives are kept.

    Args:
      loaded: the shared library.

    Raises:
      RuntimeError: it refuses to start.
    """

    def __init__(self, loaded: ctypes.CDLL):
        self._loaded = loaded
        loaded.dnnl_primitive_desc_query_md.restype = c_void_p
        loaded.dnnl_memory_desc_get_size.restype = c_size_t
        self._engine = self._make("engine_create", _CPU, c_size_t(0))
        self._stream = self._make("stream_create", self._engine, _IN_ORDER)
        self._attributes = self._make("primitive_attr_create")
        self._call(
            "primitive_attr_set_scratchpad_mode",
            *(self._attributes, _SCRATCHPAD_OF_CALLER),
        )
        self._primitives: dict[tuple[Any, ...], _Primitive] = {}
        # All convolutions work in this memory, as large as the largest needs.
        self._space = np.empty(0, np.uint8)
        # One convolution at a time, since it uses all cores. To hand it to a thread of
        # its own would spare OpenMP a team for every thread that calls, and made a
        # train step a seventh slower.
        self._lock = threading.Lock()

    def has_avx512(self) -> bool:
        """Returns True if it uses AVX-512 on this processor."""
        return bool(self._loaded.dnnl_get_effective_cpu_isa() & _AVX512_CORE)

    def computes_in(self, dtype: int) -> bool:
        """Returns True if it has all three kinds of convolution for this processor."""
        shapes = ((1, 8, 8, 16), (3, 3, 16, 16), (1, 8, 8, 16))
        geometry = Geometry((1, 1), ((1, 1), (1, 1)))
        try:
            for kind in _ROLES:
                self._prepare(kind, geometry, dtype, shapes)
        except RuntimeError:
            return False
        return True

    def convolve(
        self, kind: int, geometry: Geometry, arrays: Sequence[foreign.Buffer]
    ) -> None:
        """Fills one of the arrays from the two others.

        Args:
          kind: key of `_ROLES`; says which one.
          geometry: strides and padding.
          arrays: features before, kernel, features after; the kernel's gradient is
            float32, everything else of one dtype.
        """
        dtype = _DTYPES[arrays[2 if kind == _INPUT_GRADIENT else 0].dtype]
        key = kind, geometry, dtype, tuple(array.shape for array in arrays)
        with self._lock:
            if key not in self._primitives:
                self._primitives[key] = self._prepare(*key)
            self._run(self._primitives[key], [array.address for array in arrays])

    def _run(self, primitive: _Primitive, addresses: Sequence[int]) -> None:
        into_kernel = _WEIGHTS_GRADIENT in primitive.roles
        layouts = (*primitive.layouts, primitive.inner, primitive.scratchpad)
        memories = [
            self._make("memory_create", layout, self._engine, c_void_p(address))
            for layout, address in zip(
                layouts, (*addresses, *self._places(primitive.sizes)), strict=True
            )
        ]
        before, outer, after, inner, scratchpad = memories
        try:
            if not into_kernel:
                self._execute(primitive.reorder, (_SOURCE, _RESULT), (outer, inner))
            self._execute(
                primitive.run,
                (*primitive.roles, _SCRATCHPAD),
                (before, inner, after, scratchpad),
            )
            if into_kernel:
                self._execute(primitive.reorder, (_SOURCE, _RESULT), (inner, outer))
            self._call("stream_wait", self._stream)
        finally:
            for memory in memories:
                self._call("memory_destroy", memory)

    def _places(self, sizes: tuple[int, int]) -> tuple[int, int]:
        """Returns aligned addresses of two places with that many bytes."""
        first, second = (-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)
        if self._space.size < first + second + _ALIGNMENT:
            self._space = np.empty(first + second + _ALIGNMENT, np.uint8)
        start = -(-self._space.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        return start, start + first

    def _execute(
        self, primitive: c_void_p, roles: Sequence[int], memories: Sequence[c_void_p]
    ) -> None:
        pairs = [_Argument(*pair) for pair in zip(roles, memories, strict=True)]
        arguments = (_Argument * len(pairs))(*pairs)
        self._call("primitive_execute", primitive, self._stream, len(pairs), arguments)

    def _prepare(
        self, kind: int, geometry: Geometry, dtype: int, shapes: tuple[Shape, ...]
    ) -> _Primitive:
        into_kernel = kind == _KERNEL_GRADIENT
        # oneDNN reorders a gradient of bfloat16 very slowly, one of float32 fast.
        kernel_dtype = _FLOAT32 if into_kernel else dtype
        (batch, *before), (*window, inputs, outputs), (_, *after) = shapes
        source, result = (
            self._layout(dtype, (batch, size[2], *size[:2]), _FEATURES_ORDER)
            for size in (before, after)
        )
        kernel_shape = (outputs, inputs, *window)
        outer = self._layout(kernel_dtype, kernel_shape, _KERNEL_ORDER)
        description = self._describe(
            kind,
            (source, self._layout(dtype, kernel_shape, None), result),
            self._layout(kernel_dtype, kernel_shape, None),
            geometry,
        )
        query = _WEIGHTS_GRADIENT_LAYOUT if into_kernel else _WEIGHTS_LAYOUT
        # These belong to the description, which lives as long as the process.
        inner, scratchpad = (
            c_void_p(self._loaded.dnnl_primitive_desc_query_md(description, what, 0))
            for what in (query, _SCRATCHPAD_LAYOUT)
        )
        start, end = (inner, outer) if into_kernel else (outer, inner)
        reorder = self._make(
            "reorder_primitive_desc_create",
            *(start, self._engine, end, self._engine, None),
        )
        return _Primitive(
            self._make("primitive_create", description),
            _ROLES[kind],
            (source, outer, result),
            inner,
            scratchpad,
            (self._size(inner), self._size(scratchpad)),
            self._make("primitive_create", reorder),
        )

    def _describe(
        self,
        kind: int,
        layouts: tuple[c_void_p, c_void_p, c_void_p],
        gradient: c_void_p,
        geometry: Geometry,
    ) -> c_void_p:
        """Returns a primitive's description; a gradient's needs the convolution's."""
        source, kernel, result = layouts
        no_dilation = (0, 0)
        place = [
            _dims(values)
            for values in (
                geometry.strides,
                no_dilation,
                *zip(*geometry.padding, strict=True),
            )
        ]

        def make(direction: str, *arguments: object) -> c_void_p:
            name = f"convolution_{direction}_primitive_desc_create"
            return self._make(name, self._engine, *arguments, self._attributes)

        forward = make(
            "forward", _TRAINING, _DIRECT, source, kernel, None, result, *place
        )
        if kind == _INPUT_GRADIENT:
            return make(
                "backward_data", _DIRECT, source, kernel, result, *place, forward
            )
        if kind == _KERNEL_GRADIENT:
            return make(
                "backward_weights",
                *(_DIRECT, source, gradient, None, result, *place, forward),
            )
        return forward

    def _layout(
        self, dtype: int, shape: Sequence[int], order: Sequence[int] | None
    ) -> c_void_p:
        """Returns a dense array's layout, `order` from the slowest dimension on.

        Without an order, oneDNN chooses the layout.
        """
        rank, dims = len(shape), _dims(shape)
        if order is None:
            return self._make(
                "memory_desc_create_with_tag", rank, dims, dtype, _ANY_LAYOUT
            )
        strides, step = [0] * rank, 1
        for axis in reversed(order):
            strides[axis], step = step, step * shape[axis]
        return self._make(
            "memory_desc_create_with_strides", rank, dims, dtype, _dims(strides)
        )

    def _size(self, layout: c_void_p) -> int:
        return int(self._loaded.dnnl_memory_desc_get_size(layout))

    def _make(self, name: str, *arguments: object) -> c_void_p:
        made = c_void_p()
        self._call(name, byref(made), *arguments)
        return made

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._loaded, f"dnnl_{name}")(*arguments)
        if status:
            raise RuntimeError(f"oneDNN's {name} failed with status {status}")


def _dims(values: Sequence[int]) -> Any:
    """Returns an array of type `dnnl_dims_t`."""
    return (c_int64 * _MOST_DIMENSIONS)(*values)


_loading = threading.Lock()


def _library() -> Library | None:
    """Returns oneDNN, with the target that XLA calls; None where it cannot be used."""
    with _loading:
        return _load()


@functools.cache
def _load() -> Library | None:
    try:
        files = importlib.metadata.files(_PACKAGE) or ()
        path = next(file.locate() for file in files if file.name == _FILE)
        library = Library(ctypes.CDLL(str(path)))
        # JAX keeps a registration for later until its CPU has started, and could not
        # start at all if its calls had another form.
        jax.devices("cpu")
    except _NOT_THERE as error:
        _log.info(
            "without oneDNN XLA convolves, which is slower on a CPU with AVX-512 (%r)",
            error,
        )
        return None
    try:
        foreign.register(_TARGET, functools.partial(_convolve, library))
    except RuntimeError as error:
        _log.warning(
            "XLA convolves instead of oneDNN, which is slower on a CPU with AVX-512: "
            "this jaxlib calls functions in another way than is known here (%s)",
            error,
        )
        return None
    return library


@functools.cache
def is_faster() -> bool:
    """Returns True if oneDNN is installed, and convolves faster here than XLA."""
    library = _library()
    return library is not None and library.has_avx512()


@functools.cache
def computes_in(dtype: Any) -> bool:
    """Returns True if this module has convolutions of a dtype on this machine."""
    library, name = _library(), jnp.dtype(dtype).name
    return (
        library is not None
        and name in _DTYPE_NAMES
        and library.computes_in(_DTYPE_NAMES[name])
    )


def _convolve(
    library: Library,
    arguments: Sequence[foreign.Buffer],
    results: Sequence[foreign.Buffer],
    integers: Sequence[int],
) -> None:
    """Convolves; XLA calls this."""
    kind, rows, columns, top, bottom, left, right = integers
    geometry = Geometry((rows, columns), ((top, bottom), (left, right)))
    first, second, result = *arguments, *results
    arrays = {
        _FORWARD: (first, second, result),
        _INPUT_GRADIENT: (result, first, second),
        _KERNEL_GRADIENT: (first, result, second),
    }[kind]
    library.convolve(kind, geometry, arrays)


def convolve(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Convolves (batch, rows, columns, in) with a kernel (rows, columns, in, out).

    For functions that are compiled for the CPU, in a dtype of `computes_in`.
    """
    size = [
        (length + sum(pads) - window) // stride + 1
        for length, pads, window, stride in zip(
            x.shape[1:3], geometry.padding, kernel.shape, geometry.strides, strict=False
        )
    ]
    shape = (x.shape[0], *size, kernel.shape[3])
    return _call(_FORWARD, geometry, shape, x.dtype, x, kernel)


def gradients(
    x: Array, kernel: Array, gradient: Array, geometry: Geometry
) -> tuple[Array, Array]:
    """Returns the gradients by `x` and by `kernel` from the one by the result."""
    of_x = _call(_INPUT_GRADIENT, geometry, x.shape, x.dtype, kernel, gradient)
    of_kernel = _call(
        _KERNEL_GRADIENT, geometry, kernel.shape, jnp.float32, x, gradient
    )
    return of_x, of_kernel.astype(kernel.dtype)


def _call(
    kind: int, geometry: Geometry, shape: Shape, dtype: Any, *arrays: Array
) -> Array:
    integers = (kind, *geometry.strides, *itertools.chain(*geometry.padding))
    call = jax.ffi.ffi_call(
        _TARGET, jax.ShapeDtypeStruct(shape, dtype), vmap_method="sequential"
    )
    result: Array = call(*arrays, integers=np.array(integers, np.int64))
    return result
