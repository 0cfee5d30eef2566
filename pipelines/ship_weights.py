"""Copy trained weights into a bundle in half precision: half the size, rounded by 2**-11 relative.

    python -m voxlate.pipelines.ship_weights runs/denoiser/model.pt models/model.pt

They load into float32 networks as any others. The latents' scale and the contract keep their
types.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from voxlate.data_prep import VoxlateError, WeightsError

from .checkpoint import read_weights, save_weights

EXACT = ("scale_factor", "contract")


def in_half_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32 tensors as float16, all but the exact ones.

    Raises:
        WeightsError: A weight is too large for float16.
    """
    halved = {}
    for name, value in weights.items():
        half = value.dtype is torch.float32 and name not in EXACT
        halved[name] = value.half() if half else value
        if half and not torch.isfinite(halved[name]).all():
            raise WeightsError(
                f"{name} does not fit into half precision",
                "ship the float32 file as it is",
                code="E_WEIGHTS",
            )
    return halved


def main(arguments: list[str] | None = None) -> int:
    """Read, halve, write."""
    source, destination = sys.argv[1:] if arguments is None else arguments
    try:
        save_weights(in_half_precision(read_weights(source)), Path(destination))
    except VoxlateError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
