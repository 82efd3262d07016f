"""Models as one file."""

import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import cv2
import jax
import numpy as np
import pytest
from doc_pages import ROOT, blocks
from google.protobuf.message import EncodeError
from predicting import by_hand, make_breast, read_scores, run_predict
from raw_files import write_dicom
from tiny_runs import HEIGHT, WIDTH, write_run

from mammo_jax.common.errors import UserError
from mammo_jax.prediction import onnx_export
from mammo_jax.prediction.export import export_models
from mammo_jax.weights.model_directory import load_model

_SCORE_WITHOUT_US = """
import json, sys
import numpy as np
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mammo_jax", "flax", "orbax", "cv2", "pydicom"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from jax import export
score = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = np.load(sys.argv[2])
print(json.dumps([score.call(images[:n]).tolist() for n in (1, 3)]))
print(json.dumps(score.platforms))
"""


def test_an_export_scores_with_jax_alone(model, other, tmp_path):
    exported = tmp_path / "folder" / "model.jax"
    models = f"--model={model[0]},{other[0]}"
    assert run_predict(models, "--tta", f"--export={exported}") == 0
    images = np.stack(
        [
            cv2.resize(make_breast(s), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
            for s in range(3)
        ]
    )
    np.save(tmp_path / "images.npy", images)
    result = subprocess.run(
        [sys.executable, "-c", _SCORE_WITHOUT_US, exported, tmp_path / "images.npy"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    one, three = json.loads(result.stdout.splitlines()[0])
    assert json.loads(result.stdout.splitlines()[1]) == ["cpu", "cuda"]
    expected = [
        np.mean(
            [
                by_hand(network, flipped)
                for network in (model[1], other[1])
                for flipped in (i, i[:, ::-1], i[::-1], i[::-1, ::-1])
            ]
        )
        for i in images
    ]
    assert three == pytest.approx(expected, rel=1e-4)
    assert one == pytest.approx(expected[:1], rel=1e-4)


@pytest.mark.parametrize("tta", [False, True])
def test_an_export_holds_no_path_of_the_machine(model, tmp_path, tta):
    exported = tmp_path / "model.jax"
    before = jax.config.jax_traceback_in_locations_limit
    export_models(exported, [load_model(model[0])], tta=tta, credit="")
    content = exported.read_bytes()
    named = (ROOT, Path.home(), Path(jax.__file__).parent, tmp_path)
    for name in (*map(str, named), "mammo_jax/", "site-packages"):
        assert name.encode() not in content
    assert jax.config.jax_traceback_in_locations_limit == before


def _documented_export() -> str:
    """The page's Python that scores with an export."""
    block, _of_onnx = blocks(ROOT / "docs" / "scoring.md", "python")
    return block


@pytest.mark.parametrize(
    ("bits", "stretch"), [(8, False), (12, False), (16, False), (8, True)]
)
def test_the_documented_way_with_an_export_gives_predicts_score(
    model, stretching, tmp_path, monkeypatch, bits, stretch
):
    directory, _ = stretching if stretch else model
    pixels = make_breast(1) >> (16 - bits)
    path = tmp_path / f"in.{'png' if bits == 8 else 'dcm'}"
    if bits == 8:
        pixels = pixels.astype(np.uint8)
        cv2.imwrite(str(path), pixels)
    else:
        write_dicom(path, pixels, BitsStored=bits, HighBit=bits - 1)
    command = (f"--model={directory}", f"--out={tmp_path / 'out'}")
    assert run_predict(*command, f"--export={tmp_path / 'model.jax'}", path) == 0
    (score,) = read_scores(tmp_path / "out" / "predictions.csv").values()
    monkeypatch.chdir(tmp_path)
    names = {"pixels": pixels, "bits": bits, "stretch": stretch}
    names |= {"height": HEIGHT, "width": WIDTH}
    *code, last = _documented_export().splitlines()
    exec("\n".join([*code, f"found = {last}"]), names)
    assert float(names["found"][0]) == pytest.approx(score, rel=1e-6)


def test_an_export_may_lie_in_the_output(model, folder, tmp_path):
    out = tmp_path / "out"
    command = (f"--model={model[0]}", f"--out={out}", f"--export={out / 'model.jax'}")
    for _ in range(2):
        assert run_predict(*command, folder) == 0
        assert (out / "model.jax").is_file()
        assert len(read_scores(out / "predictions.csv")) == 4


def test_onnx_without_its_library_says_what_to_install(
    model, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    exported = tmp_path / "model.ONNX"
    assert run_predict(f"--model={model[0]}", f"--export={exported}") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: --export=FILE.onnx needs jax2onnx; install it with:")
    assert said.endswith("--editable '.[onnx]'\n")
    assert not exported.exists()


@pytest.mark.parametrize("error", [None, EncodeError("too large"), ValueError()])
def test_onnx_of_a_model_that_is_too_large_is_refused(
    model, tmp_path, monkeypatch, error
):
    made = mock.MagicMock()
    made.SerializeToString.return_value = b"12345"
    made.SerializeToString.side_effect = error
    libraries = {"jax2onnx": mock.Mock(**{"to_onnx.return_value": made})}
    monkeypatch.setattr(onnx_export, "LARGEST", 4)
    models = [load_model(model[0])]
    with (
        mock.patch.dict(sys.modules, libraries | {"onnx": mock.Mock()}),
        pytest.raises(UserError, match="no more than 2 GB") as caught,
    ):
        export_models(tmp_path / "model.onnx", models, tta=False, credit="")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "model.onnx").exists()


def test_onnx_of_a_model_in_bfloat16_is_refused(tmp_path):
    write_run(tmp_path / "run", compute_dtype="bfloat16")
    models = [load_model(tmp_path / "run")]
    with pytest.raises(UserError, match="bfloat16, which ONNX's convolutions do not"):
        export_models(tmp_path / "model.onnx", models, tta=False, credit="")
    assert not (tmp_path / "model.onnx").exists()
