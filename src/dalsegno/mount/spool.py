"""Where written bytes wait for their commit: a file without a name that only grows, and is emptied from the front.

A place, once given out, keeps its bytes until `free` is told that nobody needs them: so what is being committed and
what is written meanwhile never meet.
"""

import ctypes
import os
from pathlib import Path
from typing import Final

from dalsegno.terms.errors import Full
from dalsegno.terms.sizes import MIB
from dalsegno.world.files import file_errors, make_directory

_PUNCH_HOLE_KEEP_SIZE: Final = 3
_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
FREE_BYTES_MIN: Final = 16 * MIB
"""Less than this is not worth a call."""


class Spool:
    """Bytes by place. Not thread-safe but for `read`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.tail = 0
        self._head = 0
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
        written = 0
        with file_errors(self._directory):
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], place + written)
        self.tail += written
        return place

    def read(self, place: int, length: int) -> bytes:
        """Return bytes that were added."""
        data = os.pread(self._descriptor, length, place)
        while len(data) < length:
            more = os.pread(self._descriptor, length - len(data), place + len(data))
            if not more:
                raise Full(f"{self._directory}: the spool lost {length - len(data)} bytes")
            data += more
        return data

    def free(self, before: int) -> None:
        """Give back all places below `before`."""
        if before >= self.tail:
            os.ftruncate(self._descriptor, 0)
            self.tail = self._head = 0
        elif before - self._head >= FREE_BYTES_MIN:
            _fallocate(self._descriptor, _PUNCH_HOLE_KEEP_SIZE, self._head, before - self._head)
            self._head = before

    def close(self) -> None:
        """End it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
