"""Level programs: tables of what is due, and that every chain they make can be restored."""

from datetime import date

import pytest

from dalsegno.backup.levels import Dumped, hanoi_level, level_due, past, program_level
from dalsegno.backup.policy import Program

MONDAY = date(2026, 11, 16).toordinal()
WEEK = Program(kind="weekdays", levels=(1, 2, 3, 2, 3, None, 0))
HANOI = Program(kind="hanoi")
PLANNED = Program(kind="planned")


def history(*dumps: tuple[int, int]) -> list[Dumped]:
    return [Dumped(day=MONDAY + offset, level=level) for offset, level in dumps]


# Program, cycle, what was dumped (day after Monday, level), today, whether a full is planned; level and reason.
CASES = [
    (WEEK, 7, [], 2, False, 0, "first full"),
    (WEEK, 7, [(-1, 0)], 0, False, 1, "program"),
    (WEEK, 7, [(-1, 0), (0, 1)], 1, False, 2, "program"),
    (WEEK, 7, [(-1, 0), (0, 1)], 5, False, 2, "caught up after 5 days"),
    (WEEK, 7, [(-1, 0), (0, 1), (4, 3)], 5, False, None, ""),
    (WEEK, 7, [(-1, 0), (0, 1), (4, 3)], 8, False, 0, "caught up after 4 days"),
    (WEEK, 7, [(-1, 0), (0, 1)], 89, False, 0, "caught up after 89 days"),
    (WEEK, 7, [(0, 0)], 0, False, 1, "again today"),
    (WEEK, 7, [(0, 0), (0, 1), (0, 2)], 0, False, 3, "again today"),
    (WEEK, 7, [(0, 0), (0, 9)], 0, False, 9, "again today"),
    (HANOI, 8, [(0, 0)], 1, False, 3, "program"),
    (HANOI, 8, [(0, 0), (1, 3), (2, 2), (3, 3)], 4, False, 1, "program"),
    (HANOI, 8, [(0, 0), (3, 3)], 5, False, 1, "caught up after 2 days"),
    (HANOI, 8, [(0, 0), (7, 3)], 8, False, 0, "cycle is over"),
    (HANOI, 8, [(0, 0)], 20, False, 0, "cycle is over"),
    (PLANNED, 8, [(0, 0), (1, 3)], 2, True, 0, "full planned"),
    (PLANNED, 8, [(0, 0), (1, 3)], 2, False, 2, "program"),
    (Program(kind="planned", first_full_at_once=False), 8, [], 2, False, None, ""),
    (Program(kind="planned", first_full_at_once=False), 8, [], 2, True, 0, "first full"),
]


@pytest.mark.parametrize(("program", "cycle_days", "dumps", "today", "full_planned", "level", "reason"), CASES)
def test_level_is_due(program, cycle_days, dumps, today, full_planned, level, reason) -> None:
    due = level_due(program, history(*dumps), cycle_days=cycle_days, day=MONDAY + today, full_planned=full_planned)
    if level is None:
        assert due is None
    else:
        assert due is not None
        assert (due.level, due.reason) == (level, reason)


def test_missed_days_are_caught_up_once() -> None:
    done = history((-1, 0), (0, 1))
    caught = level_due(WEEK, done, cycle_days=7, day=MONDAY + 9)
    assert caught is not None and caught.level == 0
    after = level_due(WEEK, [*done, Dumped(day=MONDAY + 9, level=0)], cycle_days=7, day=MONDAY + 10)
    assert after is not None and after.level == 2 and after.reason == "program"


def test_dump_from_a_wrong_clock_does_not_stop_the_program() -> None:
    done = past(history((0, 0), (1, 3), (30_000, 0)), day=MONDAY + 8)
    due = level_due(HANOI, done, cycle_days=8, day=MONDAY + 8)
    assert due is not None and due.level == 0


@pytest.mark.parametrize("cycle_days", [1, 2, 3, 7, 14, 28, 31, 64, 365])
def test_hanoi_keeps_chains_short(cycle_days: int) -> None:
    levels = [hanoi_level(age, cycle_days=cycle_days) for age in range(cycle_days)]
    assert levels[0] == 0 and all(1 <= level <= 9 for level in levels[1:])
    longest = 0
    for age in range(cycle_days):
        chain, at = 0, age
        while levels[at] > 0:
            at = next(earlier for earlier in range(at - 1, -1, -1) if levels[earlier] < levels[at])
            chain += 1
        longest = max(longest, chain)
    assert longest <= min(9, max(1, (cycle_days - 1).bit_length()))
    if cycle_days == 8:
        assert levels == [0, 3, 2, 3, 1, 3, 2, 3]


def test_list_program_begins_on_a_monday() -> None:
    fortnight = Program(kind="list", levels=(0, *range(1, 10), None, None, None, None))
    fulls = [day for day in range(MONDAY, MONDAY + 28) if program_level(fortnight, day) == 0]
    assert [date.fromordinal(day).weekday() for day in fulls] == [0, 0] and fulls[1] - fulls[0] == 14
