"""Gaussian diffusion from noise: what DDPM, DDIM and DPM-Solver share."""

from abc import ABC
from collections.abc import Mapping
from typing import Any, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .latent_scheduler import LatentScheduler, at_timesteps, refuse_difference, refuse_other_shape
from .schedule import (
    PredictionType,
    Spacing,
    alpha_bars,
    clean_and_noise,
    scaled_linear_betas,
    spaced_timesteps,
)

DIFFUSION_FACTS = ("num_train_timesteps", "beta_start", "beta_end", "prediction_type")
"""What of a schedule a denoiser depends on; ``start_timestep`` too where it is set."""


class NoiseScheduler(LatentScheduler, ABC):
    """What DDPM, DDIM and DPM-Solver share; they differ in ``step``.

    A MONAI scheduler that its inferers take, too.

    Args:
        num_train_timesteps: T of the training.
        beta_start: First beta of the scaled-linear schedule.
        beta_end: Last beta.
        prediction_type: What the denoiser predicts.
        spacing: How fewer than T timesteps are chosen, see ``spaced_timesteps``.
        clip_sample: Clip the predicted clean latent to [-1, 1] (for data in that range;
            latents are not).
        start_timestep: Begin runs at or below this timestep, from the prior's latent noised to it,
            in place of noise alone (Meng et al. 2022, SDEdit); training then needs no more.

    Raises:
        ValueError: The prediction type, the spacing, the betas or the start are not possible ones.
    """

    def __init__(
        self,
        num_train_timesteps: int,
        beta_start: float,
        beta_end: float,
        prediction_type: PredictionType,
        *,
        spacing: Spacing,
        clip_sample: bool,
        start_timestep: int | None,
    ) -> None:
        if prediction_type not in get_args(PredictionType):
            raise ValueError(
                f"prediction_type must be one of {get_args(PredictionType)}, "
                f"got {prediction_type!r}"
            )
        betas = scaled_linear_betas(num_train_timesteps, beta_start, beta_end)
        if start_timestep is not None and not 0 <= start_timestep < num_train_timesteps:
            raise ValueError(
                f"start_timestep must be in 0..{num_train_timesteps - 1}, got {start_timestep}"
            )
        super().__init__(num_train_timesteps)
        self.beta_start, self.beta_end, self.start_timestep = beta_start, beta_end, start_timestep
        self.betas, self.alphas, self.alphas_cumprod = betas, 1 - betas, alpha_bars(betas)
        self.one = torch.ones((), dtype=torch.float64)
        self.prediction_type: PredictionType = prediction_type
        self.spacing: Spacing = spacing
        self.clip_sample = clip_sample
        self.set_timesteps(self.num_used_timesteps)

    @property
    def num_used_timesteps(self) -> int:
        """Timesteps that sampling may visit: T, or those up to ``start_timestep``."""
        return self.num_train_timesteps if self.start_timestep is None else self.start_timestep + 1

    def facts(self) -> dict[str, Any]:
        """What a denoiser trained with this scheduler depends on; see ``LatentScheduler``."""
        facts = {name: getattr(self, name) for name in DIFFUSION_FACTS}
        if self.start_timestep is not None:
            facts["start_timestep"] = self.start_timestep
        return facts

    def refuse_other(self, trained: Mapping[str, Any]) -> None:
        """Refuse a denoiser of another schedule, or one that was taught fewer timesteps.

        Raises:
            ValueError: As said.
        """
        taught = trained.get("start_timestep", self.num_train_timesteps - 1)
        if self.num_used_timesteps > taught + 1:
            raise ValueError(
                f"the network was trained up to timestep {taught}, the scheduler begins at "
                f"{self.num_used_timesteps - 1}"
            )
        rest = {name: value for name, value in trained.items() if name != "start_timestep"}
        refuse_difference(rest, {name: getattr(self, name) for name in DIFFUSION_FACTS})

    def _spaced(self, count: int) -> Int[Tensor, " count"]:
        used = self.alphas_cumprod[: self.num_used_timesteps]
        return spaced_timesteps(count, used, self.spacing)

    def start(
        self, prior_start: Float[Tensor, "b c *size"] | None, noise: Float[Tensor, "b c *size"]
    ) -> Float[Tensor, "b c *size"]:
        """The noise itself or, with ``start_timestep``, the prior's latent noised to there."""
        if self.start_timestep is None:
            return noise
        if prior_start is None:
            raise ValueError(
                f"start_timestep {self.start_timestep} needs the prior's latent to start from"
            )
        return self.add_noise(prior_start, noise, self.timesteps[:1].expand(len(noise)))

    def add_noise(
        self,
        original_samples: Float[Tensor, "b c *size"],
        noise: Float[Tensor, "b c *size"],
        timesteps: Int[Tensor, " b"],
        start: Float[Tensor, "b c *size"] | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """The forward process: sqrt(alpha_bar) * clean + sqrt(1 - alpha_bar) * noise."""
        signal, sigma = self._signal_and_sigma(original_samples, noise, timesteps)
        return (signal * original_samples + sigma * noise).to(_wider(original_samples, noise))

    def get_velocity(
        self,
        sample: Float[Tensor, "b c *size"],
        noise: Float[Tensor, "b c *size"],
        timesteps: Int[Tensor, " b"],
    ) -> Float[Tensor, "b c *size"]:
        """What ``v_prediction`` predicts: sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * clean."""
        signal, sigma = self._signal_and_sigma(sample, noise, timesteps)
        return (signal * noise - sigma * sample).to(_wider(sample, noise))

    def training_target(
        self,
        original_samples: Float[Tensor, "b c *size"],
        noise: Float[Tensor, "b c *size"],
        timesteps: Int[Tensor, " b"],
    ) -> Float[Tensor, "b c *size"]:
        """What the denoiser should answer at ``timesteps``, by the prediction type."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return original_samples
        return self.get_velocity(original_samples, noise, timesteps)

    def _levels(self, position: int, final: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_bar at a position of the list and at the one after it; ``final`` at the end."""
        here = self.alphas_cumprod[int(self.timesteps[position])]
        if position + 1 == len(self.timesteps):
            return here, final
        return here, self.alphas_cumprod[int(self.timesteps[position + 1])]

    def _predicted(
        self, model_output: Tensor, sample: Tensor, alpha_bar: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x_t, clean latent and noise, in float32 at least; consistent when clipped."""
        refuse_other_shape(model_output, sample)
        dtype = torch.promote_types(sample.dtype, torch.float32)
        x_t = sample.to(dtype)
        clean, noise = clean_and_noise(model_output.to(dtype), x_t, alpha_bar, self.prediction_type)
        if self.clip_sample:
            clean, noise = clean_and_noise(clean.clamp(-1, 1), x_t, alpha_bar, "sample")
        return x_t, clean, noise

    def _signal_and_sigma(
        self, clean: Tensor, noise: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Factors of clean and noise for each sample, broadcastable, float32 at least."""
        like = clean.to(_wider(clean, noise))
        signal = at_timesteps(self.alphas_cumprod.sqrt(), timesteps, like)
        return signal, at_timesteps((1 - self.alphas_cumprod).sqrt(), timesteps, like)


def _wider(one: Tensor, other: Tensor) -> torch.dtype:
    return torch.promote_types(one.dtype, other.dtype)
