"""SIGINT and SIGTERM taken as a wish to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SECONDS = 20.0  #: that workers get to end after a signal


class Interrupted(Exception):
    """A signal ended the run; it can be continued.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class Wish:
    """Signals that came: the number of the first, 0 before it, and how many."""

    number = 0
    count = 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.number = self.number or number
        self.count += 1


@contextmanager
def signals_noted() -> Iterator[Wish]:
    """Note SIGINT and SIGTERM instead of dying of them; a second one is impatience.

    In a thread, which cannot take signals, none is ever noted.
    """
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {n: signal.signal(n, wish.note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
