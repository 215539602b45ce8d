"""The plan: what would be dumped on each of the coming days, and how large it would be. Pure: facts in, days out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import msgspec

from dalsegno.backup.levels import LEVEL_MAX, Due, Dumped, level_due, past
from dalsegno.backup.policy import Policy, SetPolicy

BUSIEST_TO_MEAN_MAX = 1.3
# A day is unburdened when it is this much over the mean, and is then filled no higher than this.
_CAPS = (1.05, 1.1, 1.2, BUSIEST_TO_MEAN_MAX)
_REBALANCE_OVER = 1.15


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFacts:
    """What the plan knows of one volume."""

    volume: str
    set_name: str
    history: tuple[Dumped, ...] = ()
    full_bytes: int = 0
    """How large a full would be."""
    daily_bytes: int = 0
    """How much of it changes in a day."""


class PlannedDump(msgspec.Struct, frozen=True, kw_only=True):
    """One volume's turn on one day."""

    volume: str
    set_name: str
    level: int | None
    """None: a clone alone, of a set without dumps."""
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDay:
    """One day of the plan."""

    day: int
    dumps: tuple[PlannedDump, ...]
    target_bytes: Mapping[str, int]
    """Bytes that each target takes in: every copy and share counted."""

    @property
    def size_bytes(self) -> int:
        """What goes through the spool."""
        return sum(dump.size_bytes for dump in self.dumps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """How even the days are, without those on which a volume gets its very first full."""

    mean_bytes: int
    busiest_bytes: int
    busiest_day: int
    oversize: tuple[str, ...]
    """Volumes larger than a mean day: no order of days can even them out."""

    @property
    def busiest_to_mean(self) -> float:
        """1.0 is perfectly even."""
        return self.busiest_bytes / self.mean_bytes if self.mean_bytes else 1.0


class _Standing:
    """Where a volume stands on a day of the plan: the newest dump of each level."""

    __slots__ = ("facts", "history", "newest", "phase")

    def __init__(self, facts: VolumeFacts, day: int) -> None:
        self.facts = facts
        self.phase = crc32(facts.volume.encode())
        self.newest: list[int | None] = [None] * (LEVEL_MAX + 1)
        self.history: list[Dumped] = []
        for dumped in past(facts.history, day=day):
            self.add(dumped)

    def add(self, dumped: Dumped) -> None:
        self.newest[dumped.level] = dumped.day
        if dumped.level == 0:
            self.history = []  # what was before a full no longer matters
        self.history.append(dumped)

    def bytes_of(self, level: int, day: int) -> int:
        bases = [found for found in self.newest[:level] if found is not None]
        if not bases:
            return self.facts.full_bytes
        return min(self.facts.full_bytes, self.facts.daily_bytes * max(1, day - max(bases)))


def plan_days(policy: Policy, facts: Iterable[VolumeFacts], *, first_day: int, day_count: int) -> list[PlanDay]:
    """Return what each of `day_count` days would bring, if every dump succeeds and nothing changes its size."""
    standings = [_Standing(each, first_day) for each in facts]
    factors = {name: target.bytes_for_each for name, target in policy.targets.items()}
    days = []
    for day in range(first_day, first_day + day_count):
        fulls: set[str] = set()
        for each in policy.sets.values():
            members = [standing for standing in standings if standing.facts.set_name == each.name]
            fulls |= _choose_fulls(each, members, day)
        dumps = []
        target_bytes = dict.fromkeys(policy.targets, 0.0)
        for standing in standings:
            chosen = policy.sets[standing.facts.set_name]
            due = _due(chosen, standing, day, standing.facts.volume in fulls)
            if due is None:
                continue
            size_bytes = standing.bytes_of(due.level, day) if chosen.dumps else 0
            dumps.append(
                PlannedDump(
                    volume=standing.facts.volume,
                    set_name=chosen.name,
                    level=due.level if chosen.dumps else None,
                    size_bytes=size_bytes,
                    reason=due.reason,
                )
            )
            for target in chosen.targets:
                target_bytes[target] += size_bytes * factors[target]
            standing.add(Dumped(day=day, level=due.level))
        whole = {name: int(count) for name, count in target_bytes.items()}
        days.append(PlanDay(day=day, dumps=tuple(dumps), target_bytes=whole))
    return days


def plan_today(policy: Policy, facts: Iterable[VolumeFacts], *, day: int) -> dict[str, PlannedDump]:
    """Return what is due today, by volume: what a run does."""
    return {dump.volume: dump for dump in plan_days(policy, facts, first_day=day, day_count=1)[0].dumps}


def balance(days: Sequence[PlanDay], facts: Iterable[VolumeFacts]) -> Balance:
    """Return how even the planned days are."""
    steady = [day for day in days if not any(dump.reason == "first full" for dump in day.dumps)]
    sizes = [day.size_bytes for day in steady]
    mean_bytes = sum(sizes) // len(sizes) if sizes else 0
    busiest = max(steady, key=lambda day: day.size_bytes, default=None)
    return Balance(
        mean_bytes=mean_bytes,
        busiest_bytes=busiest.size_bytes if busiest else 0,
        busiest_day=busiest.day if busiest else 0,
        oversize=tuple(sorted(each.volume for each in facts if mean_bytes and each.full_bytes > mean_bytes)),
    )


def _due(chosen: SetPolicy, standing: _Standing, day: int, full_planned: bool) -> Due | None:
    if not chosen.dumps:
        return Due(level=0, reason="a clone every day")
    return level_due(
        chosen.program,
        standing.history,
        cycle_days=chosen.cycle_days,
        day=day,
        phase=standing.phase,
        full_planned=full_planned,
    )


def _choose_fulls(chosen: SetPolicy, members: Sequence[_Standing], day: int) -> set[str]:
    """Return the volumes of a `planned` set that get a full today: those that are due, and those that even out days.

    A full is due a cycle after the last one and may only be made earlier. A day of the coming cycle that is fuller
    than the mean gives its largest volumes to the emptiest earlier days.
    """
    if chosen.program.kind != "planned" or not members or not chosen.dumps:
        return set()
    cycle_days = chosen.cycle_days
    days: list[list[tuple[int, str]]] = [[] for _ in range(cycle_days)]
    never: list[tuple[int, str]] = []
    for standing in members:
        facts = standing.facts
        last_full = standing.newest[0]
        if last_full == day:
            continue
        if last_full is None and not chosen.program.first_full_at_once:
            never.append((facts.full_bytes, facts.volume))
        else:
            wait = 0 if last_full is None else max(0, min(cycle_days - 1, last_full + cycle_days - day))
            days[wait].append((facts.full_bytes, facts.volume))
    total = sum(standing.facts.full_bytes for standing in members)
    even_out(days, mean=total / cycle_days)
    fulls = {volume for _, volume in days[0]}
    load = sum(size for size, _ in days[0])
    placed = False
    for size, volume in sorted(never, reverse=True):
        # At least one a day, so that the last comes to its turn however large it is.
        if not placed or load + size <= _CAPS[0] * total / cycle_days:
            fulls.add(volume)
            load += size
            placed = True
    return fulls


def even_out(days: list[list[tuple[int, str]]], *, mean: float) -> None:
    """Move (size, volume) pairs from days over the mean to emptier, earlier ones, in place."""
    loads = [sum(size for size, _ in members) for members in days]
    for factor in _CAPS:
        if max(loads) <= _REBALANCE_OVER * mean:
            return
        cap = factor * mean
        for late in range(len(days) - 1, 0, -1):
            if loads[late] <= cap:
                continue
            stay = []
            for size, volume in sorted(days[late], reverse=True):
                early = min(range(late), key=loads.__getitem__)
                if size and loads[late] > cap and loads[early] + size <= cap:
                    days[early].append((size, volume))
                    loads[early] += size
                    loads[late] -= size
                else:
                    stay.append((size, volume))
            days[late] = stay
