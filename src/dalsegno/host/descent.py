"""A way down through directories by file descriptors: no path is ever resolved twice, no symlink followed.

Only the deepest directories stay open, at most `OPEN_MAX` and fewer where descriptors are scarce; the way back up goes
through `..` and is checked, so that trees of any depth work within the limit of open files.
"""

import errno
import os
import resource
from typing import Final

from dalsegno.terms.errors import Conflict

OPEN_MAX: Final = 128
OPEN_MIN: Final = 4
DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
PLACE_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""For a directory that is only looked at: nothing is mounted for it, and no server asked."""


def open_max() -> int:
    """Return how many directories one descent may keep open: a quarter of what the process may, at most OPEN_MAX."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_MAX if soft == resource.RLIM_INFINITY else max(OPEN_MIN, min(OPEN_MAX, soft // 4))


class Descent:
    """The open directories from a root down to the current one. Owns all its fds, the root's too."""

    def __init__(self, root: int) -> None:
        self._fds = [root]
        self._open_max = open_max()
        self._marks: dict[int, tuple[int, int]] = {}

    @property
    def fd(self) -> int:
        """Return the fd of the current directory."""
        return self._fds[-1]

    @property
    def root(self) -> int:
        """Return the fd of the root, which stays open."""
        return self._fds[0]

    @property
    def depth(self) -> int:
        """Return how many directories lie above the current one."""
        return len(self._fds) - 1

    def enter(self, name: bytes, *, flags: int = DIRECTORY_FLAGS) -> int:
        """Open the subdirectory `name` and make it the current one."""
        fds = self._fds
        while True:
            try:
                fd = os.open(name, flags, dir_fd=fds[-1])
                break
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._close_highest():
                    raise
        fds.append(fd)
        if len(fds) > self._open_max:
            self._close(len(fds) - self._open_max)
        return fd

    def _close_highest(self) -> bool:
        """Close the open directory that is needed last, but for the root and the current one; tell if there is one."""
        for index in range(1, len(self._fds) - 1):
            if self._fds[index] >= 0:
                self._close(index)
                return True
        return False

    def _close(self, index: int) -> None:
        fds = self._fds
        if fds[index] >= 0:
            stat = os.fstat(fds[index])
            self._marks[index] = (stat.st_dev, stat.st_ino)
            os.close(fds[index])
            fds[index] = -1

    def leave(self) -> int:
        """Go back to the parent and return its fd."""
        try:
            self.open_parent()
        finally:
            os.close(self._fds.pop())
        return self._fds[-1]

    def open_parent(self) -> None:
        """Open the parent again if it was closed: to be done before the mode of the current directory forbids it."""
        fds = self._fds
        index = len(fds) - 2
        if index < 0 or fds[index] >= 0:
            return
        parent = os.open(b"..", DIRECTORY_FLAGS, dir_fd=fds[-1])
        fds[index] = parent
        stat = os.fstat(parent)
        if (stat.st_dev, stat.st_ino) != self._marks.pop(index):
            raise Conflict("a directory was moved while it was in use: run again")

    def close(self) -> None:
        """Close everything that is open."""
        while self._fds:
            fd = self._fds.pop()
            if fd >= 0:
                os.close(fd)
