"""Which files belong together: cases found in folders, listed in JSON, split by patient."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .errors import NoInputError, UsageError
from .modalities import guess_modality, parse_modality
from .writing import write_atomically

_SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_DEVIATION = re.compile(r"_sd$|_desc-\w+SD_\w+$")  # of samples, as voxlate names it: no scan
_SESSION = re.compile(r"[_-](study|session|ses|visit|tp|time|week)[_-]?\d+$", re.IGNORECASE)
_BIDS = re.compile(r"(?:^|/)sub-[A-Za-z0-9]+")
_BRATS = re.compile(r"^(brats-[a-z]+-\d+)-\d{3}$", re.IGNORECASE)
_MASKS = {
    "lesion": ("lesion", "lesions", "seg", "tumor", "tumour", "wmh"),
    "lesion_change": ("lesion_change",),
    "brainmask": ("brainmask", "brain_mask", "mask"),
}


@dataclass(frozen=True)
class Case:
    """The scans of one session of one subject.

    Attributes:
        id: Unique in its data set; the folder below the root, or the name that its files share.
        files: Modality to scan.
        masks: ``lesion``, ``lesion_change`` and ``brainmask``, those that there are.
        patient: Whose session it is, where the id does not tell.
    """

    id: str
    files: Mapping[str, Path]
    masks: Mapping[str, Path] = field(default_factory=dict)
    patient: str = ""

    @property
    def subject(self) -> str:
        """The patient: as given, or the id without its session (BIDS, BraTS, ``p01_study1``)."""
        if self.patient:
            return self.patient
        if bids := _BIDS.search(self.id):
            return self.id[: bids.end()]
        group, slash, name = self.id.rpartition("/")
        brats = _BRATS.match(name)
        return f"{group}{slash}{brats[1] if brats else _SESSION.sub('', name)}"


def find_cases(
    root: str | os.PathLike[str],
    modalities: Sequence[str],
    *,
    source: str | None = None,
) -> list[Case]:
    """Find the cases below a folder, in a fixed order.

    Knows one folder for each case (``patient07/t1.nii.gz``, nested at will), files that share a
    name up to the modality (``BraTS2021_00000_t1ce.nii.gz``, ``sub-01_T1w.nii.gz``), and, where
    ``source`` says what they are, plain scans: every one is then a case of its own. Hidden files
    and what does not end in ``.nii`` or ``.nii.gz`` are passed over.

    Args:
        root: Folder to search.
        modalities: What may be found; scans of other modalities are passed over.
        source: The modality of scans whose name does not tell one.

    Raises:
        NoInputError: The folder does not exist or holds no such scan.
        UsageError: Two files are the same modality of one case.
    """
    root = Path(root)
    if not root.is_dir():
        raise NoInputError("no such folder", "check the path", code="E_PATH", file=root)
    if source is not None:
        source = parse_modality(source, modalities)
    found: dict[str, tuple[dict[str, Path], dict[str, Path]]] = {}
    for path in _scans(root):
        case_id, kind, is_mask = _place(path, root, modalities, source)
        if kind is None:
            continue
        files = found.setdefault(case_id, ({}, {}))[is_mask]
        if kind in files:
            raise UsageError(
                f"{files[kind].name} and {path.name} are both {kind} of case {case_id}",
                "keep one of them",
                code="E_CLASH",
                file=path.parent,
            )
        files[kind] = path
    cases = [Case(i, files, masks) for i, (files, masks) in sorted(found.items()) if files]
    if not cases:
        raise NoInputError(
            f"no NIfTI scan of {', '.join(modalities)} in this folder",
            "name files after their modality (case1/t1.nii.gz, case1_t1.nii.gz), "
            "or say which modality they are",
            code="E_NO_INPUT",
            file=root,
        )
    order = {name: index for index, name in enumerate(modalities)}
    return [
        replace(c, files=dict(sorted(c.files.items(), key=lambda item: order[item[0]])))
        for c in cases
    ]


def split_by_subject(
    cases: Iterable[Case], *, validation: Sequence[str]
) -> tuple[list[Case], list[Case]]:
    """Split into training and validation so that no patient is in both.

    Args:
        cases: What to split.
        validation: Subjects to hold back, as ``Case.subject`` or its last part.

    Raises:
        UsageError: A named subject has no case.
    """
    cases = list(cases)
    wanted = set(validation)
    known = {name for case in cases for name in _names(case)}
    if missing := sorted(wanted - known):
        subjects = sorted({case.subject for case in cases})
        raise UsageError(
            f"no case of subject {', '.join(missing)}",
            f"choose from {', '.join(subjects)}",
            code="E_SUBJECT",
        )
    held = [case for case in cases if wanted & _names(case)]
    return [case for case in cases if not wanted & _names(case)], held


def save_datalist(
    path: str | os.PathLike[str], training: Sequence[Case], validation: Sequence[Case] = ()
) -> None:
    """Write cases as a MONAI data list whose file names are relative to the list.

    Raises:
        OutputError: The file cannot be written.
    """
    path = Path(path)
    base = path.parent.resolve()

    def entry(case: Case) -> dict[str, str]:
        paths = {**case.files, **case.masks}
        relative = {
            k: Path(os.path.relpath(p.absolute(), base)).as_posix() for k, p in paths.items()
        }
        patient = {"patient": case.patient} if case.patient else {}
        return {"id": case.id, **patient, **relative}

    content = {
        "training": [entry(case) for case in training],
        "validation": [entry(case) for case in validation],
    }
    with write_atomically(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def load_datalist(
    path: str | os.PathLike[str],
    modalities: Sequence[str],
) -> tuple[list[Case], list[Case]]:
    """Read the training and validation cases of a MONAI data list; modalities may be missing.

    Raises:
        NoInputError: The list cannot be read, or a file in it does not exist.
        UsageError: The list is not one, an id is there twice, or a patient is on both sides.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not JSON"
        raise NoInputError(
            f"cannot be read ({reason})", "give a JSON data list", code="E_DATALIST", file=path
        ) from None
    if not isinstance(content, dict):
        raise UsageError(
            "not a data list", 'give {"training": [...]}', code="E_DATALIST", file=path
        )
    sides = [
        [_case(entry, path, modalities) for entry in content.get(side, ())]
        for side in ("training", "validation")
    ]
    ids = [case.id for side in sides for case in side]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise UsageError(
            f"id {', '.join(twice)} is there twice",
            "give every case its own id",
            code="E_CLASH",
            file=path,
        )
    if both := sorted({c.subject for c in sides[0]} & {c.subject for c in sides[1]}):
        raise UsageError(
            f"patient {', '.join(both)} is in training and in validation",
            "keep all sessions of a patient on one side",
            code="E_LEAK",
            file=path,
        )
    return sides[0], sides[1]


def _scans(root: Path) -> list[Path]:
    """Every visible NIfTI file below the folder, sorted; links to folders are not followed."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        found += [Path(folder, n) for n in names if _SUFFIX.search(n) and not n.startswith(".")]
    return sorted(found)


def _place(
    path: Path, root: Path, modalities: Sequence[str], source: str | None
) -> tuple[str, str | None, bool]:
    """Tell which case a file belongs to, what it is there, and whether that is a mask."""
    stem = _SUFFIX.sub("", path.name)
    folder = path.parent.relative_to(root).as_posix()
    prefix = "" if folder == "." else f"{folder}/"
    for mask, names in _MASKS.items():
        for name in names:
            if stem.lower() == name:
                return folder if prefix else root.name, mask, True
            if stem.lower().endswith((f"_{name}", f"-{name}")):
                return _shared(prefix, stem[: -len(name) - 1]), mask, True
    if _DEVIATION.search(stem):
        return f"{prefix}{stem}", None, False
    guessed = guess_modality(path)
    if guessed is None:
        return f"{prefix}{stem}", source, False
    if guessed not in modalities:
        return f"{prefix}{stem}", None, False
    return _case_name(prefix, stem, root), guessed, False


def _case_name(prefix: str, stem: str, root: Path) -> str:
    """Case id of an image: what its name says before the modality, or else its folder."""
    words = re.finditer(r"[^_-]+", stem)
    cut = next((w.start() for w in words if guess_modality(w[0])), len(stem))
    name = re.sub(r"[_-]ce-[a-z]+$", "", stem[:cut].rstrip("_-"), flags=re.IGNORECASE)
    if name:
        return _shared(prefix, name)
    return prefix.rstrip("/") or root.name


def _shared(prefix: str, name: str) -> str:
    """Case id of files that share a name; a folder whose name ends so is not repeated."""
    folder = prefix.rstrip("/")
    return folder if folder.endswith(name) else prefix + name


def _names(case: Case) -> set[str]:
    return {case.subject, case.subject.rsplit("/", 1)[-1]}


def _case(entry: object, path: Path, modalities: Sequence[str]) -> Case:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise UsageError(
            "an entry of the list has no id",
            'give {"id": "...", "t1": "..."}',
            code="E_DATALIST",
            file=path,
        )
    paths = {
        key: path.parent / value
        for key, value in entry.items()
        if (key in modalities or key in _MASKS) and isinstance(value, str)
    }
    for file in paths.values():
        if not file.is_file():
            raise NoInputError(
                f"no such file, named by case {entry['id']} of {path.name}",
                "check the list",
                code="E_PATH",
                file=file,
            )
    files = {m: paths[m] for m in modalities if m in paths}
    masks = {k: p for k, p in paths.items() if k in _MASKS}
    return Case(entry["id"], files, masks, str(entry.get("patient", "")))
