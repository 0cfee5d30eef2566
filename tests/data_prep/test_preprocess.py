import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from voxlate.data_prep import (
    IntensityMap,
    Phantom,
    Preprocessing,
    Scan,
    ScanError,
    foreground,
    make_phantom,
    read_scan,
    scan_from_array,
)

ORIENTATIONS = [
    (order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
MakeScan = Callable[..., Scan]


def psnr(got: np.ndarray, wanted: np.ndarray, mask: np.ndarray, span: float) -> float:
    error = float(((got.astype(np.float64) - wanted)[mask] ** 2).mean())
    return float("inf") if error == 0 else 10 * np.log10(span**2 / error)


def identity(scan: Scan, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray, float]:
    """What a perfect model gives back, what it should give, in scanner units, and the range."""
    prepared = preprocessing.apply(scan)
    scale: IntensityMap = prepared.record.intensity
    restored = preprocessing.restore(prepared.volume, prepared.record, background=-1.0)
    wanted = scan.data.clip(scale.low, scale.high)
    return scale.undo(restored), wanted, scale.high - scale.low


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_identity_model_is_exact_in_every_orientation(
    turned_scan: MakeScan, order: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    scan = turned_scan(order=order, flips=flips)
    got, wanted, span = identity(scan, Preprocessing(size=(64, 64, 48)))
    assert got.shape == scan.shape
    brain = foreground(scan.data)
    np.testing.assert_allclose(got[brain], wanted[brain], atol=1e-5 * span)
    assert (got[~brain] == got.min()).all()


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_every_orientation_gives_the_networks_the_same_volume(
    turned_scan: MakeScan, order: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    preprocessing = Preprocessing(size=(64, 64, 48))
    straight = preprocessing.apply(turned_scan())
    turned = preprocessing.apply(turned_scan(order=order, flips=flips))
    assert torch.equal(turned.volume, straight.volume)
    np.testing.assert_allclose(turned.record.plan.affine, straight.record.plan.affine, atol=1e-4)


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::5])
@pytest.mark.parametrize("spacing", [(1.2, 1.2, 1.2), (1.0, 1.0, 3.0), (1.05, 2.0, 1.5)])
def test_identity_model_loses_little_where_the_grid_gets_finer(
    turned_scan: MakeScan,
    spacing: tuple[float, float, float],
    order: tuple[int, int, int],
    flips: tuple[int, int, int],
) -> None:
    scan = turned_scan(order=order, flips=flips, spacing=spacing)
    got, wanted, span = identity(scan, Preprocessing(size=(64, 64, 48)))
    assert psnr(got, wanted, foreground(scan.data), span) > 45


def test_spacing_within_a_thousandth_is_copied(turned_scan: MakeScan) -> None:
    preprocessing = Preprocessing(size=(64, 64, 48))
    exact = preprocessing.apply(turned_scan())
    nearly = preprocessing.apply(turned_scan(spacing=(1.0004, 0.9996, 1.0)))
    assert not nearly.record.plan.resampled
    assert torch.equal(exact.volume, nearly.volume)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 3.0), (1.3, 0.9, 2.0)])
def test_volume_lies_in_space_where_the_scan_does(
    turned_scan: MakeScan, spacing: tuple[float, float, float]
) -> None:
    """The centre of mass in mm is that of the scan, though axes, spacing and crop are not."""
    for order, flips in ORIENTATIONS[::7]:
        scan = turned_scan("t2", order=order, flips=flips, spacing=spacing)
        prepared = Preprocessing(size=(32, 32, 32)).apply(scan)
        inside = foreground(scan.data)
        scale = prepared.record.intensity
        weights = np.where(inside, scale.apply(scan.data) + 1, 0)
        moved = _centre(prepared.volume[0].numpy() + 1, prepared.record.plan.affine)
        np.testing.assert_allclose(moved, _centre(weights, scan.affine), atol=0.05)


def _centre(weights: np.ndarray, affine: np.ndarray) -> np.ndarray:
    at = np.array(np.meshgrid(*map(np.arange, weights.shape), indexing="ij")).reshape(3, -1)
    voxel = at @ weights.ravel().astype(np.float64) / weights.sum(dtype=np.float64)
    return affine[:3, :3] @ voxel + affine[:3, 3]


def test_oblique_scan_stays_oblique_and_exact(phantom: Phantom) -> None:
    angle = np.radians(20)
    rotation = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(rotation) @ np.diag([-1, -1, 1])
    scan = scan_from_array(phantom.volumes["t2"], affine, min_extent_mm=0)
    got, wanted, span = identity(scan, Preprocessing(size=(64, 64, 48)))
    brain = foreground(scan.data)
    np.testing.assert_allclose(got[brain], wanted[brain], atol=1e-5 * span)
    plan = Preprocessing().plan(scan)
    assert nib.aff2axcodes(plan.affine) == ("R", "A", "S")
    assert abs(plan.affine[0, 1]) > 0.3


def test_grid_grows_to_a_multiple_rather_than_cut_the_head(turned_scan: MakeScan) -> None:
    scan = turned_scan()
    prepared = Preprocessing(size=(16, 24, 40), multiple_of=8).apply(scan)
    head = foreground(scan.data)
    assert prepared.volume.shape[1] > 16
    assert all(n % 8 == 0 for n in prepared.volume.shape[1:])
    assert int(prepared.foreground.sum()) == int(head.sum())


def test_head_is_in_the_middle_of_the_grid(turned_scan: MakeScan) -> None:
    prepared = Preprocessing(size=(80, 80, 80)).apply(turned_scan())
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(prepared.foreground[0].numpy().any(axis=others))
        assert abs(found[0] - (79 - found[-1])) <= 1


def test_percentiles_of_the_head_become_the_limits(turned_scan: MakeScan) -> None:
    scan = turned_scan("flair")
    low, high = np.percentile(scan.data[scan.data > 0], (0.5, 99.5))
    prepared = Preprocessing(size=(64, 64, 48)).apply(scan)
    assert prepared.record.intensity == IntensityMap(pytest.approx(low), pytest.approx(high))
    assert prepared.volume.dtype == torch.float32
    assert float(prepared.volume.min()) == -1 and float(prepared.volume.max()) == 1
    assert (prepared.volume[~prepared.foreground] == -1).all()


def test_one_hot_voxel_changes_nothing_else(turned_scan: MakeScan) -> None:
    scan = turned_scan()
    data = scan.data.copy()
    middle = tuple(n // 2 for n in data.shape)
    data[middle] = 1e7
    hot = scan_from_array(data, scan.affine, min_extent_mm=0)
    preprocessing = Preprocessing(size=(64, 64, 48))
    plain, spiked = preprocessing.apply(scan).volume, preprocessing.apply(hot).volume
    difference = (plain - spiked).numpy()
    assert 10 * np.log10(4 / (difference**2).mean()) > 40


def test_scans_of_a_case_share_one_grid(turned_scan: MakeScan) -> None:
    preprocessing = Preprocessing(size=(32, 32, 32))
    scans = [turned_scan(modality) for modality in ("t1", "t1ce", "t2", "flair")]
    plan = preprocessing.plan(*scans)
    prepared = [preprocessing.apply(scan, plan) for scan in scans]
    for one in prepared:
        assert one.record.plan is plan
        assert tuple(one.volume.shape[1:]) == plan.shape


def test_plan_covers_the_heads_of_all_scans(turned_scan: MakeScan) -> None:
    scan = turned_scan()
    half = scan.data.copy()
    half[22:] = 0
    small = scan_from_array(half, scan.affine, min_extent_mm=0)
    preprocessing = Preprocessing(size=(8, 8, 8), multiple_of=1)
    assert preprocessing.plan(small, scan).shape == preprocessing.plan(scan).shape
    assert preprocessing.plan(small).shape[0] < preprocessing.plan(scan).shape[0]


def test_scan_on_another_grid_is_refused(turned_scan: MakeScan) -> None:
    preprocessing = Preprocessing(size=(64, 64, 48))
    moved = turned_scan(spacing=(1.1, 1.0, 1.0))
    with pytest.raises(ScanError, match="register") as caught:
        preprocessing.plan(turned_scan(), moved)
    assert caught.value.code == "E_GRID"
    with pytest.raises(ScanError, match="register"):
        preprocessing.apply(moved, preprocessing.plan(turned_scan()))


def test_mask_follows_its_scan(turned_scan: MakeScan) -> None:
    scan = turned_scan(order=(2, 0, 1), flips=(-1, 1, -1))
    preprocessing = Preprocessing(size=(64, 64, 48))
    prepared = preprocessing.apply(scan)
    mask = preprocessing.apply_mask(foreground(scan.data), prepared.record.plan)
    assert torch.equal(mask, prepared.foreground)


def test_restore_refuses_another_shape(turned_scan: MakeScan) -> None:
    preprocessing = Preprocessing(size=(64, 64, 48))
    prepared = preprocessing.apply(turned_scan())
    with pytest.raises(ValueError, match="shape"):
        preprocessing.restore(prepared.volume[:, 1:], prepared.record, background=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"spacing": (1, 1, 0)},
        {"size": (8, 8)},
        {"percentiles": (99, 1)},
        {"percentiles": (0, 101)},
        {"multiple_of": 0},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Preprocessing(**wrong)


def test_settings_may_come_as_lists() -> None:
    assert Preprocessing(size=[8, 8, 8]) == Preprocessing(size=(8, 8, 8))


def test_restore_fills_what_the_grid_left_out() -> None:
    phantom = make_phantom((40, 40, 40), seed=0, spacing=4)
    data = np.pad(phantom.volumes["t1"], 30)
    scan = scan_from_array(data, np.eye(4))
    preprocessing = Preprocessing(size=(48, 48, 48))
    prepared = preprocessing.apply(scan)
    restored = preprocessing.restore(
        torch.ones_like(prepared.volume), prepared.record, background=-3
    )
    assert restored[0, 0, 0] == -3
    assert int((restored == 1).sum()) == 48**3


@pytest.mark.parametrize("name", ["open_ms/patient07/t1", "open_ms/patient19/flair"])
def test_identity_model_is_exact_on_a_real_scan_at_1_mm(real_data: Path, name: str) -> None:
    scan = read_scan(real_data / f"{name}.nii.gz")
    preprocessing = Preprocessing()
    assert preprocessing.plan(scan).shape == (192, 192, 144)
    got, wanted, span = identity(scan, preprocessing)
    brain = foreground(scan.data)
    np.testing.assert_allclose(got[brain], wanted[brain], atol=1e-5 * span)


def test_identity_model_on_a_real_scan_of_thick_slices(real_data: Path) -> None:
    """0.72 x 0.72 x 3 mm: the slices come back, detail finer than 1 mm in plane does not."""
    scan = read_scan(real_data / "open_ms_longitudinal/patient12_study1/t1.nii.gz")
    got, wanted, span = identity(scan, Preprocessing())
    assert psnr(got, wanted, foreground(scan.data), span) > 33.5


def test_volume_is_that_of_the_reference_preprocessing(vectors: Path) -> None:
    """RAS, crop to the head, centre crop, percentiles: as ALDM's code, which crops what we keep.

    Its percentiles are over its crop with the background, and it clips nothing.
    """
    reference = np.load(vectors / "aldm_preprocess_monai.npz")
    roi = (12, 16, 12)
    source = scan_from_array(
        reference["in/t1"], reference["in/affine"], min_voxels=1, min_extent_mm=0
    )
    preprocessing = Preprocessing(size=roi, multiple_of=1)
    plan = preprocessing.plan(source)
    for modality in ("t1", "t1ce", "t2", "flair"):
        values = reference[f"in/{modality}"]
        scan = scan_from_array(values, reference["in/affine"], min_voxels=1, min_extent_mm=0)
        prepared = preprocessing.apply(scan, plan)
        middle = tuple(
            slice(n // 2 - r // 2, n // 2 - r // 2 + r)
            for n, r in zip(prepared.volume.shape[1:], roi, strict=True)
        )
        ours = prepared.volume[0].numpy()[middle]
        turned = np.flip(values, (0, 1))
        theirs = reference[f"out/{modality}"][0]
        offset = [n // 2 - r // 2 for n, r in zip(plan.shape, roi, strict=True)]
        start = [s + o for s, o in zip(plan.start, offset, strict=True)]
        crop = turned[tuple(slice(s, s + r) for s, r in zip(start, roi, strict=True))]
        low, high = np.percentile(crop, (0.5, 99.5))
        np.testing.assert_allclose((crop - low) / (high - low) * 2 - 1, theirs, atol=1e-5)
        scale = prepared.record.intensity
        inside = crop > 0
        np.testing.assert_allclose(ours[inside], scale.apply(crop)[inside], atol=1e-5)
