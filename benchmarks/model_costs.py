"""What the paper's whole-image models cost: parameters, arithmetic, memory.

  python -m benchmarks.model_costs --page=docs/performance.md

Every whole-image model of the paper's Tables 2 and 3 at 1152x896, and its best one with
the gentler stem, in float32 with a batch of 2, accumulated from two microbatches of 1
(`accum_steps=2`; not for a heatmap) and in one, as configured; and the preset
`full_resolution` at 4608x3584, which has one image a microbatch only. The memory is
that of the second stage's whole train step, which trains all layers with Adam, compiled
for two cards of 8 GB and an H100; benchmarks/cuda_target.py says what it needs for that
and what it leaves out. A model whose plan is over 6.44 GB, what JAX takes of 8 by
default, is an error, but for the gentler stem's. The arithmetic is that of the forward
pass of one image by XLA's count, a multiplication and an addition being two operations.
GB are 10^9 bytes.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from clu import parameter_overview
from ml_collections import ConfigDict

from benchmarks import cuda_target
from benchmarks.cuda_target import CARDS, MOST_BYTES
from benchmarks.pages import write_between_markers
from benchmarks.train_steps import abstract_step, count_flops
from mammo_jax.common.errors import UserError, run_command
from mammo_jax.common.progress import progress
from mammo_jax.config import apply_preset, set_top, whole_config
from mammo_jax.models import TOPS, abstract_model, read_model_config, variables
from mammo_jax.models.compiling import peak_bytes

_VGG = ("vgg_512x3", "vgg_512x1", "vgg_256-128x3", "vgg_256-128x1", "vgg_128-64x1")
_RESIDUAL = tuple(name for name in TOPS if name.startswith("residual_"))
_HEATMAP = tuple(name for name in TOPS if name.startswith("heatmap_"))
HYBRID = "residual_512-512-1024x2"

# Trunk, top, preset and stem of every row: of Tables 2 and 3, and beyond the paper.
MODELS = (
    *(("resnet50", top, "paper", "standard") for top in (*_RESIDUAL, *_HEATMAP)),
    *(("vgg16", top, "paper", "standard") for top in (*_VGG, HYBRID, *_HEATMAP)),
    *(("vgg19", top, "paper", "standard") for top in ("vgg_512x1", "vgg_128-64x1")),
    ("resnet50", HYBRID, "paper", "gentle"),
    ("resnet50", HYBRID, "full_resolution", "standard"),
    ("vgg16", "vgg_512x1", "full_resolution", "standard"),
    ("vgg16", HYBRID, "full_resolution", "standard"),
)

COLUMNS = (
    "trunk",
    "top",
    "image",
    "parameters, millions",
    "forward pass, GFLOP/image",
    "training memory, accumulated, GB",
    *(f"as configured, {card}" for card in CARDS),
)


def model_config(
    trunk: str, top: str, preset: str = "paper", stem: str = "standard"
) -> ConfigDict:
    """The configuration of a run of one of the paper's whole-image models."""
    config = apply_preset(whole_config(), preset)
    config.model.trunk, config.model.stem = trunk, stem
    set_top(config, top)
    return config


def count_parameters(config: ConfigDict) -> int:
    """Of the model, batch normalisation's statistics not counted."""
    model = abstract_model(read_model_config(config.model))
    return parameter_overview.count_parameters(variables.split(model)[1])


def forward_flops(config: ConfigDict) -> float:
    """Floating-point operations of the forward pass of one image."""
    # XLA counts the body of a loop over bands once.
    plain = dataclasses.replace(read_model_config(config.model), remat=False)
    model = abstract_model(plain)
    graphdef, params, stats = variables.split(model)

    def forward(params, stats, images):
        return variables.merge(graphdef, params, stats)(images, train=False)

    images = jax.ShapeDtypeStruct((1, *plain.image_size, 3), jnp.float32)
    return count_flops(jax.jit(forward), params, stats, images)


def training_bytes(config: ConfigDict, card: str = cuda_target.CARD) -> int:
    """Peak memory of the train step of all layers, for a CUDA card."""
    step = abstract_step(config, "stage2", cuda_target.mesh(card))
    return peak_bytes(cuda_target.compile_for_cuda(*step, card=card))


class Costs(NamedTuple):
    """A row of the table.

    Attributes:
      trunk: of the model.
      top: likewise.
      image_size: height and width.
      parameters: how many.
      flops: of the forward pass of one image.
      peak_bytes: of training with one image a microbatch on the first card; None where
        that is not possible.
      by_card: of training as configured, on every card.
      must_fit: False if it may need a larger card, or more microbatches.
    """

    trunk: str
    top: str
    image_size: tuple[int, int]
    parameters: int
    flops: float
    peak_bytes: int | None
    by_card: Sequence[int]
    must_fit: bool = True

    def cells(self) -> tuple[str, ...]:
        """As the table has it."""
        return (
            self.trunk,
            self.top.replace("_", " "),
            "x".join(map(str, self.image_size)),
            f"{self.parameters / 1e6:.1f}",
            f"{self.flops / 1e9:.0f}",
            *(f"{x / 1e9:.2f}" if x else "-" for x in (self.peak_bytes, *self.by_card)),
        )

    def is_too_large(self) -> bool:
        """Whether it does not fit what JAX takes of a card of 8 GB."""
        return self.must_fit and max(self.by_card) > MOST_BYTES


def measure(trunk: str, top: str, preset: str, stem: str) -> Costs:
    """Compiles one model's steps."""
    config = model_config(trunk, top, preset, stem)
    accumulated = config.copy_and_resolve_references()
    accumulated.accum_steps = config.batch_size
    return Costs(
        trunk if stem == "standard" else f"{trunk}, {stem} stem",
        top,
        tuple(config.model.image_size),
        count_parameters(config),
        forward_flops(config),
        None if config.model.top.kind == "heatmap" else training_bytes(accumulated),
        [training_bytes(config, card) for card in CARDS.values()],
        must_fit=stem == "standard",
    )


def measure_all() -> Iterator[Costs]:
    """Every model of the table."""
    for model in progress(MODELS, "models", unit="model"):
        yield measure(*model)


def print_table(costs: Iterable[Costs], page: Path | None) -> None:
    """Prints the table as it grows, and writes it into a file if there is one.

    Raises:
      UserError: models do not fit the card, or the file has no markers.
    """
    lines = []
    too_large = []

    def add(cells: Sequence[str]) -> None:
        lines.append(f"| {' | '.join(cells)} |\n")
        print(lines[-1], end="", flush=True)

    add(COLUMNS)
    add(("---",) * 3 + ("---:",) * (len(COLUMNS) - 3))
    for row in costs:
        add(row.cells())
        if row.is_too_large():
            too_large.append(f"{row.trunk} {row.top}")
    if page:
        write_between_markers(page, "model costs", "".join(lines))
    if too_large:
        raise UserError(
            f"these models need more than {MOST_BYTES / 1e9:g} GB: "
            f"{', '.join(too_large)}"
        )


def main() -> None:
    """Prints the table, and writes it into a file if asked to."""
    page = cuda_target.parse_page(__doc__, "model costs")
    print_table(measure_all(), page)


if __name__ == "__main__":
    run_command(main)
