"""The reserve of a place: a file that is there to be removed, so that what makes room works on a full disk.

`reserve` holds random bytes that nobody reads. It is made when the place is made and whenever it is missing and there
is room. A step that makes something smaller, or that must be written before something can be deleted, may use it: when
the disk is full, the reserve goes, the step is tried once more, and the reserve is made again. Killed in between, the
place is whole and has no reserve until the next writer or collection.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from dalsegno.terms.errors import DalError, Full
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.world.chance import random_bytes
from dalsegno.world.files import PARTIAL_SUFFIX, make_filler, remove_durable

RESERVE_NAME: Final = "reserve"
RESERVE_BYTES_MAX: Final = 1 * MIB
"""Room for the refs of the largest volumes, and for the ids of 30,000 dead directories."""
RESERVE_BYTES_SMALL: Final = 64 * KIB
"""While the place itself is small."""
RESERVE_BYTES_MIN: Final = 16 * KIB
RESERVE_PARTS: Final = 64
"""Of a small disk the reserve takes one part in so many."""

Result = TypeVar("Result")


def keep_reserve(root: Path, *, large: bool = False) -> bool:
    """Make the reserve unless it is there; return whether it is. Without room or rights it is left for another time.

    `large`: the place is not small any more, so the reserve is not, either.
    """
    path = root / RESERVE_NAME
    try:
        there = path.stat().st_size
    except OSError:
        there = 0
    if there and not (large and there <= RESERVE_BYTES_SMALL):
        return True
    try:
        wanted = reserve_bytes(shutil.disk_usage(root).total, large=large)
        if there < wanted:
            # Nothing compresses random bytes: on file systems that do, zeros would take no room.
            make_filler(path, random_bytes(wanted))
    except (DalError, OSError):
        return bool(there)
    return True


def reserve_bytes(disk_bytes: int, *, large: bool) -> int:
    """Return how large the reserve is on a disk of this size."""
    most = RESERVE_BYTES_MAX if large else RESERVE_BYTES_SMALL
    return max(RESERVE_BYTES_MIN, min(most, disk_bytes // RESERVE_PARTS))


def release_reserve(root: Path) -> bool:
    """Give the reserve's room to whoever needs it now; return False when there was none."""
    try:
        remove_durable(root / (RESERVE_NAME + PARTIAL_SUFFIX), sync=False)
        return remove_durable(root / RESERVE_NAME)
    except DalError:
        return False


def with_reserve(root: Path, step: Callable[[], Result]) -> Result:
    """Do `step`, and once more without the reserve if the disk is full: Full only when that does not help either."""
    try:
        return step()
    except Full:
        if not release_reserve(root):
            raise
    try:
        return step()
    finally:
        keep_reserve(root)
