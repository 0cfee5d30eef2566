"""Faults that are tried with the command itself, as a user starts it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator

import fault_stub
from bench import Bench, Row, leftovers, partial, volumes

from voxlate.pipelines.run_lock import run_lock
from voxlate.pipelines.shards import WHOLE


def everyday(bench: Bench) -> Iterator[Row]:
    """The command as a user starts it: closed output, no home, no network, signals, deaths."""
    for trial in (bare, terminated, dying_worker, two_runs):
        yield trial(bench)


def bare(bench: Bench) -> Row:
    """No standard output, no home, no network: every Python process tells of its connections."""
    hook = bench.folder / "hook"
    hook.mkdir(exist_ok=True)
    calls = bench.folder / "connections"
    (hook / "sitecustomize.py").write_text(
        "import sys\n"
        "def note(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        f"        open({str(calls)!r}, 'a').write(event + repr(arguments[1:]) + '\\n')\n"
        "sys.addaudithook(note)\n"
    )
    output = bench.folder / "bare"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(hook), bench.environment["PYTHONPATH"]]),
    }
    arguments = bench.batch(output, "--pattern", "case_00[0-2]/*")
    shell = 'exec "$@" >&-'
    done = subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, "-m", "voxlate.pipelines.cli", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    count = len(calls.read_text().splitlines()) if calls.exists() else 0
    made = len(volumes(output))
    return Row(
        "standard output closed, HOME and all else unset, connections watched in every process",
        "exit 0, all outputs, 0 connection attempts, no traceback",
        f"exit {done.returncode}, {made} of 9 outputs, {count} connection attempts",
        done.returncode == 0 and made == 9 and count == 0 and "Traceback" not in done.stderr,
    )


def terminated(bench: Bench) -> Row:
    """SIGTERM to the command while it works; then the same command again."""
    output = bench.folder / "terminated"
    arguments = [sys.executable, "-m", "voxlate.pipelines.cli", *bench.batch(output)]
    slow = {**bench.environment, fault_stub.SECONDS: "1"}
    process = subprocess.Popen(arguments, env=slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + 300
    while not volumes(output) and time.monotonic() < until:
        time.sleep(0.1)
    began = time.monotonic()
    process.terminate()
    process.communicate()
    seconds = time.monotonic() - began
    some = len(volumes(output))
    left = leftovers(output)
    again = bench.cli(*bench.batch(output, "--pattern", "case_00[0-3]/*"))
    whole = volumes(bench.folder / "undisturbed")
    good = not partial(output, whole) and again.returncode == 0
    return Row(
        "SIGTERM while cases are at work, then the same command",
        "exit 143 within 20 s; nothing partial or temporary; the restart goes on",
        f"exit {process.returncode} after {seconds:.1f} s with {some} outputs; restart: "
        f"{again.stdout.strip().splitlines()[-1] if again.stdout.strip() else again.stderr[-200:]}",
        process.returncode == 143 and seconds <= 20 and good and not left,
    )


def dying_worker(bench: Bench) -> Row:
    """A case that kills its worker, as the system does when memory is short."""
    scans = bench.folder / "deadly"
    fault_stub.write_scans(scans, 4)
    bright = scans / "case_002" / "t1.nii.gz"
    bright.unlink()
    fault_stub.write_bright(bright)
    output = bench.folder / "dying"
    environment = {**bench.environment, fault_stub.KILLER: str(fault_stub.BRIGHT)}
    done = bench.cli(*bench.batch(output, scans=scans), environment=environment)
    failures = [line for line in done.stderr.splitlines() if line.startswith("FAILED")]
    return Row(
        "a case during which its worker gets SIGKILL, among good ones",
        "tried once more alone, then E_WORKER_DIED; the others written; exit 8",
        f"exit {done.returncode}, {len(volumes(output))} of 9 outputs; "
        + "; ".join(line.split(": ", 1)[1] for line in failures),
        done.returncode == 8 and len(volumes(output)) == 9 and "E_WORKER_DIED" in str(failures),
    )


def two_runs(bench: Bench) -> Row:
    """A second command on the folder of one that is at work."""
    output = bench.folder / "two"
    output.mkdir()
    with run_lock(output, WHOLE):
        done = bench.cli(*bench.batch(output))
    line = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    return Row(
        "a second run on the same folder",
        "exit 2, one line that says who is at work",
        f"exit {done.returncode}: {_anonymous(line.replace(str(bench.folder), '...'))}",
        done.returncode == 2 and "another run is at work" in line and not volumes(output),
    )


def _anonymous(line: str) -> str:
    """The line without this machine's name, which is nobody's business in a page of the docs."""
    return line.replace(f" on {platform.node()} ", " on <host> ")
