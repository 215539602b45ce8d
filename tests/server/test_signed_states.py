"""A volume that requires signatures: what a thief of a token, and a server that was broken into, do not get in."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from forge_kit import Forge
from served_kit import Served, make_user

from cli_kit import User
from dalsegno.chunks.signatures import Sign, SigningKey, leave_unsigned
from dalsegno.formats import objects
from dalsegno.formats.join import format_join
from dalsegno.formats.objects import Revision
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import Diverged, Refused
from dalsegno.trees.build import store_directory
from dalsegno.trees.read import read_revision
from dalsegno.volumes.signed import SETTING
from dalsegno.volumes.store import Volumes
from dalsegno.world.clock import now_ns
from server_kit import start_server

LINE = b"from bob himself\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    user = make_user(tmp_path_factory.mktemp("server") / "home", encryption="keyfile")
    (user.home / "bobs").mkdir()
    (user.home / "bobs" / "letter").write_bytes(LINE)
    user.quick("import", "bob", "bobs")
    user.quick("volume", "set", "bob", "--signed", "required")
    with start_server(user) as server:
        yield Served(server, server.token("administer"))


def open_pool(user: User) -> Pool:
    return Pool.open(user.home / "pool", key_path=next((user.home / ".config/dalsegno/keys").glob("*.key")))


def head_of(user: User, volume: str) -> Revision:
    with open_pool(user) as pool:
        return read_revision(pool, Volumes(pool).get(volume).head)


def own_key(user: User) -> SigningKey:
    return SigningKey.of_text((user.home / ".config/dalsegno/signing.key").read_bytes())


def copied(user: User, volume: str) -> Sign:
    """Return what puts the signature of another state there."""
    signature = head_of(user, volume).signature
    return lambda revision: msgspec.structs.replace(revision, signature=signature)


def cut(sign: Sign) -> Sign:
    def made(revision: Revision) -> Revision:
        signed = sign(revision)
        return msgspec.structs.replace(signed, signature=signed.signature[:-1])

    return made


def flipped(sign: Sign) -> Sign:
    def made(revision: Revision) -> Revision:
        signed = sign(revision)
        return msgspec.structs.replace(signed, signature=signed.signature[:-1] + bytes([signed.signature[-1] ^ 1]))

    return made


def everybodys(revision: Revision) -> Revision:
    """Sign with the public key of order 1, for which this is genuine whatever is signed."""
    identity = (1).to_bytes(32, "little")
    return msgspec.structs.replace(revision, signature=identity + identity + bytes(32))


SIGNS: dict[str, Callable[[User], Sign]] = {
    "stripped": lambda user: leave_unsigned,
    "his own": lambda user: SigningKey.generate().sign,
    "copied": lambda user: copied(user, "bob"),
    "of another volume": lambda user: copied(user, "home"),
    "cut": lambda user: cut(own_key(user).sign),
    "flipped": lambda user: flipped(own_key(user).sign),
    "everybody's": lambda user: everybodys,
}


@pytest.mark.parametrize("how", SIGNS)
def test_a_stolen_token_without_the_signing_key_adds_nothing(served: Served, how: str) -> None:
    site = served.server.site(served.server.token("append", volumes=("bob",)))
    before = site.state("bob")
    forge = Forge(site)
    made = forge.revision(
        before.id, forge.directory(), parents=[before.head], created_ns=now_ns(), sign=SIGNS[how](served.user)
    )
    upload, data = forge.pack(sealed=True)
    with pytest.raises(Refused, match="sign"):
        site.commit("bob", made, upload, [data])
    with pytest.raises(Refused, match="sign"):
        site.advance("bob", made)
    assert site.state("bob").head == before.head


def test_a_forged_merge_adds_nothing(served: Served) -> None:
    """The kind: what needs no signature of its own carries in what would."""
    site = served.server.site(served.server.token("append", volumes=("bob",)))
    before = site.state("bob")
    other = head_of(served.user, "bob").parents
    assert not other
    forge = Forge(site)
    first = forge.revision(before.id, forge.directory(), created_ns=now_ns() - 10**9)
    made = forge.revision(before.id, forge.directory(), parents=sorted([first, before.head]), created_ns=now_ns())
    upload, data = forge.pack(sealed=True)
    with pytest.raises(Refused, match="sign"):
        site.commit("bob", made, upload, [data])
    assert site.state("bob").head == before.head


def test_a_signed_state_of_another_volume_is_not_taken(served: Served) -> None:
    """A replay: genuine, and signed by somebody who is known."""
    site = served.server.site(served.server.token("append", volumes=("bob",)))
    home, before = head_of(served.user, "home"), site.state("bob")
    forge = Forge(site)
    both = {"volume": before.id, "parents": [before.head]}
    for changes in ({}, {"volume": before.id}, {"parents": [before.head]}, both):
        replayed = msgspec.structs.replace(home, **changes)
        made = forge.put(objects.KIND_REVISION, replayed)
        upload, data = forge.pack(sealed=True)
        with pytest.raises((Refused, Diverged)):
            site.commit("bob", made, upload, [data])
    assert site.state("bob").head == before.head


def test_a_laptop_is_let_in_by_its_public_key(served: Served, tmp_path: Path) -> None:
    """What an honest user sees: one sentence with what to do, and then it works; his key costs no call."""
    owner = served.user
    laptop = User(tmp_path / "laptop", {"DAL_POOL": ""})
    laptop.quick("realm", "join", format_join(served.server.join(served.server.token("append", volumes=("lap-*",)))))
    (laptop.home / "doc").mkdir()
    letter = laptop.home / "doc" / "letter"
    letter.write_bytes(b"from the laptop\n")
    laptop.quick("backup", "doc")
    key = laptop.value("key", "signers")["own"]["key"]
    assert (
        f"dal key trust-signer NAME '{key}'"
        in owner.quick("volume", "set", "lap-doc", "--signed", "required", code=4).error
    )
    owner.quick("key", "trust-signer", "laptop", key)
    owner.quick("volume", "set", "lap-doc", "--signed", "required")
    letter.write_bytes(b"and again\n")
    laptop.quick("backup", "doc")
    assert [row["signature"]["name"] for row in owner.value("log", "lap-doc")] == ["laptop", "laptop"]
    owner.quick("key", "remove-signer", "laptop")
    letter.write_bytes(b"once more\n")
    done = laptop.quick("backup", "doc", code=4)
    assert f"dal key trust-signer NAME '{key}'" in done.error and "the commit waits" in done.error
    assert len(owner.value("log", "lap-doc")) == 2
    owner.quick("key", "trust-signer", "laptop", key)
    assert b"brought in commit" in laptop.quick("volume", "show", "lap-doc").err
    assert len(owner.value("log", "lap-doc")) == 3
    (laptop.home / ".config/dalsegno/signing.key").unlink()
    (laptop.home / ".config/dalsegno/signing.key").mkdir()
    letter.write_bytes(b"without a key\n")
    assert "no key here to sign with" in laptop.quick("backup", "doc", code=4).error
    assert len(owner.value("log", "lap-doc")) == 3


def break_in(user: User, *, sign: Sign) -> None:
    """Make up a state of `home` as who is inside of the server can, and take the policy away from it."""
    with open_pool(user) as pool:
        volumes = Volumes(pool)
        state = volumes.get("home")
        with pool.writer() as writer:
            root = msgspec.structs.replace(read_revision(pool, state.head).root, content=store_directory(writer, []))
            forged = msgspec.structs.replace(
                read_revision(pool, state.head),
                parents=[state.head],
                root=root,
                created_ns=now_ns(),
                entry_count=0,
                total_bytes=0,
            )
            made = writer.put(objects.KIND_REVISION, objects.encode(sign(forged)))
            writer.flush()
            writer.commit_guard()
            volumes.update(
                state.id,
                lambda current: msgspec.structs.replace(
                    current,
                    head=bytes(made),
                    settings={key: value for key, value in current.settings.items() if key != SETTING},
                ),
            )


@pytest.mark.parametrize("how", ["stripped", "his own", "copied"])
def test_a_server_that_makes_up_a_state_is_not_believed(tmp_path: Path, how: str) -> None:
    """What a client that requires signatures reads is signed by who he knows, whatever the server says."""
    user = make_user(tmp_path / "home", encryption="keyfile")
    signs = {"stripped": leave_unsigned, "his own": SigningKey.generate().sign, "copied": copied(user, "home")}
    client = User(tmp_path / "client", {"DAL_POOL": ""})
    with start_server(user) as server:
        client.quick("realm", "join", format_join(server.join(server.token("read"))))
        assert "key that is not known" in client.quick("volume", "set", "home", "--signed", "required", code=4).error
        client.quick("key", "trust-signer", "owner", user.value("key", "signers")["own"]["key"])
        client.quick("volume", "set", "home", "--signed", "required")
        client.quick("restore", "home", "--to", "back")
        break_in(user, sign=signs[how])
        done = client.quick("restore", "home", "--to", "back", "--delete", code=4)
        assert "sign" in done.error
        assert os.listdir(client.home / "back")
        said = client.quick("ls", "home")
        assert b"sign" in said.err and said.err.count(b"\n") == 1
        client.quick("restore", "home@daily", "--to", "daily")
        assert json.loads(client.quick("--json", "log", "home").out)[0]["signature"]["status"] != "signed"
