"""Weight files that Keras and torchvision publish, and their checksums.

Keras states MD5 digests: for the paper's ResNet50 in
`keras/applications/resnet50.py` of Keras 2.0.8, for the others in
`keras/src/applications/{resnet,vgg16,vgg19}.py` of Keras 3. torchvision writes the
first eight digits of the SHA-256 into the file's name, and `torch.hub` checks them.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from mammo_jax.common.errors import UserError


class Published(NamedTuple):
    """Weight file that its authors publish.

    Attributes:
      architecture: the trunk.
      wiring: of ResNet50; "" for VGG.
      url: where the file is.
      checksum: "md5:" with the whole digest, or "sha256:" with the first digits
        of it, as the publisher states them.
    """

    architecture: str
    wiring: str
    url: str
    checksum: str

    @property
    def file_name(self) -> str:
        """Name that the publisher gave the file."""
        return self.url.rpartition("/")[2]


_KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications"
_TORCH_URL = "https://download.pytorch.org/models"
_NOTOP = "weights_tf_dim_ordering_tf_kernels_notop.h5"

PUBLISHED: dict[str, Published] = {
    # The file that Keras 2.0.8 loaded: the paper's.
    "resnet50": Published(
        "resnet50",
        "keras2017",
        "https://github.com/fchollet/deep-learning-models/releases/download/v0.2/"
        f"resnet50_{_NOTOP}",
        "md5:a268eb855778b3df3c7506639542a6af",
    ),
    "resnet50-keras": Published(
        "resnet50",
        "keras",
        f"{_KERAS_URL}/resnet/resnet50_{_NOTOP}",
        "md5:4d473c1dd8becc155b73f8504c6f6626",
    ),
    "resnet50-torchvision": Published(
        "resnet50",
        "torchvision",
        f"{_TORCH_URL}/resnet50-0676ba61.pth",
        "sha256:0676ba61",
    ),
    "resnet50-torchvision-v2": Published(
        "resnet50",
        "torchvision",
        f"{_TORCH_URL}/resnet50-11ad3fa6.pth",
        "sha256:11ad3fa6",
    ),
    "vgg16": Published(
        "vgg16",
        "",
        f"{_KERAS_URL}/vgg16/vgg16_{_NOTOP}",
        "md5:6d6bbae143d832006294945121d1f1fc",
    ),
    "vgg16-torchvision": Published(
        "vgg16", "", f"{_TORCH_URL}/vgg16-397923af.pth", "sha256:397923af"
    ),
    "vgg19": Published(
        "vgg19",
        "",
        f"{_KERAS_URL}/vgg19/vgg19_{_NOTOP}",
        "md5:253f8cb515780f3b799900260a226db6",
    ),
    "vgg19-torchvision": Published(
        "vgg19", "", f"{_TORCH_URL}/vgg19-dcbb9e9d.pth", "sha256:dcbb9e9d"
    ),
}


def download_name(architecture: str, wiring: str) -> str:
    """Returns the key of `PUBLISHED` whose weights fit a trunk."""
    wanted = (architecture, wiring if architecture == "resnet50" else "")
    return next(
        name
        for name, published in PUBLISHED.items()
        if (published.architecture, published.wiring) == wanted
    )


def verify_checksum(path: Path, *checksums: str) -> str:
    """Compares a file with "ALGORITHM:DIGITS", the digits from the digest's start.

    Returns:
      The one of `checksums` that it has.

    Raises:
      UserError: the file is damaged or not the published one.
    """
    mismatches = []
    for checksum in checksums:
        algorithm, _, expected = checksum.partition(":")
        found = file_digest(path, algorithm)
        if found.startswith(expected):
            return checksum
        mismatches.append(f"its {algorithm} is {found}, expected {expected}")
    raise UserError(
        f"{path.name} is not the file that was published under this name: "
        f"{'; '.join(mismatches)}; download it again"
    )


def file_digest(path: Path, algorithm: str) -> str:
    """Returns the hexadecimal digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()
