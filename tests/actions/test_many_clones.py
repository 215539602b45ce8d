"""Volumes with more clones than their refs hold: what reads, keeps, counts and removes clones knows those of the table."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from dalsegno.actions.backup import import_directory
from dalsegno.actions.heal import damage_lines
from dalsegno.actions.keep import gc, verify_pool, volume_stats
from dalsegno.actions.prune import run_prune
from dalsegno.actions.session import House
from dalsegno.assembly.local import create_pool, open_pool
from dalsegno.backup.policy import Keep
from dalsegno.backup.prune_plan import plan_clones
from dalsegno.formats import messages
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import AlreadyThere, Damaged, Full, NotFound, Refused
from dalsegno.terms.events import silent
from dalsegno.volumes.address import parse_address, resolve
from dalsegno.volumes.clones import NEWEST_MAX, Clone, Clones
from dalsegno.volumes.state import VolumeState
from dalsegno.volumes.store import Mended, Volumes
from kit import pack_path, ref_path

COUNT = 280
HOUR_NS = 3600 * 10**9


def name_of(number: int) -> str:
    return f"c{number:04}"


def add_many(volumes: Volumes, name: str, count: int) -> None:
    def change(state: VolumeState) -> VolumeState:
        clones = state.clones
        for number in range(count):
            made = Clone(revision=state.head, created_ns=number * HOUR_NS, automatic=True, held=number == 7)
            clones = clones.put(name_of(number), made)
        return msgspec.structs.replace(state, clones=clones)

    volumes.update(volumes.get(name).id, change)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"x" * 1000)
    create_pool(tmp_path / "pool", encryption="keyfile", key_path=tmp_path / "key").__exit__(None, None, None)
    with opened(tmp_path / "pool") as house:
        import_directory(house, "v", tmp_path / "source")
        add_many(house.volumes, "v", COUNT)
    return tmp_path / "pool"


def opened(path: Path) -> House:
    return open_pool(path, key_path=path.parent / "key", report=silent)


def table_packs(house: House) -> set[Path]:
    """Return the packs in which the nodes of a volume's table are."""
    table = house.volumes.get("v").clones.table
    assert table is not None
    found = set()
    for root in (table.by_name, table.by_time):
        location = house.pool.index.lookup(root)
        assert location is not None
        found.add(pack_path(house.pool, location.pack_id))
    return found


def test_clones_of_the_table_are_found_renewed_held_and_removed(path: Path) -> None:
    with opened(path) as house:
        volumes = house.volumes
        assert len(volumes.get("v").clones) == COUNT and ref_path(house.pool, ref(house)).stat().st_size < 8192
        with pytest.raises(AlreadyThere):
            volumes.add_clone("v", name_of(3), now_ns=1)
        with pytest.raises(Refused, match="held"):
            volumes.unclone("v", name_of(7))
        with pytest.raises(Refused, match="held"):
            volumes.remove("v")
        volumes.set_held("v", name_of(7), held=False)
        volumes.set_held("v", name_of(9), held=True)
        volumes.unclone("v", name_of(7))
        with pytest.raises(NotFound):
            volumes.unclone("v", name_of(7))
        clones = volumes.get("v").clones
        assert len(clones) == COUNT - 1 and clones[name_of(9)].held and name_of(7) not in clones

        def at(selector: str) -> str | None:
            return resolve(house.pool, volumes, parse_address(f"v@{selector}"), now_ns=COUNT * HOUR_NS).clone

        assert at(name_of(20)) == name_of(20) and at("latest") == name_of(COUNT - 1)
        assert at("1970-01-01T07:30:00Z") == name_of(6) and at("10d") == name_of(COUNT - 240)
        for clone in [*clones.values()][::50]:
            assert resolve(house.pool, volumes, parse_address(f"v@#{clone.revision.hex()[:8]}"), now_ns=0).revision


def ref(house: House) -> str:
    return f"volumes/{house.volumes.get('v').id.hex()}"


def test_a_collection_keeps_the_table_and_what_it_names_and_drops_the_tables_before(path: Path) -> None:
    with opened(path) as house:
        for number in range(2 * NEWEST_MAX):
            house.volumes.add_clone("v", f"later{number}", now_ns=(COUNT + number) * HOUR_NS)
        before = dict(house.volumes.get("v").clones)
        house.volumes.update(house.volumes.get("v").id, lambda state: msgspec.structs.replace(state, head=b""))
        packs = len(house.pool.list_packs())
        gc(house, grace_seconds=0)
        assert len(house.pool.list_packs()) < packs
    with opened(path) as house:
        assert dict(house.volumes.get("v").clones) == before
        assert [each for each in verify_pool(house) if each.severity == "error"] == []
        assert volume_stats(house, "v").size.clone_count == len(before)


def test_what_a_clone_writes_and_sends_does_not_grow_with_their_number(path: Path) -> None:
    """Kind: a cost that follows the size, not the change. `bench/clones.py` measures the same with 100,000."""

    def cost(house: House, first: int) -> float:
        state = house.volumes.get("v")
        place = ref_path(house.pool, ref(house))
        known, written = house.pool.list_packs(), 0
        for number in range(first, first + 2 * NEWEST_MAX):
            house.volumes.add_clone("v", f"one{number:05}", now_ns=number * HOUR_NS)
            written += place.stat().st_size
            written += sum(pack_path(house.pool, each).stat().st_size for each in house.pool.list_packs() - known)
            known = house.pool.list_packs()
        state = house.volumes.get("v")
        assert len(messages.encode(state)) < 8192
        return written / (2 * NEWEST_MAX)

    with opened(path) as house:
        few = cost(house, COUNT)
        state = house.volumes.get("v")
        more = {f"far{number:05}": Clone(revision=state.head, created_ns=-number) for number in range(5000)}
        clones = Clones({**dict(state.clones.items()), **more})
        house.volumes.update(state.id, lambda current: msgspec.structs.replace(current, clones=clones))
        many = cost(house, COUNT + 1000)
        assert many < 8192 and many < 1.5 * few


def test_prune_removes_many_in_one_write_and_says_what_it_left(path: Path) -> None:
    with opened(path) as house:
        counter = house.volumes.get("v").counter
        keep = Keep(last=3, daily=4)
        plan = plan_clones(house.volumes.list(), keep, now_ns=COUNT * HOUR_NS, zone=ZoneInfo("UTC"))
        result = run_prune(house, None, plan)
        assert len(result.removed) == len(plan.removals) > 250 and not result.failed and not result.waiting
        state = house.volumes.get("v")
        assert state.counter == counter + 1 and name_of(7) in state.clones
        assert len(state.clones) == COUNT - len(plan.removals) == plan.kept["clones"]
        done = house.volumes.unclone_many("v", [name_of(7), name_of(1), name_of(COUNT - 1)])
        assert [type(each) for each in done.values()] == [Refused, NotFound, type(None)]


def test_a_damaged_table_is_told_and_mended_and_the_rest_goes_on(path: Path, tmp_path: Path) -> None:
    """Kind: what is lost in one place takes all that names it, or is passed over in silence."""
    with opened(path) as house:
        import_directory(house, "other", tmp_path / "source")
        (pack,) = table_packs(house)
    pack.unlink()
    with opened(path) as house:
        assert [state.name for state in house.volumes.list()] == ["other", "v"]
        state = house.volumes.get("v")
        assert len(state.clones) == COUNT and name_of(COUNT - 1) in state.clones
        with pytest.raises(Damaged, match="volume 'v'"):
            gc(house, grace_seconds=0)
        told = [each for each in verify_pool(house) if each.severity == "error" and each.where == "v"]
        assert (
            len(told) == 1
            and "dal volume mend v" in told[0].text
            and str(COUNT - len(state.clones.newest)) in str(told)
        )
        assert damage_lines(house.pool, house.volumes.list())
        import_directory(house, "v", tmp_path / "source")
        with pytest.raises(Refused, match="let go"):
            house.volumes.mend_tables("v", let_go=False)
        there, lost = len(state.clones.newest), COUNT - len(state.clones.newest)
        assert house.volumes.mend_tables("v", let_go=True) == Mended(there, lost, 0, 0)
        assert house.volumes.mend_tables("v", let_go=False) == Mended(there, 0, 0, 0)
        house.volumes.add_clone("v", "new", now_ns=COUNT * HOUR_NS)
        gc(house, grace_seconds=0)
        assert [each for each in verify_pool(house) if each.severity == "error"] == []


def test_one_tree_of_a_table_is_enough_to_mend_it(path: Path) -> None:
    with opened(path) as house:
        state = house.volumes.get("v")
        table = state.clones.table
        assert table is not None
        before = dict(state.clones)
        wrong = msgspec.structs.replace(table, by_time=table.by_name)
        clones = type(state.clones)(state.clones.newest, wrong)
        house.volumes.update(state.id, lambda current: msgspec.structs.replace(current, clones=clones))
        with pytest.raises(Damaged):
            list(house.volumes.get("v").clones)
        assert house.volumes.mend_tables("v", let_go=False) == Mended(COUNT, 0, 0, 0)
        assert dict(house.volumes.get("v").clones) == before


def test_a_full_disk_does_not_keep_clones_from_being_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: what makes room needs room."""
    with opened(path) as house:
        tries = []
        writer = Pool.writer

        def full_while_there_is_a_reserve(pool: Pool, *arguments: object, **words: object) -> object:
            tries.append((path / "reserve").exists())
            if tries[-1]:
                raise Full("no room")
            return writer(pool, *arguments, **words)  # type: ignore[arg-type]

        monkeypatch.setattr(Pool, "writer", full_while_there_is_a_reserve)
        house.volumes.unclone("v", name_of(100))
        assert tries == [True, False]
        with pytest.raises(Full):
            add_many(house.volumes, "v", COUNT + 2 * NEWEST_MAX)


@pytest.mark.parametrize("change", ["spill", "unclone"])
def test_killed_at_every_step_the_clones_are_those_before_or_after(path: Path, tmp_path: Path, change: str) -> None:
    """Kind: what was killed leaves neither."""

    make = _one_more if change == "spill" else _one_less
    if change == "spill":  # so that one more moves the older ones
        with opened(path) as house:
            room = NEWEST_MAX - len(house.volumes.get("v").clones.newest)
            for number in range(room):
                house.volumes.add_clone("v", f"before{number:02}", now_ns=(COUNT + number) * HOUR_NS)
    with opened(path) as house:
        before = dict(house.volumes.get("v").clones)
    step, code = 0, -1
    while code:
        step += 1
        copy = tmp_path / f"copy{step}" / "pool"
        shutil.copytree(path, copy)
        shutil.copy(path.parent / "key", copy.parent / "key")
        code = in_child(copy, make, f"kill:{step}")
        with opened(copy) as house:
            found = dict(house.volumes.get("v").clones)
            assert found == before if code and step < 3 else len(found.keys() ^ before.keys()) <= 1
            if found == before:
                make(house)
            assert len(dict(house.volumes.get("v").clones).keys() ^ before.keys()) == 1
            assert step % 4 or [each for each in verify_pool(house) if each.severity == "error"] == []
        shutil.rmtree(copy.parent)
    assert step > 5


def _one_more(house: House) -> None:
    house.volumes.add_clone("v", "one more", now_ns=2 * COUNT * HOUR_NS)


def _one_less(house: House) -> None:
    house.volumes.unclone("v", name_of(50))


def in_child(copy: Path, make: Callable[[House], None], fault: str) -> int:
    """Do `make` in a child process under a fault; return 0, or what else it ended with."""
    child = os.fork()
    if child == 0:
        os.environ["DAL_FAULT"] = fault
        try:
            with opened(copy) as house:
                make(house)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
