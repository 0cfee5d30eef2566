import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_damage_crashes_the_reader_or_costs_much(tmp_path: Path, count: int) -> None:
    script = Path(__file__).with_name("fuzz_reader.py")
    done = subprocess.run(
        [sys.executable, script, str(count), tmp_path], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["crashes"] == []
    assert found["seconds"] < 2 and found["mib"] < 200
    assert len(found["found"]) > 10  # damage of many kinds was tried
    assert sum(found["found"].values()) == count
