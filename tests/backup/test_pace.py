"""Copies keep within a bandwidth that all threads share."""

import threading
import time

from dalsegno.backup.pace import Bandwidth

MIB = 1024 * 1024


def test_two_threads_share_one_bandwidth() -> None:
    pace = Bandwidth(10 * MIB)
    started = time.monotonic()
    threads = [threading.Thread(target=lambda: [pace(MIB) for _ in range(8)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - started
    assert 0.5 < seconds < 3  # 16 MiB at 10 MiB/s, of which the first second's worth is free


def test_what_is_slower_than_the_bandwidth_never_waits() -> None:
    pace = Bandwidth(1000 * MIB)
    started = time.monotonic()
    for _ in range(100):
        pace(MIB // 10)
    assert time.monotonic() - started < 0.3
