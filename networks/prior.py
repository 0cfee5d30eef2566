"""Priors: what the sources already say about the target, as a condition and a start."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .blocks import recording

CONCAT = ("source", "target_like")


class PriorOutput(NamedTuple):
    """What a prior hands to the sampler.

    ``concat`` (b, k * c, *size) goes beside x_t into the denoiser; ``start`` (b, c, *size) is the
    prior's own answer.
    """

    concat: Tensor
    start: Tensor


class EncodedCase(NamedTuple):
    """A case as a prior wants it, whatever the target.

    ``latents`` (b, m, c, *size) are scaled, zeros where nothing is given; ``available`` is (b, m)
    bool; ``structure`` is what the prior's own ``encode_case`` found in the volumes, None for a
    prior that reads latents alone.
    """

    latents: Tensor
    available: Tensor
    structure: Tensor | None

    def expand(self, count: int) -> "EncodedCase":
        """A single case (b = 1) as ``count`` rows, without a copy."""
        structure = self.structure
        return EncodedCase(
            self.latents.expand(count, *self.latents.shape[1:]),
            self.available.expand(count, -1),
            None if structure is None else structure.expand(count, *structure.shape[1:]),
        )


class MSSpadePrior(nn.Module):
    """ALDM's prior: the one source latent, and its MS-SPADE translation towards the target.

    Args:
        generator: Called as ``generator(latent, target)``. None for the ablations without MS-SPADE:
            the start is then the source itself.
        concat: What the denoiser sees beside x_t, in order: ``"source"`` and ``"target_like"``
            (ALDM's code), only ``"target_like"`` (its paper, eq. 2), only ``"source"`` (Palette),
            or nothing (diffusion alone).
        path: A first guess ``path(latent, source, target)`` for the generator to refine, such as
            ``RidgePath``. None hands it the source itself, as ALDM does.

    Raises:
        ValueError: ``concat`` repeats a name, has an unknown one, or wants ``"target_like"``
            without a generator.
    """

    concat: list[str]

    def __init__(
        self,
        generator: nn.Module | None,
        *,
        concat: Sequence[str] = CONCAT,
        path: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if len(set(concat)) != len(concat) or not set(concat) <= set(CONCAT):
            raise ValueError(f"concat takes each of {CONCAT} at most once, got {tuple(concat)}")
        if generator is None and "target_like" in concat:
            raise ValueError("concat has 'target_like', which needs a generator, got None")
        self.generator, self.path = generator, path
        self.concat = list(concat)

    def forward(self, latents: Tensor, available: Tensor, target: Tensor) -> PriorOutput:
        """Translate the one available latent towards each sample's target.

        Args:
            latents: Scaled latents, one slot for each modality in order, (b, m, c, *size). Slots
                that are not available may hold anything.
            available: Which slot holds the source, (b, m) bool, exactly one a sample.
            target: Wanted modality, (b,) int64; the source itself is allowed.

        Returns:
            The condition and the start, see ``PriorOutput``.

        Raises:
            ValueError: (outside TorchScript) a sample has no source or more than one, or a target
                is out of range.
        """
        if not torch.jit.is_scripting():
            check_one_source(latents, available)
        rows = torch.arange(latents.shape[0], device=latents.device)
        slot = available.to(torch.uint8).argmax(dim=1)
        source = latents[rows, slot]
        target_like = source
        if self.path is not None:
            target_like = self.path(source, slot, target)
        if self.generator is not None:
            target_like = self.generator(target_like, target)
        parts = [source[:, :0]]
        for name in self.concat:
            parts.append(source if name == "source" else target_like)
        return PriorOutput(torch.cat(parts, dim=1), target_like)


def check_one_source(latents: Tensor, available: Tensor) -> None:
    """Refuse what MS-SPADE cannot translate. Silent while a graph is being recorded.

    Raises:
        ValueError: ``available`` does not fit ``latents``, or a sample has not exactly one source.
    """
    if recording():
        return
    if available.shape != latents.shape[:2] or available.dtype != torch.bool:
        raise ValueError(
            f"available must be bool of shape {tuple(latents.shape[:2])}, "
            f"got {available.dtype} of shape {tuple(available.shape)}"
        )
    counts = available.sum(dim=1).tolist()
    if any(count != 1 for count in counts):
        raise ValueError(f"MS-SPADE translates exactly one source, got {counts} in the batch")
