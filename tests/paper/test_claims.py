"""Effects, intervals and verdicts against independent computations."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from mammo_jax.evaluation.prediction_table import read_table
from paper import (
    claims,
    command,
    ensembles,
    gradients,
    outcomes,
    tables,
    untransferred,
)
from paper.outcomes import Effect
from paper.results import results_text
from paper.rows import by_name, load_rows

ROWS = load_rows(Path(__file__).parents[2] / "configs" / "paper_rows.py")
HEADER = "image_index,malignant_pred,malignant_label,patient_id,laterality,view"


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


def test_an_effect_is_the_mean_difference_with_two_intervals(tmp_path):
    first = [[write_table(tmp_path / f"a{s}.csv", 2.0, s)] for s in range(3)]
    second = [
        [write_table(tmp_path / f"b{s}{m}.csv", 0.5, 10 + 2 * s + m) for m in range(2)]
        for s in range(3)
    ]
    effect = outcomes.auc_effect(first, second)
    values = [
        reference_auc(a[0]) - np.mean([reference_auc(table) for table in b])
        for a, b in zip(first, second, strict=True)
    ]
    assert effect.value == pytest.approx(np.mean(values))
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert effect.by_seeds == pytest.approx((expected.low, expected.high))
    assert effect.seeds == 3


def test_the_interval_by_patients_is_that_of_a_plain_bootstrap(tmp_path):
    first = write_table(tmp_path / "a.csv", 1.5, 1)
    second = write_table(tmp_path / "b.csv", 0.5, 2)
    found = outcomes.auc_effect([[first]], [[second]])
    assert found.by_seeds is None
    # The same patients drawn one by one, scored by scikit-learn.
    of_image = {image: i for i, image in enumerate(second.image_ids)}
    other = second.scores[[of_image[image] for image in first.image_ids]]
    patients = np.unique(first.patient_ids)
    rows_of = {p: np.flatnonzero(np.array(first.patient_ids) == p) for p in patients}
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(600):
        rows = np.concatenate([rows_of[p] for p in rng.choice(patients, len(patients))])
        auc = sklearn.metrics.roc_auc_score
        labels = first.labels[rows]
        drawn.append(auc(labels, first.scores[rows]) - auc(labels, other[rows]))
    assert found.by_patients == pytest.approx(
        tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.03
    )


def test_two_seeds_decide_nothing():
    clear = Effect(0.2, (0.1, 0.3), (0.1, 0.3), claims.FEWEST_SEEDS)
    assert claims.verdict(clear, (0, math.inf)) == "for"
    assert claims.verdict(clear, (-math.inf, 0)) == "against"
    two = dataclasses.replace(clear, seeds=2)
    assert claims.verdict(two, (0, math.inf)) == "undecided"
    assert claims.verdict(two, (-math.inf, 0)) == "undecided"


@pytest.mark.parametrize(
    ("seeds", "patients", "holds", "expected"),
    [
        ((0.01, 0.2), (0.02, 0.3), (0, math.inf), "for"),
        ((0.01, 0.2), (-0.02, 0.3), (0, math.inf), "undecided"),
        ((-0.2, -0.1), (-0.3, -0.02), (0, math.inf), "against"),
        ((-0.2, -0.1), (-0.3, 0.02), (0, math.inf), "undecided"),
        ((-0.03, 0.02), (-0.04, 0.04), (-0.05, 0.05), "for"),
        ((0.06, 0.2), (0.07, 0.1), (-0.05, 0.05), "against"),
        ((0.04, 0.2), (0.07, 0.1), (-0.05, 0.05), "undecided"),
        ((-0.4, 0.01), (-0.3, 0.04), (-math.inf, 0.05), "for"),
        ((0.01, 0.2), None, (0, math.inf), "for"),
        (None, None, (0, math.inf), "undecided"),
    ],
)
def test_a_verdict_needs_all_intervals(seeds, patients, holds, expected):
    assert claims.verdict(Effect(0.0, seeds, patients, 3), holds) == expected


def test_every_claim_is_about_rows_that_exist():
    assert {*by_name(ROWS)} >= claims.CLAIMED_ROWS
    assert {*by_name(ROWS)} >= {design.row for design in gradients.DESIGNS}


def finished_request(out, rows):
    """Finished runs of three seeds, of given separations."""
    request = command.check_request(
        ROWS, preset="phantom", out=out, names=list(rows), seeds=3
    )
    for number, run in enumerate(request.plan):
        separation = rows.get(run.row.name, 1.0)
        table = write_table(
            run.directory / "predictions/test.csv", separation, 100 + number
        )
        figures = {"auc": reference_auc(table), "accuracy": 0.5 + separation / 10}
        metrics = {"best_epoch": 2, "test": figures}
        (run.directory / "metrics.json").write_text(json.dumps(metrics))
    return request


def test_claims_without_their_rows_say_so(tmp_path):
    request = finished_request(tmp_path, {"resnet50_s10_heatmap_1x1": 1.0})
    findings = claims.judge(outcomes.by_row(request.plan), request.setting)
    # The transfer from nothing, and three claims about each of two ensembles.
    assert len(findings) == len(claims.CLAIMS) + 1 + 3 * 2
    assert all(finding.effect is None for finding in findings)
    assert all(finding.verdict.startswith("not run") for finding in findings)


def test_a_clear_difference_is_for_and_its_reverse_against(tmp_path):
    strong, weak = "resnet50_s10_heatmap_1x1", "resnet50_s10_forest"
    for name, separations, expected in (
        ("for", (6.0, 0.0), "for"),
        ("against", (0.0, 6.0), "against"),
    ):
        rows = dict(zip((strong, weak), separations, strict=True))
        request = finished_request(tmp_path / name, rows)
        found = outcomes.by_row(request.plan)
        (finding,) = (
            f for f in claims.judge(found, request.setting) if "forest" in f.text
        )
        assert finding.verdict == expected


def test_a_row_is_measured_over_its_seeds(tmp_path):
    request = finished_request(tmp_path, {"resnet50_s10_forest": 1.0})
    found = outcomes.by_row(request.plan)
    row = request.rows["resnet50_s10_forest"]
    header, cells = tables.row_table([row], found, "absent")
    aucs = [outcomes.auc(outcomes.test_table(r.directory)) for r in found[row.name]]
    assert cells[header.index("measured")] == f"{np.mean(aucs):.3f}"
    assert cells[header.index("paper")] == "0.73"
    assert cells[header.index("seeds")] == "3"


def test_designs_of_this_project_are_judged_in_a_table_of_their_own(tmp_path):
    design, best = "resnet50_s10_one_stage", "resnet50_s10_residual_512-512-1024x2"
    request = finished_request(tmp_path, {design: 6.0, best: 0.0})
    paper = dataclasses.replace(request.setting, preset="paper", scale=None)
    text = results_text(request.rows, (request.plan, request.setting), ([], paper), {})
    own = text.partition("### Designs of this project against the paper's best top")[2]
    cells = cells_of(own, claims.DESIGN_CLAIMS[1].text)
    assert cells[-2:] == ["3", "for"]
    missing = cells_of(own, claims.DESIGN_CLAIMS[2].text)
    assert missing[-1].startswith("not run: resnet50_s10_gentle")
    assert claims.DESIGN_CLAIMS[1].text not in text.removesuffix(own)


def cells_of(text, start):
    """Of the table's row that starts with a cell."""
    line = next(li for li in text.splitlines() if li.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_results_say_what_was_not_run(tmp_path):
    rows = {"resnet50_s10_forest": 0.0, "resnet50_s10_heatmap_1x1": 6.0}
    request = finished_request(tmp_path, rows)
    paper = dataclasses.replace(request.setting, preset="paper", scale=None)
    text = results_text(request.rows, (request.plan, request.setting), ([], paper), {})
    assert text.count("not run: needs the data") == 9 + 12 + 12 + 18 + 1
    forest = cells_of(text, "ResNet50 (s10), heatmap + random forest")
    assert forest[1:3] == ["0.73", "not run: needs the data"]
    assert forest[6] == "3"
    assert cells_of(text, "Heatmap + FC beats heatmap + random forest")[-1] == "for"
    (missing,) = cells_of(text, "Max-pooling the heatmap harms (resnet50)")[-1:]
    assert missing == "not run: resnet50_s10_heatmap_5x5"
    assert "drawn at commit" in text


def test_finished_ensembles_without_flips_say_so(tmp_path):
    request = finished_request(tmp_path, dict.fromkeys(ensembles.ROWS, 1.0))
    found = outcomes.by_row(request.plan)
    verdicts = [
        finding.verdict
        for finding in claims.judge(found, request.setting)
        if finding.text.startswith("Averaging")
    ]
    why = "four flips not scored; --table=ensemble scores them"
    assert verdicts == [why] * 6
    labels = {name: row.label for name, row in request.rows.items()}
    _, *rows = tables.ensemble_table(found, labels, request.setting, "not run")
    assert {cells[3] for cells in rows} == {why}


def test_the_mean_of_models_is_compared_with_their_mean_and_their_best(tmp_path):
    rows = dict(zip(ensembles.ROWS, (1.0, 0.5, 2.0, 1.0, 1.0), strict=True))
    request = finished_request(tmp_path, rows)
    found = outcomes.by_row(request.plan)
    flips, number = {}, 0
    for row in ensembles.ENSEMBLES["cbis_ddsm"].rows:
        for run in found[row]:
            path = ensembles.flipped_table(run, request.setting)
            number += 1
            table = write_table(path, rows[row] + 0.2, 500 + number)
            ensembles.note_source(path, run.directory)
            flips.setdefault(run.seed, []).append(table)
    by_mean, by_best = (
        next(
            finding.effect
            for finding in claims.judge(found, request.setting)
            if finding.text == f"Averaging models {text} (CBIS-DDSM)"
        )
        for text in ("helps", "beats the best of them")
    )
    means, bests = [], []
    for tables_of_seed in flips.values():
        order = {image: i for i, image in enumerate(tables_of_seed[0].image_ids)}
        scores = np.zeros((len(tables_of_seed), len(order)))
        for member, table in enumerate(tables_of_seed):
            scores[member, [order[image] for image in table.image_ids]] = table.scores
        labels = tables_of_seed[0].labels
        auc = sklearn.metrics.roc_auc_score(labels, scores.mean(0))
        alone = [sklearn.metrics.roc_auc_score(labels, member) for member in scores]
        means.append(auc - np.mean(alone))
        bests.append(auc - max(alone))
    assert by_mean.value == pytest.approx(np.mean(means))
    assert by_best.value == pytest.approx(np.mean(bests))


def test_a_transfer_is_compared_with_the_same_models_before_it(tmp_path):
    request = finished_request(tmp_path, dict.fromkeys(untransferred.ROWS, 3.0))
    found = outcomes.by_row(request.plan)

    def finding():
        findings = claims.judge(found, request.setting)
        return next(f for f in findings if f.text == "Transfer with 20 patients helps")

    assert finding().verdict == "not scored before transfer; --table=4 does it"
    differences = []
    for seed in range(3):
        for row in untransferred.ROWS:
            run = found[row][seed]
            path = untransferred.table_file(run, request.setting)
            before = write_table(path, 0.0, 900 + 10 * seed + len(differences))
            ensembles.note_source(path, Path(run.config.init_from))
            after = outcomes.test_table(run.directory)
            differences.append(reference_auc(after) - reference_auc(before))
    assert finding().effect.value == pytest.approx(np.mean(differences))
    assert finding().verdict == "for"
    assert finding().measured.endswith(
        "the validation images choose the epoch of the first, which favours it"
    )
    labels = {name: row.label for name, row in request.rows.items()}
    header, *cells = tables.untransferred_table(
        found, labels, request.setting, "not run"
    )
    assert len(cells) == 3
    assert cells[1][0] == "VGG16 (s10), 512x1 twice"
    table = untransferred.tables([untransferred.ROWS[1]], found, request.setting)
    expected = np.mean([reference_auc(of_seed[0]) for of_seed in table.values()])
    assert cells[1][header.index("measured")] == f"{expected:.3f}"


@pytest.mark.parametrize(
    ("after", "before", "expected"),
    [
        (3.0, 0.0, "for"),  # As good as with all patients, and better than before.
        (3.0, 3.0, "undecided"),  # No better with any number of patients.
        (0.0, 0.0, "against"),  # All patients have an effect, and 20 have none.
    ],
)
def test_few_patients_suffice_only_where_they_help(tmp_path, after, before, expected):
    everybody = [f"inbreast_{model}" for model in untransferred.MODELS]
    rows = dict.fromkeys(everybody, 3.0) | dict.fromkeys(untransferred.ROWS, after)
    request = finished_request(tmp_path, rows)
    found = outcomes.by_row(request.plan)
    for row in untransferred.ROWS:
        for run in found[row]:
            path = untransferred.table_file(run, request.setting)
            write_table(path, before, 900 + run.seed)
            ensembles.note_source(path, Path(run.config.init_from))
    findings = claims.judge(found, request.setting)
    (few,) = (f for f in findings if f.text == "Few patients suffice for transfer")
    (helps,) = (f for f in findings if f.text == "Transfer with 20 patients helps")
    assert few.verdict == expected
    assert (helps.verdict == "for") == (expected == "for")
    assert few.measured.endswith("and for only where the transfer with 20 helps")


@pytest.fixture
def scored(monkeypatch):
    """What was scored, by a scoring that only leaves its traces."""
    calls = []

    def score(run, model, out, stop, *, flips):
        calls.append((run.row.name, run.seed, model, flips))
        write_table(out, 0.0, run.seed)
        ensembles.note_source(out, model)

    monkeypatch.setattr(ensembles, "score", score)
    return calls


def test_models_before_transfer_are_scored_once_with_the_sources_weights(
    tmp_path, scored
):
    row = untransferred.ROWS[1]
    request = finished_request(tmp_path, {row: 1.0})
    found = outcomes.by_row(request.plan)
    for _ in range(2):
        untransferred.score_models(found, request.setting)
    source = tmp_path / "phantom" / "vgg16_s10_vgg_512x1"
    assert scored == [(row, s, source / f"seed{s}", False) for s in range(3)]


def test_a_model_that_was_trained_anew_is_scored_anew(tmp_path, scored):
    flips, transfer = ensembles.ENSEMBLES["inbreast"].rows[0], untransferred.ROWS[1]
    request = finished_request(tmp_path, {flips: 1.0, transfer: 1.0})
    found, setting = outcomes.by_row(request.plan), request.setting

    def score_all():
        scored.clear()
        ensembles.score_flips({flips: found[flips]}, setting)
        untransferred.score_models(found, setting)
        return [call[:2] for call in scored]

    assert len(score_all()) == 6
    assert score_all() == []
    write_table(outcomes.test_file(found[flips][1].directory), 1.0, 777)
    model = Path(found[transfer][2].config.init_from)
    write_table(outcomes.test_file(model), 1.0, 778)
    assert not ensembles.is_flipped(found[flips][1], setting)
    # Old scores are not compared with new ones meanwhile.
    assert sorted(claims.ensemble_tables([flips], found, setting)) == [0, 2]
    assert sorted(untransferred.tables([transfer], found, setting)) == [0, 1]
    assert score_all() == [(flips, 1), (transfer, 2)]
    assert score_all() == []
    # Of tables without a source nobody knows.
    ensembles.flipped_table(found[flips][0], setting).with_suffix(".json").unlink()
    assert score_all() == [(flips, 0)]


def test_flips_of_real_data_stand_in_the_results(tmp_path):
    phantom = finished_request(tmp_path, {"resnet50_s10_forest": 1.0})
    setting = dataclasses.replace(phantom.setting, preset="paper", scale=None)
    ours = (phantom.plan, phantom.setting)

    def section(rows):
        request = dataclasses.replace(
            phantom, chosen=tuple(rows), seeds=1, setting=setting
        )
        for number, run in enumerate(request.plan):
            write_table(outcomes.test_file(run.directory), 1.0, number)
            (run.directory / "metrics.json").write_text(
                json.dumps({"best_epoch": 2, "test": {"auc": 0.5, "accuracy": 0.5}})
            )
            if run.row.name in ensembles.ROWS:
                path = ensembles.flipped_table(run, setting)
                table = write_table(path, 1.0, 50 + number)
                ensembles.note_source(path, run.directory)
        text = results_text(phantom.rows, ours, (request.plan, setting), {})
        return table, text.partition("## Section 4")[2].partition("\n## ")[0]

    inbreast = ensembles.ENSEMBLES["inbreast"].rows
    # One of an ensemble's models alone gives no mean.
    _, text = section(inbreast[:1])
    assert "Real data: not run: needs the data. Phantoms:" in text
    table, text = section(inbreast)
    real, _, phantoms = text.partition("Phantoms:")
    cells = cells_of(real, "INbreast: hybrid, all patients")
    assert cells[4] == f"{reference_auc(table):.3f}"
    missing = cells_of(real, "CBIS-DDSM: VGG16 (s10), 512x1 twice")
    assert missing[3] == "not run: needs the data"
    assert cells_of(phantoms, "INbreast: hybrid, all patients")[3] == "not run"


def test_results_tell_the_conditions_and_the_number_of_claims(tmp_path):
    rows = {"resnet50_s10_forest": 0.0, "resnet50_s10_heatmap_1x1": 6.0}
    request = finished_request(tmp_path, rows)
    paper = dataclasses.replace(request.setting, preset="paper", scale=None)
    text = results_text(request.rows, (request.plan, request.setting), ([], paper), {})
    for part in (
        "Batches of 32 patches or 4 whole images; an epoch has 40 steps with patches, "
        "80 with whole images, 20 in a transfer.",
        "The L2 penalty is at most 1e-06 (the paper: 0.001 and 0.01).",
        "at a highest rate of 0.004 with cosine decay (the paper: 0.001, constant)",
        "splits 80 images or more (the paper: 300)",
        "All seeds share one pretrained trunk of each kind",
        "phantom patients (seed 2) in 800 steps; a patch classifier then has 120.",
        "The preset's steps and rates were settled on earlier runs of these rows",
        "pretrained (by the same task on other phantoms, not ImageNet) less random",
        "Claims judged here: 1; designs judged further below: 0.",
    ):
        assert part in text
    caption = text.partition("## Table 1:")[2].partition("## Table 2:")[0]
    assert "on phantoms it learned the patch classes on other phantom patients" in (
        caption
    )


def test_results_of_an_empty_folder_have_no_measured_number(tmp_path):
    request = command.check_request(ROWS, preset="phantom", out=tmp_path)
    command.write_results(request, tmp_path / "R.md")
    text = (tmp_path / "R.md").read_text()
    assert "Not run." in text
    assert not re.search(r"\d to [+-]?\d|\+\d", text)


def test_gradient_claim_compares_logarithms(tmp_path):
    request = command.check_request(ROWS, preset="phantom", out=tmp_path)
    for design in gradients.DESIGNS:
        size = {"softmax": 1e-4}.get(design.activation, 1e-2)
        for seed in range(3):
            path = gradients.curve_file(design, seed, request.setting)
            path.parent.mkdir(parents=True, exist_ok=True)
            norms = [size * (1 + seed / 10), size]
            path.write_text(json.dumps({"steps": [0, 5], "norms": norms}))
    findings = gradients.judge(request.setting)
    assert [finding.verdict for finding in findings] == ["for"] * 4
    assert findings[0].effect.value == pytest.approx(-2)
    assert "at the first 8 validation images" in findings[0].measured
