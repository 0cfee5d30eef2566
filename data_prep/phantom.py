"""A brain that never lived: registered contrasts computed from tissues through MR signal equations.

Anatomy is drawn in an adult's millimetres (a brain of 140 x 176 x 132 mm) and shrunk where the
grid is smaller: a cortex folded along the zero sheets of a smooth random field, white matter,
ventricles, deep grey nuclei and lesions. Each voxel mixes the signals of the tissues in it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .reading import scan_from_array
from .writing import write_scan

FloatArray = npt.NDArray[np.float32]

LABELS = {"csf": 1, "grey": 2, "white": 3, "deep_grey": 4, "lesion": 5, "bone": 6, "scalp": 7}
BRAIN_MM = (70.0, 88.0, 66.0)  #: semi-axes: right, anterior, superior
FULL_SIGNAL = 4000.0  #: scanner units of a proton density of 1 without any decay


class Tissue(NamedTuple):
    """Relaxation times in ms and proton density relative to water, at 3 T."""

    t1: float
    t2: float
    density: float


#: White and grey matter from Wansapura et al. 1999; the others are typical of their kind.
TISSUES = {
    "csf": Tissue(4300, 1500, 1.00),
    "grey": Tissue(1331, 110, 0.83),
    "white": Tissue(832, 80, 0.70),
    "deep_grey": Tissue(1150, 88, 0.78),
    "lesion": Tissue(1500, 170, 0.90),
    "bone": Tissue(1000, 5, 0.15),
    "scalp": Tissue(420, 95, 0.80),
}
RELAXIVITY = 4.5e-3  #: of a gadolinium agent, 1 / (ms mM)
CONCENTRATION = 0.2  #: mM of the agent in an enhancing lesion


@dataclass(frozen=True)
class Phantom:
    """Registered contrasts of one phantom.

    Attributes:
        volumes: Modality to intensities (X, Y, Z), axes right, anterior, superior.
        labels: Index into ``LABELS``, 0 is air.
        affine: Voxel indices to mm, the origin in the middle.
    """

    volumes: Mapping[str, FloatArray]
    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


def spin_echo(tissue: Tissue, *, tr: float, te: float) -> float:
    """Signal of a spin echo: density (1 - exp(-TR/T1)) exp(-TE/T2); times in ms."""
    return tissue.density * (1 - math.exp(-tr / tissue.t1)) * math.exp(-te / tissue.t2)


def inversion_recovery(tissue: Tissue, *, tr: float, te: float, ti: float) -> float:
    """Magnitude after inversion: density |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)."""
    recovered = 1 - 2 * math.exp(-ti / tissue.t1) + math.exp(-tr / tissue.t1)
    return tissue.density * abs(recovered) * math.exp(-te / tissue.t2)


def null_time(t1: float, *, tr: float) -> float:
    """Inversion time at which a tissue gives no signal: T1 ln(2 / (1 + exp(-TR/T1)))."""
    return t1 * math.log(2 / (1 + math.exp(-tr / t1)))


def signal(tissue: Tissue, modality: str) -> float:
    """Signal of a tissue in a contrast, as a share of unit density.

    Raises:
        KeyError: The phantom has no sequence for the modality.
    """
    csf_nulled = null_time(TISSUES["csf"].t1, tr=9000)
    sequences = {
        "t1": lambda: inversion_recovery(tissue, tr=2300, te=3, ti=900),
        "t1ce": lambda: inversion_recovery(tissue, tr=2300, te=3, ti=900),
        "t2": lambda: spin_echo(tissue, tr=4000, te=90),
        "flair": lambda: inversion_recovery(tissue, tr=9000, te=120, ti=csf_nulled),
        "pd": lambda: spin_echo(tissue, tr=4000, te=15),
    }
    return sequences[modality]()


def make_phantom(
    shape: Sequence[int] = (96, 112, 88),
    *,
    seed: int,
    spacing: float | Sequence[float] = 1.0,
    lesions: int = 3,
    modalities: Sequence[str] = ("t1", "t1ce", "t2", "flair"),
    noise: float = 0.01,
    skull: bool = False,
) -> Phantom:
    """Make one phantom; the seed decides anatomy, lesions and noise.

    Args:
        shape: Voxels along right, anterior, superior.
        seed: Equal seeds give equal phantoms.
        spacing: Voxel size in mm.
        lesions: Number of lesions in the white matter; every second one takes up contrast agent.
        modalities: Contrasts to make.
        noise: Standard deviation of the Rician noise, as a share of the brightest tissue.
        skull: Add bone, scalp and noisy air; otherwise the air around the brain is exactly 0.
    """
    rng = np.random.default_rng(seed)
    sizes = np.broadcast_to(np.asarray(spacing, dtype=np.float64), 3)
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = -sizes * (np.asarray(shape) - 1) / 2
    room = 0.80 if skull else 0.94
    half = sizes * np.asarray(shape) / 2
    scale = min(1.0, room * float((half / BRAIN_MM).min()))
    axes = [
        (np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(s / scale)
        for n, s in zip(shape, sizes, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    blur = float(np.mean(sizes)) / scale / 2
    shares, enhancing = _anatomy(x, y, z, rng, blur=blur, lesions=lesions, skull=skull)
    names = list(shares)
    stacked = np.stack([shares[name] for name in names])
    inside = stacked.sum(axis=0) > 0.5
    codes = np.array([LABELS[name] for name in names], dtype=np.uint8)
    labels = np.where(inside, codes[stacked.argmax(axis=0)], 0).astype(np.uint8)
    volumes = {}
    for modality, stream in zip(modalities, rng.spawn(len(modalities)), strict=True):
        clean = sum(shares[n] * np.float32(signal(TISSUES[n], modality)) for n in names)
        if modality == "t1ce":
            plain = TISSUES["lesion"]
            with_agent = plain._replace(t1=1 / (1 / plain.t1 + RELAXIVITY * CONCENTRATION))
            gain = signal(with_agent, modality) - signal(plain, modality)
            clean = clean + enhancing * np.float32(gain)
        tilt = stream.uniform(-0.06, 0.06, size=3)
        bias = 1 + sum(t * np.sin(c / 60) for t, c in zip(tilt, (x, y, z), strict=True))
        clean = np.asarray(clean * bias, dtype=np.float32)
        spread = noise * float(np.quantile(clean[inside], 0.99))
        draws = stream.standard_normal((2, *clean.shape), dtype=np.float32) * np.float32(spread)
        measured = np.hypot(clean + draws[0], draws[1])  # magnitude of a complex signal: Rician
        volumes[modality] = (
            measured * np.float32(FULL_SIGNAL) * (True if skull else inside)
        ).astype(np.float32)
    return Phantom(volumes, labels, affine)


def write_phantom_case(
    folder: str | os.PathLike[str],
    shape: Sequence[int] = (96, 112, 88),
    *,
    seed: int,
    spacing: float | Sequence[float] = 1.0,
    lesions: int = 3,
    modalities: Sequence[str] = ("t1", "t1ce", "t2", "flair"),
) -> Path:
    """Write ``<folder>/<modality>.nii.gz`` and ``<folder>/lesion.nii.gz``; return the folder.

    Raises:
        OutputError: The folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    phantom = make_phantom(
        shape, seed=seed, spacing=spacing, lesions=lesions, modalities=modalities
    )
    first = next(iter(phantom.volumes.values()))
    like = scan_from_array(first, phantom.affine, name="phantom", min_voxels=1, min_extent_mm=0)
    for modality, volume in phantom.volumes.items():
        path = folder / f"{modality}.nii.gz"
        write_scan(path, volume, like, description="voxlate phantom")
    mask = phantom.labels == LABELS["lesion"]
    write_scan(folder / "lesion.nii.gz", mask, like, description="voxlate phantom lesions")
    return folder


def _anatomy(
    x: FloatArray,
    y: FloatArray,
    z: FloatArray,
    rng: np.random.Generator,
    *,
    blur: float,
    lesions: int,
    skull: bool,
) -> tuple[dict[str, FloatArray], FloatArray]:
    """Share of each tissue in each voxel, and the share of enhancing lesion.

    Every tissue is where a depth in mm is positive, softened over half a voxel; what is drawn
    later replaces what lies below it.
    """

    def soft(depth: FloatArray) -> FloatArray:
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-2 * depth / np.float32(blur))), dtype=np.float32)

    a, b, c = (axis * rng.uniform(0.96, 1.0) for axis in BRAIN_MM)
    radius = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    depth = ((1 - radius) * c).astype(np.float32)  # mm below the convex surface, about
    turns = rng.uniform(0, 2 * np.pi, size=3)
    floor = 15 + 5 * np.sin(x / 14 + turns[0]) * np.sin(y / 15 + turns[1]) * np.sin(
        z / 12 + turns[2]
    )
    sulcus = np.maximum(_distance_to_sheets(x, y, z, rng) - 0.9, depth - floor)
    fissure = np.maximum(np.abs(x) - 1.2, depth - np.where(z > -15, 30, 14))
    pial = np.minimum(depth - 1.5, np.minimum(sulcus, fissure)).astype(np.float32)
    brain = soft(depth)
    shares = {"csf": brain.copy()}

    def draw(name: str, share: FloatArray) -> None:
        for other in shares.values():
            other *= 1 - share
        shares[name] = shares.get(name, np.zeros_like(share)) + share

    draw("grey", soft(pial) * brain)
    draw("white", soft(pial - 2.8))
    swell = rng.uniform(0.85, 1.25)
    side = np.abs(x)
    draw("deep_grey", soft(_ellipsoid(side, y, z, (25, 4, 2), (6, 14, 9))))
    draw("deep_grey", soft(_ellipsoid(side, y, z, (9, -9, 2), (7, 12, 8))))
    bend = side - 9 - 0.006 * (y + 5) ** 2 * (y < -5)
    horns = _ellipsoid(bend, y, z - 14 + 0.004 * y**2, (0, -4, 0), (6 * swell, 36, 7 * swell))
    draw("deep_grey", soft(_ellipsoid(side, y, z, (15, 16, 10), (4, 12, 6))))
    draw("csf", soft(horns))
    draw("csf", soft(_ellipsoid(x, y, z, (0, -6, -2), (2.2 * swell, 13, 9))))
    enhancing = np.zeros_like(brain)
    for number in range(lesions):
        white = shares["white"].copy()
        sites = np.argwhere((white > 0.9) & (depth > 8))
        if len(sites) == 0:
            break
        i, j, k = sites[rng.integers(len(sites))]
        centre = (float(x[i, 0, 0]), float(y[0, j, 0]), float(z[0, 0, k]))
        share = soft(_ellipsoid(x, y, z, centre, tuple(rng.uniform(3.5, 8.0, size=3)))) * white
        draw("lesion", share)
        enhancing *= 1 - share
        if number % 2 == 0:
            enhancing += share
    if skull:
        bone = soft(depth + 8) * (1 - brain)
        scalp = soft(depth + 14) * (1 - soft(depth + 8))
        shares |= {"bone": bone, "scalp": scalp}
    return shares, enhancing


def _ellipsoid(
    x: FloatArray,
    y: FloatArray,
    z: FloatArray,
    centre: tuple[float, ...],
    size: tuple[float, ...],
) -> FloatArray:
    """Depth below the surface of an ellipsoid, about, in mm; negative outside."""
    parts = [((v - o) / s) ** 2 for v, o, s in zip((x, y, z), centre, size, strict=True)]
    radius = np.sqrt(parts[0] + parts[1] + parts[2])
    return np.asarray((1 - radius) * min(size), dtype=np.float32)


def _distance_to_sheets(
    x: FloatArray, y: FloatArray, z: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Distance in mm, about, to the zero sheets of a smooth random field: where sulci run."""
    field = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.float32)
    for _ in range(8):
        direction = rng.standard_normal(3)
        wave = 2 * np.pi / rng.uniform(22, 36) * direction / np.linalg.norm(direction)
        phase = rng.uniform(0, 2 * np.pi, size=2)
        warp = np.sin(x / rng.uniform(9, 14) + phase[1]) + np.sin(y / 11 + z / 13)
        field += np.sin(wave[0] * x + wave[1] * y + wave[2] * z + phase[0] + 0.8 * warp).astype(
            np.float32
        )
    slopes = np.gradient(field, x.ravel(), y.ravel(), z.ravel())
    steepness = np.sqrt(sum(slope**2 for slope in slopes) + np.float32(0.15**2))
    return np.asarray(np.abs(field) / steepness, dtype=np.float32)
