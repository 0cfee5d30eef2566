"""Try every fault and write what was measured: ``python -m benchmarks.faults [--nightly]``.

Writes docs/faults.md. With ``--nightly`` 200 kills and 2,000 cases, else 20 and 300.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from itertools import chain
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the parts name each other as the workers do

from checkout import ROOT, package  # noqa: E402, found by the line above


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nightly", action="store_true", help="200 kills, 2,000 cases")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "faults.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        path = package(Path(work) / "package")
        sys.path.insert(0, str(path))
        import everyday
        import trials
        from bench import Bench, table

        bench = Bench(Path(work) / "bench", 20, path)
        try:
            rows = []
            for row in chain(
                [trials.kills(bench, 200 if options.nightly else 20, picture=True)],
                trials.all_others(bench, cases=2000 if options.nightly else 300),
                everyday.everyday(bench),
            ):
                rows.append(row)
                print(row, flush=True)  # a long run that is stopped leaves what it measured
        finally:
            bench.close()
    text = PAGE.format(
        machine=f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        command="python -m benchmarks.faults" + (" --nightly" if options.nightly else ""),
        table=table(rows),
    )
    options.output.write_text(text, encoding="utf-8")
    print(text)
    if not all(row.held for row in rows):
        raise SystemExit(1)


PAGE = """# Faults, tried for real

Written by `{command}` ({machine}); do not edit. The network is a stub (the identity,
50 ms), everything else is the product: reading, writing, records, locks, workers. A quick part runs
with every test run, the rest with the slow tests (`tests/pipelines/test_faults.py`).

{table}

A killed run has lost the work on two cases at most: the one in the network and the one being
written beside it. "Finished translations" are those that had left the network.
"""


if __name__ == "__main__":
    main()
