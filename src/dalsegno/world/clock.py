"""The time of day. The environment variable DAL_NOW (nanoseconds or an ISO time) stops it for rehearsals."""

import os
import time
from datetime import UTC, datetime

from dalsegno.terms.errors import BadInput

SECOND_NS = 1_000_000_000


def now_ns() -> int:
    """Return nanoseconds since 1970 UTC."""
    text = os.environ.get("DAL_NOW")
    if not text:
        return time.time_ns()
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"DAL_NOW={text!r}: expected nanoseconds or an ISO time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * SECOND_NS + moment.microsecond * 1000


def real_now_ns() -> int:
    """Return nanoseconds since 1970 UTC, also in a rehearsal: for the age of files that the kernel stamped."""
    return time.time_ns()


def ticks_ns() -> int:
    """Return nanoseconds of a clock that only goes forward: for measuring, never for dates."""
    return time.monotonic_ns()


def pause(seconds: float) -> None:
    """Let other threads go on for a while."""
    time.sleep(seconds)
