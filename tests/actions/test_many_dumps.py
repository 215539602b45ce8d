"""Volumes with more recorded dumps than their refs hold: what records, keeps and forgets dumps knows the table's."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dalsegno.actions.amanda import without_higher
from dalsegno.actions.backup import import_directory
from dalsegno.actions.dump import dump, estimate, forget_named, mark
from dalsegno.actions.keep import gc, verify_pool
from dalsegno.actions.session import House
from dalsegno.assembly.local import create_pool, open_pool
from dalsegno.dumps.plan import plan_dump, record_dump
from dalsegno.formats import messages
from dalsegno.terms.errors import Damaged, NotFound, Refused
from dalsegno.terms.events import silent
from dalsegno.terms.ids import ObjectId
from dalsegno.volumes.records import RECENT_MAX, DumpRecord
from dalsegno.volumes.state import VolumeState
from dalsegno.volumes.store import Mended
from kit import pack_path, ref_path

COUNT = 280
FULL = 5


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"x" * 1000)
    with create_pool(tmp_path / "pool", encryption="none", report=silent) as house:
        import_directory(house, "v", tmp_path / "source")
        house.volumes.update(house.volumes.get("v").id, lambda state: recorded(state, range(1, COUNT + 1)))
        yield house


def record(state: VolumeState, number: int, *, level: int = 1, recorder: str = "", revision: bytes = b"") -> DumpRecord:
    return DumpRecord(
        dump_id=number.to_bytes(16, "big"),
        level=0 if number == FULL else level,
        revision=revision or state.head,
        base_dump=b"" if level == 0 or number <= FULL else FULL.to_bytes(16, "big"),
        taken_at_ns=number * 10**9,
        path=f"/spool/{number}.dump",
        size_bytes=1,
        recorder=recorder,
    )


def recorded(state: VolumeState, numbers: range) -> VolumeState:
    for number in numbers:
        state = record_dump(state, record(state, number))
    return state


def ref_bytes(house: House) -> int:
    return ref_path(house.pool, f"volumes/{house.volumes.get('v').id.hex()}").stat().st_size


def test_dumps_of_the_table_are_bases_and_are_found_and_forgotten(house: House, tmp_path: Path) -> None:
    state = house.volumes.get("v")
    assert len(state.dumps) == COUNT and len(state.dumps.newest) <= RECENT_MAX and ref_bytes(house) < 2048
    assert [each.level for each in estimate(house, "v", levels=[0, 1]) if each.possible] == [0, 1]
    made = dump(house, "v", level=1, output=tmp_path / "one.dump")
    assert made.note.base_dump == record(state, FULL).dump_id
    assert mark(house, tmp_path / "one.dump")[0].dumps == house.volumes.get("v").dumps
    with pytest.raises(Refused, match="cannot be restored"):
        forget_named(house, f"/spool/{FULL}.dump")
    with pytest.raises(NotFound):
        forget_named(house, "/spool/none.dump")
    assert len(forget_named(house, "/spool/77.dump")[1]) == 1
    assert record(state, 77) not in house.volumes.get("v").dumps and len(house.volumes.get("v").dumps) == COUNT
    gone = forget_named(house, f"/spool/{FULL}.dump", force=True)[1]
    assert len(gone) == COUNT - FULL + 1
    assert [each.path for each in house.volumes.get("v").dumps] == [f"/spool/{n}.dump" for n in range(1, FULL)]


def test_of_two_recorders_the_bases_of_both_are_kept(house: House, tmp_path: Path) -> None:
    """Kind: the newest of one recorder hides that of another, whose next increment has no base then."""
    source = tmp_path / "source"
    (source / "file").write_bytes(b"first")
    base = import_directory(house, "v", source)[0].state.head
    (source / "file").write_bytes(b"second")
    state = import_directory(house, "v", source)[0].state

    def with_both(current: VolumeState) -> VolumeState:
        tape = record(current, COUNT + 1, level=0, recorder="amanda:daily:h:v", revision=base)
        return record_dump(without_higher(current, tape), record(current, COUNT + 2, level=0))

    house.volumes.update(state.id, with_both)
    gc(house, grace_seconds=0)
    assert house.pool.has(ObjectId(base))
    state = house.volumes.get("v")
    plan = plan_dump(house.pool, state, targets=[("", state.head)], level=1, now_ns=10**18, recorder="amanda:daily:h:v")
    assert plan.base is not None and plan.base.revision == base


def test_a_collection_keeps_the_table(house: House, tmp_path: Path) -> None:
    for number in range(COUNT + 1, COUNT + 3 * RECENT_MAX):
        house.volumes.update(
            house.volumes.get("v").id, lambda state, number=number: recorded(state, range(number, number + 1))
        )
    before, packs = list(house.volumes.get("v").dumps), len(house.pool.list_packs())
    gc(house, grace_seconds=0)
    assert len(house.pool.list_packs()) < packs
    with open_pool(tmp_path / "pool", report=silent) as again:
        assert list(again.volumes.get("v").dumps) == before
        assert [each for each in verify_pool(again) if each.severity == "error"] == []


def test_what_a_commit_writes_and_sends_does_not_grow_with_the_dumps(house: House) -> None:
    """Kind: a list in the ref that grows with use."""

    def cost(first: int) -> float:
        known, written = house.pool.list_packs(), 0
        for number in range(first, first + 4 * RECENT_MAX):
            volume_id = house.volumes.get("v").id
            house.volumes.update(volume_id, lambda state, number=number: recorded(state, range(number, number + 1)))
            written += ref_bytes(house)
            written += sum(pack_path(house.pool, each).stat().st_size for each in house.pool.list_packs() - known)
            known = house.pool.list_packs()
        assert len(messages.encode(house.volumes.get("v"))) < 8192
        return written / (4 * RECENT_MAX)

    few = cost(COUNT + 1)
    house.volumes.update(house.volumes.get("v").id, lambda state: recorded(state, range(1000, 4000)))
    many = cost(4000)
    assert many < 8192 and many < 1.5 * few


def test_a_damaged_table_is_told_and_mended(house: House, tmp_path: Path) -> None:
    """Kind: what is lost in one place takes all that names it, or is passed over in silence."""
    import_directory(house, "other", tmp_path / "source")
    table = house.volumes.get("v").dumps.table
    assert table is not None
    location = house.pool.index.lookup(table.by_time)
    assert location is not None
    pack_path(house.pool, location.pack_id).unlink()
    with open_pool(tmp_path / "pool", report=silent) as again:
        state = again.volumes.get("v")
        with pytest.raises(Damaged, match="volume 'v'"):
            gc(again, grace_seconds=0)
        (told,) = [each for each in verify_pool(again) if each.severity == "error" and each.where == "v"]
        newest = len(state.dumps.newest)
        assert "table of its dumps" in told.text and f"{COUNT - newest} recorded dumps" in told.text
        import_directory(again, "v", tmp_path / "source")
        dump(again, "v", level=2, output=tmp_path / "two.dump")
        with pytest.raises(Refused, match="let go"):
            again.volumes.mend_tables("v", let_go=False)
        lost = COUNT - newest
        mended = again.volumes.mend_tables("v", let_go=True)
        assert mended == Mended(0, 0, newest + 1, lost)
        gc(again, grace_seconds=0)
        assert [each for each in verify_pool(again) if each.severity == "error"] == []
        with pytest.raises(Refused, match="no recorded dump below level 1"):
            dump(again, "v", level=1, output=tmp_path / "one.dump")


def test_a_volume_with_many_dumps_is_made_elsewhere_without_its_table(house: House) -> None:
    """Kind: a value that names objects goes where these are not."""
    sent = msgspec.structs.replace(house.volumes.get("v")).dumps.sent()
    assert sent.table is None and list(sent) == list(house.volumes.get("v").dumps)
