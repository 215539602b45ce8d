"""Times that others say: they may be old, and are never of the future (docs/decisions/007-heads-move-forward-only.md).

What is restored, seeded, brought to a server that was away, or waited on a laptop is old by nature, so the past is not
limited. Each revision is later than its parents, so one of a far future would be the last that its volume ever takes.
"""

from dalsegno.terms.errors import Refused
from dalsegno.terms.times import SECOND_NS, show_time

AHEAD_NS_MAX = 86400 * SECOND_NS
"""How far another's clock may be from this one's."""


def is_future(at_ns: int, *, now_ns: int) -> bool:
    """Tell whether a time is later than any clock that is nearly right says."""
    return at_ns > now_ns + AHEAD_NS_MAX


def is_old(at_ns: int, *, now_ns: int) -> bool:
    """Tell whether a time is earlier than any clock that is nearly right says of now."""
    return at_ns < now_ns - AHEAD_NS_MAX


def require_past(what: str, at_ns: int, *, now_ns: int) -> None:
    """Refuse a time that no clock which is nearly right says. `what` has it: `revision 0a1b2c`."""
    if at_ns < 0 or is_future(at_ns, now_ns=now_ns):
        raise Refused(
            f"{what}: its time, {_shown(at_ns)}, cannot be right, it is {show_time(now_ns)} here: look at the clock of "
            "its maker"
        )


def _shown(at_ns: int) -> str:
    try:
        return show_time(at_ns)
    except (OverflowError, ValueError, OSError):
        return f"{at_ns} ns"
