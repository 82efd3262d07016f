"""ImageNet weights: converted once to safetensors, then loaded into a trunk.

Keras's networks (both ResNet50 wirings, VGG) saw BGR, 0..255, less the mean of
ImageNet; those of torchvision, timm and Hugging Face RGB, (0..1 - mean) / std, with a
std of about 0.226. The paper fed neither: its three channels are one grey channel,
0..255, less the mammograms' own mean (section 2.1), into Keras weights. Equal channels
make RGB and BGR the same, and another mean is a matter of the data. The scale is not:
`load_trunk` divides the first kernel by the std that the source's inputs were divided
by. Files keep the weights as published.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors

from mammo_jax.common.errors import UserError
from mammo_jax.models import variables
from mammo_jax.models.classifier import abstract_model
from mammo_jax.models.model_config import read_model_config
from mammo_jax.weights.conversion import compare_shapes, list_names, list_problems
from mammo_jax.weights.published import PUBLISHED, file_digest, verify_checksum
from mammo_jax.weights.weight_files import read_weights, reading, write_weights
from mammo_jax.weights.weight_names import SCHEMES, Scheme

# Kernels at which a trunk's images enter, which take up the scale of the input.
_VGG = "trunk/block1/conv1/kernel"
_FIRST_KERNEL = {"resnet50": "trunk/conv1/kernel", "vgg16": _VGG, "vgg19": _VGG}
_FORMAT = "mammo_jax trunk 1"
_INPUT_STDS = {
    json.dumps(scheme.library.input_std)
    for schemes in SCHEMES.values()
    for scheme in schemes
}


@functools.cache
def trunk_shapes(
    architecture: str, wiring: str, width: float = 1.0, stride: int = 32
) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every variable of the trunk, by name."""
    fields = {"trunk": architecture, "width": width, "top": {"kind": "patch"}}
    fields["stride"] = stride
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

    `weights` has every array of the file by the library's names.

    Returns:
      Our names to float32 arrays, and the naming scheme that was recognised.

    Raises:
      UserError: the names are of no known scheme, or some are missing, unexpected,
        misshapen or not of a floating type; all of them are reported together.
    """
    schemes = SCHEMES[architecture]
    # Our names and shapes by each scheme's names; that of most hits is the file's.
    renamed = [
        {
            scheme.rename(name): (name, shape)
            for name, shape in trunk_shapes(architecture, scheme.wiring).items()
        }
        for scheme in schemes
    ]
    hits = [len(sources.keys() & weights.keys()) for sources in renamed]
    best = hits.index(max(hits))
    if not hits[best]:
        raise UserError(
            f"not the weights of a {architecture}: expected "
            f"{'; '.join(scheme.title for scheme in schemes)}; found "
            f"{list_names(sorted(weights)) or 'nothing'}"
        )
    scheme, sources = schemes[best], renamed[best]
    ignored = scheme.library.ignored
    found = {
        source: scheme.to_our_layout(value)
        for source, value in weights.items()
        if not re.fullmatch(ignored, source)
    }
    problems = compare_shapes(
        {source: value.shape for source, value in found.items()},
        {source: shape for source, (_, shape) in sources.items()},
    )
    problems["of no floating type"] = [
        f"{source} {value.dtype}"
        for source, value in sorted(found.items())
        if not jax.numpy.issubdtype(value.dtype, jax.numpy.floating)
    ]
    if details := list_problems(problems, limit=20):
        raise UserError(f"not the weights of a {architecture}: {details}")
    with np.errstate(over="ignore"):  # of float64: what follows finds it
        converted = {
            name: np.ascontiguousarray(found[source], np.float32)
            for source, (name, _) in sources.items()
        }
    if not all(np.isfinite(value).all() for value in converted.values()):
        raise UserError(f"the weights of {architecture} are not all finite")
    return converted, scheme


def convert_file(
    architecture: str, source: Path, out: Path, published_at: str = ""
) -> dict[str, str]:
    """Converts a weight file to safetensors, replacing `out`; returns the provenance.

    That is also the file's metadata: format, architecture, wiring, input_std, source
    file, its SHA-256, and `published_at` or the publisher's URL where known.

    Raises:
      UserError: the file cannot be read, does not fit, or is not what was
        published under its name.
    """
    urls = {p.checksum: p.url for p in PUBLISHED.values() if p.file_name == source.name}
    # Before it is read: half a file is to be downloaded again, whatever its format.
    checked = urls and source.is_file()
    url = urls[verify_checksum(source, *urls)] if checked else published_at
    converted, scheme = convert(architecture, read_weights(source))
    metadata = _metadata(
        architecture, scheme.wiring, scheme.library.input_std, source.name
    ) | {"source_sha256": file_digest(source, "sha256"), "published_at": url}
    write_weights(out, converted, metadata)
    return metadata


def _metadata(
    architecture: str, wiring: str, input_std: tuple[float, float, float], source: str
) -> dict[str, str]:
    return {
        "format": _FORMAT,
        "architecture": architecture,
        "wiring": wiring if architecture == "resnet50" else "",
        "input_std": json.dumps(input_std),
        "source": source,
    }


def save_trunk(
    architecture: str, wiring: str, values: Mapping[str, Any], source: str, out: Path
) -> None:
    """Writes the trunk of a model that this program trained, for `load_trunk`.

    `wiring` is not read for VGG; `source` says what it was trained on. `out` is
    replaced if it exists.
    """
    trunk = {n: np.asarray(v) for n, v in values.items() if n.startswith("trunk/")}
    write_weights(out, trunk, _metadata(architecture, wiring, (1.0, 1.0, 1.0), source))


def load_trunk(
    path: Path, architecture: str, wiring: str, width: float = 1.0, stride: int = 32
) -> dict[str, jax.Array]:
    """Reads a converted trunk for networks that see 0..255 less a mean.

    Args:
      path: a file that `convert_file` or `save_trunk` wrote.
      architecture: the trunk of the model that the weights are for.
      wiring: its wiring; not read for VGG.
      width: its width; published weights have 1.
      stride: its stride; of weights of a larger one the last stages are left out.

    Returns:
      Name to array of every trunk parameter and statistic; the first kernel divided by
      the source's input std, see the module's docstring.

    Raises:
      UserError: no such file, one of another architecture, wiring or width, or a
        damaged one.
    """
    if not path.is_file():
        raise UserError(
            f"there is no weight file {path}; mammo-jax convert-weights makes it"
        )
    with (
        reading(path, "safetensors file"),
        safetensors.safe_open(path, framework="numpy") as file,
    ):
        metadata = file.metadata() or {}
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("format") != _FORMAT:
        raise UserError(
            f"{path} was not written by mammo-jax convert-weights; convert it first"
        )
    expected = (architecture, wiring if architecture == "resnet50" else "")
    found = [metadata.get(field, "unknown") for field in ("architecture", "wiring")]
    if (*found,) != expected:
        raise UserError(
            f"{path} holds weights of {' '.join(found).strip()}, the model expects "
            f"{' '.join(expected).strip()}"
        )
    wanted = trunk_shapes(*expected, width, stride)
    left_out = trunk_shapes(*expected, width).keys() - wanted.keys()
    values = {name: value for name, value in values.items() if name not in left_out}
    shapes = {name: value.shape for name, value in values.items()}
    if details := list_problems(compare_shapes(shapes, wanted)):
        raise UserError(
            f"{path}: ported weights fit only a model of their own trunk and width "
            f"(published ones: width 1.0): {details}"
        )
    for name, value in values.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            raise UserError(
                f"{path} is damaged: {name} is not of finite float32 values"
            )
    if (text := metadata.get("input_std", "missing")) not in _INPUT_STDS:
        raise UserError(f"{path} is damaged: its input_std is {text:.40}")
    std = np.asarray(json.loads(text), np.float32)
    if first := _FIRST_KERNEL.get(architecture):  # YaroslavNet has no published one.
        values[first] = values[first] / std[:, np.newaxis]
    return {name: jax.numpy.asarray(value) for name, value in values.items()}
