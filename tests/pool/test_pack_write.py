"""A pack's index in bounded memory, and copying marked objects from a pool's packs."""

import io
import random
import struct
from array import array

import pytest

from dalsegno.formats import objects, pack
from dalsegno.formats.pack_trailer import encode_trailer
from dalsegno.pool import index_rows
from dalsegno.pool.copy import PoolMarks
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pack_verify import verify
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.pool.pool import pack_name
from kit import REALM, PoolStore


def write_pack(path, payloads):
    with open(path, "wb") as stream:
        writer = PackWriter(stream.write, realm=REALM, header=new_header(REALM, kind=pack.PACK_POOL, sealed=False))
        with writer:
            for payload in payloads:
                writer.put(objects.KIND_CHUNK, REALM.identify(objects.KIND_CHUNK, payload), payload)
            return writer.finish()


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 1234, 50_000])
def test_index_rows_that_went_through_scratch_files_are_those_sorted_in_memory(tmp_path, monkeypatch, count):
    payloads = [str(number).encode() for number in range(count)]
    write_pack(tmp_path / "memory", payloads)
    monkeypatch.setattr(index_rows, "ROWS_IN_MEMORY_MAX", 100)
    summary = write_pack(tmp_path / "scratch", payloads)
    # Rows are added a block at a time, so only more than one block ever spills.
    with PackReader.open(tmp_path / "memory", REALM) as one, PackReader.open(tmp_path / "scratch", REALM) as other:
        assert [column.tobytes() for column in one.objects()] == [column.tobytes() for column in other.objects()]
        assert list(verify(other)) == []
        assert other.object_count == summary.object_count == count
    assert (summary.columns is None) == (count >= 100)


def marked_copy(store, wanted):
    marks = PoolMarks(store.pool)
    for identity in wanted:
        assert marks.add(identity)
        assert not marks.add(identity)
    stream = io.BytesIO()
    with PackWriter(stream.write, realm=REALM, header=new_header(REALM, kind=pack.PACK_DUMP, sealed=True)) as writer:
        marks.copy(writer, lambda done, total: None)
        writer.finish()
    return marks, stream.getvalue()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_a_marked_copy_holds_exactly_what_was_marked(tmp_path, place, share):
    store, chance = PoolStore(place), random.Random(5)
    payloads = {}
    for number in range(600):
        payload = chance.randbytes(chance.randrange(1, 20_000))
        payloads[store.put(objects.KIND_CHUNK, payload)] = payload
        if number % 200 == 199:
            store.writer.flush()
    wanted = sorted(payloads)[: int(len(payloads) * share)]
    marks, data = marked_copy(store, wanted)
    (tmp_path / "copy").write_bytes(data)
    with PackReader.open(tmp_path / "copy", REALM) as reader:
        assert list(verify(reader)) == []
        assert {row.tobytes() for row in reader.objects()[0]} == set(wanted)
        assert all(reader.get(identity) == payloads[identity] for identity in wanted)
    joined = b"".join(marks.ids())
    assert sorted(joined[at : at + 32] for at in range(0, len(joined), 32)) == wanted


def test_a_copy_finds_objects_whose_pack_was_collected_since_they_were_marked(place):
    store = PoolStore(place)
    identity = store.put(objects.KIND_CHUNK, b"moved" * 100)
    store.writer.flush()
    marks = PoolMarks(store.pool)
    assert marks.add(identity)
    old = store.pool.list_packs()
    moving = store.pool.writer()
    moving.store_copy(objects.KIND_CHUNK, identity, b"moved" * 100)
    moving.close()
    for pack_id in old:
        store.pool.backend.delete(pack_name(pack_id))
    stream = io.BytesIO()
    with PackWriter(stream.write, realm=REALM, header=new_header(REALM, kind=pack.PACK_DUMP, sealed=False)) as writer:
        marks.copy(writer, lambda done, total: None)
        assert writer.finish().object_count == 1


def test_the_trailer_is_little_endian_whatever_the_machine():
    """The kind: the machine's own byte order in a format that other machines read."""
    offsets, stored, raw = array("Q", [0x0102030405060708]), array("I", [0x01020304]), array("I", [5])
    trailer = encode_trailer(offsets, stored, raw, bytearray([2]), [b"i" * 32], 7)
    assert trailer == struct.pack("<IQIIBI", 1, 0x0102030405060708, 0x01020304, 5, 2, 1) + b"i" * 32 + struct.pack(
        "<Q", 7
    )
