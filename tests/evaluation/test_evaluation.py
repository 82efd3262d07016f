"""The evaluation as programs use it: a mapping of figures, a page."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.evaluation.evaluation import evaluate_predictions
from mammo_jax.evaluation.predictions import COLUMNS

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def table(tmp_path) -> Path:
    rows = [
        f"{i},0.{i + 1},{int(i in (3, 6, 7))},{i // 2},LEFT,{'CC' if i % 2 else 'MLO'}"
        for i in range(8)
    ]
    path = tmp_path / "predictions.csv"
    path.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    return path


def test_strings_paths_and_lists_are_alike_and_the_figures_are_json(table):
    figures = evaluate_predictions(str(table))
    assert isinstance(figures, Mapping)
    assert (
        dict(figures)
        == dict(evaluate_predictions(table))
        == dict(evaluate_predictions([table]))
    )
    assert json.loads(json.dumps(dict(figures))) == dict(figures)
    # The malignant images outrank 3, 5 and 5 of the 5 others.
    assert figures["auc"]["value"] == pytest.approx(13 / 15)


def test_the_page_names_no_folder_of_this_machine(table):
    page = table.parent / "report.html"
    evaluate_predictions(table).write_html(
        str(page), title="Mine", about=["What it is."]
    )
    text = page.read_text(encoding="utf-8")
    assert "<h1>Mine</h1>" in text
    assert "What it is." in text
    assert "predictions.csv" in text
    assert str(table.parent) not in text


@pytest.mark.parametrize("wrong", [3, [3], {"a": 1}, b"a.csv", [""]])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_path_is_refused_with_what_was_expected(wrong):
    with pytest.raises(UserError, match="must be the path of a prediction table"):
        evaluate_predictions(wrong)


def test_evaluation_loads_no_jax():
    # The room is pure: tables in, figures and pages out.
    program = (
        "import pkgutil, importlib, sys, mammo_jax.evaluation as room\n"
        "for module in pkgutil.iter_modules(room.__path__):\n"
        "    importlib.import_module(f'{room.__name__}.{module.name}')\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} "
        "& {'jax', 'jaxlib', 'flax'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert result.stdout.strip() == "[]"
