"""The turns of a run: several at once, each with an end, so that a source that never answers holds up no other volume.

A turn whose time is over is told so when it next reports how far it is (actions/turn.py: within). One that reports
nothing hangs, in a read that nobody can end: it is left behind with its thread, its volume fails, and the rest go on.
While it hangs it keeps the volume's lock, so that a later run says so instead of hanging there, too.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blake3 import blake3

from dalsegno.actions.turn import CLONED, Turn, TurnResult, format_span
from dalsegno.terms.errors import Conflict
from dalsegno.terms.events import Event, Progress, Report
from dalsegno.terms.times import SECOND_NS
from dalsegno.world.clock import ticks_ns
from dalsegno.world.errands import LOOK_SECONDS, Errand, Fence
from dalsegno.world.files import PRIVATE_DIRECTORY, FileLock, make_directory
from dalsegno.world.workers import new_event

GRACE_SECONDS: Final = 60
"""What a turn whose time is over may take to report something, before it counts as one that hangs."""
STOP_SECONDS: Final = 60
"""What the turns of a run that is to stop may take to do so."""
KEY_BYTES: Final = 16


class TurnLock:
    """What one turn of a volume holds, for as long as its thread is there: however the run itself ended."""

    def __init__(self, directory: Path, key: str) -> None:
        """`key` is what the turn is about: the source, or a native volume's name. Full, NoAccess: of the directory."""
        make_directory(directory, mode=PRIVATE_DIRECTORY)
        self._key = key
        self.path = directory / f"{blake3(os.fsencode(key)).hexdigest(KEY_BYTES)}.lock"
        self._lock = FileLock(self.path)

    def acquire(self) -> None:
        """Take it; Conflict says what the turn is doing that has it."""
        if self._lock.acquire(wait=False):
            return
        self._lock.close()
        raise Conflict(f"an earlier turn of it is not over: {_read_note(self.path)[1] or 'it is at work'}")

    def note(self, text: str) -> None:
        """Say in the file what the turn is doing, for who finds it taken."""
        self.path.write_text(f"{self._key}\0{text}", errors="surrogateescape")

    def release(self) -> None:
        """Give it back: the turn is over. The file stays: one that is removed could be held by two runs at once."""
        self.path.write_text("")
        self._lock.close()


def hanging_keys(directory: Path) -> set[str]:
    """Return what the turns are about that earlier runs left behind and that hang still. NoAccess: of a lock."""
    found = set()
    for path in directory.glob("*.lock"):
        with FileLock(path) as lock:
            if not lock.acquire(wait=False):
                found.add(_read_note(path)[0])
    return found - {""}


def _read_note(path: Path) -> tuple[str, str]:
    text = ""
    with contextlib.suppress(FileNotFoundError):  # just now it is over
        text = path.read_text(errors="surrogateescape")
    key, _, what = text.partition("\0")
    return key, what


@dataclass(slots=True, kw_only=True, eq=False)
class AtWork:
    """A volume's turn as the run sees it, from another thread."""

    set_name: str
    volume: str
    source: str
    """What it reads; empty when it reads no source any more."""
    about: str
    """What its lock is named after, at every step alike: the source, or a native volume's name."""
    seconds: int
    """How long it may take."""
    fence: Fence = field(default_factory=Fence)
    lock: TurnLock | None = None
    turn: Turn | None = None
    """Where it stands, once it is written down that it began."""
    where: Callable[[], bytes] | None = None
    end_ns: int = 0

    def begin(self) -> None:
        """Its time begins."""
        self.end_ns = ticks_ns() + (self.seconds + GRACE_SECONDS) * SECOND_NS

    @property
    def is_overdue(self) -> bool:
        """Whether it had to be over long ago, and said nothing since."""
        return ticks_ns() > self.end_ns

    def listening(self, report: Report) -> Report:
        """Return what the turn reports to: it remembers where the turn is, and ends one that was given up."""

        def tell(event: Event) -> None:
            self.fence.require_open()
            if isinstance(event, Progress):
                self.where = event.where
            report(event)

        return tell

    def stuck(self) -> str:
        """Return what it waits for, in words."""
        where, turn = self.where, self.turn
        if where is not None:
            return os.fsdecode(where())
        if turn is not None and turn.storing:
            return f"target {turn.storing}"
        if self.source and (turn is None or not turn.reached(CLONED)):
            return self.source
        return "the pool" if turn is None else f"what comes after the step {turn.job.step!r}"

    def overdue_words(self) -> str:
        """Return what to say of it when it is left behind."""
        return (
            f"{self.stuck()}: does not answer: not done after {format_span(self.seconds)} (`turn` in [limits] of the "
            "policy), and left behind there; look at the mount and its server"
        )


def take_turns(
    turns: Sequence[tuple[AtWork, Callable[[], TurnResult]]],
    *,
    at_once: int,
    leave: Callable[[AtWork], TurnResult],
    stop: Callable[[], None],
) -> list[TurnResult]:
    """Take turns, at most `at_once` at a time, and return how each ended, in their order.

    One that is overdue is given up; `leave` closes it and says how it ended. When this is interrupted, `stop` asks
    those at work to end, and they have STOP_SECONDS for it. Raises Stopped when one of them was.
    """
    waiting = deque(enumerate(turns))
    working: dict[int, tuple[AtWork, Errand[TurnResult]]] = {}
    results: dict[int, TurnResult] = {}
    news = new_event()
    try:
        while waiting or working:
            while waiting and len(working) < at_once:
                number, (each, work) = waiting.popleft()
                each.begin()
                working[number] = each, Errand(work, done=news)
            news.wait(LOOK_SECONDS)
            news.clear()
            for number, (each, errand) in list(working.items()):
                if errand.is_done:
                    del working[number]
                    results[number] = errand.result()
                elif each.is_overdue:
                    del working[number]
                    errand.leave()
                    each.fence.shut()
                    results[number] = leave(each)
    except BaseException:
        stop()
        _end(list(working.values()))
        raise
    return [results[number] for number in sorted(results)]


def _end(working: list[tuple[AtWork, Errand[TurnResult]]]) -> None:
    """Wait for turns that were asked to stop; those that do not are left behind."""
    until_ns = ticks_ns() + STOP_SECONDS * SECOND_NS
    tick = new_event()
    try:
        while ticks_ns() < until_ns and not all(errand.is_done for _, errand in working):
            tick.wait(LOOK_SECONDS)
    finally:
        for each, errand in working:
            if not errand.is_done:
                errand.leave()
                each.fence.shut()
