"""The train step as a run calls it: on the list of a state's arrays.

A call walks through the trees of its arguments, and the state of an optimiser of
several groups is mostly masks. A list has none, and its arrays lie in memory as the
program reads them. Logs, validation and checkpoints get the state back as it was.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from mammo_jax.common import devices
from mammo_jax.models.compiling import jit_network
from mammo_jax.training.state import EpochMetrics, TrainState
from mammo_jax.training.step import Batch, TrainStep

# The arrays of a `TrainState`, in the order of its leaves.
FlatState = list[jax.Array]


class FlatStep(NamedTuple):
    """A train step on the list of a state's arrays, jitted or compiled.

    Attributes:
      call: takes the list, whose memory it uses up, and a batch, and returns the new
        list and the batch's loss; see `stage_step.make_train_step` for the batch.
      structure: the state's, without its arrays.
      sharding: of the arrays, whole on every device.
    """

    call: Callable[[FlatState, Batch], tuple[FlatState, Float[Array, ""]]]
    structure: Any
    sharding: jax.sharding.Sharding

    def flatten(self, state: TrainState) -> FlatState:
        """Returns the arrays of a state, which must not be read any more."""
        leaves: FlatState = jax.tree.leaves(state)
        arrays = devices.lay_out(leaves, devices.formats(leaves, self.sharding))
        if arrays is not leaves:  # They would take their memory for the whole epoch.
            for leaf in leaves:
                leaf.delete()
        return arrays

    def restore(self, arrays: FlatState) -> TrainState:
        """Returns the state that has these arrays.

        It may share their memory: it must not be read after the next call.
        """
        plain = devices.formats(arrays, self.sharding, default=True)
        state: TrainState = jax.tree.unflatten(
            self.structure, devices.lay_out(arrays, plain)
        )
        return state

    @contextlib.contextmanager
    def lend(self, arrays: FlatState) -> Iterator[TrainState]:
        """Lends the state that has these arrays; takes its memory back afterwards."""
        state = self.restore(arrays)
        yield state
        own = {id(x) for x in arrays}
        for leaf in jax.tree.leaves(state):
            if id(leaf) not in own:
                leaf.delete()

    def metrics(self, arrays: FlatState) -> EpochMetrics:
        """Returns the means over the epoch so far."""
        state: TrainState = jax.tree.unflatten(self.structure, arrays)
        return state.metrics


def jit_flat_step(
    train_step: TrainStep,
    state: TrainState,
    mesh: jax.sharding.Mesh,
    *,
    donate: bool = True,
    deterministic: bool = False,
) -> tuple[FlatStep, list[jax.ShapeDtypeStruct]]:
    """Makes a train step's flat form, and the shapes and types that it takes.

    Args:
      train_step: from `step.build_train_step`, not jitted.
      state: of arrays, or their shapes and types.
      mesh: see `mammo_jax.common.devices`.
      donate: True if the new arrays take the old ones' memory.
      deterministic: see `mammo_jax.models.compiling.jit_network`.
    """
    leaves, structure = jax.tree.flatten(state)
    sharding: Any = devices.replicated(mesh)
    formats = devices.formats(leaves, sharding)

    def flat_step(arrays: FlatState, batch: Batch) -> tuple[FlatState, Array]:
        state, loss = train_step(jax.tree.unflatten(structure, arrays), batch)
        return jax.tree.leaves(state), loss

    call = jit_network(
        flat_step,
        deterministic=deterministic,
        donate_argnums=0 if donate else (),
        out_shardings=(formats, sharding),
    )
    abstract = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=form)
        for x, form in zip(leaves, formats, strict=True)
    ]
    return FlatStep(call, structure, sharding), abstract
