"""A source whose objects are what their ids say: what is read from it was compared, byte for byte, with its id.

Tags of blocks tell what somebody without the key changed. A member of the realm can write a dump, or a pack, in which
an id names other content than its own; whoever verifies it is told, and so is whoever reads it through this.
"""

from concurrent.futures import Future
from typing import Final, Protocol

from dalsegno.chunks.realm import Realm
from dalsegno.terms.errors import Damaged
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.world.workers import Workers

BESIDE_BYTES_MIN: Final = 16 * KIB
"""Smaller payloads are compared at once: handing them over takes longer."""
BATCH_BYTES: Final = 1 * MIB
BATCHES_MAX: Final = 8

_Read = tuple[bytes, int, bytes]
"""Id, kind and payload of what was read and not compared yet."""


class ViewSource(Protocol):
    """A pool, a dump, a chain of dumps."""

    def view_kind(self, identity: bytes) -> tuple[int, bytes | memoryview]:
        """Return kind and payload of an object, without a copy."""
        ...

    def read_ahead(self, workers: Workers | None) -> None:
        """Let `workers` open what comes next; None ends it."""
        ...


class CheckedSource:
    """A Source that compares."""

    def __init__(self, source: ViewSource, realm: Realm) -> None:
        self._source = source
        self._identify = realm.identify
        self._beside: Workers | None = None
        self._batch: list[_Read] = []
        self._batch_bytes = 0
        self._checks: list[Future[None]] = []

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object; Damaged when it is not that object's."""
        if self._beside is None:
            return bytes(self.view_kind(identity)[1])
        kind, view = self._source.view_kind(identity)
        payload = bytes(view)
        if len(payload) < BESIDE_BYTES_MIN:
            self._require(identity, kind, payload)
            return payload
        self._batch.append((identity, kind, payload))
        self._batch_bytes += len(payload)
        if self._batch_bytes >= BATCH_BYTES:
            self._hand_over(self._beside)
        return payload

    def get_kind(self, identity: bytes) -> tuple[int, bytes]:
        """Return kind and payload of an object."""
        kind, payload = self.view_kind(identity)
        return kind, bytes(payload)

    def view_kind(self, identity: bytes) -> tuple[int, bytes | memoryview]:
        """Return the same without a copy: a view keeps its whole block in memory, so it is not for keeping."""
        kind, payload = self._source.view_kind(identity)
        self._require(identity, kind, payload)
        return kind, payload

    def _require(self, identity: bytes, kind: int, payload: bytes | memoryview) -> None:
        if self._identify(kind, payload) != identity:
            raise Damaged(f"object {hex_short(identity)}: its content and its id disagree: its writer is to blame")

    def read_ahead(self, workers: Workers | None) -> None:
        """Let `workers` open what comes next; None ends it."""
        self._source.read_ahead(workers)

    # Comparing beside

    def check_beside(self, workers: Workers | None) -> None:
        """Let `workers` compare what one thread gets, until None is given; it settles before anything rests on that."""
        try:
            self.settle()
        finally:
            self._beside = workers

    def settle(self) -> None:
        """Return when all that was given is what its id says; Damaged when something is not."""
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        checks, self._checks = self._checks, []
        try:
            self._compare(batch)
        finally:
            for check in checks:
                check.exception()
        for check in checks:
            check.result()

    def _hand_over(self, workers: Workers) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        self._checks.append(workers.submit(self._compare, batch))
        if len(self._checks) > BATCHES_MAX:
            self._checks.pop(0).result()

    def _compare(self, batch: list[_Read]) -> None:
        for each in batch:
            self._require(*each)
