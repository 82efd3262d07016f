"""Random generators and DICOM UIDs that depend on a seed and a name alone.

Every drawing has its own generator, named after what it draws, so the result is
the same in whatever order, and in however many processes, things are drawn.
"""

import hashlib
import uuid

import numpy as np


def named_generator(seed: int, *name: str | int) -> np.random.Generator:
    """The generator that belongs to `name` under `seed`."""
    return np.random.default_rng(list(_digest(seed, name)))


def named_uid(seed: int, *name: str | int) -> str:
    """A DICOM UID derived from a UUID (DICOM PS3.5 B.2), the same in every run."""
    return f"2.25.{uuid.UUID(bytes=_digest(seed, name)[:16], version=5).int}"


def _digest(seed: int, name: tuple[str | int, ...]) -> bytes:
    text = "\0".join(str(part) for part in (seed, *name))
    return hashlib.sha256(text.encode()).digest()
