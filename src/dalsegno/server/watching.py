"""Long polls: who waits for a volume's next head, until it comes, time is over, he goes away, or the server stops."""

import asyncio
from collections import Counter
from typing import Final

from dalsegno.replicas.tokens import WRITE
from dalsegno.server import limits
from dalsegno.server.bodies import Gone
from dalsegno.server.callers import Callers
from dalsegno.server.crews import Crews
from dalsegno.server.exchange import Exchange, Receive
from dalsegno.server.metrics import Metrics
from dalsegno.server.refusals import RETRY_SECONDS, TooMany
from dalsegno.server.routes import Ask, OpenSite
from dalsegno.volumes.state import VolumeState

WATCH_SLICE_SECONDS: Final = 1.0
WATCH_SLICES_TRUSTED: Final = 10
"""After so many that brought nothing a watch's token is looked up again; before it is told something in any case."""


class Watching:
    """All watches of a server. Used by the event loop only."""

    def __init__(self, site: OpenSite, crews: Crews, callers: Callers, metrics: Metrics) -> None:
        self._site = site
        self._workers = crews.watches
        self._calls = crews.calls
        self._callers = callers
        self._metrics = metrics
        self._stopping: asyncio.Event | None = None
        self._stopped = False
        self._watching: Counter[str] = Counter()
        """How many watches each token has."""

    def stop(self) -> None:
        """End the watches. To be called in the event loop."""
        self._stopped = True
        self._stop_event().set()

    def _stop_event(self) -> asyncio.Event:
        if self._stopping is None:
            self._stopping = asyncio.Event()
        return self._stopping

    async def answer(self, exchange: Exchange, ask: Ask) -> VolumeState:
        """Wait for a new head in slices, so that a stop and a client that went away are noticed.

        TooMany when enough watches run, Stranger when the token was revoked, Gone when the client went away.
        """
        loop = asyncio.get_running_loop()
        head = ask.query["head"]
        # What a follower has is kept for it: that is not for everybody to ask.
        follower = ask.query["follower"] if ask.token.allows(WRITE, ask.volume) else ""
        end = loop.time() + ask.query["seconds"]
        slices = 0
        if (
            self._metrics.watching >= limits.WATCHES_AT_ONCE
            or self._watching[ask.token.id] >= limits.WATCHES_OF_TOKEN_MAX
        ):
            raise TooMany("too many watch already: try again", seconds=RETRY_SECONDS)
        stop = asyncio.ensure_future(self._stop_event().wait())
        gone = asyncio.ensure_future(_until_gone(exchange.receive))
        self._metrics.watching += 1
        self._watching[ask.token.id] += 1
        try:
            while True:
                left = max(0.0, end - loop.time())
                slice_seconds = 0.0 if self._stopped else min(left, WATCH_SLICE_SECONDS)
                job = asyncio.wrap_future(
                    self._workers.submit(self._site.watch, ask.volume, head, seconds=slice_seconds, follower=follower)
                )
                follower = ""  # once is enough: it stays noted
                await asyncio.wait((job, stop, gone), return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    raise Gone("the client went away")
                if not job.done():  # the server stops: the answer is the state as it is
                    await self._callers.require_known(exchange)
                    return await asyncio.wrap_future(self._calls.submit(self._site.state, ask.volume))
                state = job.result()
                slices += 1
                is_over = state.head != head or left <= slice_seconds or self._stopped
                if is_over or slices % WATCH_SLICES_TRUSTED == 0:
                    await self._callers.require_known(exchange)
                if is_over:
                    return state
        finally:
            self._metrics.watching -= 1
            self._watching[ask.token.id] -= 1
            if not self._watching[ask.token.id]:
                del self._watching[ask.token.id]
            for task in (stop, gone):
                task.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
