"""What a batch will take: memory, disk and time, from scans' headers and from what was measured."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from voxlate.data_prep import DeviceError, NiftiFile, OutputError, ScanError

from .bundle import default_bundle
from .case_list import CaseJob
from .manifest import find_manifests

SAMPLE = 200  #: headers that are read; a batch may have a hundred thousand

# The default bundle on a CPU, benchmarks/pipeline.py on its phantom: 3.30 GiB at the peak for a
# head of 192 x 192 x 144 voxels of 1 mm, 2294 MiB of them above what is loaded.
LOADED_BYTES = 1080 * 2**20
BYTES_PER_MM3 = 2294 * 2**20 / (192 * 192 * 144)
# A sample of a target is a float32 volume of 1 mm three times: twice in the network, once written.
BYTES_PER_MM3_SAMPLE = 3 * 4
# Of compressed float32 volumes, by voxel of the scan: an allowance between noise all over, which
# takes 3.5, and T1s of open_ms and upenn_gbm, quiet around the head, which take 0.3 to 0.8.
BYTES_PER_VOXEL = 2.5
PICTURE_BYTES = 600_000


class Estimate(NamedTuple):
    """Of a list of cases.

    Attributes:
        cases: That have no refusal yet.
        volumes: That they will make.
        disk: Bytes.
        memory: Bytes at the peak of one worker; None for a bundle that was not measured.
        seconds: With one worker; None where nothing was measured yet.
        basis: Cases that the time was measured on.
    """

    cases: int
    volumes: int
    disk: int
    memory: int | None
    seconds: float | None
    basis: int


def estimate(jobs: Sequence[CaseJob], output: Path, bundle: Path, *, samples: int = 1) -> Estimate:
    """Estimate from the headers of at most ``SAMPLE`` scans and the records in ``output``.

    Args:
        jobs: What is to be done.
        output: Its finished cases tell the time of one.
        bundle: Folder of the bundle.
        samples: Of each result; from two on every volume has its deviation beside it.
    """
    good = [job for job in jobs if job.refusal is None]
    volumes = sum(len(job.targets) for job in good) * (1 if samples == 1 else 2)
    sample = good[:: max(1, math.ceil(len(good) / SAMPLE))]
    sizes = [size for job in sample if (size := _size(job.scan)) is not None]
    voxels = float(np.mean([size[0] for size in sizes])) if sizes else 0.0
    pictures = sum(job.files.picture is not None for job in good)
    memory = None
    if bundle.resolve() == default_bundle().resolve() and sizes:
        targets = max(len(job.targets) for job in good)
        by_mm3 = BYTES_PER_MM3 + BYTES_PER_MM3_SAMPLE * (samples - 1) * targets
        memory = int(LOADED_BYTES + by_mm3 * max(size[1] for size in sizes))
    times = [
        _seconds(record, samples) for _, record in find_manifests(output) if record.get("Seconds")
    ]
    return Estimate(
        cases=len(good),
        volumes=volumes,
        disk=int(volumes * voxels * BYTES_PER_VOXEL + pictures * PICTURE_BYTES),
        memory=memory,
        seconds=float(np.median(times)) * len(good) if times else None,
        basis=len(times),
    )


def check_room(
    jobs: Sequence[CaseJob],
    output: Path,
    bundle: Path,
    devices: Sequence[str],
    *,
    samples: int = 1,
) -> None:
    """Refuse a batch that the disk or the memory has no room for.

    Raises:
        OutputError: The disk has not.
        DeviceError: The memory has not.
    """
    needed = estimate(jobs, output, bundle, samples=samples)
    free = free_disk(output)
    done = sum(job.refusal is None and (output / job.files.record).exists() for job in jobs)
    left = int(needed.disk * (1 - done / max(needed.cases, 1)))
    if left > free:
        raise OutputError(
            f"the results take about {readable(left)}, there is {readable(free)} free",
            "make room, name another folder, or add --force",
            code="E_DISK",
            file=output,
        )
    on_cpu = sum(name == "cpu" for name in devices)
    there = available_memory()
    if needed.memory is not None and there is not None and on_cpu * needed.memory > there:
        raise DeviceError(
            f"the largest scan takes about {readable(needed.memory)} in each of {on_cpu} "
            f"worker(s), there is {readable(there)} of memory",
            "use fewer workers, close programs, or add --force",
            code="E_MEMORY",
        )


def free_disk(folder: Path) -> int:
    """Bytes free where a folder is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that a process may still take: the system's, or a container's; None if not known."""
    found = []
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
        limit = (root / "sys/fs/cgroup/memory.max").read_text().strip()
        if limit.isdecimal():
            used = int((root / "sys/fs/cgroup/memory.current").read_text())
            found.append(int(limit) - used)
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def readable(size: float) -> str:
    """Bytes with a unit, such as ``3.1 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _seconds(record: Mapping[str, Any], samples: int) -> float:
    """What a case took; with another number of samples, what it would have taken."""
    share = samples / record.get("Options", {}).get("Samples", 1)
    return sum(
        seconds * (share if stage in ("translate", "restore") else 1)
        for stage, seconds in record["Seconds"].items()
    )


def _size(scan: str) -> tuple[int, float] | None:
    """Voxels and mm3 that a header promises; None where it cannot be read."""
    try:
        with NiftiFile(Path(scan)) as file:  # which neither waits for a pipe nor believes a bomb
            voxels = math.prod(file.shape)
            return voxels, voxels * abs(float(np.linalg.det(file.affine[:3, :3])))
    except ScanError:  # told when the case is read
        return None
