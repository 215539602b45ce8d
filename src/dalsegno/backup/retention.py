"""Retention: which clones and dumps stay. Pure: items in, what stays and why out.

Everything counts by when the server received it, since a client's clock may be wrong. Items that the cycle made itself
are counted by themselves: however many others somebody makes, they never take the place of a good one.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import msgspec

from dalsegno.backup.policy import Keep
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.shrunk import find_dips

DAY_NS = 86400 * SECOND_NS
HOLE_NS = 35 * DAY_NS
HOLE_GAPS = 4
"""A hole longer than both 35 days and 4 usual gaps is where the machine was off, or its clock jumped. Until 35 days of
backups have come after it, it counts as one usual gap, so that what lies before does not grow old at once."""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A clone or a dump, as retention sees it."""

    key: str
    """Its name: of the clone, or of the dump."""
    received_ns: int
    trusted: bool = True
    """Made by the cycle itself, or checked by it: not merely sent or made by somebody."""
    held: bool = False
    named: bool = False
    """A person chose its name, and says when it goes."""
    good: bool = True
    """Read back and found whole, with as many copies as it should have."""
    entry_count: int | None = None
    """Files and directories in it, where that is known."""
    base: str = ""
    """The key of the dump that this one cannot be restored without."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What stays, with the reasons, and what goes."""

    reasons: dict[str, list[str]]
    removed: list[str]
    """Keys, oldest first."""


def apply_keep(
    items: Iterable[Item], keep: Keep, *, now_ns: int, zone: ZoneInfo, entries_expected: int | None = None
) -> Kept:
    """Return which items stay: by rule, held, named by a person, the last good one, from the future, bases of those.

    What was made while most of the source was gone takes no place of others, and is no last good one.
    `entries_expected`: how many entries there should be, while they are gone now.
    """
    ordered = sorted(items, key=lambda item: (item.received_ns, item.key))
    reasons: dict[str, list[str]] = {}
    if keep.everything:
        return Kept(reasons={item.key: ["no rule"] for item in ordered}, removed=[])
    for item in ordered:
        if item.held:
            reasons.setdefault(item.key, []).append("held")
        if item.named:
            reasons.setdefault(item.key, []).append("named")
        if item.received_ns > now_ns:
            reasons.setdefault(item.key, []).append("from the future")
    present = [item for item in ordered if item.received_ns <= now_ns]
    dips = find_dips([item.entry_count for item in present], expected=entries_expected)
    shrunk = [item for item, dip in zip(present, dips, strict=True) if dip]
    full = [item for item, dip in zip(present, dips, strict=True) if not dip]
    _by_rules([item for item in full if item.trusted], keep, zone, reasons)
    if any(not item.trusted for item in full):
        _by_rules(full, keep, zone, reasons)
    _by_rules(shrunk, keep, zone, reasons)
    by_key = {item.key: item for item in ordered}
    if present:
        _add(reasons, present[-1].key, "newest")
    last_good = next((item for item in reversed(full) if item.good and _restorable(item, by_key)), None)
    if last_good is not None:
        _add(reasons, last_good.key, "last good")
    for key in list(reasons):
        for base in chain_below(key, by_key):
            _add(reasons, base, "base")
    return Kept(reasons=reasons, removed=[item.key for item in ordered if item.key not in reasons])


def chain_below(key: str, items: dict[str, Item]) -> Iterable[str]:
    """Yield what an item rests on, as far as it is there."""
    seen = {key}
    item = items.get(key)
    while item is not None and item.base and item.base not in seen:
        seen.add(item.base)
        item = items.get(item.base)
        if item is not None:
            yield item.key


def _restorable(item: Item, items: dict[str, Item]) -> bool:
    """Tell whether everything that an item rests on is there and good."""
    below = list(chain_below(item.key, items))
    last = items[below[-1]] if below else item
    return not last.base and all(items[key].good for key in below)


def _add(reasons: dict[str, list[str]], key: str, reason: str) -> None:
    found = reasons.setdefault(key, [])
    if reason not in found:
        found.append(reason)


def _ages(times: Sequence[int]) -> list[int]:
    """Return how long before the newest each of `times` (ascending) is, with recent holes closed."""
    gaps = [later - earlier for earlier, later in pairwise(times)]
    usual = sorted(gaps)[len(gaps) // 2] if gaps else 0
    age, ages = 0, [0]
    for gap in reversed(gaps):
        is_hole = gap > max(HOLE_NS, HOLE_GAPS * usual) and age <= HOLE_NS
        age += usual if is_hole else gap
        ages.append(age)
    return ages[::-1]


_Bucket = Callable[[datetime], Hashable]
# The hour names its offset too, or the hour that comes twice in autumn would count once.
_RULES: tuple[tuple[str, _Bucket], ...] = (
    ("hourly", lambda at: (at.date(), at.hour, at.utcoffset())),
    ("daily", lambda at: at.date()),
    ("weekly", lambda at: at.isocalendar()[:2]),
    ("monthly", lambda at: (at.year, at.month)),
    ("quarterly", lambda at: (at.year, (at.month - 1) // 3)),
    ("yearly", lambda at: at.year),
)


def _by_rules(ordered: Sequence[Item], keep: Keep, zone: ZoneInfo, reasons: dict[str, list[str]]) -> None:
    """Note what the rules keep: the newest of each of the newest N hours, days, ... that have any."""
    if not ordered:
        return
    if keep.last:
        for item in ordered[-keep.last :]:
            _add(reasons, item.key, "last")
    if keep.within_seconds:
        # From the newest item, not from now: what stays does not depend on how long nothing was backed up.
        for item, age_ns in zip(ordered, _ages([item.received_ns for item in ordered]), strict=True):
            if age_ns <= keep.within_seconds * SECOND_NS:
                _add(reasons, item.key, "within")
    rules = [(name, bucket, getattr(keep, name)) for name, bucket in _RULES if getattr(keep, name)]
    seen: dict[str, set[Hashable]] = {name: set() for name, _, _ in rules}
    for item in reversed(ordered):
        at = datetime.fromtimestamp(item.received_ns // SECOND_NS, UTC).astimezone(zone)
        for name, bucket, count in rules:
            if len(seen[name]) < count:
                found = bucket(at)
                if found not in seen[name]:
                    seen[name].add(found)
                    _add(reasons, item.key, name)
