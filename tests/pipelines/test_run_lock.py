"""One run for each shard of a folder."""

import json
from pathlib import Path

import pytest

from voxlate.data_prep import UsageError
from voxlate.pipelines.run_lock import run_lock, running
from voxlate.pipelines.shards import WHOLE, Shard


def test_second_run_is_refused_and_told_who_is_at_work(tmp_path: Path) -> None:
    with run_lock(tmp_path, WHOLE):
        assert running(tmp_path) == ["1-of-1"]
        with (
            pytest.raises(UsageError, match="process [0-9]+ on") as caught,
            run_lock(tmp_path, WHOLE),
        ):
            pass
        assert caught.value.code == "E_LOCKED"
    assert running(tmp_path) == []
    with run_lock(tmp_path, WHOLE) as died:
        assert died is None


def test_shards_of_one_split_run_side_by_side(tmp_path: Path) -> None:
    with run_lock(tmp_path, Shard(1, 2)), run_lock(tmp_path, Shard(2, 2)):
        assert running(tmp_path) == ["1-of-2", "2-of-2"]
        with pytest.raises(UsageError), run_lock(tmp_path, Shard(1, 3)):
            pass


def test_run_that_died_is_told_to_the_next(tmp_path: Path) -> None:
    with run_lock(tmp_path, WHOLE):
        note = (tmp_path / ".voxlate" / "locks" / "1-of-1.json").read_bytes()
    (tmp_path / ".voxlate" / "locks" / "1-of-1.json").write_bytes(note)
    with run_lock(tmp_path, WHOLE) as died:
        assert died is not None and "process" in json.loads(died)
