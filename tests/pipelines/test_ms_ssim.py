"""Multi-scale SSIM beside MONAI, torchmetrics and a plain reading of the SynthRAD script."""

import numpy as np
import pytest
import torch
from monai.metrics import MultiScaleSSIMMetric
from scipy.ndimage import uniform_filter
from scipy.signal import fftconvolve
from torch import Tensor

from voxlate.pipelines.ms_ssim import WEIGHTS, ms_ssim, synthrad_ms_ssim
from voxlate.pipelines.ssim import similarity

TWO = (0.4, 0.6)


def pair(size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(*size, generator=generator)
    for axis in range(3):
        reference = (reference + reference.roll(1, axis)) / 2
    return reference + 0.1 * torch.randn(*size, generator=generator), reference


def test_two_scales_equal_monai() -> None:
    prediction, reference = pair((30, 26, 28))
    theirs = MultiScaleSSIMMetric(3, data_range=1.0, weights=TWO)
    expected = float(theirs(prediction[None, None], reference[None, None]))
    assert float(ms_ssim(prediction, reference, weights=TWO)) == pytest.approx(expected, abs=1e-5)


def test_two_scales_equal_torchmetrics_inside_but_not_at_the_border() -> None:
    """torchmetrics mirrors the border and averages over it; equal volumes there leave no trace."""
    functional = pytest.importorskip("torchmetrics.functional.image")
    prediction, reference = pair((30, 26, 28))
    theirs = float(
        functional.multiscale_structural_similarity_index_measure(
            prediction[None, None], reference[None, None], data_range=1.0, betas=TWO
        )
    )
    ours = float(ms_ssim(prediction, reference, weights=TWO))
    assert theirs == pytest.approx(ours, abs=0.02)
    assert abs(theirs - ours) > 1e-5


def test_a_mask_of_everything_averages_the_mirrored_maps() -> None:
    prediction, reference = pair((24, 26, 28))
    everywhere = torch.ones_like(reference, dtype=torch.bool)
    fine = similarity(prediction, reference).structure.double().mean()
    halved = [torch.nn.functional.avg_pool3d(v[None], 2)[0] for v in (prediction, reference)]
    luminance, structure = similarity(*halved)
    expected = fine ** TWO[0] * (luminance * structure).double().mean() ** TWO[1]
    found = ms_ssim(prediction, reference, mask=everywhere, weights=TWO)
    assert float(found) == pytest.approx(float(expected), rel=1e-9)


def test_finest_scale_may_be_known_already() -> None:
    prediction, reference = pair((30, 26, 28))
    known = similarity(prediction, reference)
    found = ms_ssim(prediction, reference, weights=TWO, finest=known)
    assert float(found) == float(ms_ssim(prediction, reference, weights=TWO))


def test_equal_volumes_get_one_and_opposite_ones_nothing() -> None:
    _, reference = pair((30, 26, 28))
    assert float(ms_ssim(reference, reference, weights=TWO)) == pytest.approx(1, abs=1e-6)
    assert float(ms_ssim(1 - reference, reference, weights=TWO)) == 0


def test_volumes_too_small_for_five_scales_are_refused() -> None:
    prediction, reference = pair((40, 40, 40))
    with pytest.raises(ValueError, match="voxels along every axis"):
        ms_ssim(prediction, reference)


def synthrad_oracle(p: np.ndarray, r: np.ndarray, mask: np.ndarray, data_range: float) -> float:
    """The challenge's definition written down anew, in NumPy and SciPy."""
    pad = [(max(97 - n, 0) // 2, max(97 - n, 0) - max(97 - n, 0) // 2) for n in r.shape]
    p, r, mask = (np.pad(v, pad, mode="edge") for v in (p, r, mask.astype(float)))
    value, c1, c2 = 1.0, (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    for weight in WEIGHTS:
        mean_p, mean_r = uniform_filter(p, 7), uniform_filter(r, 7)
        scale = 7**3 / (7**3 - 1)
        var_p = scale * (uniform_filter(p * p, 7) - mean_p**2)
        var_r = scale * (uniform_filter(r * r, 7) - mean_r**2)
        both = scale * (uniform_filter(p * r, 7) - mean_p * mean_r)
        sd = np.sqrt(var_p.clip(0)) * np.sqrt(var_r.clip(0))
        luminance = (2 * mean_p * mean_r + c1) / (mean_p**2 + mean_r**2 + c1)
        contrast = (2 * sd + c2) / (var_p + var_r + c2)
        structure = (both + c2 / 2) / (sd + c2 / 2)
        every = (
            luminance.clip(0) ** weight * contrast.clip(0) ** weight * structure.clip(0) ** weight
        )
        inner = (slice(3, -3),) * 3
        value *= float(every[inner][mask[inner] > 0].mean().clip(0, 1))
        box = np.ones((2, 2, 2)) / 8
        p, r = (fftconvolve(v, box, mode="same")[::2, ::2, ::2] for v in (p, r))
        mask = mask[::2, ::2, ::2]
    return value


def test_synthrad_form_equals_the_challenge_s_definition() -> None:
    prediction, reference = pair((50, 60, 99))
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in reference.shape], indexing="ij")
    mask = torch.stack(axes).square().sum(0) < 0.9
    p, r = (4024 * v.double().clamp(0, 1) * mask for v in (prediction, reference))
    expected = synthrad_oracle(p.numpy(), r.numpy(), mask.numpy(), 4024.0)
    found = synthrad_ms_ssim(p, r, mask=mask, data_range=4024.0)
    assert 0.3 < expected < 0.99
    assert float(found) == pytest.approx(expected, abs=1e-8)
