"""Seed: a new replica gets from media what the dumps hold, and over the network only the rest."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from memory_site import VOLUME
from site_worlds import WORLDS, clone, commit, found, head_files

from dalsegno.actions.seed import find_dumps, seed_replica
from dalsegno.chunks.realm import Realm
from dalsegno.dumps.plan import plan_dump, record_dump
from dalsegno.dumps.write import write_dump
from dalsegno.replicas.follow import standby_state
from dalsegno.replicas.transfer import copy
from dalsegno.terms.errors import Damaged, NotFound, Refused
from dalsegno.terms.events import Note
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import ReplicaSet
from dalsegno.world.workers import Workers
from kit import REALM

SET = ReplicaSet(version=1, writers=["s1"])
FULL = {b"f%d" % number: (b"%d" % number) * 2000 for number in range(40)}


def dump(world: Any, path: Path, clones: list[str], *, level: int) -> Path:
    """Write a dump of clones of the volume on s1 and record it."""
    site = world.sites["s1"]
    state = site.state(VOLUME)
    world.clock.now_ns += 10**9
    plan = plan_dump(
        site.pool,
        state,
        targets=[(name, state.clones[name].revision) for name in clones],
        level=level,
        now_ns=world.clock.now_ns,
    )
    with path.open("wb") as file:
        summary = write_dump(site.pool, plan, file.write, realm=REALM, sealed=False)
    record = DumpRecord(
        dump_id=summary.pack_id,
        level=level,
        revision=plan.target,
        base_dump=plan.note.base_dump,
        taken_at_ns=plan.note.taken_at_ns,
        path=str(path),
        size_bytes=summary.size_bytes,
    )
    site.volumes.update(state.id, lambda old: record_dump(old, record))
    return path


@pytest.fixture
def world(tmp_path: Path) -> Any:
    made = WORLDS["keeper"](tmp_path)
    for name in ("s1", "s4"):
        made.add(name)
    found(made, SET)
    for number in range(3):
        commit(made, "s1", {**FULL, b"changing": b"%d" % number * 3000})
        clone(made, "s1", f"c{number}")
    dump(made, tmp_path / "full.dump", ["c0", "c1"], level=0)
    dump(made, tmp_path / "incr.dump", ["c2"], level=1)
    commit(made, "s1", {**FULL, b"changing": b"last" * 1000})
    made.sites["s4"].create(standby_state(made.sites["s1"].state(VOLUME)))
    return made


@pytest.mark.parametrize("text", ["full.dump+incr.dump", ""])
@pytest.mark.parametrize("threads", [False, True])
def test_seeded_replica_gets_only_the_rest_over_the_network(
    world: Any, tmp_path: Path, text: str, threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text("not a dump")
    notes: list[Any] = []
    there = world.sites["s1"].state(VOLUME)
    with Workers(2) as workers:
        done = seed_replica(
            text or str(tmp_path),
            there=there,
            to=world.faulty["s4"],
            realm=REALM,
            workers=workers if threads else None,
            report=notes.append,
        )
    assert [path.name for path in done.dumps] == ["full.dump", "incr.dump"]
    assert done.objects >= 40 and done.media_bytes > 0 and done.sent_bytes > 0
    assert any(isinstance(note, Note) and b"other.txt" in note.path for note in notes) == (not text)
    state = world.sites["s4"].state(VOLUME)
    assert state.clones == there.clones and not state.head
    for name, made in state.clones.items():
        assert world.files("s4", made.revision) == world.files("s1", made.revision), name
    rest = copy(world.faulty["s1"], world.faulty["s4"], VOLUME, [there.head], done.revisions)
    world.sites["s4"].volumes.update(state.id, lambda old: msgspec.structs.replace(old, role="standby", replicas=None))
    world.sites["s4"].advance(VOLUME, there.head)
    assert head_files(world, "s4") == head_files(world, "s1")
    assert rest.objects <= 4 < done.objects and rest.bytes_crossed < done.sent_bytes


def test_seeding_again_after_a_lost_connection_sends_the_rest(world: Any, tmp_path: Path) -> None:
    there = world.sites["s1"].state(VOLUME)
    count = [0]

    def fail() -> None:
        count[0] += 1
        if count[0] == 2:
            raise Damaged("cut")

    world.faulty["s4"].fail["adopt"] = fail
    text = f"{tmp_path}/full.dump+{tmp_path}/incr.dump"
    with pytest.raises(Damaged):
        seed_replica(text, there=there, to=world.faulty["s4"], realm=REALM)
    assert not world.sites["s4"].state(VOLUME).clones
    again = seed_replica(text, there=there, to=world.faulty["s4"], realm=REALM)
    assert set(world.sites["s4"].state(VOLUME).clones) == {"c0", "c1", "c2"} and again.objects > 0
    third = seed_replica(text, there=there, to=world.faulty["s4"], realm=REALM)
    assert third.objects == 0


def test_damaged_foreign_and_incomplete_dumps_are_refused(world: Any, tmp_path: Path) -> None:
    there = world.sites["s1"].state(VOLUME)
    to = world.faulty["s4"]
    with pytest.raises(Refused, match="increment"):
        seed_replica(str(tmp_path / "incr.dump"), there=there, to=to, realm=REALM)
    with pytest.raises(Refused, match="another volume"):
        other = msgspec.structs.replace(there, id=b"y" * 16)
        seed_replica(str(tmp_path / "full.dump"), there=other, to=to, realm=REALM)
    with pytest.raises(Refused):
        seed_replica(str(tmp_path / "full.dump"), there=there, to=to, realm=Realm(b"another realm's secret of 32 byt"))
    with pytest.raises(NotFound):
        seed_replica(str(tmp_path / "none.dump"), there=there, to=to, realm=REALM)
    with pytest.raises(NotFound):
        find_dumps(str(tmp_path / "s4"), volume=there.id, realm=REALM)
    data = bytearray((tmp_path / "full.dump").read_bytes())
    data[len(data) // 3] ^= 1
    (tmp_path / "full.dump").write_bytes(data)
    with pytest.raises(Damaged):
        seed_replica(str(tmp_path / "full.dump"), there=there, to=to, realm=REALM)
    assert not world.sites["s4"].state(VOLUME).clones


def test_directory_with_many_dumps_gives_the_newest_whole_chain(world: Any, tmp_path: Path) -> None:
    there = world.sites["s1"].state(VOLUME)
    clone(world, "s1", "c3")
    world.clock.now_ns += 10**9
    dump(world, tmp_path / "level2.dump", ["c3"], level=2)
    names = [path.name for path in find_dumps(str(tmp_path), volume=there.id, realm=REALM)]
    assert names == ["full.dump", "incr.dump", "level2.dump"]
    (tmp_path / "incr.dump").unlink()
    names = [path.name for path in find_dumps(str(tmp_path), volume=there.id, realm=REALM)]
    assert names == ["full.dump"]
