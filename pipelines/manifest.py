"""Records of finished cases: which run they belong to, and whether their files are as recorded.

A case is finished when, and only when, its record says so and every file it names is there with the
size and the checksum it gives. Names and dates of files mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from voxlate.data_prep import OutputError, Overrides
from voxlate.data_prep.overrides import NONE

from .checkpoint import sha256_of

SCHEMA = "voxlate-case/1"
STATE_FOLDER = ".voxlate"


def fingerprint(
    *,
    weights: str,
    configuration: str,
    seed: int,
    steps: int,
    scale: str = "unit",
    stored_as: str = "float32",
    further: Mapping[str, Any] | None = None,
) -> str:
    """SHA-256 of all that decides a voxel: results with different ones never share a folder.

    Args:
        weights: SHA-256 of the weights file.
        configuration: SHA-256 of the network's configuration.
        seed: The user's seed.
        steps: Denoising steps.
        scale: Identity of the intensity scale.
        stored_as: Voxel type of the files.
        further: See ``further_options``.
    """
    parts: dict[str, Any] = {
        "weights": weights,
        "configuration": configuration,
        "seed": int(seed),
        "steps": int(steps),
        "scale": scale,
        "stored_as": stored_as,
        **(further or {}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def further_options(
    *, samples: int | None = None, register: bool = False, overrides: Overrides = NONE
) -> dict[str, Any]:
    """What else decides a voxel, where it is not the default: older records stay good.

    Args:
        samples: Of which the results are the mean.
        register: Whether contrasts that lie elsewhere were laid over the first.
        overrides: What the user vouched for.
    """
    vouched = asdict(overrides)
    vouched = {name: value for name, value in vouched.items() if value != getattr(NONE, name)}
    return {
        **({} if samples is None else {"samples": samples}),
        **({"register": "rigid"} if register else {}),
        **({"overrides": vouched} if vouched else {}),
    }


def inputs_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Checksum by modality of what a record's results were made from."""
    entries = [record["Input"], *record.get("OtherInputs", ())]
    return {entry["Modality"]: entry["SHA256"] for entry in entries}


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the record of a finished case.

    Raises:
        OutputError: There is a file of that name, but it is no such record.
        FileNotFoundError: There is none.
    """
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or record.get("Schema") != SCHEMA:
        raise OutputError(
            "a file is there that is no record of a finished case",
            "delete it, add --overwrite or name another folder",
            code="E_EXISTS",
            file=path,
        )
    return record


def difference(record: Mapping[str, Any], folder: Path, *, full: bool = True) -> str | None:
    """What is not as the record says, or None.

    Args:
        record: As read.
        folder: Where it lies, and the files it names.
        full: Compare checksums; else sizes alone, which a changed byte escapes.
    """
    entries = [*record["Outputs"].values(), *record.get("Deviations", {}).values()]
    if record.get("Picture"):
        entries.append(record["Picture"])
    for entry in entries:
        path = folder / entry["File"]
        try:
            size = path.stat().st_size
            if size != entry["Bytes"]:
                return f"{path.name} has {size} bytes, its record says {entry['Bytes']}"
            if full and sha256_of(path) != entry["SHA256"]:
                return f"the content of {path.name} is not what its record says"
        except FileNotFoundError:
            return f"{path.name} is gone"
        except OSError as error:
            return f"{path.name} cannot be read ({error.strerror})"
    return None


def find_manifests(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every record of a finished case below a folder, in a fixed order."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".json") and not name.startswith("."):
                try:
                    yield Path(folder, name), read_manifest(Path(folder, name))
                except (OutputError, FileNotFoundError):
                    continue
