"""No text of a header in anything that building, training, scoring or sharing leave."""

import csv
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from raw_files import HEADER_SECRETS, fill_with_secrets, make_dataset, save
from whole_runs import REPOSITORY, command, tiny_run

_SHAPE = (288, 224)
_SPLITS = ("train", "train", "validation", "test")


def _write_raw(folder):
    """Eight images of four patients, a lesion in each, and three files to refuse."""
    folder.mkdir()
    rows, rois = [], []
    mask = np.zeros(_SHAPE, np.uint8)
    cv2.circle(mask, (60, 140), 14, 255, -1)
    cv2.imwrite(str(folder / "mask.png"), mask)
    for number in range(8):
        chance = np.random.default_rng(number)
        noise = chance.integers(9_000, 60_000, (9, 7)).astype(np.uint16)
        pixels = cv2.resize(noise, _SHAPE[::-1], interpolation=cv2.INTER_CUBIC)
        dataset = fill_with_secrets(make_dataset(pixels))
        dataset.ViewPosition, dataset.ImageLaterality = "CC", "LR"[number % 2]
        dataset.PresentationIntentType = "FOR PRESENTATION"
        save(dataset, folder / f"{number}.dcm")
        label, split = int(number % 4 < 2), _SPLITS[number // 2]
        side = ("LEFT", "RIGHT")[number % 2]
        rows.append([f"{number}.dcm", f"p{number // 2}", side, "CC", label, split])
        kind = "mass_malignant" if label else "mass_benign"
        rois.append([f"{number}.dcm", kind, "mask.png"])
    for name, changes in {
        "frames": {"NumberOfFrames": 3},
        "rows": {"Rows": 900},
        "raw": {"PresentationIntentType": "FOR PROCESSING"},
    }.items():
        dataset = fill_with_secrets(make_dataset(pixels + 1))
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        save(dataset, folder / f"{name}.dcm")
        rows.append([f"{name}.dcm", name, "LEFT", "CC", 0, "train"])
    for name, header, cells in (
        (
            "manifest.csv",
            ["path", "patient_id", "laterality", "view", "label", "split"],
            rows,
        ),
        ("rois.csv", ["path", "class", "mask"], rois),
    ):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *cells])


@pytest.mark.slow
def test_no_text_of_a_header_outlives_a_build_a_training_and_a_scoring(tmp_path):
    raw, made = tmp_path / "raw", tmp_path / "made"
    _write_raw(raw)
    build = [sys.executable, "scripts/build_dataset.py"]
    data = (f"--manual_dir={raw}", f"--data_dir={made / 'data'}", "--allow_problems")
    training = tiny_run(
        made / "data",
        made / "run",
        "--config.data.dataset=manifest/whole_h288",
        "--config.patch.data.dataset=manifest/s1_h288",
        "--config.batch_size=2",
        "--config.accum_steps=1",
        "--config.patch.batch_size=2",
    )
    predict = [sys.executable, "-m", "mammo_jax.predict", f"--model={made / 'run'}"]
    evaluate = [sys.executable, "-m", "mammo_jax.evaluate"]
    share = [sys.executable, "scripts/share_model.py"]
    check = [sys.executable, "scripts/check_model.py"]
    said = []
    for line, code in (
        ([*build, "manifest/whole_h288", *data], 0),
        ([*build, "manifest/s1_h288", *data], 0),
        (command(*training), 0),
        ([*predict, "--dicom", f"--out={made / 'scores'}", str(raw)], 3),
        ([*predict, f"--export={made / 'model.jax'}"], 0),
        ([*evaluate, f"--predictions={made / 'run'}", f"--out={made / 'report'}"], 0),
        ([*share, str(made / "run"), f"--out={made / 'shared'}"], 0),
        ([*check, str(made / "shared")], 0),
    ):
        done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, check=False)
        assert done.returncode == code, done.stderr.decode()[-2000:]
        said += [done.stdout, done.stderr]
    for path in (made / "model.jax", *(made / "shared").iterdir()):
        for folder in (tmp_path, REPOSITORY):
            assert str(folder).encode() not in path.read_bytes(), path.name
    files = [path for path in made.rglob("*") if path.is_file()]
    kinds = {"".join(path.suffixes[-1:]) for path in files}
    assert {".csv", ".html", ".json", ".png", ".dcm", ".safetensors"} <= kinds
    assert any("tfevents" in path.name for path in files)
    # Four letters occur by chance in a picture that is written as text.
    embedded = re.compile(rb"base64,[A-Za-z0-9+/=]*")
    said += [embedded.sub(b"", path.read_bytes()) for path in files]
    said += [str(path.relative_to(made)).encode() for path in files]
    for name in ("whole_h288", "s1_h288"):  # Their records are compressed.
        (folder,) = (made / "data" / "manifest" / name).glob("*.*.*")
        for examples in tfds.builder_from_directory(folder).as_data_source().values():
            assert len(examples) >= 2
            said += [repr({**one, "image": None}).encode() for one in examples]
    for secret in HEADER_SECRETS:
        found = [text for text in said if secret in text]
        assert not found, [text[text.index(secret) - 60 :][:160] for text in found]
