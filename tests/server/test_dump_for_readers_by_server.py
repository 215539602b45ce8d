"""Dumps for people outside the realm, of volumes that are on a server: it writes them, and the client looks at them."""

import secrets
from pathlib import Path

import pytest
from served_kit import make_user

from cli_kit import User, tree
from dalsegno.actions.received import Wanted, receive
from dalsegno.chunks.recipients import age_identity, age_recipient
from dalsegno.formats.join import format_join
from dalsegno.terms.errors import BadInput, Conflict
from server_kit import start_server


def age_key(path: Path) -> str:
    identity = age_identity(secrets.token_bytes(32))
    path.write_text(f"{identity}\n")
    return age_recipient(identity)


def test_a_dump_of_a_volume_on_a_server_is_for_its_readers(tmp_path: Path) -> None:
    """Kind: what works in a pool is refused of a server, or made for the wrong people."""
    user = make_user(tmp_path / "home", encryption="keyfile")
    client = User(tmp_path / "client", {"DAL_POOL": ""})
    reader = User(tmp_path / "reader", {"DAL_POOL": ""})
    public, _ = age_key(reader.home / "key"), age_key(reader.home / "other")
    gift = reader.home / "gift.dump"
    with start_server(user) as server:
        client.quick("realm", "join", format_join(server.join(server.token("read"))))
        assert b"not recorded" in client.quick("dump", "home", "-r", public, "-o", str(gift)).out
        assert client.quick("cat", f"{gift}:/doc/plan").out == b"a plan\n" * 100
        site = server.site(server.token("read"))
        for bad in ("age1nobody", "-----", "ssh-ed25519 x"):
            with pytest.raises(BadInput):
                b"".join(site.dump("home", recipients=[bad]))
        with pytest.raises(BadInput, match="too many"):
            site.dump("home", recipients=[public] * 100)
        # A server that makes it for members alone, whoever it was asked for.
        key, head = site.key(), site.state("home")
        wanted = Wanted(volume=head.id, revision=head.head, level=0, base_dump=b"", for_readers=True)
        with pytest.raises(Conflict, match="only members"):
            receive(site.dump("home"), lambda data: None, realm=key, wanted=wanted)
        receive(site.dump("home", recipients=[public]), lambda data: None, realm=key, wanted=wanted)
    key_words = ("--key", "key")
    assert reader.quick(*key_words, "cat", "gift.dump:/doc/plan").out == b"a plan\n" * 100
    assert b"whole" in reader.quick(*key_words, "verify", "gift.dump").out
    reader.quick(*key_words, "restore", "gift.dump", "--to", "out", "--trusted")
    assert tree(reader.home / "out") == tree(user.home / "source")
    assert "made for somebody else" in reader.quick("--key", "other", "ls", "gift.dump", code=8).error
    assert b"a plan" not in gift.read_bytes()
