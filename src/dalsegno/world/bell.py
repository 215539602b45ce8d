"""A bell: threads wait until another one rings it."""

import threading


class Bell:
    """Counts how often it was rung, so that a ring between a look and the wait is not missed."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        """How often it was rung."""
        return self._count

    def ring(self) -> None:
        """Wake everybody who waits."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, count: int, seconds: float) -> None:
        """Wait until it was rung more than `count` times, at most so long."""
        with self._condition:
            self._condition.wait_for(lambda: self._count > count, timeout=seconds)
