"""What every scheduler here shares: the schedule, the forward process and the list of timesteps."""

from abc import ABC, abstractmethod
from typing import get_args

import torch
from jaxtyping import Float, Int
from monai.networks.schedulers import Scheduler
from torch import Tensor

from .schedule import (
    Generators,
    PredictionType,
    Spacing,
    alpha_bars,
    clean_and_noise,
    scaled_linear_betas,
    spaced_timesteps,
)


class NoiseScheduler(Scheduler, ABC):
    """What DDPM, DDIM and DPM-Solver share; they differ in ``step``.

    A MONAI scheduler (its inferers take it), with the schedule in float64, arithmetic in float32
    at least, and the next noise level always read off the scheduler's own list of timesteps.

    Args:
        num_train_timesteps: T of the training.
        beta_start: First beta of the scaled-linear schedule.
        beta_end: Last beta.
        prediction_type: What the denoiser predicts.
        spacing: How fewer than T timesteps are chosen, see ``spaced_timesteps``.
        clip_sample: Clip the predicted clean latent to [-1, 1] (for data in that range;
            latents are not).

    Raises:
        ValueError: The prediction type, the spacing or the betas are not possible ones.
    """

    timesteps: Tensor
    start_timestep: int | None = None

    def __init__(
        self,
        num_train_timesteps: int,
        beta_start: float,
        beta_end: float,
        prediction_type: PredictionType,
        *,
        spacing: Spacing,
        clip_sample: bool,
    ) -> None:
        if prediction_type not in get_args(PredictionType):
            raise ValueError(
                f"prediction_type must be one of {get_args(PredictionType)}, "
                f"got {prediction_type!r}"
            )
        betas = scaled_linear_betas(num_train_timesteps, beta_start, beta_end)
        super().__init__(
            num_train_timesteps, "scaled_linear_beta", beta_start=beta_start, beta_end=beta_end
        )
        self.betas, self.alphas, self.alphas_cumprod = betas, 1 - betas, alpha_bars(betas)
        self.one = torch.ones((), dtype=torch.float64)
        self.prediction_type: PredictionType = prediction_type
        self.spacing: Spacing = spacing
        self.clip_sample = clip_sample
        self.set_timesteps(num_train_timesteps)

    @property
    def num_used_timesteps(self) -> int:
        """Timesteps that sampling may visit: T, or those up to ``start_timestep``."""
        return self.num_train_timesteps if self.start_timestep is None else self.start_timestep + 1

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: str | torch.device | None = None,
        *,
        start: int | None = None,
    ) -> None:
        """Choose the timesteps of the next sampling run, noisiest first.

        Args:
            num_inference_steps: In 1..T; in 1..start + 1 where ``start`` is given.
            device: Where ``timesteps`` shall lie.
            start: Begin at or below this timestep, from a latent noised to ``timesteps[0]``; by
                default at ``start_timestep``.
        """
        start = self.start_timestep if start is None else start
        chosen = spaced_timesteps(
            num_inference_steps, self.alphas_cumprod, self.spacing, start=start
        )
        self.num_inference_steps = num_inference_steps
        self.timesteps = chosen.to(device)

    def add_noise(
        self,
        original_samples: Float[Tensor, "b c *size"],
        noise: Float[Tensor, "b c *size"],
        timesteps: Int[Tensor, " b"],
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

    @abstractmethod
    def step(
        self,
        model_output: Float[Tensor, "b c *size"],
        timestep: int | Tensor,
        sample: Float[Tensor, "b c *size"],
        *,
        generator: Generators = None,
    ) -> tuple[Float[Tensor, "b c *size"], Float[Tensor, "b c *size"]]:
        """Go from one timestep to the next of the list.

        Args:
            model_output: The denoiser's prediction for ``sample`` at ``timestep``.
            timestep: One of ``timesteps``.
            sample: The noisy latent.
            generator: Source of fresh noise: one, or one a sample. Without one, torch's own.

        Returns:
            The less noisy latent and the predicted clean latent, in the sample's dtype.

        Raises:
            ValueError: The timestep is none of the list's, or the shapes differ.
        """

    def _position(self, timestep: int | Tensor) -> int:
        visited = self.timesteps.tolist()
        if int(timestep) not in visited:
            raise ValueError(
                f"timestep {int(timestep)} is none of the {len(visited)} that were set "
                f"({visited[0]} to {visited[-1]})"
            )
        return visited.index(int(timestep))

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
        if model_output.shape != sample.shape:
            raise ValueError(
                f"prediction {tuple(model_output.shape)} and sample {tuple(sample.shape)} differ"
            )
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
        dtype = torch.promote_types(_wider(clean, noise), torch.float32)
        pair = torch.stack([self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()])
        at = pair.to(device=clean.device, dtype=dtype)[:, timesteps.to(clean.device)]
        signal, sigma = at.reshape(2, -1, *[1] * (clean.ndim - 1)).unbind()
        return signal, sigma


def _wider(one: Tensor, other: Tensor) -> torch.dtype:
    return torch.promote_types(one.dtype, other.dtype)
