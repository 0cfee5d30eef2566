"""The one sampling loop: a denoiser walks a scheduler's timesteps down to a latent."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from voxlate.networks.latent_scheduler import LatentScheduler


def sample(
    denoiser: Callable[..., Tensor],
    scheduler: LatentScheduler,
    *,
    concat: Float[Tensor, "b k *size"],
    modality: Int[Tensor, " b"],
    noise: Float[Tensor, "b c *size"],
    text: Float[Tensor, "b n d"] | None = None,
    text_mask: Bool[Tensor, "b n"] | None = None,
    start: Float[Tensor, "b c *size"] | None = None,
    generators: Sequence[torch.Generator] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "b c *size"]:
    """Denoise from the first of ``scheduler.timesteps`` to the last.

    Where it begins, at noise or at the prior's latent, is the scheduler's. The state stays float32
    whatever the denoiser computes in.

    Args:
        denoiser: Called as ``denoiser(x_t, timesteps, concat=..., modality=...)``; with ``text``
            and ``text_mask`` too where there is text.
        scheduler: Its timesteps set already.
        concat: Condition beside x_t; no channels means none.
        modality: Target index of each row.
        noise: Standard normal, drawn by the caller.
        text: Tokens that describe each row's target, for a denoiser that reads them.
        text_mask: True for real tokens; None if all are.
        start: The prior's scaled latent; None where there is none, for schedulers that begin at
            noise.
        generators: One a row, for schedulers that draw fresh noise at each step.
        progress: Called with (steps done, steps in all).
    """
    timesteps = scheduler.timesteps.to(noise.device)
    batch = noise.shape[0]
    x_t = scheduler.start(None if start is None else start.float(), noise.float())
    condition = {"concat": concat if concat.shape[1] else None, "modality": modality}
    if text is not None:
        condition |= {"text": text, "text_mask": text_mask}
    for done, timestep in enumerate(timesteps, start=1):
        shown = scheduler.model_input(x_t, timestep)
        prediction = denoiser(shown, timestep.expand(batch), **condition)
        with torch.autocast(x_t.device.type, enabled=False):
            x_t, _ = scheduler.step(prediction.float(), timestep, x_t, generator=generators)
        if progress is not None:
            progress(done, len(timesteps))
    return x_t
