"""What somebody with a copy of a pool's files learns, does, and does not: he has the disk, and no key.

What he can do is asserted as well: docs/guides/threats.md says it, and goes wrong when it changes.
"""

import random
import shutil
from pathlib import Path

import pytest
from cycle_kit import change, make_site

from cli_kit import User
from dalsegno.formats import pack

NAME, LINE = "diary-of-a-spy", b"the meeting is at the old mill\n"


def make_owner(home: Path, *words: str) -> User:
    user = User(home)
    (home / "doc").mkdir()
    (home / "doc" / NAME).write_bytes(LINE * 3000)
    user.quick("init", *words)
    user.quick("import", "private-affairs", "doc", before="import os; os.umask(0o022)")
    user.quick("clone", "private-affairs", "before-the-trial")
    return user


def thief(owner: User, *names: str) -> User:
    """Return somebody at another machine with a copy of these files of the owner's."""
    found = User(owner.home.parent / "thief")
    for name in names:
        (found.home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(owner.home / name, found.home / name)
    return found


def test_a_copy_of_a_sealed_pool_shows_no_content_and_no_name(tmp_path: Path) -> None:
    owner = make_owner(tmp_path / "owner", "--encryption", "keyfile")
    owner.quick("dump", "private-affairs", "-o", "full.dump")
    for path in [owner.home / "full.dump", *(owner.home / "pool").rglob("*")]:
        for secret in (NAME, LINE.decode(), "private-affairs", "before-the-trial"):
            assert secret not in str(path.relative_to(owner.home))
            assert path.is_dir() or secret.encode() not in path.read_bytes(), path
    other = thief(owner, "pool")
    assert "key" in other.quick("ls", "private-affairs", code=8).error
    shutil.copy(owner.home / "full.dump", other.home)
    other.quick("ls", "full.dump", code=8)


def test_a_copy_of_an_open_pool_shows_everything(tmp_path: Path) -> None:
    owner = make_owner(tmp_path / "owner", "--encryption", "none")
    other = thief(owner, "pool")
    assert other.quick("cat", f"private-affairs:/{NAME}").out == LINE * 3000


def test_a_key_that_lies_on_the_same_disk_is_copied_with_it(tmp_path: Path) -> None:
    owner = make_owner(tmp_path / "owner", "--encryption", "keyfile")
    other = thief(owner, "pool", ".config/dalsegno/keys")
    assert other.quick("cat", f"private-affairs:/{NAME}").out == LINE * 3000


def test_a_passphrase_that_is_on_no_disk_is_not_copied(tmp_path: Path) -> None:
    home = tmp_path / "owner"
    home.mkdir()
    owner = User(home, {"DAL_PASSPHRASE": "eleven words that nobody else would think of"})
    owner.quick("init", "--encryption", "passphrase")
    (home / "doc").mkdir()
    owner.quick("import", "v", "doc")
    other = User(tmp_path / "thief")
    shutil.copytree(home, other.home, dirs_exist_ok=True)
    assert "passphrase" in other.quick("ls", "v", code=2).error
    other.quick("ls", "v", code=8, DAL_PASSPHRASE="a guess")


def test_whoever_looks_at_the_disk_sees_how_many_volumes_there_are_and_how_much_came_when(tmp_path: Path) -> None:
    """The other side of the promise: number and size of what is stored are seen, to within a step of the padding."""
    owner = make_owner(tmp_path / "owner", "--encryption", "keyfile")
    pool = owner.home / "pool"
    assert len(list((pool / "refs" / "volumes").iterdir())) == 1
    chance = random.Random(5)
    seen = []
    for size in (200_000, 200_050, 900_000):
        (owner.home / "doc" / "new").write_bytes(chance.randbytes(size))
        before = set(pool.rglob("*.pack"))
        owner.quick("import", "private-affairs", "doc")
        new = set(pool.rglob("*.pack")) - before
        assert new and all(path.stat().st_mtime_ns for path in new)
        seen.append(sum(path.stat().st_size for path in new))
    assert abs(seen[0] - seen[1]) < 20_000 < 600_000 < seen[2] - seen[1]
    assert 200_000 < seen[0] < 250_000, "what a backup added is seen, if not to the byte"


def block_sizes(pool: Path) -> list[int]:
    """Return the sizes of all blocks in a pool's packs, as who has no key reads them."""
    found = []
    for path in (pool / "packs").rglob("*.pack"):
        data = path.read_bytes()
        _, _, _, header_bytes = pack.PREAMBLE.unpack_from(data)
        offset = pack.PREAMBLE.size + header_bytes + pack.HEADER_DIGEST_BYTES
        while offset < len(data) - pack.FOOTER.size:
            (size,) = pack.FRAME.unpack_from(data, offset)
            found.append(size)
            offset += pack.FRAME.size + size
    return found


def store(home: Path, contents: dict[str, bytes]) -> list[int]:
    """Return the sizes of the blocks that a backup of these files makes in a pool with a key of its own."""
    user = User(home)
    (home / "doc").mkdir()
    for name, content in contents.items():
        (home / "doc" / name).write_bytes(content)
    user.quick("init", "--encryption", "keyfile")
    user.quick("import", "doc", "doc")
    return block_sizes(home / "pool")


def test_small_files_that_somebody_has_too_are_recognised_by_the_size_of_their_block(tmp_path: Path) -> None:
    """The other side: no file of at most 128 KiB is cut, so a known directory of them has a size of its own."""
    words = (b"int ", b"main", b"(", b"){", b"\n", b"x")
    chance = random.Random(11)
    known = {f"{number}.c": b"".join(chance.choices(words, k=2000)) for number in range(99)}
    other = {f"{number}.c": b"".join(chance.choices(words, k=2200)) for number in range(99)}
    own = store(tmp_path / "thief", known)
    largest = max(own)
    assert largest in store(tmp_path / "owner", known), "he finds what he had to look for"
    assert largest not in store(tmp_path / "another", other)


def test_the_blocks_of_a_large_file_that_somebody_has_too_have_other_sizes(tmp_path: Path) -> None:
    """Kind: who has a file looks for the row of sizes that its pieces make. Its whole size is seen, and no more."""
    large = {"film": random.Random(12).randbytes(30_000_000)}
    one, other = (sorted(store(tmp_path / name, large))[-7:] for name in ("one", "other"))
    assert len(set(one) & set(other)) < 7, "sizes of blocks follow from the realm's secret, too"
    assert abs(sum(one) - sum(other)) < 0.02 * sum(one), "the size of it all is seen"


def test_a_machine_that_was_never_there_believes_an_older_state(tmp_path: Path) -> None:
    """The other side: what was seen is remembered by those who saw it, and by nobody else."""
    owner = make_owner(tmp_path / "owner", "--encryption", "keyfile")
    old = shutil.copytree(owner.home / "pool", tmp_path / "old")
    (owner.home / "doc" / "later").write_text("x")
    owner.quick("import", "private-affairs", "doc")
    shutil.rmtree(owner.home / "pool")
    shutil.copytree(old, owner.home / "pool")
    owner.quick("ls", "private-affairs", code=4)
    new = User(tmp_path / "new", {"DAL_POOL": str(owner.home / "pool")})
    shutil.copytree(owner.home / ".config", new.home / ".config")
    assert new.quick("ls", "private-affairs").out.decode() == f"{NAME}\n"


@pytest.mark.parametrize("what", ["packs", "refs"])
def test_what_was_deleted_on_the_disk_is_missed(tmp_path: Path, what: str) -> None:
    owner = make_owner(tmp_path / "owner", "--encryption", "keyfile")
    files = [path for path in (owner.home / "pool" / what).rglob("*") if path.is_file()]
    for path in files:
        path.unlink()
    if what == "packs":
        owner.quick("verify", "--pool", code=5)
        owner.quick("restore", "private-affairs", "--to", "back", code=5)
    else:
        assert "removed from another machine, or this is an older copy" in owner.quick("doctor").out.decode()


def test_packs_that_were_exchanged_are_no_packs_of_that_name(tmp_path: Path) -> None:
    """Kind of fault: two good files, each in the other's place."""
    owner = make_owner(tmp_path / "owner", "--encryption", "keyfile")
    (owner.home / "doc" / NAME).write_bytes(LINE * 4000)
    owner.quick("import", "private-affairs", "doc")
    one, other, *_ = sorted((owner.home / "pool" / "packs").rglob("*.pack"))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    owner.quick("verify", "--pool", code=5)
    found = owner.quick("cat", f"private-affairs:/{NAME}", code=(0, 5)).out
    assert (LINE * 4000).startswith(found), "what is not right is not given out"


def test_a_passphrase_that_was_changed_opens_with_the_settings_of_its_time(tmp_path: Path) -> None:
    """The other side of a changed passphrase: the key behind it stays, and so do copies of what it was wrapped in."""
    owner = User(tmp_path / "owner", {"DAL_PASSPHRASE": "seen over a shoulder"})
    (owner.home / "doc").mkdir()
    owner.quick("init", "--encryption", "passphrase")
    owner.quick("import", "v", "doc")
    settings = owner.home / "pool" / "pool.toml"
    old = settings.read_bytes()
    owner.quick("key", "passphrase", DAL_NEW_PASSPHRASE="seen by nobody")
    other = thief(owner, "pool")
    other.quick("ls", "v", code=8, DAL_PASSPHRASE="seen over a shoulder")
    (other.home / "pool" / "pool.toml").write_bytes(old)
    other.quick("ls", "v", DAL_PASSPHRASE="seen over a shoulder")


def test_a_policys_catalog_remembers_where_this_machine_does_not(tmp_path: Path) -> None:
    """Kind of fault: an older pool that nobody at this machine has seen newer."""
    site = make_site(tmp_path)
    site.back_up(0)
    old = shutil.copytree(site.home / "pool" / "refs", tmp_path / "old")
    change(site, "later")
    site.back_up(1)
    assert "the catalog has a dump" not in site.quick("doctor", code=(0, 1)).out.decode()
    shutil.rmtree(site.home / "pool" / "refs")
    shutil.copytree(old, site.home / "pool" / "refs")
    shutil.rmtree(site.home / ".local/state/dalsegno/known")
    assert "the catalog has a dump" in site.quick("doctor", code=1).out.decode()


def test_members_of_the_owners_group_may_look_into_a_pool(tmp_path: Path) -> None:
    """The other side: an ordinary umask lets the group in, so a pool can be shared; nobody else."""
    owner = make_owner(tmp_path / "owner", "--encryption", "none")
    modes = {path.stat().st_mode for path in (owner.home / "pool").rglob("*.pack")}
    assert (owner.home / "pool").stat().st_mode & 0o777 == 0o750
    assert all(mode & 0o040 for mode in modes)
