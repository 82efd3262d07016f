"""Python functions that XLA calls through its foreign function interface.

The structures are those of XLA's header xla/ffi/api/c_api.h. A call passes pointers,
so nothing is copied, and costs some ten microseconds; unlike `jax.pure_callback`, what
calls it can be kept in the compile cache, since a target is found by its name.
"""

import atexit
import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p
from typing import Any, NamedTuple

import jax

FLOAT32, BFLOAT16 = 11, 16
_API_VERSION = (0, 3)
_METADATA, _EXECUTE, _INTERNAL_ERROR = 1, 3, 13


class Buffer(NamedTuple):
    """An array that XLA passes."""

    dtype: int  # `FLOAT32` or `BFLOAT16`
    address: int  # of its first element
    shape: tuple[int, ...]  # as in JAX; dense, the last dimension fastest


# It gets the arguments, the results, and the integers of the one attribute.
Function = Callable[[Sequence[Buffer], Sequence[Buffer], Sequence[int]], None]


class _Structure(ctypes.Structure):
    """Structure of XLA's, which begins with its size and its extensions."""


_HEAD = (("struct_size", c_size_t), ("extension_start", c_void_p))


class _Buffer(_Structure):
    _fields_ = (
        *_HEAD,
        ("dtype", c_int),
        ("data", c_void_p),
        ("rank", c_int64),
        ("dims", POINTER(c_int64)),
    )


class _Buffers(_Structure):
    _fields_ = (
        *_HEAD,
        ("size", c_int64),
        ("types", c_void_p),
        ("items", POINTER(POINTER(_Buffer))),
    )


class _Integers(ctypes.Structure):
    _fields_ = (("dtype", c_int), ("size", c_size_t), ("data", POINTER(c_int64)))


class _Attributes(_Structure):
    _fields_ = (
        *_HEAD,
        ("size", c_int64),
        ("types", c_void_p),
        ("names", c_void_p),
        ("items", POINTER(POINTER(_Integers))),
    )


class _ErrorArguments(_Structure):
    _fields_ = (*_HEAD, ("message", c_char_p), ("code", c_int))


class _Version(_Structure):
    _fields_ = (*_HEAD, ("major", c_int), ("minor", c_int))


class _Metadata(ctypes.Structure):
    _fields_ = (("struct_size", c_size_t), ("version", _Version), ("traits", c_int32))


class _Extension(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("type", c_int),
        ("next", c_void_p),
        ("metadata", POINTER(_Metadata)),
    )


class _Api(_Structure):
    _fields_ = (
        *_HEAD,
        ("version", _Version),
        ("internal", c_void_p),
        ("create_error", ctypes.CFUNCTYPE(c_void_p, POINTER(_ErrorArguments))),
    )


class _Frame(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("extension_start", POINTER(_Extension)),
        ("api", POINTER(_Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    )


_Handler = ctypes.CFUNCTYPE(c_void_p, POINTER(_Frame))
# XLA keeps the addresses of handlers, so they must live as long as the process.
_handlers: list[object] = []


def register(name: str, function: Function) -> None:
    """Makes `function` the target `name` of `jax.ffi.ffi_call` on the CPU.

    It is called with one attribute, an array of integers, from any thread, also from
    several at once. An exception becomes the error of the compiled function.

    Raises:
      RuntimeError: the calls of this jaxlib have another form. Where JAX has not
        started yet, that is found when it starts, which then fails.
    """

    def handle(frame_pointer: Any) -> Any:
        try:
            frame = frame_pointer.contents
            extension = frame.extension_start
            if extension and extension.contents.type == _METADATA:
                version = extension.contents.metadata.contents.version
                version.major, version.minor = _API_VERSION
            elif frame.struct_size < ctypes.sizeof(_Frame):
                raise RuntimeError("XLA's calls have another form than is known here")
            elif frame.stage == _EXECUTE:
                integers = frame.attributes.items[0].contents
                function(
                    _buffers(frame.arguments),
                    _buffers(frame.results),
                    integers.data[: integers.size],
                )
        except BaseException as error:  # An exception that leaves a callback is lost.
            arguments = _ErrorArguments(
                ctypes.sizeof(_ErrorArguments),
                None,
                f"{type(error).__name__}: {error}".encode(errors="backslashreplace"),
                _INTERNAL_ERROR,
            )
            return frame.api.contents.create_error(ctypes.byref(arguments))
        return None

    handler = _Handler(handle)
    _handlers.append(handler)
    capsule = jax.ffi.pycapsule(ctypes.cast(handler, c_void_p))
    jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    # Registered after JAX's own, so it runs before that.
    atexit.register(_wait)


def _wait() -> None:
    """Blocks until no running program can call back into Python.

    Without it, the end of Python would wait for the programs that run, and these for
    Python. Programs of one thread run one after the other, so one more is started, and
    its end is waited for.
    """
    try:
        (processor, *_) = jax.devices("cpu")
    except (RuntimeError, AssertionError):
        return  # JAX has GPUs only (JAX_PLATFORMS=cuda), or did not start.
    with jax.default_device(processor):
        jax.block_until_ready(jax.jit(lambda x: x + 1)(0))


def _buffers(buffers: _Buffers) -> list[Buffer]:
    found = [buffers.items[index].contents for index in range(buffers.size)]
    return [Buffer(b.dtype, b.data, tuple(b.dims[: b.rank])) for b in found]
