"""The train step and the evaluation step, each one jitted function."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from mammo_jax.models import variables
from mammo_jax.training.inputs import network_input
from mammo_jax.training.state import Arrays, EpochMetrics, TrainState

Batch = Mapping[str, Array]


def balanced_weights(
    labels: Int[Array, " batch"], num_classes: int
) -> Float[Array, " batch"]:
    """1 / (share of the example's class in the batch): every class weighs the same.

    As the paper's "we also adjust the sample weights within a batch to keep the
    classes balanced" (section 2.2). `labels` is the whole logical batch, not a
    microbatch.
    """
    counts = jnp.bincount(labels, length=num_classes)
    return labels.shape[0] / counts[labels].astype(jnp.float32)


def _make_micro_loss(graphdef: nnx.GraphDef, pixel_mean: float) -> Callable:
    """A microbatch's share of the batch's loss, as a function of its parameters."""

    def micro_loss(
        params: Arrays, frozen: Arrays, stats: Arrays, micro: Batch, total: int
    ) -> tuple[Array, tuple[Arrays, Array]]:
        model = variables.merge(graphdef, {**frozen, **params}, stats)
        images = network_input(micro["image"], micro["channel_shift"], pixel_mean)
        logits = model(images, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, micro["label"])
        correct = jnp.sum(jnp.argmax(logits, -1) == micro["label"])
        _, _, stats = variables.split(model)
        return jnp.sum(losses * micro["weight"]) / total, (stats, correct)

    return micro_loss


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    trained: frozenset[str],
    *,
    num_classes: int,
    pixel_mean: float,
    accum_steps: int,
    unroll: bool,
) -> Callable[[TrainState, Batch], tuple[TrainState, Float[Array, ""]]]:
    """Builds the one train step of a stage.

    The logical batch is cut into `accum_steps` microbatches whose gradients are
    added up in a scan, so that only one microbatch's activations are alive. The
    loss is the weighted cross-entropy, averaged over the logical batch. Only the
    parameters named in `trained` are differentiated; batch normalisation's
    statistics move in every layer, as they did in the paper's Keras.

    Args:
      graphdef: the model without its variables.
      optimizer: for the trained parameters.
      trained: names of the parameters to differentiate.
      num_classes: of the model.
      pixel_mean: of the training images, on the scale 0..255.
      accum_steps: number of microbatches; must divide the batch.
      unroll: write the scan out. XLA's CPU compiler runs convolutions inside a
        loop several times slower than outside one; elsewhere the loop is better,
        since it compiles once and never holds two microbatches' activations.

    Returns:
      A jitted function from the state (donated) and a batch with `image`,
      `label` and `channel_shift` to the new state and the batch's loss.
    """
    micro_loss = _make_micro_loss(graphdef, pixel_mean)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Array]:
        total = batch["label"].shape[0]
        params = {name: state.params[name] for name in sorted(trained)}
        frozen = {k: v for k, v in state.params.items() if k not in trained}
        weighted = {**batch, "weight": balanced_weights(batch["label"], num_classes)}
        micros = jax.tree.map(
            lambda x: x.reshape(accum_steps, total // accum_steps, *x.shape[1:]),
            weighted,
        )

        def accumulate(carry: Any, micro: Batch) -> tuple[Any, None]:
            gradients, stats, loss, correct = carry
            (micro_value, (stats, micro_correct)), micro_gradients = jax.value_and_grad(
                micro_loss, has_aux=True
            )(params, frozen, stats, micro, total)
            gradients = jax.tree.map(jnp.add, gradients, micro_gradients)
            return (gradients, stats, loss + micro_value, correct + micro_correct), None

        start = (
            jax.tree.map(jnp.zeros_like, params),
            state.batch_stats,
            jnp.float32(0),
            jnp.int32(0),
        )
        (gradients, stats, loss, correct), _ = jax.lax.scan(
            accumulate, start, micros, unroll=0 if unroll else 1
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        metrics = EpochMetrics.single_from_model_output(
            loss=loss, accuracy=correct / total
        )
        new_state = TrainState(
            params={**frozen, **optax.apply_updates(params, updates)},
            batch_stats=stats,
            opt_state=opt_state,
            metrics=state.metrics.merge(metrics),
        )
        return new_state, loss

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(
    graphdef: nnx.GraphDef, *, pixel_mean: float
) -> Callable[[Arrays, Arrays, Batch], tuple[Array, Array]]:
    """Builds the jitted evaluation step.

    Returns:
      A function from parameters, statistics and a batch to class probabilities
      (batch, classes) and cross-entropies (batch,), both float32.
    """

    def eval_step(params: Arrays, stats: Arrays, batch: Batch) -> tuple[Array, Array]:
        model = variables.merge(graphdef, params, stats)
        images = network_input(batch["image"], batch["channel_shift"], pixel_mean)
        logits = model(images, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return jax.nn.softmax(logits), losses

    return jax.jit(eval_step)
