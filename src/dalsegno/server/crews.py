"""The five crews of threads in which everything runs that reads a disk, and the places of each token in them."""

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from dalsegno.server import limits
from dalsegno.server.turns import Places
from dalsegno.world.workers import Workers


class Crews:
    """Used in a `with` block, which ends the threads."""

    def __init__(self) -> None:
        self.tokens = Workers(limits.TOKEN_THREADS)
        self.calls = Workers(limits.CALL_THREADS)
        self.long_calls = Workers(limits.LONG_CALL_THREADS)
        self.bodies = Workers(limits.BODY_THREADS)
        self.watches = Workers(limits.WATCHES_AT_ONCE)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for crew in (self.tokens, self.calls, self.long_calls, self.bodies, self.watches):
            self._stack.enter_context(crew)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


class Shares:
    """What tokens share, each with a part of it at most."""

    def __init__(self) -> None:
        self.streams = Places(limits.STREAM_SHARES, of_token_max=limits.STREAM_SHARES_OF_TOKEN_MAX)
        self.uploads = Places(limits.UPLOADS_AT_ONCE, of_token_max=limits.UPLOADS_OF_TOKEN_MAX)
        self.messages = Places(limits.MESSAGES_BYTES_MAX, of_token_max=limits.MESSAGES_BYTES_OF_TOKEN_MAX)
        self.calls = Places(limits.CALL_THREADS, of_token_max=limits.CALL_THREADS_OF_TOKEN_MAX)
        self.long_calls = Places(limits.LONG_CALL_THREADS, of_token_max=limits.LONG_CALL_THREADS_OF_TOKEN_MAX)
