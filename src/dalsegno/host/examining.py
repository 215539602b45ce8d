"""Decide what must be done to a file that is there already, so that it is what the tree says."""

import errno
import os
import stat as modes
from itertools import chain
from typing import Final, NamedTuple

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.host.access import CAP_FOWNER, OWNER_READS, has_capability, lend
from dalsegno.host.attributes import place_of
from dalsegno.host.changes import CONTENT, KIND
from dalsegno.host.existing import Existing, change, compare, is_plainly_equal, say_unattainable
from dalsegno.host.frame import Frame
from dalsegno.host.kept import KeptTimes
from dalsegno.host.removal import MOUNTED
from dalsegno.host.restoring import FORMS, PATH_FLAGS, READ_FLAGS, Restoring
from dalsegno.host.setting import once
from dalsegno.terms.errors import Conflict
from dalsegno.terms.sizes import MIB
from dalsegno.trees.read import iterate_content

EQUAL: Final = "equal"
CHANGED: Final = "changed"
ANEW: Final = "anew"


class Verdict(NamedTuple):
    """What a file that is there needs: nothing, no more than the attributes that it got, or to be written anew."""

    action: str
    what: frozenset[str] = frozenset()
    """In what it differed from the tree."""


MADE: Final = Verdict(ANEW)
"""For a name that is not there."""
SAME: Final = Verdict(EQUAL)
OTHER_KIND: Final = Verdict(ANEW, frozenset({KIND}))
OTHER_CONTENT: Final = Verdict(ANEW, frozenset({CONTENT}))


class Examiner:
    """Compares files of the target with their entries, and sets attributes where no more is needed."""

    def __init__(self, restoring: Restoring) -> None:
        self._restoring = restoring
        self._options = restoring.options
        self._wanted = restoring.wanted
        self.times = KeptTimes(may_write=not restoring.options.dry_run)

    def examine_content(self, directory: int, entry: Entry, stat: os.stat_result) -> Verdict:
        """Tell whether an existing file has the entry's kind and content. Damaged, NotFound."""
        name = entry.name
        if modes.S_IFMT(stat.st_mode) != FORMS[entry.kind]:
            return OTHER_KIND
        is_same = True
        if entry.kind == objects.ENTRY_FILE:
            is_same = stat.st_size == entry.size and self.times.is_same(directory, stat.st_mtime_ns, entry.mtime_ns)
            is_same = is_same and (not self._options.verify_content or self._content_equal(directory, entry))
        elif entry.kind == objects.ENTRY_SYMLINK:
            is_same = os.readlink(name, dir_fd=directory) == entry.content
        elif entry.kind in (objects.ENTRY_CHAR_DEVICE, objects.ENTRY_BLOCK_DEVICE):
            is_same = stat.st_rdev == entry.device
        return SAME if is_same else OTHER_CONTENT

    def fix_attributes(self, frame: Frame, entry: Entry, path: bytes, stat: os.stat_result) -> Verdict:
        """Give an existing file the entry's attributes. Conflict, Damaged, NotFound.

        It is to be written anew when they differ and are not ours to set, or when it has further names, of which some
        may lie outside the target.
        """
        name = entry.name
        fd, lent = self._open(frame.fd, name, modes.S_IFMT(stat.st_mode))
        is_open = fd >= 0
        try:
            if not is_open:
                fd = os.open(name, PATH_FLAGS, dir_fd=frame.fd)
            now = os.fstat(fd)
            if (now.st_dev, now.st_ino) != (stat.st_dev, stat.st_ino):
                raise Conflict(f"{os.fsdecode(path)}: replaced while it was restored")
            owner = self._wanted.owners.of(entry)
            if is_open and is_plainly_equal(fd, stat, entry, owner):
                return SAME
            wanted = self._wanted.xattrs_of(entry)
            file = Existing(fd, stat, directory=frame.fd, name=name, is_open=is_open)
            difference = compare(file, entry, owner, wanted, self.times)
            lose = self._restoring.lose(path)
            if not difference:
                say_unattainable(stat, entry, owner, lose)
                return SAME
            what = frozenset(difference)
            if self._options.dry_run:
                return Verdict(CHANGED, what)
            if stat.st_nlink > 1 or not may_change(stat):
                return Verdict(ANEW, what)
            if frame.place.mount and frame.place.mount != place_of(fd).mount:
                raise OSError(errno.EXDEV, MOUNTED)
            lose = lose if frame.file_system.is_native else once(lose)
            change(file, entry, owner, wanted, difference, lose, is_native=frame.file_system.is_native)
            lent = None
            return Verdict(CHANGED, what)
        finally:
            if lent is not None:
                os.fchmod(fd, lent)
            if fd >= 0:
                os.close(fd)

    def _open(self, directory: int, name: bytes, form: int) -> tuple[int, int | None]:
        """Open an existing file or directory; return the fd, -1 for what can only be named, and a mode to put back."""
        if form not in (modes.S_IFREG, modes.S_IFDIR):
            return -1, None
        try:
            return os.open(name, READ_FLAGS, dir_fd=directory), None
        except PermissionError:
            lent = None if self._options.dry_run else lend(directory, name, OWNER_READS)
            return (-1, None) if lent is None else (os.open(name, READ_FLAGS, dir_fd=directory), lent)

    def _content_equal(self, directory: int, entry: Entry) -> bool:
        """Compare an existing file with the content in the tree, byte by byte."""
        fd, lent = self._open(directory, entry.name, modes.S_IFREG)
        if fd < 0:
            return False
        try:
            position = 0
            for offset, data in chain(iterate_content(self._wanted.source, entry), ((entry.size, b""),)):
                while position < offset:
                    gap = os.pread(fd, min(MIB, offset - position), position)
                    if not gap or gap.count(0) != len(gap):
                        return False
                    position += len(gap)
                if data and os.pread(fd, len(data), offset) != data:
                    return False
                position = offset + len(data)
            self._wanted.compared()
            return True
        finally:
            if lent is not None:
                os.fchmod(fd, lent)
            os.close(fd)


def may_change(stat: os.stat_result) -> bool:
    """Tell whether the mode and times of a file are ours to set."""
    return stat.st_uid == os.geteuid() or has_capability(CAP_FOWNER)
