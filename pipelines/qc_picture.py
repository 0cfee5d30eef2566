"""The picture beside the files: three planes of what was given and of each translation."""

from collections.abc import Mapping
from typing import BinaryIO, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

FOOTER = (
    "Synthetic images, research use only: lesions can be lost or invented. "
    "Left is the patient's left."
)
INCHES = 2.6
DPI = 110
MARGIN = 8  # voxels around the head


class Plane(NamedTuple):
    """A cut: the RAS axis across it, those along the page, and what lies left and right."""

    name: str
    normal: int
    across: int
    up: int
    ends: tuple[str, str]


PLANES = (
    Plane("axial", 2, 0, 1, ("L", "R")),
    Plane("coronal", 1, 0, 2, ("L", "R")),
    Plane("sagittal", 0, 1, 2, ("P", "A")),
)


def draw_qc(
    file: BinaryIO,
    inputs: Mapping[str, FloatArray],
    targets: Mapping[str, FloatArray],
    affine: npt.NDArray[np.float64],
    *,
    title: str,
) -> None:
    """Draw axial, coronal and sagittal cuts through the middle of the head as PNG.

    Columns are what was given and each target, all from 0 (black) to 1 (white); inputs are first
    mapped there by their own 0.5th and 99.5th percentile, as the targets are by construction.
    Voxels keep their proportions; the display is neurological (left is left).

    Args:
        file: Open for writing bytes.
        inputs: By modality, intensities in any unit, (X, Y, Z); the first one's head is the frame.
        targets: Intensities in [0, 1] on the same grid.
        affine: Of that grid, voxel indices to mm, RAS+.
        title: One line above.
    """
    from matplotlib.figure import Figure  # heavy, and only needed here

    columns = {
        **{f"{name} (input)": percentile_window(volume) for name, volume in inputs.items()},
        **{f"{name} (synthetic)": volume for name, volume in targets.items()},
    }
    turned = {name: to_ras(volume, affine) for name, volume in columns.items()}
    spacing = ras_spacing(affine)
    around = head_box(next(iter(turned.values())))
    turned = {name: volume[around] for name, volume in turned.items()}
    first = next(iter(turned.values()))
    centre = head_centre(first)
    extent = [length * size for length, size in zip(first.shape, spacing, strict=True)]
    heights = [extent[plane.up] / extent[plane.across] for plane in PLANES]
    figure = Figure(
        figsize=(INCHES * len(turned), INCHES * sum(heights) + 0.9), facecolor="black", dpi=DPI
    )
    axes = figure.subplots(len(PLANES), len(turned), squeeze=False, height_ratios=heights)
    for row, plane in zip(axes, PLANES, strict=True):
        for axis, (name, volume) in zip(row, turned.items(), strict=True):
            cut = np.take(volume, centre[plane.normal], axis=plane.normal).T
            axis.imshow(
                cut,
                cmap="gray",
                vmin=0,
                vmax=1,
                origin="lower",
                extent=(0, extent[plane.across], 0, extent[plane.up]),
                interpolation="nearest",
            )
            axis.set_axis_off()
            for end, x in zip(plane.ends, (0.02, 0.98), strict=True):
                axis.text(
                    x,
                    0.5,
                    end,
                    color="gold",
                    fontsize=8,
                    transform=axis.transAxes,
                    ha="left" if x < 0.5 else "right",
                )
            if plane is PLANES[0]:
                axis.set_title(name, color="white", fontsize=10)
    figure.suptitle(title, color="white", fontsize=10)
    figure.text(0.5, 0.008, FOOTER, color="gold", fontsize=7, ha="center")
    figure.tight_layout(rect=(0, 0.03, 1, 0.98), pad=0.3)
    figure.savefig(file, format="png", facecolor="black")


def percentile_window(volume: FloatArray) -> FloatArray:
    """Map the 0.5th and 99.5th percentile of the voxels above the lowest to 0 and 1, and clip."""
    inside = volume[volume > volume.min()]
    low, high = np.percentile(inside if inside.size else volume, (0.5, 99.5))
    return ((volume - low) / max(high - low, 1e-6)).clip(0, 1).astype(np.float32)


def to_ras(volume: FloatArray, affine: npt.NDArray[np.float64]) -> FloatArray:
    """Flip and permute to the nearest right-anterior-superior axes."""
    return nib.orientations.apply_orientation(volume, nib.io_orientation(affine))


def ras_spacing(affine: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Voxel sizes in mm along the axes that ``to_ras`` gives."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    order = np.argsort(nib.io_orientation(affine)[:, 0])
    x, y, z = (float(sizes[axis]) for axis in order)
    return x, y, z


def head_box(volume: FloatArray) -> tuple[slice, ...]:
    """What is brighter than a twentieth of the window, and a margin around it."""
    bright = np.nonzero(volume > 0.05)
    if not bright[0].size:
        return tuple(slice(None) for _ in volume.shape)
    return tuple(
        slice(max(int(indices.min()) - MARGIN, 0), int(indices.max()) + MARGIN + 1)
        for indices in bright
    )


def head_centre(volume: FloatArray) -> tuple[int, int, int]:
    """Middle voxel, by median along each axis, of what is brighter than a tenth of the window."""
    bright = np.nonzero(volume > 0.1)
    if not bright[0].size:
        bright = np.nonzero(np.ones_like(volume))
    x, y, z = (int(np.median(indices)) for indices in bright)
    return x, y, z
