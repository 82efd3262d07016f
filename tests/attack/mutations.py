"""Damages files in the ways in which files are damaged, by chance or by intent."""

from collections.abc import Callable, Sequence

import numpy as np

# Values at which lengths, counts and sizes overflow, and what parsers trip over.
_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 1 << 31, (1 << 32) - 1)
_TEXTS = (
    *(b"-1", b"1e999", b"nan", b"99999999999999999999", b"=1+1", b"../../x"),
    *(b"\0", b'"', b"\n", b",,,,", b"\xff\xfe", b"\xf0\x9f\x92\xa9", b"{" * 64),
)

Mutation = Callable[[bytearray, np.random.Generator, bytes], bytearray]


def _flip_bits(data: bytearray, random: np.random.Generator, _: bytes) -> bytearray:
    for place in random.integers(0, len(data), random.integers(1, 9)):
        data[place] ^= 1 << random.integers(8)
    return data


def _overwrite_number(
    data: bytearray, random: np.random.Generator, _: bytes
) -> bytearray:
    size = int(random.choice([1, 2, 4]))
    place = int(random.integers(0, max(len(data) - size, 1)))
    value = int(random.choice(_NUMBERS)) % (1 << 8 * size)
    order = "little" if random.integers(2) else "big"
    data[place : place + size] = value.to_bytes(size, order)
    return data


def _overwrite_text(
    data: bytearray, random: np.random.Generator, _: bytes
) -> bytearray:
    text = _TEXTS[random.integers(len(_TEXTS))]
    place = int(random.integers(0, len(data)))
    data[place : place + len(text) * int(random.integers(2))] = text
    return data


def _truncate(data: bytearray, random: np.random.Generator, _: bytes) -> bytearray:
    return data[: int(random.integers(0, len(data)))]


def _delete(data: bytearray, random: np.random.Generator, _: bytes) -> bytearray:
    start, end = sorted(random.integers(0, len(data), 2))
    del data[start : min(end, start + 64)]
    return data


def _repeat(data: bytearray, random: np.random.Generator, _: bytes) -> bytearray:
    start, end = sorted(random.integers(0, len(data), 2))
    block = data[start : min(end, start + 256)]
    data[start:start] = block * int(random.choice([1, 2, 50]))
    return data


def _splice(data: bytearray, random: np.random.Generator, other: bytes) -> bytearray:
    return data[: int(random.integers(0, len(data)))] + bytearray(
        other[int(random.integers(0, len(other))) :]
    )


def _noise(data: bytearray, random: np.random.Generator, _: bytes) -> bytearray:
    place = int(random.integers(0, len(data)))
    data[place : place + 32] = random.bytes(32)
    return data


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits, _flip_bits, _overwrite_number, _overwrite_number, _overwrite_text,
    _truncate, _delete, _repeat, _splice, _noise,
)  # fmt: skip
# Headers are a small part of a file, and most of what can go wrong is there.
_HEADER = 1500


def mutate(seeds: Sequence[bytes], random: np.random.Generator) -> bytes:
    """Damages one of the files in one to four ways, half of them in its first bytes."""
    data = bytearray(seeds[random.integers(len(seeds))])
    other = seeds[random.integers(len(seeds))]
    for _ in range(min(int(random.geometric(0.6)), 4)):
        if not data:
            break
        mutation = MUTATIONS[random.integers(len(MUTATIONS))]
        if random.integers(2) and len(data) > _HEADER:
            data = mutation(data[:_HEADER], random, other) + data[_HEADER:]
        else:
            data = mutation(data, random, other)
    return bytes(data)
