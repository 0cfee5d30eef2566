"""What a batch works on: cases listed from a folder, a CSV file or a BIDS data set.

Listing reads names, not scans. A case that cannot be translated for a reason that its name or its
row tells is listed with its refusal; what makes the whole list doubtful (two cases with the same
outputs) is refused at once.
"""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from voxlate.data_prep import (
    NoInputError,
    UsageError,
    VoxlateError,
    find_cases,
    parse_modality,
)
from voxlate.data_prep.errors import printable

from .bids import is_bids
from .case_steps import stem
from .layouts import CaseFiles, bids_files, tree_files

Layout = Literal["auto", "tree", "bids"]
OTHER_FORMATS = {
    ".dcm": "dcm2niix",
    ".ima": "dcm2niix",
    ".mgz": "mri_convert",
    ".mgh": "mri_convert",
    ".mnc": "mnc2nii",
    ".nrrd": "a converter to NIfTI",
    ".mha": "a converter to NIfTI",
    ".mhd": "a converter to NIfTI",
    ".img": "a converter to NIfTI",
}
RESERVED = {"con", "prn", "aux", "nul", *(f"{n}{i}" for n in ("com", "lpt") for i in range(1, 10))}


class Refusal(NamedTuple):
    """Why a case cannot be translated: the fields of a ``VoxlateError``."""

    what: str
    todo: str
    code: str
    file: str | None = None


@dataclass(frozen=True)
class CaseJob:
    """One case of a batch: where its scan is, what is wanted, what the results are called.

    Attributes:
        id: Path of the results below the output folder, up to ``_<target>``; noise depends on it.
        source: Modality of the scan.
        scan: The file.
        targets: Wanted modalities, the source not among them.
        files: Names of the results.
        given: Every scan that the list has of this case, by modality.
        notes: What is to be said of it in its record, each ``W_CODE: text``.
        refusal: Why it cannot be translated, where that is known already.
        others: Further modalities that it is translated from, in the network's order.
    """

    id: str
    source: str
    scan: str
    targets: tuple[str, ...]
    files: CaseFiles
    given: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refusal: Refusal | None = None
    others: tuple[str, ...] = ()

    @property
    def inputs(self) -> dict[str, str]:
        """What it is translated from: modality to file, the source first."""
        return {self.source: self.scan, **{name: self.given[name] for name in self.others}}


class CaseList(NamedTuple):
    """Cases in the order of their ids, and what else is to be said about the input."""

    jobs: list[CaseJob]
    layout: Literal["tree", "bids"]
    notes: list[str]


class Wanted(NamedTuple):
    """What is wanted of every case.

    Attributes:
        sources: Modalities to translate from, the preferred one first; scans whose name does not
            tell their modality are taken for the first.
        targets: Modalities to make; one that is a case's source is left out there.
        named: Whether the targets were named; one that is left out is then noted.
        skip_present: Leave out targets that the case has a scan of.
        picture: Whether each case gets a picture.
        several: Whether the network takes all of the sources that a case has, not the first alone.
        deviations: Whether each result has its standard deviation beside it.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    named: bool = True
    skip_present: bool = False
    picture: bool = True
    several: bool = False
    deviations: bool = False


def wanted_of(
    modalities: Sequence[str],
    sources: Sequence[str] | None,
    targets: Sequence[str] | None,
    *,
    skip_present: bool = False,
    picture: bool = True,
    several: bool = False,
    deviations: bool = False,
) -> Wanted:
    """Check what was asked for against the modalities that a network knows; None means all.

    Raises:
        UsageError: A name is unknown, or the only source is the only target.
    """
    known_sources = dict.fromkeys(
        parse_modality(name, modalities) for name in sources or modalities
    )
    known_targets = dict.fromkeys(
        parse_modality(name, modalities) for name in targets or modalities
    )
    if list(known_sources) == list(known_targets) and len(known_sources) == 1:
        raise UsageError(
            f"the scans are {next(iter(known_sources))} already",
            "name another target",
            code="E_TARGET",
        )
    return Wanted(
        tuple(known_sources),
        tuple(known_targets),
        bool(targets),
        skip_present,
        picture,
        several,
        deviations,
    )


def list_jobs(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    modalities: Sequence[str],
    wanted: Wanted,
    *,
    pattern: str | None = None,
    layout: Layout = "auto",
) -> CaseList:
    """List the cases of a folder, a BIDS data set or a CSV file, in the order of their ids.

    Args:
        source: Folder or ``.csv`` file.
        output: Where results will go; what lies there is no input.
        modalities: Those of the network, in order.
        wanted: Of every case.
        pattern: Such as ``*_T1w.nii.gz`` or ``site_a/*``: only sources whose name or path below
            the folder matches.
        layout: ``tree``, ``bids``, or ``auto``: BIDS where the folder says that it is.

    Raises:
        NoInputError: There is nothing to work on.
        UsageError: Two cases would have the same outputs, or the output is the input.
    """
    path = Path(source)
    if path.suffix.lower() in (".csv", ".tsv"):
        from .case_table import table_jobs

        if pattern is not None:
            raise UsageError(
                "a list takes no pattern", "drop --pattern", code="E_PATTERN", file=path
            )
        jobs = table_jobs(path, modalities, wanted)
        return CaseList(without_clashes(jobs), "tree", _unused(jobs, wanted))
    if not path.is_dir():
        raise NoInputError(
            "no such folder or list", "name a folder or a .csv file", code="E_PATH", file=path
        )
    chosen: Literal["tree", "bids"] = (
        ("bids" if is_bids(path) else "tree") if layout == "auto" else layout
    )
    name_files = bids_files if chosen == "bids" else tree_files
    jobs = folder_jobs(path, output, modalities, wanted, name_files)
    unreadable, notes = _survey(path, Path(output))
    if chosen == "bids":
        jobs = [job for job in jobs if job.id.startswith("sub-") and "/anat/" in job.id]
    if pattern is not None:
        jobs = [job for job in jobs if _matches(job.scan, path, pattern)]
    if not jobs:
        raise NoInputError(
            f"no scan matches {pattern!r}" if pattern else "no anatomical scan of a subject",
            "check the folder and the pattern",
            code="E_NO_INPUT",
            file=path,
        )
    notes += _unused(jobs, wanted)
    return CaseList(without_clashes([*jobs, *unreadable]), chosen, notes)


def folder_jobs(
    root: Path,
    output: str | os.PathLike[str],
    modalities: Sequence[str],
    wanted: Wanted,
    name_files: Callable[..., CaseFiles] = tree_files,
) -> list[CaseJob]:
    """Cases below a folder; the id is the path of the source without its suffix.

    Raises:
        NoInputError: There is no scan.
        UsageError: The output folder is the input.
    """
    results = Path(output).resolve()
    if results == root.resolve():
        raise UsageError(
            "the results would lie among the scans",
            "name another output folder",
            code="E_OUTPUT",
            file=output,
        )
    jobs = []
    for case in find_cases(root, modalities, source=wanted.sources[0]):
        given = {
            name: path for name, path in case.files.items() if results not in path.resolve().parents
        }
        if given:
            jobs.append(make_job(given, root, wanted, name_files))
    return jobs


def make_job(
    given: dict[str, Path],
    root: Path,
    wanted: Wanted,
    name_files: Callable[..., CaseFiles] = tree_files,
    *,
    case_id: str | None = None,
    targets: Sequence[str] | None = None,
) -> CaseJob:
    """Choose what one case is translated from, and its targets.

    Args:
        given: Its scans by modality, in the network's order.
        root: Folder that ids and results are relative to.
        wanted: Of every case.
        name_files: ``tree_files`` or ``bids_files``.
        case_id: By default the source's path below ``root`` without suffix.
        targets: Of this case, instead of ``wanted.targets``.
    """
    present = [name for name in wanted.sources if name in given]
    if wanted.several:
        present = [name for name in given if name in wanted.sources]
    source = next(iter(present), None)
    used = present if wanted.several else present[:1]
    shown = next(iter(given.values())) if source is None else given[source]
    if case_id is None:
        case_id = (shown.parent.relative_to(root) / stem(shown)).as_posix()
    asked = tuple(wanted.targets if targets is None else targets)
    notes, left = [], []
    for target in asked:
        if target in used and not (targets or wanted.named):
            continue
        if target in used and wanted.several:
            notes.append(f"W_GIVEN: {target} is given, so it is not made")
        elif target == source:
            notes.append(f"W_SOURCE: {target} is the source and was not made")
        elif target in given and wanted.skip_present:
            notes.append(f"W_PRESENT: there is a scan of {target}, none was made")
        else:
            left.append(target)
    refusal = None
    if source is None:
        refusal = Refusal(
            f"no scan of {', '.join(wanted.sources)}, there is only {', '.join(given)}",
            "name another --source",
            "E_MISSING",
            printable(shown),
        )
    elif not left:
        refusal = Refusal(
            f"nothing to make: the case has {', '.join(asked)}",
            "name another target, fewer sources, or leave --skip-present out",
            "E_TARGET",
            printable(shown),
        )
    elif unusable := unusable_id(case_id):
        refusal = Refusal(unusable, "rename it", "E_NAME", printable(shown))
    return CaseJob(
        id=case_id,
        source=source or next(iter(given)),
        scan=os.fspath(shown),
        targets=tuple(left),
        files=name_files(case_id, left, picture=wanted.picture, deviations=wanted.deviations),
        given={name: os.fspath(path) for name, path in given.items()},
        notes=tuple(notes),
        refusal=refusal,
        others=tuple(used[1:]),
    )


def _unused(jobs: Sequence[CaseJob], wanted: Wanted) -> list[str]:
    """A line about cases with more contrasts than the network takes."""
    count = sum(len(job.given.keys() & set(wanted.sources)) > 1 for job in jobs)
    if wanted.several or not count:
        return []
    return [
        f"{count} case(s) have several contrasts, and this bundle translates one at a time: the "
        f"first of {', '.join(wanted.sources)}; --source names another"
    ]


def unusable_id(case_id: str) -> str | None:
    """Why results cannot be named after an id: it leads elsewhere, or is no file name anywhere."""
    parts = case_id.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in case_id or ":" in case_id:
        return f"the id {printable(case_id)!r} is no path below the output folder"
    if not case_id.isprintable():
        return f"the id {printable(case_id)!r} has characters that cannot be shown"
    if any(part.startswith(".") for part in parts):
        return f"the id {case_id!r} would make hidden files"
    if any(part.split(".")[0].lower() in RESERVED or part != part.rstrip(" .") for part in parts):
        return f"the id {case_id!r} is no file name on every system"
    if max(len(part.encode()) for part in parts) > 200:
        return "the id is longer than a file name may be"
    return None


def without_clashes(jobs: Iterable[CaseJob]) -> list[CaseJob]:
    """Sort by id; refuse two cases with one output, in any case of letters.

    Raises:
        UsageError: There are such; the line names both sources.
    """
    ordered = sorted(jobs, key=lambda job: job.id)
    owners: dict[str, CaseJob] = {}
    for job in ordered:
        for name in job.files.names:
            key = f"{job.files.folder}/{name}".casefold()
            other = owners.setdefault(key, job)
            if other is not job:
                raise UsageError(
                    f"{Path(other.scan).name} and {Path(job.scan).name} would have the same "
                    f"outputs ({other.scan} and {job.scan}: {name})",
                    "rename one of them",
                    code="E_CLASH",
                    file=Path(job.scan).parent,
                )
    return ordered


def refuse(job: CaseJob) -> None:
    """Raise what was known to be wrong when the case was listed.

    Raises:
        VoxlateError: Likewise.
    """
    if job.refusal is not None:
        what, todo, code, file = job.refusal
        raise VoxlateError(what, todo, code=code, file=file)


def _matches(scan: str, root: Path, pattern: str) -> bool:
    path = Path(scan)
    names = (path.name, path.relative_to(root).as_posix())
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _survey(root: Path, output: Path) -> tuple[list[CaseJob], list[str]]:
    """Folders that cannot be listed, as refused cases, and lines about what was left out."""
    unreadable: list[CaseJob] = []
    others: Counter[str] = Counter()
    odd: Counter[str] = Counter()

    def note(error: OSError) -> None:
        path = Path(error.filename)
        case_id = path.relative_to(root).as_posix()
        refusal = Refusal(
            f"the folder cannot be listed ({error.strerror})",
            "check its permissions",
            "E_PATH",
            printable(path),
        )
        files = tree_files(f"{case_id}/unreadable", ())
        unreadable.append(CaseJob(case_id, "", os.fspath(path), (), files, refusal=refusal))

    results = output.resolve()
    for folder, subfolders, names in os.walk(root, onerror=note):
        subfolders[:] = [
            s for s in subfolders if s[0] != "." and Path(folder, s).resolve() != results
        ]
        others.update(s for name in names if (s := Path(name).suffix.lower()) in OTHER_FORMATS)
        odd["folder(s) named like a scan"] += sum(map(_named_like_a_scan, subfolders))
        odd["macOS side file(s) (._*)"] += sum(
            name.startswith("._") and _named_like_a_scan(name) for name in names
        )
    notes = [
        f"{count} {suffix} file(s) are no NIfTI and were left out: convert them with "
        f"{OTHER_FORMATS[suffix]}"
        for suffix, count in sorted(others.items())
    ]
    notes += [f"{count} {what} were left out" for what, count in odd.items() if count]
    return unreadable, notes


def _named_like_a_scan(name: str) -> bool:
    return name.lower().endswith((".nii", ".nii.gz"))
