"""How a site stands: for every volume the last good backup, its copies, its last drill, and what is wrong. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dalsegno.backup.chains import restorable
from dalsegno.backup.days import Today, local_day
from dalsegno.backup.policy import SetPolicy
from dalsegno.backup.records import BAD, Copy, Drill, DumpEntry, usable_copies
from dalsegno.backup.risks import find_risks, longest_pause
from dalsegno.backup.targets import whole_targets
from dalsegno.terms.counts import count_of

OK = "ok"
WARNING = "warning"
CRITICAL = "critical"
STATES = (OK, WARNING, CRITICAL)
"""In the order of Nagios' exit codes 0, 1, 2."""
DRILL_DAYS_MAX = 90
"""A backup that was not restored for so long is a hope again."""
CRITICAL_WORDS = ("no good backup", "never backed up")


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeStatus:
    """How one volume stands."""

    set_name: str
    volume: str
    state: str
    problems: tuple[str, ...] = ()
    last: DumpEntry | None = None
    """The newest dump that can be restored."""
    target_count: int = 0
    """How many targets hold it."""
    targets_wanted: int = 0
    last_drill: Drill | None = None
    next_day: int | None = None
    has_dumps: bool = True
    """False in a set without dumps: `last` stands for a clone."""
    shrunk_from: int | None = None
    """How many files and directories it had before its source lost most of them; None when it did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetStatus:
    """How one set stands."""

    name: str
    state: str
    volumes: tuple[VolumeStatus, ...]


def worst(states: Iterable[str]) -> str:
    """Return the worst of some states; `ok` of none."""
    return max(states, key=STATES.index, default=OK)


def newest_good(
    entries: Sequence[DumpEntry], copies: Mapping[bytes, list[Copy]], *, among: Sequence[DumpEntry] | None = None
) -> DumpEntry | None:
    """Return the newest dump that can be restored with all that it builds on, which is `among` others."""

    def usable(entry: DumpEntry) -> bool:
        return entry.verdict != BAD and bool(usable_copies(copies.get(entry.dump_id, [])))

    good = restorable(among or entries, usable=usable)
    newest_first = sorted(entries, key=lambda entry: (entry.cloned_at_ns, entry.taken_at_ns), reverse=True)
    return next((entry for entry in newest_first if entry.dump_id in good), None)


def volume_status(
    volume: str,
    entries: Sequence[DumpEntry],
    copies: Mapping[bytes, list[Copy]],
    chosen: SetPolicy,
    *,
    today: Today,
    last_drill: Drill | None = None,
    shrunk_from: int | None = None,
) -> VolumeStatus:
    """Return how one volume is, from its dumps and their copies."""
    day, zone = today.day, today.zone
    problems = find_risks(volume, entries, copies, chosen, day=day, zone=zone)
    state = OK
    if problems:
        state = CRITICAL if any(text.startswith(CRITICAL_WORDS) for text in problems) else WARNING
    if last_drill is not None and last_drill.verdict == BAD:
        problems.append(f"its last drill failed: {'; '.join(last_drill.findings[:1])}")
        state = CRITICAL
    elif last_drill is not None and day - local_day(last_drill.ended_ns, zone) > DRILL_DAYS_MAX:
        problems.append(f"no drill for {day - local_day(last_drill.ended_ns, zone)} days")
        state = worst((state, WARNING))
    if shrunk_from is not None:
        problems.insert(0, f"its source lost most of its {shrunk_from:,} files and directories: is everything mounted?")
        state = worst((state, WARNING))
    last = newest_good([entry for entry in entries if local_day(entry.made_ns, zone) <= day], copies, among=entries)
    dumped_today = any(local_day(entry.taken_at_ns, zone) == day for entry in entries)
    held = whole_targets(copies.get(last.dump_id, []), chosen) if last is not None else set()
    return VolumeStatus(
        set_name=chosen.name,
        volume=volume,
        state=state,
        problems=tuple(problems),
        last=last,
        target_count=len(held),
        targets_wanted=chosen.copies_wanted,
        last_drill=last_drill,
        next_day=next_day_due(chosen, day=day, dumped_today=dumped_today),
        has_dumps=chosen.dumps,
        shrunk_from=shrunk_from,
    )


def next_day_due(chosen: SetPolicy, *, day: int, dumped_today: bool) -> int:
    """Return the next day on which a volume of a set is dumped."""
    levels = chosen.program.levels
    first = day + 1 if dumped_today else day
    if not levels:
        return first
    for each in range(first, first + len(levels) + longest_pause(chosen)):
        if levels[(each - 1) % len(levels)] is not None:  # ordinal 1 is a Monday
            return each
    return first


def set_status(chosen: SetPolicy, volumes: Iterable[VolumeStatus]) -> SetStatus:
    """Return how a set stands."""
    own = tuple(sorted(volumes, key=lambda each: (-STATES.index(each.state), each.volume)))
    return SetStatus(name=chosen.name, state=worst(each.state for each in own), volumes=own)


def nagios_line(sets: Sequence[SetStatus]) -> str:
    """Return one line as monitors of the Nagios kind expect it, with the counts behind the bar."""
    volumes = [volume for each in sets for volume in each.volumes]
    counts = {state: sum(volume.state == state for volume in volumes) for state in STATES}
    state = worst(each.state for each in sets)
    wrong = [f"{volume.volume}: {volume.problems[0]}" for volume in volumes if volume.problems]
    wrong.sort(key=lambda text: not any(word in text for word in CRITICAL_WORDS))
    text = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    numbers = " ".join(f"{name}={count}" for name, count in counts.items())
    text = text or f"{count_of(len(volumes), 'volume')} backed up"
    shrunk = sum(volume.shrunk_from is not None for volume in volumes)
    return f"DALSEGNO {state.upper()} - {text} | {numbers} shrunk={shrunk}"
