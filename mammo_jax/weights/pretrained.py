"""ImageNet weights: converted once to safetensors, then loaded into a trunk.

Input scaling. The published networks saw different inputs:

| weights | input |
|---|---|
| Keras (both ResNet50 wirings, VGG) | BGR, 0..255, less the mean of ImageNet |
| torchvision, timm, Hugging Face | RGB, (0..1 - mean) / std, std about 0.226 |

The paper fed neither: its three channels are one grey channel, 0..255, less the
mammograms' own mean (section 2.1), into Keras weights. Equal channels make RGB
and BGR the same, and another mean is a matter of the data. The scale is not: so
that every weight set meets the scale it was trained on, `load_trunk` divides
the first kernel by the std that the source's inputs were divided by. Files keep
the weights as published.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors

from mammo_jax.common.errors import UserError
from mammo_jax.models import variables
from mammo_jax.models.classifier import abstract_model
from mammo_jax.models.model_config import MAX_WIDTH, read_model_config
from mammo_jax.models.resnet import WIRINGS
from mammo_jax.weights.conversion import list_names, list_problems
from mammo_jax.weights.published import (
    PUBLISHED,
    Published,
    file_digest,
    verify_checksum,
)
from mammo_jax.weights.weight_files import read_weights, reading, write_weights
from mammo_jax.weights.weight_names import SCHEMES, Scheme, our_shape, to_our_layout

# Kernels at which a trunk's images enter, which take up the scale of the input.
_FIRST_KERNEL = {
    "resnet50": "trunk/conv1/kernel",
    "vgg16": "trunk/block1/conv1/kernel",
    "vgg19": "trunk/block1/conv1/kernel",
}
_FORMAT = "mammo_jax trunk 1"


@functools.cache
def trunk_shapes(
    architecture: str, wiring: str, width: float = 1.0
) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every variable of the trunk, by name."""
    fields = {"trunk": architecture, "width": width, "top": {"kind": "patch"}}
    if wiring:
        fields["wiring"] = wiring
    model = abstract_model(read_model_config(fields))
    _, params, stats = variables.split(model)
    return {
        name: tuple(value.shape)
        for name, value in (params | stats).items()
        if name.startswith("trunk/")
    }


def convert(
    architecture: str, weights: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], Scheme]:
    """Renames and lays out a library's weights as our trunk's.

    Args:
      architecture: "resnet50", "vgg16" or "vgg19".
      weights: every array of the file, by the library's names.

    Returns:
      Our names to float32 arrays, and the naming scheme that was recognised.

    Raises:
      UserError: the names are of no known scheme, or some are missing, unexpected,
        misshapen or not of a floating type; all of them are reported together.
    """
    scheme = _recognise(architecture, weights)
    shapes = trunk_shapes(architecture, scheme.wiring)
    sources = {name: scheme.rename(name) for name in shapes}
    found = {
        name: weights[source] for name, source in sources.items() if source in weights
    }
    missing = [source for source in sources.values() if source not in weights]
    known = set(sources.values())
    unexpected = [
        name
        for name in weights
        if name not in known and not re.fullmatch(scheme.ignored, name)
    ]
    misshapen = [
        f"{sources[name]} {our_shape(value, scheme)} for {shapes[name]}"
        for name, value in found.items()
        if our_shape(value, scheme) != shapes[name]
    ]
    mistyped = [
        f"{sources[name]} {value.dtype}"
        for name, value in found.items()
        if not _is_floating(value)
    ]
    problems = {
        "missing": sorted(missing),
        "unexpected": sorted(unexpected),
        "misshapen": sorted(misshapen),
        "of no floating type": sorted(mistyped),
    }
    if details := list_problems(problems, limit=20):
        raise UserError(f"not the weights of a {architecture}: {details}")
    with np.errstate(over="ignore"):  # of float64: what follows finds it
        converted = {name: to_our_layout(v, scheme) for name, v in found.items()}
    if not all(np.isfinite(value).all() for value in converted.values()):
        raise UserError(f"the weights of {architecture} are not all finite")
    return converted, scheme


def _is_floating(value: np.ndarray) -> bool:
    """Returns True if the values are floating-point numbers, also bfloat16."""
    return bool(jax.numpy.issubdtype(value.dtype, jax.numpy.floating))


def _recognise(architecture: str, weights: dict[str, np.ndarray]) -> Scheme:
    def hits(scheme: Scheme) -> int:
        shapes = trunk_shapes(architecture, scheme.wiring)
        return sum(scheme.rename(name) in weights for name in shapes)

    schemes = SCHEMES[architecture]
    best = max(schemes, key=hits)
    if not hits(best):
        expected = "; ".join(scheme.title for scheme in schemes)
        raise UserError(
            f"not the weights of a {architecture}: expected {expected}; found "
            f"{list_names(sorted(weights)) or 'nothing'}"
        )
    return best


def convert_file(
    architecture: str, source: Path, out: Path, published: Published | None = None
) -> dict[str, str]:
    """Converts a weight file and writes it with its provenance.

    Args:
      architecture: "resnet50", "vgg16" or "vgg19".
      source: see `weight_files.read_weights`.
      out: the safetensors file to write; replaced if it exists.
      published: what the file must be. None: if it has the name of published files,
        one of them.

    Returns:
      The metadata written: format, architecture, wiring, input_std, source
      file, its SHA-256, and the publisher's URL where known.

    Raises:
      UserError: the file cannot be read, does not fit, or is not what was
        published under its name.
    """
    # Before it is read: half a file is to be downloaded again, whatever its format.
    published = _verify_published(source, published)
    converted, scheme = convert(architecture, read_weights(source))
    metadata = {
        "format": _FORMAT,
        "architecture": architecture,
        "wiring": scheme.wiring,
        "input_std": json.dumps(scheme.input_std),
        "source": source.name,
        "source_sha256": file_digest(source, "sha256"),
        "published_at": published.url if published else "",
    }
    _write(out, converted, metadata)
    return metadata


def _verify_published(source: Path, published: Published | None) -> Published | None:
    """Returns the published file that `source` is; None if it has another name."""
    candidates = [p for p in PUBLISHED.values() if p.file_name == source.name]
    if published:
        candidates = [published]
    if not (candidates and source.is_file()):
        return None
    found = verify_checksum(source, *(p.checksum for p in candidates))
    return next(p for p in candidates if p.checksum == found)


def save_trunk(
    architecture: str,
    wiring: str,
    width: float,
    values: Mapping[str, Any],
    source: str,
    out: Path,
) -> None:
    """Writes a trunk that this program trained, for `load_trunk` to read.

    Args:
      architecture: "resnet50", "vgg16" or "vgg19".
      wiring: of ResNet50; not read for VGG.
      width: of the trunk.
      values: a model's variables; those of the trunk are written.
      source: what it was trained on, for the metadata.
      out: the safetensors file to write; replaced if it exists.
    """
    trunk = {n: np.asarray(v) for n, v in values.items() if n.startswith("trunk/")}
    metadata = {
        "format": _FORMAT,
        "architecture": architecture,
        "wiring": wiring if architecture == "resnet50" else "",
        "width": str(width),
        "input_std": json.dumps((1.0, 1.0, 1.0)),
        "source": source,
    }
    _write(out, trunk, metadata)


def _write(out: Path, values: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    write_weights(out, values, metadata)


def load_trunk(path: Path, architecture: str, wiring: str) -> dict[str, jax.Array]:
    """Reads a converted trunk for networks that see 0..255 less a mean.

    Args:
      path: a file that `convert_file` wrote.
      architecture: the trunk of the model that the weights are for.
      wiring: its wiring; not read for VGG.

    Returns:
      Name to array of every trunk parameter and statistic. The first kernel is
      divided by the source's input std; see the module's docstring.

    Raises:
      UserError: no such file, or one of another architecture or wiring.
    """
    if not path.is_file():
        raise UserError(
            f"there is no weight file {path}; scripts/convert_weights.py makes it"
        )
    with (
        reading(path, "safetensors file"),
        safetensors.safe_open(path, framework="numpy") as file,
    ):
        metadata = file.metadata() or {}
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("format") != _FORMAT:
        raise UserError(
            f"{path} was not written by scripts/convert_weights.py; convert it first"
        )
    trunk = _parse_metadata(metadata, path)
    expected = (architecture, wiring if architecture == "resnet50" else "")
    if (trunk.architecture, trunk.wiring) != expected:
        raise UserError(
            f"{path} holds weights of {trunk.architecture} {trunk.wiring}".rstrip()
            + f", the model expects {' '.join(expected).strip()}"
        )
    _check_values(values, trunk_shapes(*expected, trunk.width), path)
    first = _FIRST_KERNEL[architecture]
    std = np.asarray(trunk.input_std, np.float32)
    values[first] = values[first] / std[:, np.newaxis]
    return {name: jax.numpy.asarray(value) for name, value in values.items()}


class _Trunk(NamedTuple):
    """Facts about the weights in a file, from its metadata."""

    architecture: str
    wiring: str
    width: float
    input_std: tuple[float, ...]


def _parse_metadata(metadata: Mapping[str, str], path: Path) -> _Trunk:
    """Reads what `convert_file` and `save_trunk` write.

    Raises:
      UserError: a field is missing, or is nothing that they write.
    """
    parsed: dict[str, Any] = {}
    for field, (parse, is_valid) in _METADATA.items():
        # Published weights have no width: theirs is 1.
        text = metadata.get(field, "1" if field == "width" else None)
        try:
            value = parse(text)
            valid = is_valid(value)
        except (ValueError, TypeError, RecursionError):
            valid = False
        if not valid:
            raise UserError(f"{path} is damaged: its {field} is {text!r:.40}")
        parsed[field] = value
    return _Trunk(**parsed)


def _is_std(value: Any) -> bool:
    """Returns True if an input's three channels can be divided by the value."""
    is_list = isinstance(value, list) and len(value) == 3
    return is_list and all(
        isinstance(number, (int, float)) and 1e-6 < number < 1e6 for number in value
    )


# Each field's text is read by the first function, and its value checked by the second.
_METADATA: dict[str, tuple[Callable[[Any], Any], Callable[[Any], bool]]] = {
    "architecture": (str, lambda value: value in SCHEMES),
    "wiring": (str, lambda value: value in ("", *WIRINGS)),
    "width": (float, lambda value: 0 < value <= MAX_WIDTH),
    "input_std": (json.loads, _is_std),
}


def _check_values(
    values: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    """Refuses values that no network can compute with.

    Raises:
      UserError: names or shapes are others, or a value is not a finite float32.
    """
    if {name: value.shape for name, value in values.items()} != shapes:
        raise UserError(f"{path} is damaged: its names or shapes have been changed")
    for name, value in values.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            raise UserError(
                f"{path} is damaged: {name} is not of finite float32 values"
            )


def put_trunk(
    trunk: dict[str, jax.Array],
    params: variables.Variables,
    stats: variables.Variables,
) -> tuple[variables.Variables, variables.Variables]:
    """Returns a model's variables with the trunk's replaced by `load_trunk`'s.

    Raises:
      UserError: the model's trunk is not that of the weights, or of another width.
    """
    model = params | stats
    own = {n: v.shape for n, v in model.items() if n.startswith("trunk/")}
    if own != {name: value.shape for name, value in trunk.items()}:
        raise UserError(
            "ported weights fit only a model of their own trunk and width (published "
            "ones: width 1.0)"
        )
    return (
        {name: trunk.get(name, value) for name, value in params.items()},
        {name: trunk.get(name, value) for name, value in stats.items()},
    )
