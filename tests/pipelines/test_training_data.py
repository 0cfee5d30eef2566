"""Cached cases and samples: what is read, how it is turned, and that numbers alone decide."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from voxlate.data_prep import NoInputError, Preprocessing
from voxlate.data_prep.cases import find_cases
from voxlate.data_prep.phantom import write_phantom_case
from voxlate.pipelines.crops import (
    Augmentation,
    View,
    middle_slices,
    random_view,
    read_view,
    rotation,
    view_at,
    whole_view,
)
from voxlate.pipelines.training_data import (
    CropDataset,
    PairDataset,
    PreparedCase,
    StepSampler,
    ValidationPairs,
    ValidationVolumes,
    prepare_cases,
    training_loader,
)

MODALITIES = ["t1", "t1ce", "t2", "flair"]
PREPROCESSING = Preprocessing(spacing=(4, 4, 4), size=(36, 44, 36), multiple_of=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patient a has every contrast, b lacks t1ce, c has T1 alone."""
    folder = tmp_path_factory.mktemp("patients")
    contrasts = {"a": MODALITIES, "b": ["t1", "t2", "flair"], "c": ["t1"]}
    for seed, (name, modalities) in enumerate(contrasts.items()):
        shape = (38, 46, 36)
        write_phantom_case(
            folder / "scans" / name, shape, seed=seed, spacing=4.0, modalities=modalities
        )
    return folder


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[PreparedCase]:
    found = find_cases(folder / "scans", MODALITIES)
    return prepare_cases(found, PREPROCESSING, folder / "cache")


def ramp(*size: int) -> np.ndarray:
    """A volume whose every voxel differs, within [-1, 1]."""
    return np.linspace(-0.9, 0.9, int(np.prod(size)), dtype=np.float32).reshape(size)


def test_cache_holds_what_preprocessing_gives(folder: Path, cases: list[PreparedCase]) -> None:
    from voxlate.data_prep import read_scan

    scans = [read_scan(folder / "scans" / "b" / f"{name}.nii.gz") for name in ("t1", "t2", "flair")]
    plan = PREPROCESSING.plan(*scans)
    prepared = PREPROCESSING.apply(scans[1], plan)
    found = cases[1].volume("t2")
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, prepared.volume[0], atol=2**-11)
    assert cases[1].foreground()[prepared.foreground[0].numpy()].all()


def test_cache_is_used_again_and_a_changed_scan_is_not(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "scans" / "b", tmp_path / "scans" / "b")
    found = find_cases(tmp_path / "scans", MODALITIES)
    first = prepare_cases(found, PREPROCESSING, tmp_path / "cache")[0]
    marked = np.load(first.volumes["t1"])
    np.save(first.volumes["t1"], marked * 0)
    again = prepare_cases(found, PREPROCESSING, tmp_path / "cache")[0]
    assert not again.volume("t1").any()  # read from the cache, not prepared anew
    (tmp_path / "scans" / "b" / "t1.nii.gz").touch()
    changed = prepare_cases(found, PREPROCESSING, tmp_path / "cache")[0]
    np.testing.assert_array_equal(changed.volume("t1"), marked)
    other = Preprocessing(spacing=(4, 4, 4), size=(40, 48, 40), multiple_of=4)
    assert prepare_cases(found, other, tmp_path / "cache")[0].volume("t1").shape == (40, 48, 40)


def test_a_damaged_case_is_left_out_with_a_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(folder / "scans", tmp_path / "scans")
    whole = (tmp_path / "scans" / "a" / "t2.nii.gz").read_bytes()
    (tmp_path / "scans" / "a" / "t2.nii.gz").write_bytes(whole[: len(whole) // 2])
    found = find_cases(tmp_path / "scans", MODALITIES)
    left = prepare_cases(found, PREPROCESSING, tmp_path / "cache")
    assert [case.case_id for case in left] == ["b", "c"]
    assert "a is left out" in caplog.text and "t2.nii.gz" in caplog.text
    assert not list((tmp_path / "cache").glob(".*"))
    with pytest.raises(NoInputError, match="none of 1 cases"):
        prepare_cases(found[:1], PREPROCESSING, tmp_path / "cache")


def test_a_view_on_the_grid_copies_voxels_and_pads_with_background() -> None:
    volume = ramp(6, 7, 8)
    crop = read_view([volume], view_at((2, -1, 5), (3, 4, 5)))[0].numpy()
    np.testing.assert_array_equal(crop[:, 1:, :3], volume[2:5, 0:3, 5:8])
    assert (crop[:, 0] == -1).all() and (crop[:, :, 3:] == -1).all()


def test_flips_mirror_their_axes() -> None:
    volume = ramp(4, 5, 6)
    view = View((1.5, 2.0, 2.5), (4, 5, 6), flips=(True, False, True))
    np.testing.assert_array_equal(read_view([volume], view)[0], volume[::-1, :, ::-1])


def test_a_quarter_turn_is_rot90() -> None:
    volume = ramp(5, 5, 5)
    quarter = rotation(np.array([0.0, 0.0, np.pi / 2]))
    turned = read_view([volume], View((2, 2, 2), (5, 5, 5), quarter))[0]
    np.testing.assert_allclose(turned, np.rot90(volume, -1, (0, 1)).copy(), atol=1e-5)


def test_a_turned_view_equals_scipys_affine_transform() -> None:
    rng = np.random.default_rng(3)
    volume = (
        ndimage.gaussian_filter(rng.normal(size=(14, 17, 15)), 1).astype(np.float32).clip(-1, 1)
    )
    size, centre = np.array([9, 8, 10]), np.array([6.3, 8.1, 7.7])
    matrix = rotation(np.deg2rad([8.0, -6.0, 9.0])) / 1.07
    view = View(tuple(centre), tuple(size), matrix)
    offset = centre - matrix @ ((size - 1) / 2)
    expected = ndimage.affine_transform(
        volume.astype(np.float64), matrix, offset, tuple(size), order=1, cval=-1.0, mode="constant"
    )
    np.testing.assert_allclose(read_view([volume], view)[0], expected, atol=1e-5)


def test_source_and_target_are_turned_alike() -> None:
    volume = ramp(12, 12, 12)
    view = View((5, 6, 5), (8, 8, 8), rotation(np.array([0.1, 0.1, -0.1])), (True, False, False))
    both = read_view([volume, volume], view)
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=0)


def test_whole_view_holds_all_foreground_in_a_multiple() -> None:
    mask = np.zeros((30, 31, 32), dtype=bool)
    mask[3:20, 10:31, 7:25] = True
    view = whole_view(mask, 8)
    assert all(length % 8 == 0 for length in view.size)
    seen = read_view([mask.astype(np.float32) * 2 - 1], view) > 0
    assert int(seen.sum()) == int(mask.sum())


def test_crops_keep_inside_and_see_foreground() -> None:
    mask = np.zeros((40, 40, 40), dtype=bool)
    mask[:10, :10, :10] = True
    for seed in range(20):
        view = random_view(mask, (12, 12, 12), 0.5, np.random.default_rng(seed))
        low = np.asarray(view.centre) - 5.5
        assert (low >= 0).all() and (low + 12 <= 40).all()
        inside = tuple(slice(int(start), int(start) + 12) for start in low)
        assert mask[inside].mean() >= 0.2


def test_jitter_keeps_range_background_and_the_target() -> None:
    vary = Augmentation(jitter_probability=1.0)
    volume = torch.from_numpy(ramp(8, 8, 8))[None].clone()
    volume[:, :2] = -1
    kept = volume.clone()
    varied = vary.jitter(volume, np.random.default_rng(0))
    torch.testing.assert_close(volume, kept, rtol=0, atol=0)
    assert (varied[:, :2] == -1).all() and varied.min() >= -1 and varied.max() <= 1
    assert (varied - kept).abs().max() > 0.01


def test_a_sample_is_a_function_of_seed_and_number(cases: list[PreparedCase]) -> None:
    options = {"crop_size": 16, "augmentation": Augmentation(affine_probability=1.0)}
    first = PairDataset(cases, MODALITIES, seed=1, **options)
    again = PairDataset(cases, MODALITIES, seed=1, **options)
    other = PairDataset(cases, MODALITIES, seed=2, **options)
    for number in (7, 3, 1000):
        one, two = first[number], again[number]
        torch.testing.assert_close(one["source"], two["source"], rtol=0, atol=0)
        torch.testing.assert_close(one["target"], two["target"], rtol=0, atol=0)
        assert not torch.equal(one["source"], other[number]["source"])


def test_pairs_come_only_from_what_a_case_has_and_targets_are_balanced(
    cases: list[PreparedCase],
) -> None:
    data = PairDataset(cases, MODALITIES, crop_size=8)
    has = {case.case_id: {MODALITIES.index(name) for name in case.volumes} for case in cases}
    targets: Counter[int] = Counter()
    for number in range(400):
        sample = data[number]
        source, target = sample["source_index"], sample["target_index"]
        assert source != target and {source, target} <= has[sample["case"]]
        assert sample["available"].tolist() == [index == source for index in range(4)]
        targets[target] += 1
    assert min(targets.values()) > 70  # t1ce, in one case of three, as often as the others


def test_identity_share_and_target_weights(cases: list[PreparedCase]) -> None:
    weights = {"flair": 1.0, "t1ce": 3.0}
    data = PairDataset(
        cases, MODALITIES, crop_size=8, identity_share=0.5, target_weights=weights, min_foreground=0
    )
    samples = [data[number] for number in range(200)]
    same = [sample for sample in samples if sample["source_index"] == sample["target_index"]]
    assert 70 < len(same) < 130
    torch.testing.assert_close(same[0]["source"], same[0]["target"], rtol=0, atol=0)
    targets = Counter(sample["target_index"] for sample in samples)
    assert set(targets) == {1, 3} and targets[1] > 2 * targets[3]
    with pytest.raises(ValueError, match="pd"):
        PairDataset(cases, MODALITIES, crop_size=8, target_weights={"pd": 1.0})
    with pytest.raises(NoInputError, match="at least two contrasts"):
        PairDataset(cases[2:], MODALITIES, crop_size=8)


def test_single_crops_use_every_case(cases: list[PreparedCase]) -> None:
    data = CropDataset(cases, MODALITIES, crop_size=8, min_foreground=0)
    assert {data[number]["case"] for number in range(100)} == {"a", "b", "c"}


def test_validation_goes_through_everything_once(cases: list[PreparedCase]) -> None:
    volumes = ValidationVolumes(cases, MODALITIES, multiple=4)
    assert len(volumes) == 8
    sample = volumes[1]
    assert all(length % 4 == 0 for length in sample["image"].shape[1:])
    assert int(sample["mask"].sum()) == int(cases[0].foreground().sum())
    pairs = ValidationPairs(cases, MODALITIES, multiple=4, sources=["t1"])
    found = [(sample["case"], sample["target_index"]) for sample in (pairs[n] for n in range(5))]
    assert len(pairs) == 5
    assert found == [("a", 1), ("a", 2), ("a", 3), ("b", 2), ("b", 3)]
    assert len(ValidationPairs(cases, MODALITIES)) == 18


def test_batches_go_on_where_the_run_is(cases: list[PreparedCase]) -> None:
    straight = iter(StepSampler(3))
    resumed = iter(StepSampler(3, first_step=4))
    batches = [next(straight) for _ in range(6)]
    assert batches[0] == [0, 1, 2] and [next(resumed) for _ in range(2)] == batches[4:]
    loader = training_loader(CropDataset(cases, MODALITIES, crop_size=8), 2)
    assert next(iter(loader))["image"].shape == (2, 1, 8, 8, 8)
    with pytest.raises(ValueError, match="batch_size must be 1"):
        training_loader(CropDataset(cases, MODALITIES, crop_size=None), 2)


def test_weights_of_cases_and_sources_set_how_often_they_are_shown(
    cases: list[PreparedCase],
) -> None:
    data = PairDataset(
        cases,
        MODALITIES,
        crop_size=8,
        target_weights={"t2": 1.0},
        case_weights={"*": 1.0, "b": 3.0},
        source_weights={"t1": 4.0, "t1ce": 0.0},
    )
    shown = [data[index] for index in range(400)]
    assert Counter(sample["case"] for sample in shown)["b"] == pytest.approx(300, abs=40)
    sources = Counter(sample["source_index"] for sample in shown)
    assert sources[1] == 0  # t1ce
    assert sources[0] == pytest.approx(320, abs=40)


def test_slices_are_of_the_middle_alone() -> None:
    mask = np.zeros((4, 4, 20), dtype=bool)
    mask[1:3, 1:3, 5:15] = True
    kept = middle_slices(mask, 4)
    assert np.flatnonzero(kept.any(axis=(0, 1))).tolist() == [8, 9, 10, 11]
    assert kept.sum() == 4 * 4
    np.testing.assert_array_equal(middle_slices(mask, 30), mask)


def test_training_slices_lie_in_the_middle_and_have_the_size_asked_for(
    cases: list[PreparedCase],
) -> None:
    shown = []
    data = CropDataset(cases, MODALITIES, crop_size=[40, 40, 1], min_foreground=0.0, slices=2)
    for index in range(12):
        rng = np.random.default_rng([0, index])
        case, _ = data.draw_target(rng)
        view = data.draw_view(case, rng)
        assert view.size == (40, 40, 1)
        present = np.flatnonzero(case.foreground().any(axis=(0, 1)))
        shown.append(view.centre[2] - (present[0] + present[-1]) / 2)
        assert data[index]["image"].shape == (1, 40, 40, 1)
    assert max(abs(np.array(shown))) <= 1
    assert len(set(shown)) > 1


def test_whole_view_is_never_smaller_than_asked_for() -> None:
    mask = np.zeros((30, 30, 30), dtype=bool)
    mask[10:20, 5:25, 12:15] = True
    view = whole_view(mask, 4, 2, least=(22, 16, 1))
    assert view.size == (24, 24, 8)
    assert view.centre[:2] == (14.5, 14.5)


def test_contrasts_without_weight_are_never_sources(cases: list[PreparedCase]) -> None:
    weights = dict.fromkeys(MODALITIES, 0.0) | {"t1": 1.0}
    data = PairDataset(cases, MODALITIES, crop_size=8, source_weights=weights)
    pairs = [data[index] for index in range(20)]
    assert {sample["source_index"] for sample in pairs} == {MODALITIES.index("t1")}
    assert MODALITIES.index("t1") not in {sample["target_index"] for sample in pairs}
    with pytest.raises(NoInputError):
        PairDataset(cases, MODALITIES, crop_size=8, source_weights=dict.fromkeys(MODALITIES, 0.0))
