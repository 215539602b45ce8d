"""Read objects of a volume from the one server that showed its state."""

from collections import OrderedDict
from typing import Final, Protocol

from dalsegno.formats.object_records import Record
from dalsegno.terms.errors import NotFound
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.world.workers import new_lock

RECORDS_BYTES_MAX: Final = 8 * MIB
FIRST_BYTES: Final = 8 * KIB
ASKED_BYTES_MAX: Final = 2 * MIB


class GivesBlocks(Protocol):
    """What is asked of a server."""

    def block(self, volume: str, identity: ObjectId, *, bytes_max: int) -> list[Record]:
        """Return an object and those stored beside it, about so many bytes."""
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
        self._asked_bytes = FIRST_BYTES

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object."""
        with self._lock:
            known = self._records.get(identity)
        if known is not None:
            return known
        found: bytes | None = None
        # One path is little; who asks on and on wants all of it.
        bytes_max, self._asked_bytes = self._asked_bytes, min(2 * self._asked_bytes, ASKED_BYTES_MAX)
        for _, each, payload in reversed(self._site.block(self._volume, identity, bytes_max=bytes_max)):
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
