"""Losses of the structure stage: the reference's numbers, closed forms, SciPy, scikit-image."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional as F

from voxlate.networks.frequency_loss import StructureAwareLoss, dct, gaussian_ssim
from voxlate.networks.structure_losses import SegmentationLoss, StyleConsistencyLoss, kl_loss

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def arrays(vectors_dir: Path) -> dict[str, Tensor]:
    with np.load(vectors_dir / "msg_losses.npz") as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


def test_style_consistency_is_the_references(arrays: dict[str, Tensor]) -> None:
    loss = StyleConsistencyLoss()
    value = loss(arrays["in/style"], torch.ones(3, 4, dtype=torch.bool))
    torch.testing.assert_close(value, arrays["out/style_loss"], **TOLERANCE)
    value.backward()
    torch.testing.assert_close(loss.log_scale.grad, arrays["grad/style_scale"], **TOLERANCE)


def test_frequency_term_is_the_references(arrays: dict[str, Tensor]) -> None:
    prediction, target = arrays["in/pred"].requires_grad_(), arrays["in/gt"]
    torch.testing.assert_close(dct(prediction), arrays["out/dct"], **TOLERANCE)
    wanted = dct(target).abs()
    value = 1 - gaussian_ssim(dct(prediction).abs(), wanted, wanted.max() - wanted.min()).mean()
    torch.testing.assert_close(value, arrays["out/freq_loss"], **TOLERANCE)
    (gradient,) = torch.autograd.grad(value, prediction)
    torch.testing.assert_close(gradient, arrays["grad/freq_pred"], rtol=1e-3, atol=1e-6)


def test_segmentation_and_divergence_are_the_references(arrays: dict[str, Tensor]) -> None:
    found = SegmentationLoss(joint=True)(arrays["in/seg_logits"], arrays["in/seg"])
    torch.testing.assert_close(found, arrays["out/bce_dice"], **TOLERANCE)
    found = kl_loss(arrays["in/mu"].flatten(1), arrays["in/sigma"].flatten(1))
    torch.testing.assert_close(found, arrays["out/kl"], **TOLERANCE)


@pytest.mark.parametrize("size", [(7,), (6, 9), (4, 5, 8)])
def test_dct_is_scipys(size: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, *size))
    axes = tuple(range(2, 2 + len(size)))
    expected = dctn(x, axes=axes, norm="ortho")
    np.testing.assert_allclose(dct(torch.from_numpy(x)).numpy(), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("size", [(14, 17), (13, 12, 15)])
def test_ssim_is_scikit_images_inside_the_volume(size: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.random(size), rng.random(size)
    _, whole = structural_similarity(
        x, y, data_range=1.0, gaussian_weights=True, sigma=1.5, win_size=11,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    inside = whole[(slice(5, -5),) * len(size)].mean()
    found = gaussian_ssim(
        torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None], torch.tensor(1.0)
    )
    assert found.item() == pytest.approx(inside, rel=1e-9)


def brain_like() -> Tensor:
    """A disk with texture on a background of -1."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 96, dtype=torch.float64)] * 2, indexing="ij")
    head = (x**2 + y**2) < 0.5
    texture = 0.3 * torch.sin(25 * x) * torch.cos(31 * y) + 0.2
    return torch.where(head, texture, torch.tensor(-1.0, dtype=torch.float64))[None, None]


def test_log_magnitude_sees_a_blur_to_which_the_plain_form_is_nearly_blind() -> None:
    target = brain_like()
    blurred = F.avg_pool2d(F.pad(target, (4, 4, 4, 4), mode="replicate"), 9, 1)
    plain = StructureAwareLoss(l1_weight=0).frequency(blurred, target)
    logarithm = StructureAwareLoss(l1_weight=0, log_magnitude=True).frequency(blurred, target)
    assert plain < 0.05 and logarithm > 5 * plain


@pytest.mark.parametrize("log_magnitude", [False, True])
def test_magnitudes_are_blind_to_sign_and_l1_is_not(log_magnitude: bool) -> None:
    target, loss = brain_like(), StructureAwareLoss(log_magnitude=log_magnitude)
    assert loss.frequency(-target, target).abs() < 1e-9
    expected = (2 * target).abs().mean()
    torch.testing.assert_close(loss(-target, target), expected, rtol=1e-6, atol=1e-9)
    assert loss(target, target).abs() < 1e-9


def test_a_batch_is_its_samples_one_by_one() -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(2, 2, 1, 12, 12, 13, generator=generator, dtype=torch.float64)
    loss = StructureAwareLoss(log_magnitude=True)
    alone = (loss(x[:1], y[:1]) + loss(x[1:], y[1:])) / 2
    torch.testing.assert_close(loss(x, y), alone)


def test_weights_are_of_their_terms_and_zero_leaves_one_out() -> None:
    x, y = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)  # too small for SSIM
    assert StructureAwareLoss(l1_weight=3.0, frequency_weight=0.0)(x, y) == 3
    with pytest.raises(ValueError, match="SSIM needs 11 voxels"):
        StructureAwareLoss()(x, y)


def test_a_blank_target_has_a_finite_loss_and_gradient() -> None:
    x = torch.randn(1, 1, 12, 12, requires_grad=True)
    for log_magnitude in (False, True):
        StructureAwareLoss(log_magnitude=log_magnitude)(x, torch.zeros(1, 1, 12, 12)).backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_styles_of_missing_contrasts_do_not_count() -> None:
    generator = torch.Generator().manual_seed(3)
    styles = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    given = torch.tensor([[True, False, True], [True, True, False]])
    loss = StyleConsistencyLoss(0.5).double()
    rows, kinds = styles[given], [0, 2, 0, 1]
    expected = [
        F.softplus(-2 * F.cosine_similarity(p, q, dim=0) * (1 if i == j else -1))
        for p, i in zip(rows, kinds, strict=True)
        for q, j in zip(rows, kinds, strict=True)
    ]
    torch.testing.assert_close(loss(styles, given), torch.stack(expected).mean())
    styles[~given] = float("nan")
    assert loss(styles, given).isfinite()


def test_temperature_is_learned_within_its_limits() -> None:
    loss = StyleConsistencyLoss(0.07)
    assert [name for name, _ in loss.named_parameters()] == ["log_scale"]
    assert loss.log_scale.item() == pytest.approx(math.log(1 / 0.07))
    styles, given = torch.eye(2)[None], torch.ones(1, 2, dtype=torch.bool)
    with torch.no_grad():
        loss.log_scale.fill_(10.0)
    expected = (2 * math.log1p(math.exp(-100)) + 2 * math.log(2)) / 4
    assert loss(styles, given).item() == pytest.approx(expected)


def test_a_small_lesion_counts_as_much_as_the_background_unless_joint() -> None:
    labels = torch.zeros(1, 2, 8, 8)
    labels[:, 0] = 1
    labels[:, 1, 0, 0] = 1  # one voxel of lesion, missed
    logits = torch.full((1, 2, 8, 8), -20.0)
    logits[:, 0] = 20
    assert SegmentationLoss(bce_weight=0)(logits, labels).item() == pytest.approx(0.5, abs=1e-3)
    joint = SegmentationLoss(bce_weight=0, joint=True)(logits, labels)
    assert joint.item() == pytest.approx(1 - 2 * 64 / 129, abs=1e-3)


def test_divergence_is_zero_at_the_standard_normal_and_finite_at_zero() -> None:
    zeros, ones = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    assert kl_loss(zeros, ones).abs() < 1e-7
    assert kl_loss(zeros, zeros).isfinite()
    expected = 0.5 * 3 * (0.25 + 4 - 1 - math.log(4))
    assert kl_loss(zeros + 0.5, 2 * ones).item() == pytest.approx(expected)
