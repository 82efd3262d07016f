"""The drawn mammograms: anatomy, texture, lesions, and no easy way to the label."""

import itertools
import zlib

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mammo_jax.phantom import render
from mammo_jax.phantom.anatomy import draw_anatomy, draw_shape, smooth_fields
from mammo_jax.phantom.catalogue import make_catalogue
from mammo_jax.phantom.lesions import Lesion, region_mask
from mammo_jax.phantom.mammogram import ViewPlan, draw_mammogram, film_size
from mammo_jax.phantom.noise import power_law_noise
from mammo_jax.phantom.parenchyma import draw_tissue
from mammo_jax.phantom.seeding import named_generator

KINDS = [(kind, label) for kind in ("mass", "calc") for label in (False, True)]


def plan(*lesions, view="CC", laterality="LEFT", density=2, name="one"):
    anatomy = draw_anatomy(named_generator(0, "anatomy", density), density)
    return ViewPlan(name, laterality, view, anatomy, lesions)


def lesion(kind, malignant, diameter=0.045, lateral=0.1):
    return Lesion(kind, malignant, diameter, 0.8, 0.5, lateral)


def tissue_of(view, density, height=576, width=360, seed=1):
    anatomy = draw_anatomy(named_generator(seed, "anatomy"), density)
    generator = named_generator(seed, view, density)
    shape = draw_shape(generator, anatomy, view, width / height)
    fields = smooth_fields(shape, height, width)
    tissue = draw_tissue(generator, anatomy, shape, fields, height, width)
    return tissue, shape, fields


@pytest.mark.parametrize("beta", [2.0, 3.0])
def test_noise_has_a_power_law_spectrum(beta):
    spectra = []
    for seed in range(6):
        noise = power_law_noise(named_generator(seed), 288, 288, beta=beta, finest=288)
        window = np.hanning(288)[:, None] * np.hanning(288)
        spectra.append(np.abs(np.fft.fft2(noise * window)) ** 2)
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(288)] * 2))
    power = np.mean(spectra, axis=0)
    edges = np.geomspace(0.02, 0.3, 9)
    bands = itertools.pairwise(edges)
    means = [power[(frequency >= a) & (frequency < b)].mean() for a, b in bands]
    slope = np.polyfit(np.log(np.sqrt(edges[:-1] * edges[1:])), np.log(means), 1)[0]
    assert slope == pytest.approx(-beta, abs=0.5)
    assert 0.5 < noise.std() < 1.5


def test_same_breast_at_every_size():
    small = draw_mammogram(0, plan(lesion("mass", True)), 288, 180)
    large = draw_mammogram(0, plan(lesion("mass", True)), 1152, 720)
    shrunk = cv2.resize(large.pixels, (180, 288), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(shrunk.ravel(), small.pixels.ravel())[0, 1] > 0.95
    np.testing.assert_allclose(large.outlines[0], small.outlines[0], atol=0.008)


@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_breast_lies_at_the_chest_wall_before_a_black_background(view):
    tissue, shape, fields = tissue_of(view, 3)
    rows = slice(220, 360)
    assert (tissue[rows, 2] > 0.2).all()
    assert tissue[rows, -20:].max() < 0.01
    nipple = np.array(shape.nipple) * 576
    edge = np.argwhere(fields.depth[round(nipple[1])] > 0).max()
    assert edge == pytest.approx(nipple[0], abs=4)
    # The thickness falls off smoothly to the skin.
    profile = fields.thickness[round(nipple[1]), : int(nipple[0])]
    assert profile[0] > 0.95
    assert np.abs(np.diff(profile)).max() < 0.25


def test_only_oblique_views_show_the_pectoral_muscle():
    for view, shown in (("CC", False), ("MLO", True)):
        *_, fields = tissue_of(view, 2)
        assert bool(fields.pectoral[:60, :20].mean() > 0.5) is shown
        assert fields.pectoral[-100:].max() == 0


def test_denser_breasts_are_whiter():
    means = [
        np.mean([tissue_of("CC", d, seed=seed)[0][:, :120] for seed in range(4)])
        for d in (1, 2, 3, 4)
    ]
    assert means == sorted(means)


def test_right_breasts_are_mirrored():
    left = draw_mammogram(0, plan(lesion("mass", False)), 384, 240)
    right = draw_mammogram(0, plan(lesion("mass", False), laterality="RIGHT"), 384, 240)
    middle = slice(100, 280)  # without markers and borders
    flipped = right.pixels[middle, ::-1].astype(float)
    pair = left.pixels[middle].astype(float).ravel(), flipped.ravel()
    assert np.corrcoef(*pair)[0, 1] > 0.98
    mirrored = np.array([239 / 384, 0]) + left.outlines[0] * [-1, 1]
    np.testing.assert_allclose(right.outlines[0], mirrored)


@pytest.mark.parametrize(("kind", "malignant"), KINDS)
@pytest.mark.parametrize("view", ["CC", "MLO"])
def test_outline_covers_the_lesion(kind, malignant, view):
    size = (1152, 720)
    with_one = draw_mammogram(0, plan(lesion(kind, malignant), view=view), *size)
    without = draw_mammogram(0, plan(view=view), *size)
    change = np.abs(with_one.pixels.astype(float) - without.pixels)
    inside = region_mask(with_one.outlines[0], *size) > 0
    # Spicules reach a little beyond, as they do in the real set.
    assert change[inside].sum() > 0.85 * change.sum()
    assert change[inside].max() > 4000
    # Nothing but the lesion differs: no other trace of the label.
    far = cv2.dilate(inside.astype(np.uint8), np.ones((61, 61))) == 0
    assert change[far].max() == 0


def test_lesions_lie_in_the_breast_and_apart():
    for view in ("CC", "MLO"):
        for density in (1, 4):
            lesions = [lesion("mass", True, 0.05) for _ in range(3)]
            found = draw_mammogram(
                0, plan(*lesions, view=view, density=density), 576, 360
            )
            masks = [region_mask(o, 576, 360) > 0 for o in found.outlines]
            assert sum(m.astype(int) for m in masks).max() == 1
            assert all(m.sum() > 400 for m in masks)


def test_malignant_lesions_are_rougher_and_benign_ones_coarser():
    """What tells them apart: rims of masses, sizes of calcifications."""
    found = {}
    for kind, malignant in KINDS:
        drawn = draw_mammogram(0, plan(lesion(kind, malignant)), 2304, 1440)
        plain = draw_mammogram(0, plan(), 2304, 1440)
        change = drawn.pixels.astype(np.float32) - plain.pixels
        bright = (change > 0.4 * change.max()).astype(np.uint8)
        contours, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        largest = max(contours, key=cv2.contourArea)
        area = cv2.contourArea(largest)
        found[kind, malignant] = (
            len(contours),
            area,
            4 * np.pi * area / cv2.arcLength(largest, True) ** 2,
        )
    assert found["mass", False][2] > 0.7 > found["mass", True][2] + 0.1
    assert found["calc", True][0] > 2 * found["calc", False][0]
    assert found["calc", False][1] > 2 * found["calc", True][1]


def test_digital_images_have_14_bits_and_a_background_of_zero():
    drawn = draw_mammogram(0, plan(lesion("mass", True)), 576, 360, scale="digital")
    assert drawn.pixels.dtype == np.uint16
    assert 1000 < drawn.pixels.max() < 2**14
    assert (drawn.pixels[:, -30:] == 0).all()
    assert (drawn.pixels > 0).mean() < 0.8


def test_film_uses_the_16_bit_range_and_carries_a_marker():
    attenuation = np.zeros((576, 360), np.float32)
    for laterality, outer in (("LEFT", np.s_[:, 180:]), ("RIGHT", np.s_[:, :180])):
        film = render.to_film(named_generator(0), attenuation, laterality, "MLO")
        corner = film[5:120][outer][:, 10:-10]
        assert corner.max() > 30000


@pytest.fixture(scope="module")
def catalogue():
    return make_catalogue(seed=11, cases=400, test_share=0.2)


def test_catalogue_has_the_wanted_proportions(catalogue):
    views = [b for b in catalogue for _ in b.views]
    assert np.mean([b.malignant for b in views]) == pytest.approx(0.45, abs=0.02)
    tests = {b.patient_id for b in catalogue if b.findings[0].release == "Test"}
    assert len(tests) == 80
    assert len({b.patient_id for b in catalogue}) == 400
    sides = [(b.patient_id, b.laterality) for b in catalogue]
    assert len(set(sides)) == len(sides)
    assert all(b.findings for b in catalogue)
    kinds = {f.lesion.kind for b in catalogue for f in b.findings}
    assert kinds == {"mass", "calc"}


def test_prefix_of_the_set_is_in_no_release_alone(catalogue):
    tests = [b.findings[0].release == "Test" for b in catalogue]
    assert any(tests[:80])
    assert any(tests[-80:])


def auc_of_each(facts, labels):
    return {
        name: roc_auc_score(labels, [row[name] for row in facts]) for name in facts[0]
    }


def test_no_column_of_the_catalogue_tells_the_label(catalogue):
    facts = [
        {
            "density": breast.anatomy.density,
            "size": breast.anatomy.size,
            "left": breast.laterality == "LEFT",
            "craniocaudal": view == "CC",
            "views": len(breast.views),
            "findings": len(breast.findings),
            "mass": breast.findings[0].lesion.kind == "mass",
            "conspicuity": breast.findings[0].lesion.conspicuity,
            "diameter": breast.findings[0].lesion.diameter,
            "patient": int(breast.patient_id[2:]),
            "rows": film_size(11, f"{breast.patient_id}_{view}", 1152)[0],
            "columns": film_size(11, f"{breast.patient_id}_{view}", 1152)[1],
        }
        for breast in catalogue
        for view in breast.views
    ]
    labels = [breast.malignant for breast in catalogue for _ in breast.views]
    # 450 breasts: three standard errors are 0.08.
    for name, auc in auc_of_each(facts, labels).items():
        assert auc == pytest.approx(0.5, abs=0.08), name


@pytest.mark.slow
def test_no_global_statistic_tells_the_label(catalogue):
    facts, labels = [], []
    for breast in catalogue[:240]:
        view = breast.views[0]
        name = f"{breast.patient_id}_{breast.laterality}_{view}"
        lesions = tuple(finding.lesion for finding in breast.findings)
        what = ViewPlan(name, breast.laterality, view, breast.anatomy, lesions)
        pixels = draw_mammogram(11, what, 192, 120).pixels
        labels.append(breast.malignant)
        facts.append(
            {
                "mean": pixels.mean(),
                "deviation": pixels.std(),
                "brightest": np.percentile(pixels, 99),
                "maximum": pixels.max(),
                "breast": (pixels > 3000).mean(),
                "bytes": len(zlib.compress(pixels.tobytes())),
            }
        )
    # 240 breasts: three standard errors are 0.11.
    for name, auc in auc_of_each(facts, labels).items():
        assert auc == pytest.approx(0.5, abs=0.11), name


def test_generators_depend_on_seed_and_name_alone():
    draws = [
        named_generator(*key).integers(2**62)
        for key in ((0, "a"), (0, "a"), (1, "a"), (0, "b"), (0, "a", 1))
    ]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 4


def test_plans_are_immutable():
    with pytest.raises(AttributeError):
        plan().name = "other"
