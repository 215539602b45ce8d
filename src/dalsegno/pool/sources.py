"""Several sources of one realm as one: an id means one object, so whichever has it may give it."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, TypeVar

from dalsegno.chunks.realm import Realm
from dalsegno.pool.contract import Source
from dalsegno.pool.pack_read import PackReader
from dalsegno.terms.errors import DalError, Damaged, NotFound, Unavailable
from dalsegno.terms.ids import ObjectId, hex_short

Place = TypeVar("Place")
Result = TypeVar("Result")

_TELLING: Final = (Damaged, Unavailable)
"""What is raised rather than that nothing has it: the object may be there, the most telling first."""


def first_of(
    places: Iterable[Place], read: Callable[[Place], Result | None], *, absent: Callable[[], DalError]
) -> Result:
    """Return what `read` gives of the first place that has it.

    None and NotFound mean that a place does not have it. One that has it damaged, or cannot be reached, is passed over:
    another may have it; when none does, that is the error. Else `absent()`, most often a NotFound, is raised.
    """
    failures: list[DalError] = []
    for place in places:
        try:
            found = read(place)
        except NotFound:
            continue
        except _TELLING as error:
            failures.append(error)
            continue
        if found is not None:
            return found
    for kind in _TELLING:
        for failure in failures:
            if isinstance(failure, kind):
                raise failure
    raise absent()


class FirstOf:
    """A Source of several; the first that has an object gives it, by the rule of `first_of`."""

    def __init__(self, sources: Sequence[Source], *, absent: str = "in none of the places that were asked") -> None:
        """`absent` ends the sentence about an object that is nowhere."""
        self._sources = list(sources)
        self._absent = absent

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object; NotFound when none has it."""
        return first_of(self._sources, lambda source: source.get(identity), absent=lambda: self._nowhere(identity))

    def _nowhere(self, identity: bytes) -> DalError:
        return NotFound(f"object {hex_short(identity)} is {self._absent}")


class Scratch:
    """A Source and a Sink that stores nothing: what is put is kept in memory, beside what the source has."""

    def __init__(self, realm: Realm, source: Source, *, keeps: Collection[int] | None = None) -> None:
        """Of objects of other kinds than `keeps`, if given, only the id is made."""
        self._realm = realm
        self._source = source
        self._keeps = keeps
        self._kept: dict[bytes, bytes] = {}

    def put(self, kind: int, payload: bytes, /) -> ObjectId:
        """Return the id of an object, and keep it."""
        identity = self._realm.identify(kind, payload)
        if self._keeps is None or kind in self._keeps:
            self._kept[identity] = bytes(payload)
        return identity

    def has(self, identity: ObjectId, /) -> bool:
        """Tell whether an object was put and kept here."""
        return identity in self._kept

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object; what the source raises when it is neither here nor there."""
        payload = self._kept.get(identity)
        return payload if payload is not None else self._source.get(identity)


class PacksSource:
    """The same of open packs, each asked by its own index: what is not in one costs no more than the look-up."""

    def __init__(self, readers: Sequence[PackReader], *, absent: Callable[[], str]) -> None:
        """`absent` returns the end of the sentence about an object that is in none."""
        self._readers = list(readers)
        self._absent = absent

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object."""
        return bytes(self.view_kind(identity)[1])

    def view_kind(self, identity: bytes) -> tuple[int, bytes | memoryview]:
        """Return kind and payload without a copy: a view keeps its whole block in memory, so it is not for keeping."""

        def view(reader: PackReader) -> tuple[int, bytes | memoryview] | None:
            row = reader.find(identity)
            return reader.view_row(row, identity) if row is not None else None

        return first_of(
            self._readers, view, absent=lambda: NotFound(f"object {hex_short(identity)} is {self._absent()}")
        )
