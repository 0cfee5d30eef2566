"""One case of a batch, from disk to disk: the steps that every engine runs."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voxlate.data_prep import OutputError, Overrides, ScanError, UsageError, VoxlateError
from voxlate.data_prep.overrides import NONE

from .case_inputs import read_inputs
from .case_list import CaseJob, refuse
from .case_steps import (
    Made,
    ReadyCase,
    Request,
    StoredAs,
    output_scale,
    read_case,
)
from .checkpoint import sha256_of
from .completion import prepare_together
from .failures import Outcome, StopBatch, failed, forget_failure, save_failure, stops_everything
from .finish_case import finish_case
from .manifest import difference, fingerprint, further_options, inputs_of, read_manifest
from .one_to_many import Progress
from .outputs import check_outputs, write_translation
from .samples import check_samples
from .translator import Translator

logger = logging.getLogger(__name__)

Verify = Literal["full", "size"]


@dataclass(frozen=True)
class CaseOptions:
    """What is the same for all cases.

    Attributes:
        seed: The user's seed.
        steps: Denoising steps; by default the bundle's.
        overwrite: Replace results of other options, and files that are no results.
        verify: How finished results are compared with their record: ``full`` (checksums) or
            ``size``.
        intensity: ``unit``, ``percentile`` or ``match:REFERENCE``, see docs/intensity.md.
        stored_as: Voxel type of the files: ``float32`` or ``scan``, the scan's own.
        targets: Those that a reference is wanted for.
        samples: Of which the results are the mean; None for one answer.
        register: Lay further contrasts that lie elsewhere over the first.
        overrides: What the user vouches for, where a scan alone would be refused.
    """

    seed: int = 0
    steps: int | None = None
    overwrite: bool = False
    verify: Verify = "full"
    intensity: str = "unit"
    stored_as: StoredAs = "float32"
    targets: tuple[str, ...] = ()
    samples: int | None = None
    register: bool = False
    overrides: Overrides = NONE


@dataclass(frozen=True)
class ReadJob:
    """A case that was read, and what was found about it on the way.

    Attributes:
        job: The case, with all targets that its record will have.
        ready: What the networks will see.
        replace: Whether its old files, which are results of this batch, give way.
        notes: For the record, each ``W_CODE: text``.
        began: ``time.perf_counter()`` when it was taken up.
    """

    job: CaseJob
    ready: ReadyCase
    replace: bool
    notes: tuple[str, ...]
    began: float


class CaseRunner:
    """Takes cases from disk to disk, in three steps that may run in three threads.

    Args:
        translator: With the network loaded.
        output: The output folder, which is there.
        options: The same for all cases.
    """

    def __init__(self, translator: Translator, output: Path, options: CaseOptions) -> None:
        self.translator, self.output, self.options = translator, output, options
        self.steps = translator.checked_steps(options.steps)
        self.scale = output_scale(options.intensity, options.targets)
        origin = translator.origin
        if origin is None:
            raise ValueError("a batch needs a translator whose weights are known by a checksum")
        self.further = further_options(
            samples=check_samples(options.samples, self.steps),
            register=options.register,
            overrides=options.overrides,
        )
        self.fingerprint = fingerprint(
            weights=origin.sha256,
            configuration=origin.configuration,
            seed=options.seed,
            steps=self.steps,
            scale=self.scale.identity,
            stored_as=options.stored_as,
            further=self.further,
        )
        self._root = _identity(output)

    def run_case(self, job: CaseJob, progress: Progress | None = None) -> Outcome:
        """All three steps in turn; a failure is an outcome.

        Args:
            job: The case.
            progress: Called with (stage, done, in all) of the networks.

        Raises:
            StopBatch: The output can take no further case.
        """
        read = self.read(job)
        if isinstance(read, Outcome):
            return read
        made = self.translate(read, progress)
        return made if isinstance(made, Outcome) else self.write(read, made)

    def read(self, job: CaseJob) -> ReadJob | Outcome:
        """Verify what an earlier run finished, or else read the scan.

        Raises:
            StopBatch: The output can take no further case.
        """
        began = time.perf_counter()
        try:
            refuse(job)
            self._refuse_without_reference(job)
            job, replace, notes, record = self._earlier(job)
            if record is not None:
                forget_failure(self.output, job.id)
                seconds = time.perf_counter() - began
                return Outcome(
                    job.id,
                    "verified",
                    seconds,
                    record["Input"]["SHA256"],
                    tuple(record["Warnings"]),
                )
            ready = _read_unchanged(job, self.translator, self.options)
            return ReadJob(job, ready, replace, (*job.notes, *notes), began)
        except Exception as error:
            return self.fail(job, error)

    def translate(self, read: ReadJob, progress: Progress | None = None) -> Made | Outcome:
        """Run the networks; the one step that needs the device."""
        try:
            return self.translator.compute(read.ready.volume, self._request(read.job), progress)
        except Exception as error:
            return self.fail(read.job, error)

    def write(self, read: ReadJob, made: Made) -> Outcome:
        """Go back to the scan's grid, write and verify the files, and last the record.

        Raises:
            StopBatch: The output can take no further case.
        """
        job = read.job
        try:
            translation = finish_case(
                read.ready, made, self._request(job), self.translator.preprocessing
            )
            translation = dataclasses.replace(
                translation, warnings=(*translation.warnings, *read.notes)
            )
            self._refuse_vanished()
            write_translation(
                translation,
                self.output,
                job.files,
                overwrite=self.options.overwrite or read.replace,
                staging_name=_staging_name(job),
            )
        except Exception as error:
            return self.fail(job, error)
        forget_failure(self.output, job.id)
        return Outcome(
            job.id,
            "written",
            time.perf_counter() - read.began,
            translation.scan.sha256,
            translation.warnings,
        )

    def fail(self, job: CaseJob, error: Exception) -> Outcome:
        """Turn an error into the case's outcome, and save that.

        Raises:
            StopBatch: The error is not about this case, but about the whole output folder.
        """
        self._refuse_vanished()
        if isinstance(error, StopBatch):
            raise error
        if isinstance(error, OutputError) and stops_everything(error):
            raise StopBatch(error) from error
        if not isinstance(error, VoxlateError):
            logger.error("%s: unexpected error", job.id, exc_info=error)
        outcome = failed(job, error)
        try:
            save_failure(self.output, outcome)
        except OutputError as worse:
            raise StopBatch(worse) from worse
        except OSError as worse:
            raise StopBatch(_not_writable(self.output, worse)) from worse
        return outcome

    def _request(self, job: CaseJob) -> Request:
        return Request(
            job.id,
            job.source,
            job.targets,
            self.options.seed,
            self.steps,
            self.scale,
            self.options.stored_as,
            job.others,
            self.further,
        )

    def _refuse_without_reference(self, job: CaseJob) -> None:
        """Refuse a target, named by a row of a table, that has no reference of its intensities.

        Raises:
            UsageError: Likewise.
        """
        missing = [name for name in job.targets if name not in self.scale.references]
        if self.scale.name == "match" and missing:
            raise UsageError(
                f"no reference for {', '.join(missing)}",
                "name the target with --to, too",
                code="E_INTENSITY",
                file=job.scan,
            )

    def _earlier(self, job: CaseJob) -> tuple[CaseJob, bool, tuple[str, ...], dict | None]:
        """Judge what earlier runs left: the job to do, whether to replace, notes, or the record.

        Raises:
            OutputError: What is there is not a result of these options.
        """
        folder = self.output / job.files.folder
        staging = folder / _staging_name(job)
        try:
            record = read_manifest(self.output / job.files.record)
        except FileNotFoundError:
            interrupted = staging.is_dir()  # then nothing else can have taken these names
            check_outputs(folder, job.files.names, overwrite=self.options.overwrite or interrupted)
            return job, interrupted, (), None
        except OutputError:
            if self.options.overwrite:
                return job, True, (), None
            raise
        if record.get("Fingerprint") != self.fingerprint:
            if self.options.overwrite:
                return job, True, (), None
            raise OutputError(
                "its results were made with other options or weights",
                "add --overwrite or name another folder",
                code="E_OPTIONS",
                file=self.output / job.files.record,
            )
        found = difference(record, folder, full=self.options.verify == "full")
        if found is not None:
            return job, True, (f"W_REDONE: {found}",), None
        if (found := _changed_inputs(job, record)) is not None:
            return job, True, (f"W_REDONE: {found}",), None
        if missing := [name for name in job.targets if name not in record["Outputs"]]:
            note = f"W_REDONE: {', '.join(missing)} was not asked for before"
            return _with_earlier_targets(job, record), True, (note,), None
        shutil.rmtree(staging, ignore_errors=True)
        return job, False, (), record

    def _refuse_vanished(self) -> None:
        """Refuse to write into a folder that took the place of the one this run began with.

        Raises:
            StopBatch: The output folder is gone.
        """
        if _identity(self.output) != self._root:
            raise StopBatch(
                OutputError(
                    "the output folder is gone, or another has taken its place",
                    "mount or make it again, then start the same command",
                    code="E_OUTPUT",
                    file=self.output,
                )
            )


def _with_earlier_targets(job: CaseJob, record: dict) -> CaseJob:
    """The job that makes again what its record has, too: a record speaks for all its files."""
    folder, files = Path(job.files.folder), job.files

    def earlier(entries: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        return {
            target: (folder / entry["File"]).as_posix()
            for target, entry in entries.items()
            if target not in job.targets
        }

    volumes, deviations = earlier(record["Outputs"]), earlier(record.get("Deviations", {}))
    named = {**volumes, **{f"{target}_sd": path for target, path in deviations.items()}}
    sidecars = {name: f"{path.removesuffix('.nii.gz')}.json" for name, path in named.items()}
    files = dataclasses.replace(
        files,
        volumes={**volumes, **files.volumes},
        deviations={**deviations, **files.deviations},
        sidecars={**sidecars, **files.sidecars} if files.sidecars else files.sidecars,
    )
    return dataclasses.replace(job, targets=(*volumes, *job.targets), files=files)


def _changed_inputs(job: CaseJob, record: dict) -> str | None:
    """What a finished case was made from that is not what is given now, or None."""
    before = inputs_of(record)
    for modality, file in job.inputs.items():
        if modality not in before:
            return f"there was no {modality} before"
        if sha256_of(file) != before[modality]:
            what = modality if job.others else "scan"
            return f"the {what} is another than before"
    gone = [name for name in before if name not in job.inputs]
    return f"it was made from {', '.join(gone)}, too" if gone else None


def _read_unchanged(job: CaseJob, translator: Translator, options: CaseOptions) -> ReadyCase:
    """Read scans that nobody writes to meanwhile, and that are no other one's copy.

    Raises:
        ScanError: A scan cannot be used, changed while it was read, or was given twice; or they do
            not belong together.
    """
    states = {file: _state(file) for file in job.inputs.values()}
    if job.others:
        inputs = read_inputs(
            job.inputs,
            translator.modalities,
            register=options.register,
            overrides=options.overrides,
        )
        ready = prepare_together(inputs, translator.preprocessing)
    else:
        ready = read_case(
            job.scan,
            translator.preprocessing,
            modality=job.source,
            overrides=options.overrides,
        )
    for file, before in states.items():
        if _state(file) != before:
            raise ScanError(
                "the file changed while it was read",
                "wait until it is copied, then run again",
                code="E_CHANGED",
                file=file,
            )
    size = states[job.scan][1:2]
    for modality, other in job.given.items():
        if modality in job.inputs or _state(other)[1:2] != size:
            continue
        if sha256_of(other) == ready.scan.sha256:
            raise ScanError(
                f"it was given as {job.source} and, byte for byte, as {modality} ({other})",
                "give each contrast its own scan",
                code="E_SAME_INPUT",
                file=job.scan,
            )
    return ready


def _state(path: str) -> tuple[int, ...]:
    """Time of change and size of a file; nothing where it cannot be asked."""
    try:
        stat = os.stat(path)
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        stat = folder.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _staging_name(job: CaseJob) -> str:
    """The same for a case in every run, so that what a killed run left is found and deleted."""
    return (
        ".voxlate-"
        + hashlib.sha256(job.files.record.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    )


def _not_writable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot be written ({error.strerror or error})",
        "check the folder, its permissions and the free space",
        code="E_OUTPUT",
        file=folder,
    )
