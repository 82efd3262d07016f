"""The same step on a mesh of devices: the same gradients, losses and statistics."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from mammo_jax.common import devices

REPOSITORY = Path(__file__).parents[2]
# Simulated devices must be asked for before JAX starts, so in a process of their own.
PROGRAM = """
import json, sys
import jax, numpy as np, optax
from flax import nnx
from mammo_jax.models import build_model, default_model_config
from mammo_jax.models import read_model_config, variables
from mammo_jax.common import devices
from mammo_jax.training import step
from mammo_jax.training.optimizer import Optimizer
from mammo_jax.training.state import EpochMetrics, TrainState

trunk, meshes = sys.argv[1], json.loads(sys.argv[2])
config = default_model_config()
config.trunk, config.width, config.top.blocks = trunk, 1 / 16, ("4-4-8x1",)
graphdef, params, stats = variables.split(build_model(read_model_config(config), 0))
rng = np.random.default_rng(0)
batch = {
    "image": rng.integers(0, 65536, (2, 4, 128, 64), dtype=np.uint16),
    "label": rng.integers(0, 2, (2, 4)).astype(np.int32),
    "channel_shift": rng.uniform(-20, 20, (2, 4, 3)).astype(np.float32),
}
# Plain gradient descent: Adam makes rounding errors of a zero gradient as large as
# a true gradient.
optimizer = Optimizer(frozenset(params), optax.sgd(1.0))
options = step.StepOptions(2, 40.0, unroll=True)

def run(data, spatial):
    mesh = devices.make_mesh(data, spatial)
    state = TrainState(params, stats, optimizer.init(params), EpochMetrics.empty())
    train_step = jax.jit(
        step.build_train_step(graphdef, optimizer, options, mesh),
        out_shardings=devices.replicated(mesh),
    )
    state, loss = train_step(
        devices.put_replicated(mesh, state), devices.put_batch(mesh, batch, leading=1)
    )
    moves = {name: np.asarray(state.params[name]) - params[name] for name in params}
    return float(loss), moves, jax.tree.map(np.asarray, state.batch_stats)

alone = run(1, 1)
# Every gradient is compared with the largest of its layer, but the biases before batch
# normalisation, which have none: what rounding leaves of them, with the largest of all.
largest = max(np.abs(move).max() for move in alone[1].values())
report = []
for data, spatial in meshes:
    loss, moves, statistics = run(data, spatial)
    report.append({
        "loss": abs(loss / alone[0] - 1),
        "gradient": max(
            float(np.abs(moves[n] - alone[1][n]).max())
            / max(float(np.abs(alone[1][n]).max()), 1e-2 * float(largest))
            for n in moves
        ),
        "statistics": max(
            float(np.abs(statistics[n] - alone[2][n]).max())
            / float(np.abs(alone[2][n]).max())
            for n in stats
        ),
    })
print(json.dumps(report))
"""


@functools.cache
def _differences(trunk: str) -> dict[tuple[int, int], dict[str, float]]:
    meshes = [(4, 1), (1, 4), (2, 2)]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, trunk, json.dumps(meshes)],
        cwd=REPOSITORY,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return dict(zip(meshes, json.loads(result.stdout), strict=True))


@pytest.mark.slow
def test_images_spread_over_devices_give_the_same_step():
    difference = _differences("vgg16")[4, 1]
    assert difference["loss"] <= 1e-5
    assert difference["statistics"] <= 1e-5
    assert difference["gradient"] <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(1, 4), (2, 2)])
def test_rows_of_an_image_spread_over_devices_give_the_same_step(mesh):
    difference = _differences("vgg16")[mesh]
    assert difference["loss"] <= 1e-4
    assert difference["statistics"] <= 1e-4
    assert difference["gradient"] <= 1e-3


MOVES = """
import re
import jax, jax.numpy as jnp
from mammo_jax.common import devices
from mammo_jax.models.network_input import network_input

mesh = devices.make_mesh(1, 2)
shapes = {"image": ((2, 64, 48), jnp.uint16), "channel_shift": ((2, 3), jnp.float32)}
batch = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
arguments = devices.abstract_batch(mesh, batch, leading=0).values()
step = jax.jit(lambda images, shifts: network_input(images, 40.0, shifts))
program = step.lower(*arguments).compile().as_text()
print(*re.findall(r" (all-[a-z]+|collective-permute|reduce-scatter)\\(", program))
"""


def test_rows_that_are_spread_over_devices_stay_there_until_the_network():
    result = subprocess.run(
        [sys.executable, "-c", MOVES],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    # Of the least and the greatest value.
    assert result.stdout.split() == ["all-reduce"] * 2


STEP = """
import re, sys
import jax, jax.numpy as jnp
from mammo_jax.common import devices
from mammo_jax.models import build_model, read_model_config
from mammo_jax.training.stage_step import make_train_step

fields = {"width": 0.0625, "image_size": (128, 96), "top": {"blocks": ("4-4-8x1",)}}
fields["batch_norm_per_device"] = sys.argv[1] == "True"
mesh = devices.make_mesh(4, 1)
network = build_model(read_model_config(fields), 0)
step, state = make_train_step(network, stages="whole", stage="stage2", mesh=mesh)
shapes = {"image": (128, 96), "channel_shift": (3,), "label": ()}
dtypes = (jnp.uint16, jnp.float32, jnp.int32)
batch = {
    name: jax.ShapeDtypeStruct((1, 8, *shape), dtype)
    for (name, shape), dtype in zip(shapes.items(), dtypes)
}
batch = devices.abstract_batch(mesh, batch, leading=1)
program = step.lower(devices.abstract(mesh, state), batch).compile().as_text()
print(len(re.findall(r" all-reduce(?:-start)?\\(", program)))
"""


@pytest.mark.slow
def test_normalising_per_device_spares_an_exchange_in_every_layer():
    of_all, of_each = (
        int(
            subprocess.run(
                [sys.executable, "-c", STEP, str(per_device)],
                env={**os.environ, "JAX_NUM_CPU_DEVICES": "4"},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for per_device in (False, True)
    )
    print(f"all-reduces: {of_all}, per device {of_each}")
    assert of_all > 100
    assert of_each <= 7


START = "from mammo_jax.common.devices import start_devices; start_devices()"


def start(**environment: object) -> subprocess.CompletedProcess[str]:
    """Starts JAX's devices in a process with an environment of its own."""
    names = {name: str(value) for name, value in environment.items()}
    return subprocess.run(
        [sys.executable, "-c", START],
        cwd=REPOSITORY,
        env={k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"} | names,
        capture_output=True,
        text=True,
        check=False,
    )


def test_devices_that_are_not_there_are_refused():
    done = start(JAX_PLATFORMS="gpu_of_tomorrow")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "UserError: JAX finds no device for JAX_PLATFORMS=gpu_of_tomorrow" in last
    assert "'gpu_of_tomorrow' is not in the list" in last


def test_a_plugin_that_does_not_fit_the_driver_is_one_line(tmp_path):
    plugin = tmp_path / "jax_plugins" / "xla_cuda99" / "__init__.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(
        "def initialize():\n    raise RuntimeError('CUDA too old.\\nInstalled: 7')\n"
    )
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = start(PYTHONPATH=os.pathsep.join(paths))
    assert done.returncode == 0
    (line,) = (x for x in done.stderr.splitlines() if "CUDA too old" in x)
    assert "a CPU computes (CUDA too old.; Installed: 7); an NVIDIA GPU needs" in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("capability", "is_said"),
    [("7.5", True), ("8.0", False), ("10.0", False), ("gfx90a", False)],
)
def test_a_card_without_tf32_and_bfloat16_is_said(
    monkeypatch, caplog, capability, is_said
):
    card = SimpleNamespace(compute_capability=capability, device_kind="Tesla T4")
    monkeypatch.setattr(jax, "local_devices", lambda: [card])
    devices.warn_of_old_card()
    assert (f"Tesla T4 (compute capability {capability})" in caplog.text) == is_said
    assert ("has no units" in caplog.text) == is_said
