"""Edited trees are what building them anew would give, and little of them is stored."""

import random

import pytest

from dalsegno.chunks.cut import CHUNK_BYTES_AVERAGE, Cutter
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.trees.build import store_data, store_directory
from dalsegno.trees.edit import BASE, HOLE, Patches, Piece, edit_content, edit_directory
from dalsegno.trees.extents import find_data, find_hole, iterate_extents
from dalsegno.trees.read import read_content
from kit import REALM, DictStore

KIB = 1024
MIB = 1024 * KIB
SEED = random.SystemRandom().randrange(1 << 32)


@pytest.fixture
def chance() -> random.Random:
    print(f"seed {SEED}")
    return random.Random(SEED)


def entry_of(name: bytes, size: int = 0) -> Entry:
    return Entry(name=name, kind=objects.ENTRY_FILE, size=size)


@pytest.mark.parametrize("count", [0, 1, 50, 63, 64, 200, 5_000])
def test_edited_directory_is_the_one_that_would_be_built_anew(chance: random.Random, count: int) -> None:
    store = DictStore()
    names = sorted({b"%08x" % chance.getrandbits(32) for _ in range(count)})
    there = {name: entry_of(name) for name in names}
    identity = store_directory(store, [there[name] for name in sorted(there)])
    for _ in range(20):
        changes: dict[bytes, Entry | None] = {}
        for _ in range(chance.choice([1, 2, 30])):
            act = chance.randrange(3)
            if act == 0 or not there:
                name = b"%08x" % chance.getrandbits(32)
                changes[name] = entry_of(name, 1)
            elif act == 1:
                name = chance.choice(list(there))
                changes[name] = entry_of(name, chance.randrange(9))
            else:
                changes[chance.choice([*there, b"never there"])] = None
        identity = edit_directory(store, store, identity, changes)
        for name, entry in changes.items():
            if entry is None:
                there.pop(name, None)
            else:
                there[name] = entry
        assert identity == store_directory(DictStore(), [there[name] for name in sorted(there)])


def test_directory_is_made_from_nothing_and_emptied_again() -> None:
    store = DictStore()
    names = [b"%05d" % number for number in range(3_000)]
    made = edit_directory(store, store, b"", {name: entry_of(name) for name in names})
    assert made == store_directory(DictStore(), [entry_of(name) for name in names])
    assert edit_directory(store, store, made, dict.fromkeys(names)) == store_directory(DictStore(), [])


def test_one_changed_name_in_a_large_directory_stores_one_node_a_level() -> None:
    store = DictStore()
    identity = store_directory(store, [entry_of(b"%06d" % number) for number in range(100_000)])
    before = len(store.objects)
    edit_directory(store, store, identity, {b"050000": entry_of(b"050000", 7)})
    assert len(store.objects) - before <= 4


class Content:
    """A file as bytes beside the same file as an entry under patches."""

    def __init__(self, store: DictStore, data: bytes) -> None:
        self.store = store
        self.spool = bytearray()
        self.now = bytearray(data)
        kind, content = objects.CONTENT_NONE, b""
        if 0 < len(data) <= objects.INLINE_BYTES_MAX:
            kind, content = objects.CONTENT_INLINE, data
        elif data:
            kind, content = store_data(
                store, Cutter(REALM.chunk_seed), lambda at, count: data[at : at + count], [(0, len(data))], len(data)
            )
        self.entry = Entry(name=b"f", kind=objects.ENTRY_FILE, size=len(data), content_kind=kind, content=content)
        self.patches = Patches(len(data))

    def write(self, start: int, data: bytes) -> None:
        self.patches.put(start, start + len(data), len(self.spool))
        self.spool += data
        self.now += bytes(max(0, start + len(data) - len(self.now)))
        self.now[start : start + len(data)] = data

    def punch(self, start: int, end: int) -> None:
        end = min(end, len(self.now))
        if start < end:
            self.patches.put(start, end, HOLE)
            self.now[start:end] = bytes(end - start)

    def truncate(self, size: int) -> None:
        self.patches.truncate(size)
        self.now = self.now[:size] + bytes(max(0, size - len(self.now)))

    def read(self, start: int, length: int) -> bytes:
        parts = []
        for piece in self.patches.pieces(start, start + length):
            if piece.place == HOLE:
                parts.append(bytes(piece.end - piece.start))
            elif piece.place == BASE:
                parts.append(read_content(self.store, self.entry, offset=piece.start, length=piece.end - piece.start))
            else:
                parts.append(bytes(self.spool[piece.place : piece.place + piece.end - piece.start]))
        return b"".join(parts)

    def commit(self) -> None:
        kind, content = edit_content(
            self.store, self.store, Cutter(REALM.chunk_seed), self.entry, self.patches, self.read
        )
        self.entry = Entry(
            name=b"f", kind=objects.ENTRY_FILE, size=self.patches.size, content_kind=kind, content=content
        )
        self.patches = Patches(self.patches.size)


@pytest.mark.parametrize("size", [0, 100, 5_000, 200 * KIB, 3 * MIB])
def test_edited_file_reads_as_what_was_written(chance: random.Random, size: int) -> None:
    content = Content(DictStore(), chance.randbytes(size))
    for step in range(60):
        top = max(2 * len(content.now), 1000)
        start = chance.randrange(top)
        act = chance.randrange(5)
        if act <= 1:
            content.write(start, chance.randbytes(chance.choice([1, 100, 4096, 200 * KIB])))
        elif act == 2:
            content.punch(start, start + chance.choice([1, 4096, 300 * KIB]))
        elif act == 3 and chance.random() < 0.5:
            content.truncate(min(start, 6 * MIB))
        else:
            assert content.read(start, 10_000) == bytes(content.now[start : start + 10_000])
        if step % 7 == 6:
            assert content.read(0, len(content.now)) == bytes(content.now)
            content.commit()
            assert content.read(0, len(content.now)) == bytes(content.now)


def test_file_without_holes_is_cut_as_it_would_be_cut_anew(chance: random.Random) -> None:
    for _ in range(10):
        content = Content(DictStore(), chance.randbytes(4 * MIB))
        for _ in range(chance.randrange(1, 6)):
            content.write(chance.randrange(len(content.now)), chance.randbytes(chance.choice([1, 4096, 300 * KIB])))
        content.commit()
        assert content.entry == Content(DictStore(), bytes(content.now)).entry


def test_rewriting_4_kib_of_a_large_file_stores_little_and_reads_little(chance: random.Random) -> None:
    store = DictStore()
    content = Content(store, chance.randbytes(64 * MIB))
    before = sum(len(payload) for _, payload in store.objects.values())
    content.write(33 * MIB + 17, chance.randbytes(4096))
    read: list[int] = []
    edit_content(
        store,
        store,
        Cutter(REALM.chunk_seed),
        content.entry,
        content.patches,
        lambda start, length: read.append(length) or content.read(start, length),  # type: ignore[func-returns-value]
    )
    assert sum(len(payload) for _, payload in store.objects.values()) - before < 1 * MIB
    assert sum(read) < 8 * MIB


def test_large_file_is_edited_near_the_change_alone(chance: random.Random) -> None:
    block, size = chance.randbytes(7 * MIB), 448 * MIB
    changed = chance.randbytes(4096)

    def read(start: int, length: int, at: int | None = None) -> bytes:
        parts, position, end = [], start, start + length
        while position < end:
            inside = position % len(block)
            parts.append(block[inside : inside + end - position])
            position += len(parts[-1])
        data = bytearray(b"".join(parts))
        if at is not None and start < at + 4096 and at < end:
            low, high = max(start, at), min(end, at + 4096)
            data[low - start : high - start] = changed[low - at : high - at]
        return bytes(data)

    store = DictStore()
    kind, content = store_data(store, Cutter(REALM.chunk_seed), read, [(0, size)], size)
    entry = Entry(name=b"f", kind=objects.ENTRY_FILE, size=size, content_kind=kind, content=content)
    for at in (200 * MIB + 5, size - 1000):
        patches, bytes_read = Patches(size), 0
        patches.put(at, at + 4096, 0)
        store.gets = 0

        def read_changed(start: int, length: int, at: int = at, end: int = patches.size) -> bytes:
            nonlocal bytes_read
            bytes_read += length
            return read(start, min(length, end - start), at)

        edited = edit_content(store, store, Cutter(REALM.chunk_seed), entry, patches, read_changed)
        assert store.gets < 30 and bytes_read < 8 * MIB
        anew = store_data(
            DictStore(),
            Cutter(REALM.chunk_seed),
            lambda start, length, at=at: read(start, length, at),  # type: ignore[misc]
            [(0, patches.size)],
            patches.size,
        )
        assert edited == anew


def test_hole_in_the_middle_is_stored_as_a_hole(chance: random.Random) -> None:
    content = Content(DictStore(), chance.randbytes(2 * MIB))
    content.punch(512 * KIB, 1024 * KIB)
    content.commit()
    holes = [extent for extent in iterate_extents(content.store, content.entry) if not extent.id]
    assert [(hole.offset, hole.end) for hole in holes] == [(512 * KIB, 1024 * KIB)]
    assert find_hole(content.store, content.entry, 0) == 512 * KIB
    assert find_data(content.store, content.entry, 600 * KIB) == 1024 * KIB
    assert find_hole(content.store, content.entry, 1025 * KIB) == 2 * MIB
    content.truncate(3 * MIB)
    content.commit()
    assert find_data(content.store, content.entry, 2 * MIB) is None


def test_small_run_of_data_is_one_chunk(chance: random.Random) -> None:
    content = Content(DictStore(), b"")
    content.truncate(1 * MIB)
    content.write(500_000, chance.randbytes(CHUNK_BYTES_AVERAGE))
    content.commit()
    lengths = [extent.length for extent in iterate_extents(content.store, content.entry) if extent.id]
    assert lengths == [CHUNK_BYTES_AVERAGE]


def test_patches_over_earlier_ones_are_what_both_wrote(chance: random.Random) -> None:
    below, above = Patches(1000), Patches(1000)
    model = [(BASE, at) for at in range(1000)]

    def put(patches: Patches, start: int, end: int, place: int) -> None:
        patches.put(start, end, place)
        model.extend((HOLE, 0) for _ in range(end - len(model)))
        model[start:end] = [(0, place + at) if place >= 0 else (HOLE, 0) for at in range(end - start)]

    def cut(patches: Patches, size: int) -> None:
        patches.truncate(size)
        del model[size:]
        model.extend((HOLE, 0) for _ in range(size - len(model)))

    for patches in (below, None):
        patches = patches if patches is not None else above
        for number in range(40):
            start = chance.randrange(1500)
            put(patches, start, start + chance.randrange(1, 200), chance.choice([HOLE, 10_000 * number]))
            if number % 15 == 14:
                cut(patches, chance.randrange(1500))
        if patches is below:
            above = Patches(below.size)
            model_below = list(model)
            assert flat(below) == model_below
    assert flat(above.over(below)) == model


def flat(patches: Patches) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for piece in patches.pieces(0, patches.size):
        assert isinstance(piece, Piece) and piece.start == len(result)
        for at in range(piece.start, piece.end):
            if piece.place == BASE:
                result.append((BASE, at))
            else:
                result.append((HOLE, 0) if piece.place == HOLE else (0, piece.place + at - piece.start))
    return result
