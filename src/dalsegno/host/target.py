"""The directory that a restore writes to: made if it is missing; with care where it is the root of the system."""

import errno
import os
from pathlib import Path
from typing import Final

from dalsegno.formats.objects import Entry
from dalsegno.host.setting import FULL_ERRORS
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import Full, NoAccess, NotFound, Refused
from dalsegno.trees.read import lookup

SYSTEM_NAMES: Final = (b"etc", b"usr")
"""What the root of every system has: a backup with both is one of a whole system."""
ROOT_KEPT: Final = "/ keeps its owner, mode and times: the backup is not one of a whole system"
ROOT_REFUSED: Final = (
    "--delete in / would remove the system: this backup has no /etc and /usr; "
    "give --path, or restore to another directory"
)


def make_target(place: bytes) -> bool:
    """Make the target unless it is there; return whether it was made. Full, NoAccess, NotFound, Refused."""
    shown = os.fsdecode(place)
    try:
        os.mkdir(place, 0o700)
        return True
    except FileExistsError:
        if not os.path.isdir(place):
            raise Refused(f"{shown}: not a directory") from None
        return False
    except FileNotFoundError:
        raise NotFound(f"{shown}: its parent directory does not exist") from None
    except OSError as error:
        if error.errno == errno.EROFS and os.path.isdir(place):
            return False  # where nothing differs nothing has to be written
        if error.errno == errno.EROFS:
            raise NoAccess(f"{shown}: read-only: mount it for writing, or choose another target") from error
        if error.errno in FULL_ERRORS:
            raise Full(f"{shown}: no space left there: free some, or choose another target") from error
        raise


def is_root_of_other(directory: int, source: Source, root: Entry) -> bool:
    """Tell whether an open directory is the root of this system, and the tree not one of a whole system."""
    if not os.path.samestat(os.fstat(directory), Path("/").stat()):
        return False
    return any(lookup(source, root.content, name) is None for name in SYSTEM_NAMES)
