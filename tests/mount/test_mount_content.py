"""A dump of a member in which ids name other content than theirs: whoever reads it is told, as whoever verifies it is.

Its tags are right, since its writer has the realm's key.
"""

import os
from pathlib import Path

import pytest
from mount_kit import mounted, needs_fuse

from cli_kit import User
from dalsegno.formats import objects, pack, pack_header
from dalsegno.formats.pack_records import split_records
from dalsegno.pool.pack_read import open_note, read_opener
from dalsegno.pool.pack_verify import stream_blocks
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.pool.pool import Pool

SMALL, LARGE = 20_000, 3_000_000


def forge(good: Path, bad: Path, pool: Pool, *, length: int, kind: int = objects.KIND_CHUNK) -> None:
    """Write a dump again, with the first object of a kind and (about) a length changed under its old id."""
    realm, records = pool.realm, []
    with open(good, "rb") as stream:
        opener, _ = read_opener(stream.read, realm)
        note = open_note(opener.header, realm)
        stream.seek(0)
        for _, offset, _, block_type, raw in stream_blocks(stream, realm):
            if block_type in (pack.BLOCK_METADATA, pack.BLOCK_DATA):
                records += [(each[1], each[3], bytes(each[4])) for each in split_records(raw, offset=offset)]
    changed = next(n for n, (each, _, payload) in enumerate(records) if each == kind and len(payload) >= length)
    was = records[changed]
    records[changed] = (was[0], was[1], was[2][:-1] + bytes([was[2][-1] ^ 1]))
    with open(bad, "wb") as out:
        header = new_header(realm, kind=pack.PACK_DUMP, sealed=False, note=pack_header.encode_note(note))
        writer = PackWriter(out.write, realm=realm, header=header)
        for each, identity, payload in records:
            writer.put(each, identity, payload)
        writer.finish()


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    made = User(tmp_path_factory.mktemp("content"))
    (made.home / "doc").mkdir()
    (made.home / "doc" / "small").write_bytes(os.urandom(SMALL))
    made.quick("init", "--encryption", "none")
    made.quick("backup", "doc")
    made.quick("dump", "doc", "-o", "small.dump")
    (made.home / "doc" / "small").unlink()
    (made.home / "doc" / "large").write_bytes(os.urandom(LARGE))
    (made.home / "doc" / "whole").write_bytes(b"whole" * 10_000)
    made.quick("backup", "doc")
    made.quick("dump", "doc", "--level", "0", "-o", "large.dump")
    with Pool.open(made.home / "pool") as pool:
        forge(made.home / "small.dump", made.home / "bad-small.dump", pool, length=SMALL)
        forge(made.home / "large.dump", made.home / "bad-large.dump", pool, length=32 * 1024)
    return made


@pytest.mark.parametrize(("dump", "name"), [("bad-small.dump", "small"), ("bad-large.dump", "large")])
def test_content_that_is_not_what_its_id_says_is_not_restored(user: User, tmp_path: Path, dump: str, name: str) -> None:
    """A dump that verifies differently from what it restores."""
    assert b"disagree" in user.quick("verify", dump, code=5).out + user.quick("verify", dump, code=5).err
    done = user.quick("restore", dump, "--to", str(tmp_path / "back"), code=5)
    assert b"disagree" in done.err
    there = sorted(path.name for path in (tmp_path / "back").iterdir())
    assert there == (["whole"] if name == "large" else [])
    assert user.quick("cat", f"{dump}:/{name}", code=5).error
    good = dump.removeprefix("bad-")
    user.quick("restore", good, "--to", str(tmp_path / "good"))
    assert name in os.listdir(tmp_path / "good")


def test_a_comparison_does_not_count_on_such_content(user: User, tmp_path: Path) -> None:
    """A file that is taken for equal to what nobody backed up."""
    user.quick("restore", "large.dump", "--to", str(tmp_path / "back"))
    data = (tmp_path / "back" / "large").read_bytes()
    done = user.quick("restore", "bad-large.dump", "--to", str(tmp_path / "back"), "--compare", code=5)
    assert b"disagree" in done.err
    assert (tmp_path / "back" / "large").read_bytes() == data


@needs_fuse
@pytest.mark.parametrize(("dump", "name"), [("bad-small.dump", "small"), ("bad-large.dump", "large")])
def test_content_that_is_not_what_its_id_says_is_an_error_of_a_mount(user: User, dump: str, name: str) -> None:
    """The same for a mounted dump."""
    with mounted(user, dump) as mount, pytest.raises(OSError):
        (mount.path / name).read_bytes()
