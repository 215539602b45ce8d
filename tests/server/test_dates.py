"""Times of the future are refused, whoever sends them; a volume that one ended is reopened by an administrator."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from forge_kit import Forge
from served_kit import Served, make_user

from cli_kit import User
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import NoAccess, Refused
from dalsegno.terms.times import SECOND_NS
from dalsegno.trees.read import read_revision
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.store import Volumes
from dalsegno.world.clock import now_ns
from realm_kit import Realm
from server_kit import start_server

DAY_NS = 86_400 * SECOND_NS
ENDS = [2**62 - 1, 2 * DAY_NS]
"""At the end of what counts as a time, and as far from now."""


def future(ahead_ns: int) -> int:
    return ahead_ns if ahead_ns >= 2**61 else now_ns() + ahead_ns


@pytest.mark.parametrize("ahead_ns", ENDS)
def test_an_append_token_does_not_end_a_volume(served: Served, ahead_ns: int) -> None:
    """Kind of fault: one message after which nobody else's is taken."""
    site = served.server.site(served.server.token("append"))
    before = site.state("home")
    forge = Forge(served.server.site(served.token))  # the key is had somewhere
    made = forge.revision(before.id, forge.directory(), parents=[before.head], created_ns=future(ahead_ns))
    upload, data = forge.pack()
    with pytest.raises(Refused, match="cannot be right"):
        site.commit("home", made, upload, [data])
    with pytest.raises(Refused, match="cannot be right"):
        site.advance("home", made)
    assert site.state("home").head == before.head


@pytest.mark.parametrize("ahead_ns", ENDS)
def test_a_clone_a_dump_and_a_volume_of_the_future_are_refused(served: Served, ahead_ns: int) -> None:
    """Kind of fault: what is dated ahead is kept by every rule, and stands before what is newest."""
    site = served.server.site(served.token)
    state, at_ns = site.state("home"), future(ahead_ns)
    with pytest.raises(Refused, match="cannot be right"):
        site.clone("home", "later", Clone(revision=state.head, created_ns=at_ns))
    record = DumpRecord(
        dump_id=b"d" * 16, level=0, revision=state.head, base_dump=b"", taken_at_ns=at_ns, path="", size_bytes=1
    )
    with pytest.raises(Refused, match="cannot be right"):
        site.record("home", record)
    with pytest.raises(Refused, match="cannot be right"):
        site.create(msgspec.structs.replace(state, id=b"n" * 16, name="new", created_ns=at_ns))
    assert site.state("home") == state


def test_a_token_that_only_appends_dates_no_clone_back(served: Served) -> None:
    """Kind of fault: made-up clones of past days take the places of good ones when old ones are thinned out."""
    server = served.server
    append, write = (server.site(server.token(right)) for right in ("append", "write"))
    head = write.state("home").head
    with pytest.raises(Refused, match="dated back"):
        append.clone("home", "back", Clone(revision=head, created_ns=now_ns() - 2 * DAY_NS))
    append.clone("home", "now", Clone(revision=head, created_ns=now_ns() - DAY_NS // 2))
    # Servers bring one another clones that are old by nature.
    write.clone("home", "back", Clone(revision=head, created_ns=now_ns() - 2 * DAY_NS))
    assert write.state("home").clones.keys() >= {"now", "back"}


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Served]:
    user = make_user(tmp_path / "home")
    with start_server(user) as server:
        yield Served(server, server.token("administer"))


def end_volume(user: User, name: str) -> bytes:
    """Make the head of a volume one of the far future, as a server took it once."""
    keys = list((user.home / ".config/dalsegno/keys").glob("*.key"))
    key_path = keys[0] if keys else None
    with Pool.open(user.home / "pool", key_path=key_path) as pool, pool.writer() as writer:
        volumes = Volumes(pool)
        state = volumes.get(name)
        head = read_revision(pool, state.head)
        ended = msgspec.structs.replace(head, parents=[state.head], created_ns=2**62 - 1)
        return volumes.commit_revision(writer, state, ended)[1]


def test_an_administrator_reopens_an_ended_volume(mine: Served) -> None:
    server, user = mine.server, mine.user
    end_volume(user, "home")
    site = server.site(server.token("write"))
    with pytest.raises(NoAccess):
        site.reopen("home", at_ns=now_ns())
    administrator = server.site(mine.token)
    for at_ns in (now_ns() + 2 * DAY_NS, now_ns() - 2 * DAY_NS, 1):
        with pytest.raises(Refused):
            administrator.reopen("home", at_ns=at_ns)
    state = user.value("volume", "reopen", "home")
    assert administrator.state("home").head.hex() == state["head"]
    forge = Forge(site)
    made = forge.revision(
        bytes.fromhex(state["id"]), forge.directory(), parents=[bytes.fromhex(state["head"])], created_ns=now_ns()
    )
    upload, data = forge.pack()
    assert site.commit("home", made, upload, [data]).head == made
    assert b"not ended" in user.quick("volume", "reopen", "home", code=4).err


def test_a_replicated_volume_is_reopened_on_all_its_servers_and_what_waits_at_a_client_comes_in(
    tmp_path: Path,
) -> None:
    realm = Realm(tmp_path)
    try:
        realm.start("s1", "s2")
        me, other = realm.client("me"), realm.client("other")
        source = tmp_path / "source"
        source.mkdir()
        (source / "a").write_text("1")
        me.quick("volume", "create", "home", "--replicas", "s1,s2")
        me.quick("import", "home", str(source))
        me.quick("clone", "home", "good")
        ended = {end_volume(realm.users[name], "home") for name in ("s1", "s2")}
        assert len(ended) == 1
        (source / "b").write_text("2")
        other.quick("import", "home", str(source), code=9)
        told = me.ask("volume", "reopen", "home")
        assert (told["servers"], told["missing"]) == (["s1", "s2"], {})
        assert me.lines("ls", "home") == ["a"]
        assert other.lines("ls", "home")[-2:] == ["a", "b"]
        (source / "c").write_text("3")
        me.quick("import", "home", str(source))
        assert me.lines("ls", "home")[-3:] == ["a", "b", "c"]
        me.quick("replica", "check", "home")
    finally:
        realm.end()
