"""What a person sees of an error that ends ``monai.bundle run``."""

import subprocess
import sys
from pathlib import Path

import pytest

from voxlate.data_prep import NoInputError
from voxlate.pipelines.plain_errors import refusal_in

CONFIGURATION = """
imports:
  - $import voxlate.pipelines.plain_errors as plain_errors
  - $from voxlate.data_prep.cases import find_cases
cases: $find_cases('nowhere', ['t1'])
count: $len(@cases)
broken: $1 / 0
initialize:
  - $plain_errors.refuse_plainly()
run:
  - $print({wanted})
"""


@pytest.mark.parametrize("wanted", ["@count", "@broken"])
def test_a_refusal_is_a_line_and_a_bug_keeps_its_traceback(
    wanted: str, tmp_path: Path, importable: dict[str, str]
) -> None:
    (tmp_path / "run.yaml").write_text(CONFIGURATION.format(wanted=wanted))
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "run.yaml"]
    ended = subprocess.run(command, env=importable, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1
    if wanted == "@broken":
        assert "Traceback" in ended.stderr
        assert "ZeroDivisionError" in ended.stderr
    else:
        assert "Traceback" not in ended.stderr
        assert ended.stderr.splitlines()[-1].startswith("voxlate: nowhere: ")


def test_a_refusal_is_found_through_what_was_raised_from_it() -> None:
    refusal = NoInputError("no scans", "name another folder", code="E_NO_CASES")
    outer = RuntimeError("evaluating @cases")
    outer.__cause__ = RuntimeError("evaluating @split")
    outer.__cause__.__cause__ = refusal
    assert refusal_in(outer) is refusal
    assert refusal_in(RuntimeError("a bug")) is None
    assert refusal_in(None) is None
