"""Cases preprocessed once, into arrays on disk that are mapped, never loaded whole."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voxlate.data_prep import NoInputError, Preprocessing, ScanError
from voxlate.data_prep.cases import Case
from voxlate.data_prep.contrasts import read_contrast

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedCase:
    """One session's contrasts on one grid: float16 ``.npy`` files, mapped, never loaded whole.

    Args:
        case_id: Name of the case.
        volumes: Modality to file (x, y, z), intensities in [-1, 1].
        mask: File of the foreground (bool): inside the head in any contrast.
    """

    case_id: str
    volumes: Mapping[str, Path]
    mask: Path

    def volume(self, modality: str) -> np.ndarray:
        """The volume of a contrast, memory-mapped."""
        return np.load(self.volumes[modality], mmap_mode="r")

    def foreground(self) -> np.ndarray:
        """The foreground, memory-mapped."""
        return np.load(self.mask, mmap_mode="r")


def prepare_cases(
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    cache_dir: str | os.PathLike[str],
) -> list[PreparedCase]:
    """Preprocess cases into a cache folder, each once: what is there already is used.

    A case is found again by its files (path, size and time of change) and the preprocessing. One
    that cannot be prepared (its contrasts lie on different grids, a file is damaged) is left out,
    with a warning.

    Args:
        cases: Such as ``find_cases`` gives; the scans of a case lie on one grid.
        preprocessing: Of the model.
        cache_dir: Where the arrays go; about 10 MB a scan at the default size.

    Raises:
        NoInputError: Cases were given and none is left.
    """
    prepared = []
    for case in cases:
        try:
            prepared.append(prepare_case(case, preprocessing, Path(cache_dir)))
        except ScanError as error:
            logger.warning(f"case {case.id} is left out: {error}")
    if cases and not prepared:
        raise NoInputError(
            f"none of {len(cases)} cases can be used", "see the warnings before", code="E_NO_CASES"
        )
    return prepared


def prepare_case(case: Case, preprocessing: Preprocessing, cache_dir: Path) -> PreparedCase:
    """Preprocess one case, or find it in the cache; see ``prepare_cases``.

    Raises:
        ScanError: A scan cannot be used.
    """
    facts: list[Any] = ["1", repr(preprocessing)]
    for modality, file in sorted(case.files.items()):
        found = Path(file).resolve()
        stat = found.stat()
        facts.append([modality, str(found), stat.st_size, stat.st_mtime_ns])
    folder = cache_dir / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
    if not folder.is_dir():
        read = {name: read_contrast(file, name) for name, file in case.files.items()}
        plan = preprocessing.plan(*read.values())
        building = cache_dir / f".{folder.name}.{os.getpid()}.tmp"
        building.mkdir(parents=True)
        try:
            mask = np.zeros(plan.shape, dtype=bool)
            for modality, scan in read.items():
                volume = preprocessing.apply(scan, plan)
                mask |= volume.foreground[0].numpy()
                np.save(building / f"{modality}.npy", volume.volume[0].numpy().astype(np.float16))
            np.save(building / "foreground.npy", mask)
            building.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    volumes = {modality: folder / f"{modality}.npy" for modality in case.files}
    return PreparedCase(case.id, volumes, folder / "foreground.npy")


def pair(
    source: Tensor,
    target: Tensor,
    source_index: int,
    target_index: int,
    count: int,
    case: PreparedCase,
) -> dict[str, Any]:
    """A sample of two contrasts as the prior wants it."""
    return {
        "source": source,
        "target": target,
        "source_index": source_index,
        "target_index": target_index,
        "available": torch.arange(count) == source_index,
        "case": case.case_id,
    }
