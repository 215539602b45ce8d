"""Restore the entries of a tree that are no directories."""

import os
import stat as modes
from contextlib import suppress
from typing import Final

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.host import attributes
from dalsegno.host.batches import Batches
from dalsegno.host.changes import CREATE, LINKS, change_of
from dalsegno.host.deleting import Deleter
from dalsegno.host.examining import ANEW, CHANGED, MADE, Examiner, Verdict
from dalsegno.host.frame import Frame
from dalsegno.host.further_names import FurtherNames
from dalsegno.host.links import INODE_UNKNOWN
from dalsegno.host.restoring import FORMS, Restoring
from dalsegno.host.untrusted import DEVICE_LEFT
from dalsegno.host.writing import FileWriter
from dalsegno.terms.errors import Damaged
from dalsegno.trees.extents import data_bytes

BLOCK_BYTES: Final = 512
"""What st_blocks counts."""


class Leaves:
    """Restores files, symlinks, devices and FIFOs, each by what the examiner says of what is there."""

    def __init__(self, restoring: Restoring, examiner: Examiner, deleter: Deleter, batches: Batches) -> None:
        self._wanted = restoring.wanted
        self._outcome = restoring.outcome
        self._dry_run = restoring.options.dry_run
        self._examiner = examiner
        self._deleter = deleter
        self._batches = batches
        self._writer = FileWriter(restoring)
        self.names = FurtherNames(restoring, self._writer)

    def restore(self, frame: Frame, entry: Entry, path: bytes) -> None:
        """Restore one entry. OSError, Conflict, Damaged, NotFound."""
        if is_for_batch(frame, entry):
            self._add_to_batch(frame, entry, path)
            return
        stat: os.stat_result | None = None
        if entry.name in frame.existing:
            with suppress(FileNotFoundError):
                stat = os.stat(entry.name, dir_fd=frame.fd, follow_symlinks=False)
        if stat is not None and modes.S_ISDIR(stat.st_mode):
            self._deleter.check_replaced(frame, entry.name)
        link = entry.link if entry.kind == objects.ENTRY_LINK else 0
        if link:
            if self.names.restore(frame, entry, path, stat):
                return
            file = self._linked_file(entry, path)
            if file is None:
                return
            entry = file
        verdict = self._examine(frame, entry, path, stat, link) if stat is not None else MADE
        inode = stat.st_ino if stat is not None else INODE_UNKNOWN
        if verdict.action == ANEW:
            inode = self._make(frame, entry, path, stat)
        if link:
            self.names.first.add(link, frame.path, entry.name, inode)
        if verdict.action not in (ANEW, CHANGED):
            self._outcome.result.unchanged += 1
            return
        if verdict.action == ANEW and entry.flags & attributes.FLAGS_LOCKING and not self._dry_run:
            self._writer.lock_again(frame.fd, entry, path)
        self._outcome.count(stat, entry, path, verdict.what)

    def _add_to_batch(self, frame: Frame, entry: Entry, path: bytes) -> None:
        frame.open_up()
        frame.batch.add(entry, self._wanted.whole_content(entry) or b"", *self._wanted.owners.of(entry))
        if self._outcome.tell is not None:
            self._outcome.tell(change_of(CREATE, path, entry))
        if frame.batch.is_full:
            self._batches.hand_over(frame)

    def _linked_file(self, entry: Entry, path: bytes) -> Entry | None:
        """Return the file to write for the name of a link; None when it is left out."""
        is_copy = self.names.first.find(entry.link) is not None
        file = self._wanted.linked_file(entry)
        if self._wanted.is_forbidden(file):
            self._outcome.leave(path, DEVICE_LEFT)
            return None
        if is_copy:
            self._outcome.allow(file.size)
        if file.kind not in FORMS or file.kind == objects.ENTRY_DIRECTORY:
            raise Damaged("the links table names something that is no file")
        return file

    def _examine(self, frame: Frame, entry: Entry, path: bytes, stat: os.stat_result, link: int) -> Verdict:
        """Decide what a file that is there needs; one that needs no more than attributes has them then."""
        verdict = self._examiner.examine_content(frame.fd, entry, stat)
        if verdict.action == ANEW:
            return verdict
        if stat.st_nlink > 1 and (not link or self.names.first.link_of_inode(stat.st_ino) not in (None, link)):
            return Verdict(ANEW, frozenset({LINKS}))  # tied to what the tree keeps apart
        return self._examiner.fix_attributes(frame, entry, path, stat)

    def _make(self, frame: Frame, entry: Entry, path: bytes, stat: os.stat_result | None) -> int:
        """Write a file and return its inode, or in a dry run count what would be written."""
        if not self._dry_run:
            return self._writer.write(frame, entry, path, stat)
        if entry.kind == objects.ENTRY_FILE and entry.content_kind != objects.CONTENT_NONE:
            self._outcome.result.bytes_written += data_bytes(self._wanted.source, entry)
            if stat is not None and modes.S_ISREG(stat.st_mode) and stat.st_nlink == 1:
                self._outcome.result.bytes_freed += stat.st_blocks * BLOCK_BYTES
        return INODE_UNKNOWN


def is_for_batch(frame: Frame, entry: Entry) -> bool:
    """Tell whether a worker may write a file: new, small, and with nothing but owner, mode and time."""
    return (
        frame.plain
        and entry.kind == objects.ENTRY_FILE
        and not entry.xattrs
        and not entry.flags
        and (entry.content_kind in (objects.CONTENT_CHUNK, objects.CONTENT_INLINE) or not entry.size)
        and entry.name not in frame.existing
    )
