"""What the world may throw at `dal`: wrong words, wrong keys, hostile dumps, hostile directories.

Every answer is one line with its exit code, in bounded memory and time, and nothing outside the target is written.
"""

import functools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from cli_kit import User, tree
from dalsegno.assembly.local import open_pool
from dalsegno.chunks.realm import Realm
from dalsegno.formats import objects, pack, pack_footer, pack_header
from dalsegno.formats.objects import (
    DirectoryChild,
    DirectoryLeaf,
    DirectoryList,
    Entry,
    RecipeLeaf,
    RecipeList,
    Revision,
)
from dalsegno.formats.pack_index import encode_place
from dalsegno.formats.pack_trailer import encode_trailer
from dalsegno.pool.pack_write import BlockSealer, new_header

SEED = 20261121
MIB = 1024 * 1024
MEMORY_MIB_MAX = 300
SECONDS_MAX = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an open pool, a volume of three clones, and a chain of three dumps."""
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    user = User(tmp_path_factory.mktemp("made") / "home")
    doc = user.home / "doc"
    (doc / "sub").mkdir(parents=True)
    (doc / "note").write_text("a small file\n")
    user.quick("init", "--encryption", "none")
    for number in range(3):
        (doc / "sub" / "data").write_bytes(chance.randbytes(40_000))
        (doc / f"new{number}").write_bytes(chance.randbytes(5000))
        user.quick("backup", "doc", "--name", f"c{number}")
        user.quick("dump", f"doc@c{number}", "--level", str(number), "-o", f"d{number}.dump")
    (user.home / "plain.txt").write_text("not a dump\n" * 100)
    (user.home / "empty").touch()
    (user.home / "dir").mkdir()
    (user.home / "binary").write_bytes(b"\xff\xfe\x00")
    (user.home / "badmap").write_text("user root\n")
    (user.home / "noone").write_text("user root no-such-user-here\n")
    (user.home / "full-dir").mkdir()
    (user.home / "full-dir" / "mine").write_text("mine")
    shutil.copy(user.home / "d0.dump", user.home / "cut.dump")
    os.truncate(user.home / "cut.dump", 20_000)
    shutil.copytree(user.home, user.home.with_name("kept"), symlinks=True)
    return user.home


@pytest.fixture
def user(made: Path) -> User:
    shutil.rmtree(made)
    shutil.copytree(made.with_name("kept"), made, symlinks=True)
    return User(made)


# Wrong words

WRONG: list[tuple[str, int]] = [
    ("", 2),
    ("frobnicate", 2),
    ("ls doc extra words", 2),
    ("ls --frobnicate doc", 2),
    ("ls nothing", 6),
    ("ls doc@nothing", 6),
    ("ls doc@#ffff", 6),
    ("ls doc@1999-01-01", 6),
    ("ls doc@0001-01-01", 6),
    ("ls doc@9999-12-31T23:59:59", 0),
    ("ls doc@9999-12-31", 0),
    ("ls doc@2026-02-31", 6),
    ("ls doc@99999999999999d", 6),
    ("ls doc@999999999w", 6),
    ("ls doc:/nothing", 6),
    ("ls doc:/note/below", 6),
    ("ls @c0", 2),
    ("ls //server/doc", 6),
    ("ls \udcff\udcfe", 6),
    ("ls doc@\udcff", 6),
    ("ls plain.txt", 5),
    ("ls empty", 5),
    ("ls dir", 6),
    ("ls no.dump", 6),
    ("ls d1.dump", 4),
    ("ls d0.dump+no.dump", 6),
    ("ls d0.dump@nothing", 6),
    ("cat doc", 2),
    ("cat doc:/", 2),
    ("cat doc:/sub", 2),
    ("cat doc:/nothing", 6),
    ("find", 2),
    ("find * nothing", 6),
    ("diff doc@c0 nothing", 6),
    ("diff doc@c0 doc@nothing", 6),
    ("versions doc", 2),
    ("versions nothing:/x", 6),
    ("versions d0.dump:/note", 6),
    ("log nothing", 6),
    ("log doc -n x", 2),
    ("log doc -n -1", 2),
    ("clones nothing", 6),
    ("clone nothing", 6),
    ("clone doc c0", 4),
    ("clone doc latest", 2),
    ("clone doc a/b", 2),
    ("clone doc ..", 2),
    ("clone doc \udcff", 2),
    ("unclone doc", 2),
    ("unclone doc@nothing", 6),
    ("hold doc", 2),
    ("hold doc@nothing", 6),
    ("volume", 2),
    ("volume frobnicate", 2),
    ("volume show nothing", 6),
    ("volume create doc", 4),
    ("volume create a/b", 2),
    ("volume create ..", 2),
    ("volume create v --source nothing", 6),
    ("volume create v --source plain.txt", 6),
    ("volume create v --exclude-larger-than much", 2),
    ("volume create " + "v" * 300, 2),
    ("volume rename nothing x", 6),
    ("volume rename doc a@b", 2),
    ("volume remove nothing", 6),
    ("volume remove doc", 4),
    ("backup nothing", 6),
    ("backup ./nothing", 6),
    ("backup plain.txt", 6),
    ("backup pool", 4),
    ("backup doc --name c0", 4),
    ("backup doc --name latest", 2),
    ("backup doc --exclude-larger-than -5", 2),
    ("import doc dir", 2),
    ("import other nothing", 6),
    ("import other plain.txt", 6),
    ("import a/b dir", 2),
    ("dump nothing", 6),
    ("dump doc --level 10", 2),
    ("dump doc --level -1", 2),
    ("dump doc --level one", 2),
    ("dump doc@c2..c0 -o x.dump", 2),
    ("dump doc:/sub -o x.dump", 2),
    ("dump doc -o nothing/x.dump", 6),
    ("dump doc -o plain.txt/x.dump", (1, 2, 4, 6)),  # type: ignore[list-item]
    ("mark plain.txt", 5),
    ("mark nothing.dump", 6),
    ("mark dir", (1, 2, 4, 5)),  # type: ignore[list-item]
    ("estimate nothing", 6),
    ("estimate doc --level 99", 2),
    ("merge -o x.dump d0.dump", 2),
    ("merge d0.dump d1.dump", 2),
    ("merge -o x.dump d0.dump nothing.dump", 6),
    ("merge -o x.dump d0.dump plain.txt", 5),
    ("merge -o x.dump d0.dump cut.dump", 5),
    ("merge -o x.dump d0.dump dir", (1, 2, 4, 5)),  # type: ignore[list-item]
    ("merge -o x.dump d0.dump d2.dump", 4),
    ("merge -o dir d0.dump d1.dump", 4),
    ("merge -o x.dump d1.dump d0.dump", 4),
    ("merge -o x.dump d0.dump d0.dump", 4),
    ("merge -o d0.dump d0.dump d1.dump", 4),
    ("merge -o nothing/x.dump d0.dump d1.dump", 6),
    ("inspect plain.txt", 5),
    ("inspect empty", 5),
    ("inspect nothing.dump", 6),
    ("inspect dir", (1, 2, 4, 5)),  # type: ignore[list-item]
    ("verify nothing.dump", 6),
    ("verify --salvage x.dump", 2),
    ("verify --salvage d0.dump d1.dump", 4),
    ("verify --salvage x.dump plain.txt", 5),
    ("verify --salvage x.dump nothing.dump", 6),
    ("restore doc", 2),
    ("restore doc --to back --volume v", 2),
    ("restore nothing --to back", 6),
    ("restore doc --to plain.txt", 4),
    ("restore doc --to nothing/back", 6),
    ("restore doc --to back --path ../x", 2),
    ("restore doc --to back --path nothing", 6),
    ("restore doc --to back --owners nobody", 2),
    ("restore doc --to back --owners map:nothing", 6),
    ("restore doc --to back --owners map:badmap", 2),
    ("restore doc --to back --owners map:noone", 2),
    ("restore doc --to back --owners map:binary", 2),
    ("restore doc --volume v", 2),
    ("restore d0.dump --volume doc", 4),
    ("restore d1.dump --volume v", 4),
    ("restore d1.dump --to back", 4),
    ("restore d0.dump --volume a/b", 2),
    ("restore d0.dump --volume v --delete", 2),
    ("restore cut.dump --volume v", 5),
    ("restore cut.dump --to back", 5),
    ("init pool", 4),
    ("init full-dir", 4),
    ("init plain.txt", 4),
    ("init x --encryption rot13", 2),
    ("gc --grace soon", 2),
    ("gc --grace -1h", 2),
    ("key frobnicate", 2),
    ("key export", 2),
    ("completion frobnicate", 2),
    ("--pool nothing ls doc", 6),
    ("--pool plain.txt ls doc", 6),
    ("--pool dir ls doc", 6),
    ("--pool dir verify --pool", 6),
    ("status --pool nothing", 6),
]


@pytest.mark.parametrize(("line", "code"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_wrong_words_get_one_line_and_their_exit_code(user: User, line: str, code: int) -> None:
    before = {path: path.read_bytes() for path in user.home.glob("*.dump")}
    words = line.split(" ") if line else []
    codes = code if isinstance(code, tuple) else (code,)
    done = user.quick(*words, code=codes)
    if done.code != 0 and words:
        assert done.err.count(b"\n") == 1 and len(done.error) > len("dal: error: ") + 8, done.err
        said = user.quick("--json", *words, code=done.code).err
        value = json.loads(said.decode(errors="surrogateescape"))
        assert value["error"]["exit_code"] == done.code and value["error"]["message"]
    for path, data in before.items():
        assert path.read_bytes() == data, f"{line}: changed {path.name}"
    assert not (user.home / "x.dump").exists() and not list(user.home.glob("*.partial"))
    assert (user.home / "full-dir" / "mine").read_text() == "mine"


def test_a_table_of_wrong_words_is_not_all_of_one_kind() -> None:
    codes = {code for _, code in WRONG if isinstance(code, int)}
    assert len(WRONG) >= 100 and {2, 4, 5, 6} <= codes


def test_the_real_command_says_the_same_as_the_forked_one(user: User) -> None:
    for words, code in (
        (["ls", "nothing"], 6),
        (["frobnicate"], 2),
        (["merge", "-o", "x.dump", "d0.dump", "d2.dump"], 4),
    ):
        assert user.run(*words, code=code).err == user.quick(*words, code=code).err


# Wrong keys


def test_wrong_passphrase_and_none_are_told_apart(tmp_path: Path) -> None:
    user = User(tmp_path / "home")
    (user.home / "doc").mkdir()
    user.run("init", "--encryption", "passphrase", DAL_PASSPHRASE="right")
    user.quick("backup", "doc", DAL_PASSPHRASE="right")
    assert "wrong passphrase" in user.quick("ls", "doc", code=8, DAL_PASSPHRASE="wrong").error
    assert "wrong passphrase" in user.quick("verify", "--pool", code=8, DAL_PASSPHRASE="").error
    assert "DAL_PASSPHRASE" in user.run("ls", "doc", code=2).error
    (user.home / "word").write_text("right\n")
    user.quick("ls", "doc", DAL_PASSPHRASE_FILE="word")
    assert user.quick("ls", "doc", code=6, DAL_PASSPHRASE_FILE="nothing").error
    for name, data in (("empty", b""), ("binary", b"\xff\xfe\x00\n")):
        (user.home / name).write_bytes(data)
        assert name in user.quick("ls", "doc", code=2, DAL_PASSPHRASE_FILE=name).error


def test_missing_wrong_and_foreign_key_files_are_no_access(tmp_path: Path) -> None:
    user = User(tmp_path / "home")
    (user.home / "doc").mkdir()
    user.quick("init", "--key", "own.key")
    user.quick("backup", "doc", "--key", "own.key")
    user.quick("dump", "doc", "-o", "d.dump", "--key", "own.key")
    user.quick("--pool", "other", "init", "--key", "other.key")
    (user.home / "garbage").write_bytes(os.urandom(200))
    for key in ("nothing.key", "other.key", "garbage"):
        for words in (["ls", "doc"], ["verify", "d.dump"], ["restore", "d.dump", "--to", "back"], ["backup", "doc"]):
            assert key in user.quick(*words, "--key", key, code=8).error
    assert "--key" in user.quick("ls", "doc", code=8).error
    assert not (user.home / "back").exists()
    user.quick("ls", "doc", "--key", "own.key")


def test_a_dump_of_another_realm_is_refused_naming_both(user: User) -> None:
    other = User(user.home, {"DAL_POOL": str(user.home / "foreign")})
    other.quick("init", "--encryption", "none")
    realms = []
    for one in (user, other):
        with open_pool(Path(one.environ({})["DAL_POOL"])) as house:
            realms.append(house.pool.realm.realm_id.hex()[:8])
    for words in (
        ["inspect", "d0.dump"],
        ["verify", "d0.dump"],
        ["ls", "d0.dump"],
        ["mark", "d0.dump"],
        ["merge", "-o", "x.dump", "d0.dump", "d1.dump"],
        ["restore", "d0.dump", "--to", "back"],
        ["restore", "d0.dump", "--volume", "doc"],
    ):
        error = other.quick(*words, code=4).error
        assert all(realm in error for realm in realms), error
    assert not (user.home / "back").exists() and other.value("volume", "list") == []


# Damaged dumps


def test_a_truncated_dump_over_an_existing_volume_touches_nothing(user: User) -> None:
    user.quick("volume", "create", "living")
    user.quick("restore", "d0.dump", "--volume", "copy")
    before = user.value("volume", "list")
    packs = sorted((user.home / "pool" / "packs").rglob("*.pack"))
    whole = (user.home / "d1.dump").read_bytes()
    for cut in (0, 10, 100, len(whole) // 2, len(whole) - 100, len(whole) - 56, len(whole) - 1):
        (user.home / "d1.dump").write_bytes(whole[:cut])
        for volume in ("doc", "copy", "living", "new"):
            user.quick("restore", "d1.dump", "--volume", volume, code=5)
        assert user.value("volume", "list") == before
        assert sorted((user.home / "pool" / "packs").rglob("*.pack")) == packs
    user.quick("restore", "doc@c0", "--to", "back")
    assert (user.home / "back" / "note").read_text() == "a small file\n"
    (user.home / "d1.dump").write_bytes(whole)
    user.quick("restore", "d1.dump", "--volume", "copy")


def places(data: bytes) -> list[int]:
    """One offset in every part of a pack: preamble, header, block frames, bodies, tags, index, trailer, footer."""
    header_end = 16 + int.from_bytes(data[12:16], "little") + 16
    found = [0, 8, 12, 20, header_end - 1, header_end]
    at = header_end
    footer = len(data) - 56
    while at < footer:
        stored = int.from_bytes(data[at : at + 4], "little")
        found += [at, at + 4, at + 8, at + 9, at + 4 + stored // 2, at + 4 + stored - 1]
        at += 4 + stored
    assert at == footer, "the test misreads the format"
    return sorted({*found, footer, footer + 8, footer + 12, footer + 20, footer + 30, len(data) - 8, len(data) - 1})


def test_every_kind_of_truncation_is_found_with_its_offset(user: User) -> None:
    whole = (user.home / "d0.dump").read_bytes()
    for cut in places(whole):
        (user.home / "d0.dump").write_bytes(whole[:cut])
        done = user.quick("verify", "d0.dump", code=5)
        assert b"offset" in done.out + done.err, cut
    (user.home / "d0.dump").write_bytes(whole + b"x")
    user.quick("verify", "d0.dump", code=5)


def test_every_kind_of_flipped_bit_is_found(user: User) -> None:
    chance = random.Random(SEED)
    whole = (user.home / "d0.dump").read_bytes()
    offsets = 0
    for place in (*places(whole), *(chance.randrange(len(whole)) for _ in range(20))):
        data = bytearray(whole)
        data[place] ^= 1 << chance.randrange(8)
        (user.home / "d0.dump").write_bytes(data)
        done = user.quick("verify", "d0.dump", code=(4, 5))
        assert done.code == 5 or place in (8, 9) or "newer" in done.error or "realm" in done.error, place
        offsets += b"offset" in done.out + done.err
    assert offsets > 30


def test_damage_is_found_through_a_pipe_too(user: User) -> None:
    whole = (user.home / "d0.dump").read_bytes()

    def verify(data: bytes) -> int:
        done = subprocess.run(
            [*user.command(), "verify", "-"], cwd=user.home, env=user.environ({}), input=data, capture_output=True
        )
        assert b"Traceback" not in done.stderr and b"internal" not in done.stderr
        return done.returncode

    assert verify(whole) == 0
    assert verify(whole[:-1]) == 5 and verify(whole[: len(whole) // 2]) == 5 and verify(b"") == 5
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    assert verify(bytes(flipped)) == 5
    assert verify(os.urandom(5000)) == 5


def blocks_of(data: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Cut a pack into head, stored blocks, and footer."""
    at = 16 + int.from_bytes(data[12:16], "little") + 16
    head, blocks = data[:at], []
    while at < len(data) - 56:
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        blocks.append(data[at:end])
        at = end
    return head, blocks, data[at:]


def test_spliced_reordered_and_repeated_blocks_are_found(user: User) -> None:
    """Commands say where. That blocks which are of one size are told apart, too: dumps/test_dumps.py."""
    first, second = ((user.home / name).read_bytes() for name in ("d0.dump", "d1.dump"))
    head, blocks, footer = blocks_of(first)
    _, foreign, _ = blocks_of(second)
    assert len(blocks) >= 4
    lies = {
        "swapped": [blocks[1], blocks[0], *blocks[2:]],
        "repeated": [blocks[0], blocks[0], *blocks[1:]],
        "dropped": blocks[1:],
        "spliced": [foreign[0], *blocks[1:]],
        "foreign index": [*blocks[:-2], *foreign[-2:]],
    }
    for name, lie in lies.items():
        (user.home / "lie.dump").write_bytes(head + b"".join(lie) + footer)
        for words in (["verify", "lie.dump"], ["restore", "lie.dump", "--volume", "new"]):
            done = user.quick(*words, code=5)
            assert b"offset" in done.out + done.err, name
    assert "new" not in {volume["volume"] for volume in user.value("volume", "list")}


# Hostile dumps: whole, with right tags and digests, written by somebody who has the key and means harm


class Forger:
    """Writes dumps of an open realm with whatever in them, by the page `docs/formats/pack.md`."""

    def __init__(self, user: User) -> None:
        self.path = user.home / "evil.dump"
        with open_pool(user.home / "pool") as house:
            self.realm: Realm = house.pool.realm
        self.records: list[tuple[int, bytes, bytes]] = []

    def put(self, kind: int, value: object, identity: bytes = b"") -> bytes:
        payload = value if isinstance(value, bytes) else objects.encode(value)
        identity = identity or bytes(self.realm.identify(kind, payload))
        self.records.append((kind, identity, payload))
        return identity

    def revision(self, content: bytes, *, links: bytes = b"") -> bytes:
        root = Entry(
            name=b"",
            kind=objects.ENTRY_DIRECTORY,
            mode=0o755,
            content_kind=objects.CONTENT_DIRECTORY,
            content=content,
        )
        value = Revision(
            volume=bytes(16),
            parents=[],
            root=root,
            links=links,
            created_ns=1,
            author="",
            message="",
            entry_count=3,
            total_bytes=3,
        )
        return self.put(objects.KIND_REVISION, value)

    def tree(self, *entries: Entry) -> bytes:
        return self.revision(self.put(objects.KIND_DIRECTORY, DirectoryLeaf(list(entries))))

    def write(
        self,
        revision: bytes,
        *,
        extra: Sequence[tuple[int, bytes, int]] = (),
        object_count: int | None = None,
        claims: dict[int, int] | None = None,
        trailer: tuple[bytes, int] | None = None,
        base: bytes = b"",
        lengths: dict[bytes, int] | None = None,
    ) -> None:
        """Write the dump: `extra` blocks are (type, zstd frame, raw bytes).

        `claims` replace a type's sizes in the table of blocks, `lengths` those of objects in the index.
        """
        target = pack_header.DumpTarget(revision=revision, clone="evil", created_ns=1, entry_count=3, total_bytes=3)
        note = pack_header.DumpNote(
            volume=bytes(16),
            volume_name="evil",
            level=1 if base else 0,
            targets=[target],
            bases=[base] if base else [],
            base_dump=bytes(16) if base else b"",
            merged=[],
            taken_at_ns=1,
        )
        header, _ = new_header(self.realm, kind=pack.PACK_DUMP, sealed=False, note=pack_header.encode_note(note))
        front = pack_header.encode_front(header)
        sealer = BlockSealer(key=b"", block_key=self.realm.block_key, header_digest=pack_header.header_digest(front))
        squeeze = zstandard.ZstdCompressor().compress
        raw, rows = bytearray(), []
        for kind, identity, payload in self.records:
            length = (lengths or {}).get(identity, len(payload))
            rows.append(
                identity + b"".join(n.to_bytes(4, "little") for n in (0, encode_place(len(raw), kind), length, 0))
            )
            raw += pack.RECORD.pack(kind, 0, len(payload), identity) + payload
        rows.sort()
        index = b"".join(rows)
        blocks = [(pack.BLOCK_METADATA, squeeze(bytes(raw)), len(raw)), *extra]
        blocks.append((pack.BLOCK_INDEX, squeeze(index), len(index)))
        out = bytearray(front)
        offsets, stored, raws, types = array("Q"), array("I"), array("I"), bytearray()
        for number, (block_type, body, size) in enumerate(blocks):
            block = sealer.seal_compressed(body, size, block_type, number)
            offsets.append(len(out))
            stored.append(len(block) - pack.FRAME.size)
            raws.append((claims or {}).get(block_type, size))
            types.append(block_type)
            out += block
        count = len(rows) if object_count is None else object_count
        table = encode_trailer(offsets, stored, raws, types, [index[:32]], count)
        place = len(out)
        block = sealer.seal_compressed(*(trailer or (squeeze(table), len(table))), pack.BLOCK_TRAILER, len(blocks))
        out += block
        out += pack_footer.encode_fields(trailer_offset=place, trailer_bytes=len(block), block_count=len(blocks))
        out += pack_footer.encode_end(blake3(out).digest())
        self.path.write_bytes(out)


@pytest.fixture
def forger(user: User) -> Forger:
    return Forger(user)


def a_file(name: bytes, data: bytes = b"evil", **changes: object) -> Entry:
    fields = {"kind": objects.ENTRY_FILE, "mode": 0o644, "size": len(data), "content_kind": objects.CONTENT_INLINE}
    return Entry(name=name, **{**fields, "content": data, **changes})  # type: ignore[arg-type]


def a_directory(name: bytes, content: bytes) -> Entry:
    return Entry(
        name=name,
        kind=objects.ENTRY_DIRECTORY,
        mode=0o755,
        content_kind=objects.CONTENT_DIRECTORY,
        content=content,
    )


_WATCHED = """
import resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
code = subprocess.call(sys.argv[2:], timeout=int(sys.argv[1]))
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024, code, file=sys.stderr)
"""


def watched(user: User, *words: str, code: tuple[int, ...]) -> str:
    """Run the real command; check its exit code, its time, and that its peak memory stays within bounds."""
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, str(SECONDS_MAX), *user.command(), *words],
        cwd=user.home,
        env=user.environ({}),
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    *said, last, _ = done.stderr.decode().split("\n")
    assert last.startswith("peak "), done.stderr[-1000:]
    _, peak, found = last.split()
    assert int(found) in code, (words, found, done.stdout[-500:], said)
    assert int(peak) <= MEMORY_MIB_MAX, f"{words}: {peak} MiB"
    text = done.stdout.decode() + "\n".join(said)
    assert "Traceback" not in text and "internal error" not in text, text
    return text


READERS = (
    ["verify", "evil.dump"],
    ["ls", "-R", "evil.dump"],
    ["restore", "evil.dump", "--to", "back"],
    ["restore", "evil.dump", "--volume", "evil"],
)


def test_the_forger_can_write_an_honest_dump(user: User, forger: Forger) -> None:
    content = forger.put(objects.KIND_CHUNK, b"x" * 1000)
    forger.write(forger.tree(a_file(b"a"), a_file(b"b", b"x" * 1000, content_kind=2, content=content)))
    user.quick("verify", "evil.dump")
    user.quick("restore", "evil.dump", "--to", "back")
    assert (user.home / "back" / "b").read_bytes() == b"x" * 1000
    user.quick("restore", "evil.dump", "--volume", "evil")


@pytest.mark.parametrize("name", [b"..", b".", b"", b"/etc/evil", b"../evil", b"a/b", b"/", b"a\0b"])
def test_a_forbidden_name_stops_every_reader_and_writes_nothing(user: User, forger: Forger, name: bytes) -> None:
    forger.write(forger.tree(a_file(name)))
    before = sorted(os.listdir(user.home))
    for words in READERS:
        user.quick(*words, code=(3, 5))
    assert sorted(path for path in os.listdir(user.home) if path != "back") == before
    assert not (user.home / "back").exists() or os.listdir(user.home / "back") == []
    assert not os.path.lexists("/etc/evil") and "evil" not in {v["volume"] for v in user.value("volume", "list")}


def test_two_entries_of_one_name_cannot_redirect_a_restore(user: User, forger: Forger) -> None:
    outside = user.home / "outside"
    outside.mkdir()
    inner = forger.put(objects.KIND_DIRECTORY, DirectoryLeaf([a_file(b"planted")]))
    link = Entry(name=b"way", kind=objects.ENTRY_SYMLINK, content_kind=1, content=os.fsencode(outside), size=4)
    forger.write(forger.tree(link, a_directory(b"way", inner)))
    for words in READERS:
        user.quick(*words, code=(3, 5))
    assert os.listdir(outside) == []


def test_a_link_to_nothing_fails_alone(user: User, forger: Forger) -> None:
    links = forger.put(objects.KIND_DIRECTORY, DirectoryLeaf([a_file(b"%016x" % 7)]))
    names = [Entry(name=name, kind=objects.ENTRY_LINK, link=link) for name, link in ((b"bad", 8), (b"good", 7))]
    forger.write(forger.revision(forger.put(objects.KIND_DIRECTORY, DirectoryLeaf(names)), links=links))
    done = user.quick("restore", "evil.dump", "--to", "back", code=5)
    assert b"links table" in done.out + done.err
    assert os.listdir(user.home / "back") == ["good"]


def test_a_directory_that_contains_itself_ends_every_reader(user: User, forger: Forger) -> None:
    loop = bytes(range(32))
    forger.put(objects.KIND_DIRECTORY, DirectoryLeaf([a_directory(b"again", loop)]), identity=loop)
    forger.write(forger.revision(loop))
    for words in READERS:
        watched(user, *words, code=(3, 5))
    depth = max((len(path.parts) for path in (user.home / "back").rglob("*")), default=0) - len(user.home.parts)
    assert depth < 10
    assert "evil" not in {volume["volume"] for volume in user.value("volume", "list")}


def test_two_directories_that_contain_each_other_end_every_reader(user: User, forger: Forger) -> None:
    one, two = bytes(range(32)), bytes(range(1, 33))
    forger.put(objects.KIND_DIRECTORY, DirectoryLeaf([a_directory(b"b", two)]), identity=one)
    forger.put(objects.KIND_DIRECTORY, DirectoryLeaf([a_directory(b"a", one)]), identity=two)
    forger.write(forger.revision(one))
    for words in READERS:
        watched(user, *words, code=(3, 5))


def test_a_list_of_directory_nodes_that_contains_itself_is_damaged(user: User, forger: Forger) -> None:
    loop = bytes(range(32))
    node = DirectoryList(level=16, children=[DirectoryChild(last_name=b"z", entry_count=1, id=loop)])
    forger.put(objects.KIND_DIRECTORY, node, identity=loop)
    forger.write(forger.revision(loop))
    for words in READERS:
        watched(user, *words, code=(3, 5))


def recipes(forger: Forger) -> Iterator[tuple[str, Entry]]:
    chunk = forger.put(objects.KIND_CHUNK, b"c" * 500)

    def recipe(name: str, value: object, size: int, identity: bytes = b"") -> tuple[str, Entry]:
        content = forger.put(objects.KIND_RECIPE, value, identity)
        return name, a_file(b"f", content_kind=objects.CONTENT_RECIPE, content=content, size=size)

    yield recipe("lengths go back", RecipeLeaf([500, 400], [chunk, chunk]), 400)
    yield recipe("overlap", RecipeLeaf([500, 700], [chunk, chunk]), 700)
    yield recipe("longer than its chunks", RecipeLeaf([500, 5000], [chunk, chunk]), 5000)
    yield recipe("longer than the file", RecipeLeaf([500, 1000], [chunk, chunk]), 600)
    yield recipe("shorter than the file", RecipeLeaf([500], [chunk]), 10**12)
    yield recipe("more ids than lengths", RecipeLeaf([500], [chunk, chunk]), 500)
    yield recipe("nothing in it", RecipeLeaf([], []), 5)
    yield recipe("negative", RecipeLeaf([-5], [chunk]), 500)
    yield recipe("an id cut short", RecipeLeaf([500], [chunk[:7]]), 500)
    yield recipe("a list of chunks", RecipeList(1, [500], [chunk]), 500)
    loop = bytes(range(2, 34))
    yield recipe("a list that contains itself", RecipeList(16, [500], [loop]), 500, loop)
    yield "a chunk of another size", a_file(b"f", content_kind=objects.CONTENT_CHUNK, content=chunk, size=10**15)
    yield "inline of another size", a_file(b"f", b"abc", size=10**15)
    yield "no content", a_file(b"f", content_kind=objects.CONTENT_NONE, content=b"", size=10**15)
    yield "an object that is not there", a_file(b"f", content_kind=2, content=bytes(32), size=5)
    yield "an id cut short as content", a_file(b"f", content_kind=2, content=b"short", size=5)
    yield "a time beyond time", a_file(b"f", mtime_ns=2**63 - 1)


@pytest.mark.parametrize(
    "numbers", [{"size": -1}, {"size": 2**63}, {"mode": 2**40}, {"mode": -1}, {"uid": 2**32}, {"device": -1}]
)
def test_numbers_that_no_file_has_make_their_directory_damaged(
    user: User, forger: Forger, numbers: dict[str, int]
) -> None:
    forger.write(forger.tree(a_file(b"a"), a_file(b"f", **numbers)))
    for words in READERS:
        watched(user, *words, code=(3, 5))


def test_a_recipe_with_wrong_lengths_fails_its_file_and_no_other(user: User, forger: Forger) -> None:
    for number, (name, entry) in enumerate(list(recipes(forger))):
        forger.records = [record for record in forger.records if record[0] in (objects.KIND_CHUNK, objects.KIND_RECIPE)]
        forger.write(forger.tree(a_file(b"a"), entry, a_file(b"g")))
        back = user.home / f"back{number}"
        done = user.quick("restore", "evil.dump", "--to", back.name, code=(0, 3, 5))
        files = os.listdir(back) if back.exists() else []
        assert not [file for file in files if file.startswith(".")], name
        if done.code == 3:
            assert set(files) in ({"a", "g"}, {"a", "f", "g"}), (name, files)
        beyond = name.startswith(("a time", "a mode"))
        assert done.code != 0 or beyond, f"{name}: restored as if it were right"
        if done.code != 0 and not beyond:
            assert "f" not in files, f"{name}: left half a file under its name"
        code = user.quick("cat", "evil.dump:/f", code=(0, 1, 2, 5, 6)).code
        assert code != 0 or beyond, f"{name}: read as if it were right"


def test_a_billion_entries_in_a_count_cost_nothing(user: User, forger: Forger) -> None:
    billion = (10**9).to_bytes(4, "big")
    for kind, payload in (
        (objects.KIND_DIRECTORY, b"\x92\xa1d\xdd" + billion),
        (objects.KIND_DIRECTORY, b"\x92\xa1d\xdd" + billion + b"\x00" * 1000),
        (objects.KIND_DIRECTORY, b"\x93\xa1D\x01\xdd" + billion + b"\x90" * 1000),
    ):
        forger.records.clear()
        forger.write(forger.revision(forger.put(kind, payload)))
        for words in READERS[:3]:
            watched(user, *words, code=(3, 5))


def test_a_billion_objects_in_a_footer_cost_nothing(user: User, forger: Forger) -> None:
    forger.write(forger.tree(a_file(b"a")), object_count=10**9)
    for words in READERS:
        assert "offset" in watched(user, *words, code=(5,)) or words[0] != "verify"
    # The table of blocks lies as well, so that the two agree: 48 bytes for each of 80,000,000 objects.
    count = 80_000_000
    forger.write(forger.revision(forger.records[0][1]), object_count=count, claims={pack.BLOCK_INDEX: count * 48})
    for words in READERS:
        watched(user, *words, code=(5,))


@functools.cache
def zeros_frame(size: int) -> bytes:
    """Return a zstd frame of `size` zeros that says how large it is."""
    squeezer = zstandard.ZstdCompressor(level=3).compressobj(size=size)
    parts = [squeezer.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*parts, squeezer.compress(bytes(size % MIB)), squeezer.flush()])


@pytest.mark.parametrize("block_type", [pack.BLOCK_METADATA, pack.BLOCK_DATA, pack.BLOCK_INDEX])
def test_a_decompression_bomb_is_refused_in_bounded_memory(user: User, forger: Forger, block_type: int) -> None:
    bomb = zeros_frame(2048 * MIB)
    for claimed in (2048 * MIB, 1 * MIB, 16 * MIB):
        forger.records.clear()
        forger.write(forger.tree(a_file(b"a")), extra=[(block_type, bomb, claimed)])
        assert forger.path.stat().st_size < MIB
        assert "offset" in watched(user, "verify", "evil.dump", code=(5,))
        watched(user, "restore", "evil.dump", "--volume", f"evil{claimed}", code=(0, 5))


def test_a_bomb_in_the_trailer_is_refused_in_bounded_memory(user: User, forger: Forger) -> None:
    for size in (2048 * MIB, 256 * MIB, 255 * MIB):
        forger.write(forger.tree(a_file(b"a")), trailer=(zeros_frame(size), size))
        forger.records.clear()
        said = watched(user, "verify", "evil.dump", code=(5,))
        assert "offset" in said
    assert "bytes for 2 blocks" in said  # the last would have been opened: 255 MiB for each who opens it at once


def test_an_index_of_overlapping_records_does_not_multiply_them(user: User, forger: Forger) -> None:
    """Each of 10,000 rows claims most of its block: a merge that believed them would hold gigabytes."""
    chunks = [forger.put(objects.KIND_CHUNK, b"%08d" % number) for number in range(10_000)]
    leaf = RecipeLeaf([8 * (number + 1) for number in range(len(chunks))], chunks)
    recipe = forger.put(objects.KIND_RECIPE, leaf)
    large = a_file(b"large", content_kind=objects.CONTENT_RECIPE, content=recipe, size=8 * len(chunks))
    first = forger.tree(large)
    lengths = dict.fromkeys(chunks[:1000], 400000)
    forger.write(first, lengths=lengths)
    forger.records.clear()
    forger.path = user.home / "next.dump"
    forger.write(forger.tree(large, a_file(b"more")), base=first)
    watched(user, "merge", "-o", "x.dump", "evil.dump", "next.dump", code=(5,))
    assert not list(user.home.glob("x.dump*"))


def test_a_header_of_a_gigabyte_is_not_read(user: User) -> None:
    with open(user.home / "evil.dump", "wb") as file:
        file.write(pack.PREAMBLE.pack(pack.MAGIC, pack.VERSION, 0, 2**30))
        file.truncate(2**31)
    assert "offset" in watched(user, "verify", "evil.dump", code=(5,))


def test_a_dump_of_a_later_version_says_what_to_do(user: User) -> None:
    data = bytearray((user.home / "d0.dump").read_bytes())
    data[8] = 99
    (user.home / "d0.dump").write_bytes(data)
    assert "newer" in user.quick("inspect", "d0.dump", code=4).error


# Hostile directories


def test_symlinks_on_the_way_of_a_restore_are_not_followed(user: User) -> None:
    outside = user.home / "outside"
    outside.mkdir()
    (outside / "data").write_text("precious")
    (outside / "note").write_text("precious")
    back = user.home / "back"
    back.mkdir()
    os.symlink(outside, back / "sub")
    os.symlink(outside / "note", back / "note")
    before = tree(outside)
    user.quick("restore", "doc@c0", "--to", "back", "--path", "sub/data")
    user.quick("restore", "doc@c0", "--to", "back")
    assert tree(outside) == before
    assert not (back / "sub").is_symlink() and not (back / "note").is_symlink()
    os.symlink(outside, back / "extra")
    user.quick("restore", "doc@c0", "--to", "back", "--delete")
    assert tree(outside) == before and not os.path.lexists(back / "extra")


# Python says before each call to the system what it will do: there, between a look and the act that follows it, the
# directory `back/way` becomes a symlink. No race can be lost worse.
_SWAP = """
import os, sys
count = 0
def swap(event, arguments):
    global count
    if event not in {events!r}:
        return
    count += 1
    if count == {number} and os.path.isdir("back/way"):
        os.rename("back/way", "aside")
        os.symlink({outside!r}, "back/way")
        open("swapped", "w").close()
sys.addaudithook(swap)
"""
_SWAP_EVENTS = (
    *("open", "os.listdir", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink"),
    *("os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr", "os.truncate"),
)


@pytest.mark.parametrize("state", ["fresh", "in place"])
def test_a_directory_swapped_for_a_symlink_at_any_moment_leads_nowhere(tmp_path: Path, state: str) -> None:
    user = User(tmp_path / "home")
    doc, outside, back = user.home / "doc", user.home / "outside", user.home / "back"
    (doc / "way" / "below").mkdir(parents=True)
    (doc / "way" / "file").write_text("from the backup")
    (doc / "way" / "below" / "inner").write_text("from the backup")
    os.symlink("file", doc / "way" / "link")
    (outside / "below").mkdir(parents=True)
    for name in ("file", "extra", "below/inner"):
        (outside / name).write_text("precious")
        os.utime(outside / name, ns=(1, 1))
    outside.chmod(0o700)
    before = tree(outside.parent / "outside"), outside.stat().st_mode
    user.quick("init", "--encryption", "none")
    user.quick("backup", "doc", "--name", "c")
    swapped = 0
    for number in range(1, 500):
        for path in (back, user.home / "aside"):
            shutil.rmtree(path, ignore_errors=True)
        (user.home / "swapped").unlink(missing_ok=True)
        if state == "in place":
            shutil.copytree(doc, back, symlinks=True)
            (back / "way" / "file").write_text("old")
            (back / "way" / "more").write_text("goes away")
            (back / "way" / "below" / "inner").write_text("old")
        hook = _SWAP.format(events=_SWAP_EVENTS, number=number, outside=str(outside))
        user.quick("restore", "doc@c", "--to", "back", "--delete", code=(0, 3, 7), before=hook)
        assert (tree(outside), outside.stat().st_mode) == before, f"written outside the target at event {number}"
        if (user.home / "swapped").exists():
            swapped += 1
        elif swapped:
            break
    print(f"swapped at {swapped} moments")
    assert swapped > 15, "the directory was not swapped: nothing was tested"


def test_a_directory_swapped_for_a_symlink_while_it_is_backed_up_leads_nowhere(tmp_path: Path) -> None:
    """Kind of fault: who may change a directory that root backs up has other people's files put into his own backup."""
    user = User(tmp_path / "home")
    outside = user.home / "outside"
    (outside / "below").mkdir(parents=True)
    secret = random.Random(4711).randbytes(3000)  # it does not compress, so it is seen where it is stored
    for name in ("file", "extra", "below/inner"):
        (outside / name).write_bytes(secret)
    user.quick("init", "--encryption", "none")
    user.quick("volume", "create", "v")

    def is_stored() -> bool:
        return any(secret[1000:1100] in path.read_bytes() for path in (user.home / "pool").rglob("*.pack"))

    swapped = 0
    for number in range(1, 200, 4):
        for name in ("back", "aside"):
            path = user.home / name / "way"
            path.unlink() if path.is_symlink() else shutil.rmtree(user.home / name, ignore_errors=True)
        way = user.home / "back" / "way"
        (way / "below").mkdir(parents=True)
        (way / "file").write_text(f"own {number}")
        (way / "below" / "inner").write_text(f"own {number}")
        (user.home / "swapped").unlink(missing_ok=True)
        hook = _SWAP.format(events=("open", "os.listdir", "os.scandir"), number=number, outside=str(outside))
        user.quick("import", "v", "back", code=(0, 3), before=hook)
        assert not is_stored(), f"another's file was backed up at event {number}"
        if (user.home / "swapped").exists():
            swapped += 1
        elif swapped:
            break
    print(f"swapped at {swapped} moments")
    assert swapped > 3, "the directory was not swapped: nothing was tested"
    user.quick("import", "v", "outside")
    assert is_stored()


def test_names_planted_where_a_restore_writes_are_replaced_not_followed(user: User) -> None:
    """Whatever stands at a name: a FIFO with no reader, a socket, a device, a link to a file, a directory.

    What is put at the names of half files while they are written: host/test_restore_half_files.py.
    """
    outside = user.home / "outside"
    outside.write_text("precious")
    for number, plant in enumerate(
        [
            lambda path: os.mkfifo(path),
            lambda path: os.link(outside, path),
            lambda path: os.symlink("/dev/null", path),
            lambda path: os.symlink(path, path),
            lambda path: (path.mkdir(), (path / "x").write_text("x")),
            lambda path: _bind_socket(path),
        ]
    ):
        back = user.home / f"back{number}"
        back.mkdir()
        plant(back / "note")
        # A directory with something in it goes only when it may.
        user.quick("restore", "doc@c0", "--to", back.name, *(["--delete"] if number == 4 else []))
        assert (back / "note").read_text() == "a small file\n" and not (back / "note").is_symlink()
        assert outside.read_text() == "precious"


def _bind_socket(path: Path) -> None:
    old = os.getcwd()
    os.chdir(path.parent)  # a socket's path has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(old)


@pytest.fixture
def nobody() -> Iterator[User]:
    """A user without rights, in a home that he may enter."""
    if os.getuid() != 0:
        pytest.skip("NO OTHER USER WAS TESTED: only root can become one")
    user = User(Path("/tmp") / f"dal-nobody-{os.getpid()}", uid=65534)
    user.home.chmod(0o755)
    os.chown(user.home, 65534, 65534)
    yield user
    shutil.rmtree(user.home)


def test_what_a_user_may_not_read_is_listed_or_no_access(nobody: User) -> None:
    home, doc = nobody.home, nobody.home / "doc"
    (doc / "locked").mkdir(parents=True)
    (doc / "locked" / "in").write_text("x")
    (doc / "secret").write_text("secret")
    (doc / "open").write_text("open")
    for path in (doc / "locked", doc / "secret"):
        path.chmod(0)
    done = nobody.quick("backup", "doc", "--name", "c", code=3)
    assert b"secret" in done.out and b"locked" in done.out
    assert b"open" in nobody.quick("ls", "doc").out
    nobody.quick("dump", "doc", "-o", "d.dump")
    os.chown(home / "d.dump", 0, 0)
    (home / "d.dump").chmod(0o600)
    for words in (["verify", "d.dump"], ["inspect", "d.dump"], ["restore", "d.dump", "--to", "back"]):
        assert "d.dump" in nobody.quick(*words, code=8).error
    (home / "shut").mkdir()
    (home / "shut").chmod(0)
    nobody.quick("backup", "shut", code=(3, 8))
    for words in (
        ["dump", "doc", "-o", "shut/x.dump"],
        ["merge", "-o", "shut/x.dump", "d.dump", "d.dump"],
        ["restore", "doc", "--to", "shut/back"],
        ["restore", "doc", "--to", "shut"],
        ["init", "shut/pool"],
        ["key", "export", "shut/key"],
        ["--pool", "shut/pool", "ls", "doc"],
    ):
        assert nobody.quick(*words, code=8).error
    os.chown(home / "pool" / "pool.toml", 0, 0)
    (home / "pool" / "pool.toml").chmod(0o600)
    assert "pool.toml" in nobody.quick("ls", "doc", code=8).error


def test_names_in_errors_move_no_cursor(made: Path) -> None:
    error = User(made).quick("ls", "doc:/\x1b]0;title\x07\x1b[2J", code=6).error
    assert error.isprintable() and "title" in error


@pytest.mark.parametrize("error", ["MemoryError()", 'RuntimeError("can\'t start new thread")'])
def test_too_little_memory_is_said_and_is_no_fault_of_the_program(tmp_path: Path, error: str) -> None:
    user = User(tmp_path / "home")
    before = f"import dalsegno.cli.browse as browse\ndef fail(*words): raise {error}\nbrowse._ls = fail"
    done = user.quick("ls", code=1, before=before)
    assert b"too little memory" in done.err and b"internal" not in done.err
