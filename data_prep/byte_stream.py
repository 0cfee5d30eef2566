"""The plain bytes of a file, gzip inflated to its trailer, no more in memory than was asked for."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator

from .errors import ScanError
from .file_content import is_nifti, refuse_other_content
from .scan_file import COPY_AGAIN, ScanFile

MAX_TAIL = 2**24  #: bytes after the voxels that are read through to reach the checksum
MAX_SILENCE = 2**20  #: compressed bytes that may go by without giving a plain one
FREE_MEMBERS = 64  #: gzip members beyond these must hold MIN_MEMBER bytes each on average
MIN_MEMBER = 512
HEAD = 544  #: bytes by which a file is recognised; the larger header ends within them
PACKED_CHUNK, PLAIN_CHUNK = 2**16, 2**20


class ByteStream:
    """The plain bytes of a file, in order, with gzip's checksum and length verified.

    Time and memory are bounded by what is asked for, not by what a file claims: the bytes after the
    voxels, members and stretches that hold nothing are limited.
    """

    def __init__(self, file: ScanFile) -> None:
        self.file = file
        self._handle, self._info = file.open()
        self.size = self._info.st_size
        self.packed = file.name.lower().endswith(".gz")
        self._hash: hashlib._Hash | None = hashlib.sha256()
        self.sha256 = ""
        try:
            self._check_name(self._handle.read(HEAD))
        except BaseException:
            self.close()
            raise
        self._begin()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def rewind(self) -> None:
        """Go back to the first byte; what is read again counts in no checksum of the file."""
        self._hash = None
        self._begin()

    def _begin(self) -> None:
        self._handle.seek(0)
        self._buffer = bytearray()
        self.position = 0
        self._chunks = self._inflate() if self.packed else self._plain()

    def _check_name(self, head: bytes) -> None:
        """Refuse content that is not what the name says, by what it is instead."""
        gzipped = head.startswith(b"\x1f\x8b")
        if gzipped and not self.packed:
            raise self.file.refuse("E_NAME", "gzip data", "rename it to .nii.gz")
        if gzipped:
            return
        refuse_other_content(head, self.file)
        if self.packed and is_nifti(head):
            raise self.file.refuse("E_NAME", "not gzip data", "rename it to .nii")
        if self.packed:
            raise self.file.refuse(
                "E_NOT_NIFTI", "neither gzip nor NIfTI data", "export or download it again"
            )

    def _read(self, count: int) -> bytes:
        chunk = self._handle.read(count)
        if self._hash is not None:
            self._hash.update(chunk)
        return chunk

    def _plain(self) -> Iterator[bytes]:
        while chunk := self._read(PLAIN_CHUNK):
            yield chunk

    def _inflate(self) -> Iterator[bytes]:
        """Inflate every gzip member; zlib checks the CRC and the length at the end of each."""
        engine = zlib.decompressobj(wbits=31)
        pending, members, inflated, silence = b"", 1, 0, 0
        while True:
            pending = pending or self._read(PACKED_CHUNK)
            if not pending:
                raise self.file.truncated()
            try:
                plain = engine.decompress(pending, PLAIN_CHUNK)
            except zlib.error as error:
                raise self._damaged(str(error)) from None
            silence = 0 if plain else silence + len(pending)
            pending = engine.unconsumed_tail
            inflated += len(plain)
            if plain:
                yield plain
            if engine.eof:
                pending = self._next_member(engine.unused_data)
                if not pending:
                    return
                engine, members = zlib.decompressobj(wbits=31), members + 1
            if silence > MAX_SILENCE or members > FREE_MEMBERS + inflated // MIN_MEMBER:
                raise self.file.refuse(
                    "E_CORRUPT", "gzip data with next to nothing in it", "compress it again"
                )

    def _next_member(self, rest: bytes) -> bytes:
        """Return the start of another gzip member, or nothing where there is none."""
        rest, passed = rest or self._read(PACKED_CHUNK), 0
        while rest and not rest.strip(b"\0"):  # zero padding of tapes and tar
            passed = self._pass(rest, passed)
            rest = self._read(PACKED_CHUNK)
        if len(rest) == 1:
            rest += self._read(1)
        if not rest or rest.startswith(b"\x1f\x8b"):
            return rest
        self.file.warn("W_TRAILING", "data after the gzip stream was ignored")
        while rest:  # the checksum of the file is of all its bytes
            passed = self._pass(rest, passed)
            rest = self._read(PACKED_CHUNK)
        return b""

    def _pass(self, ignored: bytes, before: int) -> int:
        if before + len(ignored) > MAX_TAIL:
            raise self.file.refuse(
                "E_SIZE", "far more data than its gzip stream", "compress the scan again"
            )
        return before + len(ignored)

    def _damaged(self, reason: str) -> ScanError:
        if "data check" in reason or "length check" in reason:
            return self.file.refuse("E_CRC", "the gzip checksum does not match", COPY_AGAIN)
        return self.file.refuse("E_CORRUPT", "the gzip data is damaged", COPY_AGAIN)

    def peek(self, count: int) -> bytes:
        """Return the next ``count`` plain bytes, fewer at the end, without passing them."""
        while len(self._buffer) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._buffer += chunk
        return bytes(self._buffer[:count])

    def take(self, count: int, block: int) -> Iterator[bytes]:
        """Give the next ``count`` plain bytes in blocks of ``block``, the last one shorter.

        Raises:
            ScanError: There are fewer.
        """
        while count > 0:
            wanted = min(block, count)
            piece = self.peek(wanted)
            if len(piece) < wanted:
                raise self.file.truncated()
            del self._buffer[:wanted]
            self.position += wanted
            count -= wanted
            yield piece

    def skip_to(self, offset: int) -> None:
        """Pass over the plain bytes before ``offset``."""
        for _ in self.take(offset - self.position, PLAIN_CHUNK):
            pass

    def finish(self) -> None:
        """Read to the end, so that the checksum of the last byte has been seen.

        Raises:
            ScanError: The gzip data is damaged, far longer than it should be, or was written to
                while it was read.
        """
        extra = self._drain()
        if extra > MAX_TAIL:
            raise self.file.refuse(
                "E_SIZE", "far more data than the header announces", "export the scan again"
            )
        if extra:
            self.file.warn("W_TRAILING", f"{extra} bytes after the voxels were ignored")
        now = os.fstat(self._handle.fileno())
        if (now.st_size, now.st_mtime_ns) != (self._info.st_size, self._info.st_mtime_ns):
            raise self.file.refuse(
                "E_CHANGED", "it changed while it was read", "try again when it is complete"
            )
        if self._hash is not None:
            self.sha256 = self._hash.hexdigest()

    def damage(self) -> ScanError | None:
        """Look for a reason why a header makes no sense: was the gzip data hurt on its way?"""
        if not self.packed:
            return None
        try:
            self._drain()
        except ScanError as error:
            return error
        return None

    def _drain(self) -> int:
        """Read on, though not without end; return the number of plain bytes."""
        extra = len(self._buffer)
        self._buffer.clear()
        for chunk in self._chunks:
            extra += len(chunk)
            if extra > MAX_TAIL:
                break
        return extra
