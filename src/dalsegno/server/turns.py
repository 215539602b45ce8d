"""Who may have how much at once: places for the tokens that ask, and the pace of who holds one.

Threads, memory and answers that stream are few. A token has a part of them at most, whoever has less of them comes
first, and who is slow loses his place to who waits for it: so one token, stolen or in a loop, leaves room for others.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from dalsegno.server import limits
from dalsegno.terms.errors import Unavailable

_MARK_SECONDS: Final = limits.PACE_SECONDS / 12


@dataclass(slots=True, eq=False)
class _Waiting:
    token: str
    count: int
    turn: asyncio.Future[None]


class Places:
    """So many of something; a token has at most a part of them. Used by the event loop only."""

    def __init__(self, count: int, *, of_token_max: int) -> None:
        self._free = count
        self._of_token_max = min(of_token_max, count)
        self._held: Counter[str] = Counter()
        self._waiting: list[_Waiting] = []

    @contextlib.asynccontextmanager
    async def taken(self, token: str, count: int = 1) -> AsyncIterator[None]:
        """Have some, as soon as there are so many; Unavailable after waiting long."""
        assert count <= self._of_token_max
        if not count:
            yield
            return
        waiting = _Waiting(token, count, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._grant()
        try:
            with contextlib.suppress(TimeoutError):
                if not waiting.turn.done():
                    async with asyncio.timeout(limits.PLACE_WAIT_SECONDS):
                        await asyncio.shield(waiting.turn)
            if not waiting.turn.done():
                raise Unavailable("the server does as much as it can, or as one token may have done: try again")
            yield
        finally:
            if waiting.turn.done():
                self._held[token] -= count
                if not self._held[token]:
                    del self._held[token]
                self._free += count
            else:
                self._waiting.remove(waiting)
            self._grant()

    def is_wanted(self) -> bool:
        """Tell whether somebody waits for a place who has not as many already as a token may have."""
        return any(self._may(waiting) for waiting in self._waiting)

    def _may(self, waiting: _Waiting) -> bool:
        return self._held[waiting.token] + waiting.count <= self._of_token_max

    def _grant(self) -> None:
        while self._waiting:
            ready = [waiting for waiting in self._waiting if self._may(waiting)]
            if not ready:
                return
            first = min(ready, key=lambda waiting: self._held[waiting.token])
            if first.count > self._free:
                return
            self._free -= first.count
            self._held[first.token] += first.count
            self._waiting.remove(first)
            first.turn.set_result(None)


class Pace:
    """How fast somebody sends or takes, while it is he who is waited for."""

    def __init__(self) -> None:
        self.bytes_count = 0
        self._waited = 0.0
        self._marks: deque[tuple[float, int]] = deque([(0.0, 0)])

    def note(self, count: int, *, seconds: float) -> None:
        """Note bytes that came after so long."""
        self.bytes_count += count
        self._waited += seconds
        if self._waited - self._marks[-1][0] >= _MARK_SECONDS:
            self._marks.append((self._waited, self.bytes_count))
            while len(self._marks) > 1 and self._waited - self._marks[1][0] >= limits.PACE_SECONDS:
                self._marks.popleft()

    def is_below(self, bytes_a_second: float) -> bool:
        """Tell whether the last minute (of one that was longer) brought less."""
        since, before = self._marks[0]
        waited = self._waited - since
        return waited >= limits.PACE_SECONDS and self.bytes_count - before < bytes_a_second * waited
