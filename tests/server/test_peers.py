"""What a server of the realm may do on the others: a stolen one gives away what it holds, and rules nobody."""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from dalsegno.pool.pool import Pool
from dalsegno.replicas import wire
from dalsegno.replicas.directory import SqlDirectory
from dalsegno.replicas.makers import own_key, sign_token
from dalsegno.replicas.member import TOKEN_NS, read_membership
from dalsegno.replicas.server_key import open_server_values
from dalsegno.replicas.tokens import ADMINISTER, new_token
from dalsegno.replicas.view import Placed
from dalsegno.terms.errors import NoAccess
from dalsegno.terms.ids import ObjectId
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import Release, ReplicaSet
from dalsegno.world.clock import now_ns, pause
from realm_kit import Realm


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Realm]:
    """Volumes: `home` with a writer, a standby and a reader, and `other` on the writer alone."""
    realm = Realm(tmp_path_factory.mktemp("realm"))
    try:
        realm.start("writer", "standby", "reader")
        me = realm.client("me")
        (me.home / "doc").mkdir()
        (me.home / "doc" / "a").write_text("a")
        for name in ("home", "other"):
            me.quick("volume", "create", name, "--replicas", "writer")
            me.quick("import", name, str(me.home / "doc"))
            me.quick("clone", name, "first")
        me.quick("follow", "home", "--to", "standby", "--once")
        me.quick("release", "home@first", "--to", "reader")
        yield realm
    finally:
        realm.end()


def peer_token(realm: Realm, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what a server shows the others, as who broke into it finds it."""
    user = realm.users[name]
    monkeypatch.setenv("HOME", str(user.home))
    (key,) = (user.home / ".config/dalsegno/keys").glob("*.key")
    with Pool.open(user.home / "pool", key_path=key) as pool:
        return (open_server_values(pool).get("peer") or b"").decode()


@pytest.mark.parametrize("name", ["reader", "standby"])
def test_a_servers_token_administers_nobody(realm: Realm, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind of fault: one server that was broken into is all of them."""
    site = realm.servers["writer"].site(peer_token(realm, name, monkeypatch))
    state = site.state("home")
    assert state.replicas is not None and state.released is not None
    taken = msgspec.structs.replace(state.replicas, version=9, writers=[name], standbys=[], readers=[])
    attacks = [
        lambda: site.tokens(),
        lambda: site.add_token(wire.NewToken(rights=["administer"], volumes=["*"])),
        lambda: site.revoke_token("0" * 16),
        lambda: site.remove_server("writer"),
        lambda: site.remove("home"),
        lambda: site.reopen("home", at_ns=1),
        lambda: site.arrange("home", taken),
        lambda: site.create(msgspec.structs.replace(state, id=os.urandom(16), name="new")),
        lambda: site.publish(Placed(name="home", id=state.id, replicas=taken)),
        lambda: site.forget("home"),
        lambda: site.switch("home", Release(number=2**60, revision=state.head, clone="x", released_ns=1)),
        lambda: site.state("other"),
        lambda: site.block("other", ObjectId(state.head)),
        lambda: site.have("other", bytes(32)),
        lambda: site.advance("other", bytes(32)),
        lambda: site.arrange("other", ReplicaSet(version=9, writers=[name])),
    ]
    for number, attack in enumerate(attacks):
        with pytest.raises(NoAccess):
            attack()
            raise AssertionError(f"attack {number} worked")
    assert [each.name for each in site.states()] == ["home"]
    assert realm.servers["writer"].site(realm_administrator(realm)).state("home").replicas == state.replicas


def realm_administrator(realm: Realm) -> str:
    return realm.servers["writer"].token("administer")


def test_a_read_only_sites_token_adds_nothing_to_the_writers(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    site = realm.servers["writer"].site(peer_token(realm, "reader", monkeypatch))
    head = site.state("home").head
    for attack in (
        lambda: site.commit("home", head, b"", []),
        lambda: site.advance("home", head),
        lambda: site.clone("home", "mine", Clone(revision=head, created_ns=1)),
        lambda: site.unclone("home", "first", Clone(revision=head, created_ns=1)),
        lambda: site.freeze("home", owner="me"),
        lambda: site.agree("home", head),
        lambda: site.upload("home", bytes(16), 0, [b"x"]),
    ):
        with pytest.raises(NoAccess):
            attack()
    assert site.have("home", head) == b"\1" and list(site.missing("home", [head], []))


@pytest.mark.parametrize("right", ["administer", "read"])
@pytest.mark.parametrize("signs", [False, True])
def test_who_writes_to_the_directory_makes_no_tokens_for_other_servers(
    realm: Realm, right: str, signs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kind of fault: a token counts because it stands in the directory, to which each server writes."""
    user = realm.users["reader"]
    monkeypatch.setenv("HOME", str(user.home))
    (key,) = (user.home / ".config/dalsegno/keys").glob("*.key")
    with Pool.open(user.home / "pool", key_path=key) as pool:
        membership = read_membership(pool)
        assert membership is not None
        token, text = new_token(rights=[right], volumes=["*"], now_ns=now_ns())
        if signs:
            token = sign_token(token, own_key(open_server_values(pool)), realm_id=pool.realm.realm_id)
        with SqlDirectory.open(membership.url, realm_id=pool.realm.realm_id) as directory:
            directory.add(token)
    for name in ("writer", "standby"):
        with pytest.raises(NoAccess):
            realm.servers[name].site(text).state("other" if name == "writer" else "home")
    # Who administers sees it, and takes it away.
    genuine = realm_administrator(realm)
    listed = {each["id"]: each["problem"] for each in realm.users["writer"].ask("token", "list")}
    assert listed[token.id] and listed[genuine.split("_")[1]] is None
    realm.servers["writer"].site(genuine).revoke_token(token.id)


def test_a_server_that_holds_nothing_sees_nothing(
    realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    realm.start("stranger")
    site = realm.servers["writer"].site(peer_token(realm, "stranger", monkeypatch))
    assert site.states() == []
    for attack in (
        lambda: site.state("home"),
        lambda: site.have("home", bytes(32)),
        lambda: site.advance("home", bytes(32)),
    ):
        with pytest.raises(NoAccess):
            attack()


def test_a_token_of_another_server_counts_where_its_maker_is_trusted(realm: Realm) -> None:
    """What is said when a token is made elsewhere than on the realm's first server, typed as it stands."""
    assert b"trust-maker" not in realm.users["writer"].quick("token", "add", "--right", "read").err
    made = realm.users["standby"].quick("token", "add", "--right", "read")
    text = made.out.decode().splitlines()[0]
    site = realm.servers["writer"].site(text)
    with pytest.raises(NoAccess):
        site.state("other")
    assert realm.servers["standby"].site(text).state("home").head

    (line,) = re.findall("`dal (token trust-maker .*)`", made.err.decode())
    writer = realm.users["writer"]
    writer.quick(*shlex.split(line))
    known = writer.ask("token", "makers")
    assert [(each["name"], each["expires"]) for each in known["makers"]] == [("standby", None)]
    assert known["own"]["key"] == realm.users["standby"].ask("token", "makers")["makers"][0]["key"]
    assert wait_for_answer(lambda: site.state("other").head, opens=True)

    writer.quick("token", "remove-maker", "standby")
    writer.quick("token", "remove-maker", "standby", code=6)
    assert wait_for_answer(lambda: site.state("other").head, opens=False)
    writer.quick("token", "trust-maker", "x", "ssh-ed25519 AAAA", code=2)


def wait_for_answer(ask: Callable[[], bytes], *, opens: bool) -> bool:
    """Ask until a token opens, or opens no more: a server looks again after a second."""
    limit = now_ns() + 60 * TOKEN_NS
    while now_ns() < limit:
        try:
            ask()
        except NoAccess:
            if not opens:
                return True
        else:
            if opens:
                return True
        pause(0.05)
    return False


def test_who_writes_to_the_directory_can_pose_as_another_server(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is true today: where servers and volumes are is believed; it gives a role's rights, and no others."""
    user = realm.users["reader"]
    monkeypatch.setenv("HOME", str(user.home))
    (key,) = (user.home / ".config/dalsegno/keys").glob("*.key")
    token, text = new_token(rights=[ADMINISTER], volumes=["*"], note="server standby", now_ns=now_ns(), peer=True)
    with Pool.open(user.home / "pool", key_path=key) as pool:
        membership = read_membership(pool)
        assert membership is not None
        with SqlDirectory.open(membership.url, realm_id=pool.realm.realm_id) as directory:
            directory.add(token)
    site = realm.servers["writer"].site(text)
    head = site.state("home").head
    assert site.advance("home", head).head == head, "it may write where the standby does"
    for attack in (lambda: site.state("other"), lambda: site.tokens(), lambda: site.remove("home")):
        with pytest.raises(NoAccess):
            attack()
    realm.servers["writer"].site(realm_administrator(realm)).revoke_token(token.id)
