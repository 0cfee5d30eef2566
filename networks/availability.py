"""Which contrasts of a case are given: what is missing is replaced before anything reads it."""

import torch
from torch import Tensor

from .blocks import recording


def mask_missing(x: Tensor, available: Tensor, value: float = 0.0) -> Tensor:
    """Replace the slots of contrasts that are not given.

    By selection, not by multiplication: what a missing slot holds, NaN included, is in neither the
    result nor its gradient.

    Args:
        x: One slot for each modality in order, (b, m, ...).
        available: Which slots are given, (b, m) bool.
        value: What missing slots get.

    Returns:
        The shape of ``x``.
    """
    given = available
    for _ in range(x.dim() - 2):
        given = given.unsqueeze(-1)
    return torch.where(given, x, torch.full([1], value, dtype=x.dtype, device=x.device))


def mask_channels(available: Tensor, latents: Tensor) -> Tensor:
    """Say in every place which contrasts are given.

    Args:
        available: (b, m) bool.
        latents: One slot for each modality, (b, m, c, *size).

    Returns:
        (b, m, *size), 1 where given and 0 elsewhere, in the dtype of ``latents``.
    """
    mask = available.to(latents.dtype)
    for _ in range(latents.dim() - 3):
        mask = mask.unsqueeze(-1)
    return mask.expand([-1, -1] + list(latents.shape[3:]))


def check_available(available: Tensor, x: Tensor) -> None:
    """Refuse a mask that does not fit. Silent while a graph is being recorded.

    Args:
        available: (b, m) bool.
        x: What it is about, (b, m, ...).

    Raises:
        ValueError: The mask has another shape or type, or a sample has no contrast at all.
    """
    if recording():
        return
    if available.shape != x.shape[:2] or available.dtype != torch.bool:
        raise ValueError(
            f"available must be bool of shape {tuple(x.shape[:2])}, "
            f"got {available.dtype} of shape {tuple(available.shape)}"
        )
    if not bool(available.any(dim=1).all()):
        raise ValueError(f"every sample needs a contrast, got available {available.tolist()}")
