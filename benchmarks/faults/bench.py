"""A place to try faults in: the stub bundle, scans, and workers that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import fault_stub

from voxlate.pipelines.batch import BatchOptions, listed, run_fingerprint
from voxlate.pipelines.bundle import bundle_facts
from voxlate.pipelines.checkpoint import sha256_of
from voxlate.pipelines.run_case import CaseOptions

HERE = Path(__file__).parent
TARGETS = ("t1ce", "t2", "flair")


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        fault: What was done.
        must: What must hold.
        measured: What did.
        held: Whether it is so.
    """

    fault: str
    must: str
    measured: str
    held: bool


class Bench:
    """A folder with the stub bundle and scans, and a process that forks workers.

    Args:
        folder: Empty or absent.
        cases: Scans to make.
        package: Folder in which ``voxlate`` is importable by child processes.
    """

    def __init__(self, folder: Path, cases: int, package: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.bundle = fault_stub.write_bundle(folder / "stub")
        self.scans = fault_stub.write_scans(folder / "scans", cases)
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(package), str(HERE)]),
            "OMP_NUM_THREADS": "1",
        }
        self._forker = subprocess.Popen(
            [sys.executable, str(HERE / "forker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "forker.log").open("ab"),
            env=self.environment,
            text=True,
        )

    def close(self) -> None:
        """End the forking process."""
        assert self._forker.stdin is not None
        self._forker.stdin.close()
        self._forker.wait()

    def order(self, output: Path, *, picture: bool = False, scans: Path | None = None) -> dict:
        """What a worker is told to do with all scans."""
        options = BatchOptions(
            str(scans or self.scans),
            str(output),
            sources=("t1",),
            targets=TARGETS,
            picture=picture,
            bundle=str(self.bundle),
        )
        facts = bundle_facts(self.bundle)
        output.mkdir(parents=True, exist_ok=True)
        return {
            "bundle": str(self.bundle),
            "output": str(output),
            "device": "cpu",
            "options": asdict(CaseOptions()),
            "fingerprint": run_fingerprint(options, facts),
            "alone": [],
            "jobs": [asdict(job) for job in listed(options, facts).jobs],
        }

    def work(
        self,
        order: Mapping[str, Any],
        *,
        kill_at: tuple[int, float] | None = None,
        file_limit: int | None = None,
        user: int | None = None,
        watch: bool = False,
    ) -> tuple[int, list[dict[str, Any]]]:
        """Run a worker in a process group of its own.

        Args:
            order: What it is told.
            kill_at: Kill the group so many seconds after the network or the writing has taken up so
                many cases.
            file_limit: Bytes beyond which no file may grow.
            user: Whose permissions it has.
            watch: Measure memory and open files at each event.

        Returns:
            Its status (negative: the signal), and its events.
        """
        events = self.folder / "events.jsonl"
        events.unlink(missing_ok=True)
        events.touch()
        events.chmod(0o666)
        command = {
            "order": order,
            "events": str(events),
            "file_limit": file_limit,
            "user": user,
            "watch": watch,
        }
        assert self._forker.stdin is not None and self._forker.stdout is not None
        self._forker.stdin.write(json.dumps(command) + "\n")
        self._forker.stdin.flush()
        process = int(self._forker.stdout.readline())
        if kill_at is not None:
            while _alive(process) and _taken_up(events) < kill_at[0]:
                time.sleep(0.005)
            time.sleep(kill_at[1])
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        status = int(self._forker.stdout.readline())
        lines = events.read_text().splitlines()
        return status, [json.loads(line) for line in lines if line.endswith("}")]

    def cli(
        self, *arguments: str, environment: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run ``voxlate`` as a user does."""
        return subprocess.run(
            [sys.executable, "-m", "voxlate.pipelines.cli", *arguments],
            env=dict(self.environment if environment is None else environment),
            capture_output="stdout" not in options,
            text=True,
            check=False,
            **options,
        )

    def batch(self, output: Path, *more: str, scans: Path | None = None) -> list[str]:
        """Arguments of ``voxlate batch`` with the stub."""
        to = [part for target in TARGETS for part in ("--to", target)]
        return [
            "batch", str(scans or self.scans), "--output", str(output),
            "--bundle", str(self.bundle), *to, "--device", "cpu", "--no-picture", *more,
        ]  # fmt: skip


def _taken_up(events: Path) -> int:
    """How often a case has entered the network or the writing."""
    told = events.read_bytes()
    return told.count(b'"translating"') + told.count(b'"writing"')


def _alive(process: int) -> bool:
    """Whether a process that is not our child has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def volumes(output: Path) -> dict[str, str]:
    """Checksum of everything that has a volume's final name."""
    return {
        str(path.relative_to(output)): sha256_of(path)
        for path in sorted(output.rglob("*.nii.gz"))
        if not any(part.startswith(".") for part in path.relative_to(output).parts)
    }


def partial(output: Path, whole: Mapping[str, str]) -> list[str]:
    """Final names with another content than in an undisturbed run."""
    return [name for name, digest in volumes(output).items() if whole.get(name) != digest]


def leftovers(output: Path) -> list[Path]:
    """Hidden files and folders of unfinished work."""
    return list(output.rglob(".voxlate-*"))


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    head = ["| fault | must hold | measured | held |", "|---|---|---|---|"]
    return "\n".join(
        [
            *head,
            *(
                f"| {r.fault} | {r.must} | {r.measured} | {'yes' if r.held else 'NO'} |"
                for r in rows
            ),
        ]
    )
