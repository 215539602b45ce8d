"""A way down through directories by file descriptors: no path is ever resolved twice, no symlink followed.

Only the deepest `OPEN_MAX` directories stay open; the way back up goes through `..` and is checked, so that trees
of any depth work within the limit of open files.
"""

import os
from typing import Final

from dalsegno.terms.errors import Conflict

OPEN_MAX: Final = 128
DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Descent:
    """The open directories from a root down to the current one. Owns all its fds, the root's too."""

    def __init__(self, root: int) -> None:
        self._fds = [root]
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

    def enter(self, name: bytes) -> int:
        """Open the subdirectory `name` and make it the current one."""
        fds = self._fds
        fd = os.open(name, DIRECTORY_FLAGS, dir_fd=fds[-1])
        fds.append(fd)
        if len(fds) > OPEN_MAX:
            index = len(fds) - OPEN_MAX  # at least 1: the root stays open
            if fds[index] >= 0:
                stat = os.fstat(fds[index])
                self._marks[index] = (stat.st_dev, stat.st_ino)
                os.close(fds[index])
                fds[index] = -1
        return fd

    def leave(self) -> int:
        """Go back to the parent and return its fd."""
        fds = self._fds
        fd = fds.pop()
        index = len(fds) - 1
        try:
            if fds[index] < 0:
                parent = os.open(b"..", DIRECTORY_FLAGS, dir_fd=fd)
                fds[index] = parent
                stat = os.fstat(parent)
                if (stat.st_dev, stat.st_ino) != self._marks.pop(index):
                    raise Conflict("a directory was moved while it was in use: run again")
        finally:
            os.close(fd)
        return fds[index]

    def close(self) -> None:
        """Close everything that is open."""
        while self._fds:
            fd = self._fds.pop()
            if fd >= 0:
                os.close(fd)


def remove_tree(directory: int, name: bytes) -> None:
    """Remove `name` and all beneath it, without following symlinks or leaving `directory`."""
    try:
        os.unlink(name, dir_fd=directory)
        return
    except IsADirectoryError:
        pass
    except PermissionError:  # POSIX lets unlink of a directory say EPERM
        pass
    way = Descent(os.open(name, DIRECTORY_FLAGS, dir_fd=directory))
    names = [name]
    try:
        while names:
            deeper = None
            fd = way.fd
            for child in map(os.fsencode, os.listdir(fd)):
                try:
                    os.unlink(child, dir_fd=fd)
                except (IsADirectoryError, PermissionError):
                    try:
                        os.rmdir(child, dir_fd=fd)
                    except OSError:
                        deeper = child
                        break
            if deeper is not None:
                way.enter(deeper)
                names.append(deeper)
                continue
            done = names.pop()
            if names:
                os.rmdir(done, dir_fd=way.leave())
    finally:
        way.close()
    os.rmdir(name, dir_fd=directory)
