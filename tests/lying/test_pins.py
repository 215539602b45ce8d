"""A directory that says that servers are elsewhere: whoever changes it gets no token."""

import sqlite3
from pathlib import Path

import msgspec
import pytest

from dalsegno.formats import messages
from dalsegno.pool.pool import Pool
from dalsegno.replicas.directory import SqlDirectory
from dalsegno.replicas.member import Member
from dalsegno.replicas.pins import believed
from dalsegno.replicas.remote import RemoteSite
from dalsegno.replicas.servers import ServerDesk
from dalsegno.replicas.view import RealmView, Server
from dalsegno.terms.errors import Unavailable
from dalsegno.terms.times import SECOND_NS
from dalsegno.world.clock import now_ns
from kit import REALM
from lying_kit import Liar, Said
from realm_kit import running_realm

PIN, OTHER_PIN = "sha256:" + "1" * 64, "sha256:" + "2" * 64
DAY_NS = 86400 * SECOND_NS


def at(name: str, url: str, fingerprint: str = "") -> Server:
    return Server(name=name, url=url, fingerprint=fingerprint)


def view_of(*servers: Server, as_of_ns: int = 5) -> RealmView:
    return RealmView(name="site", realm=REALM.realm_id, servers=list(servers), volumes=[], as_of_ns=as_of_ns)


PINNED = view_of(at("s1", "https://one:1", PIN), at("s2", "https://two:1", OTHER_PIN))
VOUCHED = view_of(at("s1", "https://one:1"))
PLAIN = view_of(at("s1", "http://one:1"))


@pytest.mark.parametrize(
    ("known", "shown", "taken", "told"),
    [
        (PINNED, PINNED, PINNED, 0),
        (PINNED, view_of(at("s1", "https://new:2", PIN)), view_of(at("s1", "https://new:2", PIN)), 0),
        (PINNED, view_of(at("s1", "https://one:1", OTHER_PIN)), view_of(at("s1", "https://one:1", OTHER_PIN)), 1),
        (PINNED, view_of(at("s1", "http://evil:1")), view_of(at("s1", "https://one:1", PIN)), 1),
        (PINNED, view_of(at("s1", "http://evil:1", PIN)), view_of(at("s1", "https://one:1", PIN)), 1),
        (PINNED, view_of(at("s1", "https://evil:1")), view_of(at("s1", "https://one:1", PIN)), 1),
        (PINNED, view_of(at("s3", "https://evil:1")), view_of(), 1),
        (PINNED, view_of(at("s3", "http://evil:1")), view_of(), 1),
        (PINNED, view_of(at("s3", "https://three:1", OTHER_PIN)), view_of(at("s3", "https://three:1", OTHER_PIN)), 0),
        (PINNED, view_of(), PINNED, 1),
        (VOUCHED, view_of(at("s1", "http://evil:1")), VOUCHED, 1),
        (VOUCHED, view_of(at("s2", "http://evil:1")), view_of(), 1),
        (VOUCHED, view_of(at("s1", "https://one:1", PIN)), view_of(at("s1", "https://one:1", PIN)), 0),
        (VOUCHED, view_of(at("s2", "https://two:1")), view_of(at("s2", "https://two:1")), 0),
        (PLAIN, view_of(at("s2", "http://two:1")), view_of(at("s2", "http://two:1")), 0),
        (PLAIN, view_of(at("s1", "https://one:1", PIN)), view_of(at("s1", "https://one:1", PIN)), 0),
    ],
)
def test_a_view_makes_nothing_less_sure(known: RealmView, shown: RealmView, taken: RealmView, told: int) -> None:
    """A pin, or TLS, that is given up because a database says so."""
    found, lines = believed(known, shown)
    assert found == taken and len(lines) == told, lines


def test_a_view_of_the_future_is_not_taken_and_one_that_was_gives_way() -> None:
    """A clock that says that nothing is ever newer."""
    now = 100 * DAY_NS

    class Desk:
        def __init__(self, view: RealmView) -> None:
            self.given = view

        def view(self) -> RealmView:
            return self.given

        def publish(self, placed: object) -> None: ...
        def forget(self, volume: str) -> None: ...
        def remove_server(self, name: str) -> None: ...

    for known, shown, taken in (
        (PINNED, msgspec.structs.replace(PINNED, servers=PINNED.servers[:1], as_of_ns=now + 2 * DAY_NS), PINNED),
        (
            msgspec.structs.replace(PINNED, as_of_ns=now + 2 * DAY_NS),
            msgspec.structs.replace(PINNED, servers=PINNED.servers[:1], as_of_ns=now),
            msgspec.structs.replace(PINNED, servers=PINNED.servers[:1], as_of_ns=now),
        ),
    ):
        told: list[str] = []
        desk = ServerDesk(
            known,
            connect=lambda server, shown=shown: Desk(shown),
            order=sorted,
            failed=lambda name: None,
            changed=lambda view: None,
            tell=told.append,
            clock=lambda: now,
        )
        assert desk.view() == taken
        assert bool(told) == (taken == known)


def test_the_token_of_a_server_is_not_sent_where_the_database_says(tmp_path: Path) -> None:
    """A peer's token that goes to whoever writes an address into the directory."""
    url = f"sqlite:///{tmp_path}/directory.db"
    SqlDirectory.create(url, name="site", realm_id=REALM.realm_id).close()
    with Pool.create(tmp_path / "s1", encryption="none", realm=REALM) as pool, Liar() as liar:
        member = Member(pool, url=url, name="s1")
        told: list[str] = []
        member.tell = told.append
        member.register("https://one:1", PIN)
        with SqlDirectory.open(url, realm_id=REALM.realm_id) as directory:
            directory.put_server(Server(name="s2", url="https://two:1", fingerprint=OTHER_PIN, seen_ns=now_ns()))
            member.view()
            directory.put_server(Server(name="s2", url=liar.url, seen_ns=now_ns()))
            directory.put_server(Server(name="s9", url=liar.url, seen_ns=now_ns()))
            directory.put_server(Server(name="s1", url=liar.url, seen_ns=now_ns()))
            view = member.view()
            member.view()
        assert [(server.name, server.url, server.fingerprint) for server in view.servers] == [
            ("s1", "https://one:1", PIN),
            ("s2", "https://two:1", OTHER_PIN),
        ]
        assert [text[:2] for text in told] == ["s1", "s2", "s9"]
        member.close()


def test_a_server_that_lies_gets_no_clients_token_for_another_address(tmp_path: Path) -> None:
    """A view of one server that makes another one, or itself, less sure."""
    token = "dal_" + "0" * 16 + "_" + "x" * 43
    with Liar() as liar, Liar() as elsewhere:
        known = view_of(at("s1", liar.url), at("s2", "https://127.0.0.1:1", PIN), as_of_ns=1)
        told: list[str] = []
        shown = view_of(at("s1", elsewhere.url), at("s2", elsewhere.url), at("s3", "https://h:1"), as_of_ns=2)
        liar.lie = lambda asked: Said(body=messages.encode(shown))
        desk = ServerDesk(
            known,
            connect=lambda server: RemoteSite(server.url, token, name=server.name, fingerprint=server.fingerprint),
            order=sorted,
            failed=lambda name: None,
            changed=lambda view: None,
            tell=told.append,
        )
        view = desk.view()
        assert [(each.name, each.url) for each in view.servers] == [
            ("s1", elsewhere.url),  # joined without TLS: whoever stands between says what he likes
            ("s2", "https://127.0.0.1:1"),
        ]
        assert len(told) == 2


def test_a_changed_directory_gets_no_clients_token(tmp_path: Path) -> None:
    """The same for a client, whose next command would send his token in the open."""
    with running_realm(tmp_path, "s1", tls=True) as realm, Liar() as liar:
        me = realm.client("me")
        me.quick("volume", "create", "//s1/home")
        with sqlite3.connect(tmp_path / "directory.db") as database:
            database.execute("UPDATE realm_servers SET url = ?, fingerprint = ''", (liar.url,))
            database.execute("INSERT INTO realm_servers VALUES ('s2', ?, '', 5)", (liar.url,))
        database.close()
        for words in (("volume", "show", "//s1/home"), ("clones", "//s1/home"), ("realm", "status")):
            me.quick(*words)
        assert me.quick("ls", "//s2/home", code=6).error
        assert '"not-believed"' in realm.servers["s1"].log_path.read_text()
        assert liar.asked == []


def test_a_server_whose_directory_is_away_is_not_away_itself() -> None:
    """What to do next is decided by the words of a message."""
    problem = b'{"error":{"code":"unavailable","message":"its database: no answer in time"}}'
    failed: list[str] = []
    with Liar() as liar:
        liar.lie = lambda asked: Said(status=503, body=problem)
        desk = ServerDesk(
            view_of(at("s1", liar.url), at("s2-directory", "http://127.0.0.1:1"), as_of_ns=1),
            connect=lambda server: RemoteSite(server.url, "token", name=server.name),
            order=sorted,
            failed=failed.append,
            changed=lambda view: None,
        )
        with pytest.raises(Unavailable, match="cannot be changed now"):
            desk.forget("home")
    assert failed == ["s2-directory"]
