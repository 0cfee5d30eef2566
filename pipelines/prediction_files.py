"""Which files of a folder predict what: by the record beside them, or else by their names."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from voxlate.data_prep import Case, NoInputError, UsageError, parse_modality

from .case_steps import stem
from .evaluation_pairs import Scale
from .evaluation_row import join_given

logger = logging.getLogger(__name__)

_FILLERS = {"to", "from", "pred", "prediction", "predicted", "syn", "synth", "synthetic", "fake"}
_ENTITIES = re.compile(r"[_-](?:ce|desc|from)-[a-z0-9]+", re.IGNORECASE)
_UNIT = re.compile(r"\b0 and 1 are the 0\.5th and 99\.5th percentile")  # of a record's scale
_AGENT = re.compile(r"(?:^|_)ce-", re.IGNORECASE)
CHUNK = 2**22


@dataclass(frozen=True)
class Prediction:
    """A file that holds one target of one case.

    Attributes:
        path: The file.
        names: What its case may be called in the references, the likeliest first.
        given: The contrasts that it was made from, ``t1+t2``; empty if nothing tells.
        target: Its contrast.
        inputs: SHA-256 of the files it was made from.
        record: The JSON record that tells all this; None if its name does.
        scale: What the record says that 0 and 1 are, see ``read_prediction``.
    """

    path: Path
    names: tuple[str, ...]
    given: str
    target: str
    inputs: tuple[str, ...] = ()
    record: Path | None = None
    scale: Scale = "auto"


@dataclass(frozen=True)
class Run:
    """One folder of predictions, and which case each belongs to.

    Attributes:
        name: In tables.
        folder: Where they lie.
        predictions: By case id, given contrasts and target.
        unmatched: Predictions of no case of the references.
    """

    name: str
    folder: Path
    predictions: Mapping[tuple[str, str, str], Prediction]
    unmatched: tuple[Path, ...] = ()

    @property
    def directions(self) -> list[tuple[str, str]]:
        """Given contrasts and target, every combination there is."""
        return sorted({(given, target) for _, given, target in self.predictions})


def find_run(
    name: str,
    folder: str | os.PathLike[str],
    cases: Sequence[Case],
    modalities: Sequence[str],
    *,
    given: str = "",
) -> Run:
    """Find the predictions below a folder and the case of each.

    Known are the records that ``voxlate translate`` and the bundles write beside their volumes, and
    names: ``case/flair.nii.gz``, ``case_flair.nii.gz``, ``case_t1_to_flair.nii.gz``, and a folder
    named after the given contrasts (``t1+t2/case/flair.nii.gz``). A prediction belongs to the case
    of that name, or else to the one that has its input's very file.

    Args:
        name: Of the run.
        folder: To search.
        cases: The references.
        modalities: Contrasts that may occur.
        given: What predictions were made from that do not say it, ``t1`` or ``t1+t2``.

    Raises:
        NoInputError: There is no prediction, or none belongs to a case.
        UsageError: Two files are the same prediction.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NoInputError("no such folder", "check the path", code="E_PATH", file=folder)
    found = list(_predictions(folder, modalities, given))
    if not found:
        raise NoInputError(
            f"no prediction of {', '.join(modalities)} in this folder",
            "name files after their contrast (case1/t2.nii.gz, case1_t2.nii.gz)",
            code="E_NO_INPUT",
            file=folder,
        )
    owners = _Owners(cases)
    matched: dict[tuple[str, str, str], Prediction] = {}
    unmatched = []
    for prediction in found:
        case = owners.find(prediction)
        if case is None:
            unmatched.append(prediction.path)
            continue
        key = case.id, prediction.given, prediction.target
        if key in matched:
            raise UsageError(
                f"it and {matched[key].path} are both {prediction.target} of case {case.id}"
                + (f" from {prediction.given}" if prediction.given else ""),
                "keep one of them, or put each below a folder named after what it was made from",
                code="E_CLASH",
                file=prediction.path,
            )
        matched[key] = prediction
    if not matched:
        raise NoInputError(
            f"none of {len(found)} prediction(s) (the first is of case {found[0].names[0]!r}) "
            f"belongs to one of {len(cases)} reference case(s) (the first is {cases[0].id!r})",
            "give predictions and references the same case names",
            code="E_NO_PAIR",
            file=folder,
        )
    return Run(name, folder, matched, tuple(unmatched))


def parse_given(text: str, modalities: Sequence[str]) -> str:
    """``t1+t2`` in any order and by any of their names, as it stands in tables.

    Raises:
        UsageError: One is unknown.
    """
    names = [parse_modality(part, modalities) for part in text.split("+") if part]
    return join_given(names, modalities)


def file_sha256(path: os.PathLike[str]) -> str:
    """Checksum of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class _Owners:
    """Finds the case of a prediction, by name or by the input's content."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases
        self.by_name: dict[str, list[Case]] = {}
        for case in cases:
            for name in {case.id, _plain(case.id), _plain(case.id.rsplit("/", 1)[-1])}:
                self.by_name.setdefault(name, []).append(case)
        self.by_content: dict[str, Case] | None = None

    def find(self, prediction: Prediction) -> Case | None:
        tried = [n for name in prediction.names for n in (name, _plain(name))]
        tried += [_plain(name.rsplit("/", 1)[-1]) for name in prediction.names]
        for name in tried:
            if len(self.by_name.get(name, ())) == 1:
                return self.by_name[name][0]
        if not prediction.inputs:
            return None
        if self.by_content is None:
            self.by_content = {
                file_sha256(file): case for case in self.cases for file in case.files.values()
            }
        owners = (self.by_content.get(digest) for digest in prediction.inputs)
        return next((case for case in owners if case is not None), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", name.lower())


def _predictions(root: Path, modalities: Sequence[str], given: str) -> Iterator[Prediction]:
    recorded: dict[Path, Prediction] = {}
    scans = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        for name in sorted(n for n in names if not n.startswith(".")):
            path = Path(folder, name)
            if name.lower().endswith(".json"):
                recorded |= {p.path: p for p in _from_record(path, root, modalities)}
            elif name.lower().endswith((".nii", ".nii.gz")):
                scans.append(path)
    for path in scans:
        found = recorded.get(path) or _from_name(path, root, modalities, given)
        if found is not None:
            yield found


def _from_record(path: Path, root: Path, modalities: Sequence[str]) -> Iterator[Prediction]:
    """The predictions that a JSON record names, if it is one of ours."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return
    if not isinstance(record, dict) or not isinstance(record.get("Outputs"), dict):
        return
    inputs = _inputs(record)
    try:
        given = parse_given("+".join(str(i["Modality"]) for i in inputs), modalities)
        targets = {t: parse_modality(t, modalities) for t in record["Outputs"]}
    except (KeyError, UsageError):
        logger.warning("%s: a record of contrasts unknown here, passed over", path)
        return
    folder = path.parent.relative_to(root).as_posix()
    case_id = str(record.get("Options", {}).get("CaseID") or "")
    above = str(PurePosixPath(case_id).parent)
    own = _case_of(stem(Path(str(inputs[0].get("File", "")))), modalities) if inputs else ""
    joined = own if folder == "." else f"{folder}/{own}".rstrip("/")
    names = [joined, case_id, above, folder]
    for target, entry in record["Outputs"].items():
        if isinstance(entry, dict) and isinstance(entry.get("File"), str):
            yield Prediction(
                path.parent / PurePosixPath(entry["File"]).name,
                tuple(dict.fromkeys(n for n in names if n not in ("", "."))) or (root.name,),
                given,
                targets[target],
                tuple(str(i["SHA256"]) for i in inputs if i.get("SHA256")),
                path,
                "unit" if _UNIT.search(str(record.get("IntensityScale"))) else "auto",
            )


def _inputs(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a record says it was made from: inputs as a list or by modality, or one and others."""
    found = record.get("Inputs", record.get("Input"))
    if isinstance(found, dict) and "Modality" not in found:
        found = [{"Modality": name, **i} for name, i in found.items() if isinstance(i, dict)]
    several = found if isinstance(found, list) else [found]
    others = record.get("OtherInputs")
    several = [*several, *(others if isinstance(others, list) else [])]
    return [entry for entry in several if isinstance(entry, dict)]


def _from_name(path: Path, root: Path, modalities: Sequence[str], given: str) -> Prediction | None:
    """What a file's name and folders say; None if it names no contrast at its end."""
    words, rest = _contrasts(stem(path), modalities)
    if not words:
        return None
    *sources, target = words
    if _AGENT.search(path.name) and target == "t1" and "t1ce" in modalities:
        target = "t1ce"
    parts = []
    for part in path.parent.relative_to(root).parts:
        folder_words = _subset(part, modalities)
        if folder_words and not sources:
            sources = list(folder_words)
        else:
            parts.append(part)
    case = "/".join([*parts, rest] if rest else parts) or root.name
    names = (case, "/".join(parts)) if parts else (case,)
    return Prediction(path, names, join_given(sources, modalities) or given, target)


def _contrasts(name: str, modalities: Sequence[str]) -> tuple[list[str], str]:
    """The contrasts at the end of a name, in its order, and what comes before them."""
    name = _ENTITIES.sub("", name)
    found: list[str] = []
    while name:
        head, word = re.fullmatch(r"(.*?)[^A-Za-z0-9]*([A-Za-z0-9]*)", name).groups()  # type: ignore[union-attr]
        modality = _known(word, modalities)
        if modality is not None and modality not in found:
            found.insert(0, modality)
        elif word.lower() not in _FILLERS:
            break
        name = head
    return found, name.rstrip("_-. ")


def _case_of(name: str, modalities: Sequence[str]) -> str:
    return _contrasts(name, modalities)[1]


def _subset(folder: str, modalities: Sequence[str]) -> list[str]:
    """The contrasts that a folder is named after, all of it, or none."""
    words = [_known(word, modalities) for word in folder.split("+")]
    return [word for word in words if word] if all(words) else []


def _known(word: str, modalities: Sequence[str]) -> str | None:
    try:
        return parse_modality(word, modalities) if word else None
    except UsageError:
        return None
