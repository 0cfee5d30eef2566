"""Wavelet split and merge against PyWavelets, ptwt and pytorch_wavelets.

    python benchmarks/wavelets.py [--cases 3d,3d_db2,2d,1d] [--repeats 7]

One level forward and inverse of features of a latent, orthonormal Haar or another filter, float32,
one thread. The libraries take turns in one process, so that what else the machine does meets all of
them; a ratio is the median over turns of processor time (user and system) over ours in that turn.
Each library works on its own kind of array; conversions are not timed.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple


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


def round_trip(kind: str, case: Case, x: Any) -> Callable[[], Any]:
    """Features (a tensor) to sub-bands and back, by one of the libraries."""
    dims = len(case.shape) - 2
    if kind == "voxlate":
        from voxlate.networks.wavelets import Wavelet

        ours = Wavelet(case.filters, spatial_dims=dims)
        return lambda: ours.merge(ours.split(x), like=x)
    if kind == "pywt":
        import pywt

        array, axes = x.numpy(), tuple(range(-dims, 0))
        how: dict[str, Any] = {"wavelet": case.filters, "mode": "periodization", "axes": axes}
        return lambda: pywt.idwtn(pywt.dwtn(array, **how), **how)
    if kind == "ptwt":
        import ptwt

        there = getattr(ptwt, ("wavedec", "wavedec2", "wavedec3")[dims - 1])
        back = getattr(ptwt, ("waverec", "waverec2", "waverec3")[dims - 1])
        return lambda: back(there(x, case.filters, level=1, mode="zero"), case.filters)
    from pytorch_wavelets import DWTForward, DWTInverse

    forward = DWTForward(J=1, wave=case.filters, mode="periodization")
    inverse = DWTInverse(wave=case.filters, mode="periodization")
    return lambda: inverse(forward(x))


def take_turns(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each turn of each contender, after one turn that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if turn:
                seconds[name].append(time.process_time() - start)
    return seconds


def compare(case: Case, repeats: int) -> str:
    """A Markdown table of one case."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(case.shape)
    works, absent, errors = {}, {}, {}
    for kind in case.contenders:
        try:
            works[kind] = round_trip(kind, case, x)
        except ImportError as error:
            absent[kind] = f"not measured: {error}"
            continue
        with torch.inference_mode():
            back = torch.as_tensor(works[kind]())
        for axis in range(2, x.dim()):  # the filters' tails, where the library keeps them
            back = back.narrow(axis, 0, x.shape[axis])
        errors[kind] = float((back - x).abs().max())
    with torch.inference_mode():
        seconds = take_turns(works, repeats)
    ours = seconds[case.contenders[0]]
    lines = [f"### {case.title}", "", "| | time | turns | largest error |", "|---|---|---|---|"]
    for kind in case.contenders:
        if kind in absent:
            lines.append(f"| {kind} | {absent[kind]} | | |")
            continue
        ratios = [theirs / own for theirs, own in zip(seconds[kind], ours, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        middle = f"{statistics.median(ratios):.2f} x"
        lines.append(f"| {kind} | {middle} | {spread} | {errors[kind]:.1e} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES), help="which, comma-separated")
    parser.add_argument("--repeats", type=int, default=7, help="turns")
    options = parser.parse_args()
    for name in options.cases.split(","):
        print(compare(CASES[name], options.repeats), flush=True)


if __name__ == "__main__":
    main()
