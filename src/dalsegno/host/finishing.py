"""Finish a directory whose files are all there: delete what the tree has not, then set the directory's attributes."""

import os
import re
from contextlib import suppress
from typing import Final

from dalsegno.host.access import close_again
from dalsegno.host.deleting import Deleter
from dalsegno.host.existing import Existing, compare, is_plainly_equal, say_unattainable
from dalsegno.host.frame import Frame
from dalsegno.host.kept import KeptTimes
from dalsegno.host.losses import XATTR
from dalsegno.host.restoring import Restoring
from dalsegno.host.setting import set_all, set_flags
from dalsegno.terms.errors import DalError
from dalsegno.world.chance import random_bytes

_TEMPORARY_PREFIX: Final = b".dal-restore-"
_TEMPORARY: Final = re.compile(rb"^\.dal-restore-[0-9a-f]{16}(-[0-9]+)?\Z")


def temporary_name() -> bytes:
    """Return a name for files of one restore before they get their own; a later restore removes what is left of it."""
    return _TEMPORARY_PREFIX + random_bytes(8).hex().encode()


class Finisher:
    """Finishes directories of a restore."""

    def __init__(self, restoring: Restoring, deleter: Deleter, times: KeptTimes) -> None:
        self._restoring = restoring
        self._options = restoring.options
        self._wanted = restoring.wanted
        self._outcome = restoring.outcome
        self._deleter = deleter
        self._times = times
        self.keeps_root = False
        """Whether the target itself keeps its attributes."""

    def end(self, frame: Frame) -> None:
        """Finish a directory, and say when that fails. Full, NoAccess, and what no further file would survive."""
        try:
            self._finish(frame)
        except (DalError, OSError, OverflowError, ValueError) as error:
            with suppress(OSError):
                close_again(frame.fd, frame.opened)
            self._restoring.escalate(error)
            self._outcome.fail_with(frame.path, error)
        finally:
            if frame.own_fd:
                os.close(frame.fd)
                frame.fd, frame.own_fd = -1, False

    def _finish(self, frame: Frame) -> None:
        if frame.fd < 0:
            return
        self._delete_rest(frame)
        if (frame.selection is not None and not frame.fresh) or (self.keeps_root and not frame.path):
            close_again(frame.fd, frame.opened)
        elif frame.fresh or self._differs(frame):
            self._set_attributes(frame)

    def _delete_rest(self, frame: Frame) -> None:
        """Delete what was there and was not met in the tree, if it is to be deleted."""
        for name in sorted(frame.existing) if frame.selection is None else ():
            stale = _TEMPORARY.match(name) is not None
            if stale or (self._options.delete and not frame.damaged):
                self._deleter.delete(frame, name, is_counted=not stale)

    def _differs(self, frame: Frame) -> bool:
        """Tell whether the attributes of a directory that was there differ from its entry's; count it."""
        entry, fd, opened = frame.entry, frame.fd, frame.opened
        stat, owner = os.fstat(fd), self._wanted.owners.of(entry)
        if opened is None and is_plainly_equal(fd, stat, entry, owner):
            self._outcome.result.unchanged += 1
            return False
        directory = Existing(fd, stat, directory=fd, opened=opened)
        difference = compare(directory, entry, owner, self._wanted.xattrs_of(entry), self._times)
        if not difference:
            say_unattainable(stat, entry, owner, self._restoring.lose(frame.path))
            close_again(fd, opened)
            self._outcome.result.unchanged += 1
            return False
        self._outcome.count(os.fstat(fd), entry, frame.path, difference)
        if XATTR in difference and not self._options.dry_run:
            frame.open_up()
        return True

    def _set_attributes(self, frame: Frame) -> None:
        if self._options.dry_run:
            return
        entry, lose = frame.entry, self._restoring.lose(frame.path)
        wanted, owner = self._wanted.xattrs_of(entry), self._wanted.owners.of(entry)
        set_all(frame.fd, entry, wanted, owner, lose, is_native=frame.file_system.is_native)
        if entry.flags or not frame.fresh:
            set_flags(frame.fd, entry.flags, lose)
