import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxlate.data_prep import Phantom, Scan, make_phantom, scan_from_array

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # for scan_corpus, which is no test


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    return make_phantom((44, 52, 40), seed=3, spacing=3.0)


@pytest.fixture(scope="session")
def turned_scan(phantom: Phantom) -> Callable[..., Scan]:
    """Make a scan of the phantom, its axes permuted and flipped, its affine saying so."""

    def make(
        modality: str = "t1",
        order: tuple[int, int, int] = (0, 1, 2),
        flips: tuple[int, int, int] = (1, 1, 1),
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> Scan:
        image = nib.Nifti1Image(
            phantom.volumes[modality], np.diag([*spacing, 1.0]) + _offset(7.5, -3.25, 11.0)
        )
        turned = image.as_reoriented(np.array(list(zip(order, flips, strict=True))))
        data = np.asarray(turned.dataobj, dtype=np.float32)
        return scan_from_array(data, turned.affine, min_extent_mm=0)

    return make


def _offset(x: float, y: float, z: float) -> np.ndarray:
    affine = np.zeros((4, 4))
    affine[:3, 3] = x, y, z
    return affine


ORIENTATIONS = [
    (order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = ROOT / os.environ.get("VOXLATE_REAL_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder} (set VOXLATE_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def vectors() -> Path:
    folder = ROOT / os.environ.get("VOXLATE_VECTORS", "../shared/vectors")
    if not folder.is_dir():
        pytest.skip(f"no reference vectors at {folder} (set VOXLATE_VECTORS)")
    return folder
