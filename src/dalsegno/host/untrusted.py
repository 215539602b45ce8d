"""What a backup of somebody else must not bring with it: whoever restores it as root would run what he was sent.

Left out are set-user-id and set-group-id, devices, attributes of the namespaces `security` and `trusted`, flags that
lock files, and owners: everything belongs to who restores it.
"""

import os
from typing import Final

from msgspec.structs import replace

from dalsegno.formats.objects import ENTRY_BLOCK_DEVICE, ENTRY_CHAR_DEVICE, Entry
from dalsegno.host.attributes import FLAGS_LOCKING

SET_ID_BITS: Final = 0o6000
FORBIDDEN_XATTRS: Final = (b"security.", b"trusted.")
DEVICES: Final = (ENTRY_CHAR_DEVICE, ENTRY_BLOCK_DEVICE)
DEVICE_LEFT: Final = "a device: left out, since the backup is not trusted (--trusted restores it)"

SET_ID, DEVICE, XATTRS, FLAGS, OWNERS = "set-id", "device", "security or trusted attribute", "locking flag", "owner"


class Taming:
    """Takes from entries what is not trusted, and counts it."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._own = (os.geteuid(), os.getegid())

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def entry(self, entry: Entry) -> Entry:
        """Return an entry without what is not trusted; its extended attributes are told by `xattrs`."""
        if entry.mode & SET_ID_BITS:
            self._count(SET_ID)
            entry = replace(entry, mode=entry.mode & ~SET_ID_BITS)
        if entry.flags & FLAGS_LOCKING:
            self._count(FLAGS)
            entry = replace(entry, flags=entry.flags & ~FLAGS_LOCKING)
        if (entry.uid, entry.gid) != self._own:
            self._count(OWNERS)
        return replace(entry, uid=self._own[0], gid=self._own[1], owner=b"", group=b"")

    def is_forbidden(self, entry: Entry) -> bool:
        """Tell whether an entry is not made at all, and count it."""
        if entry.kind in DEVICES:
            self._count(DEVICE)
            return True
        return False

    def xattrs(self, found: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the extended attributes that may be set."""
        kept = [(name, value) for name, value in found if not name.startswith(FORBIDDEN_XATTRS)]
        for _ in range(len(found) - len(kept)):
            self._count(XATTRS)
        return kept


def count_taming(counts: dict[str, int]) -> str:
    """Return in words what was left out."""
    return ", ".join(f"{count:,} {what}{'' if count == 1 or what == SET_ID else 's'}" for what, count in counts.items())
