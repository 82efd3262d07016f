"""From a trained patch classifier to a whole-image classifier (section 2.3).

Everything in the trunk is copied, and the patch classifier's dense layer too if
the whole-image model has one (the heatmap designs). Only the new layers on top
keep their initial values. Every variable on both sides is accounted for.
"""

from typing import NamedTuple

from mammo_jax.errors import UserError
from mammo_jax.models.variables import Variables

NEW_LAYERS_PREFIX = "top/"
HEAD_PREFIX = "head/"


class ConversionReport(NamedTuple):
    """Where each variable of the two models went.

    Attributes:
      copied: names taken over from the patch classifier.
      new: names of the whole-image model that keep their initial values.
      left_out: names of the patch classifier that the new model has no use for.
    """

    copied: tuple[str, ...]
    new: tuple[str, ...]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.copied)} variables copied from the patch classifier, "
            f"{len(self.new)} new, {len(self.left_out)} left out "
            f"({', '.join(self.left_out) or 'none'})"
        )


def patch_to_whole(
    patch_params: Variables,
    patch_stats: Variables,
    whole_params: Variables,
    whole_stats: Variables,
) -> tuple[Variables, Variables, ConversionReport]:
    """Puts a patch classifier's weights into a whole-image model.

    Args:
      patch_params: the patch classifier's parameters, as `variables.split` gives.
      patch_stats: its running statistics.
      whole_params: the whole-image model's initial parameters.
      whole_stats: its initial statistics.

    Returns:
      `(params, stats, report)` of the whole-image model.

    Raises:
      UserError: the patch classifier has another trunk, width or wiring: a
        variable would be left without a value, without a use, or misshapen.
    """
    patch = patch_params | patch_stats
    whole = whole_params | whole_stats
    wanted = {name for name in whole if not name.startswith(NEW_LAYERS_PREFIX)}
    spare = {
        name for name in patch if name.startswith(HEAD_PREFIX) and name not in wanted
    }
    _check(patch, whole, wanted, spare)

    report = ConversionReport(
        copied=tuple(sorted(wanted)),
        new=tuple(sorted(whole.keys() - wanted)),
        left_out=tuple(sorted(spare)),
    )
    params = {name: patch.get(name, value) for name, value in whole_params.items()}
    stats = {name: patch.get(name, value) for name, value in whole_stats.items()}
    return params, stats, report


def _check(patch: Variables, whole: Variables, wanted: set, spare: set) -> None:
    missing = sorted(wanted - patch.keys())
    unexpected = sorted(patch.keys() - wanted - spare)
    misshapen = sorted(
        name for name in wanted & patch.keys() if patch[name].shape != whole[name].shape
    )
    if not (missing or unexpected or misshapen):
        return
    shapes = [f"{n} {patch[n].shape} for {whole[n].shape}" for n in misshapen]
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": shapes}
    details = "; ".join(
        f"{len(names)} {problem} ({list_names(names)})"
        for problem, names in problems.items()
        if names
    )
    raise UserError(
        f"the patch classifier does not fit: the whole-image model expects "
        f"{describe_trunk(whole)}, the patch classifier has {describe_trunk(patch)}: "
        f"{details}"
    )


def list_names(names: list[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join(names[:limit] + more)


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
