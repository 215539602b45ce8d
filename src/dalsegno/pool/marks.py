"""Which objects have been met: one byte an object of the indexes they are found in, instead of a set of ids."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

Find = Callable[[bytes], int | None]
"""Return the row of an id in one index, or None."""


class Marks:
    """A set of ids that lie in a few indexes, each given as (object count, find), asked in that order.

    The indexes must not change meanwhile. Ids that none of them knows are kept one by one.
    """

    def __init__(self, places: Iterable[tuple[int, Find]]) -> None:
        pairs = [(find, bytearray(count)) for count, find in places]
        self.columns = [column for _, column in pairs]
        """For each index one byte a row: 1 when it was met."""
        self.elsewhere: set[bytes] = set()
        self.count = 0
        self._pairs = pairs

    def add(self, identity: bytes) -> bool:
        """Mark an object; return False when it was marked before."""
        for find, column in self._pairs:
            row = find(identity)
            if row is not None:
                if column[row]:
                    return False
                column[row] = 1
                self.count += 1
                return True
        if identity in self.elsewhere:
            return False
        self.elsewhere.add(identity)
        self.count += 1
        return True

    def mask(self, number: int) -> npt.NDArray[np.bool_]:
        """Return which rows of index `number` were met."""
        return np.frombuffer(self.columns[number], np.bool_)
