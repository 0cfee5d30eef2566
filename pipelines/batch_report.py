"""``voxlate report``: an output folder as pages that open from disk, without a network."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

import voxlate
from voxlate.data_prep import (
    NoInputError,
    OutputError,
    Overrides,
    Scan,
    VoxlateError,
    read_scan,
)
from voxlate.data_prep.atomic_file import write_atomically
from voxlate.data_prep.contrasts import read_contrast
from voxlate.data_prep.rigid_transform import RigidTransform, resample

from .batch import listed, options_from, saved_run
from .batch_report_cases import ReportCase, find_report_cases
from .batch_report_pages import TEMPLATES, case_page, index_page
from .batch_report_table import NAME as TABLE
from .batch_report_table import cases_csv
from .bundle import bundle_facts
from .manifest import inputs_of
from .qc_picture import percentile_window
from .viewer_volumes import FloatArray, Shown, write_volumes

logger = logging.getLogger(__name__)

FOLDER = "report"
ASSETS = ("report.css", "report.js", "viewer.js", "niivue.js", "NIIVUE_LICENSES.txt")
GENERATOR = b'<meta name="generator" content="voxlate report">'
OWN = re.compile(r".*-[0-9a-f]{10}\.(html|js)")


def make_report(output: Path, *, volumes: bool = True, spacing: float = 1.0) -> Path:
    """Write ``report/`` into an output folder: an overview, and a page for each case.

    The overview and the pages come first; the volumes that the pages show follow, the worst case's
    first. What an earlier report has of a case that did not change since is kept.

    Args:
        output: Output folder of a batch, or of a translation.
        volumes: Whether the pages show volumes.
        spacing: Voxels of these that are shorter, in mm, are averaged.

    Returns:
        The overview's file.

    Raises:
        NoInputError: There is no such folder, or no case in it.
        OutputError: The report cannot be written.
    """
    if not output.is_dir():
        raise NoInputError(
            "no such folder",
            "name the output folder of 'voxlate batch'",
            code="E_PATH",
            file=output,
        )
    cases = find_report_cases(output)
    folder = _folder(output)
    for name in ASSETS:
        _write(folder / "assets" / name, (TEMPLATES / name).read_bytes())
    for case in cases:
        page = case_page(case, spacing=spacing if volumes else None)
        _write(folder / "cases" / f"{case.key}.html", page)
    title = f"Translations in {output.resolve().name}"
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    _write(folder / TABLE, cases_csv(cases))
    _write(folder / "index.html", index_page(cases, title, now))
    shown = {case.key for case in cases if volumes and case.targets and case.status != "damaged"}
    _forget(folder / "cases", {case.key for case in cases}, shown)
    if shown:
        _show_volumes(output, folder, [case for case in cases if case.key in shown], spacing)
    return folder / "index.html"


def _folder(output: Path) -> Path:
    """The report's folder, within the output folder and nobody else's.

    Raises:
        OutputError: It cannot be made, leads elsewhere, or has another overview in it.
    """
    folder = output / FOLDER
    try:
        for part in (folder, folder / "assets", folder / "cases"):
            if part.is_symlink():
                raise _refusal("is a link to another place", part)
            part.mkdir(exist_ok=True)
        index = folder / "index.html"
        if index.exists() and GENERATOR not in index.read_bytes()[:1000]:
            raise _refusal("is there, and is no report of voxlate's", index)
    except OSError as error:
        raise _refusal(f"cannot be written ({error.strerror or error})", folder) from error
    return folder


def _refusal(what: str, path: Path) -> OutputError:
    return OutputError(
        what, "move it away, or check the folder's permissions", code="E_OUTPUT", file=path
    )


def _write(path: Path, content: bytes) -> None:
    """Write what is not there yet: on a slow disk the library alone takes seconds."""
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    with write_atomically(path) as file:
        file.write(content)


def _forget(folder: Path, pages: set[str], scripts: set[str]) -> None:
    """Delete what an earlier report has of cases that are not there any more."""
    for path in folder.iterdir():
        kept = scripts if path.suffix == ".js" else pages
        if OWN.fullmatch(path.name) and path.stem not in kept:
            path.unlink(missing_ok=True)


def _show_volumes(output: Path, folder: Path, cases: Sequence[ReportCase], spacing: float) -> None:
    sources = _source_scans(output)
    for count, case in enumerate(cases, 1):
        path = folder / "cases" / f"{case.key}.js"
        given = sources.get(case.place, {})
        stamp = _stamp(case, given, spacing)
        if not (path.is_file() and _first_line(path) == f"// {stamp}"):
            shown, notes = _volumes(output, case, given)
            with write_atomically(path) as file:
                write_volumes(file, shown, notes, spacing=spacing, stamp=stamp)
        if count % 20 == 0 or count == len(cases):
            logger.info(f"report: volumes of {count} of {len(cases)} cases")


def _source_scans(output: Path) -> dict[str, dict[str, str]]:
    """Where the batch has its scans from, by place of the record and modality."""
    try:
        options = options_from(saved_run(output)["options"])
        jobs = listed(options, bundle_facts(options.bundle)).jobs
    except (VoxlateError, KeyError, TypeError, OSError):
        return {}
    return {job.files.record: job.inputs for job in jobs}


def _stamp(case: ReportCase, given: Mapping[str, str], spacing: float) -> str:
    """Another for whatever changes what is shown."""
    shown = {**case.record["Outputs"], **_deviations(case)}
    outputs = {name: entry.get("SHA256") for name, entry in shown.items()}
    there = [name for name, path in given.items() if Path(path).is_file()]
    parts = [voxlate.__version__, spacing, inputs_of(case.record), outputs, there]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(200).decode("ascii", "replace").strip()


def _deviations(case: ReportCase) -> dict[str, Mapping[str, str]]:
    """Files of the samples' standard deviations, by what their panes are called."""
    entries = case.record.get("Deviations") or {}
    return {f"{target} SD": entry for target, entry in entries.items()}


def _volumes(
    output: Path, case: ReportCase, given: Mapping[str, str]
) -> tuple[list[Shown], list[str]]:
    """Scans, translations and deviations, each in its window, and what has to be said of them."""
    shown, notes = [], []
    scans: dict[str, Scan] = {}
    vouched = Overrides(**case.record["Options"].get("Overrides", {}))
    ours = replace(vouched, content=True, volume=None)  # a flat deviation is no label map
    for entry in [case.record["Input"], *case.record.get("OtherInputs", [])]:
        name = entry["Modality"]
        try:
            scan = _scan_of(entry, given, scans, vouched)
        except (KeyError, VoxlateError, OSError):
            notes.append(f"{name} is not shown: it cannot be read where the batch had it from.")
            continue
        if scan is None:
            notes.append(f"{name} is not shown: its file is another than when it was translated.")
            continue
        scans[name] = scan
        shown.append(Shown(f"{name} (scan)", percentile_window(scan.data), scan.affine))
    folder = (output / case.place).parent
    for name, entry in {**case.record["Outputs"], **_deviations(case)}.items():
        try:
            made = read_scan(folder / PurePosixPath(entry["File"]).name, overrides=ours)
        except VoxlateError as error:
            notes.append(f"{name} is not shown: {error.what}.")
            continue
        target = name.removesuffix(" SD")
        line = case.record["Intensity"].get(target, {})
        if target == name:
            shown.append(Shown(f"{name} (synthetic)", _windowed(made, line), made.affine))
        else:
            window, white = _spread(made, line)
            shown.append(Shown(f"{name} (white: {white:.3f} of the window)", window, made.affine))
    return shown, notes


def _scan_of(
    entry: Mapping[str, Any],
    given: Mapping[str, str],
    earlier: Mapping[str, Scan],
    overrides: Overrides,
) -> Scan | None:
    """What was given, laid over the first scan where that was done; None if it changed since.

    Raises:
        KeyError: The batch does not list it any more, or the first scan is not there.
        ScanError: It cannot be read.
    """
    scan = read_contrast(given[entry["Modality"]], entry["Modality"], overrides)
    if scan.sha256 != entry["SHA256"]:
        return None
    registered = entry.get("Registered")
    if registered is None:
        return scan
    if not earlier:
        raise KeyError(entry["Modality"])
    fixed = next(iter(earlier.values()))
    move = RigidTransform(np.asarray(registered["MatrixRASMM"], np.float64))
    return resample(scan, fixed.shape, fixed.affine, move, background=float(scan.data.min()))


def _windowed(made: Scan, line: Mapping[str, float]) -> FloatArray:
    """Back from the scale of the files to the networks' window, [0, 1]."""
    slope, intercept = line.get("Slope", 1.0), line.get("Intercept", 0.0)
    values = (made.data - intercept) / (slope or 1.0)
    return values.clip(0, 1).astype("float32")


def _spread(made: Scan, line: Mapping[str, float]) -> tuple[FloatArray, float]:
    """A deviation from 0 to the 99.5th percentile of what is above 0; and that, of the window."""
    values = made.data / (line.get("Slope", 1.0) or 1.0)
    above = values[values > 0]
    white = float(np.percentile(above, 99.5)) if above.size else 1.0
    return (values / white).clip(0, 1).astype("float32"), white
