"""Volumes for a viewer in a page that may load nothing: small 8-bit NIfTI files within a script."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import BinaryIO, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt

from voxlate.data_prep.intensity import block_means

FloatArray = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

LEVELS = 255


class Shown(NamedTuple):
    """A volume to show.

    Attributes:
        name: Above it.
        volume: Intensities in [0, 1] (X, Y, Z); what is beyond is clipped.
        affine: Voxel indices to mm, RAS+.
    """

    name: str
    volume: FloatArray
    affine: Affine


def write_volumes(
    file: BinaryIO, shown: Sequence[Shown], notes: Sequence[str], *, spacing: float, stamp: str
) -> None:
    """Write the script that hands volumes to the page that includes it.

    A page opened from disk may include scripts beside it, but read no other files.

    Args:
        file: Open for writing bytes.
        shown: In the order in which they appear.
        notes: What the page says about them.
        spacing: Voxels shorter than this, in mm, are averaged.
        stamp: For the first line, one line of text.
    """
    file.write(f"// {stamp}\n".encode())
    content = [{"name": name, **packed(v, affine, spacing)} for name, v, affine in shown]
    # Within a script file no end tag can break out, and JSON is JavaScript since 2019.
    for name, value in (("Notes", list(notes)), ("Volumes", content)):
        file.write(f"window.voxlate{name} = {json.dumps(value)};\n".encode("ascii"))


def packed(volume: FloatArray, affine: Affine, spacing: float) -> Mapping[str, str]:
    """A volume as base64 of a gzipped NIfTI-1 with 8-bit voxels.

    0 to 1 become 0 to 255. Blocks of voxels are averaged so that none is much shorter than
    ``spacing``; the affine of the result puts every block where its voxels were.
    """
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    blocks = [max(1, round(spacing / float(size))) for size in sizes]
    coarse = block_means(volume, blocks)
    moved = np.asarray(affine, np.float64).copy()
    moved[:3, 3] += affine[:3, :3] @ ((np.array(blocks) - 1) / 2)
    moved[:3, :3] = affine[:3, :3] * np.array(blocks)
    levels = np.rint(coarse.clip(0, 1) * LEVELS).astype(np.uint8)
    image = nib.Nifti1Image(levels, moved)
    image.header.set_xyzt_units("mm")
    data = gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
    return {"nifti": base64.b64encode(data).decode("ascii")}
