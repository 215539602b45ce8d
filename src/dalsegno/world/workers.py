"""Threads: the only place that starts them. Whoever opens a crew ends it."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")


class Workers:
    """A crew of `count` threads that lives as long as its `with` block; work not begun is dropped on an error."""

    def __init__(self, count: int) -> None:
        assert count >= 1
        self.count = count
        self._executor = ThreadPoolExecutor(max_workers=count, thread_name_prefix="dal-worker")

    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start `function` on the next free thread and return its future."""
        return self._executor.submit(function, *args, **kwargs)

    def lane(self, pending_max: int) -> "Lane":
        """Return a thread of its own for steps that must keep their order. Whoever asks closes it."""
        return Lane(pending_max)

    def map_ordered(self, function: Callable[[A], R], values: Iterable[A]) -> Iterator[R]:
        """Yield `function(value)` for each value, in order, a few ahead of who asks."""
        pending: deque[Future[R]] = deque()
        for value in values:
            pending.append(self._executor.submit(function, value))
            if len(pending) > 2 * self.count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=kind is not None)


class Lane:
    """One thread that does what it is given in order, with at most `pending_max` steps waiting."""

    def __init__(self, pending_max: int) -> None:
        self._pending_max = pending_max
        self._pending: deque[Future[None]] = deque()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dal-lane")

    def submit(self, function: Callable[P, None], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Add a step; raises what an earlier one raised."""
        self._pending.append(self._executor.submit(function, *args, **kwargs))
        while len(self._pending) > self._pending_max or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()

    def drain(self) -> None:
        """Wait until every step is done; raises what one of them raised."""
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        """End the thread; steps not begun are dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()


def new_lock() -> threading.Lock:
    """Return a lock for a value that several of a crew's threads share."""
    return threading.Lock()


def new_event() -> threading.Event:
    """Return a flag that one thread sets and others wait for."""
    return threading.Event()
