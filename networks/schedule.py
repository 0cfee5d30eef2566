"""Noise levels: the beta schedule, where sampling visits it, and what a denoiser may predict."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample"]
EvenSpacing = Literal["leading", "leading_plus_one", "trailing", "linspace"]
Spacing = Literal[EvenSpacing, "log_snr"]
Generators = torch.Generator | Sequence[torch.Generator] | None


def scaled_linear_betas(
    num_train_timesteps: int = 1000, beta_start: float = 0.0015, beta_end: float = 0.0195
) -> Float[Tensor, " t"]:
    """Variance added at each timestep, linear in its square root, in float64.

    beta_t = linspace(sqrt(beta_start), sqrt(beta_end), T)^2; the defaults are ALDM's.

    Raises:
        ValueError: There is no timestep, or not 0 < beta_start <= beta_end < 1.
    """
    if num_train_timesteps < 1:
        raise ValueError(f"num_train_timesteps must be at least 1, got {num_train_timesteps}")
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"betas must satisfy 0 < start <= end < 1, got {beta_start}, {beta_end}")
    roots = torch.linspace(
        beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64, device="cpu"
    )
    return roots**2


def alpha_bars(betas: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
    """Share of the signal's variance left at each timestep: the running product of 1 - beta."""
    return torch.cumprod(1 - betas, dim=0)


def half_log_snr(alpha_bar: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)); infinite for a clean latent."""
    return 0.5 * (alpha_bar.log() - torch.log1p(-alpha_bar))


def even_timesteps(count: int, num_timesteps: int, spacing: EvenSpacing) -> Int[Tensor, " count"]:
    """Choose exactly ``count`` different timesteps of 0..num_timesteps - 1, evenly, descending.

    - ``leading``: i * T // count, the cleanest included, the noisiest not (ResShift's).
    - ``leading_plus_one``: range(0, T, T // count) + 1 where count divides T (ALDM's, after
      Stable Diffusion), evenly spread at other counts, never past the last timestep.
    - ``trailing``: the noisiest timestep included, the cleanest not.
    - ``linspace``: both ends included.

    Raises:
        ValueError: The spacing is unknown, or there are fewer than ``count`` timesteps.
    """
    if not 1 <= count <= num_timesteps:
        raise ValueError(f"steps must be in 1..{num_timesteps}, got {count}")
    step = torch.arange(count, device="cpu")
    if spacing == "leading":
        ascending = step * num_timesteps // count
    elif spacing == "leading_plus_one":
        ascending = step * num_timesteps // count + int(count < num_timesteps)
    elif spacing == "trailing":
        ascending = num_timesteps - 1 - step.flip(0) * num_timesteps // count
    elif spacing == "linspace":
        last = num_timesteps - 1
        descending = torch.linspace(last, 0, count, dtype=torch.float64, device="cpu")
        ascending = descending.round().long().flip(0)
    else:
        raise ValueError(f"spacing must be one of {get_args(Spacing)}, got {spacing!r}")
    return ascending.flip(0)


def spaced_timesteps(
    count: int, alpha_bar: Float[Tensor, " t"], spacing: Spacing
) -> Int[Tensor, " count"]:
    """Choose the timesteps that sampling visits: exactly ``count`` different ones, descending.

    Besides the even ones there is ``log_snr``: both ends included, evenly spread in half the log
    signal-to-noise ratio and rounded to the nearest timesteps still free.

    Args:
        count: Number of steps.
        alpha_bar: The timesteps to choose from, by their noise level.
        spacing: ``log_snr`` or one of ``even_timesteps``.

    Raises:
        ValueError: The spacing is unknown, or there are fewer than ``count`` timesteps.
    """
    if spacing != "log_snr":
        return even_timesteps(count, len(alpha_bar), spacing)
    last = len(alpha_bar) - 1
    if not 1 <= count <= last + 1:
        raise ValueError(f"steps must be in 1..{last + 1}, got {count}")
    step = torch.arange(count, device="cpu")
    levels = half_log_snr(alpha_bar)
    grid = torch.linspace(0, 1, count, dtype=torch.float64, device="cpu")
    wanted = levels[-1] + grid * (levels[0] - levels[-1])
    nearest = (wanted[:, None] - levels[None, :]).abs().argmin(1).flip(0)
    ascending = (nearest - step).cummax(0).values + step  # push off timesteps already taken
    return torch.minimum(ascending, last - step.flip(0)).flip(0)


def clean_and_noise(
    prediction: Float[Tensor, "b c *size"],
    x_t: Float[Tensor, "b c *size"],
    alpha_bar: Float[Tensor, "..."],
    prediction_type: PredictionType,
) -> tuple[Float[Tensor, "b c *size"], Float[Tensor, "b c *size"]]:
    """Read the clean latent and the noise off a prediction, whatever it is of.

    x_t = a * clean + s * noise with a^2 = alpha_bar, s^2 = 1 - alpha_bar, and the velocity
    v = a * noise - s * clean (Salimans and Ho 2022).

    Args:
        prediction: The noise (``epsilon``), the velocity or the clean latent (``sample``).
        x_t: The noisy latent it was made for.
        alpha_bar: Of x_t, in (0, 1); a scalar, or broadcastable to x_t.
        prediction_type: What the prediction is of.
    """
    signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction_type == "epsilon":
        return (x_t - sigma * prediction) / signal, prediction
    if prediction_type == "sample":
        return prediction, (x_t - signal * prediction) / sigma
    return signal * x_t - sigma * prediction, sigma * x_t + signal * prediction


def draw_noise(shape: Sequence[int], generator: Generators = None) -> Float[Tensor, "..."]:
    """Standard normal noise in float32, on the generator's own device (without one, the CPU).

    Args:
        shape: (b, ...).
        generator: One for the whole batch, or one a sample: then a sample's noise does not
            depend on the batch it is in.

    Raises:
        ValueError: The number of generators is not the batch size.
    """
    if generator is None or isinstance(generator, torch.Generator):
        device = "cpu" if generator is None else generator.device
        return torch.randn(list(shape), generator=generator, device=device, dtype=torch.float32)
    if len(generator) != shape[0]:
        raise ValueError(f"got {len(generator)} generators for a batch of {shape[0]}")
    return torch.cat([draw_noise([1, *shape[1:]], each) for each in generator])
