"""Local days. A night's run that goes past midnight stays one day: the day on which it began. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from dalsegno.backup.levels import Dumped
from dalsegno.backup.policy import Policy
from dalsegno.backup.records import DumpEntry, Run
from dalsegno.terms.times import SECOND_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Today:
    """The day that something is said of, as `local_day` counts, and the zone in which it begins at midnight."""

    day: int
    zone: ZoneInfo


def zone_of(policy: Policy) -> ZoneInfo:
    """Return where days begin at midnight."""
    return ZoneInfo(policy.timezone)


def local_day(at_ns: int, zone: ZoneInfo) -> int:
    """Return the ordinal of the local date of an instant."""
    return datetime.fromtimestamp(at_ns // SECOND_NS, UTC).astimezone(zone).toordinal()


def day_text(day: int) -> str:
    """Return a day as `2026-11-21`."""
    return date.fromordinal(day).isoformat()


def day_name(day: int) -> str:
    """Return a day as `Sat 21 Nov`."""
    return date.fromordinal(day).strftime("%a %d %b")


def dumped_days(entries: Iterable[DumpEntry], runs: Sequence[Run], zone: ZoneInfo) -> list[Dumped]:
    """Return dumps by the day of the run that made them, oldest first; those of no run by their own day."""
    spans = sorted((run.started_ns, run.ended_ns) for run in runs)
    starts = [started for started, _ in spans]
    found = []
    for entry in entries:
        index = bisect_right(starts, entry.taken_at_ns) - 1
        at_ns = entry.taken_at_ns
        if index >= 0 and entry.taken_at_ns <= (spans[index][1] or entry.taken_at_ns):
            at_ns = spans[index][0]
        found.append((entry.taken_at_ns, Dumped(
            day=local_day(at_ns, zone), level=entry.level, size_bytes=entry.size_bytes
        )))  # fmt: skip
    return [dumped for _, dumped in sorted(found, key=lambda each: each[0])]
