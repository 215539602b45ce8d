"""A process that runs for months: what a service manager wants to hear (sd_notify(3))."""

import contextlib
import os
import socket


def notify(message: str) -> None:
    """Tell the service manager `READY=1`, `STOPPING=1` or the like; without one nothing happens."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
        line.sendto(message.encode(), "\0" + place[1:] if place[0] == "@" else place)
