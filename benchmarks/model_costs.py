"""What the paper's whole-image models cost: parameters, arithmetic, memory.

  python -m benchmarks.model_costs --readme=README.md

Every whole-image model of the paper's Tables 2 and 3 at 1152x896, with its own
configuration (float32, a batch of 2 as two microbatches of 1), and the preset
`full_resolution` at 4608x3584. The memory is that of the second stage's whole train
step, which trains all layers with Adam, compiled for a CUDA card of 8 GB;
benchmarks/cuda_target.py says what it needs for that and what it leaves out. The
arithmetic is that of the forward pass of one image by XLA's count, a multiplication
and an addition being two operations. GB are 10^9 bytes.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from clu import parameter_overview
from flax import nnx
from ml_collections import ConfigDict

from benchmarks import cuda_target
from benchmarks.train_steps import abstract_step
from mammo_jax.config import apply_preset, whole_config
from mammo_jax.errors import UserError, run_command
from mammo_jax.models import TOPS, build_model, variables
from mammo_jax.progress import progress

_VGG = ("vgg_512x3", "vgg_512x1", "vgg_256-128x3", "vgg_256-128x1", "vgg_128-64x1")
_RESIDUAL = tuple(name for name in TOPS if name.startswith("residual_"))
_HEATMAP = tuple(name for name in TOPS if name.startswith("heatmap_"))
HYBRID = "residual_512-512-1024x2"

# trunk: the tops that the paper put on it (Tables 2 and 3).
PAPER_MODELS = {
    "resnet50": (*_RESIDUAL, *_HEATMAP),
    "vgg16": (*_VGG, HYBRID, *_HEATMAP),
    "vgg19": ("vgg_512x1", "vgg_128-64x1"),
}
FULL_RESOLUTION_MODELS = {"resnet50": (HYBRID,), "vgg16": ("vgg_512x1", HYBRID)}

COLUMNS = (
    "trunk",
    "top",
    "image",
    "parameters, millions",
    "forward pass, GFLOP/image",
    "peak training memory, GB",
)
_MARKERS = ("<!-- model costs -->\n", "<!-- end of model costs -->\n")


def model_config(trunk: str, top: str, preset: str = "paper") -> ConfigDict:
    """The configuration of a run of one of the paper's whole-image models."""
    config = apply_preset(whole_config(), preset)
    config.model.trunk = trunk
    config.model.top.update(TOPS[top])
    return config


def count_parameters(config: ConfigDict) -> int:
    """Of the model, batch normalisation's statistics not counted."""
    model = nnx.eval_shape(lambda: build_model(config.model, nnx.Rngs(0)))
    return parameter_overview.count_parameters(variables.split(model)[1])


def forward_flops(config: ConfigDict) -> float:
    """Floating-point operations of the forward pass of one image."""
    plain = config.model.copy_and_resolve_references()
    plain.remat = False  # XLA counts the body of a loop over bands once.
    model = nnx.eval_shape(lambda: build_model(plain, nnx.Rngs(0)))
    graphdef, params, stats = variables.split(model)

    def forward(params, stats, images):
        return variables.merge(graphdef, params, stats)(images, train=False)

    images = jax.ShapeDtypeStruct((1, *plain.image_size, 3), jnp.float32)
    return jax.jit(forward).lower(params, stats, images).cost_analysis()["flops"]


def training_bytes(config: ConfigDict) -> int:
    """Peak memory of the train step of all layers, for a CUDA card."""
    step = abstract_step(config, "stage2")
    return cuda_target.peak_bytes(cuda_target.compile_for_cuda(*step))


def rows() -> Iterator[tuple[str, ...]]:
    """A row of the table for each model."""
    named = [
        (trunk, top, preset)
        for preset, models in (
            ("paper", PAPER_MODELS),
            ("full_resolution", FULL_RESOLUTION_MODELS),
        )
        for trunk, tops in models.items()
        for top in tops
    ]
    for trunk, top, preset in progress(named, "models", unit="model"):
        config = model_config(trunk, top, preset)
        yield (
            trunk,
            top.replace("_", " "),
            "x".join(map(str, config.model.image_size)),
            f"{count_parameters(config) / 1e6:.1f}",
            f"{forward_flops(config) / 1e9:.0f}",
            f"{training_bytes(config) / 1e9:.2f}",
        )


def write_between_markers(path: Path, table: str) -> None:
    """Replaces what is between the markers of a file.

    Raises:
      UserError: the file has no such markers.
    """
    text = path.read_text(encoding="utf-8")
    begin, end = _MARKERS
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise UserError(
            f"{path} has no lines {begin.strip()!r} and {end.strip()!r}; write them "
            "where the table is to be"
        )
    path.write_text(f"{before}{begin}{table}{end}{after}", encoding="utf-8")


def main() -> None:
    """Prints the table, and writes it into a file if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--readme", type=Path, help="write the table between the markers of this file"
    )
    readme = parser.parse_args().readme
    if not cuda_target.is_available():
        raise UserError(
            "the compiler for CUDA is not installed: pip install --no-deps "
            "--target=FOLDER jax-cuda12-plugin jax-cuda12-pjrt, then set "
            "PYTHONPATH=FOLDER"
        )
    header = [COLUMNS, ("---",) * 3 + ("---:",) * 3]
    lines = []
    for row in itertools.chain(header, rows()):
        lines.append(f"| {' | '.join(row)} |\n")
        print(lines[-1], end="", flush=True)
    if readme:
        write_between_markers(readme, "".join(lines))


if __name__ == "__main__":
    run_command(main)
