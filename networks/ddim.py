"""DDIM: the deterministic sampler, and the ones between it and DDPM."""

import torch
from jaxtyping import Float
from torch import Tensor

from .noise_scheduler import NoiseScheduler
from .schedule import Generators, PredictionType, Spacing, draw_noise


def ddim_sigma(
    alpha_bar: Float[Tensor, "*shape"], alpha_bar_prev: Float[Tensor, "*shape"], *, eta: float
) -> Float[Tensor, "*shape"]:
    """Standard deviation of a step's fresh noise (Song et al. 2021, eq. 16)."""
    kept = (1 - alpha_bar_prev) / (1 - alpha_bar)
    return eta * (kept * (1 - alpha_bar / alpha_bar_prev)).sqrt()


def ddim_step(
    clean: Float[Tensor, "b c *size"],
    noise: Float[Tensor, "b c *size"],
    alpha_bar_prev: Float[Tensor, ""],
    sigma: Float[Tensor, ""],
) -> Float[Tensor, "b c *size"]:
    """Mix the predictions at the next noise level, fresh noise not yet added (eq. 12).

    x_prev = sqrt(alpha_bar_prev) * clean + sqrt(1 - alpha_bar_prev - sigma^2) * noise.
    """
    return alpha_bar_prev.sqrt() * clean + (1 - alpha_bar_prev - sigma**2).sqrt() * noise


class DDIMScheduler(NoiseScheduler):
    """Denoising diffusion implicit model (Song et al. 2021), at any number of steps in 1..T.

    ALDM's own sampling is ``eta=1`` and ``final_alpha_bar=1 - beta_start``, which leaves a little
    noise in the result (sigma 0.027 at 50 steps).

    Args:
        num_train_timesteps: T of the training.
        beta_start: First beta of the scaled-linear schedule.
        beta_end: Last beta.
        prediction_type: What the denoiser predicts: "epsilon", "v_prediction" or "sample".
        eta: Fresh noise, from 0 (none, deterministic) to 1 (as much as DDPM).
        final_alpha_bar: Signal level after the last step, in (0, 1]; 1 ends at the clean latent.
        spacing: How fewer than T timesteps are chosen, see ``spaced_timesteps``.
        clip_sample: Clip the predicted clean latent to [-1, 1].
        start_timestep: Begin at the prior's latent, noised so far; see ``NoiseScheduler``.

    Raises:
        ValueError: ``eta`` or ``final_alpha_bar`` is out of range.
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0015,
        beta_end: float = 0.0195,
        prediction_type: PredictionType = "epsilon",
        *,
        eta: float = 0.0,
        final_alpha_bar: float = 1.0,
        spacing: Spacing = "leading_plus_one",
        clip_sample: bool = False,
        start_timestep: int | None = None,
    ) -> None:
        super().__init__(
            num_train_timesteps,
            beta_start,
            beta_end,
            prediction_type,
            spacing=spacing,
            clip_sample=clip_sample,
            start_timestep=start_timestep,
        )
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {eta}")
        first = float(self.alphas_cumprod[0])
        if not first - 1e-9 <= final_alpha_bar <= 1:
            raise ValueError(
                f"final_alpha_bar must be from alpha_bar at timestep 0 ({first:.6g}) to 1, "
                f"got {final_alpha_bar}"
            )
        self.eta = eta
        self.final_alpha_bar = torch.tensor(final_alpha_bar, dtype=torch.float64)

    def step(
        self,
        model_output: Float[Tensor, "b c *size"],
        timestep: int | Tensor,
        sample: Float[Tensor, "b c *size"],
        *,
        generator: Generators = None,
    ) -> tuple[Float[Tensor, "b c *size"], Float[Tensor, "b c *size"]]:
        """Mix clean latent and noise at the next noise level; see ``LatentScheduler.step``."""
        levels = self._levels(self._position(timestep), final=self.final_alpha_bar)
        x_t, clean, noise = self._predicted(model_output, sample, levels[0])
        sigma = ddim_sigma(*levels, eta=self.eta)
        x_prev = ddim_step(clean, noise, levels[1], sigma)
        if sigma > 0:
            x_prev = x_prev + sigma * draw_noise(x_t.shape, generator).to(x_t)
        return x_prev.to(sample.dtype), clean.to(sample.dtype)
