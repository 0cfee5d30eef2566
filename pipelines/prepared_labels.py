"""Lesion maps of training cases on the model's grid, prepared once."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from voxlate.data_prep import Preprocessing, ScanError
from voxlate.data_prep.cases import Case
from voxlate.data_prep.contrasts import read_contrast
from voxlate.data_prep.labels import read_labels

logger = logging.getLogger(__name__)


def prepare_labels(
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    cache_dir: str | os.PathLike[str],
    classes: Mapping[str, Sequence[int]],
) -> dict[str, Path]:
    """Bring the cases' lesion maps to the grid of their prepared volumes, each once.

    Args:
        cases: Those without a lesion map are passed over.
        preprocessing: As for ``prepare_cases``.
        cache_dir: Where the arrays go, uint8 (k, x, y, z) of 0 and 1.
        classes: Each class's name and the values in the map that belong to it; classes may overlap
            (BraTS: ``{"whole": [1, 2, 4], "core": [1, 4], "enhancing": [4]}``).

    Returns:
        Case id to file. A case whose map cannot be used is left out, with a warning.
    """
    found = {}
    for case in cases:
        if "lesion" not in case.masks:
            continue
        try:
            found[case.id] = _prepare(case, preprocessing, Path(cache_dir), classes)
        except ScanError as error:
            logger.warning(f"case {case.id} counts as unlabelled: {error}")
    return found


def _prepare(
    case: Case, preprocessing: Preprocessing, cache_dir: Path, classes: Mapping[str, Sequence[int]]
) -> Path:
    facts: list[object] = [
        "labels 1",
        repr(preprocessing),
        {k: list(v) for k, v in classes.items()},
    ]
    for name, file in sorted([*case.files.items(), ("lesion", case.masks["lesion"])]):
        stat = Path(file).resolve().stat()
        facts.append([name, str(Path(file).resolve()), stat.st_size, stat.st_mtime_ns])
    path = cache_dir / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}.npy"
    if path.is_file():
        return path
    scans = [read_contrast(file, name) for name, file in case.files.items()]
    plan = preprocessing.plan(*scans)
    labels = read_labels(case.masks["lesion"])
    if not plan.fits(labels.shape, labels.affine):
        raise ScanError(
            f"the lesion map (shape {labels.shape}) is not on the scans' grid {scans[0].shape}",
            "resample it to the scans",
            code="E_GRID",
            file=labels.path,
        )
    masks = [preprocessing.apply_mask(np.isin(labels.data, v), plan) for v in classes.values()]
    cache_dir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp.npy")
    np.save(temporary, np.concatenate([mask.numpy() for mask in masks]).astype(np.uint8))
    os.replace(temporary, path)
    return path
