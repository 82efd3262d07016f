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

from etils import epy

with epy.lazy_api_imports(globals()):
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
