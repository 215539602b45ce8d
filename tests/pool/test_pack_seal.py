"""What is sealed opens, and only there, as it was."""

import itertools

import pytest

from dalsegno.formats import pack
from dalsegno.pool.pack_seal import BlockSeal
from dalsegno.terms.errors import Damaged

BODY = b"a body of some bytes"
MADE = {"block_key": b"b" * 32, "header_digest": b"h" * 16}


@pytest.mark.parametrize("key", [b"", b"k" * pack.KEY_BYTES])
def test_a_block_opens_as_it_was_and_nowhere_else(key: bytes) -> None:
    """The kind: a block that is moved, or changed, and taken all the same."""
    seal = BlockSeal(key=key, **MADE)
    data = seal.seal(BODY, 5)
    frame, stored = data[: pack.FRAME.size], data[pack.FRAME.size :]
    assert bytes(seal.open(frame, stored, 5, offset=0)) == BODY
    assert seal.hides == bool(key) == (BODY not in data)
    others = (BlockSeal(key=key, **{**MADE, "header_digest": b"x" * 16}), BlockSeal(key=b"o" * 32, **MADE))
    for other, number in itertools.chain(((seal, 6),), ((each, 5) for each in others)):
        with pytest.raises(Damaged, match=f"block {number} damaged at offset 77"):
            other.open(frame, stored, number, offset=77)
    for at in range(len(data)):
        wrong = bytearray(data)
        wrong[at] ^= 1
        with pytest.raises(Damaged):
            seal.open(bytes(wrong[: pack.FRAME.size]), bytes(wrong[pack.FRAME.size :]), 5, offset=0)
