"""Likeness of spectra (MSG-LDM's structure-aware loss): SSIM over |DCT|, in any dimensions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .high_frequency_injection import gaussian_blur

WINDOW, SIGMA = 11, 1.5  #: voxels across SSIM's Gaussian window, and its standard deviation
K1, K2 = 0.01, 0.03


def dct(x: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
    """Orthonormal cosine transform (DCT-II) along every spatial axis, by the FFT.

    X_k = s_k sum_n x_n cos(pi k (2 n + 1) / (2 N)), s_0 = sqrt(1 / N), else sqrt(2 / N), one axis
    after the other. The even samples followed by the odd ones backwards have an FFT of length N
    whose phase-shifted real part this is (Makhoul 1980): N log N, in any number of dimensions.

    Args:
        x: Any floating type; half precision is computed in float32.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    for axis in range(2, x.dim()):
        length = x.shape[axis]
        rows = x.movedim(axis, -1)
        folded = torch.cat([rows[..., ::2], rows[..., 1::2].flip(-1)], dim=-1)
        k = torch.arange(length, device=x.device, dtype=x.dtype)
        angle = -0.5 * math.pi / length * k
        spectrum = torch.fft.fft(folded)
        rows = spectrum.real * angle.cos() - spectrum.imag * angle.sin()
        rows = rows * (2 - (k == 0).to(x.dtype)).div(length).sqrt()
        x = rows.movedim(-1, axis)
    return x


def gaussian_ssim(
    x: Float[Tensor, "b c *size"], y: Float[Tensor, "b c *size"], data_range: Tensor
) -> Float[Tensor, " b"]:
    """Mean SSIM of each sample (Wang et al. 2004): Gaussian window, 11 wide, inside the volume.

    As a loss: differentiable and separable, 11 taps an axis in place of 11^d.

    Args:
        x: One volume.
        y: The other.
        data_range: Largest minus smallest value of what is compared, (b,) or ().

    Raises:
        ValueError: A side is shorter than the window.
    """
    if min(x.shape[2:]) < WINDOW:
        raise ValueError(f"SSIM needs {WINDOW} voxels along each axis, got {tuple(x.shape[2:])}")
    sigma = torch.full((1, 1), SIGMA, device=x.device, dtype=x.dtype)
    edge = WINDOW // 2

    def blur(z: Tensor) -> Tensor:
        whole = gaussian_blur(z, sigma, kernel_size=WINDOW, padding_mode="constant")
        for axis in range(2, z.dim()):
            whole = whole.narrow(axis, edge, z.shape[axis] - 2 * edge)
        return whole

    span = data_range.reshape(data_range.shape + (1,) * (x.dim() - data_range.dim()))
    c1, c2 = (K1 * span).square(), (K2 * span).square()
    mean_x, mean_y = blur(x), blur(y)
    var_x = blur(x.square()) - mean_x.square()
    var_y = blur(y.square()) - mean_y.square()
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    contrast = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * contrast).flatten(1).mean(1)


class StructureAwareLoss(nn.Module):
    """L_sa = L1 + (1 - SSIM(|DCT(prediction)|, |DCT(target)|)) (MSG-LDM).

    The data range is that of each target's own spectrum, so a batch is its samples one by one. A
    spectrum's few large values make the plain form nearly blind (and no form over magnitudes can
    see a change of sign), so ``log_magnitude`` compares log(1 + |DCT| / median |DCT(target)|).

    Args:
        l1_weight: Weight of the L1 term.
        frequency_weight: Weight of the SSIM term; 0 leaves it out (the ablation).
        log_magnitude: Compare logarithms.
    """

    def __init__(
        self,
        *,
        l1_weight: float = 1.0,
        frequency_weight: float = 1.0,
        log_magnitude: bool = False,
    ) -> None:
        super().__init__()
        self.l1_weight, self.frequency_weight = l1_weight, frequency_weight
        self.log_magnitude = log_magnitude

    def forward(
        self, prediction: Float[Tensor, "b c *size"], target: Float[Tensor, "b c *size"]
    ) -> Float[Tensor, ""]:
        """Mean over the samples.

        Raises:
            ValueError: A side is shorter than SSIM's window, 11 voxels.
        """
        loss = self.l1_weight * F.l1_loss(prediction, target)
        if self.frequency_weight == 0:
            return loss
        return loss + self.frequency_weight * self.frequency(prediction, target)

    def frequency(
        self, prediction: Float[Tensor, "b c *size"], target: Float[Tensor, "b c *size"]
    ) -> Float[Tensor, ""]:
        """The unweighted term 1 - SSIM of the spectra."""
        found, wanted = dct(prediction).abs(), dct(target).abs()
        if self.log_magnitude:
            unit = wanted.flatten(1).median(dim=1).values.clamp(min=1e-8)
            unit = unit.reshape(unit.shape + (1,) * (wanted.dim() - 1))
            found, wanted = torch.log1p(found / unit), torch.log1p(wanted / unit)
        flat = wanted.flatten(1)
        span = (flat.amax(1) - flat.amin(1)).clamp(min=1e-8)
        return 1 - gaussian_ssim(found, wanted, span).mean()
