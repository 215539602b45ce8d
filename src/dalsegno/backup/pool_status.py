"""How the volumes of a pool stand where no policy says what should be: when each was backed up last. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from dalsegno.backup.status import CRITICAL, OK, STATES, WARNING, worst
from dalsegno.terms.counts import count_of
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.shrunk import shrunk_from
from dalsegno.volumes.state import TRACKED, VolumeState

DAY_NS = 86400 * SECOND_NS
MAX_AGE_DEFAULT = "2d"
"""A directory that was not backed up for so long is a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeAge:
    """When a volume was backed up last, and what is wrong with that."""

    volume: VolumeState
    state: str
    problems: tuple[str, ...]
    last: tuple[str, Clone] | None
    """The newest clone that is not of the future."""
    future_count: int
    """Clones that a clock which was wrong dated later than now: none of them is the last one."""


def volume_age(volume: VolumeState, *, now_ns: int, max_age_ns: int) -> VolumeAge:
    """Return how a volume stands; a native one, which somebody fills by hand, is never too old."""
    last = volume.clones.newest_until(now_ns)
    future_count = sum(1 for _ in takewhile(lambda each: each[1].created_ns > now_ns, volume.clones.newest_first()))
    problems, state = [], OK
    if volume.kind == TRACKED:
        if last is None:
            problems.append("never backed up")
            state = CRITICAL
        elif now_ns - last[1].created_ns > max_age_ns:
            problems.append(f"no backup for {count_of((now_ns - last[1].created_ns) // DAY_NS, 'day')}")
            state = WARNING
        before = shrunk_from(volume)
        if before is not None:
            problems.append(f"its source lost most of its {before:,} files and directories: is everything mounted?")
            state = worst((state, WARNING))
    if future_count:
        problems.append(f"{count_of(future_count, 'clone')} dated later than now: a clock was wrong")
        state = worst((state, WARNING))
    return VolumeAge(volume=volume, state=state, problems=tuple(problems), last=last, future_count=future_count)


def pool_line(ages: Sequence[VolumeAge]) -> str:
    """Return one line as monitors of the Nagios kind expect it."""
    wrong = [f"{each.volume.name}: {each.problems[0]}" for each in sorted(ages, key=_severity) if each.problems]
    more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    text = "; ".join(wrong[:5]) + more or f"{count_of(len(ages), 'volume')} backed up"
    numbers = " ".join(f"{name}={sum(each.state == name for each in ages)}" for name in STATES)
    return f"DALSEGNO {worst_state(ages).upper()} - {text} | {numbers}"


def _severity(each: VolumeAge) -> int:
    return -STATES.index(each.state)


def worst_state(ages: Iterable[VolumeAge]) -> str:
    """Return the worst state of some volumes."""
    return worst(each.state for each in ages)
