"""A data set as downloaded to volumes that train: every case prepared, split, listed and cached."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import voxlate
from voxlate.data_prep import (
    OutputError,
    Preprocessing,
    ScanError,
    VoxlateError,
    save_datalist,
    write_atomically,
)
from voxlate.data_prep.cases import Case
from voxlate.data_prep.known_layouts import LAYOUTS, layout_by_name
from voxlate.data_prep.layouts import MASKS, Found, Layout, Protocol, find_layout_cases
from voxlate.data_prep.splits import check_split, read_split, save_split, split_by_seed

from .outputs import check_outputs
from .prepare_options import PrepareOptions
from .prepare_steps import prepare_raw_case
from .prepared_cases import prepare_case
from .processes import outcomes
from .progress import CaseProgress

DEFAULT_SHARE = 0.2  #: of the patients for validation, where no paper says otherwise


@dataclass(frozen=True)
class Preparation:
    """What ``prepare`` made.

    Attributes:
        datalist: MONAI data list of the prepared cases.
        cases: How many are in it.
        failed: Id of a case that was left out to the reason.
    """

    datalist: Path
    cases: int
    failed: dict[str, str]


def prepare(
    layout: str,
    root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    options: PrepareOptions | None = None,
    modalities: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    split: str | os.PathLike[str] | None = None,
    validation_share: float | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    workers: int = 1,
    quiet: bool = False,
) -> Preparation:
    """Prepare a data set; cases that are done already, alike and undamaged, are not done again.

    Args:
        layout: Name of the data set, such as ``brats2021``.
        root: Folder with the download.
        output: Gets ``cases/``, ``<layout>.json`` (the data list), ``split.csv``, ``prepared.json``
            and, where cases were left out, ``failed.csv``.
        options: Steps; None for the layout's.
        modalities: Wanted of each case; None for the layout's.
        preprocessing: Of the model that will train: its arrays are made in ``output/cache``, which
            the bundles take as ``--cache_dir``. None makes none.
        split: CSV file with the columns id and split; None for the publishers' split where both
            sides are there, or one by patient from ``seed``.
        validation_share: Of the patients; None for the paper's.
        seed: Of the split.
        skip_bad: Leave out cases that cannot be used instead of ending with an error.
        workers: Processes.
        quiet: Show no progress.

    Raises:
        NoInputError: No such data set is there.
        UsageError: It is incomplete, or the split is wrong.
        ScanError: Cases failed and ``skip_bad`` was not given, or all did.
        OutputError: The folder cannot be written.
    """
    known = layout_by_name(layout)
    output = Path(output)
    steps = PrepareOptions.of(known.protocol) if options is None else options
    found = find_layout_cases(
        known, root, modalities=modalities, skip_bad=skip_bad, others=tuple(LAYOUTS.values())
    )
    sides = choose_split(found, known.protocol, split, validation_share, seed)
    check_outputs(output, (), overwrite=True)
    jobs = [_Job(case, steps, output, preprocessing) for case in found.cases]
    done: dict[str, Case] = {}
    failed = dict(found.bad)
    with CaseProgress(known.title, quiet=quiet) as progress:
        for index, outcome in outcomes(_attempt, jobs, workers):
            case_id = jobs[index].case.id
            if isinstance(outcome, Case):
                done[case_id] = outcome
            else:
                failed[case_id] = outcome
            progress("preparing cases", len(done) + len(failed) - len(found.bad), len(jobs))
    _save_failed(output / "failed.csv", failed)
    broken = {case_id: failed[case_id] for case_id in failed if case_id not in found.bad}
    if broken and (not skip_bad or not done):
        case_id, reason = next(iter(sorted(broken.items())))
        raise ScanError(
            f"{len(broken)} of {len(jobs)} cases failed, first {case_id} ({reason})",
            "see failed.csv, repair them and run again"
            + (", or add --skip-bad to list the others" if done else ""),
            code="E_CASES",
            file=output,
        )
    cases = [done[case.id] for case in found.cases if case.id in done]
    chosen = {case.id: sides[case.id] for case in cases}
    datalist = output / f"{known.name if known.protocol.modalities else 'datalist'}.json"
    save_split(output / "split.csv", cases, chosen)
    save_datalist(
        datalist,
        [case for case in cases if chosen[case.id] == "training"],
        [case for case in cases if chosen[case.id] == "validation"],
    )
    _save_summary(output, known, root, steps, chosen, failed, seed, preprocessing)
    return Preparation(datalist, len(cases), failed)


def choose_split(
    found: Found,
    protocol: Protocol,
    file: str | os.PathLike[str] | None,
    share: float | None,
    seed: int,
) -> dict[str, str]:
    """Case id to side: from a file, from the publishers, or by patient from the seed.

    Raises:
        UsageError: The file is no split of these cases, or a patient is on both sides.
    """
    if file is not None:
        sides = read_split(file, found.cases)
    elif share is None and found.sides:
        sides = {case.id: found.sides.get(case.id, "training") for case in found.cases}
    else:
        if share is None:
            training, held = protocol.split or (1 - DEFAULT_SHARE, DEFAULT_SHARE)
            share = held / (training + held)
        sides = split_by_seed(found.cases, share, seed=seed)
    check_split(sides, found.cases, file)
    return sides


def preprocessing_of(protocol: Protocol) -> Preprocessing:
    """The preprocessing of the bundle that trains on a layout; the cache is found by it."""
    return Preprocessing(
        size=protocol.size,
        percentiles=protocol.percentiles,
        multiple_of=protocol.multiple_of,
    )


@dataclass(frozen=True)
class _Job:
    case: Case
    options: PrepareOptions
    output: Path
    preprocessing: Preprocessing | None

    def __call__(self) -> Case:
        """Prepare the case, and its arrays."""
        folder = self.output / "cases" / self.case.id
        files = prepare_raw_case(self.case, self.options, folder)
        prepared = Case(
            self.case.id,
            {name: path for name, path in files.items() if name not in MASKS},
            {name: path for name, path in files.items() if name in MASKS},
            self.case.patient,
        )
        if self.preprocessing is not None:
            prepare_case(prepared, self.preprocessing, self.output / "cache")
        return prepared


def _attempt(job: _Job) -> Case | str:
    try:
        return job()
    except OutputError:
        raise  # the disk: no later case would do better
    except VoxlateError as error:
        return str(error)


def _save_failed(path: Path, failed: dict[str, str]) -> None:
    if not failed:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "reason"])
    writer.writerows(sorted(failed.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())


def _save_summary(
    output: Path,
    layout: Layout,
    root: str | os.PathLike[str],
    steps: PrepareOptions,
    sides: dict[str, str],
    failed: dict[str, str],
    seed: int,
    preprocessing: Preprocessing | None,
) -> None:
    counts = list(sides.values())
    content = {
        "voxlate": voxlate.__version__,
        "layout": layout.name,
        "root": str(root),
        "protocol": asdict(layout.protocol),
        "steps": asdict(steps),
        "seed": seed,
        "training": counts.count("training"),
        "validation": counts.count("validation"),
        "failed": len(failed),
        "cache": None if preprocessing is None else asdict(preprocessing),
    }
    with write_atomically(output / "prepared.json") as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
