"""What a person is told when something cannot be used: one line, one code, one exit status."""

from __future__ import annotations

import os
from typing import ClassVar


def printable(text: str | os.PathLike[str]) -> str:
    """Return ``text`` on one line: control characters and undecodable bytes become escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in os.fspath(text))


class VoxlateError(Exception):
    """A refusal that a user can act on.

    ``str(error)`` is one line, ``<file>: <what is wrong> - <what to do>``; the command line
    prints it and ends with ``exit_code``.

    Args:
        what: What is wrong, without a full stop.
        todo: What the user can do about it.
        code: Stable name for programs, such as ``E_TRUNCATED``.
        file: The file or folder it is about, if it is about one.
    """

    exit_code: ClassVar[int] = 9

    def __init__(
        self,
        what: str,
        todo: str,
        *,
        code: str,
        file: str | os.PathLike[str] | None = None,
    ) -> None:
        self.code = code
        self.file = None if file is None else printable(file)
        self.what = printable(what)
        self.todo = printable(todo)
        super().__init__(str(self))

    def __str__(self) -> str:
        line = f"{self.what} - {self.todo}"
        return line if self.file is None else f"{self.file}: {line}"

    def __reduce__(self) -> tuple[object, ...]:  # crosses process borders with its fields
        return _rebuild, (type(self), self.what, self.todo, self.code, self.file)


def _rebuild(
    kind: type[VoxlateError], what: str, todo: str, code: str, file: str | None
) -> VoxlateError:
    return kind(what, todo, code=code, file=file)


class UsageError(VoxlateError):
    """A wrong option, an unknown modality, a name clash."""

    exit_code = 2


class NoInputError(VoxlateError):
    """Nothing to work on was found."""

    exit_code = 3


class OutputError(VoxlateError):
    """The output cannot be written: permissions, a full disk, a name that is too long."""

    exit_code = 4


class WeightsError(VoxlateError):
    """A bundle or its weights are missing, damaged or do not belong together."""

    exit_code = 5


class DeviceError(VoxlateError):
    """The device that was asked for is not there, or is too small."""

    exit_code = 6


class ScanError(VoxlateError):
    """A scan that cannot be used; alone in a run, it means that every case failed."""

    exit_code = 9
