"""Level programs: which level is due on a day, from what was dumped before. Days are ordinals of local dates.

A day that was missed, because the machine was off or the dump failed, is caught up once: the lowest level of all days
since the last good dump is due today.
"""

from collections.abc import Iterable, Sequence

import msgspec

from dalsegno.backup.policy import Program

LEVEL_MAX = 9
MONDAY = 1  # date.min, ordinal 1, is a Monday


class Dumped(msgspec.Struct, frozen=True, kw_only=True):
    """A good dump that was made."""

    day: int
    level: int
    size_bytes: int = 0


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What a volume gets today, and why."""

    level: int
    reason: str


def past(history: Iterable[Dumped], *, day: int) -> list[Dumped]:
    """Return what was dumped up to `day`, oldest first; what a wrong clock put into the future tells nothing."""
    return sorted((dumped for dumped in history if dumped.day <= day), key=lambda dumped: dumped.day)


def level_due(
    program: Program,
    history: Sequence[Dumped],
    *,
    cycle_days: int,
    day: int,
    phase: int = 0,
    full_planned: bool = False,
) -> Due | None:
    """Return what is due on `day`, or None. `history` is of one volume, up to `day`, oldest first.

    `phase` tells volumes of a `planned` set apart, so that their larger increments do not all come on one day.
    """
    last_full = next((dumped for dumped in reversed(history) if dumped.level == 0), None)
    if last_full is None:
        if program.kind == "planned" and not program.first_full_at_once and not full_planned:
            return None
        return Due(level=0, reason="first full")
    last = history[-1]
    if last.day == day:
        return Due(level=min(LEVEL_MAX, last.level + 1), reason="again today")
    if full_planned:
        return Due(level=0, reason="full planned")
    window = max(cycle_days, len(program.levels))
    missed = range(max(last.day + 1, day - window + 1), day + 1)
    if program.kind in ("planned", "hanoi"):
        if day - last_full.day >= cycle_days:
            return Due(level=0, reason="cycle is over")
        start = last_full.day if program.kind == "hanoi" else phase
        levels = [max(1, hanoi_level((each - start) % cycle_days, cycle_days=cycle_days)) for each in missed]
    else:
        levels = [found for each in missed if (found := program_level(program, each)) is not None]
        if program_level(program, day) is None:
            levels.append(LEVEL_MAX + 1)  # nothing today: whatever is due is caught up
    level = min(levels)
    if level > LEVEL_MAX:
        return None
    return Due(level=level, reason="program" if level == levels[-1] else f"caught up after {day - last.day} days")


def program_level(program: Program, day: int) -> int | None:
    """Return the level that a `weekdays` or `list` program has for a day; None is a day without a dump."""
    return program.levels[(day - MONDAY) % len(program.levels)]


def hanoi_level(age_days: int, *, cycle_days: int) -> int:
    """Return the level `age_days` after a full, as the Tower of Hanoi moves its disks.

    The day in the middle of the cycle is level 1, the quarters are level 2, and so on: a chain has at most as many
    increments as the cycle's length has binary digits, and every other dump is against the day before.
    """
    assert age_days >= 0
    if age_days == 0:
        return 0
    trailing_zeros = (age_days & -age_days).bit_length() - 1
    digits = max(1, (cycle_days - 1).bit_length())
    return max(1, min(LEVEL_MAX, digits) - trailing_zeros)
