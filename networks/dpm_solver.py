"""DPM-Solver++ (2M): a second-order multistep solver, for few steps."""

import torch
from jaxtyping import Float
from torch import Tensor

from .noise_scheduler import NoiseScheduler
from .schedule import Generators, PredictionType, Spacing, half_log_snr


def dpm_solver_step(
    x_t: Float[Tensor, "b c *size"],
    clean: Float[Tensor, "b c *size"],
    alpha_bar: Float[Tensor, ""],
    alpha_bar_prev: Float[Tensor, ""],
) -> Float[Tensor, "b c *size"]:
    """Hold ``clean`` constant over the step, the rest exact (DPM-Solver++, first order).

    x_prev = sigma_prev / sigma * x_t - sqrt(alpha_bar_prev) * (exp(-h) - 1) * clean, with h the
    step in half log-SNR; at alpha_bar_prev = 1 that is ``clean`` itself.
    """
    h = half_log_snr(alpha_bar_prev) - half_log_snr(alpha_bar)
    kept = ((1 - alpha_bar_prev) / (1 - alpha_bar)).sqrt()
    return kept * x_t - alpha_bar_prev.sqrt() * torch.expm1(-h) * clean


def extrapolate_clean(
    clean: Float[Tensor, "b c *size"],
    clean_before: Float[Tensor, "b c *size"],
    alpha_bar_before: Float[Tensor, ""],
    alpha_bar: Float[Tensor, ""],
    alpha_bar_prev: Float[Tensor, ""],
) -> Float[Tensor, "b c *size"]:
    """Carry the change since the step before to the middle of this one (Lu et al. 2022, 2M).

    D = clean + (clean - clean_before) / (2 r), r = h_before / h.
    """
    here = half_log_snr(alpha_bar)
    r = (here - half_log_snr(alpha_bar_before)) / (half_log_snr(alpha_bar_prev) - here)
    return clean + (clean - clean_before) / (2 * r)


class DPMSolverScheduler(NoiseScheduler):
    """DPM-Solver++ 2M (Lu et al. 2022): deterministic, one network call a step, good from 10.

    The first step has no history and the last ends at the clean latent, where the second order
    diverges: both are of first order. With a perfect denoiser of unit Gaussian latents ten steps
    keep the standard deviation within 3 %; DDIM's lose 16 to 18 %.

    Steps must come in the order of ``timesteps``. The first timestep begins a new run, and so does
    ``set_timesteps``.

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
        spacing: Spacing = "log_snr",
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

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Choose the timesteps and forget the last run; see ``LatentScheduler.set_timesteps``."""
        super().set_timesteps(num_inference_steps, device)
        self._history: tuple[int, Tensor] | None = None

    def step(
        self,
        model_output: Float[Tensor, "b c *size"],
        timestep: int | Tensor,
        sample: Float[Tensor, "b c *size"],
        *,
        generator: Generators = None,
    ) -> tuple[Float[Tensor, "b c *size"], Float[Tensor, "b c *size"]]:
        """Solve to the next noise level; see ``LatentScheduler.step``.

        ``generator`` is not used: the solver draws nothing.

        Raises:
            ValueError: The step before this one was not taken, or with another batch.
        """
        position = self._position(timestep)
        alpha_bar, alpha_bar_prev = self._levels(position, final=self.one)
        x_t, clean, _ = self._predicted(model_output, sample, alpha_bar)
        slope_clean = clean
        if position > 0:
            before = self._clean_before(position, clean)
            if alpha_bar_prev < 1:
                alpha_bar_before, _ = self._levels(position - 1, final=self.one)
                slope_clean = extrapolate_clean(
                    clean, before, alpha_bar_before, alpha_bar, alpha_bar_prev
                )
        self._history = position, clean
        x_prev = dpm_solver_step(x_t, slope_clean, alpha_bar, alpha_bar_prev)
        return x_prev.to(sample.dtype), clean.to(sample.dtype)

    def _clean_before(self, position: int, clean: Tensor) -> Tensor:
        if self._history is None or self._history[0] != position - 1:
            raise ValueError(
                f"timestep {int(self.timesteps[position])} is step {position} of the run, "
                f"but step {position - 1} was not the last one taken"
            )
        before = self._history[1]
        if before.shape != clean.shape:
            raise ValueError(
                f"the batch changed within a run from {tuple(before.shape)} to {tuple(clean.shape)}"
            )
        return before
