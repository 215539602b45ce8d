"""Rows of the call `missing`: by the page, and back."""

import numpy as np
import pytest

from dalsegno.formats import object_rows, objects
from dalsegno.terms.errors import Damaged

CASES = [
    (bytes([number]) * 32, kind, length)
    for number, (kind, length) in enumerate(
        (kind, length) for kind in objects.KIND_NAMES for length in (0, 1, 300, objects.OBJECT_BYTES_MAX)
    )
]
DATA = b"".join(identity + (length + kind * 2**28).to_bytes(4, "little") for identity, kind, length in CASES)


def test_rows_are_those_of_the_page_and_come_back() -> None:
    """The kind: three encoders of one row."""
    ids = np.frombuffer(b"".join(identity for identity, _, _ in CASES), np.uint8).reshape(-1, 32)
    kinds, lengths = (np.array([case[column] for case in CASES], np.uint32) for column in (1, 2))
    rows = object_rows.encode_rows(ids, kinds, lengths)
    assert rows.tobytes() == DATA
    assert np.array_equal(rows, object_rows.as_rows(DATA))
    assert object_rows.row_ids(rows) == ids.tobytes()
    assert object_rows.row_kinds(rows).tolist() == kinds.tolist()
    assert object_rows.row_lengths(rows).tolist() == lengths.tolist()
    assert object_rows.are_possible(DATA)


@pytest.mark.parametrize("end", [0x00, 0x02, 0xF0, 0xFF])
def test_a_row_of_no_kind_or_of_too_many_bytes_is_not_possible(end: int) -> None:
    assert not object_rows.are_possible(DATA[:-1] + bytes([end]))


def test_a_stream_that_ends_within_a_row_is_damaged() -> None:
    for size in (1, 35, 36, 37, 1000):
        pieces = [DATA[at : at + size] for at in range(0, len(DATA), size)]
        assert b"".join(rows.tobytes() for rows in object_rows.read_rows(pieces, of="s1")) == DATA
    with pytest.raises(Damaged, match="s1"):
        list(object_rows.read_rows([DATA[:-1]], of="s1"))
