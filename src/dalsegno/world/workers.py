"""Threads: the only place that starts them. Whoever opens a crew ends it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Workers:
    """A crew of `count` threads that lives as long as its `with` block; work not begun is dropped on an error."""

    def __init__(self, count: int) -> None:
        assert count >= 1
        self.count = count
        self._executor = ThreadPoolExecutor(max_workers=count, thread_name_prefix="dal-worker")

    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start `function` on the next free thread and return its future."""
        return self._executor.submit(function, *args, **kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=kind is not None)


def new_lock() -> threading.Lock:
    """Return a lock for a value that several of a crew's threads share."""
    return threading.Lock()
