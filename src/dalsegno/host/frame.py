"""One directory on the way of a restore: what is there, what is still to come, and what its file system is like."""

import errno
import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from dalsegno.formats.objects import Entry
from dalsegno.host import attributes
from dalsegno.host.access import Opened, open_up
from dalsegno.host.attributes import Place
from dalsegno.host.batch import Batch
from dalsegno.host.ignore import Scope
from dalsegno.host.kept import fold, folds_names
from dalsegno.host.selection import Selection
from dalsegno.host.setting import Lose, set_flags

NOWHERE: Final = Place(0, 0)


class FileSystem(NamedTuple):
    """What the file system of a directory is like."""

    is_native: bool
    """Whether it says what it does not take."""
    folds: bool
    """Whether it takes names that differ in case alone for one."""


NATIVE: Final = FileSystem(is_native=True, folds=False)


class Frame:
    """One directory that is being restored. `fd` is -1 where a dry run has no directory."""

    __slots__ = (
        "batch",
        "batches_pending",
        "damaged",
        "entry",
        "existing",
        "fd",
        "file_system",
        "fresh",
        "inherited",
        "is_open_up",
        "items",
        "met_names",
        "opened",
        "own_fd",
        "parent",
        "path",
        "place",
        "plain",
        "scope",
        "selection",
    )

    def __init__(
        self, entry: Entry, path: bytes, fd: int, items: Iterator[Entry], *, fresh: bool, selection: Selection | None
    ) -> None:
        self.entry = entry
        self.path = path
        self.fd = fd
        self.items = items
        self.fresh = fresh
        self.selection = selection
        self.existing: set[bytes] = set()
        self.damaged = False
        self.met_names = False
        # Files for a worker to write; `plain` directories give them no extended attributes.
        self.plain = False
        self.batch = Batch()
        self.batches_pending = 0
        self.own_fd = False
        self.place = NOWHERE
        # Flags of the directory that new files in it begin with.
        self.inherited = 0
        self.file_system = NATIVE
        # What was changed so that files can be written there: taken back at the end.
        self.is_open_up = fresh
        self.opened: Opened | None = None
        # For the patterns in force there, which are looked for when something is to be deleted.
        self.parent: Frame | None = None
        self.scope: Scope | None = None

    def open_up(self) -> None:
        """Make the directory one that may be changed; its end takes that back."""
        if not self.is_open_up:
            self.is_open_up = True
            lent = self.opened
            self.opened = open_up(self.fd)
            if lent is not None:
                self.opened = Opened(mode=lent.mode, flags=self.opened.flags if self.opened is not None else None)

    def look_at_place(self, *, may_write: bool) -> None:
        """Find out what the directory's file system is like."""
        folds = folds_names(self.fd, may_write=may_write)
        self.file_system = FileSystem(is_native=attributes.is_native(self.fd), folds=folds)

    def look_at_flags(self) -> None:
        """Find out what new files begin with, and decide whether they can be written by the batch."""
        self.inherited = (attributes.get_flags(self.fd) or 0) & attributes.FLAGS_INHERITED
        self._settle_plain()

    def begin_new(self, inherited: int, lose: Lose) -> None:
        """Begin a new directory without the flags of the one above, and with those that it takes only while empty."""
        flags = self.entry.flags & attributes.FLAG_CASEFOLD
        if inherited or flags:
            set_flags(self.fd, flags, lose)
            self.inherited = (attributes.get_flags(self.fd) or 0) & attributes.FLAGS_INHERITED
        self._settle_plain()

    def take_alias(self, name: bytes) -> None:
        """Find out what a new name means where several are one: what stands there, or what was restored before."""
        try:
            found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        with os.scandir(self.fd) as items:
            names = {os.fsencode(item.name): item.inode() for item in items}
        like = [each for each in names if fold(each) == fold(name)]
        like += [each for each, inode in names.items() if inode == found.st_ino]
        waiting = [each for each in like if each in self.existing]
        if like and not waiting:
            text = f"{os.fsdecode(like[0])} was restored there: this file system takes the two names for one"
            raise OSError(errno.EEXIST, text)
        self.existing.difference_update(waiting[:1])
        self.existing.add(name)

    def _settle_plain(self) -> None:
        if self.inherited & attributes.FLAG_CASEFOLD:
            self.file_system = self.file_system._replace(folds=True)
        self.plain = self.plain and not self.inherited and not self.file_system.folds
