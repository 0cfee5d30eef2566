"""The plain bytes of a file, gzip inflated to its trailer, no more in memory than was asked for."""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Iterator

from .scan_file import ScanFile

MAX_TAIL = 2**24  #: bytes after the voxels that are read through to reach the checksum
CHUNK = 2**20


class ByteStream:
    """The plain bytes of a file, inflated as they are asked for, with the checksum verified."""

    def __init__(self, file: ScanFile) -> None:
        self.file = file
        self._hash = hashlib.sha256()
        path = file.path
        name = path.name.lower()
        if name.startswith("._"):
            raise file.refuse("E_NAME", "a macOS side file, not an image", "leave it out")
        if name.endswith((".hdr", ".img", ".hdr.gz", ".img.gz")):
            raise file.refuse(
                "E_PAIR", "one half of a header/image pair", "convert the pair to one .nii.gz file"
            )
        try:
            info = os.stat(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a valid path"
            raise file.refuse("E_PATH", f"cannot be opened ({reason})", "check the path") from None
        if not stat.S_ISREG(info.st_mode):
            what = "a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file"
            raise file.refuse("E_PATH", what, "give a .nii or .nii.gz file")
        if not name.endswith((".nii", ".nii.gz")):
            raise file.refuse(
                "E_FORMAT",
                "not a NIfTI file by its name",
                "convert it to .nii.gz (dcm2niix for DICOM, mri_convert for .mgz)",
            )
        if info.st_size == 0:
            raise file.refuse("E_EMPTY", "the file is empty", "copy or download it again")
        self.size = info.st_size
        try:
            self._handle = open(path, "rb")  # noqa: SIM115 (closed by close())
        except OSError as error:
            raise file.refuse(
                "E_PATH", f"cannot be opened ({error.strerror})", "check the permissions"
            ) from None
        self.packed = name.endswith(".gz")
        self._buffer = bytearray()
        self.position = 0
        try:
            self._check_name(self._handle.read(512))
        except BaseException:
            self.close()
            raise
        self._handle.seek(0)
        self._chunks = self._inflate() if self.packed else self._plain()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    @property
    def sha256(self) -> str:
        """Of the bytes read from disk so far."""
        return self._hash.hexdigest()

    def _check_name(self, head: bytes) -> None:
        """Refuse content that is not what the name says, by what it is instead."""
        text = head.lstrip()[:64].lower()
        if text.startswith((b"<!doctype", b"<html", b"<?xml")):
            raise self.file.refuse(
                "E_NOT_NIFTI", "looks like a web page: a failed download", "download it again"
            )
        if text.startswith(b"version https://git-lfs") or b"/annex/objects/" in head:
            raise self.file.refuse(
                "E_POINTER", "a git-lfs or DataLad pointer, not the image", "fetch the file first"
            )
        gzipped = head.startswith(b"\x1f\x8b")
        if self.packed and not gzipped:
            is_nifti = len(head) >= 348 and head[344:347] in (b"n+1", b"ni1")
            if is_nifti:
                raise self.file.refuse("E_NAME", "not gzip data", "rename it to .nii")
            raise self.file.refuse(
                "E_NOT_NIFTI", "neither gzip nor NIfTI data", "export or download it again"
            )
        if not self.packed and gzipped:
            raise self.file.refuse("E_NAME", "gzip data", "rename it to .nii.gz")

    def _read(self) -> bytes:
        chunk = self._handle.read(CHUNK)
        self._hash.update(chunk)
        return chunk

    def _plain(self) -> Iterator[bytes]:
        while chunk := self._read():
            yield chunk

    def _inflate(self) -> Iterator[bytes]:
        """Inflate every gzip member; zlib checks the CRC and the length at the end of each."""
        engine = zlib.decompressobj(wbits=31)
        pending = b""
        while True:
            pending = pending or self._read()
            if not pending:
                raise self.file.truncated()
            try:
                plain = engine.decompress(pending, CHUNK)
            except zlib.error as error:
                if "incorrect" in str(error) and "check" in str(error) and "data" in str(error):
                    raise self.file.refuse(
                        "E_CRC", "the gzip checksum does not match", "copy or download it again"
                    ) from None
                raise self.file.refuse(
                    "E_CORRUPT", "the gzip data is damaged", "copy or download it again"
                ) from None
            pending = engine.unconsumed_tail
            yield plain
            if not engine.eof:
                continue
            rest = engine.unused_data or self._read()
            while rest and not rest.strip(b"\0"):  # zero padding of tapes and tar
                rest = self._read()
            if not rest:
                return
            if not (rest + self._handle.peek(1) if len(rest) < 2 else rest).startswith(b"\x1f\x8b"):
                self.file.warn("W_TRAILING", "data after the gzip stream was ignored")
                while self._read():
                    pass
                return
            engine, pending = zlib.decompressobj(wbits=31), rest

    def peek(self, count: int) -> bytes:
        """Return the next ``count`` plain bytes, fewer at the end, without passing them."""
        while len(self._buffer) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._buffer += chunk
        return bytes(self._buffer[:count])

    def take(self, count: int) -> bytearray:
        """Return exactly the next ``count`` plain bytes."""
        parts = bytearray(count)  # one block: no copy grows while the file is read
        have = min(count, len(self._buffer))
        parts[:have] = self._buffer[:have]
        del self._buffer[:have]
        while have < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise self.file.truncated()
            used = min(count - have, len(chunk))
            parts[have : have + used] = chunk[:used]
            self._buffer += chunk[used:]
            have += used
        self.position += count
        return parts

    def skip_to(self, offset: int) -> None:
        """Pass over the plain bytes before ``offset``."""
        self.take(offset - self.position)

    def finish(self) -> None:
        """Read to the end, so that the checksum of the last byte has been seen."""
        extra = len(self._buffer)
        self._buffer.clear()
        for chunk in self._chunks:
            extra += len(chunk)
            if extra > MAX_TAIL:
                raise self.file.refuse(
                    "E_SIZE",
                    "far more data than the header announces",
                    "export the scan again",
                )
        if extra:
            self.file.warn("W_TRAILING", f"{extra} bytes after the voxels were ignored")
