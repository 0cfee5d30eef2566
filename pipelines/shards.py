"""A fixed part of a list of cases for each of several runs, without anything shared."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from voxlate.data_prep import UsageError

T = TypeVar("T")
COUNT_VARIABLE = "VOXLATE_SHARDS"


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, counted from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, items: Sequence[T]) -> list[T]:
        """Every ``count``-th item, beginning with the ``index``-th."""
        return list(items[self.index - 1 :: self.count])

    def part(self, index: int, count: int) -> Shard:
        """Split this shard: its items at ``index`` of every ``count``, counted from 0."""
        return Shard(self.index + self.count * index, self.count * count)


WHOLE = Shard(1, 1)


def choose_shard(
    text: str | None, environment: Mapping[str, str] | None = None
) -> tuple[Shard, str]:
    """The shard that was asked for, or the one that a scheduler's variables tell.

    Read are, in this order: tasks of a Slurm array (and of a step with several tasks in it), a
    Kubernetes indexed job, whose number of completions must be put into ``VOXLATE_SHARDS``.

    Args:
        text: ``i/n``; None leaves it to the scheduler.
        environment: By default this process's.

    Returns:
        The shard, and where it comes from.

    Raises:
        UsageError: It is no part of anything.
    """
    if text is not None:
        return _parse(text, "--shard"), "--shard"
    env = os.environ if environment is None else environment
    shard, origin = WHOLE, "no scheduler"
    if "SLURM_ARRAY_TASK_ID" in env:
        first, step = (
            _number(env, "SLURM_ARRAY_TASK_MIN", 0),
            _number(env, "SLURM_ARRAY_TASK_STEP", 1),
        )
        place = (_number(env, "SLURM_ARRAY_TASK_ID", 0) - first) // max(step, 1)
        shard = _checked(place + 1, _number(env, "SLURM_ARRAY_TASK_COUNT", 1), "Slurm's array")
        origin = "Slurm's array"
    elif "JOB_COMPLETION_INDEX" in env:
        if COUNT_VARIABLE not in env:
            raise UsageError(
                "this is a task of a Kubernetes indexed job, but of how many is not said",
                f"set {COUNT_VARIABLE} to the job's completions, or give --shard",
                code="E_SHARD",
            )
        index = _number(env, "JOB_COMPLETION_INDEX", 0) + 1
        shard = _checked(index, _number(env, COUNT_VARIABLE, 1), "the Kubernetes job")
        origin = "the Kubernetes job"
    tasks = _number(env, "SLURM_STEP_NUM_TASKS", 1)
    if "SLURM_STEP_ID" in env and tasks > 1:  # SLURM_NTASKS is set outside of srun, too
        shard = shard.part(_number(env, "SLURM_PROCID", 0), tasks)
        origin = "Slurm's step" if origin == "no scheduler" else f"{origin} and step"
    return shard, origin


def _parse(text: str, origin: str) -> Shard:
    index, slash, count = text.partition("/")
    if not (slash and index.strip().isdecimal() and count.strip().isdecimal()):
        raise UsageError(f"{origin} is {text!r}", "give i/n, such as 2/8", code="E_SHARD")
    return _checked(int(index), int(count), origin)


def _checked(index: int, count: int, origin: str) -> Shard:
    if not 1 <= index <= count:
        raise UsageError(
            f"{origin} says part {index} of {count}", "parts go from 1 to n", code="E_SHARD"
        )
    return Shard(index, count)


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    value = env.get(name, "")
    try:
        return int(value) if value else default
    except ValueError:
        raise UsageError(f"{name} is {value!r}", "give --shard i/n", code="E_SHARD") from None
