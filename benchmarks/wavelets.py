"""Wavelet split and merge against PyWavelets, ptwt and pytorch_wavelets.

    python benchmarks/wavelets.py [--cases 3d,3d_db2,2d,1d] [--repeats 5]

One level forward and inverse of features of a latent, orthonormal Haar or another filter. Times are
multiples of ours. Only the CPU is used.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from side_by_side import report, run, table


class Case(NamedTuple):
    """A table: what is transformed and by whom, ours first."""

    title: str
    shape: tuple[int, ...]
    filters: str
    contenders: tuple[str, ...]


VOLUME, EVERYONE = (1, 128, 48, 48, 36), ("voxlate", "pywt", "ptwt")
CASES = {
    "3d": Case("3D Haar, 128 channels of 48 x 48 x 36", VOLUME, "haar", EVERYONE),
    "3d_odd": Case("3D Haar, 128 channels of 47 x 47 x 35", (1, 128, 47, 47, 35), "haar", EVERYONE),
    "3d_small": Case("3D Haar, 96 channels of 12 x 12 x 9", (1, 96, 12, 12, 9), "haar", EVERYONE),
    "3d_db2": Case("3D db2, 128 channels of 48 x 48 x 36", VOLUME, "db2", EVERYONE),
    "3d_db4": Case("3D db4, 128 channels of 48 x 48 x 36", VOLUME, "db4", EVERYONE),
    "2d": Case(
        "2D Haar, 64 channels of 192 x 192, 4 slices",
        (4, 64, 192, 192),
        "haar",
        (*EVERYONE, "pytorch_wavelets"),
    ),
    "2d_db2": Case(
        "2D db2, 64 channels of 192 x 192, 4 slices",
        (4, 64, 192, 192),
        "db2",
        (*EVERYONE, "pytorch_wavelets"),
    ),
    "2d_large": Case(
        "2D db4, 4 channels of 1024 x 1024",
        (1, 4, 1024, 1024),
        "db4",
        (*EVERYONE, "pytorch_wavelets"),
    ),
    "1d": Case("1D Haar, 256 channels of 4096, 8 lines", (8, 256, 4096), "haar", EVERYONE),
    "1d_db4": Case("1D db4, 256 channels of 4096, 8 lines", (8, 256, 4096), "db4", EVERYONE),
}


def round_trip(kind: str, case: Case) -> Callable[[Any], Any]:
    """Features to sub-bands and back, by one of the libraries."""
    dims = len(case.shape) - 2
    if kind == "voxlate":
        from voxlate.networks.wavelets import Wavelet

        ours = Wavelet(case.filters, spatial_dims=dims)
        return lambda x: ours.merge(ours.split(x), like=x)
    if kind == "pywt":
        import pywt
        import torch

        how: dict[str, Any] = {
            "wavelet": case.filters,
            "mode": "periodization",
            "axes": tuple(range(-dims, 0)),
        }
        return lambda x: torch.from_numpy(pywt.idwtn(pywt.dwtn(x.numpy(), **how), **how))
    if kind == "ptwt":
        import ptwt

        there = getattr(ptwt, ("wavedec", "wavedec2", "wavedec3")[dims - 1])
        back = getattr(ptwt, ("waverec", "waverec2", "waverec3")[dims - 1])
        return lambda x: back(there(x, case.filters, level=1, mode="zero"), case.filters)
    from pytorch_wavelets import DWTForward, DWTInverse

    forward = DWTForward(J=1, wave=case.filters, mode="periodization")
    inverse = DWTInverse(wave=case.filters, mode="periodization")
    return lambda x: inverse(forward(x))


def prepare(kind: str, case: Case) -> Callable[[], dict[str, Any]]:
    """The timed work, and how far its answer is from the features."""
    import torch

    torch.manual_seed(0)
    x = torch.randn(case.shape)
    transform = round_trip(kind, case)

    def work() -> dict[str, Any]:
        with torch.inference_mode():
            back = transform(x)
        for axis in range(2, x.dim()):
            back = back.narrow(axis, 0, x.shape[axis])
        sample = back[:, :1], x[:, :1]  # a look at one channel costs next to nothing
        return {"largest error": f"{float((sample[0] - sample[1]).abs().max()):.1e}"}

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES), help="which, comma-separated")
    parser.add_argument("--repeats", type=int, default=5, help="the shortest of these counts")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        report(prepare(options.contender, CASES[options.cases]), repeats=options.repeats)
        return
    for name in options.cases.split(","):
        arguments = ["--cases", name, "--repeats", str(options.repeats)]
        outcomes = [run(__file__, kind, arguments) for kind in CASES[name].contenders]
        print(table(CASES[name].title, outcomes, ("largest error",)), flush=True)


if __name__ == "__main__":
    main()
