"""Read objects of a volume from the one server that showed its state."""

from collections import OrderedDict
from typing import Final, Protocol

from dalsegno.replicas.contract import Record
from dalsegno.terms.errors import NotFound
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.terms.sizes import MIB
from dalsegno.world.workers import new_lock

RECORDS_BYTES_MAX: Final = 8 * MIB


class GivesBlocks(Protocol):
    """What is asked of a server."""

    def block(self, volume: str, identity: ObjectId) -> list[Record]:
        """Return an object and those stored beside it."""
        ...


class BlockSource:
    """A Source: the nodes that a state names, as its own server gives them, with what came along.

    Ids are not checked: who shows a state could as well show another one. What is read is used for that state alone.
    Threads may share it.
    """

    def __init__(self, site: GivesBlocks, volume: str) -> None:
        self._site = site
        self._volume = volume
        self._lock = new_lock()
        self._records: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object."""
        with self._lock:
            known = self._records.get(identity)
        if known is not None:
            return known
        found: bytes | None = None
        for _, each, payload in reversed(self._site.block(self._volume, identity)):
            found = payload if each == identity else found
            self._keep(each, payload)
        if found is None:
            raise NotFound(f"object {hex_short(identity)}: not in what the server answered")
        return found

    def _keep(self, identity: bytes, payload: bytes) -> None:
        with self._lock:
            self._size += len(payload) - len(self._records.pop(identity, b""))
            self._records[identity] = payload
            while self._size > RECORDS_BYTES_MAX and len(self._records) > 1:
                self._size -= len(self._records.popitem(last=False)[1])
