"""Label maps from disk, on whatever grid they lie."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from . import nifti
from .errors import ScanError
from .reading import Scan
from .voxel_census import Census


def read_labels(path: str | os.PathLike[str]) -> Scan:
    """Read a mask or label map with its values and its grid.

    Raises:
        ScanError: The file is damaged, or its values are not whole numbers.
    """
    found = read_voxels(path)
    if not np.array_equal(found.data, np.rint(found.data)):
        raise ScanError(
            "not a label map: its values are not whole numbers",
            "give the mask, not the image",
            code="E_LABELS",
            file=found.path,
        )
    return found


def read_voxels(path: str | os.PathLike[str]) -> Scan:
    """Read an undamaged volume, whatever its voxels say.

    Raises:
        ScanError: The file is damaged.
    """
    path = Path(path)
    with nifti.NiftiFile(path) as file:
        return Scan(
            path=path,
            data=file.voxels(_accept),
            affine=file.affine,
            header=file.header,
            dtype=file.dtype,
            warnings=file.warnings,
            sha256=file.sha256,
        )


def _accept(_: Census) -> None:
    """A mask may be empty, and a stripped image may be anything."""
