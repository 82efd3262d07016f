"""The parts of a run that do not change: data, model, stages, compiled steps."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mammo_jax.common import devices
from mammo_jax.common.parallel import available_cores
from mammo_jax.datasets import pipeline
from mammo_jax.datasets.packaged import Examples
from mammo_jax.models import abstract_model, variables
from mammo_jax.models.groups import groups_of
from mammo_jax.training import step
from mammo_jax.training.flat_step import FlatStep, jit_flat_step
from mammo_jax.training.optimizer import Optimizer, carry_moments, make_optimizer
from mammo_jax.training.settings import Settings, open_data, read_settings
from mammo_jax.training.state import EpochMetrics, Leaves, TrainState

# The parts of a batch that go to the device; the others name the images.
DEVICE_KEYS = ("image", "label")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Fixed parts of a run."""

    settings: Settings
    dataset: pipeline.Dataset
    pixel_mean: float  # grey level to subtract, on the scale 0..255
    graphdef: Any  # the network without its variables
    abstract: tuple[Leaves, Leaves]  # parameters and statistics, not drawn yet
    optimizers: tuple[Optimizer, ...]  # of the stages
    steps_per_epoch: int
    mesh: jax.sharding.Mesh  # see `mammo_jax.common.devices`
    eval_step: step.EvalStep

    @property
    def config(self) -> ConfigDict:
        """Configuration of the run."""
        return self.settings.config

    def source(self, role: str) -> Examples:
        """Returns the examples that serve as `train`, `validation` or `test`."""
        return self.dataset.sources[self.config.data[f"{role}_split"]]

    def training_batches(self, start: int) -> Any:
        """Reads this process's part of the batches from number `start` on."""
        data = self.config.data
        threads = data.threads or available_cores()
        return pipeline.training_batches(
            self.source("train"),
            self.config.batch_size,
            self.settings.augmentation,
            seed=self.config.seed,
            start=start,
            threads=-(-threads // (data.workers or 1)),
            workers=data.workers,
            share=grain.sharding.ShardByJaxProcess(),
        )

    def evaluation_batches(self, role: str) -> Any:
        """Reads this process's part of a split, every example once."""
        return pipeline.evaluation_batches(
            self.source(role),
            self.config.eval_batch_size,
            threads=self.config.data.threads or available_cores(),
            share=grain.sharding.ShardByJaxProcess(),
        )

    def training_arrays(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Puts what the train step reads on the devices, as microbatches."""
        accum_steps = self.config.accum_steps
        return devices.put_batch(
            self.mesh,
            {
                key: batch[key].reshape(accum_steps, -1, *batch[key].shape[1:])
                for key in (*DEVICE_KEYS, "channel_shift")
            },
            leading=1,
        )

    def evaluation_arrays(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Puts what the evaluation step reads on the devices."""
        read = {key: batch[key] for key in DEVICE_KEYS}
        return devices.put_batch(self.mesh, read, leading=0)

    def initial_state(
        self, params: Mapping[str, Any], stats: Mapping[str, Any]
    ) -> TrainState:
        """Returns the state at the start of the first stage, from drawn values."""
        state = TrainState.begin(dict(params), dict(stats), self.config.ema_decay)
        return self.enter_stage(0, state)

    def enter_stage(self, index: int, state: TrainState) -> TrainState:
        """Returns the state at the start of a stage, on the devices.

        The optimiser starts anew, as the paper's Keras did, or goes on with the
        moments of the groups that the stage before trained as well.
        """
        return self.placed(self._entered(index, state))

    def _entered(self, index: int, state: TrainState) -> TrainState:
        opt_state = self.optimizers[index].init(state.params)
        if not self.config.reset_optimizer and state.opt_state is not None:
            opt_state = carry_moments(opt_state, state.opt_state)
        return dataclasses.replace(
            state, opt_state=opt_state, metrics=EpochMetrics.empty()
        )

    def abstract_state(self, index: int) -> TrainState:
        """Returns the shapes and types of the state in a stage."""

        def state(params: Leaves, stats: Leaves) -> TrainState:
            begun = TrainState.begin(params, stats, self.config.ema_decay)
            return self._entered(index, begun)

        abstract: TrainState = devices.abstract(
            self.mesh, jax.eval_shape(state, *self.abstract)
        )
        return abstract

    def placed(self, state: TrainState) -> TrainState:
        """Puts the whole state on every device."""
        placed: TrainState = devices.put_replicated(self.mesh, state)
        return placed

    def own_rows(self, values: jax.Array) -> np.ndarray:
        """Returns the rows of an evaluation step's result for this process's images."""
        size = len(values) // jax.process_count()
        return np.asarray(values)[size * jax.process_index() :][:size]

    def train_step(self, index: int) -> tuple[FlatStep, list[Any]]:
        """Makes the train step of a stage, and the shapes and types that it takes."""
        options = step.StepOptions(
            num_classes=self.settings.model.num_classes,
            pixel_mean=self.pixel_mean,
            ema_decay=self.config.ema_decay,
            unroll=jax.default_backend() == "cpu",
        )
        function = step.build_train_step(
            self.graphdef, self.optimizers[index], options, self.mesh
        )
        return jit_flat_step(
            function,
            self.abstract_state(index),
            self.mesh,
            # A step that is looked into afterwards needs its inputs.
            donate=not self.config.debug_nans,
            deterministic=self.config.deterministic,
        )

    def compiler_of_train_step(self, index: int) -> Callable[[], FlatStep]:
        """Traces the train step of a stage, and returns what compiles it."""
        train_step, arrays = self.train_step(index)
        if self.config.debug_nans:
            return lambda: train_step  # It is taken apart where a NaN arises.
        batch = abstract_batch(self.config, self.dataset.image_shape)
        function: Any = train_step.call
        lowered = function.lower(
            arrays, devices.abstract_batch(self.mesh, batch, leading=1)
        )
        return lambda: train_step._replace(call=lowered.compile())


def make_experiment(settings: Settings, dataset: pipeline.Dataset) -> Experiment:
    """Builds the model, without values, and the optimisers of its stages.

    Raises:
      UserError: a stage trains nothing of the model, or there are too few devices.
    """
    config = settings.config
    graphdef, params, stats = variables.split(abstract_model(settings.model))
    trunk, stride = settings.model.trunk, settings.model.stride
    labels = {name: groups_of(name, trunk, stride) for name in params}
    examples = len(dataset.sources[config.data.train_split])
    steps_per_epoch = config.steps_per_epoch or examples // config.batch_size
    mean = config.data.pixel_mean
    mean = mean if mean >= 0 else dataset.pixel_mean
    mesh = devices.make_mesh(config.devices.data, config.devices.spatial)
    return Experiment(
        settings=settings,
        dataset=dataset,
        pixel_mean=mean,
        graphdef=graphdef,
        abstract=(params, stats),
        optimizers=tuple(
            make_optimizer(stage, labels, steps_per_epoch) for stage in settings.stages
        ),
        steps_per_epoch=steps_per_epoch,
        mesh=mesh,
        eval_step=step.make_eval_step(
            graphdef,
            pixel_mean=mean,
            tta=config.tta,
            mesh=mesh,
            deterministic=config.deterministic,
        ),
    )


def open_experiment(config: ConfigDict) -> Experiment:
    """Checks a configuration, opens its data and builds its model, without a run.

    Raises:
      UserError: the configuration cannot run.
    """
    settings = read_settings(config)
    return make_experiment(settings, open_data(settings))


def abstract_batch(
    config: ConfigDict, image_shape: tuple[int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and types of one step's microbatches, on any devices."""
    leading = (config.accum_steps, config.batch_size // config.accum_steps)
    return {
        "image": jax.ShapeDtypeStruct((*leading, *image_shape), jnp.uint16),
        "label": jax.ShapeDtypeStruct(leading, jnp.int32),
        "channel_shift": jax.ShapeDtypeStruct((*leading, 3), jnp.float32),
    }
