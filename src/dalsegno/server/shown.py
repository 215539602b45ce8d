"""Which of the objects that lie beside a wanted one a token may have, too.

A block of a pool holds what was stored at one time, of whichever volume; and one object can belong to many volumes. A
token that may not read them all gets what it asks for by name, and of the rest only what is named by something that it
was given: that it could ask for as well.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from dalsegno.formats import objects
from dalsegno.formats.object_records import Record
from dalsegno.terms.errors import Damaged
from dalsegno.world.workers import new_lock

NAMES_MAX: Final = 125_000
"""In each of two generations, for all tokens together: some 20 MB. What is forgotten travels alone the next time."""


class Shown:
    """Remembers which objects were named by what a token was given lately. Threads may share it."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._named: set[int] = set()
        """Hashes of (token, object), which only this process can make."""
        self._named_before: set[int] = set()

    def choose(self, token_id: str, wanted: bytes, records: Iterable[Record]) -> list[Record]:
        """Return those of the records that the token may have: `wanted`, and what is named by something given to it."""
        found = {identity: (kind, payload) for kind, identity, payload in records}
        given = {wanted, *(identity for identity in found if self._was_named(token_id, identity))}
        names: set[int] = set()
        left = list(given)
        while left:
            for identity in _names_in(*found[left.pop()]):
                names.add(hash((token_id, identity)))
                if identity in found and identity not in given:
                    given.add(identity)
                    left.append(identity)
        self._note(names)
        return [(kind, identity, payload) for identity, (kind, payload) in found.items() if identity in given]

    def _was_named(self, token_id: str, identity: bytes) -> bool:
        name = hash((token_id, identity))
        return name in self._named or name in self._named_before

    def _note(self, names: set[int]) -> None:
        with self._lock:
            if len(self._named) >= NAMES_MAX:
                self._named_before, self._named = self._named, set()
            self._named |= names


def _names_in(kind: int, payload: bytes) -> Iterator[bytes]:
    if kind == objects.KIND_CHUNK:
        return
    try:
        yield from (identity for _, identity in objects.references(kind, payload))
        if kind == objects.KIND_REVISION:
            yield from objects.decode_revision(payload).parents
    except Damaged:
        return  # whoever asked finds out; it names nothing
