"""What a server is in its realm: it goes on from memory when the directory is away, and changes nothing then."""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from dalsegno.pool.pool import Pool
from dalsegno.pool.swaps import SWAP_TRIES_MAX
from dalsegno.replicas.directory import SqlDirectory
from dalsegno.replicas.member import (
    AWAY_NS,
    TOKEN_NS,
    Member,
    Membership,
    read_membership,
    remember_directory,
    write_membership,
)
from dalsegno.replicas.server_key import open_server_values
from dalsegno.replicas.tokens import READ, PoolTokens, check_token, new_token
from dalsegno.replicas.view import Placed
from dalsegno.terms.errors import BadInput, Conflict, NotFound, Refused, Unavailable
from dalsegno.volumes.state import ReplicaSet
from dalsegno.world.clock import now_ns
from kit import REALM
from postgres_kit import Postgres

HOME = Placed(name="home", id=bytes(16), replicas=ReplicaSet(version=1, writers=["s1"]))


class Site:
    """A directory, and a server's pool."""

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        SqlDirectory.create(url, name="site", realm_id=REALM.realm_id).close()
        self.pool = Pool.create(path / "s1", encryption="none", realm=REALM)
        self.ticks = 1

    def member(self) -> Member:
        """Start the server."""
        return Member(self.pool, url=self.url, name="s1", ticks=lambda: self.ticks)


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(database_url, tmp_path)
    yield made
    made.pool.close()


@pytest.fixture
def away(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[bool], None]]:
    """Take the database away, or bring it back."""
    if database_url.startswith("sqlite"):
        path = Path(database_url.removeprefix("sqlite:///"))

        def move(gone: bool) -> None:
            for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                there, put = (each, Path(f"{each}.away")) if gone else (Path(f"{each}.away"), each)
                if there.exists():
                    there.rename(put)

        yield move
        return
    server: Postgres = request.getfixturevalue("postgres")
    stopped = False

    def stop(gone: bool) -> None:
        nonlocal stopped
        (server.stop if gone else server.start)()
        stopped = gone

    yield stop
    if stopped:
        server.start()


def test_a_server_registers_and_goes_on_from_memory(site: Site, away: Callable[[bool], None]) -> None:
    member = site.member()
    member.register("https://a:8420", "sha256:" + "0" * 64)
    client, text = new_token(rights=[READ], volumes=["*"], now_ns=now_ns())
    member.tokens.add(client)
    member.publish(HOME)
    view = member.view()
    assert [server.name for server in view.servers] == ["s1"] and view.volumes == [HOME]
    member.close()

    away(True)
    member = site.member()
    known = member.view()
    assert known.volumes == [HOME] and known.servers[0].url == "https://a:8420"
    assert member.place_of("s1") == "https://a:8420" and member.place_of("s9") == ""
    assert check_token(text, [member.tokens, PoolTokens(site.pool)], now_ns=now_ns()) is not None
    for change in (
        lambda: member.publish(Placed(name="x", id=bytes(16), replicas=HOME.replicas)),
        lambda: member.forget("home"),
        lambda: member.remove_server("s1"),
        lambda: member.register("https://b:1", ""),
        lambda: member.tokens.add(client),
        lambda: member.tokens.revoke(client.id),
    ):
        with pytest.raises(Unavailable):
            change()
    member.tokens.used(client.id, now_ns=now_ns())  # may be lost

    away(False)
    with pytest.raises(Unavailable):  # it is left alone for a while
        member.forget("home")
    site.ticks += AWAY_NS
    member.register("https://b:8420", "")
    assert member.view().servers[0].url == "https://b:8420"
    member.close()


def test_nobody_waits_for_a_directory_that_was_away_a_moment_ago(
    site: Site, away: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    member = site.member()
    member.register("https://a:8420", "")
    member.close()
    away(True)
    member = site.member()
    asked = 0
    original = SqlDirectory.open

    def opened(*words: object, **named: object) -> SqlDirectory:
        nonlocal asked
        asked += 1
        return original(*words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(SqlDirectory, "open", opened)
    for _ in range(50):
        member.view()
        member.tokens.find("0" * 16)
    assert asked == 1
    away(False)


def test_a_revoked_token_opens_nothing_after_a_moment(site: Site) -> None:
    member, other = site.member(), site.member()
    token, _ = new_token(rights=[READ], volumes=["*"], now_ns=now_ns())
    other.tokens.add(token)
    found = member.tokens.find(token.id)
    assert found is not None and msgspec.structs.replace(found, signature=b"") == token
    other.tokens.revoke(token.id)
    assert other.tokens.find(token.id) is None  # at once where it was revoked
    limit = now_ns() + 60 * TOKEN_NS
    while member.tokens.find(token.id) is not None:
        assert now_ns() < limit
    member.close()
    other.close()


def test_a_servers_own_token_is_one(site: Site, tmp_path: Path) -> None:
    member = site.member()
    assert member.peer_token() == ""
    member.register("https://a:8420", "")
    text = member.peer_token()
    member.register("https://a:8420", "")
    assert member.peer_token() == text
    found = check_token(text, [member.tokens], now_ns=now_ns())
    assert found is not None and found[0].peer and found[0].rights == [READ], "what it may do follows from its roles"
    member.close()
    # The pool is lost and made anew: the earlier token dies with it.
    site.pool.close()
    site.pool = Pool.create(tmp_path / "again", encryption="none", realm=REALM)
    member = site.member()
    member.register("https://a:8420", "")
    assert member.peer_token() not in ("", text)
    assert check_token(text, [member.tokens], now_ns=now_ns()) is None
    assert [token.note for token in member.tokens.all()] == ["server s1"]
    member.remove_server("s1")
    assert member.tokens.all() == []
    member.close()


def test_no_secret_is_in_the_database(site: Site) -> None:
    if not site.url.startswith("sqlite"):
        pytest.skip("the file is looked into; the tables are the same on both")
    member = site.member()
    member.register("https://a:8420", "")
    _, text = new_token(rights=[READ], volumes=["*"], now_ns=now_ns())
    secret = member.peer_token().rpartition("_")[2]
    member.close()
    data = Path(site.url.removeprefix("sqlite:///")).read_bytes()
    assert secret.encode() not in data and REALM.secret not in data and text.encode() not in data


def test_a_volume_is_placed_only_on_servers_of_the_realm(site: Site) -> None:
    member = site.member()
    member.register("https://a:8420", "")
    with pytest.raises(NotFound, match="'s7'"):
        member.publish(Placed(name="x", id=bytes(16), replicas=ReplicaSet(version=1, writers=["s1", "s7"])))
    member.publish(HOME)
    with pytest.raises(Conflict):
        member.publish(
            Placed(name="home", id=bytes(16), replicas=ReplicaSet(version=1, writers=["s1"], readers=["s1"]))
        )
    with pytest.raises(Refused):
        member.remove_server("s1")
    member.close()


def test_which_realm_a_pool_is_in_is_remembered(site: Site, tmp_path: Path) -> None:
    assert Member.open(site.pool) is None
    remember_directory(site.pool, url=site.url)
    assert Member.open(site.pool) is None  # its server has no name yet
    member = Member.open(site.pool, url=site.url, name="s1")
    assert member is not None
    member.close()
    again = Member.open(site.pool)
    assert again is not None and (again.name, again.url) == ("s1", site.url)
    again.close()
    membership = read_membership(site.pool)
    assert membership is not None and membership.name == "s1"
    with pytest.raises(BadInput):
        Member.open(site.pool, url=site.url, name="a/b")
    other = Pool.create(tmp_path / "other", encryption="none")
    with pytest.raises(Refused, match="init --join"):
        Member.open(other, url=site.url, name="s2")
    other.close()


def test_a_membership_that_others_change_all_the_time_is_not_lost_in_silence(site: Site) -> None:
    """A durable write that gives up and says nothing."""
    remember_directory(site.pool, url=site.url)
    values = open_server_values(site.pool)
    tries = []

    def another_is_faster(known: Membership | None) -> Membership:
        tries.append(known)
        write_membership(values, lambda _: Membership(url=f"https://other/{len(tries)}", name="s1"))
        return Membership(url="https://elsewhere", name="s1")

    with pytest.raises(Conflict, match="changes too fast"):
        write_membership(values, another_is_faster)
    assert len(tries) == SWAP_TRIES_MAX
    membership = read_membership(site.pool)
    assert membership is not None and membership.url == f"https://other/{SWAP_TRIES_MAX}"
