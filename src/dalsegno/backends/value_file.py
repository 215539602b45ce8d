"""A file opened for many reads: how a local value, and a dump, is read."""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from dalsegno.terms.errors import BadInput, Damaged
from dalsegno.world.files import file_errors

_UNREADABLE: Final = frozenset((errno.EIO, errno.EBADMSG, errno.EUCLEAN))
"""A sector, or a file system's checksum, that is wrong."""


class OneFile:
    """A value or a pack in one file. An OpenValue."""

    def __init__(self, path: Path) -> None:
        """Open a file; NotFound, NoAccess, or BadInput for a stream, of which no part can be read again."""
        self.path = path
        with file_errors(path):
            if stat.S_IFMT(os.stat(path).st_mode) in (stat.S_IFIFO, stat.S_IFSOCK):
                raise BadInput(f"{path}: is a stream, of which no part can be read again: store it in a file first")
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self.size_bytes = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int, /) -> bytes:
        """Return the bytes from `offset` on; Damaged where the medium cannot give them."""
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            raise Damaged(f"{error.strerror} at offset {offset}") from error

    def close(self) -> None:
        """Release the descriptor."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
