"""How well rigid registration finds known moves of real scans: a figure for each move and in all.

    python -m benchmarks.registration --data DIR [--moves 50] [--seed 0] [--farthest 0.7]

DIR holds cases whose contrasts lie on one grid (``patient07/t1.nii.gz``, ``flair.nii.gz``, ...);
other cases are passed over. For every move one case and two of its contrasts are drawn; the second
is turned by up to 15 degrees and shifted by up to 20 mm, resampled on its own grid, and laid back
over the first. The error is the mean distance over the head between where a voxel was sent and
where it belongs.

The contrasts were registered by the publishers, whose own error is part of what is measured. How
far two are apart as published is found in another way, by where their gradients point the same
way. A pair that is farther apart than ``--farthest`` is no ground truth for a millimetre: another
is drawn, and it is named at the end (``--farthest inf`` takes all).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from voxlate.data_prep import (
    DEFAULT_MODALITIES,
    Case,
    Scan,
    ScanError,
    find_cases,
    foreground,
    read_scan,
)
from voxlate.data_prep.registration import register_rigid
from voxlate.data_prep.rigid_transform import RigidTransform, resample

MAX_SHIFT_MM, MAX_TURN_DEG = 20.0, 15.0
MAX_PUBLISHED_MM = 0.7  #: a pair farther apart than that is no ground truth for a millimetre


@dataclass(frozen=True)
class Move:
    """One known move, how far from it the registration ended, and how good the truth is."""

    case: str
    fixed: str
    moving: str
    shift_mm: float
    turn_deg: float
    error_mm: float
    published_mm: float
    seconds: float


class Pairs:
    """How far apart pairs of contrasts were published, each measured once.

    Args:
        farthest_mm: Of a pair that can be a ground truth.
    """

    def __init__(self, farthest_mm: float = MAX_PUBLISHED_MM) -> None:
        self.farthest_mm = farthest_mm
        self.apart: dict[tuple[str, str, str], float] = {}

    def measure(self, case: Case, fixed: Scan, moving: Scan, names: Sequence[str]) -> float:
        """Distance in mm, from memory if it is there."""
        key = (case.id, *sorted(names))
        if key not in self.apart:
            self.apart[key] = published_mm(fixed, moving)
        return self.apart[key]

    @property
    def left_out(self) -> dict[tuple[str, str, str], float]:
        """The pairs that were drawn and are too far apart."""
        return {key: mm for key, mm in self.apart.items() if mm > self.farthest_mm}


def known_moves(data: Path, count: int, pairs: Pairs, *, seed: int = 0) -> Iterator[Move]:
    """Draw moves of pairs that lie well, undo them by registration, and measure.

    A refusal has an infinite error.

    Raises:
        ValueError: Hardly any pair lies well enough.
    """
    cases = [c for c in find_cases(data, DEFAULT_MODALITIES) if on_one_grid(c)]
    rng = np.random.default_rng(seed)
    drawn = 0
    while count:
        drawn += 1
        if drawn > 40 and len(pairs.left_out) == len(pairs.apart):
            raise ValueError(f"no pair in {data} was published within {pairs.farthest_mm} mm")
        case = cases[rng.integers(len(cases))]
        names = [str(n) for n in rng.permutation(list(case.files))[:2]]
        fixed, still = (read_scan(case.files[name]) for name in names)
        head = np.argwhere(foreground(fixed.data, fixed.spacing))[::97]
        points = fixed.affine @ np.c_[head, np.ones(len(head))].T
        truth = random_move(points[:3].mean(axis=1), rng)
        apart = pairs.measure(case, fixed, still, names)
        if apart > pairs.farthest_mm:
            continue
        count -= 1
        # the scan lies where the inverse move looks it up: registration has to find the move
        moving = resample(still, still.shape, still.affine, truth.inverse)
        began = time.perf_counter()
        try:
            found = register_rigid(moving, fixed).matrix
            error = np.linalg.norm(((found - truth.matrix) @ points)[:3], axis=0).mean()
        except ScanError:
            error = np.inf
        seconds = time.perf_counter() - began
        moved = np.linalg.norm(((truth.matrix - np.eye(4)) @ points)[:3], axis=0).mean()
        yield Move(case.id, *names, float(moved), truth.turn_deg, float(error), apart, seconds)


def on_one_grid(case: Case) -> bool:
    """Whether a case has several contrasts, all on one grid: registered already."""
    images = [nib.load(path) for path in case.files.values()]
    return len(images) > 1 and all(
        image.shape == images[0].shape and np.allclose(image.affine, images[0].affine, atol=1e-3)
        for image in images
    )


def published_mm(fixed: Scan, moving: Scan) -> float:
    """How far two scans on one grid are apart along its axes, by their gradients alone.

    The squared cosine between gradients (Haber and Modersitzki 2006), damped where there are none,
    averaged inside the head for shifts by whole voxels; the peak of a parabola through the best.
    """
    inside = ndimage.binary_erosion(foreground(fixed.data, fixed.spacing), iterations=4)

    def directions(scan: Scan) -> np.ndarray:
        gradient = np.stack(np.gradient(ndimage.gaussian_filter(scan.data, 1.0)))
        length = np.sqrt((gradient**2).sum(axis=0))
        return gradient / np.maximum(length + length[inside].mean(), 1e-9)

    still, other = directions(fixed), directions(moving)
    apart = []
    for axis, spacing in enumerate(fixed.spacing):
        rolled = (np.roll(other, shift, axis=axis + 1) for shift in (-2, -1, 0, 1, 2))
        values = [float(((still * r).sum(axis=0) ** 2)[inside].mean()) for r in rolled]
        best = int(np.clip(np.argmax(values), 1, 3))
        left, middle, right = values[best - 1 : best + 2]
        peak = 0.5 * (left - right) / (left - 2 * middle + right)
        apart.append((best - 2 + peak) * spacing)
    return float(np.linalg.norm(apart))


def random_move(centre: np.ndarray, rng: np.random.Generator) -> RigidTransform:
    """A turn about the centre and a shift, each in a uniform direction and of uniform size."""
    axis, way = rng.normal(size=(2, 3))
    angle = np.radians(rng.uniform(0, MAX_TURN_DEG))
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    shift = rng.uniform(0, MAX_SHIFT_MM) * way / np.linalg.norm(way)
    matrix[:3, 3] = shift + centre - matrix[:3, :3] @ centre
    return RigidTransform(matrix)


def main() -> None:
    """Print each move and the shares within 1 and 2 mm."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registration")
    parser.add_argument("--data", type=Path, required=True, help="folder of registered cases")
    parser.add_argument("--moves", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--farthest", type=float, default=MAX_PUBLISHED_MM, help="of pairs as published, mm"
    )
    options = parser.parse_args()
    print("case | fixed | moving | moved mm | turned deg | error mm | published apart mm | seconds")
    moves, pairs = [], Pairs(options.farthest)
    for move in known_moves(options.data, options.moves, pairs, seed=options.seed):
        moves.append(move)
        print(
            f"{move.case} | {move.fixed} | {move.moving} | {move.shift_mm:.1f} | "
            f"{move.turn_deg:.1f} | {move.error_mm:.3f} | {move.published_mm:.2f} | "
            f"{move.seconds:.1f}",
            flush=True,
        )
    print(summary(moves))
    for (case, one, other), apart in pairs.left_out.items():
        print(f"left out: {case}, {one} and {other} were published {apart:.2f} mm apart")


def summary(moves: Sequence[Move]) -> str:
    """One line about the errors of some moves."""
    errors = np.array([move.error_mm for move in moves])
    return (
        f"{len(errors)} moves, {np.mean(errors < 1):.0%} within 1 mm, "
        f"{np.mean(errors < 2):.0%} within 2 mm, median {np.median(errors):.3f} mm, "
        f"largest {errors.max():.3f} mm"
    )


if __name__ == "__main__":
    main()
