"""The same work for many items, over processes."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def outcomes(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int = 1
) -> Iterator[tuple[int, Result]]:
    """Yield each item's place and result, as they come; an exception ends everything.

    Args:
        work: A function of a module, for new processes import it.
        items: What it is called with.
        workers: Processes; 1 works in this one.
    """
    if workers <= 1 or len(items) < 2:
        for index, item in enumerate(items):
            yield index, work(item)
        return
    spawn = multiprocessing.get_context("spawn")  # ITK's and torch's threads survive no fork
    pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=spawn)
    try:
        waiting = {pool.submit(work, item): index for index, item in enumerate(items)}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)
