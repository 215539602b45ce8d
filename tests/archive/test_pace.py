"""Copies keep within a bandwidth that all threads share."""

import threading

from dalsegno.archive.pace import Bandwidth
from dalsegno.world.clock import SECOND_NS

MIB = 1024 * 1024
START_NS = 1000 * SECOND_NS


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now_ns = START_NS
        self.waits: list[float] = []

    def __call__(self) -> int:
        return self.now_ns

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_ns += round(seconds * SECOND_NS)


def test_a_copy_takes_its_bytes_at_the_bandwidth_but_for_the_first_second() -> None:
    clock = Clock()
    pace = Bandwidth(10 * MIB, clock=clock, wait=clock.wait)
    for _ in range(16):
        pace(MIB)
    assert clock.now_ns - START_NS == 0.6 * SECOND_NS and len(clock.waits) == 6


def test_threads_share_one_bandwidth() -> None:
    waits: list[float] = []
    pace = Bandwidth(10 * MIB, clock=lambda: START_NS, wait=waits.append)
    threads = [threading.Thread(target=lambda: [pace(MIB) for _ in range(8)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == [
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
    ]  # 16 MiB at 10 MiB/s, of which the first second's worth is free


def test_what_is_slower_than_the_bandwidth_never_waits() -> None:
    clock = Clock()
    pace = Bandwidth(1000 * MIB, clock=clock, wait=clock.wait)
    for _ in range(100):
        clock.now_ns += SECOND_NS
        pace(500 * MIB)
    assert clock.waits == []
