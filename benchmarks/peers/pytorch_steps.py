"""The same networks in PyTorch, of torchvision's parts, in its faster memory format.

On a GPU if it is given a share of one. As JAX does there, it may round the inputs of
float32 products to TF32, and tries convolutions out before it chooses.
"""

import os

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck

from benchmarks.peers.workload import (
    CLASSES,
    GPU_SHARE,
    LEARNING_RATE,
    SIZES,
    Steps,
    Workload,
)

_MIDDLE, _OUT = 512, 1024


def _residual_unit(channels_in: int, stride: int) -> nn.Module:
    """512-512-1024: not Bottleneck's fixed ratio of four, so its parts are replaced."""
    shortcut = None
    if stride > 1:
        shortcut = nn.Sequential(
            nn.Conv2d(channels_in, _OUT, 1, stride, bias=False), nn.BatchNorm2d(_OUT)
        )
    unit = Bottleneck(channels_in, _OUT // 4, stride, shortcut)
    unit.conv1 = nn.Conv2d(channels_in, _MIDDLE, 1, bias=False)
    unit.conv2 = nn.Conv2d(_MIDDLE, _MIDDLE, 3, stride, 1, bias=False)
    unit.conv3 = nn.Conv2d(_MIDDLE, _OUT, 1, bias=False)
    unit.bn1, unit.bn2 = nn.BatchNorm2d(_MIDDLE), nn.BatchNorm2d(_MIDDLE)
    unit.bn3 = nn.BatchNorm2d(_OUT)
    return unit


def _vgg_block() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(512, 512, 3, padding=1, bias=False),
        nn.BatchNorm2d(512),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


def _network(workload: Workload) -> tuple[nn.Module, list[nn.Module]]:
    """The network, and those of its parts that the first stage trains."""
    whole = getattr(torchvision.models, workload.trunk)(weights=None)
    if workload.trunk == "resnet50":
        trunk, channels = nn.Sequential(*list(whole.children())[:-2]), 2048
        units = [(2048, 2), (1024, 1), (1024, 2), (1024, 1)]
        top: list[nn.Module] = [_residual_unit(*unit) for unit in units]
    else:
        trunk, channels = whole.features, 512
        top = [_vgg_block(), _vgg_block()]
    if workload.task == "patch":
        top = []
    elif workload.trunk == "resnet50":
        channels = _OUT
    classifier = nn.Linear(channels, CLASSES[workload.task])
    new = [*top, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier]
    return nn.Sequential(trunk, *new), new


def prepare(workload: Workload, *, compiled: bool = False) -> Steps:
    """Autocast for bfloat16; gradients of microbatches add up."""
    device = "cuda" if GPU_SHARE in os.environ else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    network, new = _network(workload)
    if workload.stage == "new":
        network.requires_grad_(False)
        for part in new:
            part.requires_grad_(True)
    network = network.to(device, memory_format=torch.channels_last)
    images = torch.randn(workload.batch, 3, *SIZES[workload.task])
    images = images.to(device, memory_format=torch.channels_last)
    labels = torch.zeros(workload.batch, dtype=torch.long, device=device)
    if compiled:
        network.compile()
    moving = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(moving, LEARNING_RATE)
    half = workload.dtype == "bfloat16"

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def logits(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            return network(images).float()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        parts = workload.accumulation
        for micro, true in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            (nn.functional.cross_entropy(logits(micro), true) / parts).backward()
        optimizer.step()

    def loop(steps: int) -> None:
        network.train()
        for _ in range(steps):
            step()
        wait()

    def train() -> None:
        loop(1)

    def score() -> None:
        network.eval()
        with torch.inference_mode():
            logits(images).softmax(-1)
        wait()

    if device == "cpu":
        return Steps(train, score, loop=loop)
    torch.cuda.set_per_process_memory_fraction(float(os.environ[GPU_SHARE]))
    return Steps(
        train,
        score,
        torch.cuda.max_memory_allocated,
        torch.cuda.reset_peak_memory_stats,
        loop,
    )
