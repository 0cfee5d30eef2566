"""What a batch would do, and how far one is: neither needs weights, neither writes anything."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from voxlate.data_prep import NoInputError

from .batch import BatchOptions, listed, saved_run
from .batch_progress import duration
from .bundle import bundle_facts
from .estimates import Estimate, available_memory, estimate, free_disk, readable
from .failures import find_failures
from .manifest import difference, find_manifests
from .quality_scores import severity
from .run_lock import running
from .shards import choose_shard

SHOWN = 5  #: cases that ``status`` names


class Plan(NamedTuple):
    """What a batch would do.

    Attributes:
        layout: Of the results.
        shard: The part of the list, and where it comes from.
        listed: Cases in the list, all shards.
        sources: Cases by source modality.
        refused: Lines of the cases that cannot be translated.
        notes: About the input.
        needs: Of this shard.
        free_disk: Bytes where the results go.
        free_memory: Bytes; None if not known.
    """

    layout: str
    shard: str
    listed: int
    sources: dict[str, int]
    refused: list[str]
    notes: list[str]
    needs: Estimate
    free_disk: int
    free_memory: int | None

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "needs": self.needs._asdict()}

    def lines(self) -> list[str]:
        """For people."""
        needs = self.needs
        sources = ", ".join(f"{count} from {name}" for name, count in self.sources.items())
        memory = "not measured for this bundle" if needs.memory is None else readable(needs.memory)
        there = "" if self.free_memory is None else f" of {readable(self.free_memory)} available"
        time = (
            "not known before the first case is finished there"
            if needs.seconds is None
            else f"about {duration(needs.seconds)} with one worker, as measured on "
            f"{needs.basis} case(s) in that folder"
        )
        return [
            f"cases:    {needs.cases} to translate ({sources}), shard {self.shard}",
            f"volumes:  {needs.volumes} as {self.layout}",
            f"refused:  {len(self.refused)}",
            *(f"          {line}" for line in self.refused),
            *(f"note:     {note}" for note in self.notes),
            f"disk:     about {readable(needs.disk)} of {readable(self.free_disk)} free",
            f"memory:   {memory} a worker{there}",
            f"time:     {time}",
        ]


class BatchStatus(NamedTuple):
    """How far a batch is.

    Attributes:
        listed: Cases when it was last started.
        finished: Cases with a record.
        failed: Cases that failed and were not finished since, by code.
        still_open: Cases that are neither.
        damaged: Finished ones whose files are not as recorded, where that was looked at.
        at_work: Shards that a run holds.
        warnings: Of finished cases, by code.
        worst: Finished cases whose scores are the worst, and how near to a limit; 1 is there.
    """

    listed: int
    finished: int
    failed: dict[str, int]
    still_open: int
    damaged: list[str]
    at_work: list[str]
    warnings: dict[str, int]
    worst: dict[str, float]

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        return self._asdict()

    def lines(self) -> list[str]:
        """For people."""
        codes = ", ".join(f"{count} {code}" for code, count in self.failed.items())
        warnings = ", ".join(f"{count} {code}" for code, count in self.warnings.items())
        return [
            f"finished: {self.finished} of {self.listed}",
            f"failed:   {sum(self.failed.values())}" + (f" ({codes})" if codes else ""),
            f"open:     {self.still_open}",
            f"at work:  {', '.join(self.at_work) or 'no run'}",
            f"warnings: {warnings or 'none'}",
            *(f"worst:    {near:.0%} of a limit: {case}" for case, near in self.worst.items()),
            *(f"damaged:  {line}" for line in self.damaged),
        ]


def plan_of(options: BatchOptions, *, shard: str | None = None) -> Plan:
    """Make the list and the estimates of ``voxlate batch`` with the same options.

    Raises:
        VoxlateError: The batch would be refused, too.
    """
    part, origin = choose_shard(shard)
    facts = bundle_facts(options.bundle)
    cases = listed(options, facts)
    jobs = part.of(cases.jobs)
    output = Path(options.output)
    return Plan(
        layout=cases.layout,
        shard=f"{part} ({origin})",
        listed=len(cases.jobs),
        sources=dict(Counter(job.source for job in jobs if job.refusal is None)),
        refused=[
            f"{job.id}: {job.refusal.code} {job.refusal.what} - {job.refusal.todo}"
            for job in jobs
            if job.refusal is not None
        ],
        notes=cases.notes,
        needs=estimate(jobs, output, facts.root, samples=options.samples or 1),
        free_disk=free_disk(output),
        free_memory=available_memory(),
    )


def status_of(output: Path, *, verify: bool = False) -> BatchStatus:
    """Count the records of a batch's output folder.

    Args:
        output: The folder.
        verify: Compare the checksum of every file.

    Raises:
        UsageError: No batch was run into this folder.
    """
    total = int(saved_run(output)["cases"])
    finished, damaged = 0, []
    warnings: Counter[str] = Counter()
    scored: dict[str, float] = {}
    for path, record in find_manifests(output):
        finished += 1
        warnings.update(warning.split(":")[0] for warning in record["Warnings"])
        if record.get("Scores"):
            scored[str(record["Options"]["CaseID"])] = round(severity(record["Scores"]), 3)
        if verify and (found := difference(record, path.parent)) is not None:
            damaged.append(found)
    failed = Counter(failure["code"] for failure in find_failures(output))
    return BatchStatus(
        listed=total,
        finished=finished,
        failed=dict(failed.most_common()),
        still_open=max(total - finished - sum(failed.values()), 0),
        damaged=damaged,
        at_work=running(output),
        warnings=dict(warnings.most_common()),
        worst=dict(sorted(scored.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]),
    )


def failed_ids(output: Path) -> list[str]:
    """The cases that ``failed.csv`` lists, all shards' lists together.

    Raises:
        NoInputError: There is no such list.
    """
    from .case_table import unescape

    ids = []
    for path in sorted([*output.glob("failed.csv"), *output.glob("failed-*-of-*.csv")]):
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            ids += [unescape(row["id"]) for row in csv.DictReader(file) if row.get("id")]
    if not ids:
        raise NoInputError(
            "no case failed here", "there is nothing to do again", code="E_NO_INPUT", file=output
        )
    return ids
