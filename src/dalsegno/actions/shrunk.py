"""A source that lost most of its files: not mounted, emptied, or moved away; never a success without a word.

What a volume had before the loss is kept in its settings until the files are back or a person accepts what is left, so
that the second night says it, too.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from dalsegno.actions.house import House
from dalsegno.terms.errors import Refused
from dalsegno.volumes.state import VolumeState

SETTING: Final = "shrunk_from"
"""The setting of a volume that keeps how many entries it had before it shrank."""
ENTRIES_BEFORE_MIN: Final = 50
"""A tree with fewer entries may shrink as it likes, unless nothing is left of it."""
SHARE_LEFT_MIN: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """How many files and directories a source had before, and how few it has now."""

    entries_before: int
    entries_now: int

    def __str__(self) -> str:
        """Return it in words, as a question to whoever keeps the source."""
        now = f"{self.entries_now:,} now" if self.entries_now else "none now"
        return f"{self.entries_before:,} files and directories before, {now}: is everything mounted?"


def find_shrunk(*, entries_before: int, entries_now: int) -> Shrunk | None:
    """Tell whether a source lost so much that it needs a person: all it had, or more than nine tenths of 50 or more."""
    emptied = entries_now == 0 and entries_before > 0
    lost = entries_before >= ENTRIES_BEFORE_MIN and entries_now < entries_before * SHARE_LEFT_MIN
    return Shrunk(entries_before=entries_before, entries_now=entries_now) if emptied or lost else None


def entries_expected(state: VolumeState, *, entries_before: int, accept: bool) -> int:
    """Return what to compare a scan with: the revision before, or what there was before that one shrank."""
    kept = state.settings.get(SETTING)
    if accept:
        return 0
    return max(entries_before, kept) if isinstance(kept, int) else entries_before


def keep_shrunk(house: House, state: VolumeState, shrunk: Shrunk | None) -> VolumeState:
    """Keep in the volume that its source shrank, or that it has not any more; where settings cannot be changed from
    here (on servers), only the first backup says it."""
    kept = shrunk.entries_before if shrunk is not None else None
    if state.settings.get(SETTING) == kept:
        return state

    def change(current: VolumeState) -> VolumeState:
        settings = {name: value for name, value in current.settings.items() if name != SETTING}
        return msgspec.structs.replace(current, settings=settings if kept is None else {**settings, SETTING: kept})

    with suppress(Refused):
        return house.volumes.update(state.id, change)
    return state
