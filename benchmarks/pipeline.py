"""A T1 file to three target files, as voxlate does it and in the public ALDM code's way.

    python benchmarks/pipeline.py [--scan SCAN.nii.gz] [--bundle DIR] [--size 192,192,144]

Both use the same networks and weights. ALDM's way is that of its code: float32, one target after
the other, each with its own reading and encoding, 200 DDIM steps with eta 1. Of those steps only
some are timed (``--timed-steps``) and the rest added at the same pace. Without ``--scan`` the input
is a phantom.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import numbers, report, run, table

OURS, THEIRS = "voxlate", "ALDM's way"
ALDM_STEPS = 200
MAX_SECONDS, MAX_GIB = 60, 6


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Put the input scan and the bundle into ``folder``; the bundle with another size if asked."""
    import shutil

    import torch
    from monai.bundle import ConfigParser

    from voxlate.data_prep import scan_from_array, write_scan
    from voxlate.data_prep.phantom import make_phantom
    from voxlate.pipelines import default_bundle, network_from_files, save_weights

    if options.scan:
        shutil.copy(options.scan, folder / "t1.nii.gz")
    else:
        shape = numbers(options.size)
        spacing = 1.0 if min(shape) >= 64 else 64 / min(shape)  # a scan has at least 60 mm
        made = make_phantom(shape, seed=0, spacing=spacing, modalities=("t1",))
        volume = made.volumes["t1"]
        write_scan(folder / "t1.nii.gz", volume, scan_from_array(volume, made.affine))
    root = Path(options.bundle) if options.bundle else default_bundle()
    for part in ("configs", "models"):
        shutil.copytree(root / part, folder / "bundle" / part)
    network_file = folder / "bundle" / "configs" / "network.yaml"
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "network.yaml"))
    parser.set(list(numbers(options.size)), "preprocessing_def::size")
    ConfigParser.export_config_file(parser.get(), str(network_file), fmt="yaml")
    if options.random_weights:
        torch.manual_seed(0)
        weights = folder / "bundle" / "models" / "model.pt"
        save_weights(network_from_files([network_file]).state_dict(), weights)


def ours(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What ``voxlate translate`` does: read, encode once, all targets at once, write."""
    from voxlate.pipelines.conversion import convert

    files = convert(
        folder / "t1.nii.gz",
        folder / OURS,
        targets=options.targets.split(","),
        bundle=folder / "bundle",
        device="cpu",
        overwrite=True,
        quiet=True,
    )
    return {"files": len(files)}


def theirs(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One target after the other, everything again for each; the seconds are those of 200 steps."""
    import torch

    from voxlate.data_prep import read_scan, write_scan
    from voxlate.networks.ddim import DDIMScheduler
    from voxlate.pipelines import inference_context, read_bundle
    from voxlate.pipelines.one_to_many import OneToMany

    start = time.perf_counter()
    parts, _ = read_bundle(folder / "bundle")
    parts.network.shifts, parts.network.regression = [], None  # ours alone
    schedule = parts.network.facts()["schedule"]
    scheduler = DDIMScheduler(
        **schedule,
        eta=1.0,
        final_alpha_bar=float(1 - torch.tensor(schedule["beta_start"]).double()),
    )
    translate = OneToMany(parts.network, scheduler, steps=options.timed_steps)
    (folder / "aldm").mkdir(exist_ok=True)
    paces = []
    for target in options.targets.split(","):
        steps: list[float] = []

        def tick(stage: str, done: int, total: int, steps: list[float] = steps) -> None:
            if stage == "denoise":
                steps.append(time.perf_counter())

        scan = read_scan(folder / "t1.nii.gz")
        prepared = parts.preprocessing.apply(scan)
        with inference_context(torch.device("cpu"), torch.float32):
            made = translate(prepared.volume[None], source="t1", targets=[target], progress=tick)
        volume = parts.preprocessing.restore((made[0] + 1) / 2, prepared.record, background=0.0)
        write_scan(folder / "aldm" / f"{target}.nii.gz", volume, scan)
        paces.append((steps[-1] - steps[0]) / (len(steps) - 1))
    measured = time.perf_counter() - start
    added = sum(pace * (ALDM_STEPS - options.timed_steps) for pace in paces)
    return {"seconds": measured + added, "of it extrapolated": f"{added / (measured + added):.0%}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", help="a T1 as .nii.gz; default: a phantom of --size")
    parser.add_argument("--bundle", help="default: the one that comes with voxlate")
    parser.add_argument("--size", default="192,192,144", help="of the networks' grid, at least")
    parser.add_argument("--targets", default="t1ce,t2,flair")
    parser.add_argument("--timed-steps", type=int, default=5, help="of ALDM's 200, at least 3")
    parser.add_argument("--random-weights", action="store_true", help="where none are trained yet")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        import voxlate.pipelines.conversion  # noqa: F401  # its memory is no contender's own

        work = {"prepare": prepare, OURS: ours, THEIRS: theirs}[options.contender]
        report(lambda: work(options.folder, options) or {})
        return
    arguments = ["--size", options.size, "--targets", options.targets]
    arguments += ["--timed-steps", str(max(3, options.timed_steps))]
    arguments += ["--scan", options.scan] if options.scan else []
    arguments += ["--bundle", options.bundle] if options.bundle else []
    arguments += ["--random-weights"] if options.random_weights else []
    with tempfile.TemporaryDirectory(prefix="voxlate-benchmark-") as folder:
        arguments += ["--folder", folder]
        prepared = run(__file__, "prepare", arguments)
        if prepared.failed:
            raise SystemExit(prepared.failed)
        outcomes = [run(__file__, name, arguments) for name in (OURS, THEIRS)]
    title = f"A T1 file to {options.targets}, grid of {options.size}"
    print(table(title, outcomes, ("files", "of it extrapolated")))
    first = outcomes[0]
    if first.failed:
        raise SystemExit(1)
    for what, held in (
        (f"whole process under {MAX_SECONDS} s", first.wall < MAX_SECONDS),
        (f"peak memory under {MAX_GIB} GiB", first.peak < MAX_GIB),
    ):
        print(f"{'pass' if held else 'FAIL'}: {OURS}, {what}")


if __name__ == "__main__":
    main()
