"""Scores mammograms with trained models.

  python -m mammo_jax.predict --model=runs/demo --out=scores PATH...

PATH is a DICOM, PNG, TIFF, JPEG or PGM file, a folder (searched to the bottom) or a
glob in quotes; --manifest=CSV scores the images of a table instead. Into the directory
of --out go predictions.csv, breasts.csv, exams.csv and patients.csv (scores), overlays/
(class maps), report.html, files.csv (which image is which file) and problems.csv.
Patients are called by case numbers, or as the table calls them.

Exit code: 0 all files were scored, 3 some could not be or lack an output, 1 none could
be, or an error. Stopped by Ctrl-C (130), SIGTERM or a closed terminal (143) it writes
what was scored until then.
"""

import argparse
import contextlib
import importlib.util
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mammo_jax.common.command_line import make_parser, run_main
from mammo_jax.common.errors import UserError, refuse
from mammo_jax.common.memory import give_back_large_blocks

if TYPE_CHECKING:
    from mammo_jax.datasets.views import View
    from mammo_jax.prediction.reading import Input, Problem
    from mammo_jax.prediction.scoring_run import Options
    from mammo_jax.weights.model_directory import LoadedModel

EXIT_SOME_BAD = 3
_SWITCHES = {
    "--tta": "average over each image, its mirror image, both upside down",
    "--calibrated": "put the scores on the line that was fitted on the model's "
    "validation images, so that they are probabilities where as many are malignant",
    "--dicom": "also write, for each DICOM file, the overlay as Secondary Capture and "
    "the score as structured report",
    "--full_size": "overlays with the original's rows and columns, not 1024 pixels "
    "high or wide; those of --dicom always have them",
    "--keep_identifiers": "call patients by their PatientID, and copy the patient to "
    "--dicom",
}
# They change the scores or the patients' names; without them the mark of a prediction
# is that of earlier versions.
_CHANGING = ("tta", "calibrated", "keep_identifiers")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints it."""
    parser = make_parser(__doc__, prog="python -m mammo_jax.predict")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="what to score")
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR[,DIR]",
        help="directory of a finished run, or hf://OWNER/NAME[@REVISION] on a hub; the "
        "scores of several are averaged",
    )
    parser.add_argument(
        "--manifest",
        metavar="CSV",
        help="score the images of a table (path, patient_id, laterality, view, label), "
        "whose patients and labels go into the tables, for `evaluate`",
    )
    parser.add_argument("--out", metavar="OUT", help="directory to write into")
    for name, text in _SWITCHES.items():
        parser.add_argument(name, action="store_true", help=text)
    parser.add_argument(
        "--export",
        metavar="FILE",
        help="write the models as one file that scores without this program: ONNX "
        "where it ends in .onnx, otherwise jax.export; no PATH is needed",
    )
    options = parser.parse_args(arguments)
    if "" in options.paths:
        parser.error("a PATH is empty; name a file, a folder or a glob")
    options.scores = bool(options.paths or options.manifest)
    if options.scores and not options.out:
        parser.error("--out is needed")
    if options.paths and options.manifest:
        parser.error("name the images by PATH or by --manifest, not by both")
    if options.calibrated and options.export:
        parser.error(
            "--calibrated does not go into --export; apply the line in "
            "model.json to the log-odds of the exported scores"
        )
    if options.export and not Path(options.export).name:
        parser.error(f"--export={options.export} names no file")
    if not options.scores and not options.export:
        parser.error("name a file, a folder or a glob to score, or --export=FILE")
    return options


def main(options: argparse.Namespace) -> int:
    """Scores, or exports; returns the exit code."""
    # Late: `--help` and a wrong option answer at once.
    from mammo_jax.prediction import dicom_output, identity
    from mammo_jax.prediction.find_files import find_files, find_planned
    from mammo_jax.prediction.reading import reading
    from mammo_jax.weights.model_description import load_description

    out = Path(options.out or "").expanduser()
    planned: Mapping[Path, View] = {}
    if options.manifest:
        found, planned = find_planned(Path(options.manifest).expanduser())
    else:
        found = find_files(options.paths, out)
    if found.left_out:
        kinds = [f"{count} {kind}" for kind, count in found.left_out.most_common()]
        print(f"left out as no images: {', '.join(kinds)}")
    directories = _find_models(options)  # after the files, as one may be fetched
    descriptions = [load_description(path) for path in directories]
    grids = [description.grid for description in descriptions]
    no_calibration = any(one.calibration is None for one in descriptions)
    is_onnx = Path(options.export or "").suffix.lower() == ".onnx"
    refuse(
        {
            f"{needs}; install it with: uv pip install --constraint requirements.lock "
            f"--editable '.[{extra}]'": (
                asked and importlib.util.find_spec(needs.split()[-1]) is None
            )
            for needs, extra, asked in (
                ("--dicom needs highdicom", "dicom", options.dicom),
                ("--export=FILE.onnx needs jax2onnx", "onnx", is_onnx),
            )
        }
        | {
            "--calibrated: a model keeps no calibration in its model.json; it was "
            "trained by an earlier version, is of patches, or its validation images "
            "allowed none. Leave the option out": options.calibrated and no_calibration,
            "models of different image sizes cannot be exported as one file; export "
            "each by itself": options.export and len({*grids}) > 1,
        }
    )
    give_back_large_blocks()  # before the readers have threads
    # The first images are read while JAX is imported and the models are loaded.
    with reading(
        found.files,
        grids,
        identifying=[
            *identity.KEYWORDS,
            *(dicom_output.KEYWORDS if options.dicom else ()),
            *(dicom_output.IDENTIFYING if options.keep_identifiers else ()),
        ],
        with_original=options.full_size or options.dicom,
    ) as images:
        everything = itertools.chain(found.problems, images)
        count = len(found.files) + len(found.problems)
        return _score(options, directories, everything, count, planned)


def _find_models(options: argparse.Namespace) -> list[Path]:
    """Returns the models' directories; `options.names` are their names with commits."""
    from mammo_jax.weights import hub

    options.names = [hub.pin(part) for part in options.model.split(",") if part]
    directories = [hub.find_directory(name) for name in options.names]
    if not directories:
        raise UserError("--model names no directory")
    if len({directory.resolve() for directory in directories}) < len(directories):
        raise UserError("--model names a directory twice; every model counts once")
    return directories


def _score(
    options: argparse.Namespace,
    directories: Sequence[Path],
    images: "Iterator[Input | Problem]",
    files: int,
    planned: "Mapping[Path, View]",
) -> int:
    from mammo_jax.common.devices import start_devices
    from mammo_jax.prediction.export import export_models
    from mammo_jax.prediction.score_tables import remarks
    from mammo_jax.prediction.scorer import Scorer, batch_size_for
    from mammo_jax.prediction.scoring_run import predict, prepare_output
    from mammo_jax.weights.model_directory import load_model

    start_devices()
    models = [load_model(directory) for directory in directories]
    if options.dicom and options.calibrated and not _as_fitted(models, options):
        raise UserError(
            "--dicom writes calibrated scores of one model alone, with the flips of its"
            " own evaluation; leave out --calibrated, or the other flips and models"
        )
    chosen = _choose(options, models, planned)
    if options.scores:
        prepare_output(chosen)  # Before the export, which may lie in it.
    if options.export:
        path = Path(options.export).expanduser()
        height, width = export_models(
            path, models, tta=options.tta, credit=chosen.credit
        )
        print(
            f"exported to {path}: uint16 (batch, {height}, {width}) to scores (batch,)"
        )
    if not options.scores:
        return 0
    with contextlib.closing(
        Scorer(
            models,
            batch_size_for(models, files),
            tta=options.tta,
            calibrated=options.calibrated,
        )
    ) as scorer:
        rows, problems = predict(scorer, images, files, chosen)
    print(f"{len(rows)} images scored; written to {chosen.out / 'report.html'}")
    for remark in remarks(rows, chosen.intents):
        print(remark)
    if problems:
        print(f"{len(problems)} files with problems: see {chosen.out / 'problems.csv'}")
    return EXIT_SOME_BAD if problems else 0


def _choose(
    options: argparse.Namespace,
    models: "Sequence[LoadedModel]",
    planned: "Mapping[Path, View]",
) -> "Options":
    from mammo_jax.prediction.scoring_run import Options
    from mammo_jax.weights.hub import is_on_hub

    named = {"models": options.names, "paths": options.paths}
    named |= {"manifest": [options.manifest]} if options.manifest else {}
    changing = {name: [name] for name in _CHANGING if vars(options)[name]}
    credits_due = dict.fromkeys(model.description.credit for model in models)
    credit = " ".join(filter(None, credits_due))
    return Options(
        out=Path(options.out or "").expanduser(),
        inputs={
            kind: [path if is_on_hub(path) else _absolute(path) for path in paths]
            for kind, paths in named.items()
        }
        | changing,
        about=" ".join(filter(None, (_about(models, options), credit))),
        fetched=[name for name in options.names if is_on_hub(name)],
        credit=credit,
        intents=[model.description.intent for model in models],
        threshold=_threshold(models, options),
        planned=planned,
        calibrated=options.calibrated,
        dicom=options.dicom,
        full_size=options.full_size,
        keep_identifiers=options.keep_identifiers,
    )


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())


def _as_fitted(models: "Sequence[LoadedModel]", options: argparse.Namespace) -> bool:
    """Returns True if scores are made as those that the calibration was fitted on."""
    return [bool(model.config.get("tta")) for model in models] == [options.tta]


def _threshold(
    models: "Sequence[LoadedModel]", options: argparse.Namespace
) -> float | None:
    """Returns the model's threshold as its scores are made here, if they are."""
    import numpy as np

    from mammo_jax.evaluation.calibration import Line, apply_line

    description = models[0].description
    if description.threshold is None or not _as_fitted(models, options):
        return None
    scores = np.array([description.threshold])
    if options.calibrated:
        scores = apply_line(scores, Line(*description.calibration or ()))
    return float(scores[0])


def _about(models: "Sequence[LoadedModel]", options: argparse.Namespace) -> str:
    from mammo_jax.weights.hub import is_on_hub

    parts = [
        f"{model.config.model.trunk} ({model.description.task}) trained on "
        f"{'phantoms (synthetic mammograms), ' * bool(model.description.phantoms)}"
        f"{model.description.dataset}{f', {name}' * is_on_hub(name)}"
        for model, name in zip(models, options.names, strict=True)
    ]
    calibrated = (
        " The scores are calibrated on the validation images of training: they are "
        "probabilities where the share of malignant images is the same."
        if _as_fitted(models, options)
        else " Each model's scores are calibrated on the validation images of its "
        "training, for that model alone and the flips of its own evaluation; with "
        "several models or other flips the mean need not be a probability."
    )
    raw = " The scores are uncalibrated: their order counts, they are no probabilities."
    return (
        f"Scored with {'; '.join(parts)}."
        + " The scores are the mean over these models." * (len(models) > 1)
        + " Every image was scored in four flips." * bool(options.tta)
        + (calibrated if options.calibrated else raw)
    )


if __name__ == "__main__":
    run_main(parse_arguments, main)
