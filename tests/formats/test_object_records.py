"""The objects in an answer of the call `block`, both ways."""

import struct

import pytest

from dalsegno.formats.object_records import decode_records, encode_records
from dalsegno.terms.errors import Damaged

RECORDS = [(1, b"a" * 32, b""), (4, b"b" * 32, b"payload"), (2, bytes(32), bytes(70_000))]


def test_records_are_those_of_the_page_and_come_back() -> None:
    data = encode_records(RECORDS)
    assert data == b"".join(struct.pack("<B32sI", kind, ident, len(load)) + load for kind, ident, load in RECORDS)
    assert list(decode_records(data)) == RECORDS
    assert list(decode_records(b"")) == []


@pytest.mark.parametrize("gone", [1, 70_000, 70_001, 70_036])
def test_an_answer_that_was_cut_short_is_damaged(gone: int) -> None:
    with pytest.raises(Damaged):
        list(decode_records(encode_records(RECORDS)[:-gone]))
