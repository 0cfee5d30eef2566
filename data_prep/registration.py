"""Rigid registration: where the head of one scan lies in another scan of the same person.

Mattes' mutual information on a pyramid of smoothed, nearly isotropic grids. The coarsest level is
tried from many starts (what the headers say, matched grid centres, matched centres of the heads,
each turned a little); the best few go on. The last level looks at the inside of the head alone:
scalp fat is shifted along the readout by as much as its frequency differs, otherwise in every
contrast, and pulled the result by half a millimetre. The answer is judged before it is given.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from .errors import ScanError, printable
from .intensity import BoolArray, foreground
from .reading import Affine, FloatArray, Scan
from .rigid_transform import LPS, RigidTransform, one_thread, resample, to_array, to_image

COARSEST_MM, MIDDLE_MM, FINEST_MM = 8.0, (4.0, 2.0), 1.0
JUDGED_MM = 2.0
SAMPLES = 60_000  #: voxels in which a level compares the scans
START_TURNS = (-12.0, 0.0, 12.0)  #: degrees about each axis
KEPT_STARTS = 4
SCALP_MM = 10.0  #: left out at the end
MARGIN_MM = 8.0  #: around the head that is compared before
MIN_OVERLAP = 0.6  #: of the smaller head with the other
MIN_INFORMATION = 0.08  #: nats inside the head; scans of nothing in common have 0.01 to 0.03
PROBE_MM, PROBE_DEG = 6.0, 6.0  #: moves that must make the agreement worse


@dataclass(frozen=True)
class _Head:
    """A scan as the metric wants it: outliers clipped, where the head is, and its centre (LPS)."""

    image: sitk.Image
    mask: sitk.Image
    centre: list[float]
    middle: list[float]


def register_rigid(moving: Scan, fixed: Scan, *, seed: int = 0) -> RigidTransform:
    """Find the rigid move that lays one scan of a person over another, of any contrast.

    The same scans and seed give the same transform, on any number of cores.

    Args:
        moving: The scan to be laid over the other.
        fixed: The scan that stays.
        seed: Of the voxels in which the two are compared.

    Returns:
        The transform from ``fixed`` to ``moving``, for ``resample``.

    Raises:
        ScanError: No position was found in which the heads overlap and agree.
    """
    with one_thread():  # sums in one order: the same answer everywhere
        return _register(moving, fixed, seed)


def misalignment_mm(moving: Scan, fixed: Scan, *, seed: int = 0) -> float:
    """Mean distance in mm by which the inside of the head would move to agree better.

    A quick search from where the headers say that the scans are, good to about half a millimetre.
    Contrasts that were registered give less than a voxel.

    Returns:
        Infinity where the scans do not overlap.
    """
    with one_thread():
        a, b = _head(fixed), _head(moving)
        found = sitk.Euler3DTransform(a.centre, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
        for level in MIDDLE_MM:
            images = _at(a.image, level), _at(b.image, level)
            value, found = _descend(*images, _inside(_at(a.mask, level)), found, level, seed)
            if value == float("inf"):
                return value
    inside = np.argwhere(to_array(_at(a.mask, COARSEST_MM)) > 0.5)
    grid = _at(a.mask, COARSEST_MM)
    points = np.array([grid.TransformIndexToPhysicalPoint(i.tolist()) for i in inside])
    moved = np.array([found.TransformPoint(p.tolist()) for p in points])
    return float(np.linalg.norm(moved - points, axis=1).mean())


def _register(moving: Scan, fixed: Scan, seed: int) -> RigidTransform:
    a, b = _head(fixed), _head(moving)
    candidates = [start for _, start in _starts(a, b, seed)[:KEPT_STARTS]]
    for level in (COARSEST_MM, *MIDDLE_MM):
        images = _at(a.image, level), _at(b.image, level)
        mask = _grown(_at(a.mask, level), MARGIN_MM)
        found = [_descend(*images, mask, start, level, seed) for start in candidates]
        found.sort(key=lambda pair: pair[0])
        candidates = [t for _, t in found[: 2 if level == COARSEST_MM else 1]]
    images = _at(a.image, FINEST_MM), _at(b.image, FINEST_MM)
    mask = _inside(_at(a.mask, FINEST_MM))
    method = _method(mask, seed)
    method.SetOptimizerAsPowell(
        numberOfIterations=6, stepLength=0.5, stepTolerance=5e-3, valueTolerance=1e-5
    )
    best = _run(method, *images, candidates[0], fixed, moving)
    images = _at(a.image, JUDGED_MM), _at(b.image, JUDGED_MM)
    method = _method(_inside(_at(a.mask, JUDGED_MM)), seed)
    information = -_value(method, *images, best)
    answer = RigidTransform(_matrix(best), information, _overlap(fixed, moving, _matrix(best)))
    _judge(answer, _probes(method, *images, best), fixed, moving)
    return answer


def _head(scan: Scan) -> _Head:
    inside = foreground(scan.data, scan.spacing)
    low, high = np.percentile(scan.data[inside], (0.5, 99.5))
    values = np.clip(scan.data, min(low, scan.data.min()), high)
    centre = np.argwhere(inside).mean(axis=0)
    middle = (np.array(scan.shape) - 1) / 2
    to_lps = LPS @ scan.affine
    return _Head(
        to_image(values, scan.affine),
        to_image(inside, scan.affine),
        (to_lps @ [*centre, 1])[:3].tolist(),
        (to_lps @ [*middle, 1])[:3].tolist(),
    )


def _starts(a: _Head, b: _Head, seed: int) -> list[tuple[float, sitk.Euler3DTransform]]:
    """Score every start at the coarsest level, the best first."""
    shifts = [
        np.zeros(3),
        np.subtract(b.centre, a.centre),
        np.subtract(b.middle, a.middle),
    ]
    images = _at(a.image, COARSEST_MM), _at(b.image, COARSEST_MM)
    method = _method(_grown(_at(a.mask, COARSEST_MM), MARGIN_MM), seed)
    scored = []
    for shift, turn in itertools.product(shifts, itertools.product(START_TURNS, repeat=3)):
        angles = np.radians(turn).tolist()
        start = sitk.Euler3DTransform(a.centre, *angles, shift.tolist())
        scored.append((_value(method, *images, start), start))
    return sorted(scored, key=lambda pair: pair[0])


def _at(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """The image at a coarser voxel size; an axis that is coarser already stays as it is."""
    spacing = np.array(image.GetSpacing())
    wanted = np.maximum(spacing, spacing_mm)
    for axis in np.flatnonzero(wanted > 1.01 * spacing):
        smooth = sitk.RecursiveGaussianImageFilter()
        smooth.SetDirection(int(axis))
        smooth.SetSigma(0.5 * spacing_mm)
        image = smooth.Execute(image)
    size = np.maximum(1, np.round(np.array(image.GetSize()) * spacing / wanted)).astype(int)
    middle = ((np.array(image.GetSize()) - 1) / 2).tolist()
    direction = np.array(image.GetDirection()).reshape(3, 3)
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint(middle))
    origin = centre - direction @ ((size - 1) / 2 * wanted)
    return sitk.Resample(
        image,
        size.tolist(),
        sitk.Transform(),
        sitk.sitkLinear,
        origin.tolist(),
        wanted.tolist(),
        image.GetDirection(),
        0.0,
        sitk.sitkFloat32,
    )


def _grown(mask: sitk.Image, margin_mm: float) -> sitk.Image:
    radius = [max(1, round(margin_mm / s)) for s in mask.GetSpacing()]
    return sitk.BinaryDilate(mask > 0.3, radius)


def _inside(mask: sitk.Image) -> sitk.Image:
    """The head without its outermost centimetre; all of it where little would be left."""
    head = mask > 0.5
    radius = [max(1, round(SCALP_MM / s)) for s in mask.GetSpacing()]
    padded = sitk.ConstantPad(head, radius, radius, 1)  # a head that is cut off has no scalp there
    inner = sitk.Crop(sitk.BinaryErode(padded, radius), radius, radius)
    enough = to_array(inner).sum() > 0.2 * to_array(head).sum()
    return inner if enough else head


def _method(mask: sitk.Image, seed: int) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    inside = max(1.0, float(to_array(mask).sum()))
    method.SetMetricAsMattesMutualInformation(24 if inside < SAMPLES else 32)
    method.SetMetricFixedMask(mask)
    if inside > SAMPLES:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(SAMPLES / inside, seed + 1)  # 0 would be the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _descend(
    fixed: sitk.Image,
    moving: sitk.Image,
    mask: sitk.Image,
    start: sitk.Euler3DTransform,
    level_mm: float,
    seed: int,
) -> tuple[float, sitk.Euler3DTransform]:
    """Gradient descent from a start; (infinity, start) where the scans lose each other."""
    method = _method(mask, seed)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=level_mm / 2,
        minStep=level_mm / 400,
        numberOfIterations=100,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetInitialTransform(start, inPlace=False)
    try:
        found = _euler(method.Execute(fixed, moving))
    except RuntimeError:
        return float("inf"), start
    return method.GetMetricValue(), found


def _run(
    method: sitk.ImageRegistrationMethod,
    fixed: sitk.Image,
    moving: sitk.Image,
    start: sitk.Euler3DTransform,
    fixed_scan: Scan,
    moving_scan: Scan,
) -> sitk.Euler3DTransform:
    method.SetInitialTransform(start, inPlace=False)
    try:
        return _euler(method.Execute(fixed, moving))
    except RuntimeError:
        raise _refusal("the two scans do not overlap", fixed_scan, moving_scan) from None


def _euler(found: sitk.Transform) -> sitk.Euler3DTransform:
    if isinstance(found, sitk.CompositeTransform):
        found = found.GetBackTransform()
    return sitk.Euler3DTransform(found)


def _value(
    method: sitk.ImageRegistrationMethod,
    fixed: sitk.Image,
    moving: sitk.Image,
    transform: sitk.Euler3DTransform,
) -> float:
    """The metric at a transform (smaller is better); infinity where the scans do not meet."""
    method.SetInitialTransform(transform, inPlace=False)
    try:
        return float(method.MetricEvaluate(fixed, moving))
    except RuntimeError:
        return float("inf")


def _matrix(transform: sitk.Euler3DTransform) -> Affine:
    """Fixed mm RAS to moving mm RAS."""
    turn = np.array(transform.GetMatrix()).reshape(3, 3)
    centre = np.array(transform.GetCenter())
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - turn @ centre
    return LPS @ matrix @ LPS


def _probes(
    method: sitk.ImageRegistrationMethod,
    fixed: sitk.Image,
    moving: sitk.Image,
    best: sitk.Euler3DTransform,
) -> list[float]:
    """Mutual information after moves to either side along and about each axis."""
    steps = [np.radians(PROBE_DEG)] * 3 + [PROBE_MM] * 3
    values = []
    for index, sign in itertools.product(range(6), (-1, 1)):
        moved = sitk.Euler3DTransform(best)
        parameters = list(best.GetParameters())
        parameters[index] += sign * steps[index]
        moved.SetParameters(parameters)
        values.append(-_value(method, fixed, moving, moved))
    return values


def _overlap(fixed: Scan, moving: Scan, matrix: Affine) -> float:
    """Share of the smaller head that lies in the other, on the fixed grid."""
    head: BoolArray = foreground(fixed.data, fixed.spacing)
    other = foreground(moving.data, moving.spacing).astype(np.float32)
    mask = Scan(moving.path, other, moving.affine, moving.header, moving.dtype)
    there: FloatArray = resample(
        mask, fixed.shape, fixed.affine, RigidTransform(matrix), labels=True
    ).data
    volumes = [float(np.prod(scan.spacing)) for scan in (fixed, moving)]
    both = float((head & (there > 0.5)).sum()) * volumes[0]
    smaller = min(float(head.sum()) * volumes[0], float(other.sum()) * volumes[1])
    return both / max(smaller, 1e-9)


def _judge(answer: RigidTransform, probes: list[float], fixed: Scan, moving: Scan) -> None:
    if answer.overlap < MIN_OVERLAP:
        share = f"only {answer.overlap:.0%} of the smaller head lies in the other"
        raise _refusal(share, fixed, moving)
    if answer.information < MIN_INFORMATION:
        amount = f"they share {answer.information:.3f} nats, at least {MIN_INFORMATION} is wanted"
        raise _refusal(amount, fixed, moving)
    if max(probes) >= answer.information:
        raise _refusal("moving the result makes the scans agree better", fixed, moving)


def _refusal(reason: str, fixed: Scan, moving: Scan) -> ScanError:
    return ScanError(
        f"cannot be registered to {printable(fixed.path.name)}: {reason}",
        "check that both show the same head, register them yourself, or leave this scan out",
        code="E_REGISTRATION",
        file=moving.path,
    )
