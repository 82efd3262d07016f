"""What a GPU is given to do: kernels and bytes of its programs, without a card.

  PYTHONPATH=FOLDER JAX_PLATFORMS=cpu \
    python -m benchmarks.gpu_programs --page=docs/performance.md

Of the train step of all layers, and of the scoring of images as `predict` does it:
kernels that a call launches; bytes that these read and write, each operand and result
once; memory as XLA plans it. benchmarks/cuda_target.py says what FOLDER must hold. A
program is counted twice, as it is now, and without what this project does about it:
kernels' layout is left to JAX, bfloat16 is cast in every microbatch, and normalisation
is not folded for scoring. GB are 10^9 bytes.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

import jax
from ml_collections import ConfigDict

from benchmarks import cuda_target
from benchmarks.model_costs import HYBRID, model_config
from benchmarks.pages import write_between_markers
from benchmarks.train_steps import abstract_step
from mammo_jax.common import devices
from mammo_jax.common.errors import run_command
from mammo_jax.common.progress import progress
from mammo_jax.config import patch_config
from mammo_jax.models import build_model, class_map, flips, read_model_config, variables
from mammo_jax.models.compiling import peak_bytes
from mammo_jax.models.folding import fold
from mammo_jax.training import step

MARKER = "GPU programs"
# Instructions that launch nothing.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("while", "call", "conditional"),
}
_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
_INSTRUCTION = re.compile(
    r"^  (?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\(([^)]*)\)(.*)$"
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|to_apply)=%([^\s,]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Work(NamedTuple):
    """What a call of a program does.

    Attributes:
      kernels: how many it launches.
      moved: bytes that they read and write.
      planned: bytes of memory while it runs.
    """

    kernels: int
    moved: int
    planned: int


class _Instruction(NamedTuple):
    name: str
    type: str
    operation: str
    operands: list[str]
    rest: str


def _read_computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Reads a program; returns its computations and the name of the entry's."""
    computations: dict[str, list[_Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif found := _INSTRUCTION.match(line):
            name, kind, operation, operands, rest = found.groups()
            names = re.findall(r"%([^\s,]+)", operands)
            computations[current].append(
                _Instruction(name, kind, operation, names, rest)
            )
    return computations, entry


def _bytes_of(kind: str) -> int:
    """Bytes of the arrays of a type, without the scratch of convolutions (u8)."""
    total = 0
    for dtype, shape in _ARRAY.findall(kind):
        bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
        size = 0 if dtype == "u8" else max(bits // 8, 1)
        for side in filter(None, shape.split(",")):
            size *= int(side)
        total += size
    return total


def _walk(text: str) -> Iterator[tuple[int, _Instruction, list[int]]]:
    """Yields how often an instruction runs, the instruction, its operands' bytes."""
    computations, entry = _read_computations(text)
    todo = [(1, entry)]
    while todo:
        times, name = todo.pop()
        sizes = {each.name: _bytes_of(each.type) for each in computations[name]}
        for each in computations[name]:
            if each.operation in ("while", "call"):
                trips, called = _TRIPS.search(each.rest), _CALLED.search(each.rest)
                if called:
                    todo.append((times * (int(trips[1]) if trips else 1), called[1]))
            elif each.operation not in _FREE:
                yield times, each, [sizes.get(x, 0) for x in each.operands]


def count_work(text: str) -> tuple[int, int]:
    """Kernels that a compiled program launches, and bytes that they read and write.

    Args:
      text: of the program; the body of a loop counts as often as it runs.
    """
    kernels = moved = 0
    for times, each, read in _walk(text):
        kernels += times
        moved += times * (_bytes_of(each.type) + sum(read))
    return kernels, moved


def list_exchanges(text: str) -> list[int]:
    """Bytes that a device gives into each all-reduce of a compiled program."""
    return [
        sum(given)
        for times, each, given in _walk(text)
        for _ in range(times)
        if each.operation in ("all-reduce", "all-reduce-start")
    ]


def training_config(trunk: str, task: str, dtype: str, cuts: int) -> ConfigDict:
    """The configuration of a run, of the paper's sizes."""
    if task == "patch":
        config = patch_config()
        config.model.trunk, config.model.image_size = trunk, (224, 224)
    else:
        config = model_config(trunk, HYBRID if trunk == "resnet50" else "vgg_512x1")
    config.model.compute_dtype, config.accum_steps = dtype, cuts
    return config


def _training(config: ConfigDict, card: str) -> jax.stages.Compiled:
    stage = [*config.stages][-1]
    train_step = abstract_step(config, stage, cuda_target.mesh(card))
    return cuda_target.compile_for_cuda(*train_step, card=card)


def scoring(config: ConfigDict, card: str, *, folded: bool) -> jax.stages.Compiled:
    """The program that scores two images as `predict` does."""
    graphdef, params, stats = variables.split(
        build_model(read_model_config(config.model), 0)
    )
    if folded and config.model.compute_dtype == "float32":
        graphdef, params = fold(graphdef, params, stats)
    else:
        params |= stats
    function = class_map.make_class_map_step(
        graphdef,
        window=None,
        pixel_mean=0.0,
        malignant_classes=(1,),
        flips=flips.NO_FLIP,
        at_once=False,
    )
    forms = devices.formats(params, devices.replicated(cuda_target.mesh(card)))
    laid = jax.tree.map(
        lambda x, form: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=form),
        params,
        forms,
    )
    images = jax.ShapeDtypeStruct((2, *config.model.image_size), "uint16")
    return cuda_target.compile_for_cuda(jax.jit(function), laid, {}, images, card=card)


@contextlib.contextmanager
def _as_jax_has_it() -> Iterator[None]:
    """Takes away what the project does about layouts and casts."""
    with (
        mock.patch.object(devices, "_is_of_gpus", return_value=False),
        mock.patch.object(step, "_cast_kernels", lambda params, dtype: params),
    ):
        yield


# Name, what `training_config` takes, and whether images are scored.
_PROGRAMS = {
    f"{'score' if scored else 'train'} {trunk}, {task}, {dtype}, {cuts} x {size}": (
        (trunk, task, dtype, cuts),
        scored,
    )
    for trunk, task, dtype, cuts, size, scored in (
        ("resnet50", "whole", "float32", 1, 2, False),
        ("resnet50", "whole", "bfloat16", 1, 2, False),
        ("resnet50", "whole", "float32", 2, 1, False),
        ("resnet50", "whole", "bfloat16", 2, 1, False),
        ("resnet50", "patch", "float32", 1, 32, False),
        ("resnet50", "patch", "bfloat16", 1, 32, False),
        ("vgg16", "whole", "float32", 1, 2, False),
        ("vgg16", "whole", "bfloat16", 1, 2, False),
        ("resnet50", "whole", "float32", 1, 2, True),
        ("resnet50", "whole", "bfloat16", 1, 2, True),
        ("vgg16", "whole", "float32", 1, 2, True),
    )
}


def measure(name: str, card: str) -> tuple[Work, Work]:
    """The work of a program without what is done about it, and now."""
    (trunk, task, dtype, cuts), scored = _PROGRAMS[name]
    config = training_config(trunk, task, dtype, cuts)

    def work(*, now: bool) -> Work:
        if scored:
            compiled = scoring(config, card, folded=now)
        else:
            compiled = _training(config, card)
        return Work(*count_work(compiled.as_text()), peak_bytes(compiled))

    with _as_jax_has_it():
        before = work(now=False)
    return before, work(now=True)


def table(found: Mapping[tuple[str, str], tuple[Work, Work]]) -> str:
    """The measurements as Markdown, by card and program."""
    lines = [
        "| card | program | kernels | GB moved | planned, GB |",
        "|---|---|---:|---:|---:|",
    ]
    for (card, name), pair in found.items():
        cells = [
            f"{before} -> {now}"
            for before, now in zip(*(_shown(work) for work in pair), strict=True)
        ]
        lines.append(f"| {card} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown(work: Work) -> tuple[str, str, str]:
    return str(work.kernels), f"{work.moved / 1e9:.2f}", f"{work.planned / 1e9:.2f}"


def main() -> None:
    """Prints the table, and writes it into a file if asked to."""
    page = cuda_target.parse_page(__doc__, MARKER)
    todo = [(card, name) for card in ("GeForce RTX 3070", "H100") for name in _PROGRAMS]
    found: dict[tuple[str, str], Any] = {}
    for card, name in progress(todo, "programs", unit="program"):
        found[card, name] = measure(name, cuda_target.CARDS[card])
    print(table(found), end="")
    if page:
        write_between_markers(page, MARKER, table(found))


if __name__ == "__main__":
    run_command(main)
