"""Sets of ids as sorted columns, compared many at a time."""

import numpy as np
import numpy.typing as npt

from dalsegno.terms.ids import OBJECT_ID_BYTES

SortedIds = npt.NDArray[np.bytes_]
"""Ids as `S32`, sorted. Only compared as columns: taking one out as bytes would strip trailing zeros."""


def as_sorted_ids(data: bytes | bytearray) -> SortedIds:
    """Return joined ids as a sorted column; a bytearray is sorted in place."""
    column: SortedIds = np.frombuffer(data, dtype=f"S{OBJECT_ID_BYTES}")
    if isinstance(data, bytearray):
        column.sort()
        return column
    return np.sort(column)


def member_mask(column: SortedIds, ids: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    """Return for each of `ids` whether it is in the sorted `column`."""
    if not len(column):
        return np.zeros(len(ids), np.bool_)
    positions = np.searchsorted(column, ids)
    positions[positions == len(column)] = 0
    mask: npt.NDArray[np.bool_] = column[positions] == ids
    return mask
