"""Folders of predictions against folders of real scans: from files to the report."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voxlate.data_prep import (
    Case,
    NoInputError,
    UsageError,
    VoxlateError,
    find_cases,
    load_datalist,
    parse_modality,
    read_scan,
)
from voxlate.data_prep.modalities import ALIASES

from .downstream import SET, Downstream
from .evaluation_baselines import MeanImage
from .evaluation_checks import Fingerprint, leaks, thumbnail
from .evaluation_pairs import Scale, read_prediction, read_truth, require_grid, to_ras
from .evaluation_pictures import Key
from .evaluation_recorder import DEFAULT_SETS, Evaluation, Recorder, masks_used
from .evaluation_row import split_given
from .evaluation_truth import Truth
from .metric_sets import METRIC_SETS
from .paper_tables import TABLES
from .prediction_files import Run, file_sha256
from .progress import CaseProgress

MODALITIES = tuple(ALIASES)


def find_references(
    place: Path,
    *,
    split: str = "all",
    masks: Mapping[str, str] | None = None,
) -> list[Case]:
    """The real scans: a folder, or a MONAI data list.

    Args:
        place: Folder, or JSON file.
        split: Of a data list: ``training``, ``validation`` or ``all``.
        masks: Where to find ``brainmask`` and ``lesion`` where the names do not tell: patterns
            below the folder (or the list's), in which ``{case}`` is the case's id and ``{name}``
            its last part; ``*`` is a wildcard.

    Raises:
        NoInputError: Nothing is there, or a pattern finds no mask at all.
        UsageError: The list cannot be used, or a pattern finds two masks of a case.
    """
    if place.suffix.lower() == ".json":
        training, validation = load_datalist(place, MODALITIES)
        sides = {"training": training, "validation": validation, "all": [*training, *validation]}
        cases, root = sides[split], place.parent
    else:
        cases, root = find_cases(place, MODALITIES), place
    if not cases:
        raise NoInputError(
            f"no case on its {split} side", "choose another --split", code="E_NO_INPUT", file=place
        )
    for kind, pattern in (masks or {}).items():
        cases = _with_masks(cases, root, kind, pattern)
    return cases


def evaluate_runs(
    runs: Sequence[Run],
    cases: Sequence[Case],
    output_dir: Path | str,
    *,
    targets: Sequence[str] | None = None,
    metric_sets: Sequence[str] = DEFAULT_SETS,
    tables: Sequence[str] = (),
    scale: Scale = "auto",
    training: Sequence[Case] | None = None,
    downstream: Downstream | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> Evaluation:
    """Measure every prediction of every run, and write the report.

    Expected is, of every run and every direction it has, each case with a real scan of the target
    (and of the given contrasts). What is not there, or cannot be used, is counted and scored as an
    empty volume. ``cases.csv`` is written after every case, the rest at the end.

    Args:
        runs: Of different names.
        cases: The references.
        output_dir: Made if absent; a report in it is replaced.
        targets: These alone; by default all that a run has.
        metric_sets: Beside the default one.
        tables: The papers' tables to print, even if empty; their sets are measured too.
        scale: What 0 and 1 are in predictions, see ``read_prediction``.
        training: Cases that were trained on, for the check on leaks and the mean image; by default
            the mean image is that of the other patients.
        downstream: Finds lesions in the real set, with the prediction and without.
        seed: Of intervals and of the cases that are shown.
        quiet: Show no progress.

    Raises:
        UsageError: A set, a table or a target is unknown; two runs share a name.
        NoInputError: No case has a real scan of what was predicted.
        OutputError: The report cannot be written.
    """
    _check_names(runs, metric_sets, tables)
    wanted = None if targets is None else [parse_modality(t, MODALITIES) for t in targets]
    sets = [*metric_sets, *(TABLES[name].metric_set for name in tables)]
    plan = _plan(runs, cases, wanted)
    if not plan:
        raise NoInputError(
            "no case has a real scan of what was predicted",
            "check --to, and that references are named after their contrast",
            code="E_NO_PAIR",
        )
    recorder = Recorder(Path(output_dir), sets, seed)
    recorder.open()
    memory = _Memory(cases, training)
    memory.learn({target for _, target, _ in plan})
    for number, (case, target, directions) in enumerate(plan, start=1):
        label = f"{case.id} {target} ({number}/{len(plan)})"
        with CaseProgress(label, quiet=quiet) as report:
            report("measure", 0, 1)
            keys = [Key(run.name, case.id, given, target) for run, given in directions]
            try:
                truth = read_truth(case, target)
            except VoxlateError as error:
                for key in keys:
                    recorder.failed(key, error)
                continue
            memory.note(case, truth)
            for given in dict.fromkeys(given for _, given in directions):
                try:
                    sources = _sources(case, given, truth)
                    recorder.compared(case, truth, given, sources, memory.mean_images.get(target))
                except VoxlateError as error:
                    recorder.failed(Key("", case.id, given, target), error)
            usable: dict[tuple[str, str], Tensor | None] = {}
            for (run, given), key in zip(directions, keys, strict=True):
                usable[run.name, given] = None
                prediction = run.predictions.get((case.id, given, target))
                if prediction is None:
                    recorder.absent(key, case, truth)
                    continue
                said = prediction.scale if scale == "auto" else scale
                try:
                    volume = read_prediction(prediction.path, truth, case.files[target], said)
                except VoxlateError as error:
                    recorder.absent(key, case, truth, error)
                    continue
                usable[run.name, given] = volume
                recorder.measured(key, case, truth, volume)
                memory.predictions[f"{run.name}: {_below(prediction.path, run.folder)}"] = (
                    file_sha256(prediction.path)
                )
            if downstream is not None:
                report("segment", 0, 1)
                try:
                    recorder.rows += downstream.measure(case, truth, usable)
                except VoxlateError as error:
                    recorder.failed(Key(SET, case.id, "", target), error)
        recorder.checkpoint()
    return recorder.finish(
        downstream=None if downstream is None else downstream.facts,
        modalities=MODALITIES,
        provenance=_provenance(runs, cases, memory, scale, training),
        leaks=[*memory.leaks(), *([] if downstream is None else downstream.leaks(cases))],
        unmatched=[f"{run.name}: {_below(p, run.folder)}" for run in runs for p in run.unmatched],
        tables=list(tables) or None,
    )


class _Memory:
    """What has to be known about all cases at once: mean images, and files seen."""

    def __init__(self, cases: Sequence[Case], training: Sequence[Case] | None) -> None:
        self.cases, self.training = cases, training
        self.mean_images: dict[str, MeanImage] = {}
        self.references: list[Fingerprint] = []
        self.trained: list[Fingerprint] = []
        self.predictions: dict[str, str] = {}

    def learn(self, targets: set[str]) -> None:
        """Average the targets over the training set, or over the references."""
        for case in self.cases if self.training is None else self.training:
            for target in sorted(targets & set(case.files)):
                try:
                    truth = read_truth(case, target)
                except VoxlateError:
                    continue  # a reference is reported when it is measured
                self.mean_images.setdefault(target, MeanImage()).add(case.subject, truth)
                if self.training is not None:
                    self.trained.append(_fingerprint(case, truth))

    def note(self, case: Case, truth: Truth) -> None:
        """Remember a reference."""
        self.references.append(_fingerprint(case, truth))

    def leaks(self) -> list[str]:
        """What should not be."""
        inputs = {
            file_sha256(file): f"the {modality} of {case.id}"
            for case in self.cases
            for modality, file in case.files.items()
        }
        return leaks(self.references, self.trained, self.predictions, inputs)


def _fingerprint(case: Case, truth: Truth) -> Fingerprint:
    small = thumbnail(truth.scaled, truth.brain)
    file = case.files[truth.target]
    return Fingerprint(case.id, case.subject, truth.target, file_sha256(file), small)


def _sources(case: Case, given: str, truth: Truth) -> dict[str, Tensor]:
    """The given scans on the grid of the truth."""
    found = {}
    for modality in split_given(given):
        scan = read_scan(case.files[modality])
        require_grid(scan, truth.affine, truth.volume.shape, case.files[truth.target])
        found[modality] = to_ras(scan.data, scan.affine)[0].to(torch.float32)
    return found


def _plan(
    runs: Sequence[Run], cases: Sequence[Case], targets: Sequence[str] | None
) -> list[tuple[Case, str, list[tuple[Run, str]]]]:
    """What is expected: cases and targets, and of each the runs and given contrasts."""
    plan = []
    for case in cases:
        for target in case.files:
            directions = [
                (run, given)
                for run in runs
                for given, made in run.directions
                if made == target
                and (targets is None or target in targets)
                and set(split_given(given)) <= set(case.files)
            ]
            if directions:
                plan.append((case, target, directions))
    return plan


def _check_names(runs: Sequence[Run], metric_sets: Sequence[str], tables: Sequence[str]) -> None:
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"two runs are called {', '.join(twice)}", "give NAME=FOLDER", code="E_CLASH"
        )
    for kind, given, known in (
        ("metric set", metric_sets, METRIC_SETS),
        ("table", tables, TABLES),
    ):
        if unknown := [name for name in given if name not in known]:
            raise UsageError(
                f"no {kind} {unknown[0]!r}", f"choose from {', '.join(known)}", code="E_OPTION"
            )


def _with_masks(cases: Sequence[Case], root: Path, kind: str, pattern: str) -> list[Case]:
    files = sorted(path for path in root.rglob("*.nii*") if path.is_file())
    relative = [path.relative_to(root).as_posix() for path in files]
    found, several = [], []
    for case in cases:
        wanted = pattern.replace("{case}", case.id).replace("{name}", case.id.rsplit("/", 1)[-1])
        mine = [p for p, name in zip(files, relative, strict=True) if fnmatch.fnmatch(name, wanted)]
        if len(mine) > 1:
            several.append((case, mine))
        found.append(replace(case, masks={**case.masks, kind: mine[0]}) if mine else case)
    if several:
        case, mine = several[0]
        raise UsageError(
            f"{mine[0].name} and {mine[1].name} both fit {pattern!r} for case {case.id}",
            "make the pattern narrower",
            code="E_CLASH",
            file=root,
        )
    if not any(kind in case.masks for case in found):
        raise NoInputError(
            f"no file fits {pattern!r} for any of {len(cases)} case(s)",
            "write {case} or {name} where the case's name stands, and the file's ending",
            code="E_MASK",
            file=root,
        )
    return found


def _provenance(
    runs: Sequence[Run],
    cases: Sequence[Case],
    memory: _Memory,
    scale: str,
    training: Sequence[Case] | None,
) -> dict[str, Any]:
    records: dict[str, list[str]] = {}
    for run in runs:
        known = {p.record for p in run.predictions.values() if p.record is not None}
        records[run.name] = sorted(f"{_below(p, run.folder)} {file_sha256(p)}" for p in known)
    return {
        "runs": {run.name: str(run.folder) for run in runs},
        "prediction_scale": scale,
        "resampling": "none",
        "records_sha256": records,
        "predictions_sha256": memory.predictions,
        "references_sha256": {f"{f.name} {f.modality}": f.sha256 for f in memory.references},
        "masks": masks_used(cases),
        "mean_image": "other patients of the references"
        if training is None
        else f"{len(training)} training cases",
    }


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
