"""Work that may be given up: each errand on a thread of its own, and a fence that keeps it from acting later.

A thread that waits for a file system whose server is gone (NFS, FUSE) cannot be ended, often not even by SIGKILL. Who
waits for one goes on without it: nobody joins it at the end. Should it wake, it finds its fence shut, and changes
nothing.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

from dalsegno.world.clock import SECOND_NS, ticks_ns

R = TypeVar("R")

LOOK_SECONDS: Final = 0.25
"""How often who waits looks at the clock."""
STEP_SECONDS_MAX: Final = 30.0
"""How long a step that must be done as a whole may keep a fence from being shut."""

_left: list["Errand[Any]"] = []


class GivenUp(BaseException):
    """Nobody waits for this work any more: it ends where it is, and changes nothing. Not for `except Exception`."""


class Fence:
    """What work passes before it changes anything; shut when the work is given up."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_shut = False
        self._held: list[Callable[[], None]] = []

    def require_open(self) -> None:
        """Raise GivenUp when nobody waits for this work any more."""
        if self._is_shut:
            raise GivenUp

    @contextmanager
    def step(self) -> Iterator[None]:
        """Pass, and keep the fence from being shut until the block is done: it happens before that, or not at all."""
        with self._lock:
            self.require_open()
            yield

    @contextmanager
    def holding(self, let_go: Callable[[], None]) -> Iterator[None]:
        """Have what is held during the block let go of by who shuts the fence, on his thread."""
        self._held.append(let_go)
        try:
            yield
        finally:
            self._held.remove(let_go)

    def shut(self) -> None:
        """Give the work up. What a step in its middle holds stays held: it is about to be done, or hangs itself."""
        is_between_steps = self._lock.acquire(timeout=STEP_SECONDS_MAX)
        self._is_shut = True
        if is_between_steps:
            try:
                for let_go in reversed(self._held):
                    let_go()
            finally:
                self._lock.release()


class Errand(Generic[R]):
    """One call on a thread of its own."""

    def __init__(self, work: Callable[[], R], *, done: threading.Event | None = None) -> None:
        """Begin; `done` is set at the end, however that is."""
        self._future: Future[R] = Future()
        self._work = work
        self._done = done
        threading.Thread(target=self._run, name="dal-errand", daemon=True).start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._work())
        except BaseException as error:
            self._future.set_exception(error)
        finally:
            if self._done is not None:
                self._done.set()

    @property
    def is_done(self) -> bool:
        """Whether `result` says at once how it ended."""
        return self._future.done()

    def result(self) -> R:
        """Return what the call returned, or raise what it raised; waits."""
        return self._future.result()

    def leave(self) -> None:
        """Wait for it no more."""
        _left.append(self)


def are_left() -> bool:
    """Tell whether something was left behind that is still not done: the process cannot end as usual."""
    return not all(errand.is_done for errand in _left)


def look_at_each(names: Iterable[str], look: Callable[[str], R], *, seconds: float) -> tuple[dict[str, R], list[str]]:
    """Return what `look` says of each name, and the names of which it said nothing within `seconds`."""
    left = deque(names)
    found: dict[str, R] = {}
    silent: list[str] = []
    while left:
        said: dict[str, R] = {}
        asked = tuple(left)
        news = threading.Event()
        errand = Errand(lambda asked=asked, said=said, news=news: _look(asked, look, said, news), done=news)  # type: ignore[misc]
        seen, since_ns = 0, ticks_ns()
        while not errand.is_done:
            news.wait(LOOK_SECONDS)
            news.clear()
            if len(said) > seen:
                seen, since_ns = len(said), ticks_ns()
            elif not errand.is_done and ticks_ns() - since_ns > seconds * SECOND_NS:
                errand.leave()
                break
        else:
            errand.result()
        answers = dict(said)
        found.update(answers)
        left = deque(name for name in left if name not in answers)
        if left:
            silent.append(left.popleft())
    return found, silent


def _look(names: tuple[str, ...], look: Callable[[str], R], said: dict[str, R], news: threading.Event) -> None:
    for name in names:
        said[name] = look(name)
        news.set()
