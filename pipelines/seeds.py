"""Randomness that belongs to a case, not to its turn in a run."""

import hashlib
import json
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def case_generator(seed: int, case_id: str, target: str) -> torch.Generator:
    """A CPU generator seeded by SHA-256 of (seed, case, target).

    Order, batching, sharding and resuming therefore change nothing.

    Args:
        seed: The user's seed.
        case_id: Name of the case.
        target: Wanted modality.
    """
    key = json.dumps([int(seed), case_id, target]).encode()
    number = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
    return torch.Generator().manual_seed(number)


def draw_noise(
    generators: Sequence[torch.Generator], size: Sequence[int]
) -> Float[Tensor, "b *size"]:
    """Standard normal float32 noise on the CPU: one row of shape ``size`` from each generator."""
    return torch.stack([torch.randn(*size, generator=generator) for generator in generators])


def case_noise(
    seed: int, case_id: str, targets: Sequence[str], size: Sequence[int]
) -> Float[Tensor, "t *size"]:
    """The noise that a case's targets start from, one row of shape ``size`` each."""
    return draw_noise([case_generator(seed, case_id, target) for target in targets], size)
