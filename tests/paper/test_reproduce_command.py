"""scripts/reproduce.py as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from paper import command, effects, gate, rescoring, runs, scales
from paper.rows import load_rows

REPOSITORY = Path(__file__).parents[2]
ROWS = load_rows(REPOSITORY / "configs" / "paper_rows.py")


def run(*arguments):
    return subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "reproduce.py", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_names_the_options():
    text = run("--help").stdout
    for option in ("--table", "--figure", "--rows", "--preset", "--seeds", "--plan"):
        assert option in text


def test_an_unknown_table_is_one_clear_line(tmp_path):
    done = run("--table=9", f"--out={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: --table: there is no '9'; choose from 1, 2, 3, 4, later, ours, ensemble"
    ]


def test_a_plan_and_results_at_once_are_refused(tmp_path):
    results = tmp_path / "R.md"
    done = run("--plan", f"--write_results={results}", f"--out={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: --plan runs and writes nothing; leave it out, or --write_results"
    ]
    assert not results.exists()


@pytest.mark.parametrize(
    ("results", "again", "said"),
    [
        ("", "second", "--replication is for --write_results"),
        ("R.md", "nowhere", "nowhere holds no folder paper; it names the --out"),
        ("R.md", ".", "--replication and --out are the same folder"),
        ("R.md", "linked", "--replication and --out are the same folder"),
    ],
)
def test_a_replication_is_checked_before_any_work(results, again, said, tmp_path):
    for folder in ("second/paper", "paper"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path)
    written = [f"--write_results={tmp_path / results}"] if results else []
    done = run(f"--out={tmp_path}", f"--replication={tmp_path / again}", *written)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert said in line


@pytest.fixture
def tiny(monkeypatch):
    """A scale at which a run takes seconds."""
    few = {"cbis_ddsm": 30, "inbreast": 40, "pretraining": 20}
    for layout, cases in few.items():
        settings = {**scales.PHANTOMS[layout], "cases": cases}
        monkeypatch.setitem(scales.PHANTOMS, layout, settings)
    short = {"steps_per_epoch": 2, "eval_batch_size": 8, "batch_size": 4}
    for kind, fields in scales.FIELDS.items():
        trees = {"forest.trees": 5} if kind == "forest" else {}
        monkeypatch.setitem(scales.FIELDS, kind, fields | short | trees)
    for name, stages in scales.STAGES.items():
        once = {stage: (1, rate) for stage, (_, rate) in stages.items()}
        monkeypatch.setitem(scales.STAGES, name, once)
    pretraining = {"steps_per_epoch": 2, "stages.stage1.epochs": 1}
    monkeypatch.setattr(scales, "PRETRAINING", pretraining)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_rows_of_every_kind_run_from_nothing_to_results(tmp_path, monkeypatch):
    # Two steps of training carry nothing over.
    monkeypatch.setattr(gate, "LARGEST_DIFFERENCE", 1.0)
    request = command.check_request(
        ROWS,
        names=[
            "inbreast_vgg16_s10_vgg_512x1",
            "inbreast_vgg16_s10_vgg_512x1_20patients",
            "vgg16_s10_heatmap_1x1",
        ],
        preset="phantom",
        seeds=1,
        out=tmp_path,
    )
    text, failures = command.reproduce(request)
    assert failures == {}
    assert "VGG16, all patients" in text
    assert "VGG16 (s10), heatmap 1x1" in text
    assert all(planned.finished for planned in request.plan)
    found = runs.finished_runs(request.plan)
    rescoring.score_again(rescoring.BEFORE, found)
    row = "inbreast_vgg16_s10_vgg_512x1_20patients"
    scored = rescoring.scores(f"before: {row}", found)
    ((before,),) = scored.values()
    after = effects.test_table(found[row][0])
    assert sorted(before.image_ids) == sorted(after.image_ids)
    assert sorted(before.scores) != sorted(after.scores)
    again = command.reproduce(request)  # Nothing is left to do.
    assert again == (text, {})
    command.write_results(request, tmp_path / "RESULTS.md")
    results = (tmp_path / "RESULTS.md").read_text()
    assert "'cbis_ddsm': {'cases': 30" in results
    assert "| patch_vgg16_s10 " in results  # Its gate was measured.
    assert (tmp_path / "phantom" / "table_rows.csv").exists()
