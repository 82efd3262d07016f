"""The train step and the evaluation step, each one jitted function."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from mammo_jax.common import devices
from mammo_jax.models import variables
from mammo_jax.models.compiling import jit_network
from mammo_jax.models.flips import average_over_flips
from mammo_jax.models.network_input import network_input
from mammo_jax.training.optimizer import Optimizer
from mammo_jax.training.state import Arrays, EpochMetrics, TrainState

Batch = Mapping[str, Array | np.ndarray]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Float[Array, ""]]]
EvalStep = Callable[[Arrays, Arrays, Batch], tuple[Array, Array]]


def balanced_weights(
    labels: Int[Array, " batch"], num_classes: int
) -> Float[Array, " batch"]:
    """Returns 1 / (share of the example's class in the batch): classes weigh the same.

    As the paper's "we also adjust the sample weights within a batch to keep the
    classes balanced" (section 2.2). `labels` is the whole logical batch, not a
    microbatch.
    """
    counts = jnp.bincount(labels, length=num_classes)
    return labels.shape[0] / counts[labels].astype(jnp.float32)


class StepOptions(NamedTuple):
    """Options of a train step, besides model and optimiser.

    Attributes:
      num_classes: number of the model's classes.
      pixel_mean: mean grey level of the training images, 0..255, to be subtracted.
      accum_steps: number of microbatches that a batch is cut into, unless it comes cut.
      ema_decay: decay of the parameters' moving averages, 0 to 1; 0 keeps none.
      unroll: True if the scan over the microbatches is written out. XLA's CPU
        compiler runs convolutions inside a loop several times slower than outside
        one; elsewhere the loop is better, since it compiles once and never holds two
        microbatches' activations.
    """

    num_classes: int
    pixel_mean: float
    accum_steps: int = 1
    ema_decay: float = 0.0
    unroll: bool = False


def _cast_kernels(params: Arrays, dtype: jnp.dtype) -> Arrays:
    """Casts the convolutions' kernels to the dtype that they compute in."""
    return {name: x.astype(dtype) if x.ndim == 4 else x for name, x in params.items()}


def _make_accumulate(
    graphdef: nnx.GraphDef[Any], options: StepOptions
) -> Callable[[Arrays, Arrays, Arrays, Arrays], tuple[Arrays, Arrays, Array, Array]]:
    """Makes the function that sums gradients, loss and hits over microbatches."""

    @functools.partial(jax.value_and_grad, has_aux=True)
    def micro_loss(
        params: Arrays, frozen: Arrays, stats: Arrays, micro: Arrays, total: int
    ) -> tuple[Array, tuple[Arrays, Array]]:
        model = variables.merge(graphdef, {**frozen, **params}, stats)
        images = network_input(
            micro["image"], options.pixel_mean, micro["channel_shift"]
        )
        logits = model(images, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, micro["label"])
        correct = jnp.sum(jnp.argmax(logits, -1) == micro["label"])
        _, _, stats = variables.split(model)
        return jnp.sum(losses * micro["weight"]) / total, (stats, correct)

    def accumulate(
        params: Arrays, frozen: Arrays, stats: Arrays, batch: Arrays
    ) -> tuple[Arrays, Arrays, Array, Array]:
        zeros = jax.tree.map(jnp.zeros_like, params)
        # The model would do this in every microbatch.
        model: Any = variables.merge(graphdef, {**frozen, **params}, stats)
        params, frozen = (_cast_kernels(x, model.trunk.dtype) for x in (params, frozen))
        labels = batch["label"]
        weights = balanced_weights(labels.reshape(-1), options.num_classes)
        micros = {**batch, "weight": weights.reshape(labels.shape)}

        def add(carry: Any, micro: Arrays) -> tuple[Any, None]:
            gradients, stats, loss, correct = carry
            (micro_value, (stats, micro_correct)), micro_gradients = micro_loss(
                params, frozen, stats, micro, labels.size
            )
            gradients = jax.tree.map(jnp.add, gradients, micro_gradients)
            return (gradients, stats, loss + micro_value, correct + micro_correct), None

        start = (zeros, stats, jnp.float32(0), jnp.int32(0))
        unroll = 0 if options.unroll else 1
        return jax.lax.scan(add, start, micros, unroll=unroll)[0]

    return accumulate


def _microbatches(batch: Batch, accum_steps: int) -> Arrays:
    """Returns the batch cut into microbatches, with channel shifts.

    Raises:
      ValueError: a shape or type is none of `build_train_step`'s.
    """
    images, labels = jnp.asarray(batch["image"]), jnp.asarray(batch["label"])
    leading = images.shape[:-2]
    no_shifts = jnp.zeros((*leading, 3), jnp.float32)
    shifts = jnp.asarray(batch.get("channel_shift", no_shifts))
    for name, part, valid, expected in (
        (
            "image",
            images,
            images.dtype == jnp.uint16 and images.ndim in (3, 4),
            "uint16 of (batch, height, width) or (accumulation, microbatch, height, "
            "width)",
        ),
        (
            "label",
            labels,
            labels.shape == leading and jnp.issubdtype(labels.dtype, jnp.integer),
            f"integers of {leading}, one for each image",
        ),
        ("channel_shift", shifts, shifts.shape == (*leading, 3), f"of {(*leading, 3)}"),
    ):
        if not valid:
            found = f"{part.dtype}{list(part.shape)}"
            raise ValueError(f"{name} is {found}; it must be {expected}")
    if len(leading) == 1 and leading[0] % accum_steps:
        raise ValueError(
            f"a batch of {leading[0]} images cannot be cut into {accum_steps} "
            "microbatches of one size"
        )
    parts = {"image": images, "label": labels, "channel_shift": shifts}
    if len(leading) == 2:
        return parts
    return {
        name: part.reshape(accum_steps, -1, *part.shape[1:])
        for name, part in parts.items()
    }


def build_train_step(
    graphdef: nnx.GraphDef[Any],
    optimizer: Optimizer,
    options: StepOptions,
    mesh: jax.sharding.Mesh | None = None,
) -> TrainStep:
    """Builds the one train step of a stage; it is not jitted.

    A batch comes as microbatches, whose gradients are added up in a scan, so that
    only one microbatch's activations are alive. The loss is the weighted
    cross-entropy, averaged over the whole batch. Only the trained parameters are
    differentiated; batch normalisation's statistics move in every layer, as they
    did in the paper's Keras, unless the model freezes them.

    The step takes the state and a batch, and returns the new state and the
    batch's loss; see `mammo_jax.training.stage_step.make_train_step` for the batch.
    """
    accumulate = _make_accumulate(graphdef, options)

    def average(before: Array, new: Array) -> Array:
        return options.ema_decay * before + (1 - options.ema_decay) * new

    @devices.on_mesh(mesh)
    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Array]:
        arrays = _microbatches(batch, options.accum_steps)
        trained = optimizer.trained
        params = {name: state.params[name] for name in sorted(trained)}
        frozen = {k: v for k, v in state.params.items() if k not in trained}
        gradients, stats, loss, correct = accumulate(
            params, frozen, state.batch_stats, arrays
        )
        updates, opt_state = optimizer.transform.update(
            gradients, state.opt_state, params
        )
        new_params = {**frozen, **optax.apply_updates(params, updates)}
        metrics = EpochMetrics.single_from_model_output(
            loss=loss, accuracy=correct / arrays["label"].size
        )
        new_state = TrainState(
            params=new_params,
            batch_stats=stats,
            opt_state=opt_state,
            metrics=state.metrics.merge(metrics),
            averages=state.averages
            and jax.tree.map(average, state.averages, new_params),
        )
        return new_state, loss

    return train_step


def make_eval_step(
    graphdef: nnx.GraphDef[Any],
    *,
    pixel_mean: float,
    tta: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    deterministic: bool = False,
) -> EvalStep:
    """Builds the jitted evaluation step.

    From parameters, statistics and a batch it computes class probabilities (batch,
    classes) and cross-entropies (batch,), both float32; with `tta` the probabilities
    are averaged over the four flips (section 4).
    """

    @devices.on_mesh(mesh)
    def eval_step(params: Arrays, stats: Arrays, batch: Arrays) -> tuple[Array, Array]:
        model = variables.merge(graphdef, params, stats)
        images = network_input(batch["image"], pixel_mean)
        if tta:
            shares = average_over_flips(
                lambda x: jax.nn.softmax(model(x, train=False)),
                images,
                at_once=jax.default_backend() == "cpu",
            )
            true = jnp.take_along_axis(shares, batch["label"][:, None], 1)[:, 0]
            return shares, -jnp.log(jnp.maximum(true, np.finfo(np.float32).tiny))
        logits = model(images, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return jax.nn.softmax(logits), losses

    function: EvalStep = jit_network(
        eval_step,
        deterministic=deterministic,
        out_shardings=devices.replicated(mesh),
    )
    return function
