"""A process that has imported everything and forks a batch worker whenever it is told to.

A worker that starts in a tenth of a second can be killed hundreds of times in a test. Each line of
standard input is one worker to run; standard output answers with its process id, and when it has
ended with its status.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

import fault_stub  # noqa: F401, imported once for all workers

from voxlate.pipelines import batch_worker, translator  # noqa: F401, likewise
from voxlate.pipelines.failures import StopBatch


def work(command: dict[str, Any]) -> int:
    """Run the cases of one order under the limits of the command; the status as the CLI's."""
    os.setsid()
    if command["user"] is not None:
        os.setgid(command["user"])
        os.setuid(command["user"])
    if command["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (command["file_limit"],) * 2)
    events = os.open(command["events"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def emit(event: str, fields: dict[str, Any]) -> None:
        outcome = fields.get("outcome", {})
        case = fields.get("case", outcome.get("id"))
        line = {"event": event, "case": case, "status": outcome.get("status")}
        if command["watch"]:
            line |= {
                "kB": int(Path("/proc/self/statm").read_text().split()[1]) * 4,
                "open": len(os.listdir("/proc/self/fd")),
            }
        os.write(events, (json.dumps(line) + "\n").encode())

    try:
        batch_worker.run_order(command["order"], emit)
    except StopBatch as stop:
        os.write(
            events, (json.dumps({"event": "refused", "line": str(stop.error)}) + "\n").encode()
        )
        return stop.error.exit_code
    return 0


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                status = work(json.loads(line))
            except BaseException:
                traceback.print_exc()
                status = 1
            os._exit(status)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
