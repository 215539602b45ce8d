"""Packs of others become part of a pool only when every bit, id and name in them is right; else nothing changes."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import zstandard

from dalsegno.backends.contract import Backend
from dalsegno.chunks.realm import Realm
from dalsegno.formats import objects, pack
from dalsegno.formats.objects import (
    CONTENT_CHUNK,
    CONTENT_DIRECTORY,
    ENTRY_DIRECTORY,
    ENTRY_FILE,
    KIND_CHUNK,
    KIND_DIRECTORY,
    KIND_RECIPE,
    KIND_REVISION,
    DirectoryLeaf,
    Entry,
    RecipeLeaf,
)
from dalsegno.pool.adopt import ADOPTED_BYTES_MAX, NOTHING, UPLOADS, Adopter, Standing, as_ids
from dalsegno.pool.check import check_pool
from dalsegno.pool.collect import collect
from dalsegno.pool.pack_write import BLOCK_RAW_BYTES, PackWriter, new_header
from dalsegno.pool.pool import Pool, pack_name
from dalsegno.terms.errors import Conflict, Damaged, NotFound, Refused, TooNew
from dalsegno.terms.events import silent
from dalsegno.terms.ids import PackId
from dalsegno.world.clock import now_ns
from dalsegno.world.files import UploadFile
from dalsegno.world.workers import Workers
from kit import REALM, DictStore, set_age, store_revision

SEED = 20261121
HOUR_NS = 3600 * 10**9
Records = Sequence[tuple[int, bytes, bytes]]
"""Kind, id, payload."""


@pytest.fixture(params=["none", "keyfile"])
def pool(request: pytest.FixtureRequest, place: Backend, tmp_path: Path) -> Iterator[Pool]:
    with Pool.create(place, encryption=request.param, key_path=tmp_path / "key", realm=REALM) as pool:
        (tmp_path / "in").mkdir()
        yield pool


def named(kind: int, payload: bytes) -> tuple[int, bytes, bytes]:
    return kind, REALM.identify(kind, payload), payload


def records_of(store: DictStore) -> list[tuple[int, bytes, bytes]]:
    return [(kind, identity, payload) for identity, (kind, payload) in store.objects.items()]


def write_pack(
    folder: Path,
    records: Records,
    *,
    realm: Realm = REALM,
    kind: int = pack.PACK_POOL,
    sealed: bool = False,
    note: bytes = b"",
    encoding: int = pack.ENCODING_WHOLE,
) -> Path:
    """Write a pack as a client would send it; its file is named by its id."""
    header = new_header(realm, kind=kind, sealed=sealed, note=note)
    path = folder / f"{header[0].pack_id.hex()}.partial"
    with open(path, "wb") as file, PackWriter(file.write, realm=realm, header=header) as writer:
        for each, identity, payload in records:
            writer.put(each, identity, payload, encoding)
        writer.finish()
    return path


def adopt(pool: Pool, *paths: Path, workers: Workers | None = None) -> Adopter:
    files = []
    for path in paths:
        file = UploadFile(path, create=False)
        assert file.lock()
        files.append((PackId(bytes.fromhex(path.name[:32])), file))
    try:
        with Adopter(pool, workers=workers) as adopter:
            adopter.adopt(files)
            return adopter
    finally:
        for _, file in files:
            file.close()


def assert_holds(pool: Pool, records: Records) -> None:
    for kind, identity, payload in records:
        assert pool.get_kind(identity) == (kind, payload)
    assert [finding for finding in check_pool(pool, silent) if finding.severity == "error"] == []
    with Pool(pool.backend, _settings(pool), pool.realm, None) as again:
        assert all(again.has(identity) for _, identity, _ in records)  # type: ignore[arg-type]


def _settings(pool: Pool) -> object:
    class Settings:
        pool_id = pool.pool_id
        encryption = pool.encryption
        holders = pool.holders

    return Settings()


def tree(text: bytes) -> DictStore:
    """Return a revision with its tree: a recipe, chunks, two levels of directories."""
    store = DictStore()
    store_revision(store, {b"a": text * 200, b"d": {b"b": text * 300, b"c": b"short"}, b"e": {}})
    chunks = [store.put(KIND_CHUNK, text * n) for n in (500, 600)]
    store.put(KIND_RECIPE, objects.encode(RecipeLeaf([500 * len(text), 1100 * len(text)], chunks)))
    return store


def test_a_whole_pack_becomes_part_of_the_pool(pool: Pool, tmp_path: Path) -> None:
    records = records_of(tree(b"one"))
    path = write_pack(tmp_path / "in", records, sealed=pool.encryption != "none")
    data = path.read_bytes()
    adopt(pool, path)
    assert not path.exists()
    assert pool.backend.read(pack_name(bytes.fromhex(path.name[:32]))) == data  # moved, not written again
    assert_holds(pool, records)


def test_a_pack_of_another_seal_is_sealed_as_the_pool_is(pool: Pool, tmp_path: Path) -> None:
    records = records_of(tree(b"one"))
    path = write_pack(tmp_path / "in", records, sealed=pool.encryption == "none")
    adopt(pool, path)
    (pack_id,) = pool.list_packs()
    with pool.open_pack(pack_id) as reader:
        assert (reader.header.seal == pack.SEAL_NONE) == (pool.encryption == "none")
    assert not path.exists()
    assert_holds(pool, records)


def test_every_flipped_bit_is_found_and_nothing_changes(pool: Pool, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    records = records_of(tree(b"bit"))
    good = write_pack(tmp_path / "in", records, sealed=pool.encryption != "none")
    data = good.read_bytes()
    for place in (*range(200), *range(200, len(data) - 200, 4), *range(len(data) - 200, len(data))):
        harmed = bytearray(data)
        harmed[place] ^= 1 << chance.randrange(8)
        good.write_bytes(harmed)
        with pytest.raises((Damaged, TooNew)):
            adopt(pool, good)
        assert pool.list_packs() == set() and not good.exists(), place
    good.write_bytes(data)
    adopt(pool, good)
    assert_holds(pool, records)


def test_a_pack_cut_short_anywhere_is_damaged_and_removed(pool: Pool, tmp_path: Path) -> None:
    good = write_pack(tmp_path / "in", records_of(tree(b"cut")), sealed=pool.encryption != "none")
    data = good.read_bytes()
    for size in (*range(0, len(data), 97), len(data) - 1):
        good.write_bytes(data[:size])
        with pytest.raises(Damaged):
            adopt(pool, good)
        assert not good.exists() and pool.list_packs() == set()
    good.write_bytes(data + b"x")
    with pytest.raises(Damaged):
        adopt(pool, good)


def test_a_forged_id_is_damaged(pool: Pool, tmp_path: Path) -> None:
    kind, identity, payload = named(KIND_CHUNK, b"honest" * 50)
    for forged in [(kind, bytes([identity[0] ^ 1]) + identity[1:], payload), (kind, identity, payload + b"x")]:
        path = write_pack(tmp_path / "in", [named(KIND_CHUNK, b"other"), forged])
        with pytest.raises(Damaged, match="disagree"):
            adopt(pool, path)
        assert not path.exists() and pool.list_packs() == set()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        objects.encode(RecipeLeaf([], [])),
        objects.encode(RecipeLeaf([5], [b"short"])),
        b"\x92\xa1d" + b"\xdd\xff\xff\xff\xff",
    ],
)
@pytest.mark.parametrize("kind", [KIND_DIRECTORY, KIND_RECIPE, KIND_REVISION])
def test_metadata_that_is_none_is_damaged(pool: Pool, tmp_path: Path, kind: int, payload: bytes) -> None:
    path = write_pack(tmp_path / "in", [named(kind, payload)])
    with pytest.raises(Damaged):
        adopt(pool, path)
    assert pool.list_packs() == set()


def test_names_of_a_wrong_length_or_another_kind_are_damaged(pool: Pool, tmp_path: Path) -> None:
    chunk = named(KIND_CHUNK, b"chunk" * 100)
    short = Entry(name=b"f", kind=ENTRY_FILE, content_kind=CONTENT_CHUNK, content=b"short")
    wrong = Entry(name=b"f", kind=ENTRY_DIRECTORY, content_kind=CONTENT_DIRECTORY, content=chunk[1])
    right = Entry(name=b"e", kind=ENTRY_FILE, content_kind=CONTENT_CHUNK, content=chunk[1])
    for entries in ([short], [wrong], [right, wrong]):
        directory = named(KIND_DIRECTORY, objects.encode(DirectoryLeaf(entries)))
        with pytest.raises(Damaged):
            adopt(pool, write_pack(tmp_path / "in", [chunk, directory]))
        assert pool.list_packs() == set()
    adopt(pool, write_pack(tmp_path / "in", [chunk]))
    directory = named(KIND_DIRECTORY, objects.encode(DirectoryLeaf([right, wrong])))
    with pytest.raises(Damaged, match="another kind"):
        adopt(pool, write_pack(tmp_path / "in", [directory]))
    assert len(pool.list_packs()) == 1


def test_what_is_named_must_come_along_or_stand(pool: Pool, tmp_path: Path) -> None:
    store = tree(b"two")
    records = records_of(store)
    sealed = pool.encryption != "none"
    below = {
        identity
        for kind, _, payload in records
        if kind != KIND_REVISION
        for _, identity in objects.references(kind, payload)
    }
    for lacking in [record for record in records if record[1] in below]:
        path = write_pack(tmp_path / "in", [record for record in records if record != lacking], sealed=sealed)
        with pytest.raises(NotFound, match="neither sent nor here"):
            adopt(pool, path)
        assert path.exists() and pool.list_packs() == set()  # what is missing may still come
    adopt(pool, path, write_pack(tmp_path / "in", [lacking], sealed=sealed))
    assert_holds(pool, records)


def test_a_revision_may_come_without_its_tree_but_is_not_whole(pool: Pool, tmp_path: Path) -> None:
    store = tree(b"three")
    revision = next(record for record in records_of(store) if record[0] == KIND_REVISION)
    adopt(pool, write_pack(tmp_path / "in", [revision], sealed=pool.encryption != "none"))
    standing = Standing(pool)
    assert standing.kinds(as_ids(revision[1]))[0] == KIND_REVISION and not standing.is_whole(revision[1])
    with Adopter(pool) as adopter, pytest.raises(NotFound, match="not here whole"):
        adopter.require_whole(revision[1])
    adopt(pool, write_pack(tmp_path / "in", [r for r in records_of(store) if r != revision]))
    assert Standing(pool).is_whole(revision[1])
    with Adopter(pool) as adopter:
        assert adopter.require_whole(revision[1]).author == "test"


def test_dumps_deltas_and_other_realms_are_refused(pool: Pool, tmp_path: Path) -> None:
    chunk = named(KIND_CHUNK, b"chunk" * 100)
    stranger = Realm(bytes(32))
    delta = pack.DELTA.pack(chunk[1], 5) + zstandard.ZstdCompressor().compress(b"other")
    for path in (
        write_pack(tmp_path / "in", [chunk], kind=pack.PACK_DUMP, note=b"note"),
        write_pack(tmp_path / "in", [(KIND_CHUNK, stranger.identify(KIND_CHUNK, b"x"), b"x")], realm=stranger),
        write_pack(tmp_path / "in", [(KIND_CHUNK, REALM.identify(KIND_CHUNK, b"other"), delta)], encoding=1),
    ):
        with pytest.raises(Refused):
            adopt(pool, path)
        assert not path.exists() and pool.list_packs() == set()
    odd = write_pack(tmp_path / "in", [chunk], note=b"a note in a pool's pack")
    with pytest.raises(Damaged):
        adopt(pool, odd)
    elsewhere = write_pack(tmp_path / "in", [chunk])
    renamed = elsewhere.rename(elsewhere.with_name("00" * 16 + ".partial"))
    with pytest.raises(Damaged, match="holds pack"):
        adopt(pool, renamed)


class Forger:
    """Writes packs whose parts contradict each other, with the right tags: who knows the realm's key can."""

    def __init__(self, folder: Path) -> None:
        self.header, self.key = new_header(REALM, kind=pack.PACK_POOL, sealed=False)
        self.path = folder / f"{self.header.pack_id.hex()}.partial"
        self.file = open(self.path, "wb")  # noqa: SIM115  closed by finish
        self.writer = PackWriter(self.file.write, realm=REALM, header=(self.header, self.key))

    def finish(self) -> Path:
        self.writer.finish()
        self.file.close()
        return self.path


def rows_that_lie(forger: Forger, change: str) -> None:
    writer = forger.writer
    for number in range(3):
        writer.put(*named(KIND_CHUNK, b"%d" % number * 100))
    ids, rows = writer._data.ids, writer._data.rows
    if change == "length":
        rows[2] += 1
    elif change == "offset":
        rows[5] += 1
    elif change == "kind":
        rows[1] |= 7 << pack.OFFSET_BITS
    elif change == "encoding":
        rows[3] = 5
    elif change == "twice":
        ids[0:32] = ids[32:64]
    elif change == "missing":
        del ids[64:], rows[8:]
        writer.object_count -= 1
    elif change == "order":
        writer._index.finish = lambda: (None, iter([b"".join(forged_rows(writer))]))  # type: ignore[method-assign]
    elif change == "block":
        writer.put_made(
            lambda sealer, n: sealer.seal(b"", pack.BLOCK_DATA, n),
            raw_bytes=0,
            block_type=pack.BLOCK_DATA,
            ids=b"",
            rows=rows[:0],
        )
    elif change == "unknown kind":
        writer.put(*named(9, b"what is this"))


def forged_rows(writer: PackWriter) -> Iterator[bytes]:
    ids, values = writer._index._sorted()
    for row in reversed(range(len(ids))):
        yield ids[row].tobytes() + values[row].tobytes()


@pytest.mark.parametrize(
    "change", ["length", "offset", "kind", "encoding", "twice", "missing", "order", "block", "unknown kind"]
)
def test_an_index_that_lies_is_damaged(pool: Pool, tmp_path: Path, change: str) -> None:
    forger = Forger(tmp_path / "in")
    rows_that_lie(forger, change)
    path = forger.finish()
    with pytest.raises((Damaged, Refused)):
        adopt(pool, path)
    assert not path.exists() and pool.list_packs() == set()


def test_bytes_between_blocks_are_damage(pool: Pool, tmp_path: Path) -> None:
    forger = Forger(tmp_path / "in")
    forger.writer.put(*named(KIND_CHUNK, b"a" * 100))
    forger.writer._close_block(forger.writer._data)
    forger.writer._write(b"hidden where no tag is")
    forger.writer.put(*named(KIND_CHUNK, b"b" * 100))
    with pytest.raises(Damaged, match="end to end"):
        adopt(pool, forger.finish())


def test_sizes_that_would_need_too_much_memory_are_refused_early(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = tmp_path / "in" / ("11" * 16 + ".partial")
    with open(big, "wb") as file:
        file.truncate(ADOPTED_BYTES_MAX + 1)
    with pytest.raises(Refused, match="at most"):
        adopt(pool, big)
    forger = Forger(tmp_path / "in")
    zeros = bytes(20 * 2**20)
    for _ in range(30):  # 600 MB in a few kB
        forger.writer.put(*named(KIND_CHUNK, zeros[:100]))
        forger.writer._close_block(forger.writer._data)
        forger.writer._block_raw[-1] = len(zeros)
    path = forger.finish()
    with pytest.raises((Refused, Damaged)):
        adopt(pool, path)
    huge = named(
        KIND_DIRECTORY,
        objects.encode(
            DirectoryLeaf([Entry(name=b"%09d" % n, kind=ENTRY_FILE, content=b"x" * 64) for n in range(60_000)])
        ),
    )
    with pytest.raises(Damaged, match="larger"):
        adopt(pool, write_pack(tmp_path / "in", [huge]))
    assert pool.list_packs() == set()


def big_tree(count: int) -> list[tuple[int, bytes, bytes]]:
    chance = random.Random(SEED)
    store = DictStore()
    store_revision(store, {b"%05d" % n: {b"f": chance.randbytes(300)} for n in range(count)})
    return records_of(store)


@pytest.mark.parametrize("seed", range(6))
def test_packs_that_need_each_other_are_one_in_the_pool(pool: Pool, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    records = big_tree(40)
    parts: list[list[tuple[int, bytes, bytes]]] = [[] for _ in range(4)]
    for record in records:
        chance.choice(parts).append(record)
    sealed = pool.encryption != "none"
    paths = [write_pack(tmp_path / "in", part, sealed=sealed) for part in parts if part]
    with Workers(2) as workers:
        adopt(pool, *paths, workers=workers)
    assert not any(path.exists() for path in paths)
    assert_holds(pool, records)


def test_packs_join_after_those_that_they_need(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = big_tree(40)
    chunks = [record for record in records if record[0] == KIND_CHUNK]
    leaves = [record for record in records if record[0] == KIND_DIRECTORY and len(record[2]) < 100]
    rest = [record for record in records if record not in chunks and record not in leaves]
    paths = [write_pack(tmp_path / "in", part, sealed=pool.encryption != "none") for part in (rest, leaves, chunks)]
    order: list[str] = []
    take = pool.backend.take
    monkeypatch.setattr(pool.backend, "take", lambda name, file: (order.append(file.path.name), take(name, file)))
    adopt(pool, *paths)
    assert order == [path.name for path in reversed(paths)]
    assert_holds(pool, records)


def test_what_is_there_already_is_not_taken_twice(pool: Pool, tmp_path: Path) -> None:
    records = big_tree(5)
    sealed = pool.encryption != "none"
    adopt(pool, write_pack(tmp_path / "in", records, sealed=sealed))
    again = write_pack(tmp_path / "in", records, sealed=sealed)
    adopt(pool, again)
    assert not again.exists() and len(pool.list_packs()) == 1
    # A pack that pretends to be one that is here keeps its objects, under another name.
    (pack_id,) = pool.list_packs()
    before = pool.backend.read(pack_name(pack_id))
    header, key = new_header(REALM, kind=pack.PACK_POOL, sealed=False, pack_id=pack_id)
    path = tmp_path / "in" / f"{pack_id.hex()}.partial"
    with open(path, "wb") as file, PackWriter(file.write, realm=REALM, header=(header, key)) as writer:
        writer.put(*named(KIND_CHUNK, b"new" * 50))
        writer.finish()
    adopt(pool, path)
    assert pool.backend.read(pack_name(pack_id)) == before and len(pool.list_packs()) == 2
    assert_holds(pool, [*records, named(KIND_CHUNK, b"new" * 50)])


def test_blocks_of_all_sizes_and_many_objects(pool: Pool, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    records = [named(KIND_CHUNK, chance.randbytes(chance.choice([0, 1, 100, 100_000, 5_000_000]))) for _ in range(12)]
    records = list({record[1]: record for record in records}.values()) + big_tree(2000)
    path = write_pack(tmp_path / "in", records, sealed=pool.encryption != "none")
    with Workers(2) as workers:
        adopt(pool, path, workers=workers)
    assert sum(len(payload) for _, _, payload in records) > 2 * BLOCK_RAW_BYTES[pack.BLOCK_DATA]
    for kind, identity, payload in records:
        assert pool.get_kind(identity) == (kind, payload)


# Beside collections


def run_gc(pool: Pool, live: list[bytes], *, hours: float, grace: int = 3600) -> None:
    at_ns = now_ns() + int(hours * HOUR_NS)
    collect(pool, lambda: live, grace_seconds=grace, now_ns=at_ns, dry_run=False, report=silent)


def split(store: DictStore) -> tuple[list[tuple[int, bytes, bytes]], list[tuple[int, bytes, bytes]]]:
    records = records_of(store)
    return [r for r in records if r[0] == KIND_CHUNK], [r for r in records if r[0] != KIND_CHUNK]


def age(pool: Pool, pack_id: bytes, hours: float) -> None:
    at = now_ns() - int(hours * HOUR_NS)
    set_age(pool.backend, pack_name(pack_id), at)


def test_what_is_condemned_does_not_stand_but_is_saved_when_named(pool: Pool, tmp_path: Path) -> None:
    chunks, metadata = split(tree(b"saved"))
    sealed = pool.encryption != "none"
    adopt(pool, write_pack(tmp_path / "in", chunks, sealed=sealed))
    run_gc(pool, [], hours=2)
    assert pool.read_condemned()
    assert not Standing(pool).kinds(as_ids(chunks[0][1])).any()
    adopt(pool, write_pack(tmp_path / "in", metadata, sealed=sealed))
    ids = b"".join(identity for _, identity, _ in chunks + metadata)
    assert (Standing(pool).kinds(as_ids(ids)) != NOTHING).all()
    run_gc(pool, [identity for _, identity, _ in chunks + metadata], hours=50)
    assert_holds(pool, chunks + metadata)


def test_a_collection_while_packs_are_checked_takes_nothing_that_they_need(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks, metadata = split(tree(b"meanwhile"))
    sealed = pool.encryption != "none"
    adopt(pool, write_pack(tmp_path / "in", chunks, sealed=sealed))
    find_named = Adopter._find_named

    def and_collect(adopter: Adopter, checked: list[object]) -> None:
        find_named(adopter, checked)  # type: ignore[arg-type]
        run_gc(pool, [], hours=2)

    monkeypatch.setattr(Adopter, "_find_named", and_collect)
    adopt(pool, write_pack(tmp_path / "in", metadata, sealed=sealed))
    ids = b"".join(identity for _, identity, _ in chunks + metadata)
    assert (Standing(pool).kinds(as_ids(ids)) != NOTHING).all()
    with pytest.raises(Conflict), Adopter(pool):
        run_gc(pool, [], hours=2, grace=0)  # not beside a writer


def test_what_stands_has_all_that_it_names_however_collections_run(pool: Pool, tmp_path: Path) -> None:
    """A directory that nothing names yet keeps its old chunk until it has been shunned for a grace period itself."""
    pool.backend.scratch(UPLOADS).mkdir(parents=True)  # a server's: what one call adopts a later one names in a ref
    chunks, metadata = split(tree(b"stands"))
    sealed = pool.encryption != "none"
    adopt(pool, write_pack(tmp_path / "in", chunks, sealed=sealed))
    (old,) = pool.list_packs()
    age(pool, old, 30)
    adopt(pool, write_pack(tmp_path / "in", metadata, sealed=sealed))
    run_gc(pool, [], hours=0)  # condemns the chunks; the directories are too young to be judged
    assert set(pool.read_condemned()) == {old}
    revision = next(record for record in metadata if record[0] == KIND_REVISION)
    for hours in (1.01, 1.02, 2.05, 2.06):
        stands = Standing(pool).is_whole(revision[1])
        run_gc(pool, [], hours=hours)  # found dead now: what they name waits once more
        if stands:
            for _, identity, _ in chunks + metadata:
                pool.get_kind(identity)
    run_gc(pool, [], hours=9)
    assert pool.list_packs() == set()


def test_dead_objects_that_come_again_can_be_used(pool: Pool, tmp_path: Path) -> None:
    store = tree(b"again")
    chunks, metadata = split(store)
    other = records_of(tree(b"something else that lives" * 20))
    sealed = pool.encryption != "none"
    other = [record for record in other if record not in metadata]
    adopt(pool, write_pack(tmp_path / "in", metadata + other + chunks, sealed=sealed))
    live = [identity for _, identity, _ in other]
    run_gc(pool, live, hours=2)
    dead = pool.read_dead_objects()
    assert len(dead) == 32 * len(metadata), "kept as a whole: the dead are few"
    revision = next(record for record in metadata if record[0] == KIND_REVISION)
    assert not Standing(pool).is_whole(revision[1])
    leaves = [record for record in metadata if record[0] != KIND_REVISION]
    adopt(pool, write_pack(tmp_path / "in", leaves, sealed=sealed))
    adopt(pool, write_pack(tmp_path / "in", [revision], sealed=sealed))
    with Adopter(pool) as adopter:
        adopter.require_whole(revision[1])
        adopter.commit_guard()
    run_gc(pool, live + [identity for _, identity, _ in metadata + chunks], hours=9)
    assert_holds(pool, chunks + metadata)


def test_a_copy_behind_a_condemned_one_is_found(pool: Pool, tmp_path: Path) -> None:
    chunks = [named(KIND_CHUNK, b"%d" % n * 200) for n in range(20)]
    for _ in range(3):
        with pool.writer() as writer:
            for kind, identity, payload in chunks:
                writer.store_copy(kind, identity, payload)  # type: ignore[arg-type]
    ids = as_ids(b"".join(identity for _, identity, _ in chunks))
    packs = sorted(pool.list_packs())
    for pack_id in packs[:2]:
        pool.backend.put(f"condemned/{pack_id.hex()}", b"%d" % now_ns())
        assert (Standing(pool).kinds(ids) == KIND_CHUNK).all()
    pool.backend.put(f"condemned/{packs[2].hex()}", pool.backend.read(f"condemned/{packs[0].hex()}"))
    assert not Standing(pool).kinds(ids).any()
