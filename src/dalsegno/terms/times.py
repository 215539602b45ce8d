"""Times as people write them. Instants are integers: nanoseconds since 1970 UTC."""

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from time import localtime

from dalsegno.terms.errors import BadInput

SECOND_NS = 1_000_000_000
TIME_NS_MIN = -62_135_596_800 * SECOND_NS
TIME_NS_MAX = 253_402_300_799 * SECOND_NS
# The years 1 to 9999: what lies beyond means the nearest of these.
TIMES_KNOWN = "2026-11-21, 2026-11-21T02:00, yesterday, monday, 3d (three days ago), now"
"""Examples of what `parse_time_ns` understands, for messages."""
_AGO = re.compile(r"^(\d{1,18})(s|m|h|d|w)\Z")
_AGO_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DATE = re.compile(r"^\d{4}(-?)\d\d\1\d\d\Z")
_CLOCK = re.compile(r"[T ](\d\d)(?::?(\d\d)(?::?(\d\d)([.,]\d+)?)?)?(?:Z|[+-][\d:]+)?\Z")
_DAY_0 = date(1970, 1, 1).toordinal()
_TWO_DIGITS = tuple(f"{number:02}" for number in range(60))
_UNITS = (timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1), timedelta(0))

_zone: tzinfo | None = None


def set_zone(zone: tzinfo | None) -> None:
    """Choose the time zone in which this process reads and shows times; None is the machine's (or TZ's)."""
    global _zone
    _zone = zone


def parse_duration_seconds(text: str) -> int:
    """Return the seconds that `90s`, `15m`, `4h`, `2d` or `1w` name."""
    match = _AGO.match(text)
    if match is None:
        raise BadInput(f"duration {text!r}: expected a number with s, m, h, d or w, for example 24h")
    return int(match.group(1)) * _AGO_SECONDS[match.group(2)]


def parse_time_ns(text: str, *, now_ns: int) -> int | None:
    """Return the instant that `text` names, or None when it is not a time.

    Whatever is named means its end, so that `home@2026-11-21` is the newest clone of that day, and a time as
    `show_time` writes it finds the clone that was made within that second. A day of the week is the last such day,
    today included. Times without zone are in the zone that `set_zone` chose.
    """
    ago = _AGO.match(text)
    if ago is not None:
        return max(TIME_NS_MIN, now_ns - parse_duration_seconds(text) * SECOND_NS)
    if text == "now":
        return now_ns
    try:
        day = _named_day(text, now_ns) or (date.fromisoformat(text) if _DATE.match(text) else None)
    except ValueError:
        return None
    return _end_ns(datetime.combine(day, time()), timedelta(days=1)) if day is not None else _parse_moment(text)


def _named_day(text: str, now_ns: int) -> date | None:
    today = _local(now_ns).date()
    if text in ("today", "yesterday"):
        return today - timedelta(days=text == "yesterday")
    if text in _WEEKDAYS:
        return today - timedelta(days=(today.weekday() - _WEEKDAYS.index(text)) % 7)
    return None


def _parse_moment(text: str) -> int | None:
    clock = _CLOCK.search(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if clock is None:
        return None
    given = sum(part is not None for part in clock.groups())
    return _end_ns(moment, _UNITS[given - 1])


def _end_ns(moment: datetime, unit: timedelta) -> int:
    """Return the last nanosecond of the day, hour, minute or second that begins at `moment`; of none, `moment`."""
    try:
        end = moment + unit
        if end.tzinfo is None:
            end = end.replace(tzinfo=_zone) if _zone is not None else end.astimezone()
        end_ns = int(end.replace(microsecond=0).timestamp()) * SECOND_NS + end.microsecond * 1000
    except (ValueError, OverflowError):
        return TIME_NS_MIN if moment.year == 1 else TIME_NS_MAX
    return end_ns - 1 if unit else end_ns


def _local(at_ns: int) -> datetime:
    if _zone is not None:
        return datetime.fromtimestamp(at_ns // SECOND_NS, _zone)
    return datetime.fromtimestamp(at_ns // SECOND_NS, UTC).astimezone()


def is_at_utc(at_ns: int) -> bool:
    """Tell whether the zone in which times are shown is at UTC then."""
    if _zone is None:
        return not localtime(at_ns // SECOND_NS).tm_gmtoff
    return _zone is UTC or not _local(at_ns).utcoffset()


@lru_cache(maxsize=64)
def _day(day: int) -> str:
    """Return a day since 1970 as `2026-11-21`; ValueError outside of the years 1 to 9999."""
    return date.fromordinal(_DAY_0 + day).isoformat()


def format_time(at_ns: int) -> str:
    """Return an instant as `2026-11-21T02:00:00Z`, for programs and files."""
    day, second = divmod(at_ns // SECOND_NS, 86_400)
    return f"{_day(day)}T{_TWO_DIGITS[second // 3600]}:{_TWO_DIGITS[second // 60 % 60]}:{_TWO_DIGITS[second % 60]}Z"


def show_time(at_ns: int) -> str:
    """Return an instant as people read it, `2026-11-21T03:00:00+01:00`: in their zone, and with the offset, so that it
    means the same wherever it is typed again; `Z` in a zone that is at UTC."""
    if is_at_utc(at_ns):
        return format_time(at_ns)
    return _local(at_ns).isoformat(timespec="seconds").replace("+00:00", "Z")


def show_minute(at_ns: int) -> str:
    """Return a time for a column, to the minute and without its zone: `2026-11-30 14:50`."""
    return _local(at_ns).strftime("%Y-%m-%d %H:%M")


def time_name(at_ns: int) -> str:
    """Return a name made of an instant, `2026-11-21T020000Z`: it sorts by time, and has no colon, which FAT and SMB
    refuse in names and rsync, scp and tar take for the end of a host's name."""
    return format_time(at_ns).replace(":", "")
