"""A batch: the cases of this run, given to workers that may die, and told about as they end."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import voxlate
from voxlate.data_prep import OutputError, Overrides, UsageError, VoxlateError, write_atomically
from voxlate.data_prep.overrides import NONE

from .batch_progress import BatchProgress
from .bids import write_dataset_files
from .bundle import BundleFacts, bundle_facts
from .case_list import CaseJob, CaseList, Layout, list_jobs, wanted_of
from .case_steps import StoredAs, output_scale
from .checkpoint import read_weights, sha256_of
from .device import choose_device
from .estimates import check_room
from .failures import Outcome, write_failed_csv
from .interruption import Interrupted
from .manifest import STATE_FOLDER, fingerprint, further_options
from .one_to_many import check_steps
from .outputs import check_outputs
from .ray_engine import RayEngine
from .run_case import CaseOptions, Verify
from .run_lock import run_lock
from .samples import check_samples
from .shards import WHOLE, Shard, choose_shard
from .supervisor import Supervisor

SOME_FAILED, ALL_FAILED = 8, 9
RUN_FILE = "run.json"
Engine = Literal["processes", "ray"]
RESERVE_BYTES = 1 << 20  #: kept free so that a full disk can still be told about


@dataclass(frozen=True)
class BatchOptions:
    """What ``voxlate batch`` was asked for; saved in the output folder for ``retry``.

    Attributes:
        source: Folder, BIDS data set or CSV file.
        output: Where results go; made if absent.
        sources: Modalities to translate from, the preferred one first; None for all.
        targets: Modalities to make; None for all.
        pattern: Only sources whose name or path matches.
        layout: Of the results: ``auto``, ``tree`` or ``bids``.
        skip_present: Leave out targets that a case has a scan of.
        picture: Whether each case gets a picture.
        bundle: Bundle folder; by default the one that comes with voxlate.
        device: ``auto`` is every GPU, else the CPU.
        workers: Processes; by default one for each device.
        seed: Same seed, same results.
        steps: Denoising steps; by default the bundle's.
        verify: How finished results are compared with their records.
        intensity: ``unit``, ``percentile`` or ``match:REFERENCE``, see docs/intensity.md.
        stored_as: Voxel type of the results: ``float32`` or ``scan``, the scan's own.
        engine: What runs the workers: ``processes`` of this machine, or ``ray``.
        samples: Of which results are the mean, with their standard deviation; None for one answer.
        register: Of cases with several contrasts, lay those that lie elsewhere over the first.
        overrides: What the user vouches for, where a scan alone would be refused.
    """

    source: str
    output: str
    sources: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    pattern: str | None = None
    layout: Layout = "auto"
    skip_present: bool = False
    picture: bool = True
    bundle: str | None = None
    device: str = "auto"
    workers: int | None = None
    seed: int = 0
    steps: int | None = None
    verify: Verify = "full"
    intensity: str = "unit"
    stored_as: StoredAs = "float32"
    engine: Engine = "processes"
    samples: int | None = None
    register: bool = False
    overrides: Overrides = NONE


def options_from(saved: Mapping[str, Any]) -> BatchOptions:
    """Options as JSON left them."""
    lists = {
        name: None if saved[name] is None else tuple(saved[name]) for name in ("sources", "targets")
    }
    overrides = Overrides(**saved.get("overrides", {}))
    return BatchOptions(**{**saved, **lists, "overrides": overrides})


def listed(options: BatchOptions, facts: BundleFacts) -> CaseList:
    """The cases of a batch, whichever shard.

    Raises:
        NoInputError: There are none.
        UsageError: The list cannot be worked on as it is.
    """
    wanted = wanted_of(
        facts.modalities,
        options.sources,
        options.targets,
        skip_present=options.skip_present,
        picture=options.picture,
        several=facts.several,
        deviations=options.samples is not None,
    )
    check_samples(options.samples, steps=1)  # those of the run are compared later
    if options.register and not facts.several:
        raise UsageError(
            "this bundle translates one contrast at a time, there is nothing to register",
            "leave --register out, or name a bundle that takes several",
            code="E_SEVERAL",
        )
    return list_jobs(
        options.source,
        options.output,
        facts.modalities,
        wanted,
        pattern=options.pattern,
        layout=options.layout,
    )


def run_batch(
    options: BatchOptions,
    *,
    shard: str | None = None,
    overwrite: bool = False,
    force: bool = False,
    quiet: bool = False,
    events: str | None = None,
    fail_on: str = "any",
    stop_on_first_error: bool = False,
    only: Sequence[str] | None = None,
) -> int:
    """Translate every case; what can be refused is refused before the network is loaded.

    Args:
        options: What to do.
        shard: ``i/n``; None leaves it to a scheduler's variables.
        overwrite: Replace results of other options, and files that are no results.
        force: Begin though memory or disk may not do.
        quiet: Tell failures alone.
        events: File for JSON lines, ``-`` for standard output.
        fail_on: When failed cases make the exit status 8 or 9: ``any``, ``all`` or ``none``.
        stop_on_first_error: Begin no further case after one failed.
        only: Ids to work on; by default all.

    Returns:
        Exit status: 0, 8 (some failed), 9 (all failed), 130 or 143 (interrupted).

    Raises:
        VoxlateError: The run cannot begin, or cannot go on.
    """
    output = Path(options.output)
    check_outputs(output, [], overwrite=True)
    part, origin = choose_shard(shard)
    devices = ["ray"] if options.engine == "ray" else _devices(options)
    facts = bundle_facts(options.bundle)
    cases = listed(options, facts)
    jobs = part.of(cases.jobs)
    if only is not None:
        jobs = [job for job in jobs if job.id in set(only)]
    if not force:
        check_room(jobs, output, facts.root, devices, samples=options.samples or 1)
    print_of_run = run_fingerprint(options, facts)
    output.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    suffix = "" if part == WHOLE else f"-{part.index}-of-{part.count}"
    log = output / "logs" / f"{stamp}-{os.getpid()}{suffix}.log"
    with _told_as_output_error(output), run_lock(output, part) as died:
        _remember(options, output, print_of_run, len(cases.jobs), overwrite=overwrite)
        if cases.layout == "bids":
            write_dataset_files(output, Path(options.source))
        with _reserve(output, part), BatchProgress(log, quiet=quiet, events=events) as progress:
            progress.begin(
                len(jobs),
                {
                    "shard": f"{part} ({origin})",
                    "input": options.source,
                    "output": options.output,
                    "fingerprint": print_of_run,
                    "devices": " ".join(devices),
                    "voxlate": voxlate.__version__,
                },
            )
            for note in cases.notes:
                progress.say(note)
            if died is not None:
                progress.say("the last run here ended without a word; its results are verified")
            order = {
                "bundle": os.fspath(facts.root),
                "output": os.fspath(output),
                "options": asdict(
                    CaseOptions(
                        options.seed,
                        options.steps,
                        overwrite,
                        options.verify,
                        options.intensity,
                        options.stored_as,
                        targets_of(options, facts),
                        options.samples,
                        options.register,
                        options.overrides,
                    )
                ),
                "fingerprint": print_of_run,
            }
            engine: Supervisor | RayEngine
            if options.engine == "ray":
                engine = RayEngine(
                    order,
                    options.device,
                    options.workers,
                    progress,
                    stop_on_first_error=stop_on_first_error,
                )
            else:
                engine = Supervisor(
                    order, devices, log, progress, stop_on_first_error=stop_on_first_error
                )
            return _run(engine, jobs, output / f"failed{suffix}.csv", progress, fail_on)


def targets_of(options: BatchOptions, facts: BundleFacts) -> tuple[str, ...]:
    """The modalities to make, by the network's names."""
    return wanted_of(facts.modalities, options.sources, options.targets).targets


def run_fingerprint(options: BatchOptions, facts: BundleFacts) -> str:
    """See ``manifest.fingerprint``.

    Raises:
        WeightsError: There are no weights.
        UsageError: So many steps, or samples, are not possible.
    """
    if not facts.weights.is_file():
        read_weights(facts.weights)  # says what is wrong
    steps = check_steps(facts.scheduler, facts.steps if options.steps is None else options.steps)
    return fingerprint(
        weights=sha256_of(facts.weights),
        configuration=facts.configuration,
        seed=options.seed,
        steps=steps,
        scale=output_scale(options.intensity, targets_of(options, facts)).identity,
        stored_as=options.stored_as,
        further=further_options(
            samples=check_samples(options.samples, steps),
            register=options.register,
            overrides=options.overrides,
        ),
    )


def saved_run(output: Path) -> dict[str, Any]:
    """What the last ``voxlate batch`` into a folder was asked for.

    Raises:
        UsageError: There was none.
    """
    try:
        content = json.loads((output / STATE_FOLDER / RUN_FILE).read_bytes())
    except (OSError, ValueError):
        raise UsageError(
            "no batch was run into this folder",
            "name the output folder of 'voxlate batch'",
            code="E_NO_RUN",
            file=output,
        ) from None
    return content


def _run(
    engine: Supervisor | RayEngine,
    jobs: Sequence[CaseJob],
    failed_csv: Path,
    progress: BatchProgress,
    fail_on: str,
) -> int:
    """Run the workers; whatever happens, list the failures and sum up."""
    error: VoxlateError | None = None
    status = 0
    try:
        engine.run(jobs)
    except Interrupted as interruption:
        status = 128 + interruption.number
    except VoxlateError as refusal:
        error = refusal
    outcomes = engine.outcomes
    counts = {
        name: sum(outcome.status == name for outcome in outcomes)
        for name in ("written", "verified", "failed")
    }
    counts["open"] = len(jobs) - len(outcomes)
    failures = [outcome for outcome in outcomes if outcome.status == "failed"]
    _twins(outcomes, progress)
    try:
        failed_csv.parent.joinpath(STATE_FOLDER, _reserve_name(failed_csv)).unlink(missing_ok=True)
        if failed_csv.parent.is_dir():
            write_failed_csv(failed_csv, failures)
    except OutputError as worse:
        error = error or worse
    except OSError:
        pass  # the folder is gone, which is what the error says
    if not status and error is None and failures and fail_on != "none":
        everything = len(failures) == len(outcomes)
        if everything or fail_on == "any":
            status = ALL_FAILED if everything else SOME_FAILED
    words = ", ".join(
        f"{count} {name}" for name, count in counts.items() if count or name != "open"
    )
    summary = f"{words}; see {failed_csv}" if failures else words
    progress.event("run_finished", {**counts, "status": error.exit_code if error else status})
    if counts["open"]:
        summary += "; the same command goes on with the others"
    progress.result(summary)
    if error is not None:
        progress.log_line(str(error))
        raise error
    return status


def _twins(outcomes: Sequence[Outcome], progress: BatchProgress) -> None:
    """Say which cases were made of one and the same scan."""
    first: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.input_sha256:
            other = first.setdefault(outcome.input_sha256, outcome.id)
            if other != outcome.id:
                progress.say(f"W_DUPLICATE: {outcome.id} has the same scan as {other}")


def _devices(options: BatchOptions) -> list[str]:
    """A device for each worker.

    Raises:
        DeviceError: What was named is not there.
    """
    import torch

    if options.device == "auto" and torch.cuda.is_available():
        names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    else:
        names = [str(choose_device(options.device))]
    count = len(names) if options.workers is None else options.workers
    return [names[index % len(names)] for index in range(count)]


def _remember(
    options: BatchOptions, output: Path, mark: str, cases: int, *, overwrite: bool
) -> None:
    """Save what this folder is for; refuse to mix it with something else.

    Raises:
        OutputError: Results of other options or weights are there.
    """
    path = output / STATE_FOLDER / RUN_FILE
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        before = json.loads(path.read_bytes())
        if before["fingerprint"] != mark and not overwrite:
            raise OutputError(
                "its results were made with other options or weights",
                "add --overwrite to make them again, or name another folder",
                code="E_OPTIONS",
                file=output,
            )
    asked = asdict(options)
    for name in ("source", "bundle"):
        if asked[name] is not None:
            asked[name] = os.path.abspath(asked[name])
    content = {"fingerprint": mark, "cases": cases, "options": asked}
    with write_atomically(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


@contextmanager
def _reserve(output: Path, part: Shard) -> Iterator[None]:
    """Keep a megabyte of disk, to be given back when the list of failures must be written."""
    suffix = "" if part == WHOLE else f"-{part.index}-of-{part.count}"
    path = output / STATE_FOLDER / _reserve_name(output / f"failed{suffix}.csv")
    with contextlib.suppress(OSError):  # small quotas are no reason not to begin
        path.write_bytes(b"\0" * RESERVE_BYTES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _reserve_name(failed_csv: Path) -> str:
    return f"{failed_csv.stem}.reserve"


@contextmanager
def _told_as_output_error(output: Path) -> Iterator[None]:
    """Tell what the system says about the output folder as a refusal."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror or error})",
            "check the folder, its permissions and the free space",
            code="E_OUTPUT",
            file=error.filename or output,
        ) from error
