"""Dumps of strangers: they end where they say, fill no disk, and bring nothing that root would run or open."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_bad_input import Forger, a_directory, a_file

from cli_kit import User, tree
from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryLeaf, RecipeLeaf, RecipeList
from dalsegno.terms.sizes import MIB
from dalsegno.trees.limit import BYTES_MORE, ENTRIES_MORE

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="NOT TESTED: only root makes devices and set-id files of others"
)


@pytest.fixture
def user(tmp_path: Path) -> User:
    user = User(tmp_path / "home")
    user.quick("init", "--encryption", "none")
    return user


@pytest.fixture
def forger(user: User) -> Forger:
    return Forger(user)


def test_a_kilobyte_of_directories_ends_every_reader(user: User, forger: Forger) -> None:
    """Kind: a dump of two kilobytes stands for 10^16 files, and nobody counts."""
    below = forger.put(objects.KIND_DIRECTORY, DirectoryLeaf([a_file(b"f")]))
    for _ in range(8):
        leaf = DirectoryLeaf([a_directory(b"%02d" % number, below) for number in range(100)])
        below = forger.put(objects.KIND_DIRECTORY, leaf)
    forger.write(forger.revision(below))
    assert forger.path.stat().st_size < 4096
    user.quick("verify", "evil.dump")
    for words in (
        ["ls", "-R", "evil.dump"],
        ["find", "*nowhere*", "evil.dump"],
        ["restore", "evil.dump", "--to", "back"],
    ):
        done = user.quick(*words, code=5)
        assert b"goes on beyond the 3 files" in done.err, words
    assert 0 < len(tree(user.home / "back")) <= ENTRIES_MORE + 10
    user.quick("restore", "evil.dump", "--to", "dry", "--dry-run", code=5)


def test_a_chunk_repeated_for_ever_ends_at_what_the_revision_says(user: User, forger: Forger) -> None:
    """Kind: half a megabyte that becomes all that fits on the disk."""
    chunk = forger.put(objects.KIND_CHUNK, bytes(range(256)) * 4096)
    ids, ends = [chunk] * 500, [MIB * (number + 1) for number in range(500)]
    content, size = forger.put(objects.KIND_RECIPE, RecipeLeaf(ends, ids)), 500 * MIB
    for level in (1, 2):
        top = RecipeList(level, [size * (number + 1) for number in range(500)], [content] * 500)
        content, size = forger.put(objects.KIND_RECIPE, top), 500 * size
    forger.write(forger.tree(a_file(b"f", content_kind=objects.CONTENT_RECIPE, content=content, size=size)))
    # A larger file cannot be made: then it would end with another error.
    most = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({BYTES_MORE + 16 * MIB},) * 2)"
    done = user.quick("restore", "evil.dump", "--to", "back", "--any-size", code=5, before=most)
    assert b"that its revision speaks of" in done.err


def make_stranger(user: User, *more: str) -> User:
    """Return somebody with a pool of the same realm, who sends a dump of files that mean harm."""
    user.quick("volume", "create", "known")
    stranger = User(user.home.parent / "stranger")
    key = user.home / "pool.key"
    user.quick("key", "export", str(key))
    stranger.quick("init", "--join", str(key))
    doc = stranger.home / "doc"
    doc.mkdir()
    (doc / "plain").write_text("plain")
    (doc / "shell").write_text("#!/bin/sh\nid\n")
    (doc / "shell").chmod(0o6755)
    os.setxattr(doc / "plain", "user.note", b"kept")
    if os.geteuid() == 0:
        os.chown(doc / "plain", 12345, 12345)
        os.mknod(doc / "disk", 0o660 | stat.S_IFBLK, os.makedev(8, 0))
        os.link(doc / "disk", doc / "disk2")
        os.setxattr(doc / "plain", "trusted.x", b"1")
        os.setxattr(doc / "shell", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    stranger.quick("backup", str(doc))
    stranger.quick("dump", "doc", "-o", str(user.home / "sent.dump"), *more)
    return stranger


@needs_root
def test_a_strangers_dump_brings_no_rights_with_it(user: User) -> None:
    """Kind: whoever restores as root what he was sent gets set-uid root, a disk that all may write, capabilities."""
    make_stranger(user)
    done = user.quick("restore", "sent.dump", "--to", "back", code=3)
    back = user.home / "back"
    assert sorted(each.name for each in back.iterdir()) == ["plain", "shell"]
    assert stat.S_IMODE((back / "shell").stat().st_mode) == 0o755
    assert (back / "plain").stat().st_uid == 0 and os.listxattr(back / "plain") == ["user.note"]
    assert os.listxattr(back / "shell") == []
    said = done.out.decode()
    for word in ("1 set-id", "2 devices", "2 security or trusted attributes", "--trusted"):
        assert word in said, said
    value = user.value("restore", "sent.dump", "--to", "again", "--untrusted")
    assert value["trusted"] is False and value["not_trusted"]["device"] == 2
    user.quick("restore", "sent.dump", "--to", "again", "--untrusted")  # said by himself, and nothing to do
    user.quick("restore", "sent.dump", "--to", "all", "--trusted")
    shell = user.home / "all" / "shell"
    assert stat.S_IMODE(shell.stat().st_mode) == 0o6755 and os.listxattr(shell) == ["security.capability"]
    assert stat.S_ISBLK((user.home / "all" / "disk").stat().st_mode)


@needs_root
def test_a_dump_of_an_own_volume_is_trusted(user: User) -> None:
    stranger = make_stranger(user)
    stranger.quick("restore", str(user.home / "sent.dump"), "--to", "back")
    assert stat.S_IMODE((stranger.home / "back" / "shell").stat().st_mode) == 0o6755
    value = stranger.value("restore", str(user.home / "sent.dump"), "--to", "less", "--untrusted")
    assert value["not_trusted"]["set-id"] == 1
    assert stat.S_IMODE((stranger.home / "less" / "shell").stat().st_mode) == 0o755


@pytest.fixture
def small(user: User) -> Iterator[Path]:
    """A disk of 3.4 MiB."""
    place = user.home / "small"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3500k,nr_inodes=200", "tmpfs", place], check=False
    ).returncode:
        pytest.skip("A SMALL DISK IS NOT TESTED: no tmpfs can be mounted")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_restore_that_has_no_room_does_not_begin(user: User, small: Path) -> None:
    """Kind: hours of restoring that end on a full disk."""
    doc = user.home / "doc"
    doc.mkdir()
    for number in range(4):
        (doc / f"f{number}").write_bytes(os.urandom(MIB))
    with open(doc / "sparse", "wb") as file:
        file.write(b"x" * 5000)
        file.truncate(50 * MIB)
    user.quick("backup", str(doc))
    said = user.quick("restore", "doc", "--to", str(small / "back"), code=10).error
    assert "4.0 MiB more" in said and "is free" in said and "nothing was written" in said
    assert list(small.iterdir()) == []
    done = user.quick("restore", "doc", "--to", str(small / "back"), "--dry-run")
    assert b"not enough room" in done.out
    paths = ["--path", "f0", "--path", "f1", "--path", "sparse"]
    user.quick("restore", "doc", "--to", str(small / "back"), *paths)  # holes take no room
    (small / "back" / "f0").write_bytes(os.urandom(MIB))
    user.quick("restore", "doc", "--to", str(small / "back"), *paths)  # nor do files that are replaced
    user.quick("restore", "doc", "--to", str(small / "more"), "--any-size", code=10)
    assert (small / "more").exists()


def test_a_restore_of_more_files_than_a_disk_takes_does_not_begin(user: User, small: Path) -> None:
    doc = user.home / "doc"
    doc.mkdir()
    for number in range(300):
        (doc / f"f{number}").touch()
    user.quick("backup", str(doc))
    assert "new files" in user.quick("restore", "doc", "--to", str(small / "back"), code=10).error
    assert list(small.iterdir()) == []
