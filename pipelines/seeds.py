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


def case_noise(
    seed: int, case_id: str, targets: Sequence[str], size: Sequence[int]
) -> Float[Tensor, "t c *size"]:
    """Standard normal float32 noise on the CPU, one row of shape ``size`` for each target."""
    return torch.stack(
        [torch.randn(*size, generator=case_generator(seed, case_id, target)) for target in targets]
    )
