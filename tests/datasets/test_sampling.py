import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammo_jax.datasets.sampling import (
    HARD_REACH,
    PatchSampling,
    cut_patches,
    find_breast,
    find_region,
    make_generator,
    overlap_with,
    sample_patches,
)

SHAPE = (160, 120)
SIZE = 32
S1, S10 = PatchSampling(per_roi=1), PatchSampling(per_roi=10)


def disc(row: int, column: int, radius: int) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    cv2.circle(mask, (column, row), radius, 1, -1)
    return mask.astype(bool)


def patch_of(mask: np.ndarray, centre, size: int = SIZE) -> np.ndarray:
    """The patch, cut in the slowest and plainest way."""
    padded = np.pad(mask, size)
    top = centre[0] - size // 2 + size
    left = centre[1] - size // 2 + size
    return padded[top : top + size, left : left + size]


def plain_overlap(mask: np.ndarray, centre) -> float:
    shared = patch_of(mask, centre).sum()
    return max(shared / mask.sum(), shared / SIZE**2)


DISCS = st.builds(
    disc, st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1), st.integers(0, 40)
)
MASKS = st.lists(DISCS, min_size=1, max_size=4)


@given(MASKS, st.integers(0, 2**40))
@settings(deadline=None)
def test_every_patch_keeps_its_promise(masks, seed):
    regions = [find_region(mask) for mask in masks]
    breast = np.ones(SHAPE, bool)

    patches = sample_patches(regions, breast, SIZE, S10, np.random.default_rng(seed))

    for patch in patches:
        assert 0 <= patch.centre[0] < SHAPE[0]
        assert 0 <= patch.centre[1] < SHAPE[1]
        if patch.region is None:
            overlaps = [plain_overlap(mask, patch.centre) for mask in masks]
            assert max(overlaps) <= S10.negative_overlap
            assert patch.overlap == pytest.approx(max(overlaps))
        else:
            overlap = plain_overlap(masks[patch.region], patch.centre)
            assert patch.overlap == pytest.approx(overlap)
            top, left, bottom, right = regions[patch.region].box
            assert top <= patch.centre[0] < bottom
            assert left <= patch.centre[1] < right


@given(MASKS, st.integers(0, 2**40))
@settings(deadline=None)
def test_positives_meet_the_cutoff_wherever_the_shape_allows(masks, seed):
    """A disc inside the image always has centres where the patch covers 0.9."""
    regions = [find_region(mask) for mask in masks]
    inside = [
        r.box[0] > 0 and r.box[1] > 0 and r.box[2] < SHAPE[0] and r.box[3] < SHAPE[1]
        for r in regions
    ]

    patches = sample_patches(
        regions, np.ones(SHAPE, bool), SIZE, S10, np.random.default_rng(seed)
    )

    for number, region in enumerate(regions):
        own = [patch for patch in patches if patch.region == number]
        assert len(own) == S10.per_roi
        radius = (region.box[2] - region.box[0]) / 2
        if inside[number] and (radius <= SIZE / 2 or radius >= SIZE):
            assert min(patch.overlap for patch in own) > S10.positive_overlap


@given(MASKS, st.integers(0, 2**40))
@settings(deadline=None)
def test_as_many_background_patches_as_roi_patches(masks, seed):
    regions = [find_region(mask) for mask in masks if mask.sum() < 700]

    for sampling in (S1, S10):
        patches = sample_patches(
            regions, np.ones(SHAPE, bool), SIZE, sampling, np.random.default_rng(seed)
        )

        background = sum(patch.region is None for patch in patches)
        assert background == len(patches) - background
        assert background == sampling.per_roi * len(regions)


STRUCTURES = st.lists(
    st.tuples(st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1)), max_size=5
).map(lambda places: np.array(places, int).reshape(-1, 2))


@given(MASKS, STRUCTURES, st.integers(0, 2**40))
@settings(deadline=None)
def test_hard_background_lies_near_bright_structures(masks, structures, seed):
    regions = [find_region(mask) for mask in masks]
    hard = dataclasses.replace(S10, hard_share=0.5)
    breast = np.ones(SHAPE, bool)

    patches = sample_patches(
        regions, breast, SIZE, hard, np.random.default_rng(seed), structures
    )

    positive = [patch for patch in patches if patch.region is not None]
    ordinary = sample_patches(regions, breast, SIZE, S10, np.random.default_rng(seed))
    assert positive == [patch for patch in ordinary if patch.region is not None]
    background = [patch.centre for patch in patches if patch.region is None]
    near = 0
    for centre in background:
        assert max(plain_overlap(mask, centre) for mask in masks) <= 0.35
        distances = np.abs(structures - centre).max(axis=1, initial=0)
        near += len(structures) > 0 and distances.min() <= HARD_REACH * SIZE
    if near:
        assert near >= len(positive) / 2
    # Where a whole reach around a structure is clear of lesions there is room.
    reach = int(HARD_REACH * SIZE)
    if background and any(is_clear(masks, place, reach) for place in structures):
        assert near >= len(positive) / 2


def is_clear(masks, place, reach: int) -> bool:
    """Whether patches centred within `reach` of a place inside miss all lesions."""
    limits = np.array(SHAPE) - SIZE
    far = SIZE // 2 + reach + 1
    return bool(((place > SIZE) & (place < limits)).all()) and not any(
        patch_of(mask, place, 2 * far).any() for mask in masks
    )


def test_without_bright_structures_all_background_is_ordinary():
    regions = [find_region(disc(70, 50, 9))]
    hard = dataclasses.replace(S10, hard_share=0.5)

    patches, ordinary = (
        sample_patches(
            regions, np.ones(SHAPE, bool), SIZE, sampling, np.random.default_rng(0)
        )
        for sampling in (hard, S10)
    )

    assert patches == ordinary


@given(MASKS, st.integers(0, 2**40))
@settings(deadline=None)
def test_the_same_seed_gives_the_same_patches(masks, seed):
    regions = [find_region(mask) for mask in masks]
    breast = disc(80, 0, 79)

    for sampling in (S10, dataclasses.replace(S10, hard_share=0.5)):
        one, other = (
            sample_patches(
                *(regions, breast, SIZE, sampling),
                *(np.random.default_rng(seed), np.array([[80, 20], [30, 10]])),
            )
            for _ in range(2)
        )

        assert one == other


def test_each_image_has_its_own_generator():
    draws = {
        make_generator(seed, image_id).integers(2**60)
        for seed in (0, 1)
        for image_id in ("P_00001_LEFT_CC", "P_00001_LEFT_MLO")
    }

    assert len(draws) == 4
    again = make_generator(1, "P_00001_LEFT_MLO").integers(2**60)
    assert again in draws


def test_the_one_patch_of_s1_is_centred_on_the_roi():
    region = find_region(disc(70, 50, 9))

    patch, background = sample_patches(
        [region], np.ones(SHAPE, bool), SIZE, S1, np.random.default_rng(0)
    )

    assert patch.centre == (70, 50)
    assert patch.overlap == 1
    assert background.region is None


@given(st.floats(0, 1), st.integers(0, 2**40))
@settings(deadline=None, max_examples=30)
def test_background_lies_on_the_breast(share, seed):
    breast = disc(80, 0, 75)
    sampling = dataclasses.replace(S10, minimum_breast=share)

    patches = sample_patches(
        [find_region(disc(70, 20, 6))],
        breast,
        SIZE,
        sampling,
        np.random.default_rng(seed),
    )

    for patch in patches:
        if patch.region is None:
            assert patch_of(breast, patch.centre).mean() >= share


def test_without_that_demand_background_may_be_black():
    breast = disc(80, 0, 30)
    sampling = dataclasses.replace(S10, per_roi=200, minimum_breast=0.0)

    patches = sample_patches(
        [find_region(disc(70, 20, 6))],
        breast,
        SIZE,
        sampling,
        np.random.default_rng(0),
    )

    shares = [patch_of(breast, p.centre).mean() for p in patches if p.region is None]
    assert min(shares) == 0


def test_a_breast_too_narrow_for_the_demand_still_gives_background():
    breast = np.zeros(SHAPE, bool)
    breast[:, :3] = True

    patches = sample_patches(
        [find_region(disc(20, 60, 6))], breast, SIZE, S10, np.random.default_rng(0)
    )

    background = [patch for patch in patches if patch.region is None]
    assert len(background) == 10
    assert all(patch.centre[1] < SIZE for patch in background)


def test_lesions_that_fill_the_image_leave_no_background():
    # At a corner a quarter of the patch lies on the image.
    sampling = dataclasses.replace(S10, negative_overlap=0.2)

    patches = sample_patches(
        [find_region(np.ones(SHAPE, bool))],
        np.ones(SHAPE, bool),
        SIZE,
        sampling,
        np.random.default_rng(0),
    )

    assert len(patches) == 10
    assert all(patch.region == 0 for patch in patches)


def test_an_image_without_lesions_gives_no_patches():
    patches = sample_patches(
        [], np.ones(SHAPE, bool), SIZE, S10, np.random.default_rng(0)
    )

    assert patches == []


def test_a_shape_that_never_meets_the_cutoff_gets_a_lower_one():
    """A thin bar longer than four patches: none covers 0.9 of it or of itself."""
    mask = np.zeros(SHAPE, bool)
    mask[10:150, 60:64] = True

    patches = sample_patches(
        [find_region(mask)], np.ones(SHAPE, bool), SIZE, S10, np.random.default_rng(0)
    )

    overlaps = [patch.overlap for patch in patches if patch.region == 0]
    assert len(overlaps) == 10
    assert max(overlaps) <= S10.positive_overlap
    best = overlap_with(find_region(mask), np.array([[80, 62]]), SIZE)[0]
    assert min(overlaps) > best - 2 * S10.overlap_step


@given(st.integers(0, 159), st.integers(0, 119), st.integers(2, 41))
def test_patches_are_cut_around_their_centre_and_black_outside(row, column, size):
    image = np.random.default_rng(0).integers(1, 65536, SHAPE).astype(np.uint16)
    region = find_region(disc(row, column, 0))
    (patch, _) = sample_patches(
        [region], np.ones(SHAPE, bool), size, S1, np.random.default_rng(0)
    )

    (cut, _) = cut_patches(image, [patch, patch], size)

    assert patch.centre == (row, column)
    np.testing.assert_array_equal(cut, patch_of(image, patch.centre, size))


def test_region_is_the_largest_part_with_holes_filled():
    mask = disc(60, 60, 20) & ~disc(60, 60, 5)
    mask[0:3, 0:3] = True

    region = find_region(mask)

    assert region.box == (40, 40, 81, 81)
    assert region.area == disc(60, 60, 20).sum()
    assert region.outline.min() == 40
    drawn = np.zeros(SHAPE, np.uint8)
    cv2.fillPoly(drawn, [np.ascontiguousarray(region.outline[:, ::-1])], 1)
    np.testing.assert_array_equal(drawn.astype(bool), disc(60, 60, 20))


@pytest.mark.parametrize(
    "points", [[(5, 5)], [(5, 5), (5, 6)], [(3, y) for y in range(9)]]
)
def test_points_and_lines_are_regions_too(points):
    mask = np.zeros(SHAPE, bool)
    for point in points:
        mask[point] = True

    region = find_region(mask)

    assert region.area == len(points)


def test_an_empty_mask_is_no_region():
    assert find_region(np.zeros(SHAPE, bool)) is None


def test_breast_is_found_without_the_label_beside_it():
    random = np.random.default_rng(0)
    image = random.integers(0, 1500, SHAPE)  # the film is not quite black
    image[disc(80, 0, 70)] += random.integers(8000, 50000, disc(80, 0, 70).sum())
    image[5:20, 90:115] = 65535  # a marker

    breast = find_breast(image.astype(np.uint16))

    truth = disc(80, 0, 70)
    assert (breast & truth).sum() / (breast | truth).sum() > 0.95
    assert not breast[5:20, 90:115].any()


def test_a_black_image_has_no_breast():
    assert not find_breast(np.zeros(SHAPE, np.uint16)).any()
