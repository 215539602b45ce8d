"""Further names of hard-linked files that a restore has written under their first."""

import errno
import os
from contextlib import suppress
from typing import Final

from dalsegno.formats.objects import Entry
from dalsegno.host.access import unlocked
from dalsegno.host.changes import LINKS
from dalsegno.host.frame import Frame
from dalsegno.host.links import FirstNames
from dalsegno.host.losses import LINK
from dalsegno.host.restoring import Restoring
from dalsegno.host.setting import why
from dalsegno.host.writing import FileWriter
from dalsegno.terms.errors import Conflict, Damaged

_NO_LINK_ERRORS: Final = {errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS}
"""The place has no hard links, no more of them for this file, or none between these directories."""


class FurtherNames:
    """Links names to files that are there; knows the first name of each."""

    def __init__(self, restoring: Restoring, writer: FileWriter) -> None:
        self._restoring = restoring
        self._outcome = restoring.outcome
        self._writer = writer
        self.first = FirstNames()
        self.failed: set[int] = set()
        """Files (numbers in the links table) that could not be restored."""
        self.device = 0
        """That of the target, on which the inodes of first names are."""

    def restore(self, frame: Frame, entry: Entry, path: bytes, stat: os.stat_result | None) -> bool:
        """Restore a name of a file that has another already; False when the file itself is to be written there.

        Damaged when the file could not be restored, Conflict when its first name was replaced.
        """
        if entry.link in self.failed:
            raise Damaged("the file that this is a name of could not be restored")
        row = self.first.find(entry.link)
        if row is None:
            return False
        if stat is not None and stat.st_ino == self.first.inode(row) and stat.st_dev == self.device:
            self._outcome.result.unchanged += 1
            return True
        if self._restoring.options.dry_run or self._link(row, frame, entry.name, path, stat):
            if self._outcome.tell is not None:
                entry = self._restoring.wanted.linked_file(entry)
            self._outcome.count(stat, entry, path, {LINKS})
            return True
        return False  # a copy, to which the names that follow are linked

    def _link(self, row: int, frame: Frame, name: bytes, path: bytes, stat: os.stat_result | None) -> bool:
        """Make `name` a further name of a file, in the place of what `stat` says is there; tell if that can be."""
        temporary = self._restoring.temporary
        frame.open_up()
        if stat is None:
            self._restoring.announce("rename")
        try:
            self._make(row, frame.fd, name if stat is None else temporary)
        except OSError as error:
            if error.errno not in _NO_LINK_ERRORS:
                raise
            first = self.first.directory(row) + b"/" + self.first.name(row)
            self._outcome.lose(path, LINK, f"{why(error)}: a copy of {os.fsdecode(first.lstrip(b'/'))}")
            return False
        if stat is not None:
            try:
                self._writer.place(frame.fd, name, stat)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=frame.fd)
                raise
        return True

    def _make(self, row: int, directory: int, name: bytes) -> None:
        known = self.first
        above, first = known.open_directory(self._restoring.way.root, row), known.name(row)
        if os.stat(first, dir_fd=above, follow_symlinks=False).st_ino != known.inode(row):
            shown = os.fsdecode(known.directory(row) + b"/" + first)
            raise Conflict(f"{shown.lstrip('/')}: replaced while it was restored")
        try:
            os.link(first, name, src_dir_fd=above, dst_dir_fd=directory, follow_symlinks=False)
        except PermissionError:
            with unlocked(above, first):
                os.link(first, name, src_dir_fd=above, dst_dir_fd=directory, follow_symlinks=False)
