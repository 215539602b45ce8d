"""One restore: how it is done, and what all its parts share."""

import errno
import os
import stat as modes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from dalsegno.formats import objects
from dalsegno.host.descent import Descent
from dalsegno.host.outcome import Outcome
from dalsegno.host.owners import OwnerMap
from dalsegno.host.setting import FULL_ERRORS, Lose, is_full
from dalsegno.host.wanted import WantedTree
from dalsegno.terms.errors import Conflict, DalError, Damaged, Full, NoAccess, NotFound
from dalsegno.world.files import durable_step
from dalsegno.world.workers import Workers

PATH_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
FORMS: Final = {
    objects.ENTRY_FILE: modes.S_IFREG,
    objects.ENTRY_DIRECTORY: modes.S_IFDIR,
    objects.ENTRY_SYMLINK: modes.S_IFLNK,
    objects.ENTRY_FIFO: modes.S_IFIFO,
    objects.ENTRY_CHAR_DEVICE: modes.S_IFCHR,
    objects.ENTRY_BLOCK_DEVICE: modes.S_IFBLK,
}
"""The bits of a mode that tell what kind of file an entry is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """How a restore is done."""

    paths: Sequence[bytes] = ()
    """The subtrees that are restored, by their paths from the root of the tree; all of it when there are none."""
    owners: OwnerMap = field(default_factory=OwnerMap)
    delete: bool = False
    """Remove what the tree does not hold, within what is restored, but for what the backup did not cover."""
    delete_excluded: bool = False
    """Remove that, too."""
    own: Iterable[bytes] = ()
    """Paths below the target that are the program's own: never removed."""
    dry_run: bool = False
    verify_content: bool = False
    """Read a file that has the entry's size and modification time, instead of taking it for equal."""
    cross_devices: bool = False
    """Restore into other file systems that are mounted below the target."""
    is_trusted: bool = True
    """Take from the tree also what `untrusted.py` names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoring:
    """What the parts of one restore share."""

    way: Descent
    """The open directories from the target down to where the restore is; -1 where a dry run has none."""
    options: RestoreOptions
    wanted: WantedTree
    outcome: Outcome
    workers: Workers | None
    temporary: bytes
    """The name under which a file is written before it gets its own."""
    is_rehearsal: bool
    """Whether each step is announced (`durable_step`), one after the other."""

    def announce(self, step: str) -> None:
        """Announce a step in a rehearsal."""
        if self.is_rehearsal:
            durable_step(step)

    def lose(self, path: bytes) -> Lose:
        """Return a listener for what the file at a path lacks."""
        return partial(self.outcome.lose, path)

    def escalate(self, error: Exception) -> None:
        """Raise what no further file would survive: Full, NoAccess, or the error itself."""
        if isinstance(error, OSError):
            root = self.way.root
            # A name that did not fit while there is room: the index of one directory is full, say.
            is_name = error.filename is not None and error.errno == errno.ENOSPC and not is_full(root)
            if error.errno in FULL_ERRORS and not is_name:
                text = "the target has no space left: free some and run the same restore again, it resumes"
                raise Full(text) from error
            if error.errno == errno.EROFS and os.fstatvfs(root).f_flag & os.ST_RDONLY:
                raise NoAccess(
                    "the target is read-only: mount it for writing and run the same restore again"
                ) from error
        if isinstance(error, DalError) and not isinstance(error, Damaged | NotFound | Conflict):
            raise error
