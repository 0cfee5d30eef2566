"""The files by which a BIDS derivative data set describes itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import voxlate
from voxlate.data_prep import write_atomically

from .manifest import inputs_of

DESCRIPTION = "dataset_description.json"
BIDS_VERSION = "1.9.0"
IGNORED = ("*_manifest.json", "*_qc.png", "failed*.csv", "logs/", "report/")


def is_bids(root: Path) -> bool:
    """Whether a folder says that it is a BIDS data set."""
    return (root / DESCRIPTION).is_file()


def write_dataset_files(output: Path, source: Path) -> None:
    """Write ``dataset_description.json`` and ``.bidsignore`` unless they are there.

    Args:
        output: The derivative data set.
        source: The data set that it derives from, linked as ``raw``.

    Raises:
        OutputError: They cannot be written.
    """
    raw = Path(os.path.relpath(source.resolve(), output.resolve())).as_posix()
    description = {
        "Name": "voxlate: synthetic contrasts, research use only",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "voxlate", "Version": voxlate.__version__}],
        "DatasetLinks": {"raw": raw},
    }
    contents = {
        DESCRIPTION: json.dumps(description, indent=2) + "\n",
        ".bidsignore": "\n".join(IGNORED) + "\n",
    }
    for name, text in contents.items():
        if not (output / name).exists():
            with write_atomically(output / name) as file:
                file.write(text.encode())


def sidecar(
    record: Mapping[str, Any], target: str, sources: Sequence[str], *, deviation: bool = False
) -> dict[str, Any]:
    """BIDS sidecar of one volume, from its case's record.

    Args:
        record: As ``describe`` gives it.
        target: Modality of the volume.
        sources: Paths of the scans it was made from, below their data set.
        deviation: Whether the volume is the samples' standard deviation.
    """
    given = ", ".join(inputs_of(record))
    count = record["Options"].get("Samples")
    what = target if count is None else f"mean of {count} samples of {target}"
    if deviation:
        what = f"standard deviation of {count} samples of {target}"
    return {
        "Synthetic": True,
        "Description": f"{what} made from {given} by voxlate",
        "Statement": record["Statement"],
        "Sources": [f"bids:raw:{source}" for source in sources],
        "SkullStripped": record["Input"]["SkullStripped"],
        "IntensityScale": record["IntensityScale"],
        "Scores": record["Scores"].get(target),
    }
