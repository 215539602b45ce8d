"""The classic job over a backend without files: nothing above the backend touches a pool but through it."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dalsegno.actions.backup import backup
from dalsegno.actions.browse import diff, ls, read_file, versions
from dalsegno.actions.clone import unclone
from dalsegno.actions.dump import dump
from dalsegno.actions.keep import gc, stats, verify_pool, volume_stats
from dalsegno.actions.merge import merge
from dalsegno.actions.restore import restore, restore_volume
from dalsegno.actions.session import House
from dalsegno.assembly.local import create_pool, open_pool
from dalsegno.backends.memory import MemoryBackend
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import AlreadyThere, NoAccess, Refused
from dalsegno.world.clock import real_now_ns


@pytest.fixture
def place() -> MemoryBackend:
    return MemoryBackend("here")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAL_NOW", str(real_now_ns() + 3600 * 10**9))
    (tmp_path / "source" / "deep").mkdir(parents=True)
    (tmp_path / "source" / "deep" / "a").write_bytes(os.urandom(300_000))
    (tmp_path / "source" / "b").write_bytes(b"one")
    return tmp_path / "source"


@pytest.fixture
def house(place: MemoryBackend, source: Path, tmp_path: Path) -> Iterator[House]:
    create_pool(place, encryption="keyfile", key_path=tmp_path / "key").__exit__(None, None, None)
    with open_pool(place, key_path=tmp_path / "key") as opened:
        yield dataclasses.replace(opened, cache_dir=tmp_path / "cache")


def errors(house: House) -> list[str]:
    return [each.text for each in verify_pool(house) if each.severity == "error"]


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_backup_dump_merge_restore_and_collect(house: House, source: Path, tmp_path: Path) -> None:
    backup(house, str(source), clone_name="one")
    dump(house, "source@one", level=0, output=tmp_path / "full.dump")
    (source / "b").write_bytes(b"two, and longer")
    backup(house, str(source), clone_name="two")
    dump(house, "source@two", level=1, output=tmp_path / "incr.dump")
    assert read_file(house, "source@one:/b") == b"one"
    assert {row.path for row in ls(house, "source:/")} == {b"deep", b"b"}
    assert [change.path for change in diff(house, "source@one", "source@two") if change.path] == [b"b"]
    assert len(versions(house, "source:/b")) == 2
    merge(house, [tmp_path / "full.dump", tmp_path / "incr.dump"], tmp_path / "merged.dump")
    restore_volume(house, [tmp_path / "merged.dump"], "again")
    for address in ("source@two", "again", str(tmp_path / "merged.dump")):
        target = tmp_path / address.replace("/", "-")
        restore(house, address, target)
        assert files_in(target) == files_in(source)
    assert errors(house) == [] and stats(house).pack_count == len(house.pool.list_packs()) > 0
    assert stats(house).path == "memory:here" and volume_stats(house, "source").object_count > 4
    unclone(house, "source@one")
    house.volumes.remove("again")
    assert gc(house, grace_seconds=0).deleted + gc(house, grace_seconds=0).kept > 0
    assert errors(house) == [] and read_file(house, "source:/b") == b"two, and longer"


def test_what_is_lost_is_stored_again_by_the_next_backup(house: House, source: Path) -> None:
    backup(house, str(source), clone_name="one")
    largest = max(house.pool.pack_entries().values(), key=lambda entry: entry.size_bytes)
    house.pool.backend.delete(largest.name)
    (source / "c").write_bytes(b"new")
    backup(house, str(source), clone_name="two")
    assert read_file(house, "source@two:/deep/a") == (source / "deep" / "a").read_bytes()


def test_another_place_of_the_same_kind_is_another_pool(house: House, place: MemoryBackend, tmp_path: Path) -> None:
    with pytest.raises(AlreadyThere, match="memory:here: there is a pool already"):
        create_pool(place, encryption="none")
    with pytest.raises(NoAccess):
        open_pool(place, key_path=tmp_path / "no key")
    other = MemoryBackend("here")
    Pool.create(other, encryption="none").close()
    with pytest.raises(Refused, match="memory:here: another pool"):
        open_pool(other)
