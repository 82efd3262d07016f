"""What is said where a device has too little memory."""

import jax
import jax.numpy as jnp
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.models.compiling import explained_memory, gpu_options, peak_bytes

# As XLA says it on a GPU, at compiling and at running.
_MESSAGE = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7.41GiB."
    " [tf-allocator-allocation-error='']"
)


def test_too_little_memory_names_the_plan_and_the_settings_that_help():
    size = 1 << 20
    compiled = jax.jit(lambda x: x @ x.T).lower(jnp.zeros((size, 4)).T).compile()
    # The argument alone is that large.
    assert peak_bytes(compiled) >= 16 * size
    planned = f"(planned: {peak_bytes(compiled) / 1e9:.1f} GB)"
    for step, plan in ((compiled, planned), (None, "for a step;")):
        with pytest.raises(UserError) as caught, explained_memory(step):
            raise jax.errors.JaxRuntimeError(_MESSAGE)
        (line,) = str(caught.value).splitlines()
        assert plan in line
        assert line.index("accum_steps=2") < line.index("remat=True")


def test_other_errors_of_a_device_are_not_called_memory():
    with pytest.raises(jax.errors.JaxRuntimeError), explained_memory(None):
        raise jax.errors.JaxRuntimeError("INTERNAL: ptxas exited with 1")


@pytest.mark.parametrize(
    ("capability", "alone", "channels_last", "moves"),
    [
        ("8.6", True, True, False),
        ("9.0", True, False, False),
        ("8.0", False, True, True),
        ("gfx90a", True, False, False),
        ("", True, False, False),
    ],
)
def test_a_card_gets_the_options_of_its_capability(
    capability, alone, channels_last, moves
):
    options = gpu_options(capability, alone=alone)
    assert options.get("xla_gpu_force_conv_nhwc", False) == channels_last
    assert options.get("xla_gpu_enable_latency_hiding_scheduler", True) == moves
