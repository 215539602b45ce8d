"""Keep copies within a bandwidth: a bucket of bytes that all threads of a run share."""

from collections.abc import Callable

from dalsegno.world.clock import SECOND_NS, pause, ticks_ns
from dalsegno.world.workers import new_lock

BURST_SECONDS = 1


class Bandwidth:
    """At most so many bytes a second; call it with the bytes that were copied, and it waits when that was too fast."""

    def __init__(
        self,
        bytes_per_second: int,
        *,
        clock: Callable[[], int] = ticks_ns,
        wait: Callable[[float], object] = pause,
    ) -> None:
        """`clock` tells nanoseconds, `wait` takes seconds; several threads may call both at once."""
        assert bytes_per_second > 0
        self._clock = clock
        self._wait = wait
        self._rate = bytes_per_second
        self._lock = new_lock()
        self._free_at_ns = 0

    def __call__(self, count: int) -> None:
        """Account for `count` bytes."""
        now = self._clock()
        with self._lock:
            begin = max(self._free_at_ns, now - BURST_SECONDS * SECOND_NS)
            self._free_at_ns = begin + count * SECOND_NS // self._rate
            wait_ns = self._free_at_ns - now
        if wait_ns > 0:
            self._wait(wait_ns / SECOND_NS)
