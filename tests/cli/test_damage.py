"""Damage does not spread: each kind of damage against each command.

The kind: one thing that is lost or torn takes down commands about other things, or is not said.

A small site is made once: the tracked volumes `ann` and `bob` with three nights of dumps on a disk, and the native
volume `photos`. Everything that is hurt belongs to `ann`, to its second night where there is a choice; so whatever is
asked of `bob` or `photos` is served, and of `ann` what was not hurt.
"""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.cycle_kit import HOMES_POLICY, Site, night
from cli_kit import Done, tree
from dalsegno.assembly.local import open_pool
from dalsegno.cli.main import COMMANDS as PROGRAM
from dalsegno.formats.objects import ENTRY_DIRECTORY
from dalsegno.pool.pack_read import PackReader
from dalsegno.trees.read import iterate_directory, read_revision
from dalsegno.volumes.state import state_ref
from kit import pack_path

SEED = 20261130
SAMPLE = 250
"""So many of the pairs are tried; all of them with DAL_TEST_ALL=1."""
LATER = night(4)


class Hurt:
    """The site's files that a damage is done to."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.pool = home / "pool"
        with open_pool(self.pool, differs=lambda text: None) as house:
            states = {state.name: state for state in house.volumes.list()}
            ann = states["ann"]
            self.state_ref = self.pool / "refs" / state_ref(ann.id)
            self.name_ref = self.pool / "refs" / house.volumes._name_ref("ann")
            revision = ann.clones["two"].revision
            location = house.pool.index.lookup(revision)
            assert location is not None
            self.pack = pack_path(house.pool, location.pack_id)
            self.blocks: dict[int, int] = {}
            root = read_revision(house.pool, revision).root
            (sub,) = [each for each in iterate_directory(house.pool, root.content) if each.kind == ENTRY_DIRECTORY]
            deep = {each.name: each for each in iterate_directory(house.pool, sub.content)}[b"deep"]
            data = house.pool.index.lookup(deep.content)
            assert data is not None and data.pack_id == location.pack_id and data.block_index != location.block_index
            with PackReader.open(self.pack, house.pool.realm) as reader:
                self.metadata = int(reader.offsets[location.block_index]) + 40
                self.data = int(reader.offsets[data.block_index]) + 40
            self.cache = next((home / ".cache").rglob(f"{ann.id.hex()}.scan"))


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def middle(path: Path) -> None:
    flip(path, path.stat().st_size // 2)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def tear_notes(hurt: Hurt) -> None:
    for name in ("condemned", "damaged"):
        place = hurt.pool / name
        place.mkdir(exist_ok=True)
        for note in ("00" * 32, "ff" * 16, "objects", "index"):
            (place / note).write_bytes(b"\xff\x00bl")
        (place / hurt.pack.stem).write_bytes(b"")


def tear_index(hurt: Hurt) -> None:
    for path in (hurt.pool / "index").iterdir():
        cut(path)


CATALOG = "state/catalog.sqlite"


@dataclass(frozen=True)
class Damage:
    """What is done, what cannot be had any more, and one of the words by which it is named."""

    do: Callable[[Hurt], object]
    takes: str = ""
    """Words that COMMANDS uses: a command that needs one of them ends with the code that it gives."""
    named: str = ""


DAMAGES: dict[str, Damage] = {
    "nothing": Damage(lambda hurt: None),
    "pack": Damage(lambda hurt: hurt.pack.unlink(), "two deep missing", "ann"),
    "metadata": Damage(lambda hurt: flip(hurt.pack, hurt.metadata), "two", "ann"),
    "data": Damage(lambda hurt: flip(hurt.pack, hurt.data), "deep", "ann"),
    "state ref": Damage(lambda hurt: middle(hurt.state_ref), "ref", "refs/volumes/"),
    "name ref": Damage(lambda hurt: middle(hurt.name_ref), "name", "refs/names/"),
    "index lost": Damage(lambda hurt: shutil.rmtree(hurt.pool / "index")),
    "index torn": Damage(tear_index),
    "pool.toml lost": Damage(lambda hurt: (hurt.pool / "pool.toml").unlink(), "pool", "pool.toml"),
    "pool.toml": Damage(lambda hurt: cut(hurt.pool / "pool.toml"), "pool", "pool.toml"),
    "catalog lost": Damage(
        lambda hurt: [path.unlink() for path in (hurt.home / "state").glob("catalog.sqlite*")], "nodumps", "catalog"
    ),
    "catalog": Damage(
        lambda hurt: (hurt.home / CATALOG).write_bytes(random.Random(SEED).randbytes(40_000)), "catalog", "catalog"
    ),
    "scan cache": Damage(lambda hurt: middle(hurt.cache)),
    "notes": Damage(tear_notes, "notes"),
    "dump": Damage(lambda hurt: cut(hurt.home / "ann.dump"), "dump", "ann.dump"),
    "label": Damage(lambda hurt: cut(hurt.home / "disk1" / "DALSEGNO-LABEL"), "label", "disk1"),
}

# Command: what it needs, as `word` (without it the command ends with 5) or `word=code`. Whatever is not named is served.
# Every command needs the pool's settings but for those with `pool=0`.
COMMANDS: dict[str, str] = {
    "clones": "two ref",
    "clones ann": "two ref",
    "clones bob": "",
    "volume list": "ref",
    "volume show ann": "ref",
    "volume show bob": "",
    "ls": "ref",
    "ls -R ann@one": "ref",
    "ls -R ann@two": "two ref",
    "ls -R ann@latest": "two ref",
    "ls -R bob@latest": "",
    "cat ann@one:/still.txt": "ref",
    "cat ann@two:/plan.txt": "two ref",
    "cat ann@two:/sub/deep": "two deep ref",
    "cat ann@three:/plan.txt": "ref",
    "cat bob@latest:/plan.txt": "",
    "find deep --no-dumps": "two ref",
    "find deep": "two ref",
    "find deep ann --no-dumps": "two ref",
    "find deep bob": "ref",
    "diff ann@one ann@two": "two ref",
    "diff ann@one ann@three": "two ref",
    "diff ann": "two ref",
    "diff bob": "",
    "diff bob@one bob@three": "",
    "versions ann:/plan.txt": "two ref",
    "versions ann:/plan.txt --no-dumps": "two ref",
    "versions bob:/plan.txt": "ref",
    "log ann": "two ref",
    "log bob": "",
    "stats": "ref",
    "stats ann": "two ref",
    "stats bob": "two ref",
    "status": "ref catalog label",
    "status --check": "missing=1 ref=2 name=1 notes=1 label=1 nodumps=2 catalog=3 pool=3",
    "status --prometheus metrics.prom": "ref catalog label",
    "doctor": "missing ref name notes label catalog",
    "pool show": "ref",
    "pool trust": "ref",
    "verify --pool": "two deep ref name",
    "verify ann.dump": "dump",
    "verify bob.dump": "",
    "restore ann@one --to back": "ref",
    "restore ann@two --to back": "two deep ref",
    "restore ann@three --to back": "two deep ref",
    "restore ann@three --to back --path plan.txt": "ref",
    "restore bob@latest --to back": "",
    "restore ann.dump --to back": "dump",
    "restore bob.dump --to back": "",
    "dump ann@one --level 0 -o new.dump --no-record": "ref",
    "dump ann@two --level 0 -o new.dump --no-record": "two deep ref",
    "dump bob@three --level 0 -o new.dump": "",
    "estimate ann": "two ref",
    "estimate bob": "",
    "merge -o new.dump ann.dump ann2.dump": "dump",
    "merge -o new.dump bob.dump bob2.dump": "",
    "inspect ann.dump": "dump",
    "inspect bob.dump": "",
    "backup homes/ann": "ref",
    "backup homes/bob": "",
    "backup --set all": "missing=3 two=3 ref=3 catalog label=3",
    "backup newdir": "",
    "backup": "ref",
    "import photos pictures": "",
    "import ann-pictures pictures": "",
    "clone ann": "ref",
    "clone ann --no-scan": "ref",
    "clone bob four": "",
    "clone photos four": "",
    "unclone ann@one": "ref",
    "unclone ann@two": "ref",
    "unclone bob@one": "",
    "hold ann@two": "ref",
    "hold bob@two": "",
    "unhold bob@two": "",
    "gc --dry-run": "two ref",
    "gc --grace 0": "two ref",
    "volume rename ann anna": "ref",
    "volume rename bob bobby": "",
    "volume remove ann --yes": "",
    "volume remove bob --yes": "",
    "volume create fresh": "",
    "key list": "pool=0",
    "key check": "",
    "history": "catalog nodumps=6 pool=0",
    "history ann": "catalog nodumps=6 pool=0",
    "history bob": "catalog nodumps=6 pool=0",
    "plan": "catalog",
    "plan --check": "pool=0",
    "prune": "catalog",
    "prune --dry-run": "catalog",
    "prune bob --keep-last 1": "",
    "prune ann --keep-last 1": "ref",
    "drill --count 2": "catalog nodumps=6 label",
    "drill bob": "catalog nodumps=6 label",
    "archive": "catalog label pool=0",
    "archive -n": "catalog label pool=0",
    "retrieve ann -o got": "catalog nodumps=6 label pool=0",
    "retrieve bob -o got": "catalog nodumps=6 label pool=0",
    "retrieve bob -n": "catalog nodumps=6 pool=0",
    "media list": "catalog label pool=0",
    "catalog check": "catalog nodumps=6 label pool=0",
    "catalog rebuild": "catalog label",
    "completion bash": "pool=0",
}

LEFT_OUT = {
    "init": "makes a pool",
    "mark": "reads what dump wrote",
    "mount": "below, in a test of its own",
    **dict.fromkeys(("umount", "mkmount", "rmmount"), "about mounts"),
    "repair": "about conflicts between replicas",
    "amanda": "calls dump and restore",
    **dict.fromkeys(("realm", "replica", "serve", "token", "release", "follow", "promote", "move"), "about servers"),
}

SAME = ("ls", "cat", "diff", "log", "inspect", "completion")
"""These say of what is whole the same as before, word for word."""


def test_every_command_is_in_the_table() -> None:
    listed = {line.split()[0] for line in COMMANDS}
    assert listed | LEFT_OUT.keys() == PROGRAM.keys()
    assert not listed & LEFT_OUT.keys()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make(tmp_path_factory.mktemp("damage") / "home")


def make(home: Path) -> Site:
    chance = random.Random(SEED)
    home.mkdir(parents=True)
    site = Site(home)
    site.environment = {"DAL_POLICY": str(home / "site.toml"), "DAL_POOL": str(home / "pool"), "DAL_NOW": LATER}
    for name in ("ann", "bob"):
        (home / "homes" / name / "sub").mkdir(parents=True)
        for file in ("still.txt", "zoo.txt"):
            (home / "homes" / name / file).write_bytes(chance.randbytes(3_000))
    site.disk("disk1")
    site.policy(HOMES_POLICY)
    site.quick("init", str(home / "pool"), "--encryption", "none")
    (home / "pictures").mkdir()
    (home / "newdir").mkdir()
    for place in ("pictures", "newdir"):
        (home / place / "file").write_bytes(chance.randbytes(5_000))
    site.quick("import", "photos", "pictures")
    for day, name in enumerate(("one", "two", "three")):
        for volume in ("ann", "bob"):
            base = home / "homes" / volume
            (base / "plan.txt").write_text(f"{volume}'s plan {name}\n")
            if day == 1:
                (base / "sub" / "deep").write_bytes(chance.randbytes(9_000))
        site.back_up(day)
        for volume in ("ann", "bob"):
            site.quick("clone", volume, name, "--no-scan", DAL_NOW=night(day, "03:00"))
    for volume in ("ann", "bob"):
        site.quick("dump", f"{volume}@one", "--level", "0", "-o", f"{volume}.dump")
        site.quick("dump", f"{volume}@three", "--level", "1", "-o", f"{volume}2.dump")
    shutil.copytree(home, home.with_name("kept"), symlinks=True)
    return site


def reset(site: Site) -> None:
    """Put everything back as it was made, at the same place."""
    subprocess.run(["rm", "-rf", site.home], check=True)
    subprocess.run(["cp", "-a", site.home.with_name("kept"), site.home], check=True)


def expected(damage: Damage, needs: str) -> int:
    """Return the exit code that a command has to end with."""
    codes = {"pool": 5}
    for need in needs.split():
        word, _, code = need.partition("=")
        codes[word] = int(code or 5)
    return max((codes.get(word, 0) for word in damage.takes.split()), default=0)


def pairs() -> Iterator[tuple[str, str]]:
    """Yield the pairs that are tried, by damage."""
    every = [(damage, line) for damage in DAMAGES for line in COMMANDS]
    if os.environ.get("DAL_TEST_ALL"):
        yield from every
        return
    chosen = set(random.Random(SEED).sample(every, SAMPLE))
    yield from (pair for pair in every if pair in chosen)


def fault_of(done: Done, name: str, line: str, before: Callable[[str], bytes]) -> str:
    """Return what is wrong with how a command ended, or nothing."""
    code = expected(DAMAGES[name], COMMANDS[line])
    said = (done.out + done.err).decode(errors="replace")
    if "Traceback" in said or "internal error" in said:
        return f"broke: {said[-500:]}"
    if done.code != code:
        return f"ended with {done.code}, expected {code}: {said[-300:]}"
    if code == 5 and DAMAGES[name].named not in said:
        return f"does not name {DAMAGES[name].named}: {said[-300:]}"
    if code == 0 and line.split()[0] in SAME and done.out != before(line):
        return f"another answer than before: {said[-300:]}"
    return ""


def test_damage_does_not_spread(made: Site) -> None:
    print(f"seed {SEED}, all pairs with DAL_TEST_ALL=1")
    reset(made)
    hurt = Hurt(made.home)
    answers: dict[str, bytes] = {}

    def before(line: str) -> bytes:
        if line not in answers:
            reset(made)
            answers[line] = made.quick(*line.split()).out
        return answers[line]

    faults = []
    for name, line in pairs():
        reset(made)
        DAMAGES[name].do(hurt)
        if fault := fault_of(made.quick_any(*line.split()), name, line, before):
            faults.append(f"{name}: dal {line}: {fault}")
    assert not faults, "\n".join(faults)


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="A MOUNT OVER DAMAGE IS NOT TESTED: no FUSE here")
@pytest.mark.parametrize("name", ["pack", "metadata", "data"])
def test_a_mount_shows_what_is_whole(made: Site, name: str) -> None:
    reset(made)
    hurt = Hurt(made.home)
    DAMAGES[name].do(hurt)
    place = made.home / "mnt"
    place.mkdir()
    made.quick("mount", "ann@three", "mnt")
    try:
        assert (place / "plan.txt").read_text() == "ann's plan three\n"
        assert (place / "still.txt").read_bytes() == (made.home / "homes/ann/still.txt").read_bytes()
        with pytest.raises(OSError):
            (place / "sub" / "deep").read_bytes()
    finally:
        made.quick("umount", "mnt")


def test_a_collection_deletes_nothing_while_a_ref_cannot_be_read(made: Site) -> None:
    reset(made)
    hurt = Hurt(made.home)
    ref = hurt.state_ref.read_bytes()
    DAMAGES["state ref"].do(hurt)
    packs = tree(hurt.pool / "packs")
    made.quick("unclone", "bob@one")
    assert "nothing was collected" in made.quick("gc", "--grace", "0", code=5).error
    assert tree(hurt.pool / "packs") == packs
    hurt.state_ref.write_bytes(ref)
    assert made.value("verify", "--pool")["whole"]
    DAMAGES["state ref"].do(hurt)
    made.quick("volume", "remove", "ann", "--yes")
    made.quick("gc", "--grace", "0")
    assert made.value("verify", "--pool")["whole"]
    made.quick("backup", "homes/ann")


def test_a_collection_goes_on_over_torn_notes(made: Site) -> None:
    """The kind: a collection that holds its lock waits for that lock."""
    reset(made)
    DAMAGES["notes"].do(Hurt(made.home))
    made.quick("unclone", "bob@one")
    made.quick("gc", "--grace", "0", before="import signal; signal.alarm(60)")
    assert made.value("verify", "--pool")["whole"]
    made.quick("doctor")


@pytest.mark.parametrize("name", ["pack", "metadata"])
def test_what_is_whole_is_listed_beside_what_is_not(made: Site, name: str) -> None:
    """The kind: a list ends at the first entry that is damaged, or leaves it out silently."""
    reset(made)
    DAMAGES[name].do(Hurt(made.home))
    clones = made.quick("clones", code=5)
    for clone in ("ann@one", "ann@three", "bob@two"):
        assert clone.encode() in clones.out
    assert any(line.startswith(b"ann@two") and line.endswith(b"LOST") for line in clones.out.splitlines())
    assert b"ann@two: damaged" in clones.err
    found = made.quick("find", "plan.txt", "--no-dumps", code=5)
    assert b"bob@latest:/plan.txt" in found.out or b"bob@three:/plan.txt" in found.out
    assert b"ann@" in found.out and b"ann@" in found.err
    zoo = made.quick("find", "zoo.txt", "ann", "--no-dumps", code=5)
    assert b":/zoo.txt" in zoo.out, "what is behind a directory that cannot be read"
    log = made.quick("log", "ann", code=5)
    assert b"one" in log.out and b"three" in log.out and b"cannot be read" in log.err
    assert b"ann@two" in made.quick("dump", "ann@two", "-o", "new.dump", code=5).err
    damaged = made.value("status")["damaged"]
    assert damaged and str(made.home / "pool" / "packs") in damaged[0]
    assert damaged[0].encode() in made.quick("doctor", code=5).out


@pytest.mark.parametrize("name", ["pack", "metadata"])
def test_a_walk_goes_on_behind_a_directory_that_cannot_be_read(made: Site, name: str) -> None:
    """The kind: the first directory that is damaged ends a list or a comparison of all others."""
    reset(made)
    (made.home / "homes" / "ann" / "zoo.txt").write_text("another\n")
    made.quick("backup", "homes/ann")  # it has no reason to look into `sub`
    DAMAGES[name].do(Hurt(made.home))

    def lines(*words: str) -> list[str]:
        done = made.quick(*words, code=5)
        assert b"ann@" in done.err and b"/sub: cannot be read: " in done.err and done.err.count(b"\n") == 1, done.err
        return done.out.decode().splitlines()

    assert lines("ls", "-R", "ann@latest") == ["plan.txt", "still.txt", "sub/", "zoo.txt"]
    assert [each.split("  ")[0] for each in lines("diff", "ann@one", "ann@latest")] == [
        "M plan.txt",
        "M sub/",
        "M zoo.txt",
    ]
    assert lines("diff", "ann@one", "ann@latest", "--stat")[-1].startswith("0 added")
    assert b"M zoo.txt" in made.quick("diff", "ann@one").out, "the source is read"
    assert lines("find", "*.txt", "ann@latest")[-1].endswith(":/zoo.txt  8 B")
    listed = made.quick("--json", "ls", "-R", "ann@latest", code=5)
    assert [each["path"] for each in json.loads(listed.out)] == ["plan.txt", "still.txt", "sub", "zoo.txt"]
    assert json.loads(listed.err)["error"]["path"].endswith("/sub")
    made.quick("ls", "ann@latest")
    assert b"sub" in made.quick("ls", "ann@latest:/sub", code=5).err
    versions = made.quick("versions", "ann:/sub/deep", "--no-dumps", code=5)
    assert versions.error == "dal: error: ann:/sub/deep: in no clone of 'ann' that can be read"
    made.quick("restore", "ann@latest:/zoo.txt", "--to", "back")
    made.quick("restore", "ann@latest", "--to", "all", code=5)
    assert (made.home / "all" / "zoo.txt").read_text() == "another\n"
