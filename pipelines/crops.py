"""Crops of volumes on disk: where to look, how to vary it, and reading it in one interpolation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

BACKGROUND = -1.0
MARGIN = 4  #: voxels of background that the networks see around the head
TRIES = 8


@dataclass(frozen=True)
class View:
    """A box in a volume: its centre in voxels, its size, and the way it is turned.

    Voxel ``o`` of the crop shows ``centre + matrix @ (o - (size - 1) / 2)``; without a matrix the
    box lies on the grid and nothing is interpolated. ``flips`` mirror the crop afterwards.
    """

    centre: tuple[float, float, float]
    size: tuple[int, int, int]
    matrix: np.ndarray | None = None
    flips: tuple[bool, bool, bool] = (False, False, False)


@dataclass(frozen=True)
class Augmentation:
    """How much training crops vary; the defaults are for adult brains in RAS.

    Args:
        flip_probability: Chance of mirroring each axis (RAS: the first is left-right).
        affine_probability: Chance of a rotation and scaling (the one costly step: a trilinear
            interpolation).
        rotation_degrees: Largest rotation about each axis.
        scale: Smallest and largest zoom.
        jitter_probability: Chance of changing the source's intensities (the target keeps its own).
        gamma: Smallest and largest exponent on intensities in [0, 1].
        bias: Largest coefficient of the smooth multiplicative field exp(linear + quadratic) along
            each axis.
    """

    flip_probability: Sequence[float] = (0.5, 0.0, 0.0)
    affine_probability: float = 0.3
    rotation_degrees: float = 10.0
    scale: Sequence[float] = (0.9, 1.1)
    jitter_probability: float = 0.5
    gamma: Sequence[float] = (0.8, 1.25)
    bias: float = 0.1

    def turn(self, view: View, rng: np.random.Generator) -> View:
        """Draw flips and, sometimes, a rotation and zoom for a view."""
        flips = tuple(bool(flip) for flip in rng.random(3) < np.asarray(self.flip_probability))
        matrix = None
        if rng.random() < self.affine_probability:
            angles = np.deg2rad(rng.uniform(-self.rotation_degrees, self.rotation_degrees, 3))
            smallest, largest = self.scale
            matrix = rotation(angles) / rng.uniform(smallest, largest)
        return View(view.centre, view.size, matrix, flips)  # type: ignore[arg-type]

    def jitter(self, volume: Float[Tensor, "1 x y z"], rng: np.random.Generator) -> Tensor:
        """Draw a gamma and a smooth bias field, sometimes; background stays background."""
        if rng.random() >= self.jitter_probability:
            return volume
        gamma = np.exp(rng.uniform(*np.log(self.gamma)))
        unit = (volume - BACKGROUND) / 2
        unit = unit.clamp_(min=0).pow_(float(gamma))
        for axis, (slope, bend) in enumerate(rng.uniform(-self.bias, self.bias, (3, 2)), start=1):
            place = torch.linspace(-1, 1, volume.shape[axis])
            shape = [1] * volume.ndim
            shape[axis] = -1
            unit *= (slope * place + bend * (place.square() - 1 / 3)).exp().reshape(shape)
        return unit.clamp_(max=1).mul_(2).add_(BACKGROUND)


def rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation by three angles (radians) about the first, second and third axis, in this order."""
    total = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        total = turn @ total
    return total


def view_at(corner: Sequence[int], size: Sequence[int]) -> View:
    """The box on the grid whose first voxel is ``corner``."""
    centre = tuple(
        float(start + (length - 1) / 2) for start, length in zip(corner, size, strict=True)
    )
    return View(centre, tuple(int(length) for length in size))  # type: ignore[arg-type]


def random_view(
    mask: np.ndarray, size: Sequence[int], min_foreground: float, rng: np.random.Generator
) -> View:
    """A random box centred on the foreground.

    Args:
        mask: Foreground (x, y, z), not empty.
        size: Of the box; it may exceed the volume, which is then centred in it.
        min_foreground: Wanted share of foreground; the best of eight draws if none reaches it.
        rng: Draws the place.
    """
    shape = np.asarray(mask.shape)
    best, best_share = None, -1.0
    for _ in range(TRIES):
        middle = random_foreground(mask, rng)
        corner = np.where(
            shape > size,
            np.clip(middle - np.asarray(size) // 2, 0, np.maximum(shape - size, 0)),
            (shape - size) // 2,
        )
        inside = tuple(slice(max(c, 0), c + s) for c, s in zip(corner, size, strict=True))
        share = np.count_nonzero(mask[inside]) / np.prod(size)
        if share > best_share:
            best, best_share = corner, share
        if share >= min_foreground:
            break
    assert best is not None
    return view_at([int(start) for start in best], size)


def random_foreground(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random foreground voxel, found by trying; the middle if a thousand tries meet none."""
    for _ in range(1000):
        place = rng.integers(0, mask.shape)
        if mask[tuple(place)]:
            return place
    return np.asarray(mask.shape) // 2


def middle_slices(mask: np.ndarray, count: int) -> np.ndarray:
    """The foreground (x, y, z) within so many axial slices about its middle one."""
    present = np.flatnonzero(mask.any(axis=(0, 1)))
    first = max((int(present[0]) + int(present[-1]) + 1 - count) // 2, 0)
    kept = np.zeros_like(mask)
    kept[:, :, first : first + count] = mask[:, :, first : first + count]
    return kept


def whole_view(
    mask: np.ndarray, multiple: int, margin: int = MARGIN, *, least: Sequence[int] = ()
) -> View:
    """The foreground's bounding box with a margin, grown at both ends to a multiple on every axis.

    Args:
        mask: Foreground (x, y, z), not empty.
        multiple: Of every side, the autoencoder's downsampling.
        margin: Voxels of background kept around the foreground.
        least: Smallest size; none by default.
    """
    corner, size = [], []
    for axis in range(3):
        present = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        low, high = int(present[0]) - margin, int(present[-1]) + 1 + margin
        wanted = max(high - low, least[axis] if least else 0)
        wanted += -wanted % multiple
        corner.append(low - (wanted - (high - low)) // 2)
        size.append(wanted)
    return view_at(corner, size)


def read_box(volume: np.ndarray, corner: Sequence[int], size: Sequence[int]) -> Tensor:
    """Float32 voxels of a box that may leave the volume; there is background outside."""
    box = torch.full(tuple(size), BACKGROUND)
    inside = [
        (max(c, 0), min(c + s, n)) for c, s, n in zip(corner, size, volume.shape, strict=True)
    ]
    if all(low < high for low, high in inside):
        part = np.asarray(volume[tuple(slice(low, high) for low, high in inside)], dtype=np.float32)
        into = tuple(
            slice(low - c, high - c) for (low, high), c in zip(inside, corner, strict=True)
        )
        box[into] = torch.from_numpy(part)
    return box


def read_view(volumes: Sequence[np.ndarray], view: View) -> Float[Tensor, "n x y z"]:
    """Show volumes of one grid in a view, all in the same way.

    Args:
        volumes: Each (x, y, z), intensities in [-1, 1], any floating dtype (memory-mapped is fine).
        view: Where to look.

    Returns:
        Float32 in [-1, 1]; trilinear where the view is turned, background outside the volume.
    """
    size, centre = np.asarray(view.size), np.asarray(view.centre)
    half = (size - 1) / 2
    if view.matrix is None:
        corner = [int(start) for start in np.round(centre - half)]
        crop = torch.stack([read_box(volume, corner, view.size) for volume in volumes])
    else:
        reach = np.abs(view.matrix) @ half
        low = np.floor(centre - reach).astype(int)
        block_size = np.ceil(centre + reach).astype(int) - low + 2
        block = torch.stack(
            [read_box(volume, low.tolist(), block_size.tolist()) for volume in volumes]
        )
        # affine_grid works in [-1, 1] on both sides and names the last axis first
        scale = 2 / (block_size - 1)
        theta = np.concatenate(
            [scale[:, None] * view.matrix * half, ((centre - low) * scale - 1)[:, None]], axis=1
        )
        theta = np.concatenate([theta[::-1, 2::-1], theta[::-1, 3:]], axis=1)
        grid = F.affine_grid(
            torch.from_numpy(np.ascontiguousarray(theta)).float()[None],
            [1, 1, *view.size],
            align_corners=True,
        )
        crop = F.grid_sample(
            block[None], grid, mode="bilinear", padding_mode="border", align_corners=True
        )[0]
    axes = [axis + 1 for axis, flip in enumerate(view.flips) if flip]
    return crop.flip(axes) if axes else crop
