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

from voxlate.pipelines import metrics
from voxlate.pipelines.metrics import (
    METRIC_SETS,
    mae,
    measure,
    nmse,
    psnr,
    reference_map,
    rmse,
    sharpness_ratio,
    ssim,
    ssim_map,
)

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


def test_equal_volumes_get_the_best_values() -> None:
    _, reference = pair()
    for name in METRIC_SETS:
        found = measure(reference, reference, ball(), metric_set=name)
        best = {"psnr": 100.0, "ssim": 1.0, "nmse": 0.0, "rmse": 0.0, "mae": 0.0, "sharpness": 1.0}
        assert found == pytest.approx({key: best[key] for key in found}, abs=1e-6)


@given(st.floats(0.1, 3.0), st.floats(-1.0, 1.0))
@settings(max_examples=15, deadline=None)
def test_one_map_for_both_makes_units_irrelevant(gain: float, shift: float) -> None:
    prediction, reference = pair()
    mask = ball()
    scale = reference_map(reference, mask)
    expected = measure(scale(prediction), scale(reference), mask)
    other = reference_map(gain * reference.double() + shift, mask)
    found = measure(
        other(gain * prediction.double() + shift), other(gain * reference.double() + shift), mask
    )
    assert found == pytest.approx(expected, rel=1e-4)


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
    blurred = metrics._blur(reference[None])[0]
    assert float(sharpness_ratio(blurred, reference, mask=mask)) < 0.2


def test_sharpness_ignores_the_edge_of_the_brain() -> None:
    _, reference = pair()
    mask = ball()
    inside = sharpness_ratio(0.5 * reference, reference, mask=mask)
    cleared = sharpness_ratio(0.5 * reference * mask, reference * mask + 9 * mask, mask=mask)
    assert float(cleared) == pytest.approx(float(inside), rel=1e-4)


def test_aldm_set_is_the_whole_box_on_clipped_volumes() -> None:
    prediction, reference = pair()
    mask = ball()
    prediction[~mask] = 5.0  # cleared: background counts as 0 in both
    found = measure(prediction, 2 * reference, mask, metric_set="aldm")
    p, r = prediction.clamp(0, 1) * mask, (2 * reference).clamp(0, 1) * mask
    error = (p.double() - r.double()).square()
    assert found["psnr"] == pytest.approx(-10 * math.log10(float(error.mean())), rel=1e-9)
    assert found["nmse"] == pytest.approx(float(error.sum() / r.double().square().sum()), rel=1e-9)
    expected = structural_similarity(p.double().numpy(), r.double().numpy(), **SKIMAGE)
    assert found["ssim"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, r, m: measure(p, r, m, metric_set="best"), "no metric set 'best'"),
        (lambda p, r, m: measure(p, r, torch.zeros_like(m)), "empty"),
        (lambda p, r, m: measure(p, r, m[1:]), "mask must be bool"),
        (lambda p, r, m: mae(p, r, mask=m.float()), "mask must be bool"),
        (lambda p, r, m: psnr(p[1:], r), "differ"),
        (lambda p, r, m: ssim(p[1:], r), "differ"),
        (lambda p, r, m: ssim(p[:10], r[:10]), "11 voxels"),
        (lambda p, r, m: reference_map(torch.ones_like(r), m), "is 1 almost everywhere"),
    ],
)
def test_bad_arguments_are_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    prediction, reference = pair()
    with pytest.raises(ValueError, match=message):
        call(prediction, reference, ball())
