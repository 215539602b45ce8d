"""Who asks: whether his token opens something, and whether he asks too often."""

import asyncio
import contextlib
from collections.abc import Sequence

from dalsegno.replicas.tokens import USED_STEP_NS, Token, TokenStore, check_token
from dalsegno.server import limits
from dalsegno.server.exchange import Exchange
from dalsegno.server.gate import Connection, Connections
from dalsegno.server.limits import RateLimit
from dalsegno.server.metrics import Metrics
from dalsegno.server.refusals import Stranger, TooMany
from dalsegno.terms.errors import DalError
from dalsegno.world.clock import now_ns, ticks_ns
from dalsegno.world.workers import Workers


class Callers:
    """Knows tokens, and counts what each of them and each address without one asks."""

    def __init__(
        self, tokens: Sequence[TokenStore], workers: Workers, connections: Connections, metrics: Metrics, *, rate: float
    ) -> None:
        """`rate`: requests a second of one token. `workers` look tokens up, and do nothing else."""
        self._stores = tokens
        self._workers = workers
        self._connections = connections
        self._metrics = metrics
        self._rate = RateLimit(rate, burst=rate * limits.BURST_SECONDS)
        self._stranger_rate = RateLimit(limits.STRANGER_RATE, burst=limits.STRANGER_RATE * limits.BURST_SECONDS)
        self._health_rate = RateLimit(limits.STRANGER_RATE, burst=limits.STRANGER_RATE * limits.BURST_SECONDS)
        """Apart, so that who guesses tokens leaves the monitors of his neighbours alone."""
        self._used: dict[str, int] = {}

    async def identify(self, exchange: Exchange) -> Token:
        """Return the token of a request; Stranger when it opens nothing, TooMany when it asks too often."""
        token = await self._find_token(exchange)
        if token is None:
            self._metrics.strangers += 1
            self.limit_stranger(exchange)
            raise Stranger(
                "no token, or one that is unknown, expired or revoked: `dal token add` on the server makes one"
            )
        wait = self._rate.take(token.id, now_ns=ticks_ns())
        if wait:
            raise TooMany("this token asks too often: wait a moment", seconds=wait)
        return token

    async def _find_token(self, exchange: Exchange) -> Token | None:
        scheme, _, text = exchange.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        looked = self._workers.submit(self._check, text.strip())
        found: tuple[Token, TokenStore] | None = await asyncio.wrap_future(looked)
        if found is None:
            return None
        self._connections.know(exchange.connection)
        return found[0]

    async def require_known(self, exchange: Exchange) -> None:
        """Stranger when the token was revoked since it asked: then it is told nothing more."""
        if await self._find_token(exchange) is None:
            raise Stranger("the token was revoked, or expired, meanwhile")

    def limit_stranger(self, exchange: Exchange) -> None:
        """Count a request without a token that opens something."""
        exchange.is_counted = True
        rate = self._health_rate if exchange.call == "health" else self._stranger_rate
        wait = rate.take(exchange.connection.source, now_ns=ticks_ns())
        if wait:
            exchange.is_logged = False
            raise TooMany("too many requests without a token that opens anything: wait a moment", seconds=wait)

    async def count_refused(self, exchange: Exchange) -> None:
        """Count a request that was refused before anybody looked at its token; TooMany for a stranger who asks on."""
        if await self._find_token(exchange) is None:
            self.limit_stranger(exchange)

    def count_cut(self, connection: Connection) -> bool:
        """Count what was no request, and return whether it gets an answer."""
        return connection.is_known or not self._stranger_rate.take(connection.source, now_ns=ticks_ns())

    def _check(self, text: str) -> tuple[Token, TokenStore] | None:
        now = now_ns()
        found = check_token(text, self._stores, now_ns=now)
        if found is not None and now - self._used.get(found[0].id, 0) > USED_STEP_NS:
            if len(self._used) > limits.COUNTED_MAX:
                self._used.clear()
            self._used[found[0].id] = now
            with contextlib.suppress(DalError):  # a full disk must not keep anybody from reading
                found[1].used(found[0].id, now_ns=now)
        return found
