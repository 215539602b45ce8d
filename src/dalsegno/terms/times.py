"""Times as people write them. Instants are integers: nanoseconds since 1970 UTC."""

import re
from datetime import UTC, datetime, timedelta

from dalsegno.terms.errors import BadInput

SECOND_NS = 1_000_000_000
TIME_NS_MIN = -62_135_596_800 * SECOND_NS
TIME_NS_MAX = 253_402_300_799 * SECOND_NS
# The years 1 to 9999: what lies beyond means the nearest of these.
_AGO = re.compile(r"^(\d+)(s|m|h|d|w)$")
_AGO_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_duration_seconds(text: str) -> int:
    """Return the seconds that `90s`, `15m`, `4h`, `2d` or `1w` name."""
    match = _AGO.match(text)
    if match is None:
        raise BadInput(f"duration {text!r}: expected a number with s, m, h, d or w, for example 24h")
    return int(match.group(1)) * _AGO_SECONDS[match.group(2)]


def parse_time_ns(text: str, *, now_ns: int) -> int | None:
    """Return the instant that `text` names, or None when it is not a time.

    A date alone means its end, so that `home@2026-11-21` is the newest clone of that day. Times without zone are local.
    """
    ago = _AGO.match(text)
    if ago is not None:
        return max(TIME_NS_MIN, now_ns - parse_duration_seconds(text) * SECOND_NS)
    day = {"today": 0, "yesterday": 1}.get(text)
    local_now = datetime.fromtimestamp(now_ns / SECOND_NS).astimezone()
    if day is not None:
        moment = local_now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=day - 1)
        return int(moment.timestamp()) * SECOND_NS - 1
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    try:
        if moment.tzinfo is None:
            moment = moment.astimezone()
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return int((moment + timedelta(days=1)).timestamp()) * SECOND_NS - 1
        return int(moment.timestamp()) * SECOND_NS + moment.microsecond * 1000
    except (ValueError, OverflowError):
        return TIME_NS_MIN if moment.year == 1 else TIME_NS_MAX


def format_time(at_ns: int) -> str:
    """Return an instant as `2026-11-21T02:00:00Z`."""
    return datetime.fromtimestamp(at_ns // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
