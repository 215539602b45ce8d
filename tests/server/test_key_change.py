"""A realm's key is changed while its server runs: clients that have the older one get the new one, once, and go on."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_kit import Served

from cli_kit import User
from dalsegno.chunks.realm import Realm, WriteKey
from dalsegno.formats import pack
from dalsegno.formats.join import format_join
from dalsegno.pool.keys import read_key, read_key_notes, write_key_file
from dalsegno.replicas.newer_key import NewerKey
from dalsegno.terms.events import Note
from kit import opens
from server_kit import start_server


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    user = User(tmp_path / "server")
    user.quick("init")
    with start_server(user) as server:
        yield Served(server, server.token("administer"))


def client(served: Served, home: Path, *rights: str) -> User:
    user = User(home, {"DAL_POOL": ""})
    (user.home / home.name).mkdir()
    (user.home / home.name / "first").write_bytes(b"before\n" * 3000)
    user.quick("realm", "join", format_join(served.server.join(served.server.token(*rights))))
    user.quick("backup", home.name)
    return user


def key_of(user: User) -> Realm:
    (file,) = (user.home / ".config" / "dalsegno" / "realms").glob("*.key")
    return read_key(file, read_key_notes(file)[0])


def packs_below(place: Path) -> set[Path]:
    return {file for file in place.rglob("*") if file.is_file() and file.read_bytes()[:8] == pack.MAGIC}


def key_calls(served: Served) -> int:
    return sum(line.get("path") == "/v1/key" or line.get("call") == "key" for line in served.server.log())


@pytest.mark.parametrize("rights", [("read", "write"), ("append",)], ids=["reader", "only-writes"])
def test_a_client_gets_the_new_key_once_and_sends_nothing_under_the_old_one(
    served: Served, tmp_path: Path, rights: tuple[str, ...]
) -> None:
    """Kind of fault: the key is changed where the pool is, and those who fill it go on with the old one."""
    laptop = client(served, tmp_path / "laptop", *rights)
    pool = served.user.home / "pool"
    (server_key,) = (served.user.home / ".config" / "dalsegno" / "keys").glob("*.key")
    stolen = read_key(server_key, None)
    before = packs_below(pool) | packs_below(laptop.home)
    assert all(opens(stolen, file) for file in packs_below(pool))
    served.user.quick("key", "rotate")
    (laptop.home / "laptop" / "second").write_bytes(b"after\n" * 3000)
    calls = key_calls(served)
    laptop.quick("backup", "laptop")
    assert key_calls(served) == calls + 1 and key_of(laptop).generation == 2
    new = (packs_below(pool) | packs_below(laptop.home)) - before
    assert new & packs_below(pool) and not any(opens(stolen, file) for file in new)
    own = [read_key(server_key, None), key_of(laptop)]
    assert all(any(opens(key, file) for key in own) for file in new)
    (laptop.home / "laptop" / "third").write_bytes(b"later\n" * 3000)
    laptop.quick("backup", "laptop")
    assert key_calls(served) == calls + 1
    served.user.quick("verify", "--pool")


def test_a_reader_with_the_older_key_reads_what_others_wrote_under_the_new_one(served: Served, tmp_path: Path) -> None:
    laptop, desk = client(served, tmp_path / "laptop", "administer"), client(served, tmp_path / "desk", "read", "write")
    served.user.quick("key", "rotate")
    served.user.quick("key", "rotate")
    (laptop.home / "laptop" / "second").write_bytes(b"after\n" * 3000)
    laptop.quick("backup", "laptop")
    assert key_of(desk).generation == 1
    desk.quick("restore", "laptop", "--to", "out")
    assert (desk.home / "out" / "second").read_bytes() == b"after\n" * 3000
    assert key_of(desk).generation == 3
    (cache,) = (desk.home / ".cache").rglob("pool.toml")
    assert "generation = 3" in cache.read_text() and "refs_since = 3" in cache.read_text()
    shutil.rmtree(cache.parent)
    desk.quick("ls", "laptop")
    late = client(served, tmp_path / "late", "read", "write")
    assert key_of(late).secrets == key_of(desk).secrets


def test_a_key_that_does_not_follow_from_the_clients_is_not_taken(tmp_path: Path) -> None:
    """Kind of fault: a server that lies has its clients seal to a key of its own."""
    realm, said = Realm(b"1" * 32), []
    for own, forged in (
        (realm, Realm(b"3" * 32, older=[b"2" * 32])),
        (realm, WriteKey.of(Realm(b"3" * 32, older=[b"1" * 32]))),
        (WriteKey.of(realm), WriteKey.of(Realm(b"3" * 32, older=[b"2" * 32]))),
    ):
        file = tmp_path / f"{len(said)}.key"
        write_key_file(file, own)
        before = file.read_bytes()
        newer = NewerKey(file, own, report=said.append)
        newer(2, lambda forged=forged: forged)
        newer(2, lambda: pytest.fail("asked again"))
        assert file.read_bytes() == before and own.generation == 1
    assert len(said) == 3 and all(isinstance(note, Note) and "cannot be taken" in note.text for note in said)
    write_key_file(tmp_path / "key", realm)
    NewerKey(tmp_path / "key", realm)(2, lambda: Realm(b"3" * 32, older=[b"1" * 32]))
    assert realm.generation == read_key(tmp_path / "key", None).generation == 2


def test_another_pool_of_the_realm_takes_the_key_that_was_changed_first(served: Served, tmp_path: Path) -> None:
    first = served.user
    first.quick("key", "export", "1.key")
    second = User(tmp_path / "second")
    second.quick("init", "--join", str(first.home / "1.key"))
    (second.home / "doc").mkdir()
    (second.home / "doc" / "a").write_text("a")
    second.quick("backup", "doc")
    first.quick("key", "rotate")
    first.quick("key", "export", "2.key")
    stranger = User(tmp_path / "stranger")
    stranger.quick("init")
    stranger.quick("key", "export", "other.key")
    refused = second.quick("key", "rotate", "--to", str(stranger.home / "other.key"), code=8)
    assert "does not hold the key of this pool's realm" in refused.error
    second.quick("--key", str(first.home / "2.key"), "ls", "doc")
    done = json.loads(second.quick("--json", "key", "rotate", "--to", str(first.home / "2.key")).out)
    assert (done["generation"], done["new"]) == (2, False)
    again = json.loads(second.quick("--json", "key", "rotate", "--to", str(first.home / "2.key")).out)
    assert (again["generation"], again["new"]) == (2, False)
    second.quick("backup", "doc")
    own = next((second.home / ".config" / "dalsegno" / "keys").glob("*.key"))
    assert read_key(own, None).secrets == read_key(first.home / "2.key", None).secrets
