"""What every piece of work on replicas needs and no volume decides: clocks, chance, threads, the merge, who asks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dalsegno.chunks.realm import Realm
from dalsegno.pool.contract import Sink, Source
from dalsegno.terms.errors import Diverged
from dalsegno.terms.events import Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.world.chance import random_share
from dalsegno.world.clock import now_ns, pause, ticks_ns
from dalsegno.world.workers import Workers

Merge = Callable[[Source, Sink, bytes, bytes], bytes]
"""Merge two heads into a revision, the same one in whichever order they are given and on every server."""
Parallel = Callable[[Sequence[Callable[[], None]]], None]
"""Run all of some steps, in any order or at once; return when all have ended."""


def in_turn(steps: Sequence[Callable[[], None]]) -> None:
    """Run steps one after the other."""
    for step in steps:
        step()


def side_by_side(workers: Workers) -> Parallel:
    """Return what runs steps on threads, the first one on the caller's."""

    def run(steps: Sequence[Callable[[], None]]) -> None:
        futures = [workers.submit(step) for step in steps[1:]]
        try:
            if steps:
                steps[0]()
        finally:
            for future in futures:
                future.exception()
        for future in futures:
            future.result()

    return run


def never_merge(source: Source, sink: Sink, one: bytes, other: bytes) -> bytes:
    """Raise Diverged: for work that has nothing to merge."""
    raise Diverged(f"{hex_short(one)} and {hex_short(other)} are different states")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaContext:
    """The services that work on replicas uses, passed on as one value."""

    realm: Realm
    owner: str
    """Names this client or server in leases, and no other one."""
    merge: Merge = never_merge
    clock: Callable[[], int] = now_ns
    """The time of day in nanoseconds since 1970."""
    ticks: Callable[[], int] = ticks_ns
    """Nanoseconds that never go back, for durations."""
    pause: Callable[[float], None] = pause
    """Wait so many seconds."""
    randomness: Callable[[], float] = random_share
    """A number from 0 up to 1."""
    parallel: Parallel = in_turn
    """Runs what is asked of several servers."""
    report: Report = silent
