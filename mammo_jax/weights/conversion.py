"""Turning a trained classifier into a whole-image classifier (sections 2.3, 3.2).

Of a patch classifier everything in the trunk is copied, and its dense layer too if the
whole-image model has one (the heatmap designs); the new layers on top keep their
initial values. Of a whole-image classifier everything is copied, to be trained on
another set of images. Every variable on both sides is accounted for.
"""

from collections.abc import Mapping
from typing import NamedTuple

from mammo_jax.common.errors import UserError
from mammo_jax.models.variables import Variables

NEW_LAYERS_PREFIX = "top/"
HEAD_PREFIX = "head/"


class ConversionReport(NamedTuple):
    """Account of every variable of the two models.

    Attributes:
      source: what the trained classifier is: "patch" or "whole-image".
      copied: names taken over from it.
      new: names of the new model that keep their initial values.
      left_out: names of the trained classifier that the new model has no use for.
    """

    source: str
    copied: tuple[str, ...]
    new: tuple[str, ...]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.copied)} variables copied from the {self.source} classifier, "
            f"{len(self.new)} new, {len(self.left_out)} left out "
            f"({', '.join(self.left_out) or 'none'})"
        )


def take_over(
    source_params: Variables,
    source_stats: Variables,
    whole_params: Variables,
    whole_stats: Variables,
) -> tuple[Variables, Variables, ConversionReport]:
    """Puts a trained classifier's weights into a whole-image model.

    Args:
      source_params: parameters of a patch classifier, or of a whole-image classifier
        of the same design, as `variables.split` gives them.
      source_stats: its running statistics.
      whole_params: the whole-image model's initial parameters.
      whole_stats: its initial statistics.

    Returns:
      `(params, stats, report)` of the whole-image model.

    Raises:
      UserError: the trained classifier has another trunk, width, wiring or top: a
        variable would be left without a value, without a use, or misshapen.
    """
    source = source_params | source_stats
    whole = whole_params | whole_stats
    kind, wanted, spare = _plan(source, whole)
    _check(kind, source, whole, wanted, spare)

    report = ConversionReport(
        source=kind,
        copied=tuple(sorted(wanted)),
        new=tuple(sorted(whole.keys() - wanted)),
        left_out=tuple(sorted(spare)),
    )
    params = {name: source.get(name, value) for name, value in whole_params.items()}
    stats = {name: source.get(name, value) for name, value in whole_stats.items()}
    return params, stats, report


def _plan(source: Variables, whole: Variables) -> tuple[str, set[str], set[str]]:
    """Returns the source's kind, the names to copy, and those that may be left out."""
    if any(name.startswith(NEW_LAYERS_PREFIX) for name in source):
        return "whole-image", set(whole), set()
    wanted = {name for name in whole if not name.startswith(NEW_LAYERS_PREFIX)}
    spare = {
        name for name in source if name.startswith(HEAD_PREFIX) and name not in wanted
    }
    return "patch", wanted, spare


def _check(
    kind: str, source: Variables, whole: Variables, wanted: set[str], spare: set[str]
) -> None:
    missing = sorted(wanted - source.keys())
    unexpected = sorted(source.keys() - wanted - spare)
    misshapen = sorted(
        name
        for name in wanted & source.keys()
        if source[name].shape != whole[name].shape
    )
    shapes = [f"{n} {source[n].shape} for {whole[n].shape}" for n in misshapen]
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": shapes}
    if details := list_problems(problems):
        raise UserError(
            f"the {kind} classifier does not fit: the new whole-image model expects "
            f"{describe(whole)}; the {kind} classifier has {describe(source)}: "
            f"{details}"
        )


def list_problems(problems: Mapping[str, list[str]], limit: int = 5) -> str:
    """Returns each problem's number of names and the first of them; "" without any."""
    return "; ".join(
        f"{len(names)} {problem} ({list_names(names, limit)})"
        for problem, names in problems.items()
        if names
    )


def list_names(names: list[str], limit: int = 5) -> str:
    """Returns the first names, and the number of the others."""
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join(names[:limit] + more)


def describe(variables: Variables) -> str:
    """Names the trunk and the top that variables are of, for messages."""
    top = {n: v for n, v in variables.items() if n.startswith(NEW_LAYERS_PREFIX)}
    if not top:
        return describe_trunk(variables)
    parts = dict.fromkeys(name.split("/")[1] for name in sorted(top))
    size = sum(value.size for value in top.values())
    return f"{describe_trunk(variables)}, top {'+'.join(parts)} of {size} values"


def describe_trunk(variables: Variables) -> str:
    """Names the trunk that variables are of, for messages."""
    if "trunk/conv1/kernel" in variables:
        biases = "with" if "trunk/conv1/bias" in variables else "without"
        channels = variables["trunk/conv1/kernel"].shape[-1]
        return f"ResNet50 {biases} convolution biases, {channels} stem channels"
    if "trunk/block1/conv1/kernel" in variables:
        name = "VGG19" if "trunk/block5/conv4/kernel" in variables else "VGG16"
        channels = variables["trunk/block1/conv1/kernel"].shape[-1]
        return f"{name}, {channels} channels in block 1"
    return "no known trunk"
