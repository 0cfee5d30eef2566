"""Several answers of one network: the seeds they are drawn with, their mean and their spread."""

import hashlib
import json
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from voxlate.data_prep import UsageError

FloatArray = npt.NDArray[np.float32]

MOST = 100


def check_samples(samples: int | None, steps: int) -> int | None:
    """The number of samples, if they can differ; None, one answer, always can.

    Args:
        samples: As asked for.
        steps: Denoising steps.

    Raises:
        UsageError: Fewer than two have no spread; without denoising all would be the same.
    """
    if samples is None:
        return None
    if not 2 <= samples <= MOST:
        raise UsageError(
            f"{samples} sample(s) asked for", f"give 2 to {MOST}, or leave it out", code="E_SAMPLES"
        )
    if steps == 0:
        raise UsageError(
            "without denoising steps every sample is the same",
            "give --steps 1 or more, or leave --samples out",
            code="E_SAMPLES",
        )
    return samples


def sample_seeds(seed: int, samples: int | None) -> tuple[int, ...]:
    """Seeds whose single answers the samples are: the user's own, then hashes of it.

    The k-th is 48 bits of SHA-256 of (seed, "sample", k), so more samples begin with the same ones,
    and neighbouring seeds share none.

    Args:
        seed: The user's seed.
        samples: How many; None for one answer.
    """
    keys = (json.dumps([int(seed), "sample", k]).encode() for k in range(1, samples or 1))
    return (int(seed), *(int.from_bytes(hashlib.sha256(key).digest()[:6], "big") for key in keys))


def mean_and_deviation(volumes: Iterable[FloatArray]) -> tuple[FloatArray, FloatArray | None]:
    """Mean and standard deviation (divided by n - 1), voxel by voxel, in one pass.

    mean += (x - mean) / k, squares += (x - mean_before)(x - mean_after)   (Welford 1962)

    Args:
        volumes: At least one, all of one shape; only one is held at a time.

    Returns:
        The mean, and the deviation; None of one volume.
    """
    each = iter(volumes)
    mean = next(each)
    squares = None
    count = 1
    for count, volume in enumerate(each, start=2):
        if squares is None:
            mean, squares = mean.copy(), np.zeros_like(mean)
        change = volume - mean
        mean += change / np.float32(count)
        squares += change * (volume - mean)
    if squares is None:
        return mean, None
    return mean, np.sqrt(squares / np.float32(count - 1))
