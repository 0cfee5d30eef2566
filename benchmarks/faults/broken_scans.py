"""Ten files that no translation can be made of, as they turn up in archives."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
SHAPE = (64, 72, 60)

#: Name of the file to the code of its refusal; None where it is passed over.
VERDICTS: dict[str, str | None] = {
    "constant.nii.gz": "E_CONSTANT",
    "directory.nii.gz": None,
    "empty.nii.gz": "E_EMPTY",
    "fifo.nii.gz": "E_PATH",
    "four_d.nii.gz": "E_4D",
    "label_map.nii.gz": "E_LABELMAP",
    "not_finite.nii.gz": "E_NONFINITE",
    "rgb.nii.gz": "E_RGB",
    "text.nii.gz": "E_NOT_NIFTI",
    "truncated.nii.gz": "E_TRUNCATED",
}


def write_broken(folder: Path, scan: Path) -> None:
    """Write them all.

    Args:
        folder: Made; must be absent.
        scan: A whole ``.nii.gz`` file to spoil.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 900, SHAPE).astype(np.int16)
    arrays: dict[str, np.ndarray] = {
        "constant.nii.gz": np.full(SHAPE, 100, np.int16),
        "four_d.nii.gz": np.stack([values] * 3, axis=-1),
        "label_map.nii.gz": (values // 200).astype(np.uint8),
        "not_finite.nii.gz": np.where(values > 450, np.nan, values).astype(np.float32),
        "rgb.nii.gz": np.stack([values] * 3, -1).astype("u1").view(RGB)[..., 0],
    }
    for name, array in arrays.items():
        image = nib.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0]))
        image.set_sform(image.affine, 1)
        image.to_filename(folder / name)
    makers: dict[str, Callable[[Path], object]] = {
        "directory.nii.gz": Path.mkdir,
        "empty.nii.gz": Path.touch,
        "fifo.nii.gz": os.mkfifo,
        "text.nii.gz": lambda path: path.write_bytes(gzip.compress(b"no scan, a letter. " * 99)),
        "truncated.nii.gz": lambda path: path.write_bytes(
            scan.read_bytes()[: scan.stat().st_size // 2]
        ),
    }
    for name, make in makers.items():
        make(folder / name)
