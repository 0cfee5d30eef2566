"""Shared structure of one to four contrasts of a whole volume: time and memory on the CPU.

    python benchmarks/structure.py [--size 192,192,144] [--stems 1,2] [--given 1,4]

``SharedStructure`` of MSG-LDM's widths (32, 64, 128, 256) with random weights; every answer in a
process of its own. Memory is what the work needs above its input and weights.
"""

import argparse
from typing import Any

from side_by_side import numbers, report, run, table


def contender(name: str, size: tuple[int, ...]) -> None:
    import torch

    from voxlate.networks.structure import SharedStructure
    from voxlate.pipelines import autocast_dtype, inference_context

    stem, given = (int(word) for word in name.split("/"))
    torch.manual_seed(0)
    network = SharedStructure(4, stem_levels=stem).eval()
    volumes = torch.rand(1, 4, *size) * 2 - 1
    available = torch.arange(4)[None] < given
    device = torch.device("cpu")
    dtype = autocast_dtype(device)

    def work() -> dict[str, Any]:
        with inference_context(device, dtype):
            shared = network(volumes, available).shared
        grid = "x".join(str(length) for length in shared.shape[2:])
        return {"F_s": grid, "type": str(dtype).removeprefix("torch.")}

    report(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="192,192,144")
    parser.add_argument("--stems", default="1,2")
    parser.add_argument("--given", default="1,4")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contender(options.contender, numbers(options.size))
        return
    names = [f"{stem}/{n}" for stem in numbers(options.stems) for n in numbers(options.given)]
    outcomes = [run(__file__, name, ["--size", options.size]) for name in names]
    print(table(f"Haar levels / contrasts given, {options.size}", outcomes, ("F_s", "type")))


if __name__ == "__main__":
    main()
