"""Effects, intervals and verdicts against independent computations and simulation."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from mammo_jax.common import run_directory
from mammo_jax.common.errors import UserError
from mammo_jax.evaluation.prediction_table import read_table
from paper import (
    claims,
    command,
    effects,
    gradients,
    rescoring,
    result_tables,
    runs,
)
from paper.claims import Finding, verdicts
from paper.effects import Effect
from paper.rows import by_name, load_rows

ROWS = load_rows(Path(__file__).parents[2] / "configs" / "paper_rows.py")
HEADER = "image_index,malignant_pred,malignant_label,patient_id,laterality,view"
POSITIVE, SMALL = (0.0, math.inf), (-0.05, 0.05)


def write_table(path, separation, seed, images=80):
    """Scores of two views of each patient; the truth is the same in every table."""
    labels = np.arange(images) // 2 % 2
    noise = np.random.default_rng(seed).normal(size=images)
    scores = 1 / (1 + np.exp(-(separation * labels + noise)))
    order = np.random.default_rng(seed).permutation(images)
    lines = [
        f"P_{i // 2:05}_LEFT_{'CM'[i % 2]},{scores[i]:.9g},{labels[i]},P_{i // 2:05},"
        f"LEFT,{('CC', 'MLO')[i % 2]}"
        for i in order
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return read_table(path)


def reference_auc(table):
    return sklearn.metrics.roc_auc_score(table.labels, table.scores)


def test_an_effect_is_the_mean_difference_of_replicates(tmp_path):
    first = [[write_table(tmp_path / f"a{s}.csv", 2.0, s)] for s in range(3)]
    second = [
        [write_table(tmp_path / f"b{s}{m}.csv", 0.5, 10 + 2 * s + m) for m in range(2)]
        for s in range(3)
    ]
    effect = effects.auc_effect(first, second)
    values = [
        reference_auc(a[0]) - np.mean([reference_auc(table) for table in b])
        for a, b in zip(first, second, strict=True)
    ]
    assert effect.value == pytest.approx(np.mean(values))
    assert effect.replicates == 3
    assert effects.auc_effect(first[:1], second[:1]).interval is None


def test_without_patients_it_is_students_interval():
    values = [0.1, 0.2, 0.4]
    expected = scipy.stats.ttest_1samp(values, 0)
    effect = effects.effect_of(values)
    assert effect.interval == pytest.approx(expected.confidence_interval(0.95))
    assert 2 * effect.p_not_above(0) == pytest.approx(expected.pvalue)
    assert effect.p_not_below(0.0) == pytest.approx(1 - expected.pvalue / 2)


def test_one_interval_covers_replicates_and_patients():
    rng, covered = np.random.default_rng(0), 0
    patients, replicates, within = 60, 5, 0.04
    for _ in range(500):
        # Every replicate is off by its own training and by the patients all share.
        by_patient = rng.normal(size=(patients, 1)) + rng.normal(
            size=(patients, replicates)
        )
        values = by_patient.mean(0) + rng.normal(0, within, replicates)
        covariance = np.cov(by_patient.T) / patients
        low, high = effects.effect_of(values.tolist(), covariance).interval
        covered += low <= 0 <= high
    assert 0.92 <= covered / 500 <= 0.98


def test_holms_correction_is_the_step_down():
    assert effects.holm([0.03, 0.01, 0.04, 0.5]) == pytest.approx(
        [0.09, 0.04, 0.09, 0.5]
    )
    assert effects.holm([0.9, 0.6]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("value", "holds", "expected"),
    [
        (0.1, POSITIVE, "for"),
        (-0.1, POSITIVE, "against"),
        (0.015, POSITIVE, "undecided"),
        (0.0, SMALL, "for"),
        (0.04, SMALL, "undecided"),
        (0.1, SMALL, "against"),
        (-0.1, SMALL, "against"),
        (math.nan, POSITIVE, "undecided"),
    ],
)
def test_a_verdict_needs_a_refuted_opposite(value, holds, expected):
    found = Finding("it", holds, Effect(value, 0.01, 7.0, 8))
    assert verdicts([found])[0][2] == expected


def test_more_claims_need_more():
    clear = Finding("it", POSITIVE, Effect(0.03, 0.01, 100.0, 8))
    other = Finding("other", POSITIVE, None, "not run: x")
    assert verdicts([clear])[0][2] == "for"
    # Claims that were written down count although their rows are missing.
    judged = verdicts([clear, *[other] * 20])
    assert [said for *_, said in judged[:2]] == ["undecided", "not run: x"]


def test_few_patients_suffice_only_where_the_transfer_helps():
    close = Effect(0.0, 0.001, 9.0, 8)
    few = Finding(claims._FEW_SUFFICE, (-math.inf, 0.05), close)
    for gain, expected in ((0.2, "for"), (0.0, "undecided")):
        helps = Finding(claims._TRANSFER_HELPS, POSITIVE, Effect(gain, 0.01, 9.0, 8))
        assert verdicts([few, helps])[0][2] == expected


def test_every_claim_is_about_rows_that_exist():
    assert {*by_name(ROWS)} >= claims.CLAIMED_ROWS
    assert {*by_name(ROWS)} >= {*gradients.ROWS}


def find_all(found):
    return [claims.find(claim, found, 4) for claim in claims.CLAIMS]


def finished_request(out, rows, seeds=8):
    """Finished runs of given separations."""
    request = command.check_request(
        ROWS, preset="phantom", out=out, names=list(rows), seeds=seeds
    )
    for number, run in enumerate(request.plan):
        separation = rows.get(run.row.name, 1.0)
        path = run.directory / "predictions" / "test.csv"
        table = write_table(path, separation, 100 + number)
        figures = {"auc": reference_auc(table), "accuracy": 0.5 + separation / 10}
        metrics = {"best_epoch": 2, "test": figures}
        (run.directory / "metrics.json").write_text(json.dumps(metrics))
    return request


def test_rows_are_measured_compared_and_missing_ones_named(tmp_path):
    weak = "resnet50_s10_forest"
    strong = dict.fromkeys(claims._RESIDUAL, 6.0)
    request = finished_request(tmp_path, {**strong, weak: 0.0})
    found = runs.finished_runs(request.plan)
    header, cells = result_tables.row_table([request.rows[weak]], found)
    aucs = [reference_auc(effects.test_table(run)) for run in found[weak]]
    assert cells[header.index("measured")] == f"{np.mean(aucs):.3f}"
    assert cells[header.index("paper")] == "0.73"
    assert cells[header.index("seeds")] == "8"
    findings = find_all(found)
    judged = {f.text: said for f, _, said in verdicts(findings)}
    assert judged[
        "Max-pooling the heatmap, and smaller FC layers, harm (resnet50)"
    ] == ("not run: resnet50_s10_heatmap_1x1, resnet50_s10_heatmap_5x5")
    text = "The all-convolutional top beats heatmap + random forest"
    (finding,) = (f for f in findings if f.text == text)
    assert finding.effect.replicates == 8
    assert verdicts([finding])[0][2] == "for"


def test_a_second_set_of_runs_lies_within_the_firsts_interval_or_not(tmp_path):
    rows = {"resnet50_s10_forest": 1.0, "vgg16_s10_vgg_512x1": 1.0}
    first = finished_request(tmp_path / "first", rows)
    # The forest's second runs are as good as its first, the other's far better.
    again = {**rows, "vgg16_s10_vgg_512x1": 4.0}
    second = finished_request(tmp_path / "second", again, seeds=4)
    header, *cells = result_tables.replication_table(
        [*first.rows.values()],
        *(runs.finished_runs(request.plan) for request in (first, second)),
    )
    by_name = {row: dict(zip(header[1:], rest, strict=True)) for row, *rest in cells}
    # Their patch classifiers were finished, too.
    assert {*rows} < {*by_name}
    verdicts = {name: by_name[name]["within"] for name in rows}
    assert verdicts == {"resnet50_s10_forest": "yes", "vgg16_s10_vgg_512x1": "no"}
    assert {cells["its seeds"] for cells in by_name.values()} == {"4"}
    found = runs.finished_runs(second.plan)["vgg16_s10_vgg_512x1"]
    aucs = [reference_auc(effects.test_table(run)) for run in found]
    assert by_name["vgg16_s10_vgg_512x1"]["second"] == f"{np.mean(aucs):.3f}"
    before = runs.finished_runs(first.plan)["vgg16_s10_vgg_512x1"][:4]
    pairs = [reference_auc(effects.test_table(run)) for run in before]
    expected = scipy.stats.ttest_rel(aucs, pairs)
    shown = by_name["vgg16_s10_vgg_512x1"]
    change = shown["second less first, same seeds"]
    assert change == f"{np.mean(aucs) - np.mean(pairs):+.3f}"
    low, high = expected.confidence_interval(0.95)
    assert shown["95 % over these"] == f"{low:.3f} to {high:.3f}"


@pytest.mark.parametrize("content", ["{}", '{"test": null}', "[]", ""])
def test_figures_of_a_damaged_run_name_its_file(content, tmp_path):
    request = finished_request(tmp_path, {"resnet50_s10_forest": 1.0}, seeds=1)
    path = request.plan[0].directory / "metrics.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json (is damaged|cannot be read)"):
        _ = request.plan[0].figures


def test_results_of_nothing_are_refused(tmp_path):
    request = command.check_request(ROWS, preset="phantom", out=tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing/phantom: holds no finished run; run"):
        command.write_results(request, tmp_path / "RESULTS.md")
    assert not (tmp_path / "nothing").exists()


def test_a_replication_without_runs_is_refused(tmp_path):
    request = finished_request(tmp_path / "first", {"resnet50_s10_forest": 1.0})
    results, nothing = tmp_path / "RESULTS.md", tmp_path / "nothing"
    for run in request.plan:
        config = run_directory.as_json(run.config)
        run_directory.write_json(run.directory / "config.json", config)
    with pytest.raises(UserError, match="nothing/phantom: holds no finished"):
        command.write_results(request, results, nothing)
    assert not results.exists()


def test_a_claim_with_too_few_seeds_is_not_judged(tmp_path):
    rows = {**dict.fromkeys(claims._RESIDUAL, 6.0), "resnet50_s10_forest": 0.0}
    request = finished_request(tmp_path, rows, seeds=3)
    found = runs.finished_runs(request.plan)
    judged = verdicts(find_all(found))
    said = {f.text: verdict for f, _, verdict in judged}
    assert said["The all-convolutional top beats heatmap + random forest"] == (
        "run with 3 of 4 seeds"
    )
    assert not {"for", "against"} & {*said.values()}


def test_the_mean_of_models_is_compared_with_their_mean_and_their_best(tmp_path):
    ensemble = rescoring.ENSEMBLES[0]
    separations = dict(zip(ensemble.rows, (1.0, 0.5, 2.0), strict=True))
    request = finished_request(tmp_path, separations)
    found = runs.finished_runs(request.plan)
    why = "not run: flips: resnet50_"
    texts = [f.missing for f in find_all(found)]
    assert sum(text.startswith(why) for text in texts) == 1
    flips = {}
    for number, (row, separation) in enumerate(separations.items()):
        for run in found[row]:
            path = rescoring.scores_file(rescoring.FLIPS, run)
            table = write_table(path, separation + 0.2, 500 + 10 * run.seed + number)
            flips.setdefault(run.seed, []).append(table)
    effects_of = {f.text: f.effect for f in find_all(found)}
    means, bests = [], []
    for tables in flips.values():
        by_image = [dict(zip(t.image_ids, t.scores, strict=True)) for t in tables]
        labels = dict(zip(tables[0].image_ids, tables[0].labels, strict=True))
        mean = [np.mean([scores[image] for scores in by_image]) for image in labels]
        mean = sklearn.metrics.roc_auc_score([*labels.values()], mean)
        singles = [reference_auc(table) for table in tables]
        means.append(mean - np.mean(singles))
        bests.append(mean - max(singles))
    for text, expected in (("helps", means), ("beats the best of them", bests)):
        found_effect = effects_of[f"Averaging models {text} (CBIS-DDSM)"]
        assert found_effect.value == pytest.approx(np.mean(expected))
    table = result_tables.ensemble_table(request.rows, found)
    assert table[4][0] == "CBIS-DDSM: mean of the 3"
