"""What the server counted, as text for Prometheus."""

import os
import resource
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Literal

from dalsegno.formats.prometheus import Family, render
from dalsegno.terms.sizes import KIB


class Metrics:
    """Counts requests. Used by the event loop only."""

    def __init__(self, *, started_ns: int) -> None:
        self._started_ns = started_ns
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.bytes_in = 0
        self.bytes_out = 0
        self.running = 0
        self.watching = 0
        self.strangers = 0
        """Requests with a token that opens nothing, or none where one is asked for."""
        self.limited = 0
        self.connections = 0
        self.cut_off = 0
        """Connections that were closed because their client was too slow or sent too much."""

    def text(self, extra: Iterable[str], *, now_ns: int) -> str:
        """Return everything, and `extra` lines of others."""
        requests = [({"call": call, "status": str(status)}, n) for (call, status), n in sorted(self.requests.items())]
        times = [({"call": call}, spent) for call, spent in sorted(self.seconds.items())]
        families = [
            Family("dalsegno_requests_total", "Requests answered.", requests, "counter"),
            Family("dalsegno_request_seconds_total", "Time from request to the end of its answer.", times, "counter"),
        ]
        numbers: tuple[tuple[str, Literal["gauge", "counter"], str, float], ...] = (
            ("received_bytes_total", "counter", "Bytes of bodies received.", self.bytes_in),
            ("sent_bytes_total", "counter", "Bytes of bodies sent.", self.bytes_out),
            ("requests_running", "gauge", "Requests being answered, without watches.", self.running),
            ("watches_running", "gauge", "Watches waiting for a new head.", self.watching),
            ("connections", "gauge", "Open connections.", self.connections),
            ("strangers_total", "counter", "Requests whose token opens nothing.", self.strangers),
            ("limited_total", "counter", "Requests refused because there were too many.", self.limited),
            ("cut_off_total", "counter", "Connections closed on clients too slow or too loud.", self.cut_off),
            ("uptime_seconds", "gauge", "Since the server began.", (now_ns - self._started_ns) / 1e9),
            ("memory_bytes", "gauge", "Memory of the server's process.", _resident_bytes()),
            ("memory_peak_bytes", "gauge", "The most that it ever was.", _peak_bytes()),
        )
        families += [Family(f"dalsegno_{name}", what, [({}, value)], kind) for name, kind, what, value in numbers]
        return "\n".join([*render(families), *extra]) + "\n"


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
