import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import PSNRMetric, SSIMMetric
from skimage.metrics import structural_similarity
from torch import Tensor

from voxlate.pipelines.evaluation_truth import Truth
from voxlate.pipelines.intensity_scale import reference_map
from voxlate.pipelines.metric_sets import METRIC_SETS
from voxlate.pipelines.metrics import (
    mae,
    nmse,
    psnr,
    rmse,
    sharpness_ratio,
    slice_psnr,
    slice_rmse,
)
from voxlate.pipelines.ssim import GAUSSIAN, blur, slice_ssim, ssim, ssim_map, uniform_window

SKIMAGE = {"gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0}


def pair(size: tuple[int, ...] = (14, 17, 13), noise: float = 0.1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    reference = torch.rand(*size, generator=generator)
    for axis in range(len(size)):  # some structure: neighbours alike
        reference = (reference + reference.roll(1, axis)) / 2
    return reference + noise * torch.randn(*size, generator=generator), reference


def ball(size: tuple[int, ...] = (14, 17, 13)) -> Tensor:
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
    return torch.stack(axes).square().sum(0) < 0.8


def test_errors_equal_their_formulas_in_the_mask() -> None:
    prediction, reference = pair()
    mask = ball()
    p, r = (volume.numpy().astype(float)[mask.numpy()] for volume in (prediction, reference))
    found = mae(prediction, reference, mask=mask)
    assert float(found) == pytest.approx(np.abs(p - r).mean(), 1e-12)
    mse = ((p - r) ** 2).mean()
    assert float(rmse(prediction, reference, mask=mask)) == pytest.approx(math.sqrt(mse), 1e-12)
    assert float(nmse(prediction, reference, mask=mask)) == pytest.approx(
        ((p - r) ** 2).sum() / (r**2).sum(), 1e-12
    )
    found = psnr(prediction, reference, mask=mask, data_range=3.0)
    assert float(found) == pytest.approx(10 * math.log10(9 / mse), 1e-12)


def test_golden_vectors(vectors_dir: Path) -> None:
    arrays = np.load(vectors_dir / "metrics_reference.npz")
    prediction, reference = (torch.from_numpy(arrays[f"in/{name}"]) for name in ("pred", "gt"))
    described = json.loads((vectors_dir / "metrics_reference.json").read_text())
    data_range = described["config"]["data_range"]
    found = {
        "psnr": psnr(prediction, reference, data_range=data_range),
        "nmse": nmse(prediction, reference),
        "rmse": rmse(prediction, reference),
        "psnr_minus1_1": psnr(2 * prediction - 1, 2 * reference - 1, data_range=2 * data_range),
        "nmse_minus1_1": nmse(2 * prediction - 1, 2 * reference - 1),
        "ssim3d_gauss": ssim(prediction, reference, data_range=data_range),
        "ssim3d_msssim": ssim(prediction, reference, data_range=data_range),
        "ssim3d_uniform7": ssim(
            prediction, reference, data_range=data_range, window=uniform_window(7)
        ),
        "ssim2d_gauss_mean_axial": slice_ssim(prediction, reference, data_range=data_range),
    }
    for name, value in found.items():
        assert float(value) == pytest.approx(float(arrays[f"out/{name}"]), rel=1e-6), name


@pytest.mark.parametrize("size", [(14, 17, 13), (23, 15)])
def test_ssim_map_equals_scikit_image(size: tuple[int, ...]) -> None:
    prediction, reference = pair(size)
    mean, full = structural_similarity(
        prediction.double().numpy(), reference.double().numpy(), full=True, **SKIMAGE
    )
    assert np.abs(ssim_map(prediction, reference).numpy() - full).max() < 1e-5
    assert float(ssim(prediction, reference)) == pytest.approx(mean, abs=1e-6)
    double = ssim_map(prediction.double(), reference.double())
    assert np.abs(double.numpy() - full).max() < 1e-12


def test_ssim_and_psnr_equal_monai() -> None:
    prediction, reference = pair((19, 16, 21))
    batched = (prediction[None, None], reference[None, None])
    theirs = float(SSIMMetric(3, data_range=1.0)(*batched))
    exact = float(ssim(prediction.double(), reference.double()))
    assert float(ssim(prediction, reference)) == pytest.approx(exact, abs=1e-6)
    assert theirs == pytest.approx(exact, abs=5e-6)  # MONAI's own rounding is the larger
    theirs = PSNRMetric(max_val=1.0)(*batched)
    assert float(psnr(prediction, reference)) == pytest.approx(float(theirs), abs=1e-4)


def test_ssim_in_a_mask_sees_what_happens_there_alone() -> None:
    prediction, reference = pair(noise=0.0)
    mask = torch.zeros(reference.shape, dtype=torch.bool)
    mask[:3] = True
    prediction[10:] += 0.5  # more than the window's reach away from the mask
    assert float(ssim(prediction, reference, mask=mask)) == pytest.approx(1.0, abs=1e-6)
    assert float(ssim(prediction, reference, mask=~mask)) < 0.95


def test_ssim_is_not_rounded_by_autocast() -> None:
    prediction, reference = pair()
    expected = ssim(prediction, reference)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(ssim(prediction, reference)) == float(expected)


@given(st.floats(0.1, 3.0), st.floats(-1.0, 1.0))
@settings(max_examples=15, deadline=None)
def test_one_map_for_both_makes_units_irrelevant(gain: float, shift: float) -> None:
    prediction, reference = pair()
    mask = ball()

    def values(gain: float, shift: float) -> dict[tuple[str, str], float]:
        p, r = (gain * v.double() + shift for v in (prediction, reference))
        truth = Truth("t2", r, mask, torch.ones_like(mask), None, np.eye(4))
        found = METRIC_SETS["default"].measure(p, truth, metrics=["psnr", "ssim", "mae"])
        return {(v.region, v.metric): v.value for v in found}

    assert values(gain, shift) == pytest.approx(values(1, 0), rel=1e-4)


def test_reference_map_takes_its_percentiles_in_the_mask() -> None:
    _, reference = pair()
    mask = ball()
    low, high = np.percentile(reference.numpy().astype(float)[mask.numpy()], (0.5, 99.5))
    assert reference_map(reference, mask) == pytest.approx((low, high), rel=1e-12)
    reference[~mask] = 1e6
    assert reference_map(reference, mask) == pytest.approx((low, high), rel=1e-12)


def test_sharpness_is_the_square_of_the_contrast_and_falls_with_blur() -> None:
    _, reference = pair()
    mask = ball()
    assert float(sharpness_ratio(3 * reference + 7, reference, mask=mask)) == pytest.approx(9, 1e-4)
    blurred = blur(reference[None], GAUSSIAN, (0, 1, 2))[0]
    assert float(sharpness_ratio(blurred, reference, mask=mask)) < 0.2


def test_sharpness_ignores_the_edge_of_the_brain() -> None:
    _, reference = pair()
    mask = ball()
    inside = sharpness_ratio(0.5 * reference, reference, mask=mask)
    cleared = sharpness_ratio(0.5 * reference * mask, reference * mask + 9 * mask, mask=mask)
    assert float(cleared) == pytest.approx(float(inside), rel=1e-4)


def test_slice_metrics_are_means_over_axial_slices() -> None:
    prediction, reference = pair((23, 15, 6))
    slices = [(prediction[..., z], reference[..., z]) for z in range(6)]
    for whole, single in ((slice_psnr, psnr), (slice_rmse, rmse), (slice_ssim, ssim)):
        expected = np.mean([float(single(p, r)) for p, r in slices])
        assert float(whole(prediction, reference)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, r, m: mae(p, r, mask=torch.zeros_like(m)), "empty"),
        (lambda p, r, m: ssim(p, r, mask=m[1:]), "mask must be bool"),
        (lambda p, r, m: mae(p, r, mask=m.float()), "mask must be bool"),
        (lambda p, r, m: psnr(p[1:], r), "differ"),
        (lambda p, r, m: ssim(p[1:], r), "differ"),
        (lambda p, r, m: ssim(p[:10], r[:10]), "11 voxels"),
        (lambda p, r, m: ssim(p[:5], r[:5], mask=m[:5]), "6 voxels"),
        (lambda p, r, m: reference_map(torch.ones_like(r), m), "is 1 almost everywhere"),
    ],
)
def test_bad_arguments_are_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    prediction, reference = pair()
    with pytest.raises(ValueError, match=message):
        call(prediction, reference, ball())
