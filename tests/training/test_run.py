"""How a run begins."""

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest

from mammo_jax.images.grid import Grid
from mammo_jax.training import run
from mammo_jax.training.checkpoint import Checkpoints, Position
from mammo_jax.training.experiment import Experiment
from mammo_jax.training.state import TrainState

STATE = Mock(spec=TrainState)


def _begin(experiment, found):
    """What `_begin` gives where the latest checkpoint holds `found`."""
    checkpoints = Mock(spec=Checkpoints)
    checkpoints.restore_latest.return_value = found
    with ThreadPoolExecutor(2) as helpers:
        state, position, first_step = run._begin(experiment, checkpoints, "", helpers)
        return state, position, first_step and first_step.result()


def test_a_run_whose_training_is_done_compiles_no_step():
    done = (STATE, Position(step=7, finished=True))
    experiment = Mock(spec=Experiment)
    assert _begin(experiment, done) == (*done, None)
    assert not experiment.method_calls


def test_a_run_that_goes_on_compiles_the_step_of_its_stage():
    found = (STATE, Position(step=7, stage=1))
    experiment = Mock(spec=Experiment)
    experiment.compiler_of_train_step.side_effect = lambda index: f"step {index}".upper
    assert _begin(experiment, found) == (*found, "STEP 1")


def _begun_anew(monkeypatch, *, draw, compiler=lambda index: lambda: "compiled"):
    """What `_begin` gives where there is no checkpoint."""
    experiment = Mock(spec=Experiment, abstract=({"name": "undrawn"}, {}))
    experiment.config = Mock(task="whole", seed=3)
    experiment.settings = Mock(model="model")
    experiment.compiler_of_train_step.side_effect = compiler
    experiment.initial_state.return_value = STATE
    monkeypatch.setattr(run, "draw_values", draw)
    begun = _begin(experiment, None)
    return begun, experiment.initial_state.call_args.args


def test_a_new_run_has_drawn_values_and_a_compiled_step(monkeypatch):
    begun, drawn = _begun_anew(monkeypatch, draw=lambda *arguments: arguments)
    assert begun == (STATE, Position(), "compiled")
    assert drawn == ("model", 3, {"name": "undrawn"}, {})


def test_what_fails_in_a_helper_ends_the_run(monkeypatch):
    def fail(*arguments):
        raise MemoryError

    with pytest.raises(MemoryError):
        _begun_anew(monkeypatch, draw=fail)
    with pytest.raises(MemoryError):
        _begun_anew(monkeypatch, draw=lambda *x: x, compiler=lambda index: fail)


@pytest.mark.parametrize(("noted", "said"), [(True, True), (False, None)])
def test_a_model_of_phantoms_says_so_and_no_note_is_no_denial(tmp_path, noted, said):
    version = tmp_path / "made" / "up" / "1.0.0"
    version.mkdir(parents=True)
    if noted:
        (version / "phantom_images.json").write_text("{}")
    experiment = Mock(spec=Experiment, pixel_mean=0.0, settings=Mock())
    experiment.settings.task.malignant_classes = (1,)
    experiment.config = Mock(task="whole", data=Mock(data_dir=str(tmp_path)))
    experiment.dataset = Mock(grid=Grid(288, 224, False), class_names=("no", "yes"))
    experiment.dataset.name = "made/up"
    assert run._description(experiment, None).phantoms is said
