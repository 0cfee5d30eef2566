import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from voxlate.data_prep.geometry import plan_grid, to_model_grid, to_scan_grid


def whole(shape: tuple[int, int, int], spacing: tuple[float, float, float], target: float = 1.0):
    """A plan that keeps the whole field of view."""
    affine = np.diag([*spacing, 1.0])
    box = tuple((0, n) for n in shape)
    return plan_grid(shape, affine, box, spacing=(target,) * 3, size=(1, 1, 1), multiple_of=1)


@settings(max_examples=25, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(1.0, 5.0)] * 3),
    shape=st.tuples(*[st.integers(6, 20)] * 3),
    seed=st.integers(0, 99),
)
def test_way_to_a_finer_grid_and_back_changes_nothing_smooth(
    spacing: tuple[float, float, float], shape: tuple[int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal(shape).astype(np.float32)
    coarse = ndimage.gaussian_filter(coarse, 1.0)
    plan = whole(shape, spacing)
    back = to_scan_grid(to_model_grid(coarse, plan, background=0), plan, background=0)
    error = np.sqrt(((back - coarse) ** 2).mean() / coarse.var())
    assert error < 0.05


def test_integer_ratio_comes_back_to_machine_precision() -> None:
    coarse = np.random.default_rng(0).standard_normal((9, 8, 7)).astype(np.float32)
    plan = whole(coarse.shape, (2.0, 3.0, 1.0))
    fine = to_model_grid(coarse, plan, background=0)
    assert fine.shape == (18, 24, 7)
    np.testing.assert_allclose(to_scan_grid(fine, plan, background=0), coarse, atol=2e-4)


@pytest.mark.parametrize("spacing", [(0.7, 0.8, 0.9), (2.5, 0.6, 1.0)])
def test_straight_ramp_in_mm_stays_a_ramp_in_mm(spacing: tuple[float, float, float]) -> None:
    shape = (60, 64, 40)
    plan = whole(shape, spacing)
    slope = np.array([0.3, -0.2, 0.5])

    def ramp(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
        at = np.meshgrid(*map(np.arange, shape), indexing="ij")
        return np.tensordot(slope @ affine[:3, :3], at, 1) + slope @ affine[:3, 3]

    got = to_model_grid(ramp(shape, plan.scan_affine).astype(np.float32), plan, background=0)
    inner = tuple(slice(n // 3, -(n // 3)) for n in got.shape)
    np.testing.assert_allclose(got[inner], ramp(plan.shape, plan.affine)[inner], atol=0.01)


def test_a_coarser_grid_holds_what_is_smooth() -> None:
    at = np.arange(96) * 0.7
    waves = np.sin(at[:, None, None] / 3) * np.cos(at[None, :, None] / 4) + at[None, None] / 20
    plan = whole(waves.shape, (0.7, 0.7, 0.7))
    assert plan.shape == (67, 67, 67)
    model = to_model_grid(waves.astype(np.float32), plan, background=0)
    back = to_scan_grid(model, plan, background=0)
    inner = (slice(6, -6),) * 3
    error = ((back - waves)[inner] ** 2).mean()
    assert 10 * np.log10(np.ptp(waves) ** 2 / error) > 60


def test_detail_too_fine_for_the_grid_does_not_alias() -> None:
    stripes = np.where(np.arange(200) % 2, 1.0, -1.0)  # period of 1 mm, which a 1 mm grid lacks
    data = np.broadcast_to(stripes[:, None, None], (200, 8, 8)).astype(np.float32)
    plan = whole(data.shape, (0.5, 1.0, 1.0))
    assert np.abs(to_model_grid(data, plan, background=0)[5:-5]).max() < 0.05


def test_affine_takes_each_voxel_to_its_place() -> None:
    shape, box = (20, 30, 25), ((3, 12), (5, 25), (0, 24))
    affine = np.array([[0, 0, -1, 40], [-1, 0, 0, 7], [0, 1, 0, -12], [0, 0, 0, 1.0]])
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    plan = plan_grid(shape, affine, box, spacing=(1, 1, 1), size=(40, 16, 32), multiple_of=8)
    volume = to_model_grid(data, plan, background=-1)
    to_voxel = np.linalg.inv(plan.affine) @ affine
    for voxel in [(3, 5, 0), (11, 24, 23), (7, 10, 13)]:
        place = np.rint(to_voxel @ [*voxel, 1])[:3].astype(int)
        assert volume[tuple(place)] == data[voxel]
