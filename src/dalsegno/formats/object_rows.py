"""Rows of objects as the call `missing` answers them (docs/formats/http.md): what a replica lacks, or is to be sent.

id 32 | payload bytes, kind << 28: u32, little-endian                                                  36 bytes
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from dalsegno.formats.objects import KIND_NAMES, OBJECT_BYTES_MAX
from dalsegno.terms.errors import Damaged
from dalsegno.terms.ids import OBJECT_ID_BYTES

ROW_BYTES: Final = OBJECT_ID_BYTES + 4
_KIND_SHIFT: Final = 28
_LENGTH_MASK: Final = (1 << _KIND_SHIFT) - 1
assert _LENGTH_MASK >= OBJECT_BYTES_MAX
_ENDS: Final = bytes(kind << 4 | high for kind in KIND_NAMES for high in range((OBJECT_BYTES_MAX >> 24) + 1))
"""The last bytes that a row may have: an object's kind, and the highest bits of its payload's length."""

Rows = npt.NDArray[np.uint8]
"""(n, ROW_BYTES) rows."""


def encode_rows(ids: npt.NDArray[np.uint8], kinds: npt.NDArray[np.uint32], lengths: npt.NDArray[np.uint32]) -> Rows:
    """Return the rows of many objects, from (n, 32) ids, their kinds and their payload bytes."""
    rows = np.empty((len(ids), ROW_BYTES), np.uint8)
    rows[:, :OBJECT_ID_BYTES] = ids
    values = np.ascontiguousarray(lengths | kinds << np.uint32(_KIND_SHIFT), "<u4")
    rows[:, OBJECT_ID_BYTES:] = values.view(np.uint8).reshape(-1, 4)
    return rows


def as_rows(data: bytes) -> Rows:
    """Return joined rows as a table, without a copy. There must be whole ones only."""
    return np.frombuffer(data, np.uint8).reshape(-1, ROW_BYTES)


def are_possible(data: bytes) -> bool:
    """Return whether each of the joined rows is of a kind that there is, and of no more bytes than an object has."""
    return not data[ROW_BYTES - 1 :: ROW_BYTES].translate(None, _ENDS)


def row_lengths(rows: Rows) -> npt.NDArray[np.int64]:
    """Return the payload lengths of rows."""
    return (_values(rows) & np.uint32(_LENGTH_MASK)).astype(np.int64)


def row_kinds(rows: Rows) -> npt.NDArray[np.uint32]:
    """Return the kinds of rows."""
    return _values(rows) >> np.uint32(_KIND_SHIFT)


def row_ids(rows: Rows) -> bytes:
    """Return the ids of rows, joined."""
    return rows[:, :OBJECT_ID_BYTES].tobytes()


def _values(rows: Rows) -> npt.NDArray[np.uint32]:
    values: npt.NDArray[np.uint32] = np.ascontiguousarray(rows[:, OBJECT_ID_BYTES:]).view("<u4").reshape(-1)
    return values


def read_rows(stream: Iterable[bytes], *, of: str) -> Iterator[Rows]:
    """Yield the rows in a stream, whole, however its bytes were cut; Damaged, naming `of`, when it ends within one."""
    torn = b""
    for data in stream:
        data = torn + data if torn else data
        whole = len(data) // ROW_BYTES * ROW_BYTES
        torn = data[whole:]
        if whole:
            yield np.frombuffer(data, np.uint8, whole).reshape(-1, ROW_BYTES)
    if torn:
        raise Damaged(f"{of}: the list of what is missing ends in the middle of a row")
