"""DICOM objects of a prediction."""

import errno
import os
import shutil

import cv2
import highdicom
import numpy as np
import pydicom
import pytest
from predicting import make_breast, read_scores, read_table, run_predict
from pydicom.sr.codedict import codes
from raw_files import make_dataset, save

from mammo_jax.common.run_directory import read_json, write_json


def test_dicom_output_refers_to_its_source(model, folder, tmp_path):
    out = tmp_path / "out"
    source = pydicom.dcmread(folder / "deep" / "2.dcm")
    path = folder / "deep" / "2.dcm"
    assert run_predict(f"--model={model[0]}", "--dicom", f"--out={out}", path) == 0
    capture = pydicom.dcmread(out / "dicom" / "case_0001_RIGHT_CC_overlay.dcm")
    assert capture.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert capture.StudyInstanceUID == source.StudyInstanceUID
    assert capture.SeriesInstanceUID != source.SeriesInstanceUID
    (item,) = capture.SourceImageSequence
    assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert capture.Laterality == "R"
    drawn = cv2.imread(str(out / "overlays" / "case_0001_RIGHT_CC.png"))[..., ::-1]
    np.testing.assert_array_equal(capture.pixel_array, drawn)

    report = highdicom.sr.srread(out / "dicom" / "case_0001_RIGHT_CC_report.dcm")
    assert isinstance(report, highdicom.sr.ComprehensiveSR)
    assert report.StudyInstanceUID == source.StudyInstanceUID
    (group,) = report.content.get_image_measurement_groups()
    (image,) = group.source_images
    assert image.referenced_sop_instance_uid == source.SOPInstanceUID
    # Nothing says that the score is a probability.
    assert not group.get_measurements(name=codes.DCM.ProbabilityOfCancer)
    (measured,) = group.get_measurements()
    assert measured.name.meaning == report.SeriesDescription
    assert report.SeriesDescription == "Uncalibrated model score"
    (score,) = read_scores(out / "predictions.csv").values()
    assert measured.value == pytest.approx(score, abs=1e-6)
    assert measured.unit == codes.UCUM.NoUnits
    (site,) = group.finding_sites
    assert site.laterality == codes.SCT.Right
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    (series,) = evidence.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID


def test_both_objects_credit_the_makers_of_a_model(model, folder, tmp_path):
    credited = shutil.copytree(model[0], tmp_path / "credited")
    credit = "CC BY-NC-SA 4.0, not for commercial use; cite: them"
    description = read_json(credited / "model.json")
    write_json(credited / "model.json", description | {"credit": credit})
    out, path = tmp_path / "out", folder / "deep" / "2.dcm"
    assert run_predict(f"--model={credited}", "--dicom", f"--out={out}", path) == 0
    capture = pydicom.dcmread(out / "dicom" / "case_0001_RIGHT_CC_overlay.dcm")
    assert capture.DerivationDescription.endswith(credit)
    report = highdicom.sr.srread(out / "dicom" / "case_0001_RIGHT_CC_report.dcm")
    assert credit in report.to_json()


def test_a_calibrated_score_is_a_probability(calibrated, folder, tmp_path):
    out, path = tmp_path / "out", folder / "deep" / "2.dcm"
    options = (f"--model={calibrated}", "--dicom", "--calibrated", f"--out={out}")
    assert run_predict(*options, path) == 0
    report = highdicom.sr.srread(out / "dicom" / "case_0001_RIGHT_CC_report.dcm")
    assert report.SeriesDescription == "Probability of cancer"
    (group,) = report.content.get_image_measurement_groups()
    (measured,) = group.get_measurements(name=codes.DCM.ProbabilityOfCancer)
    (score,) = read_scores(out / "predictions.csv").values()
    assert measured.value == pytest.approx(100 * score, abs=1e-3)
    assert measured.unit == codes.UCUM.Percent


@pytest.mark.parametrize("way", ["flips", "models"])
def test_a_mean_of_calibrated_scores_is_no_probability(
    calibrated, folder, tmp_path, capsys, way
):
    second = shutil.copytree(calibrated, tmp_path / "second")
    options = {
        "flips": (f"--model={calibrated}", "--tta"),
        "models": (f"--model={calibrated},{second}",),
    }[way]
    out, path = tmp_path / "out", folder / "deep" / "2.dcm"
    command = (*options, "--calibrated", f"--out={out}", path)
    assert run_predict(*command, "--dicom") == 1
    assert "--dicom writes calibrated scores of one model" in capsys.readouterr().err
    assert not out.exists()
    assert run_predict(*command) == 0
    assert "need not be a probability" in (out / "report.html").read_text()


def test_pictures_and_sources_without_uids_get_no_dicom(model, folder, tmp_path):
    dataset = make_dataset(make_breast(0))
    del dataset.StudyInstanceUID
    save(dataset, folder / "no_uid.dcm")
    out = tmp_path / "out"
    assert run_predict(f"--model={model[0]}", "--dicom", f"--out={out}", folder) == 3
    reasons = {row["problem"] for row in read_table(out / "problems.csv").values()}
    assert reasons == {
        "scored, but a picture has no DICOM instance to refer to",
        "scored, but: its header has no valid StudyInstanceUID to refer to",
    }
    page = (out / "report.html").read_text()
    assert "Files that were scored, but not all was written: 2; see" in page
    assert "could not be scored" not in page
    assert len(read_scores(out / "predictions.csv")) == 5


def test_a_dicom_object_is_whole_or_not_there(model, folder, tmp_path, monkeypatch):
    def write_half(self, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pydicom.Dataset, "save_as", write_half)
    out, path = tmp_path / "out", folder / "deep" / "2.dcm"
    assert run_predict(f"--model={model[0]}", "--dicom", f"--out={out}", path) == 1
    assert not list((out / "dicom").iterdir())
