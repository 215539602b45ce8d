"""How few is too few: a source that lost most of its files, and clones and dumps of such a moment. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

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


def shrunk_from(state: VolumeState) -> int | None:
    """Return how many entries a volume had before its source shrank; None when it did not, or a person accepted it."""
    kept = state.settings.get(SETTING)
    return kept if isinstance(kept, int) else None


def find_dips(counts: Sequence[int | None], *, expected: int | None) -> list[bool]:
    """Tell which of some states, in order of time, were of a source that had lost most of its files.

    `counts`: entries of each, None where nobody knows. There were more before, and there are more afterwards, or
    `expected`: what there should be now. What stays small was accepted.
    """

    def highest(values: Iterable[int | None]) -> list[int]:
        return list(accumulate((value or 0 for value in values), max, initial=0))

    before = highest(counts)
    after = highest([expected, *reversed(counts)])[::-1]
    return [
        count is not None
        and find_shrunk(entries_before=min(before[index], after[index + 1]), entries_now=count) is not None
        for index, count in enumerate(counts)
    ]
