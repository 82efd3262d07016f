"""Class maps drawn over pictures."""

import cv2
import numpy as np

from mammo_jax.images import overlays


def test_an_overlay_is_grey_at_even_odds_red_for_and_blue_against():
    picture = np.full((4, 3), 100, np.uint8)
    strength = np.repeat([[0.0, 1.0, -1.0]], 4, axis=0).astype(np.float32)
    drawn = overlays.draw_overlay(picture, strength)
    assert (drawn[:, 0] == 100).all()
    for column, brightest in ((1, 0), (2, 2)):
        channels = drawn[0, column].tolist()
        assert channels[brightest] > 150
        assert sorted(channels)[1] < 100
    # RGB in memory comes back as RGB from the file.
    content = np.frombuffer(overlays.encode(drawn), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(content, 1)[..., ::-1], drawn)
