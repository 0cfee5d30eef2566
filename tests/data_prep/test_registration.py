"""Known moves are found, on phantoms and (slow) on real scans; the rest is refused."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks import registration
from benchmarks.registration import Pairs, known_moves, published_mm, random_move
from voxlate.data_prep import (
    Phantom,
    Scan,
    ScanError,
    make_phantom,
    scan_from_array,
    write_scan,
)
from voxlate.data_prep.registration import register_rigid
from voxlate.data_prep.rigid_transform import LPS, RigidTransform, resample


@pytest.fixture(scope="module")
def head() -> Phantom:
    return make_phantom((52, 60, 48), seed=5, spacing=3.0, noise=0.005)


def scan_of(phantom: Phantom, modality: str) -> Scan:
    return scan_from_array(phantom.volumes[modality], phantom.affine, name=f"{modality}.nii.gz")


def points_of(scan: Scan) -> np.ndarray:
    inside = np.argwhere(scan.data > 0)[::31]
    return scan.affine @ np.c_[inside, np.ones(len(inside))].T


def mean_error(found: RigidTransform, truth: np.ndarray, points: np.ndarray) -> float:
    return float(np.linalg.norm(((found.matrix - truth) @ points)[:3], axis=0).mean())


def test_known_move_between_contrasts_is_found_twice_alike(head: Phantom) -> None:
    fixed, still = scan_of(head, "t1"), scan_of(head, "t2")
    truth = random_move(np.zeros(3), np.random.default_rng(2))
    moving = resample(still, still.shape, still.affine, truth.inverse)
    found = register_rigid(moving, fixed)
    assert mean_error(found, truth.matrix, points_of(fixed)) < 1.0
    assert found.overlap > 0.9
    np.testing.assert_array_equal(register_rigid(moving, fixed).matrix, found.matrix)
    laid_back = resample(moving, fixed.shape, fixed.affine, found)
    inside = fixed.data > 0
    before = np.corrcoef(moving.data[inside], still.data[inside])[0, 1]
    after = np.corrcoef(laid_back.data[inside], still.data[inside])[0, 1]
    assert after > 0.9 > before


def test_headers_that_say_another_place_are_no_obstacle(head: Phantom) -> None:
    fixed = scan_of(head, "t1")
    away = np.eye(4)
    away[:3, 3] = 300, -200, 150
    moving = scan_from_array(head.volumes["flair"], away @ head.affine)
    found = register_rigid(moving, fixed)
    assert mean_error(found, away, points_of(fixed)) < 1.0


def test_noise_is_no_head(head: Phantom) -> None:
    noise = np.random.default_rng(0).gamma(2.0, 100.0, size=(52, 60, 48))
    moving = scan_from_array(noise, head.affine, name="noise.nii.gz")
    with pytest.raises(ScanError, match="cannot be registered to t1.nii.gz") as caught:
        register_rigid(moving, scan_of(head, "t1"))
    assert caught.value.code == "E_REGISTRATION"
    assert caught.value.file == "noise.nii.gz"


def test_part_of_a_head_is_refused_where_too_little_is_there(head: Phantom) -> None:
    values = head.volumes["t2"].copy()
    values[: 52 // 2 + 14] = 0
    other = values[:, :, ::-1].copy()
    with pytest.raises(ScanError, match="cannot be registered"):
        register_rigid(scan_from_array(other, head.affine), scan_of(head, "t1"))


def test_itk_reads_the_transform_as_it_was_meant(head: Phantom, tmp_path: Path) -> None:
    move = random_move(np.array([3.0, -20.0, 10.0]), np.random.default_rng(1))
    file = tmp_path / "move.txt"
    file.write_text(move.itk_text())
    read = sitk.ReadTransform(str(file))
    point = np.array([12.0, -34.0, 56.0, 1.0])
    expected = LPS @ move.matrix @ point
    np.testing.assert_allclose(read.TransformPoint((LPS @ point)[:3].tolist()), expected[:3])
    np.testing.assert_allclose(move.inverse.matrix @ move.matrix, np.eye(4), atol=1e-9)


def test_turn_and_shift_are_those_of_the_matrix() -> None:
    matrix = np.eye(4)
    matrix[:2, :2] = [[0, -1], [1, 0]]
    matrix[:3, 3] = 3, 4, 0
    move = RigidTransform(matrix)
    assert move.turn_deg == pytest.approx(90)
    assert move.shift_mm == pytest.approx(5)
    with pytest.raises(ValueError, match="not a rigid transform"):
        RigidTransform(2 * np.eye(4))


def test_resampling_onto_the_own_grid_changes_nothing(head: Phantom) -> None:
    scan = scan_of(head, "t1")
    same = resample(scan, scan.shape, scan.affine)
    np.testing.assert_allclose(same.data, scan.data, atol=0.01)
    np.testing.assert_array_equal(same.affine, scan.affine)


def test_resampling_a_ramp_lands_where_the_grid_says() -> None:
    x = np.arange(40, dtype=np.float32)[:, None, None]
    ramp = scan_from_array(np.broadcast_to(x, (40, 40, 40)) * 2.1, np.diag([2, 2, 2, 1.0]))
    finer = np.diag([0.5, 2, 2, 1.0])
    finer[0, 3] = 30.0
    found = resample(ramp, (8, 40, 40), finer)
    np.testing.assert_allclose(found.data[:, 20, 20], 1.05 * (30 + 0.5 * np.arange(8)), atol=1e-2)


def test_labels_stay_labels_and_images_within_their_limits(head: Phantom) -> None:
    turn = random_move(np.zeros(3), np.random.default_rng(4))
    labels = Scan(
        Path("seg"), head.labels.astype(np.float32), head.affine, scan_of(head, "t1").header,
        np.dtype(np.uint8),
    )  # fmt: skip
    moved = resample(labels, labels.shape, labels.affine, turn, labels=True)
    assert set(np.unique(moved.data)) <= set(np.unique(head.labels))
    scan = scan_of(head, "t1")
    image = resample(scan, scan.shape, scan.affine, turn)
    assert image.data.min() >= scan.data.min() and image.data.max() <= scan.data.max()


def test_a_coarser_grid_holds_means_rather_than_single_voxels() -> None:
    noise = np.random.default_rng(0).normal(100, 10, (64, 64, 64)).astype(np.float32)
    scan = scan_from_array(noise, np.eye(4))
    coarse = resample(scan, (16, 16, 16), np.diag([4, 4, 4, 1.0]))
    assert coarse.data[2:-2, 2:-2, 2:-2].std() < 4


def publishers(file: Path) -> np.ndarray:
    """An affine transform of ITK, fixed to moving, mm RAS."""
    stored = sitk.ReadTransform(str(file))
    numbers, centre = np.array(stored.GetParameters()), np.array(stored.GetFixedParameters())
    matrix = np.eye(4)
    matrix[:3, :3] = numbers[:9].reshape(3, 3)
    matrix[:3, 3] = numbers[9:] + centre - matrix[:3, :3] @ centre
    return LPS @ matrix @ LPS


@pytest.mark.slow
@pytest.mark.parametrize("contrast", ["T1W", "T2W"])
def test_raw_patient_agrees_with_the_publishers(contrast: str, real_data: Path) -> None:
    from voxlate.data_prep import read_scan
    from voxlate.data_prep.labels import read_labels

    folder = real_data / "open_ms_longitudinal_raw" / "patient12_study1"
    brain = read_labels(folder / "brainmask.nii.gz")
    inside = np.argwhere(brain.data > 0)[::97]
    in_common = brain.affine @ np.c_[inside, np.ones(len(inside))].T
    in_flair = publishers(folder / "study1_FLAIR_to_common_space.txt") @ in_common
    fixed = read_scan(folder / "study1_FLAIR.nii.gz")
    found = register_rigid(read_scan(folder / f"study1_{contrast}.nii.gz"), fixed)
    truth = publishers(folder / f"study1_{contrast}_intrastudy_to_FLAIR.txt")
    assert mean_error(found, truth, in_flair) < 1.0


def test_distance_by_gradients_is_that_of_the_scans(head: Phantom) -> None:
    fixed, still = scan_of(head, "t1"), scan_of(head, "t2")
    shift = np.eye(4)
    shift[:3, 3] = 0.0, 1.5, 0.0
    moved = resample(still, still.shape, still.affine, RigidTransform(shift))
    assert published_mm(fixed, still) < 0.3
    assert published_mm(fixed, moved) == pytest.approx(1.5, abs=0.5)


def test_pairs_that_were_published_apart_are_drawn_again_and_named(
    head: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = RigidTransform(np.eye(4))
    monkeypatch.setattr(registration, "register_rigid", lambda moving, fixed: stays)
    folder = tmp_path / "case"
    folder.mkdir()
    shift = np.eye(4)
    shift[:3, 3] = 0.0, 1.5, 0.0
    for name in ("t1", "t2", "flair"):
        scan = scan_of(head, name)
        if name == "flair":
            scan = resample(scan, scan.shape, scan.affine, RigidTransform(shift))
        write_scan(folder / f"{name}.nii.gz", scan.data, scan)
    pairs = Pairs(0.7)
    moves = list(known_moves(tmp_path, 3, pairs, seed=0))
    assert [{move.fixed, move.moving} for move in moves] == [{"t1", "t2"}] * 3
    assert all(move.error_mm == pytest.approx(move.shift_mm) for move in moves)
    assert pairs.left_out and all("flair" in key for key in pairs.left_out)
    assert all(apart == pytest.approx(1.5, abs=0.5) for apart in pairs.left_out.values())
    with pytest.raises(ValueError, match="no pair in .* was published within 0.01 mm"):
        next(known_moves(tmp_path, 1, Pairs(0.01)))


@pytest.mark.slow
def test_of_fifty_moves_of_real_scans_95_percent_are_found_within_1_mm(real_data: Path) -> None:
    moves = list(known_moves(real_data, 50, Pairs()))
    errors = np.array([move.error_mm for move in moves])
    assert (errors < 2.0).all()
    assert np.mean(errors < 1.0) >= 0.95
