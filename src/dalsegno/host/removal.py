"""Remove what a restore deletes or replaces: never into another file system, and what stays is named."""

import errno
import os
import stat as modes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dalsegno.host.access import OWNER_ALL, Opened, close_again, lend, open_up, unlocked
from dalsegno.host.attributes import Place, place_of
from dalsegno.host.descent import Descent

MOUNTED: Final = "another file system is mounted there"
Failure = tuple[bytes, OSError]
"""A path and why it was not removed."""


def crossing(above: Place, below: Place) -> str:
    """Return what begins between a directory and what lies in it: nothing, a mount, or a subvolume of btrfs."""
    if above.mount != below.mount or (not above.mount and above.device != below.device):
        return MOUNTED
    return "a subvolume of its own is there" if above.device != below.device else ""


@dataclass(slots=True)
class _Level:
    """One directory on the way down, and what is still to be removed in it."""

    name: bytes
    path: bytes
    place: Place
    opened: Opened | None
    children: list[bytes]
    is_left: bool = False


Keep = Callable[[int, bytes, os.stat_result], bool]
"""Asked of each name: the open directory, the path (from where the removal begins), and what it is; true: it stays."""


class _Removal:
    """The state of one removal; `dry_run` only looks."""

    def __init__(self, keep: Keep | None, *, dry_run: bool) -> None:
        self.keep = keep
        self.dry_run = dry_run
        self.failures: list[Failure] = []
        self.levels: list[_Level] = []

    def fail(self, path: bytes, error: OSError) -> None:
        self.failures.append((path, error))
        if self.levels:
            self.levels[-1].is_left = True

    def enter(self, way: Descent, name: bytes, path: bytes) -> None:
        """Go down into a directory that is not empty."""
        lent = None
        try:
            fd = way.enter(name)
        except PermissionError:
            lent = None if self.dry_run else lend(way.fd, name, OWNER_ALL)
            if lent is None:
                raise
            fd = way.enter(name)
        opened = None
        if not self.dry_run:
            opened = Opened(mode=lent, flags=None) if lent is not None else open_up(fd)
        children = sorted(map(os.fsencode, os.listdir(fd)), reverse=True)
        self.levels.append(_Level(name, path, place_of(fd), opened, children))

    def remove(self, way: Descent, above: Place, name: bytes, path: bytes) -> None:
        """Remove one name, or go down into it."""
        fd = way.fd
        try:
            if self.keep is None:
                try:
                    os.unlink(name, dir_fd=fd)
                    return
                except (IsADirectoryError, PermissionError):
                    pass
            stat = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if self.keep is not None and self.keep(fd, path, stat):
                if self.levels:
                    self.levels[-1].is_left = True
                return
            if self.dry_run and not modes.S_ISDIR(stat.st_mode):
                return
            if not modes.S_ISDIR(stat.st_mode):
                with unlocked(fd, name):
                    os.unlink(name, dir_fd=fd)
                return
            why = crossing(above, place_of(fd, name))
            if why:
                raise OSError(errno.EXDEV, why)
            if self.dry_run:
                self.enter(way, name, path)
                return
            try:
                self.remove_empty(fd, name)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self.enter(way, name, path)
        except FileNotFoundError:
            return
        except OSError as error:
            self.fail(path, error)

    @staticmethod
    def remove_empty(directory: int, name: bytes) -> None:
        try:
            os.rmdir(name, dir_fd=directory)
        except PermissionError:
            with unlocked(directory, name):
                os.rmdir(name, dir_fd=directory)

    def leave(self, way: Descent) -> None:
        """Remove the current directory, which is done; one that keeps something gets its mode and flags back."""
        level = self.levels.pop()
        if level.is_left:
            close_again(way.fd, level.opened)
        fd = way.leave()
        if level.is_left:
            if self.levels:
                self.levels[-1].is_left = True
            return
        if self.dry_run:
            return
        try:
            os.rmdir(level.name, dir_fd=fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.fail(level.path, error)


def remove_tree(directory: int, name: bytes, *, keep: Keep | None = None, dry_run: bool = False) -> list[Failure]:
    """Remove `name` in an open directory and all beneath it; return what could not be removed, deepest first.

    Symlinks are not followed, mounted file systems and subvolumes are not entered, locks and modes that keep us out are
    changed (and put back where something stays). Paths begin with `name`; one that is gone already is removed. What
    `keep` wants stays, with the directories that lead there, and is no failure; `dry_run` only asks.
    """
    if keep is None and not dry_run:
        try:
            os.unlink(name, dir_fd=directory)
            return []
        except OSError:
            pass
    removal = _Removal(keep, dry_run=dry_run)
    way = Descent(os.dup(directory))
    try:
        removal.remove(way, place_of(directory), name, name)
        while removal.levels:
            level = removal.levels[-1]
            if level.children:
                child = level.children.pop()
                removal.remove(way, level.place, child, level.path + b"/" + child)
            else:
                removal.leave(way)
    finally:
        while removal.levels:  # after an error: nothing stays unlocked
            level = removal.levels.pop()
            close_again(way.fd, level.opened)
            way.leave()
        way.close()
    return removal.failures
