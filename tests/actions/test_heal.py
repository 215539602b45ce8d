"""A pool that has lost bytes: noticed, stored again from the source, said; what nothing has any more is named.

The kind: a backup that believes its cache, or an index, over a pool that has lost what they speak of.
"""

import dataclasses
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dalsegno.actions.backup import BackupResult, backup, import_directory
from dalsegno.actions.browse import versions
from dalsegno.actions.dump import dump
from dalsegno.actions.heal import LostFiles, damage_lines
from dalsegno.actions.keep import gc, stats, verify_pool, volume_stats
from dalsegno.actions.restore import restore_volume
from dalsegno.actions.session import House
from dalsegno.assembly.local import create_pool, open_pool
from dalsegno.formats.objects import ENTRY_DIRECTORY, ENTRY_LINK, KIND_CHUNK
from dalsegno.pool.adopt import Standing
from dalsegno.pool.damage import PackDamage, decode_damage, encode_damage
from dalsegno.pool.pack_read import PackReader
from dalsegno.terms.errors import DalError, Damaged, NoAccess
from dalsegno.terms.events import Event, Note
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.read import entry_xattrs, iterate_content, iterate_directory, read_revision, resolve_link
from dalsegno.world.clock import real_now_ns
from kit import pack_path

SEED = 20261130


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all files be old enough for a scan cache to believe their times."""
    monkeypatch.setenv("DAL_NOW", str(real_now_ns() + 3600 * 10**9))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with all that rests on something: directories in directories, large files, links, attributes."""
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    root = tmp_path / "source"
    (root / "deep" / "down").mkdir(parents=True)
    (root / "still").mkdir()
    (root / "large").write_bytes(chance.randbytes(3_000_000))
    for name in ("a", "deep/b", "deep/down/c", "still/d"):
        (root / name).write_bytes(chance.randbytes(20_000))
    os.link(root / "deep" / "b", root / "still" / "b2")
    os.setxattr(root / "still" / "d", "user.note", chance.randbytes(2_000))
    return root


def open_house(path: Path, cache: str = "cache", notes: list[str] | None = None) -> House:
    def listen(event: Event) -> None:
        if isinstance(event, Note) and event.severity != "note" and notes is not None:
            notes.append(event.text)

    opened = open_pool(path, report=listen)
    return dataclasses.replace(opened, cache_dir=path.parent / cache)


@pytest.fixture
def pool_path(tmp_path: Path, source: Path, later: None) -> Path:
    """A pool with three states of the source in three packs, the last of which changed one deep file."""
    path = tmp_path / "pool"
    create_pool(path, encryption="none").__exit__(None, None, None)
    with open_house(path) as house:
        backup(house, str(source), clone_name="one")
        (source / "deep" / "down" / "c").write_bytes(b"c" * 30_000)
        backup(house, str(source), clone_name="two")
        (source / "deep" / "down" / "new").write_bytes(b"n" * 30_000)
        backup(house, str(source), clone_name="three")
    return path


def read_all(house: House, revision: bytes) -> dict[bytes, object]:
    """Read every byte of a revision."""
    pool = house.pool
    state = read_revision(pool, revision)
    found: dict[bytes, object] = {}
    stack = [(b"", state.root)]
    while stack:
        path, entry = stack.pop()
        if entry.kind == ENTRY_LINK:
            entry = resolve_link(pool, state.links, entry)
        if entry.kind == ENTRY_DIRECTORY:
            stack += [(path + b"/" + each.name, each) for each in iterate_directory(pool, ObjectId(entry.content))]
        else:
            found[path] = (b"".join(data for _, data in iterate_content(pool, entry)), entry_xattrs(pool, entry))
    return found


def read_source(source: Path) -> dict[bytes, object]:
    return {
        b"/" + os.fsencode(path.relative_to(source)): (
            path.read_bytes(),
            [(os.fsencode(name), os.getxattr(path, name)) for name in os.listxattr(path)],
        )
        for path in source.rglob("*")
        if path.is_file()
    }


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def damages(house: House) -> Iterator[tuple[str, Path, int | None]]:
    """Yield each way to hurt one pack: (name, pack, offset of a byte to flip, None to remove it)."""
    for number, pack_id in enumerate(sorted(house.pool.list_packs())):
        path = pack_path(house.pool, pack_id)
        yield f"pack {number} lost", path, None
        with PackReader.open(path, house.pool.realm) as reader:
            for block in range(reader.block_count):
                yield f"block {block} of pack {number}", path, int(reader.offsets[block]) + int(reader.stored[block])
            yield f"trailer of pack {number}", path, reader.size_bytes - 60
            yield f"header of pack {number}", path, 20


def errors(house: House) -> list[str]:
    return [f"{each.where}: {each.text}" for each in verify_pool(house) if each.severity == "error"]


def copied(pool_path: Path, name: str) -> Path:
    """Return a pool with the same content and caches in another place."""
    place = pool_path.parent / name / "pool"
    shutil.copytree(pool_path, place)
    shutil.copytree(pool_path.parent / "cache", place.parent / "cache")
    return place


@pytest.mark.parametrize("verified", [True, False], ids=["verified", "met"])
def test_whatever_is_lost_the_next_backups_heal_it(pool_path: Path, source: Path, verified: bool) -> None:
    with open_house(pool_path) as house:
        ways = [(what, path.relative_to(pool_path), offset) for what, path, offset in damages(house)]
    assert len(ways) > 12
    ways = random.Random(SEED + verified).sample(ways, 6)
    for number, (what, pack, offset) in enumerate(ways):
        place = copied(pool_path, f"way{number}")
        if offset is None:
            (place / pack).unlink()
        else:
            flip(place / pack, offset)
        notes: list[str] = []
        with open_house(place, notes=notes) as house:
            if verified:
                assert errors(house), what
            elif offset is not None:  # somebody who reads meets it: a restore, say
                with pytest.raises(DalError):
                    for clone in ("one", "two", "three"):
                        read_all(house, house.volumes.get("source").clones[clone].revision)
                    raise Damaged("in what nobody reads")
        with open_house(place, notes=notes) as house:
            made = backup(house, str(source), clone_name="healed")
        with open_house(place) as house:
            assert read_all(house, made.clone.revision) == read_source(source), what
            errors(house)
            backup(house, str(source))  # what only the check has found
            assert not [text for text in errors(house) if "@healed" in text], what
            again = backup(house, str(source))
            assert (again.taken.files_read, again.taken.bytes_stored, again.taken.healed) == (0, 0, 0), what
        shutil.rmtree(place.parent)


def test_a_healed_pool_is_whole_after_a_collection_and_has_no_notes(pool_path: Path, source: Path) -> None:
    notes: list[str] = []
    with open_house(pool_path, notes=notes) as house:
        house.volumes.unclone("source", "one")
        house.volumes.unclone("source", "two")
        pack = max(
            (pack_path(house.pool, each) for each in house.pool.list_packs()), key=lambda path: path.stat().st_size
        )
        flip(pack, 400_000)
        assert errors(house)
        made = backup(house, str(source), clone_name="healed")
        assert made.taken.healed > 0 and not made.taken.changed
        assert len(notes) == 1 and "read again and stored again" in notes[0]
        assert errors(house) == []
        gc(house, grace_seconds=0)
        assert not pack.exists(), "what is left of a damaged pack was written again"
        assert list((pool_path / "damaged").iterdir()) == []
        assert list(verify_pool(house)) == []
        assert read_all(house, made.clone.revision) == read_source(source)


def test_what_nothing_has_any_more_is_named_by_file_and_clone(pool_path: Path, source: Path) -> None:
    with open_house(pool_path) as house:
        old = read_revision(house.pool, house.volumes.get("source").clones["one"].revision)
        tree = {entry.name: entry for entry in iterate_directory(house.pool, ObjectId(old.root.content))}
        deep = {e.name: e for e in iterate_directory(house.pool, ObjectId(tree[b"deep"].content))}
        down = {e.name: e for e in iterate_directory(house.pool, ObjectId(deep[b"down"].content))}
        location = house.pool.index.lookup(down[b"c"].content)
        assert location is not None
        with PackReader.open(pack_path(house.pool, location.pack_id), house.pool.realm) as reader:
            flip(reader.path, int(reader.offsets[location.block_index]) + 40)
        list(verify_pool(house))
        backup(house, str(source), clone_name="healed")
        found = {each.where: each.paths for each in verify_pool(house) if each.paths}
        assert found == {"source@one": (b"/deep/down/c",)}
        with pytest.raises(Damaged):
            house.pool.get(ObjectId(down[b"c"].content))
        gc(house, grace_seconds=0)
        assert {each.where: each.paths for each in verify_pool(house) if each.paths} == found, "kept, and still said"
        house.volumes.unclone("source", "one")
        gc(house, grace_seconds=0)
        assert list(verify_pool(house)) == []


def test_what_is_lost_is_shown_as_lost_and_can_be_let_go(pool_path: Path, source: Path) -> None:
    """The kind: one state that cannot be read ends a command that is about all of them."""
    notes: list[str] = []
    for path in pool_path.glob("packs/*/*.pack"):
        if path.stat().st_size > 1_000_000:
            path.unlink()
    with open_house(pool_path, notes=notes) as house:
        backup(house, str(source), clone_name="healed")
        assert sum(each.clone_count for each in versions(house, "source:/deep/down/new")) == 3
        assert [text for text in notes if "lost, passed over" in text]
        assert stats(house).clone_count == 4
        assert any("lost altogether: source@one" in line for line in damage_lines(house.pool, house.volumes.list()))
        with pytest.raises(Damaged, match=r"source@one.* cannot be read whole.*dal unclone source@one"):
            gc(house, grace_seconds=0)
        for clone in ("one", "two", "three"):
            house.volumes.unclone("source", clone)
        gc(house, grace_seconds=0)
        assert damage_lines(house.pool, house.volumes.list()) == [] and list(verify_pool(house)) == []


def test_every_volume_that_rested_on_it_heals_when_its_turn_comes(
    pool_path: Path, source: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(source, other)
    with open_house(pool_path) as house:
        backup(house, str(other))
        for pack_id in house.pool.list_packs():
            path = pack_path(house.pool, pack_id)
            if path.stat().st_size > 1_000_000:
                path.unlink()
    with open_house(pool_path) as house:
        (source / "large").unlink()  # so that the first volume does not heal the other's file
        backup(house, str(source))
        assert "source@one" in str(errors(house)) and "other" in str(errors(house))
    with open_house(pool_path) as house:
        for number in range(12):  # the index is merged, and forgets the lost pack
            house.pool.writer().__enter__().close()
            with house.pool.writer() as writer:
                writer.put(KIND_CHUNK, b"%d" % number)
        made = backup(house, str(other))
        assert made.taken.healed > 0
        assert read_all(house, made.clone.revision) == read_source(other)


def test_a_pack_that_was_lost_with_the_index_is_missed_all_the_same(pool_path: Path, source: Path) -> None:
    for path in pool_path.glob("packs/*/*.pack"):
        if path.stat().st_size > 1_000_000:
            path.unlink()
    shutil.rmtree(pool_path / "index")
    with open_house(pool_path) as house:
        made = backup(house, str(source))
        assert read_all(house, made.clone.revision) == read_source(source)


def test_what_rests_on_the_lost_does_not_stand(pool_path: Path, source: Path) -> None:
    with open_house(pool_path) as house:
        head = house.volumes.get("source").head
        assert Standing(house.pool).is_whole(head)
        for path in pool_path.glob("packs/*/*.pack"):
            if path.stat().st_size > 1_000_000:
                path.unlink()
        with house.pool.writer():
            assert not Standing(house.pool).is_whole(head)
        backup(house, str(source))
        assert Standing(house.pool).is_whole(house.volumes.get("source").head)


def test_an_import_heals_too(pool_path: Path, source: Path) -> None:
    with open_house(pool_path) as house:
        import_directory(house, "native", source)
        for path in pool_path.glob("packs/*/*.pack"):
            if path.stat().st_size > 1_000_000:
                path.unlink()
        taken, _ = import_directory(house, "native", source)
        assert taken.healed > 0
        assert read_all(house, taken.revision) == read_source(source)


def test_a_pack_that_comes_back_is_used_again(pool_path: Path, source: Path) -> None:
    (path,) = [each for each in pool_path.glob("packs/*/*.pack") if each.stat().st_size > 1_000_000]
    path.rename(pool_path.parent / "aside")
    with open_house(pool_path) as house:
        assert len(house.pool.losses.notes.packs) == 1
    (pool_path.parent / "aside").rename(path)
    with open_house(pool_path) as house:
        made: BackupResult = backup(house, str(source))
        assert (made.taken.healed, made.taken.bytes_stored) == (0, 0)
        assert not house.pool.losses.notes and list(verify_pool(house)) == []


def test_a_pool_whose_packs_are_all_away_is_refused(pool_path: Path, source: Path) -> None:
    (pool_path / "packs").rename(pool_path.parent / "elsewhere")
    (pool_path / "packs").mkdir()
    with pytest.raises(Damaged, match="is their disk mounted"):
        open_pool(pool_path)


def test_what_a_collection_deleted_is_not_taken_for_lost(pool_path: Path, source: Path) -> None:
    with open_house(pool_path) as house:
        for clone in ("one", "two"):
            house.volumes.unclone("source", clone)
        (source / "large").unlink()
        backup(house, str(source), clone_name="small")
        house.volumes.unclone("source", "three")
        assert gc(house, grace_seconds=0).deleted > 0
    with open_house(pool_path) as house:
        assert not house.pool.losses.notes
        again = backup(house, str(source))
        assert (again.taken.healed, again.taken.files_read) == (0, 0)


def test_counting_does_not_count_what_is_gone_and_the_index_shrinks(pool_path: Path, source: Path) -> None:
    """The kind: numbers, files and caches that keep what was removed."""
    (source / "small").mkdir()
    for number in range(2_000):
        (source / "small" / f"{number:04}").write_bytes(b"%d" % number * 200)
    with open_house(pool_path) as house:
        backup(house, str(source), clone_name="many")
        before = stats(house)
        (pool_path.parent / "cache" / ("00" * 16 + ".scan")).write_bytes(b"of a volume that is gone")
        for clone in ("one", "two", "three", "many"):
            house.volumes.unclone("source", clone)
        shutil.rmtree(source / "small")
        backup(house, str(source))
        result = gc(house, grace_seconds=0)
        after = stats(house)
        assert before.object_count > 2_000
        assert (
            result.live_objects <= after.object_count < result.live_objects + 5
        )  # a dead chunk may stay in a kept pack
        assert after.index_bytes < before.index_bytes / 10
        assert not house.pool.index.read_collected()
        assert len(list((pool_path.parent / "cache").glob("*.scan"))) == 1
    with open_house(pool_path) as house:
        assert not house.pool.losses.notes


def test_a_volumes_size_is_what_comes_back_when_it_goes(pool_path: Path, source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(source / "a", other / "a")
    (other / "own").write_bytes(random.Random(SEED + 9).randbytes(500_000))
    with open_house(pool_path) as house:
        backup(house, str(other))
        found = volume_stats(house, "other")
        assert found.size.clone_count == 1 and found.object_count > 3
        assert 520_000 < found.raw_bytes < 522_000 and 500_000 < found.alone_bytes < 502_000
        house.volumes.remove("other")
        freed = gc(house, grace_seconds=0).freed_bytes
        assert abs(freed - found.alone_stored_bytes) < found.alone_stored_bytes / 20


def test_what_killed_programs_left_is_swept(pool_path: Path, source: Path) -> None:
    """The kind: files of a process that is gone stay for ever."""
    process = subprocess.Popen(["true"])
    process.wait()
    cache = pool_path.parent / "cache"
    scan = next(cache.glob("*.scan"))
    left = [
        cache / f"{scan.name}.{process.pid}.tmp",
        pool_path / f"pool.toml.{process.pid}.0.partial",
        pool_path / "reserve.partial",
        pool_path / "refs" / "volumes" / f"x.{process.pid}.1.partial",
    ]
    for path in left:
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    at_work = cache / f"{scan.name}.{os.getppid()}.tmp"
    at_work.write_bytes(b"of one that lives")
    with open_house(pool_path) as house:
        backup(house, str(source))
        assert not left[0].exists(), "the next backup of the volume looks for its own"
        gc(house, grace_seconds=24 * 3600)
    assert [path.name for path in left if path.exists()] == [] and at_work.exists()


def test_lost_files_are_listed_for_whole_directories_and_links(pool_path: Path) -> None:
    with open_house(pool_path) as house:
        state = read_revision(house.pool, house.volumes.get("source").head)
        for path in pool_path.glob("packs/*/*.pack"):
            if path.stat().st_size > 1_000_000:
                path.unlink()
        house.pool.refresh()
        house.pool.look_for_unsound()
        paths = set(LostFiles(house.pool).paths(state))
    assert paths == {b"/a", b"/large", b"/deep/b", b"/still/"}


def test_a_dump_of_what_was_healed_takes_the_good_copy_and_one_that_meets_damage_notes_it(
    pool_path: Path, source: Path, tmp_path: Path
) -> None:
    (path,) = [each for each in pool_path.glob("packs/*/*.pack") if each.stat().st_size > 1_000_000]
    flip(path, 400_000)
    with open_house(pool_path) as house, pytest.raises(Damaged):
        dump(house, "source@three", level=0, output=tmp_path / "bad.dump", record=False)
    with open_house(pool_path) as house:
        assert house.pool.losses.notes.packs, "the next backup knows"
        backup(house, str(source), clone_name="healed")
        dump(house, "source@healed", level=0, output=tmp_path / "good.dump", record=False)
    with open_house(pool_path) as house:
        house.volumes.remove("source", force=True)
        flip(path, 400_001)
        state = restore_volume(house, [tmp_path / "good.dump"], "again")
        assert read_all(house, state.head) == read_source(source)


def test_dumps_that_are_loaded_store_again_what_was_lost(pool_path: Path, source: Path, tmp_path: Path) -> None:
    with open_house(pool_path) as house:
        dump(house, "source@three", level=0, output=tmp_path / "full.dump", record=False)
        for path in pool_path.glob("packs/*/*.pack"):
            if path.stat().st_size > 1_000_000:
                path.unlink()
        house.volumes.remove("source", force=True)
        state = restore_volume(house, [tmp_path / "full.dump"], "again")
        assert read_all(house, state.head) == read_source(source)
        assert errors(house) == []


@pytest.mark.parametrize("index", ["missing", "torn", "stale"])
def test_a_pool_that_cannot_be_written_is_read_without_a_good_index(
    pool_path: Path, source: Path, tmp_path: Path, index: str
) -> None:
    """The kind: what can be made again is needed to read."""
    segments = sorted((pool_path / "index").glob("*.idx"))
    if index == "missing":
        shutil.rmtree(pool_path / "index")
    elif index == "torn":
        for each in segments:
            os.truncate(each, each.stat().st_size // 2)
    else:
        segments[0].unlink()
    place = tmp_path / "read-only"
    place.mkdir()
    if subprocess.run(["mount", "--bind", pool_path, place], check=False).returncode:
        pytest.skip("A READ-ONLY POOL IS NOT TESTED: nobody may mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        with open_house(place) as house:
            assert read_all(house, house.volumes.get("source").clones["three"].revision) == read_source(source)
            with pytest.raises(NoAccess):
                backup(house, str(source))
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes into pools of others")
def test_what_root_stores_in_a_users_pool_belongs_to_the_user(pool_path: Path, source: Path) -> None:
    for path in (pool_path, *pool_path.rglob("*")):
        os.chown(path, 1234, 1235)
    before = os.umask(0o077)
    try:
        with open_house(pool_path) as house:
            (source / "more").write_bytes(os.urandom(50_000))
            backup(house, str(source))
            gc(house, grace_seconds=0)
    finally:
        os.umask(before)
    strangers = [path for path in pool_path.rglob("*") if (path.stat().st_uid, path.stat().st_gid) != (1234, 1235)]
    assert strangers == []


@pytest.mark.parametrize(
    "damage",
    [PackDamage(lost=True), PackDamage(unreadable=True), PackDamage(blocks=frozenset((0, 7))), PackDamage()],
)
def test_notes_say_what_they_said(damage: PackDamage) -> None:
    assert decode_damage(encode_damage(damage)) == damage
    assert decode_damage(encode_damage(damage) + b"block x\nword of a later version\n") == damage


def test_a_pool_that_is_committed_to_and_collected_meanwhile_is_not_called_damaged(
    pool_path: Path, source: Path
) -> None:
    """The kind: what is old and what is new are compared, and the difference is called damage."""

    def commit(number: int) -> None:
        (source / "deep" / "down" / "c").write_bytes(b"%d" % number * 30_000)
        with open_house(pool_path) as other:
            backup(other, str(source), clone_name=f"meanwhile{number}")

    def collect(number: int) -> None:
        commit(number)
        with open_house(pool_path) as other:
            for name in list(other.volumes.get("source").clones)[:-1]:
                other.volumes.unclone("source", name)
            assert gc(other, grace_seconds=0).deleted

    for number, meanwhile in enumerate((commit, collect)):
        for moment in range(1, 6):
            done = []

            def step(*_: object, moment: int = moment, number: int = number, done: list[int] = done) -> None:
                done.append(1)
                if len(done) == moment:
                    meanwhile(10 * number + moment)  # noqa: B023

            with open_pool(pool_path, report=step) as opened:
                house = dataclasses.replace(opened, cache_dir=pool_path.parent / "cache")
                refresh = house.pool.refresh

                def refresh_and_step(refresh: Callable[[], None] = refresh, step: Callable[[], None] = step) -> None:
                    refresh()
                    step()

                house.pool.refresh = refresh_and_step  # type: ignore[method-assign]
                assert list(verify_pool(house)) == [], (meanwhile, moment)
            with open_house(pool_path) as house:
                assert list(verify_pool(house)) == []
