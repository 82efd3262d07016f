"""Everything of a run that does not change: data, model, stages, compiled steps."""

import dataclasses
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mammo_jax.common import devices
from mammo_jax.common.errors import UserError
from mammo_jax.datasets import pipeline
from mammo_jax.datasets.augment import Augmentation
from mammo_jax.models import abstract_model, variables
from mammo_jax.models.groups import groups_of
from mammo_jax.models.model_config import BATCH_NORM, ModelConfig, read_model_config
from mammo_jax.training import optimizer, step
from mammo_jax.training.stages import Stage, read_stages
from mammo_jax.training.state import EpochMetrics, TrainState
from mammo_jax.weights.published import download_name

# What of a batch goes to the device; the rest names the images.
DEVICE_KEYS = ("image", "label", "channel_shift")

# The smallest value of each number; 0 steps an epoch mean a whole sweep.
_LEAST = {
    "seed": 0,
    "data.threads": 0,
    "batch_size": 1,
    "accum_steps": 1,
    "eval_batch_size": 1,
    "log_every_steps": 1,
    "steps_per_epoch": 0,
    "checkpoint_every_steps": 0,
    "early_stopping_patience": 0,
    "devices.data": 1,
    "devices.spatial": 1,
    "ema_decay": 0,
}


class Task(NamedTuple):
    """What a task's labels mean.

    Attributes:
      malignant_classes: the classes that mean malignancy.
      score: the validation figure that picks the best epoch.
    """

    malignant_classes: tuple[int, ...]
    score: str


TASKS = {"patch": Task((2, 4), "accuracy"), "whole": Task((1,), "auc")}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The fixed parts of a run.

    Attributes:
      config: of the run.
      model_config: of its network.
      dataset: opened for reading.
      pixel_mean: to subtract, on the scale 0..255.
      graphdef: the model without its variables.
      abstract: its parameters and statistics, not drawn yet.
      stages: in their order.
      optimizers: of the stages.
      steps_per_epoch: at least 1.
      mesh: of the devices; see `mammo_jax.common.devices`.
      eval_step: see `mammo_jax.training.step.make_eval_step`.
    """

    config: ConfigDict
    model_config: ModelConfig
    dataset: pipeline.Dataset
    pixel_mean: float
    graphdef: Any
    abstract: tuple[dict, dict]
    stages: tuple[Stage, ...]
    optimizers: tuple[optimizer.Optimizer, ...]
    steps_per_epoch: int
    mesh: jax.sharding.Mesh
    eval_step: Callable

    @property
    def task(self) -> Task:
        """What the labels mean."""
        return TASKS[self.config.task]

    def source(self, role: str) -> pipeline.Examples:
        """The examples that serve as `train`, `validation` or `test`."""
        return self.dataset.sources[self.config.data[f"{role}_split"]]

    def training_batches(self, start: int) -> Any:
        """This process's part of the batches from number `start` on."""
        return pipeline.training_batches(
            self.source("train"),
            self.config.batch_size,
            augmentation(self.config),
            seed=self.config.seed,
            start=start,
            threads=self.config.data.threads,
            share=_share(),
        )

    def evaluation_batches(self, role: str) -> Any:
        """This process's part of a split, every example once."""
        return pipeline.evaluation_batches(
            self.source(role),
            self.config.eval_batch_size,
            threads=self.config.data.threads,
            share=_share(),
        )

    def training_arrays(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """What the train step reads, as microbatches on the devices."""
        accum_steps = self.config.accum_steps
        return devices.put_batch(
            self.mesh,
            {
                key: batch[key].reshape(accum_steps, -1, *batch[key].shape[1:])
                for key in DEVICE_KEYS
            },
            leading=1,
        )

    def evaluation_arrays(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """What the evaluation step reads, on the devices."""
        return devices.put_batch(
            self.mesh, {key: batch[key] for key in DEVICE_KEYS}, leading=0
        )

    def enter_stage(self, index: int, state: TrainState) -> TrainState:
        """The state at the start of a stage, on the devices.

        The optimiser starts anew, as the paper's Keras did, or goes on with the
        moments of the groups that the stage before trained as well.
        """
        return self.placed(self._entered(index, state))

    def _entered(self, index: int, state: TrainState) -> TrainState:
        opt_state = self.optimizers[index].init(state.params)
        if not self.config.reset_optimizer and state.opt_state is not None:
            opt_state = optimizer.carry_moments(opt_state, state.opt_state)
        return dataclasses.replace(
            state, opt_state=opt_state, metrics=EpochMetrics.empty()
        )

    def abstract_state(self, index: int) -> TrainState:
        """Shapes and types of the state in a stage."""
        state = jax.eval_shape(
            lambda: self._entered(index, _state(self, *_zeros(self.abstract)))
        )
        return devices.abstract(self.mesh, state)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of what `training_arrays` gives."""
        batch = abstract_batch(self.config, self.dataset.image_shape)
        return devices.abstract_batch(self.mesh, batch, leading=1)

    def placed(self, state: TrainState) -> TrainState:
        """The state, whole on every device."""
        return devices.put_replicated(self.mesh, state)

    def own_rows(self, values: jax.Array) -> np.ndarray:
        """The rows of an evaluation step's result that this process's images gave."""
        size = len(values) // jax.process_count()
        return np.asarray(values)[size * jax.process_index() :][:size]

    def train_step(self, index: int) -> Callable:
        """Of a stage; see `mammo_jax.training.step.jit_train_step`."""
        options = step.StepOptions(
            num_classes=self.config.model.num_classes,
            pixel_mean=self.pixel_mean,
            ema_decay=self.config.ema_decay,
            unroll=jax.default_backend() == "cpu",
            # A step that is looked into afterwards needs its inputs.
            donate=not self.config.debug_nans,
        )
        return step.jit_train_step(
            self.graphdef, self.optimizers[index], options, self.mesh
        )

    def compiler_of_train_step(self, index: int) -> Callable[[], Callable]:
        """The same, traced; what is returned compiles it."""
        function: Any = self.train_step(index)
        if self.config.debug_nans:
            return lambda: function  # It is taken apart where a NaN arises.
        return function.lower(self.abstract_state(index), self.abstract_batch()).compile


def _share() -> pipeline.Share:
    """What this process reads."""
    return pipeline.Share(jax.process_index(), jax.process_count())


def augmentation(config: ConfigDict) -> Augmentation:
    """The configured random transformations."""
    return Augmentation(
        **{**config.augment.to_dict(), "zoom": tuple(config.augment.zoom)}
    )


def check_config(config: ConfigDict, name: str = "config") -> None:
    """Refuses what cannot run, before any work.

    Args:
      config: of a run.
      name: that its fields have on the command line; of the patch stage,
        `config.patch`.

    Raises:
      UserError: naming the field and its allowed values.
    """
    if config.task not in TASKS:
        raise UserError(f"{name}.task is {config.task!r}; it must be one of {[*TASKS]}")
    for field, least in _LEAST.items():
        value = operator.attrgetter(field)(config)
        if value < least:
            raise UserError(f"{name}.{field} is {value}; it must be at least {least}")
    if config.ema_decay >= 1:
        raise UserError(f"{name}.ema_decay is {config.ema_decay}; it must be below 1")
    zoom = tuple(config.augment.zoom)
    if len(zoom) != 2 or not 0 < zoom[0] <= zoom[1]:
        raise UserError(f"{name}.augment.zoom is {zoom}; it must be (lowest, highest)")
    _check_model(config, name)
    if config.get("pretrained") and not Path(config.pretrained).expanduser().is_file():
        key = download_name(config.model.trunk, config.model.wiring)
        raise UserError(
            f"{name}.pretrained: there is no weight file {config.pretrained}; get it "
            f"with python scripts/convert_weights.py --download={key} "
            f"--out={config.pretrained}, or set the field to '' for random values"
        )
    _check_microbatches(config, name)
    read_stages(config.stages, f"{name}.stages")


def _check_model(config: ConfigDict, name: str) -> None:
    # A forest's row has no network of its own.
    if config.model.top.kind != "forest":
        read_model_config(config.model, f"{name}.model")


def _check_microbatches(config: ConfigDict, name: str) -> None:
    """Every device gets as many images of every microbatch."""
    if config.batch_size % config.accum_steps:
        raise UserError(
            f"{name}.batch_size ({config.batch_size}) is not divisible by "
            f"{name}.accum_steps ({config.accum_steps})"
        )
    microbatch = config.batch_size // config.accum_steps
    by_batch = BATCH_NORM[config.model.batch_norm].top
    if config.model.top.kind == "heatmap" and by_batch and microbatch == 1:
        raise UserError(
            f"a microbatch ({name}.batch_size / {name}.accum_steps) has 1 image, but "
            "the fully connected layers of a heatmap top normalise over a microbatch's "
            f"images and need 2; let {name}.batch_size be twice {name}.accum_steps or "
            f"more, or set {name}.model.batch_norm=frozen"
        )
    sizes = {
        f"a microbatch ({name}.batch_size / {name}.accum_steps)": microbatch,
        f"{name}.eval_batch_size": config.eval_batch_size,
    }
    for part, size in sizes.items():
        if size % config.devices.data:
            raise UserError(
                f"{part} has {size} images, which is not divisible by "
                f"{name}.devices.data ({config.devices.data})"
            )


def open_data(config: ConfigDict) -> pipeline.Dataset:
    """Opens the configured dataset and checks it against the configuration.

    Raises:
      UserError: not built, without the splits, of other classes, or of another image
        size than a heatmap model's.
    """
    dataset = pipeline.open_dataset(config.data.dataset, config.data.data_dir)
    for role in ("train", "validation", "test"):
        split = config.data[f"{role}_split"]
        if split not in dataset.sources:
            raise UserError(
                f"config.data.{role}_split is {split!r}, but {dataset.name} in "
                f"{config.data.data_dir} has the splits {sorted(dataset.sources)}"
            )
    if len(dataset.class_names) != config.model.num_classes:
        raise UserError(
            f"{dataset.name} has {len(dataset.class_names)} classes "
            f"{list(dataset.class_names)}, but config.model.num_classes is "
            f"{config.model.num_classes}"
        )
    height, width = dataset.image_shape
    size = tuple(config.model.image_size)
    # Every other model averages over however many positions there are.
    if config.model.top.kind == "heatmap" and size != (height, width):
        raise UserError(
            f"the images of {dataset.name} are {height}x{width}, but a heatmap model "
            f"is made for one size and config.model.image_size is {size}"
        )
    if height % config.devices.spatial:
        raise UserError(
            f"the {height} rows of {dataset.name} cannot be spread evenly over "
            f"config.devices.spatial ({config.devices.spatial}) devices"
        )
    examples = len(dataset.sources[config.data.train_split])
    if examples < config.batch_size:
        raise UserError(
            f"the split {config.data.train_split!r} of {dataset.name} has {examples} "
            f"examples, fewer than config.batch_size ({config.batch_size})"
        )
    return dataset


def make_experiment(config: ConfigDict, dataset: pipeline.Dataset) -> Experiment:
    """Builds the model, without values; see `mammo_jax.models.initializers`."""
    model_config = read_model_config(config.model)
    graphdef, params, stats = variables.split(abstract_model(model_config))
    mean = config.data.pixel_mean
    mean = mean if mean >= 0 else dataset.pixel_mean
    labels = {name: groups_of(name, config.model.trunk) for name in params}
    stages = read_stages(config.stages)
    examples = len(dataset.sources[config.data.train_split])
    steps_per_epoch = config.steps_per_epoch or examples // config.batch_size
    mesh = devices.make_mesh(config.devices.data, config.devices.spatial)
    return Experiment(
        config=config,
        model_config=model_config,
        dataset=dataset,
        pixel_mean=mean,
        graphdef=graphdef,
        abstract=(params, stats),
        stages=stages,
        optimizers=tuple(
            optimizer.make_optimizer(stage, labels, steps_per_epoch) for stage in stages
        ),
        steps_per_epoch=steps_per_epoch,
        mesh=mesh,
        eval_step=step.make_eval_step(
            graphdef, pixel_mean=mean, tta=config.tta, mesh=mesh
        ),
    )


def abstract_batch(
    config: ConfigDict, image_shape: tuple[int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of the microbatches of one step, on whatever devices."""
    leading = (config.accum_steps, config.batch_size // config.accum_steps)
    return {
        "image": jax.ShapeDtypeStruct((*leading, *image_shape), jnp.uint16),
        "label": jax.ShapeDtypeStruct(leading, jnp.int32),
        "channel_shift": jax.ShapeDtypeStruct((*leading, 3), jnp.float32),
    }


def initial_state(
    experiment: Experiment, params: Mapping[str, Any], stats: Mapping[str, Any]
) -> TrainState:
    """The state at the start of the first stage, from drawn values."""
    return experiment.enter_stage(0, _state(experiment, params, stats))


def _zeros(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)


def _state(
    experiment: Experiment, params: Mapping[str, Any], stats: Mapping[str, Any]
) -> TrainState:
    """Before any stage was entered."""
    return TrainState(
        params=dict(params),
        batch_stats=dict(stats),
        opt_state=None,
        metrics=EpochMetrics.empty(),
        averages=jax.tree.map(jnp.copy, params)
        if experiment.config.ema_decay
        else None,
    )
