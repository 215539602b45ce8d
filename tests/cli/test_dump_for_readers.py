"""Dumps for people outside the realm: opened by their own key with every command that reads, and by nobody else's."""

import json
import os
import secrets
import stat
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from cli_kit import User, tree
from dalsegno.chunks.recipients import age_identity, age_recipient, read_identity
from dalsegno.formats import objects, pack, pack_header
from dalsegno.formats.objects import DirectoryLeaf, Entry
from dalsegno.pool.pack_read import PackReader, open_as_reader, open_note, pack_key
from dalsegno.pool.pack_write import PackWriter
from dalsegno.trees.read import read_revision


def ssh_key(path: Path, passphrase: str = "") -> str:
    """Write a private key as ssh-keygen does and return the public one."""
    key = Ed25519PrivateKey.generate()
    hidden = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, hidden))
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + " ann@desk"


def age_key(path: Path) -> str:
    identity = age_identity(secrets.token_bytes(32))
    path.write_text(f"# created: 2026-11-30\n{identity}\n")
    return age_recipient(identity)


@pytest.fixture
def owner(tmp_path: Path) -> User:
    user = User(tmp_path / "owner")
    folder = user.home / "home"
    (folder / "sub").mkdir(parents=True)
    (folder / "letter").write_text("for your eyes only\n")
    (folder / "sub" / "large").write_bytes(secrets.token_bytes(300_000))
    user.quick("backup", "home")
    return user


@pytest.fixture
def reader(tmp_path: Path) -> User:
    return User(tmp_path / "reader", {"DAL_POOL": ""})


@pytest.mark.parametrize("make", [age_key, ssh_key])
def test_the_reader_opens_it_with_every_command(owner: User, reader: User, make) -> None:  # type: ignore[no-untyped-def]
    public = make(reader.home / "private")
    gift = reader.home / "gift.dump"
    said = owner.quick("dump", "home", "-r", public, "-o", str(gift)).out
    assert b"not recorded" in said
    key = ("--key", str(reader.home / "private"))
    assert reader.quick(*key, "ls", "gift.dump").out == b"letter\nsub/\n"
    assert reader.quick(*key, "cat", "gift.dump:/letter").out == b"for your eyes only\n"
    assert b"whole" in reader.quick(*key, "verify", "gift.dump").out
    assert b"home@" in reader.quick(*key, "inspect", "gift.dump").out
    assert b"sub/large" in reader.quick(*key, "ls", "-R", "gift.dump").out
    assert reader.quick(*key, "diff", "gift.dump", "gift.dump").out == b""
    reader.quick(*key, "restore", "gift.dump", "--to", "out")
    assert tree(reader.home / "out") == tree(owner.home / "home")
    assert not list(reader.home.rglob("pool.toml")), "no pool was made for it"


def test_nobody_else_opens_it(owner: User, reader: User, tmp_path: Path) -> None:
    public, _ = age_key(reader.home / "private"), age_key(reader.home / "other")
    owner.quick("dump", "home", "-r", public, "-o", str(reader.home / "gift.dump"))
    data = (reader.home / "gift.dump").read_bytes()
    assert b"letter" not in data and b"home" not in data, "no name stands in it"
    refused = reader.quick("--key", str(reader.home / "other"), "ls", "gift.dump", code=8)
    assert "made for somebody else" in refused.error
    assert "give the key" in reader.quick("ls", "gift.dump", code=6).error
    stranger = User(tmp_path / "stranger")
    stranger.quick("init")
    stranger.quick("ls", str(reader.home / "gift.dump"), code=4)
    # An ordinary dump of the same pool does not open by the reader's key.
    owner.quick("dump", "home", "-o", str(reader.home / "plain.dump"))
    refused = reader.quick("--key", str(reader.home / "private"), "ls", "plain.dump", code=8)
    assert "not made for a single reader" in refused.error
    # Nor does the pool.
    refused = owner.quick("--key", str(reader.home / "private"), "ls", "home", code=8)
    assert "key" in refused.error


def test_its_owner_still_opens_it_and_several_readers_do(owner: User, reader: User) -> None:
    publics = [age_key(reader.home / "one"), ssh_key(reader.home / "two")]
    (owner.home / "people").write_text("# the press\n" + "\n".join(publics) + "\n\n")
    owner.quick("dump", "home", "--recipients-file", "people", "-o", str(reader.home / "gift.dump"))
    assert owner.quick("cat", str(reader.home / "gift.dump") + ":/letter").out == b"for your eyes only\n"
    for name in ("one", "two"):
        said = reader.quick("--key", name, "cat", "gift.dump:/letter").out
        assert said == b"for your eyes only\n"


def test_increments_for_a_reader_continue_the_full_dump(owner: User, reader: User) -> None:
    public = age_key(reader.home / "private")
    owner.quick("dump", "home", "-l", "0", "-r", public, "-o", str(reader.home / "full.dump"))
    (owner.home / "home" / "new").write_text("later")
    owner.quick("backup", "home")
    owner.quick("dump", "home", "-l", "1", "-r", public, "-o", str(reader.home / "incr.dump"))
    key = ("--key", str(reader.home / "private"))
    assert reader.quick(*key, "cat", "full.dump+incr.dump:/new").out == b"later"
    reader.quick(*key, "restore", "full.dump+incr.dump", "--to", "out")
    assert tree(reader.home / "out") == tree(owner.home / "home")
    # What the reader holds he reads; a dump in somebody's name he does not make.
    refused = reader.quick(*key, "merge", "full.dump", "incr.dump", "-o", "merged.dump", code=4)
    assert "not made anew" in refused.error and not (reader.home / "merged.dump").exists()


def test_a_pool_without_encryption_seals_what_is_for_one_reader(reader: User, tmp_path: Path) -> None:
    owner = User(tmp_path / "open")
    (owner.home / "home").mkdir()
    (owner.home / "home" / "letter").write_text("for your eyes only\n" * 20)
    owner.quick("init", "--encryption", "none")
    owner.quick("backup", "home")
    owner.quick("dump", "home", "-r", age_key(reader.home / "private"), "-o", str(reader.home / "gift.dump"))
    assert b"letter" not in (reader.home / "gift.dump").read_bytes()
    assert reader.quick("--key", "private", "cat", "gift.dump:/letter").out.startswith(b"for your eyes only")


def test_an_ssh_key_under_a_passphrase_asks_for_it(owner: User, reader: User) -> None:
    public = ssh_key(reader.home / "private", "swordfish")
    owner.quick("dump", "home", "-r", public, "-o", str(reader.home / "gift.dump"))
    words = ("--key", "private", "ls", "gift.dump")
    assert reader.quick(*words, DAL_PASSPHRASE="swordfish").out == b"letter\nsub/\n"
    assert "does not open with this passphrase" in reader.quick(*words, code=8, DAL_PASSPHRASE="halibut").error
    reader.quick(*words, code=2)  # nobody can be asked


@pytest.mark.parametrize("wrong", ["age1nokey", "ssh-ed25519 AAAA", "ann@example.org"])
def test_what_is_no_public_key_is_said_before_anything_is_written(owner: User, wrong: str) -> None:
    assert wrong in owner.quick("dump", "home", "-r", wrong, "-o", "gift.dump", code=2).error
    (owner.home / "keys").write_text(f"# none\n{wrong}\n")
    assert wrong in owner.quick("dump", "home", "--recipients-file", "keys", "-o", "gift.dump", code=2).error
    assert not (owner.home / "gift.dump").exists()


def test_a_public_key_where_the_private_one_is_wanted(owner: User, reader: User) -> None:
    (reader.home / "private.pub").write_text(ssh_key(reader.home / "private"))
    owner.quick(
        "dump", "home", "--recipients-file", str(reader.home / "private.pub"), "-o", str(reader.home / "g.dump")
    )
    assert "holds a public key" in reader.quick("--key", "private.pub", "ls", "g.dump", code=8).error


def write_anew(dump: Path, private: Path) -> None:
    """Put other files into a dump, as its reader can: he has its key and that of ids, and its head stays as it is."""
    reader = open_as_reader(dump, read_identity(private.read_text()))
    with PackReader.open(dump, reader) as there:
        header, note = there.header, open_note(there.header, reader)
        revision = read_revision(there, note.targets[-1].revision)
    chunk = b"#!/bin/sh\nid\n"
    shell = Entry(
        name=b"shell",
        kind=objects.ENTRY_FILE,
        mode=0o4755,
        size=len(chunk),
        content_kind=objects.CONTENT_CHUNK,
        content=reader.identify(objects.KIND_CHUNK, chunk),
    )
    leaf = objects.encode(DirectoryLeaf([shell]))
    root = msgspec.structs.replace(revision.root, content=reader.identify(objects.KIND_DIRECTORY, leaf))
    forged = objects.encode(msgspec.structs.replace(revision, root=root, links=b"", signature=b""))
    target = msgspec.structs.replace(note.targets[-1], revision=reader.identify(objects.KIND_REVISION, forged))
    key = pack_key(header, reader)
    sealed = AESGCM(key).encrypt(
        pack.NOTE_NONCE, pack_header.encode_note(msgspec.structs.replace(note, targets=[target])), header.pack_id
    )
    data = bytearray()
    with PackWriter(data.extend, realm=reader, header=(msgspec.structs.replace(header, note=sealed), key)) as writer:
        for kind, payload in (
            (objects.KIND_CHUNK, chunk),
            (objects.KIND_DIRECTORY, leaf),
            (objects.KIND_REVISION, forged),
        ):
            writer.put(kind, reader.identify(kind, payload), payload)
        writer.finish()
    dump.write_bytes(data)


def test_what_a_reader_wrote_anew_and_gave_back_is_not_trusted(owner: User, reader: User) -> None:
    """Kind: who may read a dump has its key, so he can write it, in the name of a volume that is trusted."""
    public = age_key(reader.home / "private")
    gift = reader.home / "gift.dump"
    owner.quick("dump", "home", "-r", public, "-o", str(gift))
    write_anew(gift, reader.home / "private")
    assert b"whole" in owner.quick("verify", str(gift)).out, "that it is not signed is nothing wrong"
    value = json.loads(owner.quick("--json", "restore", str(gift), "--to", "back", code=3).out)
    shell = owner.home / "back" / "shell"
    assert value["trusted"] is False and value["not_trusted"]["set-id"] == 1
    assert stat.S_IMODE(os.stat(shell).st_mode) == 0o755
    owner.quick("restore", str(gift), "--to", "back", "--trusted")
    assert stat.S_IMODE(os.stat(shell).st_mode) == 0o4755
