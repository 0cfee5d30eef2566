"""One volume to every wanted contrast: one encode, then the targets are a batch."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from voxlate.networks import TranslationNetwork

from .sampler import sample
from .seeds import case_noise

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
BACKGROUND = -1.0


class OneToMany:
    """Encode the source once, ask the prior for every target, denoise them as one batch, decode each.

    The volume is padded with background to the autoencoder's multiple and cropped back: no voxel is dropped.
    Decoding goes one target at a time, since that is where memory peaks. A GPU without memory for all targets at
    once denoises fewer at a time; the noise belongs to (seed, case, target), so that changes nothing else.

    Args:
        network: Autoencoder, prior and denoiser with their weights, in eval mode.
        scheduler: Walks the denoiser's timesteps; its schedule is the network's.
        steps: Denoising steps; 0 decodes the prior's own answer.
        targets_at_once: Most targets denoised together; all of them by default.

    Raises:
        ValueError: ``steps`` is negative or ``targets_at_once`` is not positive.
    """

    def __init__(
        self,
        network: TranslationNetwork,
        scheduler: Any,
        *,
        steps: int,
        targets_at_once: int | None = None,
    ) -> None:
        if steps < 0:
            raise ValueError(f"steps must be 0 or more, got {steps}")
        if targets_at_once is not None and targets_at_once < 1:
            raise ValueError(f"targets_at_once must be 1 or more, got {targets_at_once}")
        self.network, self.scheduler = network, scheduler
        self.steps, self.targets_at_once = steps, targets_at_once

    def __call__(
        self,
        volume: Float[Tensor, "1 1 *size"],
        *,
        source: str,
        targets: Sequence[str],
        seed: int = 0,
        case_id: str = "",
        progress: Progress | None = None,
    ) -> Float[Tensor, "t 1 *size"]:
        """Translate.

        Args:
            volume: Intensity in [-1, 1], background -1, on the network's device.
            source: The volume's modality.
            targets: Wanted modalities, each once, the source not among them.
            seed: The user's seed.
            case_id: The case, which with seed and target decides the noise.
            progress: Called with (stage, done, in all).

        Returns:
            Intensity in [-1, 1], targets in the order asked for.

        Raises:
            ValueError: A modality the network does not know, a repeated target, or the source as target.
        """
        report = progress or _silent
        indices = self._indices(source, targets)
        report("encode", 0, 1)
        latent = self.network.encode(pad_to_multiple(volume, self.network.autoencoder.downsampling))
        report("encode", 1, 1)
        noise = case_noise(seed, case_id, targets, latent.shape[1:]) if self.steps else None
        answers = self._answers(latent, self.network.modalities.index(source), indices, noise, report)
        decoded = []
        for done, answer in enumerate(answers):
            report("decode", done, len(answers))
            decoded.append(self.network.decode(answer[None]).float().clamp(-1, 1))
        report("decode", len(answers), len(answers))
        return torch.cat(decoded)[(..., *(slice(0, length) for length in volume.shape[2:]))]

    def _indices(self, source: str, targets: Sequence[str]) -> list[int]:
        known = list(self.network.modalities)
        for name in (source, *targets):
            if name not in known:
                raise ValueError(f"modality must be one of {known}, got {name!r}")
        if not targets or len(set(targets)) != len(targets) or source in targets:
            raise ValueError(
                f"targets must be different modalities other than the source {source!r}, "
                f"got {list(targets)}"
            )
        return [known.index(name) for name in targets]

    def _answers(
        self,
        latent: Tensor,
        source: int,
        targets: list[int],
        noise: Tensor | None,
        report: Progress,
    ) -> Tensor:
        """Scaled latents of the targets, (t, c, *size); fewer at a time when the GPU's memory is short."""
        at_once = min(self.targets_at_once or len(targets), len(targets))
        while True:
            try:
                parts = [
                    self._answer(
                        latent,
                        source,
                        targets[first : first + at_once],
                        None if noise is None else noise[first : first + at_once],
                        _within(report, first, at_once, len(targets)),
                    )
                    for first in range(0, len(targets), at_once)
                ]
                return torch.cat(parts)
            except torch.cuda.OutOfMemoryError:
                if at_once == 1:
                    raise
                at_once = (at_once + 1) // 2
                torch.cuda.empty_cache()
                logger.warning("GPU memory is short: denoising %d target(s) at a time", at_once)

    def _answer(
        self,
        latent: Tensor,
        source: int,
        targets: list[int],
        noise: Tensor | None,
        report: Callable[[int, int], None],
    ) -> Tensor:
        count = len(self.network.modalities)
        slots = latent.new_zeros((1, count, *latent.shape[1:]))
        slots[:, source] = latent
        slots = slots.expand(len(targets), *slots.shape[1:])
        available = torch.zeros(len(targets), count, dtype=torch.bool, device=latent.device)
        available[:, source] = True
        target = torch.tensor(targets, device=latent.device)
        concat, start = self.network.prior(slots, available, target)
        if noise is None:
            return start
        self.scheduler.set_timesteps(self.steps, device=latent.device)
        return sample(
            self.network.denoiser,
            self.scheduler,
            concat=concat,
            modality=target,
            noise=noise.to(latent.device),
            progress=report,
        )


def pad_to_multiple(volume: Tensor, multiple: int) -> Tensor:
    """Add background behind each spatial axis of (b, 1, *size) until its size is a multiple."""
    missing = [-length % multiple for length in volume.shape[2:]]
    pads = [amount for length in reversed(missing) for amount in (0, length)]
    return F.pad(volume, pads, value=BACKGROUND)


def _silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def _within(
    report: Progress, first: int, at_once: int, targets: int
) -> Callable[[int, int], None]:
    """Report the steps of one group of targets as part of those of all groups."""
    groups = -(-targets // at_once)

    def step_done(done: int, total: int) -> None:
        report("denoise", first // at_once * total + done, groups * total)

    return step_done
