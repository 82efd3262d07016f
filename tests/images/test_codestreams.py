"""Codestreams are judged by the header that the codec reads."""

from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.images import codestreams

PIXELS = np.arange(48 * 32, dtype=np.uint16).reshape(48, 32)


def test_a_decoy_in_a_box_is_not_the_size():
    bare = imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k")
    jp2 = imagecodecs.jpeg2k_encode(PIXELS, codecformat="jp2")
    decoy = bare.replace(bytes([0, 0, 0, 32, 0, 0, 0, 48]), bytes([0, 0, 0, 8] * 2), 1)
    assert codestreams.find_size(decoy) == (8, 8)
    at = jp2.index(b"jp2h") - 4
    box = (8 + 60).to_bytes(4, "big") + b"free" + decoy[:60]
    assert codestreams.find_size(bare) == (48, 32)
    assert codestreams.find_size(jp2) == (48, 32)
    assert codestreams.find_size(jp2[:at] + box + jp2[at:]) == (48, 32)


def test_a_jpeg_of_endless_scans_is_refused():
    small = (PIXELS % 256).astype(np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    content = cv2.imencode(".jpg", small, options)[1].tobytes()
    np.testing.assert_array_equal(
        codestreams.decode_jpeg(content), imagecodecs.jpeg8_decode(content)
    )
    start = content.rindex(b"\xff\xda")
    last = content[start:-2]
    codestreams.check_scans(Path("a"), content)
    with pytest.raises(UserError, match="in more than 32 scans"):
        codestreams.check_scans(Path("a"), content[:start] + last * 40 + content[-2:])
