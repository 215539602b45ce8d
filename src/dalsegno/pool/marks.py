"""Which objects have been met: one byte an object of the indexes they are found in, instead of a set of ids."""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

LATER_BYTES_MAX = 1 << 20

Ids = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]


class Lookup(Protocol):
    """An index that does not change."""

    @property
    def object_count(self) -> int:
        """How many rows it has."""

    def find(self, identity: bytes, /) -> int | None:
        """Return the row of an id, or None."""

    def find_rows(self, ids: Ids, /) -> Rows:
        """Return the rows of (n, 32) ids, -1 for those that are not there."""


def find_rows(prefixes: npt.NDArray[np.uint64], tails: Ids, ids: Ids, find: Callable[[bytes], int | None]) -> Rows:
    """Return the rows of ids in an index whose sorted rows are a prefix (8 bytes) and a tail; -1 where it has none."""
    if not len(prefixes):
        return np.full(len(ids), -1, np.intp)
    wanted = np.ascontiguousarray(ids[:, :8]).view(">u8").astype(np.uint64).reshape(-1)
    rows = np.searchsorted(prefixes, wanted)
    rows[rows == len(prefixes)] = 0
    alike = prefixes[rows] == wanted
    same = alike & (tails[rows] == ids[:, 8:]).all(axis=1)
    rows[~same] = -1
    for number in np.flatnonzero(alike & ~same).tolist():  # another id begins with the same 8 bytes
        row = find(ids[number].tobytes())
        rows[number] = -1 if row is None else row
    return rows


class Marks:
    """A set of ids that lie in a few indexes, which are asked in order and must not change meanwhile.

    Ids that none of them knows are kept one by one, in `elsewhere`.
    """

    def __init__(self, lookups: Iterable[Lookup]) -> None:
        self._lookups = list(lookups)
        self.columns = [bytearray(lookup.object_count) for lookup in self._lookups]
        """For each index one byte a row: 1 when it was met."""
        self._pairs = [(lookup.find, column) for lookup, column in zip(self._lookups, self.columns, strict=True)]
        self._later = bytearray()
        self.elsewhere: set[bytes] = set()

    def add(self, identity: bytes) -> bool:
        """Mark an object; return False when it was marked before."""
        for find, column in self._pairs:
            row = find(identity)
            if row is not None:
                if column[row]:
                    return False
                column[row] = 1
                return True
        if identity in self.elsewhere:
            return False
        self.elsewhere.add(identity)
        return True

    def __contains__(self, identity: bytes) -> bool:
        return bool(self.holds(np.frombuffer(identity, np.uint8).reshape(1, -1))[0])

    def add_later(self, identity: bytes) -> None:
        """Mark an object of which nobody needs to know whether it was marked before; `settle` ends it."""
        self._later += identity
        if len(self._later) >= LATER_BYTES_MAX:
            self.settle()

    def settle(self) -> None:
        """Mark all that were added for later, many at a time."""
        ids: Ids = np.frombuffer(bytes(self._later), np.uint8).reshape(-1, 32)
        self._later.clear()
        for lookup, column in zip(self._lookups, self.columns, strict=True):
            rows = lookup.find_rows(ids)
            np.frombuffer(column, np.uint8)[rows[rows >= 0]] = 1
            ids = ids[rows < 0]
        self.elsewhere.update(identity.tobytes() for identity in ids)

    def add_many(self, ids: bytes) -> None:
        """Mark objects, joined; `settle` ends it."""
        self._later += ids
        self.settle()

    def holds(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Return for each of (n, 32) ids whether it is marked."""
        self.settle()
        held = np.array([identity.tobytes() in self.elsewhere for identity in ids] if self.elsewhere else [], np.bool_)
        held = held if len(held) else np.zeros(len(ids), np.bool_)
        for lookup, column in zip(self._lookups, self.columns, strict=True):
            rows = lookup.find_rows(ids)
            found = rows >= 0
            held[found] |= np.frombuffer(column, np.bool_)[rows[found]]
        return held

    @property
    def count(self) -> int:
        """How many objects are marked."""
        self.settle()
        return sum(int(np.count_nonzero(self.mask(n))) for n in range(len(self.columns))) + len(self.elsewhere)

    def mask(self, number: int) -> npt.NDArray[np.bool_]:
        """Return which rows of index `number` were met."""
        if self._later:
            self.settle()
        return np.frombuffer(self.columns[number], np.bool_)
