"""Retention: tables of rules, and what it never removes."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalsegno.backup.policy import Keep
from dalsegno.backup.retention import Item, apply_keep

BERLIN = ZoneInfo("Europe/Berlin")
UTC = ZoneInfo("UTC")
NOW = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()) * 10**9
HOUR = 3600 * 10**9
DAY = 24 * HOUR


def at(text: str, zone: ZoneInfo = UTC) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * 10**9


def daily(count: int, *, until: int = NOW) -> list[Item]:
    """Return one item a day, `d0` the newest."""
    return [Item(key=f"d{index}", received_ns=until - index * DAY) for index in range(count)]


def kept(items: list[Item], keep: Keep, *, now: int = NOW, zone: ZoneInfo = UTC) -> list[str]:
    found = apply_keep(items, keep, now_ns=now, zone=zone)
    assert sorted([*found.reasons, *found.removed]) == sorted(item.key for item in items)
    return sorted(found.reasons, key=lambda key: -next(item.received_ns for item in items if item.key == key))


# NOW is a Saturday: d0 = 11-21 ... d6 = Sunday 11-15, d21 = 10-31, d52 = 09-30.
TABLE = [
    (Keep(last=3), ["d0", "d1", "d2"]),
    (Keep(hourly=2), ["d0", "d1"]),
    (Keep(daily=2), ["d0", "d1"]),
    (Keep(weekly=3), ["d0", "d6", "d13"]),
    (Keep(monthly=3), ["d0", "d21", "d52"]),
    (Keep(quarterly=3), ["d0", "d52", "d144"]),
    (Keep(yearly=2), ["d0", "d325"]),
    (Keep(within_seconds=2 * 86400), ["d0", "d1", "d2"]),
    (Keep(last=1, monthly=2), ["d0", "d21"]),
    (Keep(daily=2, weekly=2, yearly=1), ["d0", "d1", "d6"]),
]


@pytest.mark.parametrize(("keep", "expected"), TABLE)
def test_rule_keeps(keep: Keep, expected: list[str]) -> None:
    assert kept(daily(400), keep) == expected


def test_no_rule_keeps_everything() -> None:
    assert len(kept(daily(50), Keep())) == 50


def test_held_clone_stays() -> None:
    items = daily(30)
    items[20] = Item(key="d20", received_ns=items[20].received_ns, held=True)
    assert kept(items, Keep(last=1)) == ["d0", "d20"]


def test_base_that_a_kept_increment_needs_stays() -> None:
    chain = [
        Item(key="full", received_ns=NOW - 30 * DAY),
        Item(key="one", received_ns=NOW - 20 * DAY, base="full"),
        Item(key="other", received_ns=NOW - 15 * DAY, base="full"),
        Item(key="two", received_ns=NOW - 10 * DAY, base="one"),
    ]
    found = apply_keep(chain, Keep(last=1), now_ns=NOW, zone=UTC)
    assert found.removed == ["other"]
    assert found.reasons["full"] == ["base"] and found.reasons["one"] == ["base"]


def test_last_good_copy_and_what_it_needs_stay_behind_newer_bad_ones() -> None:
    items = [
        Item(key="full", received_ns=NOW - 30 * DAY),
        Item(key="good", received_ns=NOW - 29 * DAY, base="full"),
        *[Item(key=f"bad{n}", received_ns=NOW - n * DAY, good=False) for n in range(10)],
        Item(key="orphan", received_ns=NOW - 11 * DAY, base="gone"),
    ]
    found = apply_keep(items, Keep(last=2), now_ns=NOW, zone=UTC)
    assert found.reasons["good"] == ["last good"] and found.reasons["full"] == ["base"]
    assert "orphan" in found.removed and len(found.removed) == 9


@pytest.mark.parametrize(
    "keep", [Keep(last=7), Keep(daily=7, weekly=4), Keep(within_seconds=7 * 86400), Keep(hourly=9)]
)
def test_flood_of_bogus_clones_pushes_no_good_one_out(keep: Keep) -> None:
    good = daily(60)
    flood = [Item(key=f"x{n}", received_ns=NOW - n * HOUR // 4, trusted=False) for n in range(5000)]
    assert set(kept(good, keep)) <= set(kept([*good, *flood], keep))


def test_flood_itself_is_removed() -> None:
    flood = [Item(key=f"x{n}", received_ns=NOW - n * HOUR // 4, trusted=False) for n in range(5000)]
    assert len(kept([*daily(60), *flood], Keep(last=3, daily=7))) < 25


def test_clock_that_was_ahead_pushes_no_good_one_out() -> None:
    future = [Item(key=f"f{n}", received_ns=NOW + (2000 + n) * DAY) for n in range(50)]
    for keep in (Keep(last=7), Keep(daily=7), Keep(within_seconds=7 * 86400)):
        assert set(kept(daily(60), keep)) <= set(kept([*daily(60), *future], keep))


def test_clock_that_jumps_ahead_ages_nothing() -> None:
    keep = Keep(within_seconds=30 * 86400)
    then = NOW + 20_000 * DAY
    later = [Item(key=f"n{n}", received_ns=then - n * DAY) for n in range(5)]
    found = kept([*daily(60), *later], keep, now=then)
    assert {"d0", "d20"} <= set(found) and "d29" not in found and len(found) < 35


def test_old_yearly_clones_are_not_taken_for_a_clock_that_jumped() -> None:
    years = [Item(key=f"y{n}", received_ns=NOW - n * 365 * DAY) for n in range(1, 20)]
    found = kept([*daily(300), *years], Keep(within_seconds=100 * 86400, yearly=3))
    assert [key for key in found if key.startswith("y")] == ["y1", "y2"]


def test_quarterly_backups_are_not_taken_for_holes() -> None:
    items = [Item(key=f"q{n}", received_ns=NOW - n * 91 * DAY) for n in range(30)]
    assert kept(items, Keep(within_seconds=365 * 86400)) == ["q0", "q1", "q2", "q3", "q4"]


def test_hour_that_comes_twice_in_autumn_is_two_hours() -> None:
    first = at("2026-10-25T00:30:00")  # 02:30 summer time in Berlin
    items = [Item(key="summer", received_ns=first), Item(key="winter", received_ns=first + HOUR)]
    assert kept(items, Keep(hourly=2), zone=BERLIN) == ["winter", "summer"]


def test_days_begin_at_local_midnight() -> None:
    items = [
        Item(key="saturday", received_ns=at("2026-03-28T23:30:00", BERLIN)),
        Item(key="sunday", received_ns=at("2026-03-29T23:30:00", BERLIN)),  # the day has 23 hours
        Item(key="monday", received_ns=at("2026-03-30T00:10:00", BERLIN)),
    ]
    assert kept(items, Keep(daily=3), zone=BERLIN) == ["monday", "sunday", "saturday"]
    assert kept(items, Keep(daily=2), zone=UTC) == ["monday", "saturday"]


ITEMS = st.lists(
    st.builds(
        Item,
        key=st.uuids().map(str),
        received_ns=st.integers(NOW - 900 * DAY, NOW + 30 * DAY),
        trusted=st.booleans(),
        held=st.booleans(),
        good=st.booleans(),
    ),
    max_size=40,
    unique_by=lambda item: item.key,
)
KEEPS = st.builds(
    Keep,
    last=st.integers(0, 5),
    hourly=st.integers(0, 3),
    daily=st.integers(0, 5),
    weekly=st.integers(0, 3),
    monthly=st.integers(0, 3),
    yearly=st.integers(0, 2),
    within_seconds=st.integers(0, 100 * 86400),
)


@given(ITEMS, KEEPS, st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_comes_held_newest_last_good_and_bases_stay(
    items: list[Item], keep: Keep, data: st.DataObject
) -> None:
    ordered = sorted(items, key=lambda item: item.received_ns)
    chained = []
    for index, item in enumerate(ordered):
        base = data.draw(st.sampled_from([""] + [each.key for each in ordered[:index]]))
        chained.append(Item(key=item.key, received_ns=item.received_ns, trusted=item.trusted, held=item.held,
                            good=item.good, base=base))  # fmt: skip
    found = apply_keep(chained, keep, now_ns=NOW, zone=BERLIN)
    again = apply_keep([item for item in chained if item.key in found.reasons], keep, now_ns=NOW, zone=BERLIN)
    assert again.removed == []
    by_key = {item.key: item for item in chained}
    for item in chained:
        if item.held or item.received_ns > NOW:
            assert item.key in found.reasons
        if item.key in found.reasons and item.base:
            assert item.base in found.reasons
    present = [item for item in chained if item.received_ns <= NOW]

    def whole(item: Item) -> bool:
        return item.good and (not item.base or whole(by_key[item.base]))

    good = [item for item in present if whole(item)]
    if good:
        newest = max(item.received_ns for item in good)
        assert any(item.key in found.reasons for item in good if item.received_ns == newest)
