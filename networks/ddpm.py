"""DDPM: ancestral sampling, at every timestep or at fewer."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from .noise_scheduler import NoiseScheduler
from .schedule import Generators, PredictionType, Spacing, draw_noise


class Posterior(NamedTuple):
    """q(x_prev | x_t, clean): its mean is clean_weight * clean + noisy_weight * x_t."""

    clean_weight: Tensor
    noisy_weight: Tensor
    variance: Tensor


def ddpm_posterior(
    alpha_bar: Float[Tensor, "*shape"], alpha_bar_prev: Float[Tensor, "*shape"]
) -> Posterior:
    """Posterior of the less noisy latent (Ho et al. 2020, eq. 6 and 7).

    The two levels need not be neighbours: beta = 1 - alpha_bar / alpha_bar_prev is that of the
    whole stride (Nichol and Dhariwal 2021).
    """
    alpha = alpha_bar / alpha_bar_prev
    beta = 1 - alpha
    return Posterior(
        clean_weight=alpha_bar_prev.sqrt() * beta / (1 - alpha_bar),
        noisy_weight=alpha.sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar),
        variance=beta * (1 - alpha_bar_prev) / (1 - alpha_bar),
    )


class DDPMScheduler(NoiseScheduler):
    """Denoising diffusion probabilistic model with the posterior variance ("fixed small").

    The last step ends at the clean latent and adds no noise.

    Args:
        num_train_timesteps: T of the training.
        beta_start: First beta of the scaled-linear schedule.
        beta_end: Last beta.
        prediction_type: What the denoiser predicts: "epsilon", "v_prediction" or "sample".
        spacing: How fewer than T timesteps are chosen, see ``spaced_timesteps``.
        clip_sample: Clip the predicted clean latent to [-1, 1].
        start_timestep: Begin at the prior's latent, noised so far; see ``NoiseScheduler``.
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0015,
        beta_end: float = 0.0195,
        prediction_type: PredictionType = "epsilon",
        *,
        spacing: Spacing = "linspace",
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

    def step(
        self,
        model_output: Float[Tensor, "b c *size"],
        timestep: int | Tensor,
        sample: Float[Tensor, "b c *size"],
        *,
        generator: Generators = None,
    ) -> tuple[Float[Tensor, "b c *size"], Float[Tensor, "b c *size"]]:
        """Draw the less noisy latent from the posterior; see ``LatentScheduler.step``."""
        levels = self._levels(self._position(timestep), final=self.one)
        x_t, clean, _ = self._predicted(model_output, sample, levels[0])
        posterior = ddpm_posterior(*levels)
        x_prev = posterior.clean_weight * clean + posterior.noisy_weight * x_t
        if posterior.variance > 0:
            fresh = draw_noise(x_t.shape, generator).to(x_t)
            x_prev = x_prev + posterior.variance.sqrt() * fresh
        return x_prev.to(sample.dtype), clean.to(sample.dtype)
