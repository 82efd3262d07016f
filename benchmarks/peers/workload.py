"""What is measured, and what every peer offers for it."""

import resource
from collections.abc import Callable
from typing import NamedTuple

# Height and width of what the networks see (section 2 of the paper).
SIZES = {"patch": (224, 224), "whole": (1152, 896)}
CLASSES = {"patch": 5, "whole": 2}
LEARNING_RATE = 1e-4
# The variable in which JAX, too, reads what share of a GPU's memory it may take.
GPU_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"


class Workload(NamedTuple):
    """One network at one batch size.

    Attributes:
      trunk: resnet50 or vgg16.
      task: patch, the trunk with global pooling and a classifier; whole, with two
        [512-512-1024]x2 residual blocks on ResNet50 or two 512x1 blocks on VGG16
        between them (Tables 2 and 3).
      batch: images of one step of the optimiser.
      accumulation: microbatches that it is cut into.
      dtype: float32 or bfloat16, of the computation; parameters are float32.
      stage: all, or new for the first stage, in which only the new layers move.
    """

    trunk: str
    task: str
    batch: int
    accumulation: int = 1
    dtype: str = "float32"
    stage: str = "all"


def most_resident_bytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Steps(NamedTuple):
    """What every peer offers.

    Attributes:
      train: one step of training with Adam; returns when it is done.
      score: the scores of one batch, likewise.
      peak_bytes: the most memory that was held so far, of a GPU or of the process.
      reset_peak: forgets what the first step took to try algorithms out, if it can.
      loop: a number of steps as a training loop has them, waited for at the end only.
    """

    train: Callable[[], object]
    score: Callable[[], object]
    peak_bytes: Callable[[], int] = most_resident_bytes
    reset_peak: Callable[[], object] = lambda: None
    loop: Callable[[int], object] | None = None
