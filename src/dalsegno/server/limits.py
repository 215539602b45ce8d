"""How much a client may send, and how often it may ask."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from dalsegno.replicas.contract import STATE_BYTES_MAX
from dalsegno.terms.sizes import GIB, KIB, MIB

HEAD_BYTES_MAX: Final = 32 * KIB
"""Request line and headers of one request, about: what arrives with them in one read is looked at first."""
HEADERS_MAX: Final = 64
HEAD_SECONDS: Final = 10
"""From the first byte of a request (or the connection's beginning) to the end of its headers."""
KEEP_ALIVE_SECONDS: Final = 75
LINGER_SECONDS: Final = 10
"""For a client to take what it was sent before its connection was closed."""
PIPELINED_MAX: Final = 8
"""Requests on one connection that wait for the answer to an earlier one. Our own client sends none."""
HANDSHAKE_SECONDS: Final = 10
FRAMING_BYTES_MAX: Final = 64 * KIB
"""What a chunked body may have besides its bytes, on top of FRAMING_SHARE for each of them."""
FRAMING_SHARE: Final = 8

BODY_IDLE_SECONDS: Final = 60
"""Without one byte of a body arriving, or one of an answer leaving."""
PACE_SECONDS: Final = 60.0
"""How fast somebody is: what he sent or took in so long."""
RATE_MIN: Final = 1 * KIB
"""Bytes a second in PACE_SECONDS: slower bodies, and answers that are taken more slowly, are given up."""
WANTED_RATE_MIN: Final = 64 * KIB
"""The same where somebody else waits for the place. A slow line alone is no reason to lose it."""
READ_BYTES: Final = 128 * KIB
"""Read from a connection at once."""
TLS_READ_BYTES: Final = 32 * KIB
"""The same under TLS while a body comes, where each connection holds a buffer for it; a record has 16 KiB at most."""
TLS_HEAD_BYTES: Final = 4 * KIB
"""The same before and between bodies: most connections only wait."""
LEFTOVER_BYTES_MAX: Final = 1 * MIB
LEFTOVER_SECONDS: Final = 2.0
"""How much of a refused body is read, so that the client is ready to hear why."""

DUMPS_BYTES_OF_TOKEN_MAX: Final = 64 * GIB
"""Of dumps that were sent with one token and not loaded yet, unless `dal serve --dumps-max` says another bound."""

MESSAGE_FREE_BYTES: Final = 64 * KIB
"""A message of so many bytes waits for nothing."""
MESSAGES_BYTES_MAX: Final = 32 * MIB
"""What is beyond that in all messages that are read or answered."""
MESSAGES_BYTES_OF_TOKEN_MAX: Final = STATE_BYTES_MAX

CALLS_AT_ONCE: Final = 512
CALLS_OF_TOKEN_MAX: Final = 128
"""Running or waiting for their turn, without watches."""
WATCHES_AT_ONCE: Final = 512
WATCHES_OF_TOKEN_MAX: Final = 256
"""So that nobody takes them all."""
CONNECTIONS_MAX: Final = 2048
"""Fewer where a process may not have so many files open."""
FILES_RESERVED: Final = 512
"""Descriptors for packs, the index, uploads and databases."""
CONNECTIONS_OF_ADDRESS_MAX: Final = 1024
STRANGERS_OF_ADDRESS_MAX: Final = 64
"""Connections over which no token came yet that opens something."""
NEWCOMERS_OF_ADDRESS_MAX: Final = 256
"""The same, as long as the one that is idle for longest is younger than NEWCOMER_SECONDS."""
NEWCOMER_SECONDS: Final = 3.0
UNSENT_BYTES: Final = 128 * KIB
STREAM_SHARES: Final = 8
"""For answers of `missing`, `objects` and `dump`: they hold some 12 MiB of blocks a share while a client takes them."""
STREAM_SHARES_OF_TOKEN_MAX: Final = 4
"""Two dumps."""
UPLOADS_AT_ONCE: Final = 32
UPLOADS_OF_TOKEN_MAX: Final = 4
"""Bodies that stream: each holds a connection and some 1 MiB."""
PLACE_WAIT_SECONDS: Final = 240
"""Less than our own client waits for an answer."""
FAILURES_KEPT_MAX: Final = 1000
"""Answers that were cut short, and why."""
TOKEN_THREADS: Final = 4
"""They look up tokens and do nothing else: whoever asks for what takes long keeps nobody from being known."""
CALL_THREADS: Final = 16
CALL_THREADS_OF_TOKEN_MAX: Final = 4
LONG_CALL_THREADS: Final = 8
LONG_CALL_THREADS_OF_TOKEN_MAX: Final = 3
BODY_THREADS: Final = 16
"""One for each dump that is sent, and one for each piece of a body or an answer."""
assert STREAM_SHARES < BODY_THREADS

RATE: Final = 5000.0
"""Requests a second for one token."""
STRANGER_RATE: Final = 20.0
"""Requests a second without a token that opens something, for one address; as many again to /health."""
LOGGED_RATE: Final = 0.1
"""Lines a second in the log, for one address, about requests that were too many of a stranger's."""
BURST_SECONDS: Final = 5.0
COUNTED_MAX: Final = 10_000


@dataclass(slots=True)
class _Bucket:
    level: float
    at_ns: int


class RateLimit:
    """Allows each name `rate` requests a second, and some at once. Remembers the names seen last."""

    def __init__(self, rate: float, *, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, name: str, *, now_ns: int) -> float:
        """Count one request and return 0, or return the seconds after which the next is allowed."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(self._burst, now_ns)
            if len(self._buckets) > COUNTED_MAX:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        bucket.level = min(self._burst, bucket.level + self._rate * max(0, now_ns - bucket.at_ns) / 1e9)
        bucket.at_ns = now_ns
        if bucket.level >= 1:
            bucket.level -= 1
            return 0.0
        return (1 - bucket.level) / self._rate
