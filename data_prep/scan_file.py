"""The file that a verdict is about: whether it is one at all, and how a refusal names it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from .errors import ScanError

_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
COPY_AGAIN = "copy or download it again"


class ScanFile:
    """A path, and the warnings gathered while it is read.

    Args:
        path: Where the bytes are.
        name: What the file is, or will be, called; decides the format.
    """

    def __init__(self, path: Path, *, name: str | None = None) -> None:
        self.path = path
        self.name = path.name if name is None else name
        self.warnings: list[str] = []

    def refuse(self, code: str, what: str, todo: str) -> ScanError:
        """Make the refusal that names this file."""
        return ScanError(what, todo, code=code, file=self.path)

    def warn(self, code: str, text: str) -> None:
        """Note what is tolerated."""
        self.warnings.append(f"{code}: {text}")

    def truncated(self) -> ScanError:
        """Make the refusal of a file that ends too early."""
        return self.refuse("E_TRUNCATED", "the file ends too early", COPY_AGAIN)

    def open(self) -> tuple[BinaryIO, os.stat_result]:
        """Open a regular file with a NIfTI name; never waits, whatever the path leads to.

        Raises:
            ScanError: It is missing, a folder, a pipe, a device, half of a pair or another format.
        """
        name = self.name.lower()
        if name.startswith("._"):
            raise self.refuse("E_NAME", "a macOS side file, not an image", "leave it out")
        if name.endswith((".hdr", ".img", ".hdr.gz", ".img.gz")):
            raise self.refuse(
                "E_PAIR", "one half of a header/image pair", "convert the pair to one .nii.gz file"
            )
        try:
            info = os.stat(self.path)
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from None
        self._refuse_irregular(info)
        if not name.endswith((".nii", ".nii.gz")):
            raise self.refuse(
                "E_FORMAT",
                "not a NIfTI file by its name",
                "convert it to .nii.gz (dcm2niix for DICOM, mri_convert for .mgz)",
            )
        try:
            handle = open(self.path, "rb", opener=_open_without_waiting)  # noqa: SIM115
        except OSError as error:
            raise self._unreachable(error) from None
        try:
            info = os.fstat(handle.fileno())  # of what was opened, were it swapped meanwhile
            self._refuse_irregular(info)
            if info.st_size == 0:
                raise self.refuse("E_EMPTY", "the file is empty", COPY_AGAIN)
        except BaseException:
            handle.close()
            raise
        return handle, info

    def _refuse_irregular(self, info: os.stat_result) -> None:
        if not stat.S_ISREG(info.st_mode):
            what = "a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file"
            raise self.refuse("E_PATH", what, "give a .nii or .nii.gz file")

    def _unreachable(self, error: OSError | ValueError) -> ScanError:
        reason = getattr(error, "strerror", None) or "not a valid path"
        todo = "check the path and its permissions"
        try:
            if "annex" in os.readlink(self.path):
                reason, todo = "its content is not here", "fetch it first (datalad get)"
        except (OSError, ValueError):
            pass
        return self.refuse("E_PATH", f"cannot be opened ({reason})", todo)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | _OPEN)
