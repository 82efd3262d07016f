"""Graphs of Keras 2 models, and the networks of this program that they are.

A graph is written as text, a word an operation, in the order in which an image goes
through it. The branches that a sum joins stand between < and >, the longer one first;
what changes nothing in scoring is left out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from mammo_jax.models.resnet import STAGES, STEM_CHANNELS, scale_channels
from mammo_jax.models.vgg import SIZES

# Far more than the released models have.
_MOST_LAYERS = 1000
_NO_CHAIN = "its layers are no chain, nor one with sums of two branches"


class Operation(NamedTuple):
    """Layer of a graph that changes something in scoring."""

    words: tuple[str, ...]
    layer: str
    stored_under: str  # the outer model's layer that its arrays are stored under
    inputs: tuple[int, ...]  # numbers of the operations whose results it takes
    arrays: tuple[str, ...]
    trainable: bool


class _Kind(NamedTuple):
    """Kind of layer: its word, its arrays, and the values that its fields may have."""

    word: str = ""
    arrays: tuple[str, ...] = ()
    rules: Mapping[str, tuple[Any, ...]] = {}


_LINEAR = {"activation": ("linear", "relu", "softmax")}
_LAYOUT = {"data_format": ("channels_last",)}
_POOL = "{pool_size}/{strides}{padding}"
_KINDS = {
    "InputLayer": _Kind(),
    "Dropout": _Kind(),
    "Activation": _Kind(rules=_LINEAR),
    "Conv2D": _Kind(
        "conv{kernel_size}/{strides}{padding}:{filters}",
        ("kernel", "bias"),
        {**_LINEAR, **_LAYOUT, "dilation_rate": (1,)},
    ),
    "Dense": _Kind("dense:{units}", ("kernel", "bias"), _LINEAR),
    "BatchNormalization": _Kind(
        "bn",
        ("gamma", "beta", "moving_mean", "moving_variance"),
        {"axis": (-1, 3, [-1], [3]), "epsilon": (1e-3,), "momentum": (0.99,)}
        | dict.fromkeys(("center", "scale"), (True,)),
    ),
    "MaxPooling2D": _Kind(f"maxpool{_POOL}", rules=_LAYOUT),
    "AveragePooling2D": _Kind(f"avgpool{_POOL}", rules=_LAYOUT),
    "GlobalAveragePooling2D": _Kind("gap", rules=_LAYOUT),
    "Flatten": _Kind("flatten", rules=_LAYOUT),
    "Add": _Kind("add"),
}
_MODELS = ("Model", "Functional")


def read_operations(graph: Any) -> tuple[list[Operation], tuple[Any, Any]]:
    """Reads the operations of `model_config`, the image's first and the output's last.

    Returns:
      The operations, and height and width of the images; None where they are open.

    Raises:
      ValueError: a layer of another kind, or one that computes something else than the
        kind does here; or the graph is damaged.
    """
    operations: list[Operation] = []
    try:
        if graph["class_name"] not in _MODELS:
            raise ValueError(f"it is a {graph['class_name']}, not a Model")
        _add_model(graph["config"], operations)
        inputs = (one["config"] for one in graph["config"]["layers"] if _is_input(one))
        _, height, width, _ = next(inputs)["batch_input_shape"]
    except (KeyError, TypeError, IndexError, AttributeError, StopIteration) as error:
        raise ValueError(f"its model_config is damaged ({error!r})") from error
    if len({operation.layer for operation in operations}) != len(operations):
        raise ValueError("two of its layers have one name")
    return operations, (height, width)


def _is_input(layer: Any) -> bool:
    return bool(layer["class_name"] == "InputLayer")


def _add_model(config: Any, operations: list[Operation], within: str = "") -> int:
    """Adds a model's layers; returns the number of the operation that is its output.

    A model `within` another, which stores its arrays under that name, takes the last
    operation's result.
    """
    if len(config["input_layers"]) != 1 or len(config["output_layers"]) != 1:
        raise ValueError("it has several inputs or outputs")
    ends: dict[str, int] = {}
    source = len(operations) - 1
    for layer in config["layers"]:
        kind, name = layer["class_name"], layer["name"]
        place = f"{within}/{name}" if within else name
        if name in ends or len(operations) >= _MOST_LAYERS:
            raise ValueError(f"its layer {place} is there twice, or one of thousands")
        if _is_input(layer) and within:
            ends[name] = source
            continue
        inputs = _inputs(layer, place, ends)
        if kind in _MODELS:
            if within or inputs != (len(operations) - 1,):
                raise ValueError(f"its model {place} is not where a trunk is")
            ends[name] = _add_model(layer["config"], operations, name)
            continue
        words, arrays = _describe(kind, layer["config"], place)
        if inputs and not words:
            ends[name], *_ = inputs
            continue
        ends[name] = len(operations)
        trainable = bool(layer["config"].get("trainable", True))
        operations.append(
            Operation(words, place, within or name, inputs, arrays, trainable)
        )
    if (end := ends[config["output_layers"][0][0]]) != len(operations) - 1:
        raise ValueError(f"its layer {operations[-1].layer} leads nowhere")
    return end


def _inputs(layer: Any, place: str, ends: Mapping[str, int]) -> tuple[int, ...]:
    """Finds the operations whose results a layer takes; all stand before it."""
    kind, calls = layer["class_name"], layer["inbound_nodes"]
    count = {"InputLayer": 0, "Add": 2}.get(kind, 1)
    if [len(call) for call in calls] != [count] * bool(count):
        raise ValueError(f"its layer {place} does not have {count} inputs, used once")
    taken = [one for call in calls for one in call]
    for source, _, tensor, *options in taken:
        if source not in ends or tensor != 0 or any(options):
            raise ValueError(f"its layer {place} takes {source!r}, which is no input")
    return tuple(ends[source] for source, *_ in taken)


def _describe(
    kind: str, config: Mapping[str, Any], place: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns a layer's words and the names of its arrays."""
    if kind not in _KINDS:
        raise ValueError(f"its layer {place} is a {kind}, which no released model has")
    # A pair of equal numbers is one number; what is left is no word of any network.
    fields = {
        name: value[0]
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]
        else value
        for name, value in config.items()
    }
    word, arrays, rules = _KINDS[kind]
    for field, allowed in rules.items():
        value = fields.get(field, allowed[0])
        if value not in allowed:
            raise ValueError(f"its layer {place} has {field} {value!r:.40}")
    if fields.get("kernel_size") == 1:
        fields["padding"] = "same"  # which it is
    words = [word.format_map(fields)]
    if "activation" in rules and (activation := fields.get("activation")) != "linear":
        words.append(activation or "")
    if re.search(r"[^\w/:]", "".join(words)):
        raise ValueError(f"its layer {place} is a {kind} of an unknown form")
    if not fields.get("use_bias", True):
        arrays = arrays[:1]
    return tuple(filter(None, words)), arrays


def in_order(operations: Sequence[Operation]) -> tuple[str, list[Operation]]:
    """Writes a graph as text, each word with a space behind it.

    Returns:
      The text, and the operations in the same order.

    Raises:
      ValueError: an operation is used twice without a sum that joins its branches, or
        not at all.
    """
    # The operation before each; before a sum the one at which its branches part.
    before = [-1] * len(operations)
    for number, operation in enumerate(operations):
        if operation.inputs:
            path, *others = (_path(before, start) for start in operation.inputs)
            common = set(path).intersection(*others)
            before[number] = next((one for one in path if one in common), -1)
    parts: list[str] = []
    order: list[int] = []
    end = len(operations) - 1
    while end >= 0:
        words, numbers = _words(operations, [end]), [end]
        if len(operations[end].inputs) == 2:
            starts = operations[end].inputs
            branches = [_branch(operations, before, one, before[end]) for one in starts]
            branches.sort(key=len)
            short, long = branches
            texts = (_words(operations, numbers) for numbers in (long, short))
            words, numbers = "< {}; {}> ".format(*texts), [*long, *short, end]
        parts.append(words)
        order.extend(reversed(numbers))
        end = before[end]
    if sorted(order) != list(range(len(operations))):
        raise ValueError(_NO_CHAIN)
    order.reverse()
    return "".join(reversed(parts)), [operations[number] for number in order]


def _words(operations: Sequence[Operation], numbers: Sequence[int]) -> str:
    return "".join(f"{word} " for one in numbers for word in operations[one].words)


def _branch(
    operations: Sequence[Operation], before: Sequence[int], end: int, stop: int
) -> list[int]:
    """Lists the operations after `stop` up to `end`, among which is no sum."""
    path = _path(before, end)
    branch = path[: path.index(stop)] if stop in path else path
    if any(len(operations[number].inputs) == 2 for number in branch):
        raise ValueError(_NO_CHAIN)
    return branch[::-1]


def _path(before: Sequence[int], start: int) -> list[int]:
    """Lists the operations from one back to the image, past the branches of sums."""
    path = [start]
    while before[path[-1]] >= 0:
        path.append(before[path[-1]])
    return path


def _unit(stride: int, a: object, b: object, c: object, shortcut: str) -> str:
    """Returns the text, or the pattern, of a residual unit."""
    return (
        f"< conv1/{stride}same:{a} bn relu conv3/1same:{b} bn relu conv1/1same:{c} bn ;"
        f" {shortcut}> relu "
    )


def _resnet(width: float) -> str:
    def scaled(count: int) -> int:
        return scale_channels(count, width)

    text = f"conv7/2same:{scaled(STEM_CHANNELS)} bn relu maxpool3/2valid "
    for units, filters, stride in STAGES.values():
        a, b, c = map(scaled, filters)
        text += _unit(stride, a, b, c, f"conv1/{stride}same:{c} bn ")
        text += _unit(1, a, b, c, "") * (units - 1)
    return text


def _blocks(sizes: Sequence[tuple[int, int]], relu: str, width: float) -> str:
    """Returns the text of blocks of so many channels and convolutions."""
    conv, pool = "conv3/1same:{} " + relu, "maxpool2/2valid "
    blocks = ((scale_channels(count, width), depth) for count, depth in sizes)
    return "".join(conv.format(count) * depth + pool for count, depth in blocks)


# The trunks: channels of the first convolution, text by the width, fields of the model.
_TRUNKS: tuple[tuple[int, Callable[[float], str], dict[str, Any]], ...] = (
    (STEM_CHANNELS, _resnet, {"trunk": "resnet50", "wiring": "keras2017"}),
    (
        STEM_CHANNELS,
        lambda width: _resnet(width).removesuffix("relu "),
        {"trunk": "resnet50", "wiring": "keras2017_cut"},
    ),
    *(
        (
            sizes[0][0],
            partial(_blocks, sizes, "bn relu " if name == "yaroslav" else "relu "),
            {"trunk": name, "stride": 2 ** len(sizes)},
        )
        for name, sizes in SIZES.items()
    ),
)
_RESIDUAL = (
    _unit(2, r"(?P<a>\d+)", r"(?P<b>\d+)", r"(?P<c>\d+)", "conv1/2same:(?P=c) bn ")
    + f"(?:{_unit(1, '(?P=a)', '(?P=b)', '(?P=c)', '')})*"
)
_VGG = (
    r"conv3/1same:(?P<a>\d+) bn relu (?:conv3/1same:(?P=a) bn relu )*maxpool2/2valid "
)
_END = r"gap dense:(?P<classes>\d+) softmax "
# kind: (pattern of what follows the trunk, pattern of a block, its notation)
_TOPS = {
    # Keras 2.0's ResNet50 averages 7x7 positions before it averages all.
    "patch": (f"(?:avgpool7/7valid )?{_END}", "", ""),
    "residual": (f"(?:{_RESIDUAL})+{_END}", _RESIDUAL, "{a}-{b}-{c}x{n}"),
    "vgg": (f"(?:{_VGG})+{_END}", _VGG, "{a}x{n}"),
    "heatmap": (
        r"avgpool(?P<window>\d+)/1valid dense:5 (?P<activation>relu|softmax) "
        r"maxpool(?P<pool>\d+)/(?P=pool)valid flatten < dense:(?P<first>\d+) bn relu "
        r"dense:(?P<second>\d+) bn relu dense:(?P<classes>\d+) ; dense:(?P=classes) > "
        "softmax ",
        "",
        "",
    ),
}


def recognise(text: str) -> dict[str, Any]:
    """Returns the fields of `config.model` of the network that a graph's text is of.

    Raises:
      ValueError: it is none of the released kinds.
    """
    first = re.match(r"conv\d+/\d+same:(\d+) ", text)
    for channels, write, fields in _TRUNKS:
        width = int(first[1]) / channels if first else 0
        if not 0 < width <= 1 or not text.startswith(trunk := write(width)):
            continue
        rest = text[len(trunk) :]
        for kind, (pattern, block, notation) in _TOPS.items():
            if (match := re.fullmatch(pattern, rest)) is None:
                continue
            found = match.groupdict()
            top: dict[str, Any] = {"kind": kind}
            if block:
                top["blocks"] = tuple(
                    notation.format(**one.groupdict(), n=one[0].count("conv3/1same"))
                    for one in re.finditer(block, rest)
                )
            if kind == "heatmap":
                top |= {name: int(found[name]) for name in ("window", "pool")}
                top["fc"] = (int(found["first"]), int(found["second"]))
                top["activation"] = found["activation"]
            classes = int(found["classes"])
            return {**fields, "width": width, "num_classes": classes, "top": top}
    raise ValueError(f"its layers are those of no released model: {text:.300}")
