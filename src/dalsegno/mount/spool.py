"""Where written bytes wait for their commit: a file without a name that only grows, and is emptied from the front.

A place, once given out, keeps its bytes until `free` is told that nobody needs them: so what is being committed and
what is written meanwhile never meet.
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dalsegno.terms.errors import Full
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.world.files import file_errors, make_directory
from dalsegno.world.workers import new_lock

_PUNCH_HOLE_KEEP_SIZE: Final = 3
_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
NEWEST_BYTES_MAX: Final = 1 * MIB
SMALL_BYTES_MAX: Final = 64 * KIB
FREE_BYTES_MIN: Final = 16 * MIB
"""Less than this is not worth a call."""


class Spool:
    """Bytes by place: the newest in memory, all others in a file. Not thread-safe but for `read`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.tail = 0
        self._head = 0
        self._lock = new_lock()
        self._newest = bytearray()
        self._written = 0
        """The place where the bytes in memory begin."""
        make_directory(directory)
        with file_errors(directory):
            self._descriptor = os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)

    @property
    def held_bytes(self) -> int:
        """How much waits."""
        return self.tail - self._head

    def append(self, data: bytes | memoryview) -> int:
        """Add bytes and return their place."""
        place = self.tail
        if len(data) < SMALL_BYTES_MAX:
            # A call to the system costs as much as all else that is done for a small file.
            if len(self._newest) + len(data) > NEWEST_BYTES_MAX:
                self._write_newest()
            with self._lock:
                self._newest += data
        else:
            self._write_newest()
            self._write(data)
            self._written += len(data)
        self.tail += len(data)
        return place

    def _write_newest(self) -> None:
        if self._newest:
            with self._lock:
                self._write(self._newest)
                self._written += len(self._newest)
                self._newest = bytearray()

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        written = 0
        with file_errors(self._directory):
            while written < len(data):
                rest = data if not written else memoryview(data)[written:]
                written += os.pwrite(self._descriptor, rest, self._written + written)

    def read(self, place: int, length: int) -> bytes:
        """Return bytes that were added."""
        with self._lock:
            newest = place + length - self._written
            tail = bytes(self._newest[max(0, place - self._written) : newest]) if newest > 0 else b""
        data = tail if len(tail) == length else os.pread(self._descriptor, length - len(tail), place)
        while len(data) + len(tail) < length:
            more = os.pread(self._descriptor, length - len(tail) - len(data), place + len(data))
            if not more:
                raise Full(f"{self._directory}: the spool lost {length - len(tail) - len(data)} bytes")
            data += more
        return data if len(tail) == length else data + tail

    def free(self, before: int) -> None:
        """Give back all places below `before`."""
        if before >= self.tail:
            with self._lock:
                os.ftruncate(self._descriptor, 0)
                self._newest = bytearray()
                self.tail = self._head = self._written = 0
        elif min(before, self._written) - self._head >= FREE_BYTES_MIN:
            before = min(before, self._written)
            _fallocate(self._descriptor, _PUNCH_HOLE_KEEP_SIZE, self._head, before - self._head)
            self._head = before

    def trim(self, kept: Iterable[tuple[int, int]]) -> bool:
        """Give back all but the ranges (place, end) that are kept; tell whether that made any room."""
        before = os.fstat(self._descriptor).st_blocks
        at = self._head
        for place, end in [*sorted(kept), (self._written, self._written)]:
            gap_end = min(place, self._written)
            if at < gap_end:
                _fallocate(self._descriptor, _PUNCH_HOLE_KEEP_SIZE, at, gap_end - at)
            at = max(at, end)
        return os.fstat(self._descriptor).st_blocks < before

    def close(self) -> None:
        """End it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
