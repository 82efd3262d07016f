"""The table of rows: complete, the paper's numbers, and real configurations."""

import dataclasses
import operator
import os
import re
from pathlib import Path

import pytest

from mammo_jax.common.errors import UserError
from mammo_jax.config import STAGES, apply_preset, whole_config
from mammo_jax.models.model_config import TOPS
from paper.rows import by_name, load_rows, named_config, row_config
from paper.scales import apply_scale

REPOSITORY = Path(__file__).parents[2]
PAPER = Path(
    os.environ.get("MAMMO_JAX_PAPER_TEXT") or REPOSITORY / "../shared/paper.txt"
)
ROWS = load_rows(REPOSITORY / "configs" / "paper_rows.py")
KNOWN = by_name(ROWS)


def of(table):
    return [row for row in ROWS if row.table == table]


def test_every_row_of_the_paper_is_there():
    # Table 3 has eleven rows, one with a second result: the extended training.
    assert {t: len(of(t)) for t in "1234"} == {"1": 9, "2": 12, "3": 12, "4": 18}


def paper_lines(start, end):
    if not PAPER.is_file():
        pytest.skip("the paper's text is not here; MAMMO_JAX_PAPER_TEXT names its file")
    text = PAPER.read_text(encoding="utf-8")
    part = text[text.index(start) : text.index(end)]
    return [line.split("\t") for line in part.splitlines() if "\t" in line]


def test_table_1_has_the_papers_numbers():
    lines = paper_lines("Table 1: Test accuracies", "minimum overlapping")
    paper = [
        (
            re.sub("</?b>", "", trunk).lower(),
            pretrained == "Y",
            f"cbis_ddsm/paper_s{patches}",
            float(accuracy),
            int(epoch),
        )
        for trunk, pretrained, patches, accuracy, epoch in lines[1:]
    ]
    ours = [
        (row.trunk, row.pretrained, row.dataset, row.paper, row.paper_epoch)
        for row in of("1")
    ]
    assert ours == paper


@pytest.mark.parametrize(
    ("table", "start", "end"),
    [
        ("2", "Table 2: Test AUC", "Table 3: Test AUC"),
        ("3", "Table 3: Test AUC", "1. Set learning rate to 1e-4, weight"),
    ],
)
def test_tables_2_and_3_have_the_papers_numbers(table, start, end):
    aucs, epochs = [], []
    for line in paper_lines(start, end):
        if line[0] not in ("1", "10", "30"):
            continue
        # The last cells: the AUC (two for the hybrid), the epoch (not of the forest).
        numbers = re.findall(r"0\.\d\d|\d+$", " ".join(line[1:]))
        aucs += [(f"s{line[0]}", float(n)) for n in numbers if n.startswith("0.")]
        epochs += [int(n) for n in numbers if not n.startswith("0.")]
    rows = of(table)
    assert [(re.search(r"_(s\d+)_", r.name)[1], r.paper) for r in rows] == aucs
    assert [r.paper_epoch for r in rows if r.paper_epoch] == epochs


def test_table_4_has_the_papers_numbers():
    lines = paper_lines("Table 4: Transfer", "We use exactly the same")
    paper = [float(auc) for line in lines[1:] for auc in line[2:]]
    rows = [row for row in of("4") if "patients" in row.dataset]
    assert [row.paper for row in rows] == paper
    patients = [re.search(r"_(\d+)patients", row.name)[1] for row in rows]
    assert patients == [line[0] for line in lines[1:] for _ in range(3)]
    tops = [(row.trunk, row.top.split("_")[0]) for row in rows[:3]]
    assert tops == [("resnet50", "residual"), ("vgg16", "vgg"), ("vgg16", "residual")]


def test_the_full_transfer_has_the_numbers_of_section_3():
    full = {row.name: row.paper for row in of("4") if "patients" not in row.dataset}
    assert sorted(full.values()) == [0.84, 0.92, 0.95]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_a_whole_configuration(row):
    config = row_config(row, KNOWN)
    assert config.model.trunk == row.trunk
    assert config.data.dataset == row.dataset + ("_h4608" if row.original else "")
    if row.stages:
        assert {*config.stages} == {*STAGES[row.stages]}
    if row.top:
        own = {n[10:]: v for n, v in row.fields.items() if n.startswith("model.top.")}
        top = TOPS[row.top] | own
        assert {key: config.model.top[key] for key in top} == top
    if row.start and KNOWN[row.start].kind == "patch":
        alone = row_config(KNOWN[row.start], KNOWN)
        for field in ("data.dataset", "model.stem", "model.compute_dtype"):
            of = operator.attrgetter(field)
            assert of(config.patch) == of(alone)
        assert config.patch.model.trunk == row.trunk
    elif row.start:
        assert config.init_from == f"runs/{row.start}"


def test_a_transfer_may_have_a_preset_without_patches():
    start = KNOWN["resnet50_s10_residual_512-512-1024x2"]
    row = dataclasses.replace(
        KNOWN[f"inbreast_{start.name}"], name="mine", preset="inbreast"
    )
    assert "patch" not in row_config(row, by_name([*ROWS, row]))
    for other in (start, KNOWN["patch_resnet50_s10"]):
        wrong = dataclasses.replace(other, name="wrong", preset="inbreast")
        with pytest.raises(UserError, match="preset is 'inbreast'; it must be one of"):
            by_name([*ROWS, wrong])


def test_yaroslavnet_is_the_preset_in_both_stages():
    # The figures of the authors' later code.
    rows = {row.name: row.paper for row in of("later")}
    assert rows == {"patch_yaroslav_s10": 0.89, "yaroslav_s10_heatmap": 0.83}
    preset = apply_preset(whole_config(), "yaroslav")
    whole, patch = (row_config(KNOWN[name], KNOWN) for name in reversed(rows))
    assert whole == preset
    assert patch == preset.patch


def test_yaroslavnet_has_as_many_positions_on_phantoms():
    row = KNOWN["patch_yaroslav_s10"]
    config = row_config(row, KNOWN)
    apply_scale(config, row, Path(), seed=0)
    # 56 pixels by a stride of 16, as 224 by 64.
    assert (config.model.stride, config.model.top.window) == (16, 3)


@pytest.mark.parametrize("row", [row for row in ROWS if "heatmap" in row.top])
def test_a_heatmaps_connected_layers_normalise_by_two_images(row):
    config = row_config(row, KNOWN)
    assert (config.batch_size, config.accum_steps) == (2, 1)


def test_randomly_initialised_rows_name_no_weights():
    config = row_config(KNOWN["patch_resnet50_s1_random"], KNOWN)
    assert config.pretrained == ""
    assert config.stages.stage1.epochs == 200


def test_only_s1_and_inbreast_are_trained_to_the_last_epoch():
    # The paper's best epochs on s1 are 198 and 99 of 200.
    for row in ROWS:
        to_the_end = row.kind == "transfer" or row.stages.endswith(("_s1", "_extended"))
        patience = row_config(row, KNOWN).early_stopping_patience
        assert (patience == 0) == to_the_end
        if row.start and KNOWN[row.start].kind == "patch" and "_s1_" in row.name:
            assert row_config(row, KNOWN).patch.early_stopping_patience == 0


def test_an_unknown_row_names_the_choices():
    with pytest.raises(UserError, match=r"no row 'nothing'.*patch_resnet50_s1"):
        named_config("nothing", ROWS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": "9"}, "table is '9'"),
        ({"top": "none"}, "top is 'none'"),
        ({"start": "later"}, "start is 'later'"),
        ({"preset": "tiny"}, "preset is 'tiny'"),
        ({"name": "patch_resnet50_s1"}, "is there twice"),
    ],
)
def test_a_wrong_row_is_refused(change, message):
    wrong = dataclasses.replace(KNOWN["resnet50_s10_forest"], **change)
    with pytest.raises(UserError, match=message):
        by_name([*ROWS[:9], wrong])
