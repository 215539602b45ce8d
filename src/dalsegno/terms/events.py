"""Progress as values: rooms report, doors draw."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a long action has come; totals are 0 while unknown."""

    phase: str
    done_bytes: int = 0
    total_bytes: int = 0
    done_count: int = 0
    total_count: int = 0
    share: float = 0.0
    """How much is done, roughly, 0 to 1, where totals are unknown."""
    where: Callable[[], bytes] | None = None
    """Tells, whenever it is asked, which path is being looked at: for who waits too long. None where nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One thing that a person should know about one path: unreadable, changed while read, skipped."""

    severity: str
    """`error` (a file is missing or wrong in the result: exit code 3), `notice` (what a person must know) or `note`."""
    path: bytes
    text: str
    is_damage: bool = False
    """Whether it is about something lost or damaged: a command that goes on around it ends with 5."""


Event = Progress | Note
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Drop an event: the default listener."""
