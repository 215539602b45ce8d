"""Whether there is room for a restore, asked before it begins: half of it on a full disk helps nobody.

What is asked is what this user may still use: what a file system keeps for root does not count for others. Where files
take less than their bytes (compression, deduplication), and in file systems of other programs, nobody can tell. Quotas
of users are not asked: whoever runs into one is told then.
"""

import os
from dataclasses import dataclass
from typing import Final

from dalsegno.host.mounts import MOUNTINFO, parse_mounts

SHRINKING_KINDS: Final = frozenset((b"btrfs", b"zfs", b"bcachefs", b"f2fs", b"squashfs", b"ecryptfs", b"ubifs"))
"""File systems that may compress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is free where something is to be written."""

    free_bytes: int | None
    """None where the file system does not say: it has no end of its own."""
    free_files: int | None
    """None where files take no numbers of a table of their own."""
    is_exact: bool
    """Whether files take as much as they have bytes, as far as one can tell."""

    def fits(self, *, needed_bytes: int, needed_files: int) -> bool:
        """Tell whether so much has room."""
        free = (self.free_bytes, self.free_files)
        return all(
            known is None or needed <= known for needed, known in zip((needed_bytes, needed_files), free, strict=True)
        )


def look_for_room(place: bytes) -> Room:
    """Return what is free at a place, which need not be there yet."""
    place = os.path.realpath(place)
    while not os.path.exists(place):
        place = os.path.dirname(place)
    found = os.statvfs(place)
    blocks, files = (found.f_bfree, found.f_ffree) if os.geteuid() == 0 else (found.f_bavail, found.f_favail)
    kind = _kind_of(place)
    return Room(
        free_bytes=blocks * found.f_frsize if found.f_blocks else None,  # ramfs and some shares say nothing
        free_files=files if found.f_files else None,
        is_exact=kind not in SHRINKING_KINDS and not kind.startswith(b"fuse"),
    )


def _kind_of(place: bytes) -> bytes:
    try:
        mounts = parse_mounts(MOUNTINFO.read_bytes())
    except OSError:
        return b""
    holding = [
        mount for mount in mounts if mount.point == b"/" or (place + b"/").startswith(mount.point.rstrip(b"/") + b"/")
    ]
    # Of several at one point the last one counts: it lies over the others.
    return max(enumerate(holding), key=lambda item: (len(item[1].point), item[0]))[1].kind if holding else b""
