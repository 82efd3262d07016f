"""Turning a trained classifier into a whole-image classifier (sections 2.3, 3.2).

Of a patch classifier the trunk is copied, and its dense layer too if the whole-image
model has one (the heatmap designs); new layers keep their initial values. Of a
whole-image classifier everything is copied. Every variable is accounted for.
"""

from collections.abc import Mapping
from typing import NamedTuple

from mammo_jax.common.errors import UserError
from mammo_jax.models.variables import Variables

_NEW_LAYERS, _HEAD = "top/", "head/"


class ConversionReport(NamedTuple):
    """Account of every variable of the two models, by their names."""

    source: str  # what the trained classifier is: "patch" or "whole-image"
    copied: tuple[str, ...]
    new: tuple[str, ...]  # they keep their initial values
    left_out: tuple[str, ...]  # the new model has no use for them

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

    All are as from `variables.split`: the source of a patch classifier, or of a
    whole-image classifier of the same design; the whole-image model with its initial
    values.

    Returns:
      `(params, stats, report)` of the whole-image model.

    Raises:
      UserError: the trained classifier has another trunk, width, wiring or top: a
        variable would be left without a value, without a use, or misshapen.
    """
    source = source_params | source_stats
    whole = whole_params | whole_stats
    kind, new, left_out = "whole-image", set[str](), set[str]()
    if not any(name.startswith(_NEW_LAYERS) for name in source):
        kind = "patch"
        new = {name for name in whole if name.startswith(_NEW_LAYERS)}
        left_out = {n for n in source.keys() - whole.keys() if n.startswith(_HEAD)}
    problems = compare_shapes(
        {name: x.shape for name, x in source.items() if name not in left_out},
        {name: x.shape for name, x in whole.items() if name not in new},
    )
    if details := list_problems(problems):
        raise UserError(
            f"the {kind} classifier does not fit the whole-image model: {details}"
        )
    report = ConversionReport(
        source=kind,
        copied=tuple(sorted(whole.keys() - new)),
        new=tuple(sorted(new)),
        left_out=tuple(sorted(left_out)),
    )
    return *put_values(source, whole_params, whole_stats), report


def put_values(
    values: Variables, params: Variables, stats: Variables
) -> tuple[Variables, Variables]:
    """Returns a model's variables, with those values in the place of its own."""
    return (
        {name: values.get(name, own) for name, own in params.items()},
        {name: values.get(name, own) for name, own in stats.items()},
    )


def compare_shapes(
    found: Mapping[str, object], expected: Mapping[str, object]
) -> dict[str, list[str]]:
    """Returns the names that are missing, unexpected, or of another shape (or type)."""
    return {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "misshapen": [
            f"{name} is {found[name]}, not {expected[name]}"
            for name in sorted(found.keys() & expected.keys())
            if found[name] != expected[name]
        ],
    }


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
