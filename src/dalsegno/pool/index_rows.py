"""The rows of a new pack's index, sorted in bounded memory."""

from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dalsegno.formats import pack
from dalsegno.formats.pack_index import Columns, as_table, encode_rows, sort_order
from dalsegno.terms.ids import OBJECT_ID_BYTES
from dalsegno.world.files import ScratchFile

ROWS_IN_MEMORY_MAX = 1 << 18
"""Index rows (48 bytes) beyond this wait, sorted, in a scratch file."""


class IndexRows:
    """The rows of a pack's index as they come, sorted at the end in bounded memory.

    Full runs go sorted to a scratch file. Ids are hashes, so their first byte splits every run evenly: the end takes
    the slice of one first byte from all runs at a time.
    """

    def __init__(self) -> None:
        self._ids = bytearray()
        self._values = array("I")
        self._runs: list[tuple[ScratchFile, NDArray[np.int64]]] = []

    def add(self, ids: bytes | bytearray, values: "array[int]") -> None:
        """Add ids, joined, and four values for each."""
        self._ids += ids
        self._values.extend(values)
        if len(self._ids) >= ROWS_IN_MEMORY_MAX * OBJECT_ID_BYTES:
            self._spill()

    def _sorted(self) -> Columns:
        ids = np.frombuffer(self._ids, dtype=np.uint8).reshape(-1, OBJECT_ID_BYTES)
        values = np.frombuffer(self._values, dtype=np.uint32).reshape(-1, pack.INDEX_VALUES)
        order = sort_order(ids)
        columns = ids[order], values[order]
        del ids, values
        self._ids, self._values = bytearray(), array("I")
        return columns

    def _spill(self) -> None:
        ids, values = self._sorted()
        ends = np.concatenate(([0], np.cumsum(np.bincount(ids[:, 0], minlength=256))))
        file = ScratchFile()
        file.append(encode_rows(ids, values))
        self._runs.append((file, ends))

    def finish(self) -> tuple[Columns | None, Iterator[bytes]]:
        """Return the sorted columns, if they fit, and the sorted rows as bytes in pieces of many rows."""
        if not self._runs:
            columns = self._sorted()
            return columns, iter([encode_rows(*columns)])
        self._spill()
        return None, self._merge_runs()

    def _merge_runs(self) -> Iterator[bytes]:
        width = pack.INDEX_ROW_BYTES
        for first in range(256):
            slices = [file.read(int(e[first]) * width, int(e[first + 1] - e[first]) * width) for file, e in self._runs]
            table = as_table(b"".join(slices))
            yield table[sort_order(table[:, :OBJECT_ID_BYTES])].tobytes()
        self.close()

    def close(self) -> None:
        """Give the scratch files back."""
        for file, _ in self._runs:
            file.close()
        self._runs = []
