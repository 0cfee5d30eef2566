"""The two layouts for everyone's own data: BIDS, and a table of files."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from .errors import UsageError
from .layouts import MASKS, Layout, Listing, Protocol, folders_below, is_scan
from .modalities import ALIASES, guess_modality

_BIDS = re.compile(r"(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?_.*")
_BESIDE = ("sourcedata", "code", "derivatives")
_MODALITY_NAME = re.compile(r"[a-z][a-z0-9]*")
_ID = re.compile(r"\w[\w.-]*")
_OWN = ("id", "patient", "split", *MASKS)


def _find_bids(root: Path) -> Listing:
    """``sub-*/[ses-*/]anat/*_T1w.nii.gz``; of several runs the first; masks from derivatives."""
    found: dict[str, dict[str, Path]] = {}
    for folder in folders_below(root):
        parts = folder.relative_to(root).parts
        if folder.name != "anat":
            continue
        beside = parts[0] in _BESIDE
        for path in sorted(p for p in folder.iterdir() if is_scan(p)):
            if not (match := _BIDS.fullmatch(path.name)):
                continue
            mask = _bids_mask(path.name)
            kind = mask if beside or mask else guess_modality(path)
            if kind is not None:
                case_id = "_".join(part for part in match.groups() if part)
                found.setdefault(case_id, {}).setdefault(kind, path)
    patients = {case_id: case_id.split("_")[0] for case_id in found}
    return Listing({i: f for i, f in found.items() if set(f) - set(MASKS)}, patients=patients)


def _bids_mask(name: str) -> str | None:
    stem = name.split(".nii")[0].lower()
    if not stem.endswith(("_mask", "_dseg")):
        return None
    if "label-lesion" in stem or "desc-lesion" in stem:
        return "lesion"
    return "brainmask" if "desc-brain" in stem or "label-brain" in stem else None


def _find_table(root: Path) -> Listing:
    """One row for each case: ``id``, a column for each modality, and what else there is to say."""
    path = root if root.is_file() else root / "table.csv"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(
            f"cannot be read ({reason})",
            "give a CSV file, or the folder of table.csv",
            code="E_TABLE",
            file=path,
        ) from None
    first = text.partition("\n")[0]
    reader = csv.DictReader(text.splitlines(), delimiter=";" if ";" in first else ",")
    columns = [name.strip().lower() for name in reader.fieldnames or ()]
    modalities = [name for name in columns if name not in _OWN]
    wrong = [name for name in modalities if not _MODALITY_NAME.fullmatch(name)]
    if "id" not in columns or not modalities or wrong:
        what = f"column {wrong[0]!r} is no modality" if wrong else f"columns are {columns}"
        raise UsageError(
            what,
            "name the columns id, t1, t2, ... (and patient, split, lesion, brainmask)",
            code="E_TABLE",
            file=path,
        )
    return _rows(reader, columns, path)


def _rows(reader: csv.DictReader[str], columns: list[str], path: Path) -> Listing:
    found: dict[str, dict[str, Path]] = {}
    sides, patients = {}, {}
    for line, raw in enumerate(reader, start=2):
        row = {
            k: (raw[f] or "").strip() for k, f in zip(columns, reader.fieldnames or (), strict=True)
        }
        case_id = row["id"]
        if case_id in found or not _ID.fullmatch(case_id):
            reason = "is there twice" if case_id in found else "is not a plain name"
            raise UsageError(
                f"line {line}: the id {case_id!r} {reason}",
                "give every row an id of its own: letters, digits, _, - and .",
                code="E_TABLE",
                file=path,
            )
        side = row.get("split", "")
        if side and side not in ("training", "validation"):
            raise UsageError(
                f"line {line}: split is {side!r}",
                "write training or validation, or leave it empty in all rows",
                code="E_TABLE",
                file=path,
            )
        if side:
            sides[case_id] = side
        if row.get("patient"):
            patients[case_id] = row["patient"]
        files = {k: v for k, v in row.items() if v and k not in ("id", "patient", "split")}
        found[case_id] = {_spelled(k): path.parent / v for k, v in files.items()}
    return Listing(found, sides, patients)


def _spelled(column: str) -> str:
    """The project's name for a modality, by any of its names."""
    return next((name for name, others in ALIASES.items() if column in others), column)


YOUR_OWN = Protocol(
    modalities=(),
    source="none: your own data, at the size of the default bundle",
    register=True,
    spacing=(1.0, 1.0, 1.0),
    multiple_of=8,
)
BIDS = Layout(
    "bids",
    "a BIDS data set",
    "sub-01/[ses-1/]anat/sub-01_[ses-1_]T1w.nii.gz",
    _find_bids,
    YOUR_OWN,
)
TABLE = Layout(
    "table",
    "a table",
    "table.csv with the columns id, t1, t2, ... and paths relative to the table",
    _find_table,
    YOUR_OWN,
)
