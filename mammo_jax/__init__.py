"""End-to-end training of whole-mammogram cancer classifiers in JAX.

The face of the package: five functions, each of which imports what it needs when it is
first asked for, so that `import mammo_jax` takes no time.

    import mammo_jax as mj

    model = mj.load("runs/demo")
    result = model.score("exam/0001.dcm", tta=True)
    network = mj.build_model("resnet50", top="residual_512-512-1024x2", seed=0)
    step, state = mj.make_train_step(network, stages="whole", stage="stage1")
    report = mj.evaluate_predictions("runs/demo/predictions/test.csv")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mammo_jax.evaluation.evaluation import evaluate_predictions
    from mammo_jax.images.pictures import read_image
    from mammo_jax.models.named import build_model
    from mammo_jax.prediction.model import load
    from mammo_jax.training.stage_step import make_train_step

__version__ = "0.2.0"
__all__ = [
    "build_model",
    "evaluate_predictions",
    "load",
    "make_train_step",
    "read_image",
]

# The module of each function.
_HOMES = {
    "build_model": "mammo_jax.models.named",
    "evaluate_predictions": "mammo_jax.evaluation.evaluation",
    "load": "mammo_jax.prediction.model",
    "make_train_step": "mammo_jax.training.stage_step",
    "read_image": "mammo_jax.images.pictures",
}


def __getattr__(name: str) -> Any:
    """Imports one of the face's functions when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Lists the face's functions."""
    return sorted([*globals(), *_HOMES])
