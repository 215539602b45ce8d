"""The directory of a realm, on SQLite and on a real PostgreSQL."""

import threading

import msgspec
import pytest

from dalsegno.replicas.directory import SqlDirectory
from dalsegno.replicas.tokens import READ, Token, new_token
from dalsegno.replicas.view import Placed, Server, check_realm_name
from dalsegno.terms.errors import (
    AlreadyThere,
    BadInput,
    Conflict,
    DalError,
    NoAccess,
    NotFound,
    Refused,
    TooNew,
    Unavailable,
)
from dalsegno.volumes.state import MAJORITY, ReplicaSet

REALM_ID = bytes(range(16))
HOME = Placed(name="home", id=bytes(16), replicas=ReplicaSet(version=1, writers=["s1", "s2"], rule=MAJORITY))


def with_version(version: int, *writers: str) -> Placed:
    return msgspec.structs.replace(HOME, replicas=ReplicaSet(version=version, writers=list(writers)))


def make(url: str) -> SqlDirectory:
    return SqlDirectory.create(url, name="site", realm_id=REALM_ID)


def test_what_was_put_is_found_by_others(database_url: str) -> None:
    with make(database_url) as directory:
        directory.put_server(Server(name="s2", url="https://b:8420", fingerprint="sha256:" + "0" * 64, seen_ns=5))
        directory.put_server(Server(name="s1", url="https://a:8420"))
        directory.put_server(Server(name="s1", url="https://a:9000", seen_ns=9))
        directory.publish(HOME)
    with SqlDirectory.open(database_url, realm_id=REALM_ID) as directory:
        view = directory.view(now_ns=7)
        assert (view.name, view.realm, view.as_of_ns, view.directory) == ("site", REALM_ID, 7, True)
        assert [(each.name, each.url, each.seen_ns) for each in view.servers] == [
            ("s1", "https://a:9000", 9),
            ("s2", "https://b:8420", 5),
        ]
        assert view.volumes == [HOME] and view.placed("home") == HOME and view.placed("away") is None


def test_a_replica_set_is_replaced_only_by_a_later_one(database_url: str) -> None:
    with make(database_url) as directory:
        directory.publish(HOME)
        directory.publish(HOME)  # a lost answer: the same again
        for wrong in (with_version(1, "s3"), with_version(0, "s1")):
            with pytest.raises(Conflict, match="version 1"):
                directory.publish(wrong)
        directory.publish(with_version(3, "s3"))
        with pytest.raises(Conflict, match="version 3"):
            directory.publish(with_version(2, "s1"))
        assert directory.view(now_ns=1).volumes == [with_version(3, "s3")]
        with pytest.raises(AlreadyThere, match="another name"):
            directory.publish(msgspec.structs.replace(with_version(9, "s1"), id=b"another volume.."))
        directory.forget("home")
        directory.forget("home")
        assert directory.view(now_ns=1).volumes == []


def test_of_many_who_change_one_set_at_once_one_wins(database_url: str) -> None:
    with make(database_url) as directory:
        directory.publish(HOME)
        heard: list[str] = []
        barrier = threading.Barrier(6)

        def change(number: int) -> None:
            barrier.wait()
            try:
                directory.publish(with_version(2, f"s{number}"))
                heard.append(f"s{number}")
            except Conflict:
                heard.append("late")

        threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winner = directory.view(now_ns=1).volumes[0].replicas.writers
        assert sorted(heard) == sorted(["late"] * 5 + winner)


def test_of_many_who_place_one_volume_at_once_one_wins(database_url: str) -> None:
    with make(database_url) as directory:
        done: list[int] = []
        barrier = threading.Barrier(6)

        def place(number: int) -> None:
            barrier.wait()
            try:
                directory.publish(msgspec.structs.replace(HOME, id=bytes([number]) * 16))
                done.append(number)
            except (AlreadyThere, Conflict):
                pass

        threads = [threading.Thread(target=place, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [bytes([number]) * 16 for number in done] == [each.id for each in directory.view(now_ns=1).volumes]


def test_a_server_with_volumes_is_not_forgotten(database_url: str) -> None:
    with make(database_url) as directory:
        for name in ("s1", "s2", "s3"):
            directory.put_server(Server(name=name, url=f"http://{name}:1"))
        directory.publish(HOME)
        with pytest.raises(Refused, match="holds volume 'home'"):
            directory.remove_server("s2")
        directory.remove_server("s3")
        with pytest.raises(NotFound):
            directory.remove_server("s3")
        assert [server.name for server in directory.view(now_ns=1).servers] == ["s1", "s2"]


def test_tokens(database_url: str) -> None:
    with make(database_url) as directory:
        early, _ = new_token(rights=[READ], volumes=["home*"], note="für Kai", now_ns=1)
        late, _ = new_token(rights=[READ], volumes=["*"], now_ns=2, expires_ns=99)
        directory.add(late)
        directory.add(early)
        with pytest.raises(AlreadyThere):
            directory.add(early)
        assert directory.all() == [early, late]
        assert directory.find(early.id) == early and directory.find("0" * 16) is None
        directory.used(early.id, now_ns=10**18)
        directory.used(early.id, now_ns=10**18 + 1)  # within the same minute
        assert directory.find(early.id) == msgspec.structs.replace(early, used_ns=10**18)
        assert isinstance(directory.revoke(early.id), Token)
        with pytest.raises(NotFound):
            directory.revoke(early.id)
        assert directory.find(early.id) is None


def test_another_realm_in_the_database_is_refused(database_url: str) -> None:
    make(database_url).close()
    make(database_url).close()  # again: no error
    with pytest.raises(AlreadyThere, match="holds realm 'site'"):
        SqlDirectory.create(database_url, name="other", realm_id=REALM_ID)
    with pytest.raises(AlreadyThere):
        SqlDirectory.create(database_url, name="site", realm_id=bytes(16))
    with pytest.raises(Refused, match="init --join"):
        SqlDirectory.open(database_url, realm_id=bytes(16))


def test_a_newer_directory_is_not_touched(database_url: str) -> None:
    with make(database_url) as directory, directory._database.write() as connection:
        connection.exec_driver_sql("update realm set version = 2")
    with pytest.raises(TooNew):
        SqlDirectory.open(database_url, realm_id=REALM_ID)


def test_a_database_without_a_realm(database_url: str) -> None:
    with pytest.raises(NotFound):
        SqlDirectory.open(database_url, realm_id=REALM_ID)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("", BadInput),
        ("mysql://x/y", BadInput),
        ("sqlite://", BadInput),
        ("sqlite:///relative.db", BadInput),
        ("postgresql://dal:secret@/dal?host=/nowhere", Unavailable),
        ("sqlite:////nowhere/at/all.db", NotFound),
    ],
)
def test_urls_that_lead_nowhere(url: str, error: type[DalError]) -> None:
    with pytest.raises(error) as caught:
        SqlDirectory.open(url, realm_id=REALM_ID)
    assert "secret" not in str(caught.value)


def test_a_torn_file_is_no_directory(tmp_path) -> None:
    path = tmp_path / "directory.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    with pytest.raises(DalError) as caught:
        SqlDirectory.open(f"sqlite:///{path}", realm_id=REALM_ID)
    assert not isinstance(caught.value, NoAccess)


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "ä", "a b", "x" * 65, "a\nb"])
def test_names_that_no_address_could_hold(name: str) -> None:
    with pytest.raises(BadInput):
        check_realm_name(name)
