"""How much a tree may hold: what its revision says of itself, and room for counts that are somewhat wrong.

A kilobyte of directories that name one another often stands for more files than any disk holds. Whoever walks a tree
counts, and ends beyond this; whoever takes in a tree of others measures it first (`measure.py`).
"""

from typing import Final

from dalsegno.formats.objects import Revision
from dalsegno.terms.errors import Damaged
from dalsegno.terms.sizes import MIB, format_size

TIMES: Final = 2
ENTRIES_MORE: Final = 1000
BYTES_MORE: Final = 64 * MIB


def entries_max(revision: Revision) -> int:
    """Return how many names a walk through a revision meets at most."""
    return TIMES * revision.entry_count + ENTRIES_MORE


def bytes_max(revision: Revision) -> int:
    """Return how many bytes the files of a revision have at most, each counted once."""
    return TIMES * revision.total_bytes + BYTES_MORE


def too_many(revision: Revision) -> Damaged:
    """Return the error for a tree that goes on beyond what its revision says."""
    return Damaged(
        f"the tree goes on beyond the {revision.entry_count:,} files and directories that its revision speaks of: "
        "made wrong, or made to fill disks; what came until here is not all of it"
    )


def too_large(revision: Revision) -> Damaged:
    """Return the error for files that have more bytes than their revision says."""
    return Damaged(
        f"its files have more than the {format_size(revision.total_bytes)} that its revision speaks of: made wrong, or "
        "made to fill disks; what came until here is not all of it"
    )
