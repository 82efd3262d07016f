"""A model that is passed on: its folder, what is refused, and how it is checked."""

import errno
import json
import os
import re
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pydicom
import pytest
import safetensors.numpy
import yaml
from script_runs import run_script
from tiny_runs import HEIGHT, write_run

from mammo_jax.common.errors import UserError
from mammo_jax.common.run_directory import as_json, read_json, write_json
from mammo_jax.config import PRESETS, apply_preset, whole_config
from mammo_jax.images.grid import to_grid
from mammo_jax.phantom import write_cbis_ddsm
from mammo_jax.prediction import expected_scores, sharing
from mammo_jax.prediction.expected_scores import TOLERANCE, score_again
from mammo_jax.prediction.leaks import refuse_leaks
from mammo_jax.prediction.model import Model
from mammo_jax.prediction.scorer import make_step
from mammo_jax.weights.model_description import load_description, save_description
from mammo_jax.weights.model_directory import (
    load_model,
    load_variables,
    save_variables,
)
from mammo_jax.weights.released import CITATION, LICENCE

CODE, NUMBER, HOME = "Jane-1956", 483_921, "/home/jane"
TEST = {"images": 20, "patients": 9, "malignant": 8, "auc": 0.8125}
TEST |= {"auc_95_low": 0.7, "auc_95_high": 0.95}
TABLE = "image_index,malignant_pred,malignant_label,patient_id,laterality,view\n"


def change(path: Path, *keys: str, value: object) -> None:
    """Sets a field of a JSON file."""
    content = read_json(path)
    part = content
    for key in keys[:-1]:
        part = part.setdefault(key, {})
    part[keys[-1]] = value
    write_json(path, content)


def describe(directory: Path, **changes: object) -> None:
    for key, value in changes.items():
        change(directory / "model.json", key, value=value)


def front_matter(folder: Path) -> dict:
    text = (folder / "README.md").read_text("utf-8")
    # As the hub finds it.
    found = re.match(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))", text)
    return yaml.safe_load(found[2])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run as a training leaves it on somebody's machine."""
    run = tmp_path_factory.mktemp("made") / "run"
    write_run(run)
    metrics = {"task": "whole", "test": TEST, "validation": TEST | {"auc": None}}
    metrics["ensemble"] = {"members": {f"{HOME}/other": TEST}}
    write_json(run / "metrics.json", metrics)
    config = run / "config.json"
    change(config, "data", "data_dir", value=f"{HOME}/data")
    change(config, "patch", "data", "data_dir", value=f"{HOME}/data")
    change(config, "patch", "pretrained", value=f"{HOME}/resnet50.safetensors")
    change(config, "init_from", value=f"{HOME}/runs/first")
    change(config, "ensemble", value=f"{HOME}/runs/a, ~/b,C:\\jane\\c")
    (run / "predictions").mkdir()
    (run / "predictions" / "test.csv").write_text(
        f"{TABLE}x_{CODE},0.5,1,{CODE},,\n{NUMBER},0.5,1,{CODE},,\n"
    )
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "state.pkl").write_bytes(b"state")
    return run


@pytest.fixture
def run(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shared") / "film model"
    assert sharing.share_model(made, out, "cc-by-4.0") == "cc-by-4.0"
    return out


@pytest.fixture
def shared(folder, tmp_path) -> Path:
    return shutil.copytree(folder, tmp_path / "shared")


def test_six_files_are_shared_and_nothing_of_the_machine_or_its_patients(folder):
    assert {entry.name for entry in folder.iterdir()} == {*sharing.SHARED}
    for path in folder.iterdir():
        content = path.read_bytes()
        assert b"jane" not in content.lower(), path.name
    config = read_json(folder / "config.json")
    assert config["data"]["data_dir"] == config["patch"]["data"]["data_dir"] == "data"
    assert config["patch"]["pretrained"] == "resnet50.safetensors"
    assert config["init_from"] == "first"
    assert config["ensemble"] == "a,b,c"
    assert "ensemble" not in read_json(folder / "metrics.json")


def test_the_shared_model_is_the_runs(made, folder):
    ours, theirs = load_model(made), load_model(folder)
    assert theirs.description == ours.description
    assert theirs.model_config == ours.model_config
    for name, value in ours.params.items():
        np.testing.assert_array_equal(theirs.params[name], value)


def test_the_hubs_library_reads_the_card(folder):
    hub = pytest.importorskip("huggingface_hub", reason="of the extra `hub`")
    card = hub.ModelCard((folder / "README.md").read_text("utf-8"))
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("roc_auc", 0.8125)
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "mammo_jax")


def test_the_front_matter_is_the_hubs(folder):
    front = front_matter(folder)
    assert front["license"] == "cc-by-4.0"
    assert front["library_name"] == "mammo_jax"
    assert front["pipeline_tag"] == "image-classification"
    assert "datasets" not in front  # "made/up" is no public set.
    (index,) = front["model-index"]
    (result,) = index["results"]
    assert index["name"] == "film model"
    assert result["dataset"] == {"name": "made/up", "type": "made", "split": "test"}
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("roc_auc", 0.8125)
    assert "0.700 to 0.950" in metric["name"]


def test_the_card_says_what_the_model_is_and_is_not(folder):
    text = (folder / "README.md").read_text("utf-8")
    for part in (
        "# film model",
        "| validation | 20 | 9 | 8 | undefined |",
        "| test | 20 | 9 | 8 | 0.812 (95 %, over patients: 0.700 to 0.950) |",
        "Splits: train for training, validation for validation, test for the test.",
        "No calibration was fitted",
        "not a medical device",
        "Training went on from the model first, whose terms hold, too.",
    ):
        assert part in text


def test_the_card_of_phantoms_claims_nothing_about_patients(run, tmp_path):
    describe(run, phantoms=True, dataset="cbis_ddsm/paper_whole_h576")
    describe(run, calibration=[0.5, -1.25], threshold=0.25)
    sharing.share_model(run, tmp_path / "out", None)
    front = front_matter(tmp_path / "out")
    assert front["license"] == "unknown"
    assert "synthetic" in front["tags"]
    (index,) = front["model-index"]
    assert index["results"][0]["dataset"] == {
        "name": "cbis_ddsm/paper_whole_h576 (phantoms)",
        "type": "phantoms",
        "split": "test",
    }
    assert "datasets" not in front
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "no figure here says anything about patients" in text
    assert "log-odds times 0.5 plus -1.25" in text
    assert "From the score 0.25 on" in text
    assert "named no licence" in text
    assert "CC BY 3.0" not in text


def test_the_card_says_where_the_test_images_were_trained_on(run, tmp_path):
    change(run / "config.json", "data", "train_split", value="test")
    sharing.share_model(run, tmp_path / "out", None)
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "The model was trained on the test images" in text
    assert "The splits are by patient" not in text
    assert "figures of the test count" not in text
    assert "model-index" not in front_matter(tmp_path / "out")


@pytest.mark.parametrize("said", [True, False])
def test_the_card_says_where_the_test_images_chose_the_epoch(run, tmp_path, said):
    if said:
        change(run / "metrics.json", "test_images_chose_the_epoch", value=True)
    else:  # As the preset `inbreast` names them.
        change(run / "config.json", "data", "test_split", value="validation")
    sharing.share_model(run, tmp_path / "out", None)
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "their AUC is too high" in text
    assert "figures of the test count" not in text
    assert "model-index" not in front_matter(tmp_path / "out")


def test_a_public_data_set_is_named_with_its_terms(run, tmp_path):
    describe(run, dataset="inbreast/whole")
    sharing.share_model(run, tmp_path / "out", "other")
    assert front_matter(tmp_path / "out")["datasets"] == ["inbreast"]
    assert "not to be passed on" in (tmp_path / "out" / "README.md").read_text("utf-8")


HOSTILE = 'x"\n---\nlicense: mit\n# [a](b) <script> {c}: &d *e !f \x1b\ud800\u2028g'


def test_hostile_names_stay_texts(run, tmp_path):
    describe(run, dataset=HOSTILE, class_names=["| a |", "`b`"])
    out = tmp_path / "- {a: &b}, #c"
    sharing.share_model(run, out, None)
    front = front_matter(out)
    assert front["license"] == "unknown"
    (index,) = front["model-index"]
    assert index["name"] == out.name
    named = index["results"][0]["dataset"]["name"]
    assert named == 'x" --- license: mit # [a](b) <script> {c}: &d *e !f g'
    text = (out / "README.md").read_text("utf-8")
    assert "<script>" not in text.split("---\n", 2)[2]
    assert [line for line in text.splitlines() if line.startswith("---")] == ["---"] * 2


def test_the_licence_of_the_authors_binds_what_is_trained_from_their_model(
    run, tmp_path
):
    credit = f"The paper's authors released it ({LICENCE}); cite: {CITATION}."
    describe(run, credit=credit)
    with pytest.raises(UserError, match=r"under CC BY-NC-SA .*; leave the option out"):
        sharing.share_model(run, tmp_path / "out", "apache-2.0")
    assert not (tmp_path / "out").exists()
    assert sharing.share_model(run, tmp_path / "out", None) == "cc-by-nc-sa-4.0"
    assert front_matter(tmp_path / "out")["license"] == "cc-by-nc-sa-4.0"
    assert CITATION in (tmp_path / "out" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("licence", ["", "CC BY 4.0", "mit\nx: y", "m" * 100])
def test_a_licence_that_is_none_is_refused(run, tmp_path, licence):
    with pytest.raises(UserError, match="is no identifier") as caught:
        sharing.share_model(run, tmp_path / "out", licence)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "keys", "value", "kind"),
    [
        ("config.json", ("data", "dataset"), f"of {CODE}", "patient's code"),
        ("config.json", ("data", "dataset"), "of P_00016", "patient's code"),
        ("metrics.json", ("test", "worst"), [f"x_{CODE}"], "patient's code"),
        ("metrics.json", ("test", "worst"), f"run_{CODE}_2", "patient's code"),
        ("metrics.json", ("from",), "https://a.org/P_00016.png", "patient's code"),
        ("metrics.json", ("test", CODE), 0.5, "patient's code"),
        ("metrics.json", ("two\nlines",), CODE, "patient's code"),
        ("metrics.json", ("test", "a"), "0123456789abcdef_MG_L", "patient's code"),
        ("metrics.json", ("test", "a"), "1.2.840.10008.1.2.1", "patient's code"),
        ("metrics.json", ("test", "a"), "case_0012", "patient's code"),
        ("metrics.json", ("rows", "patient_id"), [], "prediction table"),
        ("metrics.json", ("from",), f"see {HOME}/x", "path"),
        ("metrics.json", ("from",), "file:///srv/x", "path"),
        ("metrics.json", ("from",), r"D:\jane", "path"),
        ("config.json", ("stages", "~/mine"), 1, "path"),
        ("model.json", ("credit",), "made in ~jane/runs", "path"),
        ("model.json", ("class_names",), ["a", "\\\\server\\x"], "path"),
        ("metrics.json", ("from",), f"of {CODE.upper()}", "patient's code"),
        *(
            ("metrics.json", ("from",), code, "patient's code")
            for code in ("p_00016", "P-00016", "Case_0012", "0123456789ABCDEF")
        ),
        ("metrics.json", ("test", "worst"), NUMBER, "patient's code"),
        ("metrics.json", ("test", "worst"), float(NUMBER), "patient's code"),
        *(
            ("metrics.json", ("from",), text, "path")
            for text in (
                f"see https://x.org;{HOME}/x",
                f"(https://x.org){HOME}/x",
                f"hf://a/b,{HOME}/c",
                f"hf://a/b@main{HOME}/c",
                f"../..{HOME}/x",
                "data/../../jane",
                "$HOME/jane",
                "${HOME}/jane",
                r"%USERPROFILE%\jane",
            )
        ),
        ("config.json", ("pretrained",), "https://jane:t@srv/w.npz", "credentials"),
        ("metrics.json", ("from",), "ssh://jane@server", "credentials"),
    ],
)
def test_codes_tables_and_paths_are_refused_without_being_quoted(
    run, tmp_path, file, keys, value, kind
):
    change(run / file, *keys, value=value)
    with pytest.raises(UserError, match=kind) as caught:
        sharing.share_model(run, tmp_path / "out", None)
    message = str(caught.value)
    assert message.startswith(f"{file} (")
    assert len(message.splitlines()) == 1
    assert "share again" in message
    secrets = (CODE, "00016", "0123456789abcdef", "840", "case_", "jane", "server")
    for secret in (s.lower() for s in (*secrets, str(NUMBER), "USERPROFILE")):
        assert secret not in message.lower().replace(str(tmp_path), "")
    assert {entry.name for entry in tmp_path.iterdir()} == {"run"}


def test_metadata_of_the_weights_are_looked_through(run, tmp_path):
    path = run / "model.safetensors"
    values = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(values, path, {"made": f"from {HOME}/x"})
    save_description(run, load_description(run))
    with pytest.raises(UserError, match=r"model\.safetensors \(made\) holds a path"):
        sharing.share_model(run, tmp_path / "out", None)


def test_codes_of_a_table_that_cannot_be_read_are_not_guessed(run, tmp_path):
    (run / "predictions" / "test.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"test\.csv: not a CSV table"):
        sharing.share_model(run, tmp_path / "out", None)


def test_a_folder_named_after_a_patient_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="another name"):
        sharing.share_model(run, tmp_path / f"{CODE.lower()}-model", None)


@pytest.mark.parametrize(
    "text",
    [
        *("512-512-1024x2", "cbis_ddsm/paper_whole", "https://a.org/b/c", "1 / 2"),
        *(
            "and/or",
            "and",
            "anders",
            "hf://who/model@main",
            "hf://who/a.model, hf://my_org/b-2",
            "(https://medium.com/@who/x), and ...",
            "0.5",
            CITATION,
            "f" * 64,
            "2017",
            *("score 3-0", "19_2 of them", r"a\_b", r"\*", "a patient's image"),
            "No patient ID is in this file.",
            "Split by patient_id, not by image.",
            "the column 'patient_id'",
            "(patient ID) is left out",
        ),
    ],
)
def test_ordinary_texts_hold_nothing(text):
    refuse_leaks("file", {"a": [text]}, {"P1", "anderson"}, "remedy")


def test_short_codes_are_in_any_file(run, tmp_path):
    (run / "predictions" / "test.csv").write_text(
        "image_index,patient_id\nim1,3-0\nim2,19_2\nim3,No 7\n"
    )
    change(run / "metrics.json", "note", value="3-0, 19_2 and no 7")
    with pytest.raises(UserError, match="a patient's code"):
        sharing.share_model(run, tmp_path / "out", None)
    change(run / "metrics.json", "note", value="3-0 and 19_2")
    sharing.share_model(run, tmp_path / "out", None)


def test_tables_behind_a_link_are_not_taken_for_none(run, tmp_path):
    elsewhere = shutil.move(run / "predictions", tmp_path / "elsewhere")
    (run / "predictions").symlink_to(elsewhere)
    with pytest.raises(UserError, match="predictions is a link to a folder"):
        sharing.share_model(run, tmp_path / "out", None)


@pytest.mark.parametrize("code", ["P\u201100016", "P\u00ad_00016"])
def test_codes_are_found_behind_other_dashes(run, tmp_path, code):
    change(run / "metrics.json", "note", value=code)
    with pytest.raises(UserError, match="a patient's code"):
        sharing.share_model(run, tmp_path / "out", None)


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_what_is_no_json_is_not_passed_on(run, tmp_path, name):
    change(run / name, "more", value=float("nan"))
    with pytest.raises(UserError, match=f"{name} holds NaN or Infinity"):
        sharing.share_model(run, tmp_path / "out", None)


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_holds_anything(preset):
    config = as_json(apply_preset(whole_config(), preset))
    refuse_leaks("config.json", sharing.without_paths(config), (), "remedy")


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sharing, "write_weights", fail)
    done = run_script("share_model.py", run, f"--out={tmp_path / 'new' / 'out'}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("cannot be written: No space left on device")
    assert {entry.name for entry in tmp_path.iterdir()} == {"run"}


def test_a_signal_leaves_nothing(run, tmp_path, monkeypatch):
    def stop(_):
        signal.raise_signal(signal.SIGTERM)
        return []

    monkeypatch.setattr(sharing, "expected_scores", stop)
    done = run_script("share_model.py", run, f"--out={tmp_path / 'new' / 'out'}")
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr == "stopped: give the same command again\n"
    assert {entry.name for entry in tmp_path.iterdir()} == {"run"}


def test_a_folder_with_something_in_it_is_refused(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty; name a new"):
        sharing.share_model(run, tmp_path / "out", None)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("value", ["high", float("nan"), 1.5, True])
def test_figures_that_are_none_are_refused(run, tmp_path, value):
    change(run / "metrics.json", "test", "auc", value=value)
    with pytest.raises(
        UserError, match=r"metrics\.json (is damaged: test\.auc|holds NaN)"
    ):
        sharing.share_model(run, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_a_run_of_the_first_format_is_shared_in_todays(run, tmp_path):
    content = read_json(run / "model.json")
    del content["format"], content["sha256"]
    write_json(run / "model.json", content)
    sharing.share_model(run, tmp_path / "out", None)
    shared = read_json(tmp_path / "out" / "model.json")
    assert shared["format"] == 2
    assert len(shared["sha256"]) == 64


def test_anyone_can_draw_the_phantoms_and_gets_the_scores(folder, tmp_path):
    rows = score_again(load_model(folder), folder)
    raw = tmp_path / "raw"
    write_cbis_ddsm(raw, cases=4, seed=0, height=HEIGHT, num_workers=1)
    films = {}
    for path in sorted(raw.rglob("*.dcm")):
        named = re.match(r".*(P_\d+)_(LEFT|RIGHT)_(CC|MLO)$", path.parts[-4])
        if named and named[3] == "CC":
            films.setdefault(named[1], path)
    scorer = Model([load_model(folder)])
    for number, patient in enumerate(sorted(films)):
        pixels = pydicom.dcmread(films[patient]).pixel_array
        (expected, _) = rows[number]
        assert expected.phantom == number + 1
        assert float(scorer(pixels, 16)) == pytest.approx(expected.score, abs=1e-6)
    assert len(films) == len(rows) == 4


def test_the_scores_are_in_float32_whatever_the_model_computes_in(shared):
    change(shared / "config.json", "model", "compute_dtype", value="bfloat16")
    for there, here in score_again(load_model(shared), shared):
        assert here.score == pytest.approx(there.score, abs=1e-6)


def test_a_card_with_tf32_is_asked_for_all_digits(shared, monkeypatch):
    precisions = []

    def watched(model, **how):
        step = make_step(model, **how)

        def note(*arrays):
            precisions.append(jax.config.jax_default_matmul_precision)
            return step(*arrays)

        return note

    monkeypatch.setattr(expected_scores, "make_step", watched)
    score_again(load_model(shared), shared)
    assert precisions == ["highest"]


def test_what_was_passed_on_can_be_passed_on_again(folder, tmp_path):
    again = tmp_path / folder.name
    sharing.share_model(folder, again, "cc-by-4.0")
    for name in sharing.SHARED:
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_patch_classifier_is_shared_and_checked(tmp_path):
    write_run(tmp_path / "run", "patch")
    sharing.share_model(tmp_path / "run", tmp_path / "out", None)
    pairs = sharing.check_model(tmp_path / "out")
    assert all(abs(there.score - here.score) <= TOLERANCE for there, here in pairs)
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "patches of mammograms" in text
    assert "There are no figures" in text


def test_a_patch_classifiers_figures_are_of_patches(tmp_path):
    write_run(tmp_path / "run", "patch")
    write_json(tmp_path / "run" / "metrics.json", {"test": TEST})
    change(tmp_path / "run" / "config.json", "pretrained", value="w/imagenet_v2.h5")
    sharing.share_model(tmp_path / "run", tmp_path / "out", None)
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "| split | patches |" in text
    assert r"began with the weights imagenet\_v2.h5; ImageNet's own terms" in text
    (index,) = front_matter(tmp_path / "out")["model-index"]
    assert index["results"][0]["metrics"][0]["name"].startswith("AUC of patches (95")


def test_the_commands_share_and_check(run):
    done = run_script("share_model.py", run, "--licence=mit")
    assert done.returncode == 0, done.stderr
    out = Path(f"{run}-shared")
    assert done.stdout.startswith(f"{out}: read its README.md before you pass it on")
    done = run_script("check_model.py", out)
    assert done.returncode == 0, done.stderr
    header, *rows, last = done.stdout.splitlines()
    assert header.split() == ["phantom", "expected", "here"]
    assert len(rows) == 4
    assert all(row.split()[1] == row.split()[2] for row in rows)
    assert "scores as it did" in last


def check(folder: Path) -> tuple[str, str]:
    """Returns what the command prints of a folder that fails, and its one line."""
    done = run_script("check_model.py", folder)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return done.stdout, line


def test_another_models_weights_are_found_by_their_scores(shared):
    _, params, stats = load_variables(shared)
    said = load_description(shared)
    bias = np.asarray(params["top/output/bias"]) + np.float32([0, 0.001])
    save_variables(shared, params | {"top/output/bias": bias}, stats)
    assert "SHA-256 is not the one" in check(shared)[1]
    save_description(shared, said)
    shown, line = check(shared)
    assert len(shown.splitlines()) == 5
    assert "4 of 4 scores of phantoms differ by more than 0.0001" in line
    assert "does not compute what it did" in line


def test_phantoms_that_are_drawn_otherwise_are_not_the_models_fault(
    shared, monkeypatch
):
    monkeypatch.setattr(
        expected_scores, "to_grid", lambda *given, **how: to_grid(*given, **how) // 2
    )
    line = check(shared)[1]
    assert "drawn otherwise here" in line
    assert "nothing can be said of the model" in line


def rewrite(shared: Path, row: int, column: str, cell: str) -> None:
    path = shared / "expected_scores.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[row][lines[0].index(column)] = cell
    path.write_text("\n".join(map(",".join, lines)))


def test_another_version_of_the_generator_is_named(shared):
    rewrite(shared, 1, "generator", "7")
    assert "version 7, and this mammo_jax draws version 1" in check(shared)[1]


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("phantom", "5"),
        ("seed", "-1"),
        ("height", "10000000"),
        ("height", "1e3"),
        ("pixels", "abc"),
        ("score", "nan"),
        ("score", "1.5"),
        ("score", ""),
    ],
)
def test_a_damaged_table_of_scores_is_refused(shared, column, cell):
    rewrite(shared, 2, column, cell)
    line = check(shared)[1]
    assert "row 3" in line
    assert column in line


def test_phantoms_larger_than_the_models_images_are_not_drawn(shared, monkeypatch):
    rewrite(shared, 2, "height", "16384")
    monkeypatch.setattr(expected_scores, "draw_view", None)
    line = check(shared)[1]
    assert f"of height 16384, and the model's are of {HEIGHT}; share-model" in line


def test_too_few_or_many_rows_are_refused(shared):
    path = shared / "expected_scores.csv"
    header, *rows = path.read_text().splitlines(keepends=True)
    for count in (0, 5):
        path.write_text("".join([header, *(rows * 2)[:count]]))
        assert "must be those of the phantoms 1 to 4" in check(shared)[1]
    path.write_text("".join([header, *rows[::-1]]))
    assert "in order" in check(shared)[1]


def test_a_folder_in_a_files_place_is_not_looked_into(shared):
    (shared / "README.md").unlink()
    (shared / "README.md").mkdir()
    (shared / "README.md" / "state.pkl").write_bytes(b"")
    assert "README.md is no file; open none of it" in check(shared)[1]


def test_nothing_is_hidden_in_the_header_of_the_weights(run, tmp_path):
    path = run / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for entry in header.values():
        entry["patient"] = "Anna Muster"
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + content[8 + length :])
    save_description(run, load_description(run))
    sharing.share_model(run, tmp_path / "out", None)
    assert b"Muster" not in (tmp_path / "out" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("Müller", "u\u0308ber Mu\u0308ller"),
        ("Doe^Jane", "of Doe Jane"),
        ("p-77-x", "P_77_X"),
        ("12-345", "12_345"),
        ("A-1", "of A 1"),
        ("Anderson", "of Ander\u00adson"),
    ],
)
def test_codes_are_found_however_they_are_written(run, tmp_path, code, text):
    table = f"image_index,PatientID\nim1,{code}\n"
    (run / "TEST.CSV.part.bak").write_text(table)
    change(run / "metrics.json", "note", value=text)
    with pytest.raises(UserError, match="a patient's code"):
        sharing.share_model(run, tmp_path / "out", None)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("image_index,patient_id\n1,Anna", "rows of a prediction table"),
        ("https:///home/jane/x", "a path"),
        ("in \\Users\\jane", "a path"),
        *(
            (text, "rows of a prediction table")
            for text in (
                '["patient_id", 1]',
                "PatientID,score\nx,0.5",
                "ImageIndex\tscore",
                "score;Patient ID",
                "image_index  patient_id  label\n im1  p1  0",
                "score,\ufeffpatient\u00a0id",
            )
        ),
        *(
            (text, "a path")
            for text in (
                r"\\fs-01\data\jane",
                r"\\nas.hospital.de\share\x",
                r"\\srv01$\x",
                r"\Program Files\x",
            )
        ),
    ],
)
def test_tables_and_paths_within_texts_are_found(run, tmp_path, text, kind):
    change(run / "metrics.json", "note", value=text)
    with pytest.raises(UserError, match=kind):
        sharing.share_model(run, tmp_path / "out", None)


def test_what_does_not_belong_to_a_model_is_named(shared):
    (shared / "LICENSE").write_text("terms")
    (shared / "weights.pkl").write_bytes(b"")
    (shared / "predictions").mkdir()
    assert "holds more than a model: 'predictions', 'weights.pkl'" in check(shared)[1]


def test_a_run_that_was_not_shared_cannot_be_checked(run):
    assert "has no README.md, expected_scores.csv; share-model" in check(run)[1]
    assert "no such directory" in check(run / "nowhere")[1]


def test_other_peoples_json_is_escaped_in_tables(run, tmp_path):
    change(run / "metrics.json", "test", "images", value="9 | <b>")
    change(run / "config.json", "data", "train_split", value="a | `b`")
    sharing.share_model(run, tmp_path / "out", None)
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert r"9 \| \<b\>" in text
    assert r"a \| \`b\`" in text
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_a_start_on_a_hub_stays_named():
    kept = {"init_from": "hf://a/b@c", "pretrained": ""}
    kept["ensemble"] = "hf://a/b, ~/x/y, hf://c/d@v1"
    expected = {**kept, "ensemble": "hf://a/b,y,hf://c/d@v1"}
    assert sharing.without_paths(kept) == expected


def test_a_hubs_name_that_markdown_escapes_is_no_path(run, tmp_path):
    change(run / "config.json", "init_from", value="hf://my_org/a_model@v_1")
    sharing.share_model(run, tmp_path / "out", None)
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert r"from the model hf://my\_org/a\_model@v\_1, whose" in text
