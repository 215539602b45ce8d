"""Time zones of this machine; apart from the clock because few commands need them."""

import os
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


def local_zone_name() -> str:
    """Return the machine's time zone as an IANA name: TZ, /etc/localtime, or UTC when neither tells."""
    named = os.environ.get("TZ", "").removeprefix(":")
    link = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    for name in (named, link.removeprefix("posix/")):
        try:
            if name:
                return ZoneInfo(name).key
        except (ZoneInfoNotFoundError, ValueError, OSError):
            continue
    return "UTC"
