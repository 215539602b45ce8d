"""Dumps against a dict model: written, chained, merged, verified, salvaged; wrong lineages refused by name."""

import io
import random

import msgspec
import pytest

from dalsegno.chunks.realm import Realm
from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.merge import merge_dumps
from dalsegno.dumps.plan import choose_base, choose_level, plan_dump, record_dump
from dalsegno.dumps.verify import salvage_dump, verify_dump, verify_stream
from dalsegno.dumps.write import write_dump
from dalsegno.formats import objects
from dalsegno.pool.pack_read import PackReader
from dalsegno.terms.errors import BadInput, DalError, Damaged, Refused
from dalsegno.trees.closure import visit_reachable
from dalsegno.trees.read import read_revision
from dalsegno.trees.walk import walk
from dalsegno.volumes.records import RECORDS_SENT_MAX, DumpRecord
from dalsegno.volumes.state import VolumeState
from kit import REALM, PoolStore, store_revision


def closure(source, revision):
    seen = set()
    visit_reachable(source, [(objects.KIND_REVISION, revision)], lambda k, i: (i not in seen, seen.add(i))[0])
    return seen


class Bench:
    """A volume whose states are dicts, and its dumps in a directory."""

    def __init__(self, directory, sealed=True, name="home"):
        self.directory, self.sealed = directory, sealed
        self.store = PoolStore(directory / "pool")
        self.state = VolumeState(id=b"v" * 16, name=name, kind="native", source=b"", created_ns=0)
        self.clock = 0

    def dump(self, model, level, file, *, record=True, extra=()):
        self.clock += 1
        targets = [("", store_revision(self.store, m, created_ns=self.clock)) for m in (*extra, model)]
        self.store.writer.flush()
        plan = plan_dump(self.store, self.state, targets=targets, level=level, now_ns=self.clock)
        path = self.directory / file
        with open(path, "wb") as stream:
            summary = write_dump(self.store.pool, plan, stream.write, realm=REALM, sealed=self.sealed)
        if record:
            self.state = record_dump(
                self.state,
                DumpRecord(
                    dump_id=summary.pack_id,
                    level=plan.note.level,
                    revision=plan.target,
                    base_dump=plan.note.base_dump,
                    taken_at_ns=self.clock,
                    path=str(path),
                    size_bytes=summary.size_bytes,
                ),
            )
        return path

    def merge(self, *paths, out="merged.dump"):
        path = self.directory / out
        with DumpChain.open(paths, REALM) as chain, open(path, "wb") as stream:
            merge_dumps(chain, stream.write, realm=REALM, sealed=self.sealed)
        return path


def tree(path):
    with DumpChain.open([path] if not isinstance(path, list) else path, REALM) as chain:
        revision = read_revision(chain, chain.target.revision)
        return dict(walk(chain, revision))


@pytest.fixture(params=[True, False], ids=["sealed", "clear"])
def bench(request, tmp_path):
    return Bench(tmp_path, sealed=request.param)


def big(seed, size=3000):
    return random.Random(seed).randbytes(size)


MONDAY = {b"keep": big(1), b"victim": big(2), b"d": {b"x": big(3), b"y": big(4)}}
WEDNESDAY = {b"keep": big(1), b"d": {b"x": big(33), b"y": big(4)}, b"new": big(5)}
FRIDAY = {b"keep": big(11), b"d": {b"x": big(33), b"z": big(4)}, b"new": big(5)}


def test_levels_merge_in_the_order_of_the_week(bench):
    full = bench.dump(MONDAY, 0, "monday-0")
    first = bench.dump(WEDNESDAY, 1, "wednesday-1")
    second = bench.dump(FRIDAY, 2, "friday-2")
    step = bench.merge(full, first, out="step")
    merged = bench.merge(step, second)
    assert tree(merged) == tree([full, first, second])
    with PackReader.open(merged, REALM) as reader, DumpChain.open([merged], REALM) as chain:
        ids, _ = reader.objects()
        assert {row.tobytes() for row in ids} == closure(chain, chain.target.revision)
        assert not chain.bases
    assert list(verify_dump(merged, REALM)) == []
    increments = bench.merge(first, second, out="1+2")
    assert tree(bench.merge(full, increments, out="again")) == tree(merged)


def test_friday_onto_monday_without_wednesday_is_refused_naming_both(bench):
    full = bench.dump(MONDAY, 0, "monday-0")
    bench.dump(WEDNESDAY, 1, "wednesday-1")
    second = bench.dump(FRIDAY, 2, "friday-2")
    with pytest.raises(Refused, match=r"friday-2.*missing.*level 2 of home.*monday-0.*level 0 of home"):
        bench.merge(full, second)
    assert not (bench.directory / "merged.dump").exists()


def test_wrong_order_another_volume_another_realm_and_a_second_full_are_refused(bench, tmp_path):
    full = bench.dump(MONDAY, 0, "f")
    first = bench.dump(WEDNESDAY, 1, "i")
    with pytest.raises(Refused):
        bench.merge(first, full)
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other", name="other")
    other.clock = 100
    other_full = other.dump({b"q": b"1"}, 0, "of")
    other.state = msgspec.structs.replace(other.state, id=b"w" * 16)
    other_increment = other.dump({b"q": b"2"}, 1, "oi")
    with pytest.raises(Refused, match="another volume"):
        bench.merge(full, other_increment)
    with pytest.raises(Refused, match="full dump"):
        bench.merge(full, other_full)
    with pytest.raises(Refused, match="realm"), DumpChain.open([full], Realm(b"z" * 32)):
        pass


def test_a_deleted_file_stays_deleted_when_level_1_is_made_twice(bench):
    """Coda wrote the deletion into the first increment only: full + latest increment brought the file back."""
    full = bench.dump(MONDAY, 0, "full")
    without = {k: v for k, v in MONDAY.items() if k != b"victim"}
    bench.dump(without, 1, "level1-monday")
    latest = bench.dump({**without, b"more": b"1"}, 1, "level1-tuesday")
    paths = tree(bench.merge(full, latest))
    assert b"victim" not in paths and b"more" in paths
    assert list(verify_dump(bench.directory / "merged.dump", REALM)) == []


def test_a_rename_of_a_large_file_is_an_increment_of_a_kilobyte(bench):
    bench.dump({b"a": big(1, 2_000_000), b"d": {}}, 0, "full")
    path = bench.dump({b"d": {b"b": big(1, 2_000_000)}}, 1, "incr")
    assert path.stat().st_size < 4096


def test_many_revisions_share_one_dump(bench):
    single = bench.dump(FRIDAY, 0, "one", record=False).stat().st_size
    history = bench.dump(FRIDAY, 0, "many", extra=[MONDAY, WEDNESDAY])
    assert history.stat().st_size < 3.5 * single
    with DumpChain.open([history], REALM) as chain:
        assert len(chain.targets()) == 3
        for target in chain.targets():
            assert list(walk(chain, read_revision(chain, target.revision)))


def test_every_single_bit_flip_is_found(bench):
    path = bench.dump({b"a": b"tiny", b"b": big(9, 150)}, 0, "full")
    data = bytearray(path.read_bytes())
    flipped = bench.directory / "flipped"
    for position in range(len(data) * 8):
        data[position // 8] ^= 1 << position % 8
        flipped.write_bytes(data)
        try:
            findings = list(verify_dump(flipped, REALM))
        except DalError:
            findings = ["refused"]
        assert findings, f"bit {position} flipped and not found"
        with pytest.raises(DalError):
            verify_stream(io.BytesIO(data), REALM)
        data[position // 8] ^= 1 << position % 8


def test_every_truncation_is_refused_with_the_offset(bench):
    path = bench.dump({b"a": b"tiny"}, 0, "full")
    data = path.read_bytes()
    short = bench.directory / "short"
    for length in range(len(data)):
        short.write_bytes(data[:length])
        with pytest.raises(Damaged, match=r"offset \d+"), DumpChain.open([short], REALM):
            pass
        with pytest.raises(Damaged, match=r"offset \d+"):
            verify_stream(io.BytesIO(data[:length]), REALM)


def test_a_block_opens_at_its_own_place_alone(bench):
    """The kind of fault: what is whole in one place is whole in another; here the block itself says that it is not."""
    one = bench.dump({b"a": big(1, 300), b"b": big(3, 900_000)}, 0, "one").read_bytes()
    two = bench.dump({b"a": big(2, 300), b"b": big(4, 900_000)}, 0, "two", record=False).read_bytes()
    (head, blocks, footer), (_, foreign, _) = cut_blocks(one), cut_blocks(two)
    assert len(blocks) >= 4
    verify_stream(io.BytesIO(head + b"".join(blocks) + footer), REALM)
    for number in range(len(blocks)):
        for other in [*blocks[:number], *blocks[number + 1 :], *foreign]:
            lie = [*blocks[:number], other, *blocks[number + 1 :]]
            at = len(head) + sum(map(len, blocks[:number]))
            with pytest.raises(Damaged, match=rf"block {number} damaged at offset {at}$"):
                verify_stream(io.BytesIO(head + b"".join(lie) + footer), REALM)


def cut_blocks(data):
    """Cut a pack into its front, its blocks as they are stored, and its footer."""
    at = 16 + int.from_bytes(data[12:16], "little") + 16
    front, blocks = data[:at], []
    while at < len(data) - 56:
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        blocks.append(data[at:end])
        at = end
    return front, blocks, data[at:]


def test_random_bytes_never_hang_a_reader(bench):
    draw = random.Random(5)
    head = bench.dump({b"a": b"tiny"}, 0, "full").read_bytes()
    for _ in range(300):
        data = head[: draw.randrange(len(head))] + draw.randbytes(draw.randrange(200))
        with pytest.raises(DalError):
            verify_stream(io.BytesIO(data), REALM)


def test_salvage_saves_what_is_whole(bench):
    model = {b"f%03d" % i: big(i, 100_000) for i in range(200)}
    path = bench.dump(model, 0, "full")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert list(verify_dump(path, REALM))
    saved = bench.directory / "saved"
    with open(saved, "wb") as stream:
        result = salvage_dump(path, REALM, stream.write, sealed=bench.sealed)
    assert len(result.damaged) == 1 and result.object_count > 150
    with DumpChain.open([saved], REALM) as chain:
        revision = read_revision(chain, chain.target.revision)
        whole = [
            e
            for _, e in walk(chain, revision)
            if e.content_kind == objects.CONTENT_CHUNK and e.content in chain.readers[0]
        ]
        assert 150 < len(whole) < 200


@pytest.mark.parametrize(
    ("levels", "level", "base"),
    [
        ([], 0, None),
        ([0], 1, 0),
        ([0, 1], 2, 1),
        ([0, 1, 2], 1, 0),
        ([0, 1, 2, 1], 2, 3),
        ([0, 5, 3], 9, 2),
        ([0], 0, None),
    ],
)
def test_the_base_is_the_newest_record_of_a_lower_level(levels, level, base):
    history = [
        DumpRecord(dump_id=bytes([i]), level=n, revision=b"", base_dump=b"", taken_at_ns=i, path="", size_bytes=0)
        for i, n in enumerate(levels)
    ]
    chosen = choose_base(history, level=level)
    assert chosen is (None if base is None else history[base])
    assert choose_level(history) == (min(9, levels[-1] + 1) if levels else 0)
    with pytest.raises(BadInput):
        choose_base(history, level=10)


def test_the_full_dump_that_all_others_build_on_is_never_forgotten():
    """Kind: a list that is cut at its old end loses what its new end stands on."""
    state = VolumeState(id=bytes(16), name="home", kind="native", source=b"", created_ns=1)

    def record(number: int, *, level: int, base: int | None) -> DumpRecord:
        return DumpRecord(
            dump_id=number.to_bytes(16, "big"),
            level=level,
            revision=bytes(32),
            base_dump=base.to_bytes(16, "big") if base is not None else b"",
            taken_at_ns=number,
            path="",
            size_bytes=1,
        )

    full = record(1, level=0, base=None)
    many = [record(number, level=1, base=1) for number in range(2, RECORDS_SENT_MAX + 20)]
    for each in [full, *many]:
        state = record_dump(state, each)
    assert list(state.dumps) == [full, *many]
    sent = state.dumps.sent()
    assert list(sent) == [full, *many[-RECORDS_SENT_MAX:]]
    assert choose_base(sent, level=1) == full
