"""What everything above asks of a place with objects: a source to read from, a sink to write to."""

from typing import Protocol

from dalsegno.terms.ids import ObjectId


class Source(Protocol):
    """A place to read objects from: a pool, a dump, a chain of dumps, a server."""

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload. NotFound when it is not there; Damaged when its bytes are not those written."""
        ...


class Sink(Protocol):
    """A place to write objects to: a pool's writer, a dump being written."""

    def put(self, kind: int, payload: bytes, /) -> ObjectId:
        """Store an object unless it is there, and return its id. Durable only after the sink's owner says so."""
        ...

    def has(self, identity: ObjectId, /) -> bool:
        """Tell whether the object is there already, so that what it names need not be visited."""
        ...
