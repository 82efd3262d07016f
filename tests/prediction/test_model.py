"""Models as an object: files and arrays."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from predicting import make_breast, read_scores, run_predict
from raw_files import write_dicom

from mammo_jax.common.errors import UserError
from mammo_jax.prediction.model import load


def _score_of_command(directory: Path, path: Path, out: Path, *options: str) -> float:
    assert run_predict(f"--model={directory}", *options, f"--out={out}", path) == 0
    (score,) = read_scores(out / "predictions.csv").values()
    return score


@pytest.mark.parametrize("tta", [False, True])
def test_a_file_has_the_commands_score_and_overlay(model, tmp_path, tta):
    path = write_dicom(tmp_path / "a.dcm", make_breast(1))
    result = load(str(model[0])).score(str(path), tta=tta)
    options = ["--tta"] if tta else []
    expected = _score_of_command(model[0], path, tmp_path / "out", *options)
    assert result.score == pytest.approx(expected, rel=1e-5)
    assert result.map.shape == make_breast(1).shape
    assert np.abs(result.map).max() <= 1
    drawn = cv2.imread(str(tmp_path / "out" / "overlays" / "case_0001.png"))
    overlay = result.overlay()
    assert overlay.dtype == np.uint8
    assert np.abs(overlay[..., ::-1].astype(int) - drawn).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["model", "stretching"])
def test_pixels_have_the_score_of_the_file_that_holds_them(
    request, tmp_path, bits, kind
):
    directory, _ = request.getfixturevalue(kind)
    pixels = make_breast(1) >> (16 - bits)
    if bits == 8:
        pixels, path = pixels.astype(np.uint8), tmp_path / "a.png"
        cv2.imwrite(str(path), pixels)
    else:
        path = tmp_path / "a.dcm"
        write_dicom(path, pixels, BitsStored=bits, HighBit=bits - 1)
    expected = _score_of_command(directory, path, tmp_path / "out")
    assert float(load(directory)(pixels, bits=bits)) == pytest.approx(
        expected, rel=1e-5
    )


def test_a_stack_of_any_length_has_the_scores_of_its_images(model):
    scorer = load(model[0])
    stack = np.stack([make_breast(seed) >> 4 for seed in range(5)])
    singly = [float(scorer(one)) for one in stack]
    assert scorer(stack[0]).shape == ()
    assert scorer(stack).shape == (5,)
    assert scorer(stack) == pytest.approx(singly, rel=1e-5)
    assert len(set(singly)) == 5


def test_an_ensemble_is_the_mean(model, other):
    pixels = make_breast(0) >> 4
    scores = [float(load(one)(pixels)) for one in (model[0], other[0])]
    both = load([str(model[0]), other[0]])
    assert float(both(pixels)) == pytest.approx(np.mean(scores), rel=1e-5)
    assert both.description == load(model[0]).description


def test_a_network_is_compiled_once_a_size(model, monkeypatch):
    from mammo_jax.prediction.scorer import Scorer

    compile_model, sizes = Scorer._compile, []

    def count(self, one):
        sizes.append(self.batch_size)
        return compile_model(self, one)

    monkeypatch.setattr(Scorer, "_compile", count)
    scorer, stack = load(model[0]), np.stack([make_breast(0) >> 4] * 3)
    for _ in range(2):
        scorer(stack)
        scorer(stack[0])
    assert sorted(sizes) == [1, 2]


BREAST = make_breast(0)


@pytest.mark.parametrize(
    ("pixels", "bits", "expected"),
    [
        (BREAST / 65535, 16, "uint8 or uint16 pixels.*got float64"),
        (BREAST.tolist(), 16, "NumPy array.*got list"),
        (BREAST[0], 16, r"\(height, width\) or .*got uint16 \(170,\)"),
        (BREAST[None, None], 16, r"got uint16 \(1, 1, 300, 170\)"),
        (BREAST[:0], 16, r"got uint16 \(0, 170\)"),
        (BREAST, 12, r"values up to 4095 \(bits=12\); got"),
        (BREAST, 7, "7 bits do not go with"),
        (BREAST, 17, "17 bits do not go with"),
        ((BREAST >> 8).astype(np.uint8), 12, "12 bits do not go with uint8"),
        (np.full_like(BREAST, 7), 16, "image 0: the image is blank"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_pixels_are_refused_by_what_was_expected(model, pixels, bits, expected):
    with pytest.raises(UserError, match=expected):
        load(model[0])(pixels, bits=bits)


@pytest.mark.parametrize(
    ("directories", "expected"),
    [("nowhere", "nowhere: no such directory"), ([], "no directory is named")],
)
def test_a_directory_that_is_missing_is_named(directories, expected):
    with pytest.raises(UserError, match=expected):
        load(directories)
