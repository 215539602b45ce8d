"""Tokens in a realm's directory, to which every server writes: they open what their maker may give, and nobody else's do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import create_engine
from sqlalchemy import text as sql

from dalsegno.chunks.realm import Realm
from dalsegno.chunks.signatures import SigningKey
from dalsegno.pool.pool import Pool
from dalsegno.replicas.directory import SqlDirectory
from dalsegno.replicas.makers import (
    Maker,
    own_key,
    read_makers,
    remove_maker,
    renew_identity,
    sign_token,
    trust_maker,
)
from dalsegno.replicas.member import Member, Membership, read_membership, remember_directory, write_membership
from dalsegno.replicas.server_key import open_server_values
from dalsegno.replicas.tokens import ADMINISTER, READ, WRITE, Token, check_token, new_token, store_of
from dalsegno.replicas.view import RealmView
from dalsegno.terms.errors import AlreadyThere, BadInput, NotFound
from dalsegno.world.clock import now_ns
from kit import REALM

PIN = "sha256:" + "1" * 64


@dataclass
class World:
    """A realm whose tokens are made on s1, and whoever writes to its directory."""

    path: Path
    pools: dict[str, Pool] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.url = f"sqlite:///{self.path}/directory.db"
        pool = self.pool("s1")
        key = own_key(open_server_values(pool)).public
        SqlDirectory.create(self.url, name="site", realm_id=REALM.realm_id, maker=key).close()
        remember_directory(pool, url=self.url)

    def pool(self, name: str) -> Pool:
        if name not in self.pools:
            self.pools[name] = Pool.create(self.path / name, encryption="none", realm=REALM)
        return self.pools[name]

    def member(self, name: str) -> Member:
        """Start a server as if anew: nothing is remembered but what its pool keeps."""
        member = Member.open(self.pool(name), url=self.url, name=name)
        assert member is not None
        self.members.append(member)
        return member

    def registered(self, name: str) -> Member:
        member = self.member(name)
        member.register(f"https://{name}:1", PIN)
        return member

    def write(self, token: Token) -> None:
        """Put a row into the directory, as whoever has the database may."""
        with SqlDirectory.open(self.url, realm_id=REALM.realm_id) as directory:
            if directory.find(token.id) is not None:
                directory.revoke(token.id)
            directory.add(token)

    def row(self, token_id: str) -> Token:
        with SqlDirectory.open(self.url, realm_id=REALM.realm_id) as directory:
            row = directory.find(token_id)
        assert row is not None
        return msgspec.structs.replace(row, used_ns=0)

    def end(self) -> None:
        for member in self.members:
            member.close()
        for pool in self.pools.values():
            pool.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.end()


def made(*rights: str, volumes: tuple[str, ...] = ("*",)) -> tuple[Token, str]:
    return new_token(rights=list(rights), volumes=list(volumes), now_ns=now_ns())


def opens(member: Member, text: str, *, at_ns: int = 0) -> Token | None:
    found = check_token(text, [member.tokens], now_ns=at_ns or now_ns())
    return found[0] if found is not None else None


def test_tokens_of_the_first_server_count_on_those_that_join(world: World) -> None:
    s1, s2 = world.registered("s1"), world.registered("s2")
    token, text = made(ADMINISTER)
    s1.tokens.add(token)
    assert opens(s1, text) and opens(s2, text) and s1.makes_for_all() and not s2.makes_for_all()
    token, text = made(ADMINISTER)
    s2.tokens.add(token)
    assert opens(s2, text), "what a server made counts there"
    assert opens(s1, text) is None, "and not on one that does not know it"
    trust_maker(s1._values, Maker(name="s2", key=own_key(s2._values).public, since_ns=1))
    assert opens(world.member("s1"), text)


@pytest.mark.parametrize("rights", [(READ,), (ADMINISTER,)])
@pytest.mark.parametrize("how", ["unsigned", "another key", "its own key", "no signature", "weak key"])
def test_a_token_that_was_only_written_there_opens_nothing(world: World, how: str, rights: tuple[str, ...]) -> None:
    """Kind of fault: a right that counts because it stands where many write."""
    world.registered("s1")
    s2, broken = world.registered("s2"), world.registered("branch")
    token, text = made(*rights)
    if how == "another key":
        token = sign_token(token, SigningKey.generate(), realm_id=REALM.realm_id)
    elif how == "its own key":
        token = broken.sign_token(token)
    elif how == "no signature":
        token = msgspec.structs.replace(token, signature=own_key(world.members[0]._values).public + bytes(64))
    elif how == "weak key":
        token = msgspec.structs.replace(token, signature=bytes(96))
    world.write(token)
    told: list[str] = []
    for member in (s2, world.member("s1")):
        member.tell = told.append
        assert opens(member, text) is None
        assert member.tokens.problem(world.row(token.id)), "it is listed as what it is"
        member.list_tokens()
        assert token.id not in {each.id for each in member.known_tokens()}
    assert len(told) == 2 and all(token.id in line for line in told)
    store = store_of([s2.tokens], token.id)
    assert store is not None and store.revoke(token.id).id == token.id, "and can be taken away"


def as_a_servers(token: Token) -> Token:
    return msgspec.structs.replace(token, peer=True, note="server s1")


CHANGES: list[Callable[[Token], Token]] = [
    lambda token: msgspec.structs.replace(token, rights=[ADMINISTER]),
    lambda token: msgspec.structs.replace(token, volumes=["*"]),
    lambda token: msgspec.structs.replace(token, expires_ns=0),
    lambda token: msgspec.structs.replace(token, digest=made(READ)[0].digest),
    lambda token: msgspec.structs.replace(token, note="server s1"),
    as_a_servers,
    lambda token: msgspec.structs.replace(token, signature=b""),
]


@pytest.mark.parametrize(
    ("number", "seen"),
    # A server's token gives what its server's roles give, whoever wrote it: only what was known is not replaced by one.
    [(n, seen) for n, change in enumerate(CHANGES) for seen in (True, False) if seen or change is not as_a_servers],
)
def test_a_genuine_row_that_was_changed_does_not_count(world: World, number: int, seen: bool) -> None:
    """Kind of fault: what was known is replaced by what somebody else wrote."""
    s1, s2 = world.registered("s1"), world.registered("s2")
    token, text = new_token(rights=[READ], volumes=["home"], now_ns=now_ns(), expires_ns=now_ns() + 10**15)
    s1.tokens.add(token)
    if seen:
        assert opens(s2, text) is not None
    world.write(CHANGES[number](world.row(token.id)))
    for member in (world.member("s2"), world.registered("s2")):
        found = opens(member, text)
        assert (found is not None) == seen
        assert found is None or (found.rights, found.volumes, found.peer) == ([READ], ["home"], False)


def test_a_genuine_token_of_another_realm_opens_nothing(world: World) -> None:
    """Kind of fault: a signature that does not say for what."""
    s1, s2 = world.registered("s1"), world.registered("s2")
    token, text = made(ADMINISTER)
    other = Realm(b"o" * 32)
    assert other.realm_id != REALM.realm_id
    world.write(sign_token(token, own_key(s1._values), realm_id=other.realm_id))
    assert opens(s2, text) is None and opens(s1, text) is None


def test_a_maker_ends_and_is_removed(world: World) -> None:
    s1, s2 = world.registered("s1"), world.registered("s2")
    token, text = made(WRITE)
    s2.tokens.add(token)
    key = own_key(s2._values).public
    trust_maker(s1._values, Maker(name="s2", key=key, since_ns=1, expires_ns=now_ns() + 10**15))
    assert opens(world.member("s1"), text) is not None
    trust_maker(s1._values, Maker(name="s2", key=key, since_ns=1, expires_ns=2))
    assert opens(world.member("s1"), text) is None, "a maker whose time is over"
    trust_maker(s1._values, Maker(name="s2", key=key, since_ns=1))
    assert opens(world.member("s1"), text) is not None
    with pytest.raises(AlreadyThere):
        trust_maker(s1._values, Maker(name="s2", key=SigningKey.generate().public, since_ns=1))
    with pytest.raises(BadInput):
        trust_maker(s1._values, Maker(name="s9", key=bytes(32), since_ns=1))
    remove_maker(s1._values, "s2")
    assert opens(world.member("s1"), text) is None
    with pytest.raises(NotFound):
        remove_maker(s1._values, "s2")
    Path(world.url.removeprefix("sqlite:///")).rename(world.path / "away")
    assert opens(world.member("s1"), text) is None, "from memory neither"


@pytest.mark.parametrize("how", ["asked", "registered"])
def test_a_revoked_token_does_not_come_back_with_an_older_row(world: World, how: str) -> None:
    """Kind of fault: an older database brings a right back."""
    s1, s2 = world.registered("s1"), world.registered("s2")
    token, text = made(ADMINISTER)
    s1.tokens.add(token)
    assert opens(s2, text) is not None
    row = world.row(token.id)
    s1.tokens.revoke(token.id)
    again = world.member("s2")
    if how == "asked":
        assert opens(again, text) is None
    else:
        again.register("https://s2:1", PIN)
    world.write(row)
    for name in ("s1", "s2"):
        assert opens(world.registered(name), text) is None


def test_the_directory_names_a_maker_only_to_who_comes_for_the_first_time(world: World) -> None:
    """Kind of fault: who writes to the directory says whom to believe."""
    s1, s2 = world.registered("s1"), world.registered("s2")
    branch = own_key(open_server_values(world.pool("branch"))).public
    with create_engine(world.url).begin() as connection:
        connection.execute(sql("UPDATE realm_maker SET key = :key"), {"key": branch})
    for name in ("s1", "s2"):
        world.registered(name)
    token, text = made(ADMINISTER)
    world.write(sign_token(token, own_key(open_server_values(world.pool("branch"))), realm_id=REALM.realm_id))
    assert opens(world.member("s1"), text) is None and opens(world.member("s2"), text) is None
    assert read_makers(s1._values).makers == []
    assert [each.key for each in read_makers(s2._values).makers] == [own_key(s1._values).public]


def test_tokens_of_before_go_on_where_they_were_known_and_nowhere_else(world: World) -> None:
    """A realm of an older program: no maker in its directory, no signatures, and what each server saw."""
    with create_engine(world.url).begin() as connection:
        connection.execute(sql("DROP TABLE realm_maker"))
    token, text = made(ADMINISTER)
    world.write(token)
    pool = world.pool("old")
    view = RealmView(name="site", realm=REALM.realm_id, servers=[], volumes=[], as_of_ns=1)
    write_membership(
        open_server_values(pool), lambda _: Membership(url=world.url, name="old", view=view, tokens=[token])
    )
    old, fresh = world.registered("old"), world.registered("fresh")
    assert opens(old, text) is not None and opens(world.registered("old"), text) is not None
    assert opens(fresh, text) is None
    later, later_text = made(READ)
    world.write(later)
    assert opens(world.registered("old"), later_text) is None
    world.write(msgspec.structs.replace(token, volumes=["*", "more"]))
    found = opens(world.registered("old"), text)
    assert found is not None and found.volumes == ["*"]
    old.tokens.revoke(token.id)
    assert opens(world.registered("old"), text) is None
    membership = read_membership(pool)
    assert membership is not None and token.id not in {each.id for each in membership.tokens}


def test_a_server_with_a_new_identity_keeps_what_it_made_and_signs_anew(world: World) -> None:
    s1, s2 = world.registered("s1"), world.registered("s2")
    token, text = made(READ)
    s1.tokens.add(token)
    assert opens(s2, text) is not None
    before = own_key(s1._values)
    renew_identity(world.pool("s1"))
    again = world.registered("s1")
    assert own_key(again._values).public != before.public
    assert opens(again, text) is not None
    stolen, stolen_text = made(ADMINISTER)
    world.write(sign_token(stolen, before, realm_id=REALM.realm_id))
    assert opens(world.registered("s1"), stolen_text) is None, "whoever has the old key makes no more tokens for it"


def test_the_signature_is_what_the_page_of_the_directory_says() -> None:
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    token = Token(
        id="0123456789abcdef",
        digest=bytes(32),
        rights=[READ, WRITE],
        volumes=["home*"],
        note="ada",
        created_ns=1,
        expires_ns=2,
    )
    signed = sign_token(token, key, realm_id=bytes(16))
    said = [token.id, bytes(32), ["read", "write"], ["home*"], "ada", 1, 2, False]
    data = b"dalsegno token signature 1\0" + bytes(16) + msgspec.msgpack.encode(said)
    Ed25519PublicKey.from_public_bytes(signed.signature[:32]).verify(signed.signature[32:], data)
    assert (
        sha256(msgspec.msgpack.encode(signed)).hexdigest()
        == "5e825aba0975df984e1cf445a427bc99a4a5f5248954b183b750bb76cd61312d"
    )
    older = msgspec.msgpack.encode({"id": token.id, "digest": bytes(32), "rights": [], "volumes": [], "created_ns": 1})
    assert msgspec.msgpack.decode(older, type=Token).signature == b""
