"""Each set's convention against a plain computation or the library it comes from."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from voxlate.pipelines.evaluation_truth import Truth, grown
from voxlate.pipelines.metric_sets import METRIC_SETS, boxed_pair
from voxlate.pipelines.preparation import dfbk_slices, head_box, own_scale

SIZE = (40, 44, 36)
GAUSSIAN = {"gaussian_weights": True, "use_sample_covariance": False}


def ball(radius: float, size: tuple[int, ...] = SIZE, centre: float = 0.0) -> Tensor:
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
    return (torch.stack(axes) - centre).square().sum(0) < radius


def make_truth(target: str = "t2") -> Truth:
    """A textured head on a cleared background, with a bright lesion."""
    volume = torch.rand(*SIZE, generator=torch.Generator().manual_seed(1))
    for axis in range(3):
        volume = (volume + volume.roll(1, axis)) / 2
    brain, lesion = ball(0.7), ball(0.05, centre=0.2)
    volume = torch.where(brain, 300 + 400 * volume + 500 * lesion, 0)
    return Truth(target, volume, brain, brain, 0.0, np.diag([1.0, 1, 2, 1]), lesion)


def noisy(truth: Truth, amount: float = 40.0) -> Tensor:
    noise = torch.randn(*SIZE, generator=torch.Generator().manual_seed(2))
    return truth.volume + amount * noise * truth.brain


def without_lesion(truth: Truth) -> Tensor:
    """The real scan with the lesion painted over by healthy brain."""
    healthy = truth.volume[truth.regions["healthy"]]
    return torch.where(truth.lesion, healthy.mean(), truth.volume)


def values(name: str, prediction: Tensor, truth: Truth) -> dict[tuple[str, str], float]:
    return {(v.region, v.metric): v.value for v in METRIC_SETS[name].measure(prediction, truth)}


def test_the_real_scan_itself_gets_the_best_values_of_every_set() -> None:
    for target in ("t2", "ct"):
        truth = make_truth(target)
        for name in METRIC_SETS:
            for (region, metric), value in values(name, truth.volume, truth).items():
                best = {"psnr": 100.0, "nmse": 0.0, "mse": 0.0, "rmse": 0.0, "mae": 0.0}
                if not math.isnan(value):
                    assert value == pytest.approx(best.get(metric, 1.0), abs=1e-6), (name, region)


def test_default_set_is_linear_in_the_reference_and_unclipped() -> None:
    truth = make_truth()
    low, high = np.percentile(truth.volume[truth.brain].double().numpy(), (0.5, 99.5))
    prediction = truth.volume + 0.25 * (high - low) * truth.brain
    found = values("default", prediction, truth)
    for region in ("brain", "lesion", "healthy"):
        assert found[region, "psnr"] == pytest.approx(-20 * math.log10(0.25), rel=1e-5)
        assert found[region, "mae"] == pytest.approx(0.25, rel=1e-5)
    assert found["brain", "sharpness"] == pytest.approx(1, rel=1e-5)
    share = float(truth.brain.float().mean())
    assert found["box", "rmse"] == pytest.approx(0.25 * math.sqrt(share), rel=1e-5)


def test_default_ssim_is_scikit_image_s_map_averaged_in_the_region() -> None:
    truth = make_truth()
    prediction = noisy(truth)
    p, r = truth.to_scale(prediction).double().numpy(), truth.scaled.double().numpy()
    _, full = structural_similarity(p, r, full=True, data_range=1.0, **GAUSSIAN)
    found = values("default", prediction, truth)
    for region in ("brain", "lesion", "healthy"):
        mask = truth.regions[region].numpy()
        assert found[region, "ssim"] == pytest.approx(full[mask].mean(), abs=1e-5), region
    flat = [
        structural_similarity(p[..., z], r[..., z], full=True, data_range=1.0, **GAUSSIAN)
        for z in range(SIZE[2])
    ]
    maps = np.stack([every for _, every in flat], axis=-1)
    expected = maps[truth.brain.numpy()].mean()
    assert found["brain", "slice_ssim"] == pytest.approx(expected, abs=1e-5)
    assert found["box", "slice_ssim"] == pytest.approx(np.mean([m for m, _ in flat]), abs=1e-5)


def test_a_missing_lesion_is_seen_by_us_and_not_by_the_official_brasyn_ssim() -> None:
    truth = make_truth()
    found = values("brasyn", without_lesion(truth), truth)
    assert found["lesion", "ssim_official"] > 0.98  # the trap
    assert found["lesion", "ssim"] < 0.5
    honest = values("default", without_lesion(truth), truth)
    assert honest["lesion", "ssim"] < 0.5
    assert honest["healthy", "ssim"] > 0.95


def test_official_brasyn_ssim_is_torchmetrics_on_zeroed_volumes() -> None:
    image = pytest.importorskip("torchmetrics.image")
    theirs = image.StructuralSimilarityIndexMeasure(return_full_image=True)
    truth = make_truth()
    prediction = noisy(truth)
    scaled = [own_scale(v)[None, None] for v in (prediction, truth.volume)]
    found = values("brasyn", prediction, truth)
    for region in ("lesion", "outside"):
        mask = truth.regions[region]
        _, full = theirs(scaled[0] * mask, scaled[1] * mask)
        assert found[region, "ssim_official"] == pytest.approx(float(full.mean()), abs=1e-5)


def test_own_scale_clips_at_its_percentiles_and_at_zero() -> None:
    volume = torch.linspace(-50, 200, 1001).reshape(7, 11, 13)
    high = np.percentile(volume.double().numpy(), 99.5)
    expected = (volume.double().clamp(0, high) / high).numpy()
    np.testing.assert_allclose(own_scale(volume).numpy(), expected, atol=1e-12)
    assert float(own_scale(torch.zeros(4, 4, 4)).max()) == 0


def test_aldm_set_is_the_whole_box_on_clipped_volumes() -> None:
    truth = make_truth()
    prediction = noisy(truth)
    both = torch.stack([prediction, truth.volume])
    p, r = head_box(both, truth.head, (42, 40, 44)).double().numpy()
    low, high = np.percentile(r, (0.5, 99.5))
    p, r = (((v - low) / (high - low)).clip(0, 1) for v in (p, r))
    smaller = replace(METRIC_SETS["aldm"], prepare=boxed_pair((42, 40, 44)))
    found = {(v.region, v.metric): v.value for v in smaller.measure(prediction, truth)}
    assert found["box", "psnr"] == pytest.approx(-10 * math.log10(((p - r) ** 2).mean()), rel=1e-6)
    expected = ((p - r) ** 2).sum() / (r**2).sum()
    assert found["box", "nmse"] == pytest.approx(expected, rel=1e-6)
    expected = structural_similarity(p, r, data_range=1.0, **GAUSSIAN)
    assert found["box", "ssim"] == pytest.approx(expected, abs=1e-6)


def test_head_box_has_the_head_in_its_middle_and_every_voxel_of_it() -> None:
    volume = torch.arange(6 * 5 * 4, dtype=torch.float32).reshape(1, 6, 5, 4) + 1
    head = torch.zeros(6, 5, 4, dtype=torch.bool)
    head[4:6, 1:4, 0:2] = True
    box = head_box(volume, head, (4, 3, 4))
    assert box.shape == (1, 4, 3, 4)
    assert torch.equal(box[0, 1:3, :, 1:3], volume[0, 4:6, 1:4, 0:2])
    assert float(box[0, 3].max()) == 1  # beyond the volume: its lowest value


def test_dfbk_slices_are_the_middle_ones() -> None:
    volume = torch.arange(10.0)[None, None].expand(6, 4, 10)
    p, r = dfbk_slices(volume, volume + 1, 4, 6)
    assert p.shape == (4, 4, 6)
    assert p[0, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert torch.equal(r, p + 1)


def test_slice_sets_are_means_over_their_slices() -> None:
    truth = make_truth()
    prediction = noisy(truth)
    low, high = np.percentile(truth.volume.double().numpy(), (0.5, 99.5))
    p, r = (((v.double() - low) / (high - low)).clamp(0, 1) for v in (prediction, truth.volume))
    pad = [(76, 76), (74, 74), (0, 0)]  # 40 x 44 in 192 x 192
    p, r = (np.pad(v.numpy(), pad)[..., 2:34] for v in (p, r))  # 32 of 36
    errors = ((p - r) ** 2).mean(axis=(0, 1))
    found = values("dfbk", prediction, truth)
    assert found["box", "rmse"] == pytest.approx(np.sqrt(errors).mean(), rel=1e-5)
    assert found["box", "psnr"] == pytest.approx(
        (-10 * np.log10(errors + 1e-10)).clip(max=100).mean(), rel=1e-4
    )
    ssims = [
        structural_similarity(p[..., z], r[..., z], data_range=1.0, **GAUSSIAN) for z in range(32)
    ]
    assert found["box", "ssim"] == pytest.approx(np.mean(ssims), abs=1e-5)


def test_msg_set_counts_only_slices_with_head_in_them() -> None:
    truth = make_truth()
    prediction = noisy(truth, 0.0)
    prediction[..., 10] += 50 * truth.brain[..., 10]
    filled = int(truth.brain.flatten(0, 1).any(0).sum())
    spread = float(truth.volume.max() - truth.volume.min())
    changed = (truth.volume[..., 10] + 50 * truth.brain[..., 10]).clamp(max=truth.volume.max())
    error = ((changed - truth.volume[..., 10]).double() / spread).square().sum() / 192**2
    expected = (100 * (filled - 1) - 10 * math.log10(error)) / filled
    assert values("msg", prediction, truth)["box", "psnr"] == pytest.approx(expected, rel=1e-4)


def test_synthrad_2023_is_scikit_image_s_default_map_in_the_mask() -> None:
    truth = make_truth("ct")
    prediction = 5 * noisy(truth) - 1500  # beyond the range on both sides
    scaled = Truth("ct", 5 * truth.volume - 1500, truth.brain, truth.head, None, truth.affine)
    found = values("synthrad2023", prediction, scaled)
    p, r = (
        np.where(truth.brain.numpy(), v.double().numpy(), -1024)
        for v in (prediction, scaled.volume)
    )
    mask = truth.brain.numpy()
    assert found["brain", "mae"] == pytest.approx(np.abs(p - r)[mask].mean(), rel=1e-6)
    p, r = (v.clip(-1024, 3000) + 1024 for v in (p, r))
    mse = ((p - r)[mask] ** 2).mean()
    assert found["brain", "psnr"] == pytest.approx(10 * math.log10(4024**2 / mse), rel=1e-6)
    _, full = structural_similarity(p, r, full=True, data_range=4024.0)
    inner = (slice(3, -3),) * 3
    expected = full[inner][mask[inner]].mean()
    assert found["brain", "ssim"] == pytest.approx(expected, abs=1e-6)


def test_ct_is_measured_in_hounsfield_units_by_default() -> None:
    truth = make_truth("ct")
    found = values("default", truth.volume + 10 * truth.brain, truth)
    assert found["brain", "mae"] == pytest.approx(10, rel=1e-6)
    assert found["brain", "psnr"] == pytest.approx(20 * math.log10(402.4), rel=1e-6)


def test_what_cannot_be_measured_says_why() -> None:
    truth = make_truth()
    found = {(v.region, v.metric): v for v in METRIC_SETS["default"].measure(noisy(truth), truth)}
    value = found["brain", "ms_ssim"]  # too small for five scales
    assert math.isnan(value.value)
    assert "voxels along every axis" in value.note
    empty = METRIC_SETS["aldm"].measure(noisy(truth), truth)[0]  # a small head in a large box
    assert math.isnan(empty.value)
    assert "almost everywhere" in empty.note
    with pytest.raises(ValueError, match="differ"):
        METRIC_SETS["default"].measure(noisy(truth)[1:], truth)


def test_healthy_brain_keeps_its_distance_from_the_lesion() -> None:
    truth = make_truth()
    near = grown(truth.lesion.numpy(), 5.0, truth.spacing)
    points = np.argwhere(truth.lesion.numpy()) * truth.spacing
    inside, outside = np.argwhere(near)[::50], np.argwhere(~near)[::500]

    def distance(index: np.ndarray) -> float:
        return float(np.linalg.norm(points - index * truth.spacing, axis=1).min())

    assert max(distance(i) for i in inside) <= 5
    assert min(distance(i) for i in outside) > 5
    assert not (truth.regions["healthy"].numpy() & near).any()
    assert not grown(np.zeros(SIZE, bool), 5.0, (1.0, 1.0, 1.0)).any()


def test_scale_and_back_keeps_a_cleared_background() -> None:
    truth = make_truth()
    assert float(truth.scaled[~truth.head].abs().max()) == 0
    torch.testing.assert_close(truth.from_scale(truth.scaled), truth.volume, atol=1e-2, rtol=0)
    assert float(truth.empty().abs().max()) == 0
    assert float(make_truth("ct").empty().max()) == -1024
