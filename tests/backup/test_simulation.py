"""Years of nights, simulated: what retention leaves after each, through leap years, summer time and wrong clocks."""

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from dalsegno.backup.levels import Dumped, level_due
from dalsegno.backup.policy import Keep, Program
from dalsegno.backup.retention import Item, apply_keep

KEEP = Keep(last=2, daily=7, weekly=5, monthly=12, quarterly=6, yearly=4)


def night(day: date, zone: ZoneInfo, hour: int = 2, minute: int = 30) -> int:
    return int(datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).timestamp()) * 10**9


@pytest.mark.parametrize("zone_name", ["UTC", "Europe/Berlin", "Asia/Kolkata", "Pacific/Apia", "America/St_Johns"])
def test_years_of_nights_leave_what_the_rules_say(zone_name: str) -> None:
    zone = ZoneInfo(zone_name)
    items: list[Item] = []
    day = date(2023, 6, 1)
    while day < date(2029, 3, 10):  # 2024 and 2028 are leap years
        items.append(Item(key=day.isoformat(), received_ns=night(day, zone)))
        if day.day % 5 == 0 or day.month == 2 or day.month == 3:
            found = apply_keep(items, KEEP, now_ns=items[-1].received_ns, zone=zone)
            items = [item for item in items if item.key in found.reasons]
        day += timedelta(days=1)
    days = [date.fromisoformat(item.key) for item in items]
    last = date(2029, 3, 9)
    assert days[-7:] == [last - timedelta(days=n) for n in range(6, -1, -1)]
    assert {d.isocalendar()[:2] for d in days} >= {(last - timedelta(weeks=n)).isocalendar()[:2] for n in range(5)}
    months = sorted({(d.year, d.month) for d in days})[-12:]
    assert months == [(2028, month) for month in range(4, 13)] + [(2029, 1), (2029, 2), (2029, 3)]
    for year in (2026, 2027, 2028):
        assert date(year, 12, 31) in days, "the newest of a year is its last night"
    for month in range(4, 12):
        following = date(2028, month + 1, 1)
        assert following - timedelta(days=1) in days, "the newest of a month is its last night"
    assert not [d for d in days if d.year < 2026]
    assert len(days) <= 2 + 7 + 5 + 12 + 6 + 4


def test_hourly_clones_through_both_clock_changes() -> None:
    zone = ZoneInfo("Europe/Berlin")
    for start in (datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)):
        first = int(start.timestamp()) * 10**9
        items: list[Item] = []
        for hour in range(60):
            items.append(Item(key=str(hour), received_ns=first + hour * 3600 * 10**9))
            found = apply_keep(items, Keep(hourly=24), now_ns=items[-1].received_ns, zone=zone)
            items = [item for item in items if item.key in found.reasons]
        assert [item.key for item in items] == [str(hour) for hour in range(36, 60)]


@pytest.mark.parametrize("program", [
    Program(kind="planned"), Program(kind="hanoi"), Program(kind="weekdays", levels=(1, 2, 3, 2, 3, 4, 0)),
], ids=lambda program: program.kind)  # fmt: skip
def test_every_night_kept_can_be_restored_after_years_with_missed_nights(program: Program) -> None:
    """Levels, bases and retention together: no kept dump ever loses what it rests on."""
    chance = random.Random(11)
    zone = ZoneInfo("America/New_York")
    items: dict[str, Item] = {}
    history: list[Dumped] = []
    dumps: list[tuple[int, str]] = []  # level and key of everything ever recorded, oldest first
    levels: Counter[int] = Counter()
    day = date(2024, 1, 1)
    while day < date(2027, 1, 1):
        ordinal = day.toordinal()
        off = chance.random() < 0.1 or 80 < (ordinal % 300) < 110  # now and then a night, once a year a month
        due = None if off else level_due(program, history, cycle_days=14, day=ordinal, phase=5)
        if due is not None:
            base = next((key for level, key in reversed(dumps) if level < due.level), "")
            key = day.isoformat()
            good = chance.random() > 0.05
            items[key] = Item(key=key, received_ns=night(day, zone), base=base, good=good)
            if good:
                dumps.append((due.level, key))
                history.append(Dumped(day=ordinal, level=due.level))
                levels[due.level] += 1
            last_good = dumps[-1][1] if dumps else None
            found = apply_keep(items.values(), Keep(daily=5, monthly=4), now_ns=items[key].received_ns, zone=zone)
            items = {key: item for key, item in items.items() if key in found.reasons}
            for item in items.values():
                assert not item.base or item.base in items, (day, item)
            assert last_good is None or last_good in items
        day += timedelta(days=1)
    assert 5 < len(items) < 25
    assert levels[0] >= 3 * 365 // 14 - 10 and len(levels) >= 4


def test_clock_that_jumps_back_and_forth_loses_no_night_of_the_last_week() -> None:
    """A clock that is years ahead for three nights, then right again: the week before is still there."""
    zone = ZoneInfo("UTC")
    items: list[Item] = []
    real = date(2026, 1, 1)
    for index in range(120):
        day = real + timedelta(days=index)
        shown = day + timedelta(days=8000 if 60 <= index < 63 else 0)
        items.append(Item(key=str(index), received_ns=night(shown, zone)))
        keep = Keep(daily=7, within_seconds=14 * 86400)
        found = apply_keep(items, keep, now_ns=night(shown, zone), zone=zone)
        items = [item for item in items if item.key in found.reasons]
        nights = {int(item.key) for item in items}
        assert set(range(max(0, index - 6), index + 1)) <= nights, (index, sorted(nights))
    assert {"60", "61", "62"} <= {item.key for item in items}
