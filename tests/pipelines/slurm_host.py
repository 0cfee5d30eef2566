"""A Slurm of one host, in a folder: its own key, its own ports, its own daemons.

It gives away 16 processors and 64 GB, whatever there are: job files run as they are written.

Nothing of the system's configuration is read or changed. Needs Debian's ``slurm-wlm`` and
``munge``; runs as root or as any user, whose jobs are then the only ones.
"""

from __future__ import annotations

import getpass
import os
import platform
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
START_SECONDS = 120.0
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=65536 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class SlurmHost:
    """A running Slurm.

    Args:
        folder: With ``slurm.conf``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *command: str, more: Mapping[str, str] | None = None) -> str:
        """Run one of Slurm's commands; what it printed."""
        done = subprocess.run(
            command,
            env={**self.environment, **(more or {})},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def submit(self, *arguments: str, more: Mapping[str, str] | None = None) -> str:
        """``sbatch``; the job's number."""
        return self.call("sbatch", "--parsable", *arguments, more=more).strip()

    def tasks(self, job: str) -> list[dict[str, str]]:
        """What is known of each task of a job: ``JobState``, ``ExitCode`` and so on."""
        text = self.call("scontrol", "--oneliner", "show", "job", job)
        return [
            dict(word.split("=", 1) for word in line.split() if "=" in word)
            for line in text.splitlines()
        ]

    def wait(self, job: str, seconds: float = 1800.0) -> list[dict[str, str]]:
        """Wait until every task of a job has ended."""
        until = time.monotonic() + seconds
        while True:
            tasks = self.tasks(job)
            if all(task["JobState"] in ENDED for task in tasks):
                return tasks
            assert time.monotonic() < until, f"{tasks}\n{self.logs()}"
            time.sleep(0.5)

    def logs(self) -> str:
        """The end of what daemons and jobs said."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.folder.glob("*.log"))
        )


@contextmanager
def running(folder: Path) -> Iterator[SlurmHost]:
    """Start the daemons, wait until the node takes jobs, and stop them in the end.

    Args:
        folder: Empty; its path must be short, for sockets.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)  # munged looks at who could write to its folders
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=platform.node().split(".")[0],
            user=getpass.getuser(),
            folder=folder,
            controller=_free_port(),
            node=_free_port(),
        )
    )
    host = SlurmHost(folder)
    munged = [
        "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
        f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munged.log",
        f"--seed-file={folder}/munge.seed",
    ]  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(_daemon(host, *munged))
        until(lambda: (folder / "munge.socket").exists(), host)
        stack.enter_context(_daemon(host, "slurmctld", "-D"))
        stack.enter_context(_daemon(host, "slurmd", "-D"))
        until(lambda: "idle" in _state(host), host)
        try:
            yield host
        finally:  # what a failed test leaves must not outlive the daemons that know of it
            host.call("scancel", "--user", getpass.getuser())
            until(lambda: not host.call("squeue", "--noheader").strip(), host)


@contextmanager
def _daemon(host: SlurmHost, program: str, *arguments: str) -> Iterator[None]:
    path = _program(program)
    assert path is not None
    with (host.folder / f"{program}.out.log").open("wb") as log:
        process = subprocess.Popen(
            [path, *arguments], env=host.environment, cwd=host.folder, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def missing_programs() -> list[str]:
    """Those of Slurm's and munge's programs that are not installed."""
    return [name for name in PROGRAMS if _program(name) is None]


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _state(host: SlurmHost) -> str:
    try:
        return host.call("sinfo", "--noheader", "--format=%T")
    except AssertionError:
        return ""  # the controller is not up yet


def until(ready: Callable[[], object], host: SlurmHost, seconds: float = START_SECONDS) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, host.logs()
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
