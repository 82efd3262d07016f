"""Weight files that Keras, torchvision and timm publish: checksums, and their download.

Keras states MD5 digests: for the paper's ResNet50 in
`keras/applications/resnet50.py` of Keras 2.0.8, for the others in
`keras/src/applications/{resnet,vgg16,vgg19}.py` of Keras 3. torchvision writes the
first eight digits of the SHA-256 into the file's name, and `torch.hub` checks them.
timm's copies of torchvision's first weights are on the Hugging Face hub, where a commit
fixes them; commit and SHA-256 are those that other projects which fetch them state,
each in two sources that do not know of each other.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import NamedTuple

from mammo_jax.common.errors import UserError
from mammo_jax.common.progress import progress


class Published(NamedTuple):
    """Weight file that its authors publish."""

    architecture: str
    wiring: str  # of ResNet50; "" for VGG
    url: str
    checksum: str  # "md5:" and the digest, or "sha256:" and the digits that are stated

    @property
    def file_name(self) -> str:
        """Name that the publisher gave the file, or on the hub its repository."""
        # There every file is called model.safetensors.
        repository, is_on_hub, _ = self.url.partition("/resolve/")
        name = f"{repository}.safetensors" if is_on_hub else self.url
        return name.rpartition("/")[2]


_KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications"
_TORCH_URL = "https://download.pytorch.org/models"
_NOTOP = "weights_tf_dim_ordering_tf_kernels_notop.h5"
_TIMEOUT_SECONDS = 30


def _keras(architecture: str, wiring: str, folder: str, md5: str) -> Published:
    url = f"{_KERAS_URL}/{folder}/{architecture}_{_NOTOP}"
    return Published(architecture, wiring, url, f"md5:{md5}")


def _torchvision(architecture: str, wiring: str, digits: str) -> Published:
    url = f"{_TORCH_URL}/{architecture}-{digits}.pth"
    return Published(architecture, wiring, url, f"sha256:{digits}")


def _timm(architecture: str, wiring: str, commit: str, sha256: str) -> Published:
    url = f"https://huggingface.co/timm/{architecture}.tv_in1k/resolve/{commit}"
    return Published(
        architecture, wiring, f"{url}/model.safetensors", f"sha256:{sha256}"
    )


PUBLISHED: dict[str, Published] = {
    # The file that Keras 2.0.8 loaded: the paper's.
    "resnet50": Published(
        "resnet50",
        "keras2017",
        "https://github.com/fchollet/deep-learning-models/releases/download/v0.2/"
        f"resnet50_{_NOTOP}",
        "md5:a268eb855778b3df3c7506639542a6af",
    ),
    "resnet50-keras": _keras(
        "resnet50", "keras", "resnet", "4d473c1dd8becc155b73f8504c6f6626"
    ),
    # Before torchvision's own, which only PyTorch reads. timm made it of the earlier
    # resnet50-19c8e357.pth.
    "resnet50-timm": _timm(
        "resnet50",
        "torchvision",
        "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
    ),
    "resnet50-torchvision": _torchvision("resnet50", "torchvision", "0676ba61"),
    "resnet50-torchvision-v2": _torchvision("resnet50", "torchvision", "11ad3fa6"),
    "vgg16": _keras("vgg16", "", "vgg16", "6d6bbae143d832006294945121d1f1fc"),
    "vgg16-timm": _timm(
        "vgg16",
        "",
        "b8d8aa2dd860af9233c8c67385a8097fd6c35d3f",
        "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
    ),
    "vgg16-torchvision": _torchvision("vgg16", "", "397923af"),
    "vgg19": _keras("vgg19", "", "vgg19", "253f8cb515780f3b799900260a226db6"),
    "vgg19-torchvision": _torchvision("vgg19", "", "dcbb9e9d"),
}


def download_name(architecture: str, wiring: str) -> str:
    """Returns the key of `PUBLISHED` whose weights fit a trunk; "" without any."""
    wanted = (architecture, wiring if architecture == "resnet50" else "")
    fitting = (
        name
        for name, published in PUBLISHED.items()
        if (published.architecture, published.wiring) == wanted
    )
    return next(fitting, "")


def verify_checksum(path: Path, *checksums: str) -> str:
    """Returns the one of "ALGORITHM:DIGITS" that a file's digest begins with.

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


def download(published: Published, path: Path) -> Path:
    """Downloads a published file to `path`, unless it is there; returns `path`.

    Raises:
      UserError: the server cannot be reached or refuses, or what came is not the
        published file; the message says how to go on by hand. Nothing is left behind.
    """
    if path.is_file():
        try:
            verify_checksum(path, published.checksum)
        except UserError as error:
            raise UserError(f"{error}: remove {path} first") from error
        return path
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        _fetch(published, path)
        verify_checksum(path, published.checksum)
    except BaseException:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # The first error is the one to tell.
            for folder in made:
                folder.rmdir()
        raise
    return path


def _fetch(published: Published, path: Path) -> None:
    import pooch  # Late: nothing but a download needs it and its HTTP client.

    try:
        # pooch sets the length later; without one, a bar of tqdm has no truth value.
        with progress(None, path.name, total=1, unit="B") as bar:
            pooch.retrieve(
                published.url,
                known_hash=None,  # torchvision publishes the first digits alone.
                fname=path.name,
                path=path.parent,
                downloader=pooch.HTTPDownloader(
                    progressbar=bar, timeout=_TIMEOUT_SECONDS
                ),
            )
    # Errors of the HTTP client are OSErrors; numbers that are none are ValueErrors.
    except (OSError, ValueError) as error:
        raise UserError(
            f"could not download {published.url}: {error or type(error).__name__}. "
            "Give the same command again, or fetch the file on another machine and "
            f"give --arch={published.architecture} --source=FILE in the place of "
            "--download"
        ) from error
