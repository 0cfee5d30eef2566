"""A file that is whole, on the disk and read back before it gets its name; or is not there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from .errors import OutputError

TEMPORARY = ".voxlate-"  #: what the names of unfinished files begin with
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CHUNK = 2**20


@contextlib.contextmanager
def write_atomically(
    path: Path, *, verify: Callable[[Path], None] | None = None
) -> Iterator[BinaryIO]:
    """Open a file that takes the name ``path`` only when the block ends without an error.

    The bytes go to a hidden file beside it (``.voxlate-*.part``), are forced to the disk, read
    back and compared; then the file is renamed and the folder's list of names forced to the disk.
    So whatever stops the process, and whenever: under ``path`` is what was there before, or all of
    the new file. Once the block has ended the new file survives a power failure too. After an
    error or an interruption the hidden file is removed; after ``kill -9`` it stays, and may be
    deleted by any later run. The file can be written to, in order, and not seeked.

    Args:
        path: In a folder that is there; replaced if it exists.
        verify: Looks into the hidden file once it is complete, and raises to keep it from ``path``.

    Raises:
        OutputError: The folder or the disk does not let it be written, or what was read back is not
            what was written.
    """
    temporary: Path | None = None
    try:
        handle, temporary = _create(path.parent)
        with _HashedWriter(os.fdopen(handle, "wb")) as file:
            yield cast(BinaryIO, file)
            file.sync()
        _compare(temporary, file.digest, path)
        if verify is not None:
            verify(temporary)
        os.replace(temporary, path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise _refusal(error, path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Force a folder's list of names to the disk, where the system can."""
    if os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(handle)


class _HashedWriter(io.BufferedIOBase):
    """Passes bytes on and remembers their checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def sync(self) -> None:
        """Force the bytes to the disk, and out of memory so that they can be read from there."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        self._file.close()
        super().close()


def _create(folder: Path) -> tuple[int, Path]:
    """Make a hidden file with the permissions that the umask leaves."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    path = folder / f"{TEMPORARY}{secrets.token_hex(8)}.part"
    return os.open(path, flags, 0o666), path


def _compare(temporary: Path, digest: str, path: Path) -> None:
    found = hashlib.sha256()
    with open(temporary, "rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    if found.hexdigest() != digest:
        raise unlike_written(path)


def unlike_written(path: Path) -> OutputError:
    """Make the refusal of a file that does not hold what was written to it."""
    return OutputError(
        "what was read back is not what was written",
        "check the disk and the memory of this machine",
        code="E_VERIFY",
        file=path,
    )


def _refusal(error: OSError, path: Path) -> OutputError:
    what = f"cannot be written ({error.strerror or error}"
    if error.errno not in _FULL:
        return OutputError(
            f"{what})",
            "check the folder, its permissions and the free space",
            code="E_OUTPUT",
            file=path,
        )
    with contextlib.suppress(OSError):  # the folder may be gone too
        what += f", {shutil.disk_usage(path.parent).free / 1e6:.0f} MB free"
    return OutputError(
        f"{what})", "free some space or name another folder", code="E_DISK_FULL", file=path
    )
