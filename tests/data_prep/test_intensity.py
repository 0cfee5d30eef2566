import numpy as np
import pytest

from voxlate.data_prep import foreground, make_phantom
from voxlate.data_prep.intensity import IntensityMap, percentile_map


def ball(radius: float = 0.7, n: int = 40) -> np.ndarray:
    at = np.meshgrid(*[np.linspace(-1, 1, n)] * 3, indexing="ij")
    return sum(a**2 for a in at) < radius**2


def test_cleared_background_gives_exactly_the_voxels_above_it() -> None:
    inside = ball()
    values = np.random.default_rng(0).uniform(1, 5, inside.shape).astype(np.float32)
    np.testing.assert_array_equal(foreground(np.where(inside, values, 0)), inside)
    np.testing.assert_array_equal(foreground(np.where(inside, values, -7)), inside)


def test_normalised_brain_on_zero_background_counts_on_both_sides() -> None:
    inside = ball()
    values = np.random.default_rng(0).standard_normal(inside.shape).astype(np.float32)
    np.testing.assert_array_equal(foreground(np.where(inside, values, 0)), inside)


def test_holes_inside_belong_to_the_head_but_not_to_its_percentiles() -> None:
    inside, hole = ball(), ball(0.2)
    rng = np.random.default_rng(0)
    values = np.where(inside, rng.uniform(100, 200, inside.shape), 0).astype(np.float32)
    values[hole] = 0
    mask = foreground(values)
    np.testing.assert_array_equal(mask, inside)
    assert percentile_map(values, mask, (0, 100)).low >= 100


def test_ringing_below_a_cleared_background_is_left_out() -> None:
    inside = ball()
    values = np.where(inside, 300, 0).astype(np.float32)
    values[2, 2, 2:9] = -4
    np.testing.assert_array_equal(foreground(values), inside)


@pytest.mark.parametrize("modality", ["t1", "t2", "flair"])
def test_head_in_noisy_air_is_found_whole_and_the_air_is_not(modality: str) -> None:
    phantom = make_phantom(
        (88, 100, 88), seed=0, spacing=2.2, noise=0.02, skull=True, modalities=(modality,)
    )
    mask = foreground(phantom.volumes[modality], (2.2, 2.2, 2.2))
    head = phantom.labels > 0
    assert (mask & head).sum() / head.sum() > 0.999
    assert (mask & ~head).sum() / (~head).sum() < 0.25


def test_noise_with_many_zeros_is_no_cleared_background() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 3, (60, 60, 60)).astype(np.float32)
    head = ball(0.6, 60)
    mask = foreground(np.where(head, noise + 400, noise))
    assert (mask & head).sum() == head.sum()
    assert mask.mean() < 2.5 * head.mean()  # grown by two coarse voxels of 3 mm


def test_volume_without_background_is_all_foreground_or_nearly() -> None:
    values = np.random.default_rng(0).uniform(900, 1000, (40, 40, 40)).astype(np.float32)
    assert foreground(values).any()


def test_map_takes_percentiles_to_the_limits_and_back() -> None:
    scale = IntensityMap(100, 300)
    values = np.array([0, 100, 200, 300, 999], dtype=np.float32)
    mapped = scale.apply(values)
    np.testing.assert_allclose(mapped, [-1, -1, 0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(scale.undo(mapped), [100, 100, 200, 300, 300], atol=1e-4)


def test_nearly_constant_head_still_has_a_map() -> None:
    values = np.full((20, 20, 20), 5, np.float32)
    values[0, 0, 0] = 9
    scale = percentile_map(values, np.ones(values.shape, bool), (0.5, 99.5))
    assert (scale.low, scale.high) == (5, 9)


def test_huge_intensities_do_not_overflow() -> None:
    inside = ball()
    values = np.random.default_rng(0).uniform(1, 5, inside.shape).astype(np.float32)
    big = np.where(inside, values * 1e32, 0).astype(np.float32)
    scale = percentile_map(big, foreground(big), (0.5, 99.5))
    mapped = scale.apply(big)
    assert np.isfinite(mapped).all() and mapped.max() == 1 and mapped.min() == -1
