"""The memory of a writable mount: what is new in it and stored is dropped, once it is much and the kernel forgot it."""

from typing import Final

from dalsegno.formats import fuse
from dalsegno.mount.changes import Changes
from dalsegno.mount.push import Tell
from dalsegno.terms.times import SECOND_NS
from dalsegno.world.clock import ticks_ns
from dalsegno.world.memory import give_back_freed

INODES_KEPT_MAX: Final = 16 * 1024
PRUNED_AT_ONCE_MAX: Final = 4096
LOOK_NS: Final = SECOND_NS
GIVE_BACK_NS: Final = 2 * SECOND_NS
"""Caches and commits leave gaps in the heaps, 100 MiB after some minutes of writing; to give them back takes 1 ms."""
REST_NS: Final = 5 * SECOND_NS
"""After a look that freed little: all else is in use, or not stored yet."""


class InodeEvictor:
    """Keeps the inodes of one mount few."""

    def __init__(self, changes: Changes, tell: Tell) -> None:
        self._changes = changes
        self._tell = tell
        self._next_ns = 0
        self._asked = False
        self._given_back_ns = 0
        self._change_count = 0

    def look(self) -> None:
        """Drop what can be dropped, and ask the kernel to forget more; to be called now and then."""
        changes = self._changes
        if changes.change_count != self._change_count and ticks_ns() - self._given_back_ns > GIVE_BACK_NS:
            self._change_count, self._given_back_ns = changes.change_count, ticks_ns()
            give_back_freed()
        before = len(changes.hot)
        if before <= INODES_KEPT_MAX or ticks_ns() < self._next_ns:
            return
        changes.evict(INODES_KEPT_MAX // 2)
        # What the kernel was asked to forget it says later that it forgot.
        in_use = self._asked and len(changes.hot) > before - before // 16
        self._asked = len(changes.hot) > INODES_KEPT_MAX
        if self._asked:
            self._ask(changes.evictable(INODES_KEPT_MAX // 2))
        self._next_ns = ticks_ns() + (REST_NS if in_use else LOOK_NS)

    def _ask(self, found: list[tuple[int, int, bytes]]) -> None:
        for at in range(0, len(found), PRUNED_AT_ONCE_MAX):
            part = found[at : at + PRUNED_AT_ONCE_MAX]
            if self._tell(fuse.encode_prune([node for node, _, _ in part])):
                continue
            for _, parent, name in part:
                if name:
                    self._tell(fuse.encode_inval_entry(parent, name))
