"""Convolution and its gradients against JAX's own."""

import concurrent.futures
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

from mammo_jax.cpu import foreign, onednn
from mammo_jax.cpu.convolution import convolve

NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.fixture
def onednn_convolves(monkeypatch):
    """Also on a processor where XLA is faster."""
    if not onednn.computes_in(jnp.float32):
        pytest.skip("oneDNN is not installed")
    monkeypatch.setattr(onednn, "is_faster", lambda: True)


@pytest.fixture
def xla_convolves(monkeypatch):
    monkeypatch.setattr(onednn, "is_faster", lambda: False)


@pytest.fixture(params=["onednn", "xla"])
def kernels(request):
    """Whose kernels convolve on the CPU."""
    request.getfixturevalue(f"{request.param}_convolves")
    return request.param


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="there is no such package",
)
def test_onednn_is_installed():
    assert onednn.computes_in(jnp.float32)


def plain(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC)


def normal(seed, *shape, dtype=jnp.float32):
    values = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values, dtype)


def value_and_gradients(function, x, kernel, strides, padding):
    y, pull = jax.vjp(lambda x, k: function(x, k, strides, padding), x, kernel)
    return (y, *pull(normal(3, *y.shape, dtype=y.dtype)))


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max())


@st.composite
def kernels_and_paddings(draw):
    """Kernel sizes, and paddings that leave something to see to every window."""
    size = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = tuple(tuple(draw(st.integers(0, k - 1)) for _ in "ab") for k in size)
    return size, draw(st.sampled_from(["SAME", "VALID", pads]))


@pytest.mark.usefixtures("kernels")
# The same examples every time: once in many runs XLA's compiler ended the process, and
# which of them it was could not be told.
@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel_and_padding=kernels_and_paddings(),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    batch=st.integers(1, 2),
)
def test_value_and_gradients_equal_those_of_jax(
    size, kernel_and_padding, strides, batch
):
    kernel_size, padding = kernel_and_padding
    x, kernel = normal(0, batch, *size, 2), normal(1, *kernel_size, 2, 3)
    found = value_and_gradients(convolve, x, kernel, strides, padding)
    expected = value_and_gradients(plain, x, kernel, strides, padding)
    assert_close(found, expected, 1e-5)


LAYERS = {
    "stem": ((2, 64, 48, 3), (7, 7, 3, 8), 2, "SAME"),
    "stem, padded": ((2, 64, 48, 3), (7, 7, 3, 8), 2, ((3, 3), (3, 3))),
    "3x3": ((2, 28, 20, 16), (3, 3, 16, 24), 1, "SAME"),
    "3x3, strided": ((2, 28, 20, 16), (3, 3, 16, 24), 2, ((1, 1), (1, 1))),
    "1x1": ((2, 28, 20, 16), (1, 1, 16, 24), 1, "VALID"),
    "1x1, strided": ((2, 28, 21, 16), (1, 1, 16, 24), 2, "VALID"),
    "1x1, its sum in parts": ((2, 64, 48, 16), (1, 1, 16, 24), 1, "VALID"),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)]
)
def test_layers_of_the_networks_equal_those_of_jax(kernels, layer, dtype, tolerance):
    if kernels == "onednn" and not onednn.computes_in(dtype):
        pytest.skip("oneDNN does not compute in it on this processor")
    shape, kernel_shape, stride, padding = LAYERS[layer]
    x = normal(0, *shape, dtype=dtype)
    kernel = normal(1, *kernel_shape, dtype=dtype)
    strides = (stride, stride)
    found = value_and_gradients(convolve, x, kernel, strides, padding)
    expected = value_and_gradients(plain, x, kernel, strides, padding)
    assert_close(found, expected, tolerance)


def loop_over_microbatches(function, x, kernel, strides, padding):
    def add(total, micro):
        value = jax.grad(lambda k: (function(micro, k, strides, padding) ** 2).sum())
        return total + value(kernel), None

    return lax.scan(add, jnp.zeros_like(kernel), x)[0]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layer", LAYERS)
def test_a_loop_over_microbatches_has_the_same_gradient(layer):
    shape, kernel_shape, stride, padding = LAYERS[layer]
    x, kernel = normal(0, 2, *shape), normal(1, *kernel_shape)
    found = loop_over_microbatches(convolve, x, kernel, (stride, stride), padding)
    expected = loop_over_microbatches(plain, x, kernel, (stride, stride), padding)
    assert_close([found], [expected], 1e-5)


def operations(platform, function, layer):
    """The convolutions and products that a platform's compiler is given."""
    shape, kernel_shape, stride, padding = LAYERS[layer]

    def loss(x, kernel):
        return (function(x, kernel, (stride, stride), padding) ** 2).sum()

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(
        jnp.zeros(shape), jnp.zeros(kernel_shape)
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    kinds = ("stablehlo.convolution", "stablehlo.dot_general")
    return sorted(
        line.split("=", 1)[1].split("(", 1)[1].split(",", 2)[-1]
        for line in text.splitlines()
        if any(kind in line for kind in kinds)
    )


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layer", LAYERS)
def test_a_gpu_gets_the_plain_convolution_and_its_gradients(layer):
    expected = operations("cuda", plain, layer)
    assert expected
    assert operations("cuda", convolve, layer) == expected


@pytest.mark.usefixtures("onednn_convolves")
@pytest.mark.parametrize("layer", LAYERS)
def test_onednn_does_all_of_a_convolution_and_its_gradients(layer):
    assert operations("cpu", convolve, layer) == []


@pytest.mark.usefixtures("onednn_convolves")
def test_it_can_be_recomputed_in_the_backward_pass():
    shape, kernel_shape, stride, padding = LAYERS["3x3, strided"]
    x, kernel = normal(0, *shape), normal(1, *kernel_shape)
    layer = functools.partial(convolve, strides=(stride, stride), padding=padding)
    found = jax.grad(lambda k: (jax.checkpoint(layer)(x, k) ** 2).sum())(kernel)
    expected = jax.grad(lambda k: (plain(x, k, (stride, stride), padding) ** 2).sum())(
        kernel
    )
    assert_close([found], [expected], 1e-5)


def lowered(function, *arguments):
    traced = jax.jit(function).trace(*arguments)
    # An abstract mesh does not say which platform it is on.
    return traced.lower(lowering_platforms=("cpu",)).as_text()


@pytest.mark.usefixtures("onednn_convolves")
def test_onednn_is_left_out_where_devices_share_an_image():
    x, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4, 4))
    call = functools.partial(convolve, strides=(1, 1), padding="SAME")
    assert "mammo_jax_onednn" in lowered(call, x, kernel)
    shared = jax.sharding.AbstractMesh((2,), ("spatial",))
    with jax.sharding.use_abstract_mesh(shared):
        assert "mammo_jax_onednn" not in lowered(call, x, kernel)


def test_negative_padding_crops():
    x, kernel = normal(0, 2, 8, 8, 4), normal(1, 3, 3, 4, 4)
    padding = ((-1, 0), (1, -2))
    found = value_and_gradients(convolve, x, kernel, (1, 1), padding)
    expected = value_and_gradients(plain, x, kernel, (1, 1), padding)
    assert_close(found, expected, 1e-5)


ENDINGS = {
    "an exit": ("sys.exit(3)", 3, ""),
    "an exit that keeps the result": ("kept = [run()]; sys.exit(3)", 3, ""),
    "an error": ("run(); raise ValueError('mistaken')", 1, "ValueError: mistaken"),
    "Ctrl-C": ("kept = run(); raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
}


@pytest.mark.usefixtures("onednn_convolves")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_can_end_while_a_step_runs(ending):
    statement, code, message = ENDINGS[ending]
    done = subprocess.run(
        [sys.executable, "-c", f"{RUNNING_STEP}\n{statement}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr


RUNNING_STEP = """
import sys
import jax
import jax.numpy as jnp
from mammo_jax.cpu import onednn
from mammo_jax.cpu.convolution import convolve

onednn.is_faster = lambda: True

@jax.jit
def step(x, kernel):
    for _ in range(15):
        x = convolve(x, kernel, (1, 1), "SAME")
    return x

arguments = jnp.ones((2, 128, 128, 64)), jnp.ones((3, 3, 64, 64)) / 576
compiled = step.lower(*arguments).compile()
run = lambda: compiled(*arguments)
run()
"""


@pytest.mark.usefixtures("onednn_convolves")
def test_what_onednn_refuses_is_an_error_of_the_program():
    geometry = onednn.Geometry((1, 1), ((0, 0), (0, 0)))

    def mistaken(x, kernel):
        call = onednn.convolve(x, kernel[..., :3, :], geometry)
        return call.block_until_ready()

    with pytest.raises(jax.errors.JaxRuntimeError, match="primitive_desc_create"):
        mistaken(jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 4, 4)))


def test_an_exception_in_python_is_an_error_of_the_program():
    def fail(arguments, results, integers):
        (x,), (y,) = arguments, results
        assert x.dtype == y.dtype == foreign.FLOAT32
        raise ValueError(f"{x.shape} {integers}")

    foreign.register("mammo_jax_test_fail", fail)
    call = jax.ffi.ffi_call(
        "mammo_jax_test_fail", jax.ShapeDtypeStruct((2, 3), jnp.float32)
    )
    with pytest.raises(
        jax.errors.JaxRuntimeError, match=r"ValueError: \(2, 3\) \[4, 5\]"
    ):
        jax.block_until_ready(
            jax.jit(lambda x: call(x, integers=np.array([4, 5])))(jnp.zeros((2, 3)))
        )


@pytest.mark.usefixtures("onednn_convolves")
def test_onednn_convolves_in_many_shapes_at_once():
    """Compiled functions run its convolutions from several threads."""
    shapes = [(1, 8 + n, 9, 4) for n in range(12)]
    kernel = normal(1, 3, 3, 4, 4)
    inputs = [normal(n, *shape) for n, shape in enumerate(shapes)]

    @jax.jit
    def all_of(inputs, kernel):
        return [convolve(x, kernel, (1, 1), "SAME") for x in inputs]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: all_of(inputs, kernel), range(8)))
    expected = [plain(x, kernel, (1, 1), "SAME") for x in inputs]
    for found in runs:
        assert_close(found, expected, 1e-5)


def test_an_interrupt_in_python_is_an_error_of_the_program():
    def fail(arguments, results, integers):
        raise KeyboardInterrupt

    foreign.register("mammo_jax_test_interrupt", fail)
    call = jax.ffi.ffi_call(
        "mammo_jax_test_interrupt", jax.ShapeDtypeStruct((2,), jnp.float32)
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="KeyboardInterrupt"):
        jax.block_until_ready(call(jnp.zeros(2), integers=np.array([0])))


def test_a_process_whose_jax_has_no_cpu_ends_without_complaint():
    program = """
from mammo_jax.cpu import foreign
foreign.register("mammo_jax_test_end", lambda *_: None)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_without_onednn_the_log_says_so(monkeypatch, caplog):
    def no_files(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "files", no_files)
    with caplog.at_level("INFO", "mammo_jax"):
        assert onednn._load.__wrapped__() is None
    assert "without oneDNN XLA convolves" in caplog.text
    assert "onednn-cpu-gomp" in caplog.text


OTHER_CALLS = """
import logging
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
from mammo_jax.cpu import foreign, onednn
from mammo_jax.cpu.convolution import convolve
foreign._API_VERSION = (9, 9)
onednn.Library.has_avx512 = lambda self: True
import jax, jax.numpy as jnp
for _ in range(2):
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((1, 1, 2, 3))
    print(jax.jit(lambda x, k: convolve(x, k, (1, 1), "SAME"))(x, kernel).sum())
"""


@pytest.mark.usefixtures("onednn_convolves")
def test_xla_convolves_where_jaxlib_s_calls_have_another_form():
    done = subprocess.run(
        [sys.executable, "-c", OTHER_CALLS], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["96.0", "96.0"]
    assert done.stderr.count("WARNING XLA convolves instead of oneDNN") == 1


@pytest.mark.usefixtures("onednn_convolves")
def test_many_convolutions_at_once_are_batched_one_by_one():
    x, kernel = normal(0, 3, 1, 6, 6, 2), normal(1, 3, 3, 2, 4)
    call = functools.partial(convolve, strides=(1, 1), padding="SAME")
    found = jax.vmap(call, (0, None))(x, kernel)
    expected = [plain(one, kernel, (1, 1), "SAME") for one in x]
    assert_close(found, expected, 1e-5)
