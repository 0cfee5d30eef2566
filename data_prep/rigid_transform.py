"""A rigid move between two scans, and a scan resampled through it onto another grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from .reading import Affine, FloatArray, Scan

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  #: RAS mm to ITK's LPS mm, and back
ANTI_ALIAS = 1.25  #: a grid coarser than the scan by more than this factor is smoothed for first


@dataclass(frozen=True)
class RigidTransform:
    """Rotation and translation that take a point of the fixed scan to the moving scan.

    That is the direction in which a scan is resampled: for every voxel of the fixed grid, where to
    look in the moving scan.

    Attributes:
        matrix: 4x4, mm RAS+ of the fixed scan to mm RAS+ of the moving scan.
        information: Mutual information at the end of the registration, nats; 0 if none was run.
        overlap: Share of the smaller head that lies in the other one; 1 if none was run.
    """

    matrix: Affine
    information: float = 0.0
    overlap: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is not a rigid move."""
        turn = self.matrix[:3, :3]
        if self.matrix.shape != (4, 4) or not np.allclose(turn @ turn.T, np.eye(3), atol=1e-6):
            raise ValueError(f"not a rigid transform: {self.matrix.tolist()}")

    @property
    def inverse(self) -> RigidTransform:
        """The way from the moving scan to the fixed one."""
        return replace(self, matrix=np.linalg.inv(self.matrix).astype(np.float64))

    @property
    def shift_mm(self) -> float:
        """Length of the translation part, mm."""
        return float(np.linalg.norm(self.matrix[:3, 3]))

    @property
    def turn_deg(self) -> float:
        """Angle of the rotation part, degrees."""
        cosine = (np.trace(self.matrix[:3, :3]) - 1) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    def itk_text(self) -> str:
        """The transform as ITK writes it (LPS mm), for ANTs, Slicer and SimpleITK."""
        matrix = LPS @ self.matrix @ LPS
        numbers = [*matrix[:3, :3].ravel(), *matrix[:3, 3]]
        parameters = " ".join(repr(float(n)) for n in numbers)
        return (
            "#Insight Transform File V1.0\n#Transform 0\n"
            "Transform: AffineTransform_double_3_3\n"
            f"Parameters: {parameters}\nFixedParameters: 0 0 0\n"
        )


def resample(
    scan: Scan,
    shape: Sequence[int],
    affine: Affine,
    transform: RigidTransform | None = None,
    *,
    labels: bool = False,
    background: float = 0.0,
) -> Scan:
    """Look a scan up at the voxels of another grid, in one interpolation.

    Images by cubic B-splines, kept within the scan's own limits (a spline overshoots at edges), and
    smoothed first along axes on which the grid is much coarser; labels by the nearest voxel.

    Args:
        scan: What to resample.
        shape: Voxels of the grid.
        affine: Voxel indices of the grid to mm RAS+.
        transform: From the grid's space to the scan's; None where they are one.
        labels: Take the nearest voxel.
        background: Value outside the scan.
    """
    matrix = np.eye(4) if transform is None else transform.matrix
    image = to_image(scan.data, scan.affine)
    if not labels:
        image = _smoothed(image, matrix @ affine)
    move = sitk.AffineTransform(3)
    lps = LPS @ matrix @ LPS
    move.SetMatrix(lps[:3, :3].ravel().tolist())
    move.SetTranslation(lps[:3, 3].tolist())
    grid = to_image(np.zeros((1, 1, 1), dtype=np.float32), affine)
    found = sitk.Resample(
        image,
        [int(n) for n in shape],
        move,
        sitk.sitkNearestNeighbor if labels else sitk.sitkBSpline,
        grid.GetOrigin(),
        grid.GetSpacing(),
        grid.GetDirection(),
        float(background),
        sitk.sitkFloat32,
    )
    data = np.ascontiguousarray(sitk.GetArrayFromImage(found).T)
    low, high = float(scan.data.min()), float(scan.data.max())
    data = data.clip(min(low, background), max(high, background))
    header = nib.Nifti1Header()
    header.set_data_shape(data.shape)
    header.set_sform(affine, code=int(scan.header["sform_code"]) or 1)
    header.set_qform(affine, code=int(scan.header["sform_code"]) or 1, strip_shears=True)
    header.set_xyzt_units("mm")
    return replace(scan, data=data, affine=np.array(affine, dtype=np.float64), header=header)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let ITK work in one thread, so that sums are made in one order; cases run in parallel."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def to_image(data: npt.NDArray[np.generic], affine: Affine) -> sitk.Image:
    """A volume as SimpleITK sees it: the same voxels, LPS mm."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T, dtype=np.float32))
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def to_array(image: sitk.Image) -> FloatArray:
    """The voxels (X, Y, Z) of an image."""
    return np.ascontiguousarray(sitk.GetArrayFromImage(image).T, dtype=np.float32)


def _smoothed(image: sitk.Image, grid: Affine) -> sitk.Image:
    """Take from an image the detail that a coarser grid cannot hold."""
    own = np.array(image.GetDirection()).reshape(3, 3)
    steps = np.abs(own.T @ (LPS @ grid)[:3, :3])  # the grid's steps along the image's axes, mm
    for axis, spacing in enumerate(image.GetSpacing()):
        step = float(steps[axis].max())
        if step > ANTI_ALIAS * spacing:
            smooth = sitk.RecursiveGaussianImageFilter()
            smooth.SetDirection(axis)
            smooth.SetSigma(0.5 * float(np.sqrt(step**2 - spacing**2)))
            image = smooth.Execute(image)
    return image
