"""Parts of a list: disjoint, complete, and told by schedulers' variables."""

import pytest

from voxlate.data_prep import UsageError
from voxlate.pipelines.shards import Shard, choose_shard

SLURM = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_MIN": "5",
    "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "4",
}


@pytest.mark.parametrize("count", [1, 3, 7, 30])
def test_shards_are_a_fixed_split(count: int) -> None:
    items = list(range(20))
    parts = [Shard(index, count).of(items) for index in range(1, count + 1)]
    assert sorted(sum(parts, [])) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_part_of_a_shard_is_a_split_of_its_items() -> None:
    items = list(range(50))
    whole = Shard(2, 3)
    parts = [whole.part(index, 4).of(items) for index in range(4)]
    assert sorted(sum(parts, [])) == whole.of(items)


@pytest.mark.parametrize(
    ("text", "env", "expected"),
    [
        (None, {}, Shard(1, 1)),
        ("2/5", SLURM, Shard(2, 5)),
        (None, SLURM, Shard(2, 4)),
        (None, {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "2"}, Shard(1, 2)),
        (None, {"JOB_COMPLETION_INDEX": "0", "VOXLATE_SHARDS": "3"}, Shard(1, 3)),
        (None, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Shard(1, 1)),
        (
            None,
            {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"},
            Shard(3, 4),
        ),
        (
            None,
            {**SLURM, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"},
            Shard(6, 8),
        ),
    ],
)
def test_shard_is_the_one_asked_for_or_the_schedulers(
    text: str | None, env: dict[str, str], expected: Shard
) -> None:
    assert choose_shard(text, env)[0] == expected


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ("0/3", {}),
        ("4/3", {}),
        ("3", {}),
        ("a/b", {}),
        ("1/0", {}),
        (None, {"JOB_COMPLETION_INDEX": "0"}),
        (None, {"JOB_COMPLETION_INDEX": "3", "VOXLATE_SHARDS": "3"}),
        (None, {"SLURM_ARRAY_TASK_ID": "x"}),
    ],
)
def test_what_is_no_part_is_refused(text: str | None, env: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        choose_shard(text, env)
    assert caught.value.code == "E_SHARD"
