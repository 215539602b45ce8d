"""Each part of a pack, encoded and decoded by one table of cases; their bytes are those of the first encoders."""

import random
from array import array
from collections.abc import Callable, Iterator

import numpy
import pytest
from blake3 import blake3

from dalsegno.formats import pack, pack_block, pack_footer, pack_header, pack_index, pack_records, pack_trailer
from dalsegno.terms.errors import Damaged
from dalsegno.terms.ids import OBJECT_ID_BYTES

CASES = 200
LAYOUT = pack.LAYOUTS[pack.VERSION]


def fronts(chance: random.Random) -> Iterator[bytes]:
    for _ in range(CASES):
        header = pack_header.PackHeader(
            kind=chance.choice((pack.PACK_POOL, pack.PACK_DUMP)),
            pack_id=chance.randbytes(16),
            realm=chance.randbytes(16),
            codec=pack.CODEC_ZSTD,
            seal=chance.choice((pack.SEAL_NONE, pack.SEAL_AES_256_GCM)),
            keys=[(chance.randrange(4), chance.randbytes(chance.randrange(90))) for _ in range(chance.randrange(4))],
            note=chance.randbytes(chance.randrange(300)),
        )
        front = pack_header.encode_front(header)
        assert pack_header.decode_front(front) == header
        assert len(front) == pack.PREAMBLE.size + pack_header.decode_preamble(front) + pack.HEADER_DIGEST_BYTES
        yield front


def bodies(chance: random.Random) -> Iterator[bytes]:
    for _ in range(CASES):
        content = chance.randbytes(chance.choice((1, 20, 31, 500, 5000)))
        raw_bytes = len(content) + chance.randrange(10_000)
        block_type = chance.randrange(pack.BLOCK_METADATA, pack.BLOCK_TRAILER + 1)
        body = pack_block.encode_body(content, raw_bytes, block_type, padded=chance.random() < 0.5)
        frame = pack_block.encode_frame(len(body))
        assert pack_block.decode_frame(LAYOUT, frame, offset=0) == len(body) + pack.TAG_BYTES
        found = pack_block.decode_body(LAYOUT, frame, body, offset=0)
        assert (bytes(found.content), found.raw_bytes, found.block_type) == (content, raw_bytes, block_type)
        number = chance.randrange(2**32)
        yield frame + body + pack_block.associated_data(b"header digest 16", frame, number) + pack_block.nonce(number)


def records(chance: random.Random) -> Iterator[bytes]:
    for _ in range(CASES):
        cases = [
            (chance.randrange(1, 5), pack.ENCODING_WHOLE, chance.randbytes(32), chance.randbytes(chance.randrange(99)))
            for _ in range(chance.randrange(6))
        ]
        raw = b"".join(
            pack_records.encode_record_head(kind, encoding, len(payload), identity) + payload
            for kind, encoding, identity, payload in cases
        )
        found = list(pack_records.split_records(raw, offset=0))
        assert [(kind, encoding, identity, bytes(payload)) for _, kind, encoding, identity, payload in found] == cases
        for (position, *_), (kind, _, identity, payload) in zip(found, cases, strict=True):
            assert pack_records.read_record(raw, position, identity) == (kind, payload, None)
        yield raw


def rows(chance: random.Random) -> Iterator[bytes]:
    for _ in range(CASES):
        count = chance.randrange(50)
        ids = numpy.frombuffer(chance.randbytes(OBJECT_ID_BYTES * count), numpy.uint8).reshape(-1, OBJECT_ID_BYTES)
        places = [(chance.randrange(2**24), chance.randrange(1, 5)) for _ in range(count)]
        values = numpy.array(
            [
                [chance.randrange(2**32), pack_index.encode_place(*place), chance.randrange(2**24), 0]
                for place in places
            ],
            numpy.uint32,
        ).reshape(-1, pack.INDEX_VALUES)
        order = pack_index.sort_order(ids)
        data = pack_index.encode_rows(ids[order], values[order])
        found_ids, found_values = pack_index.decode_rows(pack_index.as_table(data))
        assert [row.tobytes() for row in found_ids] == sorted(row.tobytes() for row in ids)
        assert numpy.array_equal(found_values, values[order])
        assert [pack_index.decode_place(int(place)) for place in values[:, 1]] == places
        assert pack_index.decode_offsets(values[:, 1]).tolist() == [offset for offset, _ in places]
        assert pack_index.decode_kinds(values[:, 1]).tolist() == [kind for _, kind in places]
        by_file = sorted(range(count), key=lambda n: (int(values[n, 0]), places[n][0]))
        assert pack_index.file_order(values).tolist() == by_file
        yield data


def trailers(chance: random.Random) -> Iterator[bytes]:
    for _ in range(CASES):
        count = chance.randrange(20)
        offsets = array("Q", [chance.randrange(2**64) for _ in range(count)])
        stored, raw = (array("I", [chance.randrange(2**32) for _ in range(count)]) for _ in range(2))
        types = bytearray(chance.randbytes(count))
        first_ids = [chance.randbytes(OBJECT_ID_BYTES) for _ in range(chance.randrange(count + 1))]
        object_count = chance.randrange(2**64)
        data = pack_trailer.encode_trailer(offsets, stored, raw, types, first_ids, object_count)
        table = pack_trailer.decode_trailer(LAYOUT, data, count, offset=0)
        assert (table.offsets.tolist(), table.stored.tolist()) == (offsets.tolist(), stored.tolist())
        assert (table.raw.tolist(), table.types.tolist()) == (raw.tolist(), list(types))
        assert (table.first_ids, table.object_count) == (b"".join(first_ids), object_count)
        assert len(data) <= pack_trailer.trailer_bytes_max(LAYOUT, count)
        yield data


def footers(chance: random.Random) -> Iterator[bytes]:
    for _ in range(CASES):
        offset, length, count, digest = *(chance.randrange(2**n) for n in (64, 32, 32)), chance.randbytes(32)
        data = pack_footer.encode_fields(trailer_offset=offset, trailer_bytes=length, block_count=count)
        data += pack_footer.encode_end(digest)
        assert pack_footer.decode_footer(LAYOUT, data) == pack_footer.Footer(offset, length, count, None, digest)
        yield data


@pytest.mark.parametrize(
    ("part", "digest"),
    [
        (fronts, "680fe5289fa28dd55feb5e5ca5aa14f6"),
        (bodies, "f8e2d3d3fe6502c95edb5f2358948ea6"),
        (records, "8bf3930d4db23da1d919e0d403c50863"),
        (rows, "9f5228ba64752c80dacae65c94c539ad"),
        (trailers, "4469c5991035fbc52c7f4b21b2f716cf"),
        (footers, "441a2c5d52c0d7e9c5afd6cb6121c5ce"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_part_comes_back_as_it_was_and_its_bytes_are_those_of_the_first_encoders(
    part: Callable[[random.Random], Iterator[bytes]], digest: str
) -> None:
    """The kind: a codec whose halves drift apart, or that writes other bytes than older readers know."""
    hasher = blake3()
    for data in part(random.Random(part.__name__)):
        hasher.update(data)
    assert hasher.hexdigest(16) == digest


def test_a_delta_makes_what_it_was_made_of() -> None:
    base, content = b"base " * 500, b"base " * 250 + b"changed" + b"base " * 250
    payload = pack_records.encode_delta(b"i" * 32, base, content)
    raw = pack_records.encode_record_head(1, pack.ENCODING_DELTA, len(payload), b"o" * 32) + payload
    kind, found, base_id = pack_records.view_record(raw, 0, b"o" * 32)
    assert (kind, base_id) == (1, b"i" * 32)
    assert pack_records.apply_delta(found, base) == content
    assert len(payload) < 100


@pytest.mark.parametrize("version", sorted(pack.LAYOUTS))
def test_a_part_that_is_cut_short_is_damaged(version: int) -> None:
    """The kind: a decoder that reads beyond what it was given, in each version that is read."""
    layout = pack.LAYOUTS[version]
    trailer = pack_trailer.encode_trailer(
        array("Q", [7]), array("I", [8]), array("I", [9]), bytearray([3]), [bytes(32)], 1
    )
    whole = trailer if layout.counts_in_trailer else trailer[:-8]
    table = pack_trailer.decode_trailer(layout, whole, 1, offset=0)
    assert table.object_count == (1 if layout.counts_in_trailer else None)
    for end in range(len(whole)):
        with pytest.raises(Damaged):
            pack_trailer.decode_trailer(layout, whole[:end], 1, offset=0)
    footer = bytes(layout.footer.size - len(pack.MAGIC_END)) + pack.MAGIC_END
    assert pack_footer.decode_footer(layout, footer) is not None
    assert pack_footer.decode_footer(layout, footer[1:]) is None


def test_a_footer_that_cannot_be_true_is_damaged_before_memory_is_asked_for() -> None:
    size = 1000
    right = pack_footer.Footer(500, size - 500 - LAYOUT.footer.size, 3, None, bytes(32))
    pack_footer.check_footer(LAYOUT, right, header_end=100, file_bytes=size)
    for wrong, header_end in (
        (right._replace(trailer_offset=499), 100),
        (right._replace(trailer_bytes=1), 100),
        (right._replace(block_count=2**32 - 1), 100),
        (right, 501),
    ):
        with pytest.raises(Damaged, match="offset 944"):
            pack_footer.check_footer(LAYOUT, wrong, header_end=header_end, file_bytes=size)


def test_a_front_is_damaged_by_any_bit() -> None:
    front = next(fronts(random.Random(1)))
    for at in range(len(front)):
        wrong = bytearray(front)
        wrong[at] ^= 1
        with pytest.raises(Exception, match="pack") as caught:
            pack_header.decode_front(bytes(wrong))
        assert type(caught.value).__name__ in ("Damaged", "TooNew")
