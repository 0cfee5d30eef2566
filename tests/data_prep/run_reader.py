"""Read files in a process of its own, so that its memory can be measured: one line of JSON."""

import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import conftest  # noqa: E402, F401 (maps the rooms into voxlate)
from voxlate.data_prep import ScanError, read_scan  # noqa: E402


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(paths: list[str]) -> None:
    verdicts, slowest = {}, 0.0
    before = peak_mib()
    for path in paths:
        begun = time.process_time()
        try:
            read_scan(path)
            verdict = ""
        except ScanError as error:
            verdict = error.code
        slowest = max(slowest, time.process_time() - begun)
        verdicts[Path(path).name] = verdict
    print(json.dumps({"verdicts": verdicts, "seconds": slowest, "mib": peak_mib() - before}))


if __name__ == "__main__":
    main(sys.argv[1:])
