"""The life of a pool, made up by chance, held against a model that remembers every state.

Each life has a seed, which is printed: `DAL_LIFE_SEED=N` lives that one again, `DAL_LIFE_SECONDS=600` lives one life
after another for so long (`DAL_LIFE_SEED` is then the first), `DAL_LIFE_STEPS` says how long one is, `DAL_LIFE_DIR`
where the files go, and `DAL_LIFE_LOG` names a file that gets every step.
"""

import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cli_kit import KILLED, Done, User

sys.path.insert(0, str(Path(__file__).parents[1] / "host"))
from host_kit import describe_tree

SEEDS = [1, 2, 3]
STEPS = int(os.environ.get("DAL_LIFE_STEPS", "40"))
KIB = 1024
MIB = 1024 * KIB
INLINE_BYTES_MAX = 128
TREE_BYTES_MAX = 24 * MIB
TREE_FILES_MAX = 700
CLONES_MAX = 10
DUMPS_MAX = 12
TARGETS_MAX = 3
IS_ROOT = os.geteuid() == 0

Description = dict[bytes, tuple[Any, ...]]
CONTENT, XATTRS, EXTENTS = 5, 6, 8

NAMES = [
    b"a", b"b", b"c", b"A", b"plan.txt", b"new\nline", b"\xff\xfe", b" lead", b"trail ", b"-dash", b"--delete", b"a:b",
    b"@x", b"...", b"%s", b"a+b.dump", b"x.partial", b"#1", b"\\", b"'", b'"', b"*", b"caf\xc3\xa9", b"cafe\xcc\x81",
    b"\xe2\x99\xab", b"n" * 255, b".hidden", b"~", b"$HOME", b"tab\t", b"\x01", b"CACHEDIR.TAG", b".dal-restore-", b"z",
]  # fmt: skip
SIZES = [
    0, 1, 100, 127, 128, 129, 1000, 4095, 4096, 4097, 60_000, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1, 200_000,
    256 * KIB, 700_000,
]  # fmt: skip
TIMES = [0, 1, -1, -1_500_000_001, 987_654_321_000_000_007, 1_700_000_000_000_000_000, 4_000_000_000_123_456_789]


# -- what a tree is


def extents_of(path: bytes, size: int) -> tuple[tuple[int, int], ...]:
    """Return (start, end) of the parts of a file that hold data."""
    found = []
    fd = os.open(path, os.O_RDONLY)
    try:
        position = 0
        while position < size:
            try:
                start = os.lseek(fd, position, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                break
            position = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, position))
    finally:
        os.close(fd)
    return tuple(found)


def describe(root: Path) -> Description:
    """Return everything that must survive; contents as digests, with the layout of holes."""
    base = os.fsencode(root)
    found = describe_tree(base)
    for path, row in found.items():
        data = row[CONTENT]
        digest = hashlib.sha1(data).digest() if isinstance(data, bytes) and len(data) > 64 else data
        # What is stored within its directory's entry keeps no holes: it has no room for one.
        extents = extents_of(base + path, row[7]) if row[7] > INLINE_BYTES_MAX else ()
        found[path] = (*row[:CONTENT], digest, *row[CONTENT + 1 : EXTENTS], extents, *row[EXTENTS:])
    return found


def differences(found: Description, wanted: Description) -> list[str]:
    lines = []
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            lines.append(f"{path!r}\n    is     {found.get(path)}\n    should {wanted.get(path)}")
    return lines


def beneath(state: Description, path: bytes) -> Description:
    """Return what is at and below a path, hard links only within."""
    part = {name: row for name, row in state.items() if name == path or name.startswith(path + b"/")}
    for name, row in part.items():
        if len(row) > EXTENTS + 1:
            group = tuple(one for one in row[-1] if one in part)
            part[name] = (*row[: EXTENTS + 1], group) if len(group) > 1 else row[: EXTENTS + 1]
    return part


# -- what happens to a tree


class Gardener:
    """Changes a directory in every way that we could think of."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.times = list(TIMES)

    def change(self, root: Path, count: int) -> list[str]:
        """Make `count` changes; return their names."""
        base = os.fsencode(root)
        done = []
        for _ in range(count):
            self.look(base)
            kind: Callable[[], object] = self.chance.choice(self.kinds())
            if self.bytes > TREE_BYTES_MAX or self.count > TREE_FILES_MAX:
                kind = self.unlink_many
            try:
                kind()
                done.append(kind.__name__)
            except OSError as error:
                # Names too long, directories not empty, loops: no change is one of the changes.
                done.append(f"{kind.__name__}({errno.errorcode.get(error.errno or 0)})")
        return done

    def kinds(self) -> list[Callable[[], object]]:
        return [
            self.create, self.create, self.create, self.create, self.overwrite, self.overwrite, self.overwrite,
            self.overwrite_and_turn_back, self.append, self.truncate, self.punch, self.sparse, self.rename,
            self.rename, self.rename_directory, self.rename_over, self.swap, self.swap_directories, self.link,
            self.link, self.unlink, self.relink, self.chmod, self.chown, self.xattr, self.acl, self.turn_back,
            self.touch, self.file_to_directory, self.directory_to_file, self.symlink, self.symlink_to_directory,
            self.fifo, self.device, self.big, self.edit_big, self.edit_big, self.many, self.edit_many,
            self.empty_directories, self.remove_directory, self.move_all, self.deep, self.replace_same,
            self.copy_directory, self.rotate, self.own_root, self.socket, self.link_symlink, self.recreate,
        ]  # fmt: skip

    def look(self, base: bytes) -> None:
        self.base = base
        self.directories, self.files, self.others = [base], [], []
        self.bytes = self.count = 0
        for above, directories, files in os.walk(base):
            for name in directories:
                path = os.path.join(above, name)
                (self.others if os.path.islink(path) else self.directories).append(path)
            for name in files:
                path = os.path.join(above, name)
                status = os.lstat(path)
                regular = status.st_mode & 0o170000 == 0o100000
                (self.files if regular else self.others).append(path)
                self.bytes += status.st_size if regular else 0
                self.count += 1

    # what to choose from

    def directory(self) -> bytes:
        return self.chance.choice(self.directories)

    def file(self) -> bytes:
        return self.chance.choice(self.files) if self.files else self.create()

    def anything(self) -> bytes:
        return self.chance.choice(self.directories + self.files * 3 + self.others)

    def free(self) -> bytes:
        """Return a path where nothing is."""
        while True:
            name = self.chance.choice(NAMES) if self.chance.random() < 0.5 else b"f%d" % self.chance.randrange(100_000)
            path = os.path.join(self.directory(), name)
            if not os.path.lexists(path):
                return path

    def data(self, size: int) -> bytes:
        kind = self.chance.randrange(5)
        if kind == 0:
            return bytes(size)
        if kind == 1:
            return (b"line of text %d\n" % self.chance.randrange(10) * (size // 10 + 1))[:size]
        if kind == 2:
            return random.Random(self.chance.randrange(5)).randbytes(size)  # the same again, elsewhere
        return self.chance.randbytes(size)

    def size(self) -> int:
        return self.chance.choice(SIZES) if self.chance.random() < 0.5 else self.chance.randrange(3000)

    # files

    def create(self) -> bytes:
        path = self.free()
        with open(path, "wb") as file:
            file.write(self.data(self.size()))
        return path

    def overwrite(self) -> None:
        path = self.file()
        size = os.path.getsize(path)
        with open(path, "r+b") as file:
            if size and self.chance.random() < 0.5:
                position = self.chance.randrange(size)
                file.seek(position)
                file.write(self.chance.randbytes(min(size - position, 50)))
            else:
                file.write(self.data(size))

    def overwrite_and_turn_back(self) -> None:
        path = self.file()
        times = os.stat(path)
        with open(path, "r+b") as file:
            file.write(self.chance.randbytes(min(times.st_size, 5000)))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def append(self) -> None:
        with open(self.file(), "ab") as file:
            file.write(self.data(self.size()))

    def truncate(self) -> None:
        path = self.file()
        os.truncate(path, self.chance.randrange(os.path.getsize(path) * 2 + 2))

    def punch(self) -> None:
        path = self.file()
        size = os.path.getsize(path)
        start = self.chance.randrange(size + 1) // 4096 * 4096
        length = self.chance.choice([4096, 8192, 65536, 300_000])
        subprocess.run(
            ["fallocate", "-p", "-o", str(start), "-l", str(length), os.fsdecode(path)],
            capture_output=True,
            check=False,
        )

    def sparse(self) -> None:
        with open(self.free(), "wb") as file:
            for _ in range(self.chance.randrange(4)):
                file.seek(self.chance.randrange(2 * MIB))
                file.write(self.data(self.chance.choice([1, 4096, 10_000, 150_000])))
            file.truncate(self.chance.randrange(3 * MIB))

    def replace_same(self) -> None:
        """A new inode of the same size and time: what an unpacker leaves."""
        path = self.file()
        times = os.stat(path)
        os.unlink(path)
        with open(path, "wb") as file:
            file.write(self.data(times.st_size))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def recreate(self) -> None:
        """Remove and make anew at once: inode numbers come back."""
        path = self.file()
        data = self.data(os.path.getsize(path))
        os.unlink(path)
        for other in (path, self.free()):
            with open(other, "wb") as file:
                file.write(data)
            data = self.data(len(data))

    def big(self) -> None:
        if self.bytes < TREE_BYTES_MAX // 2:
            with open(self.free(), "wb") as file:
                file.write(self.chance.randbytes(self.chance.randrange(1 * MIB, 5 * MIB)))

    def edit_big(self) -> None:
        path = max(self.files, key=os.path.getsize, default=b"") or self.create()
        size = os.path.getsize(path)
        where = self.chance.randrange(size + 1)
        with open(path, "rb") as file:
            data = file.read()
        cut = self.chance.choice([0, 0, 1, 5000])
        with open(path, "wb") as file:
            file.write(data[:where] + self.chance.randbytes(self.chance.choice([0, 1, 10_000])) + data[where + cut :])

    def many(self) -> None:
        if self.count < TREE_FILES_MAX // 2:
            place = self.free()
            os.mkdir(place)
            for number in range(self.chance.choice([20, 100, 300])):
                with open(os.path.join(place, b"%d" % number), "wb") as file:
                    file.write(self.data(self.chance.choice([0, 10, 200, 2000])))

    def edit_many(self) -> None:
        for path in self.chance.sample(self.files, min(len(self.files), 30)):
            with open(path, "ab") as file:
                file.write(self.chance.randbytes(3))

    def unlink_many(self) -> None:
        for path in self.chance.sample(self.files, len(self.files) * 2 // 3):
            os.unlink(path)

    def unlink(self) -> None:
        os.unlink(self.chance.choice(self.files + self.others or [self.create()]))

    def rotate(self) -> None:
        """What a log rotation does."""
        path = self.file()
        if os.path.lexists(path + b".1"):
            os.replace(path + b".1", path + b".2")
        os.rename(path, path + b".1")
        with open(path, "wb") as file:
            file.write(self.data(self.size()))

    # names

    def rename(self) -> None:
        os.rename(self.chance.choice([*self.files, *self.others] or [self.create()]), self.free())

    def rename_directory(self) -> None:
        if len(self.directories) > 1:
            os.rename(self.chance.choice(self.directories[1:]), self.free())

    def rename_over(self) -> None:
        os.replace(self.file(), self.file())

    def swap(self) -> None:
        one, other, between = self.file(), self.file(), self.free()
        if one != other:
            os.rename(one, between)
            os.rename(other, one)
            os.rename(between, other)

    def swap_directories(self) -> None:
        one, other, between = self.directory(), self.directory(), self.free()
        if self.base not in (one, other) and not (one + b"/").startswith(other + b"/") and not other.startswith(one):
            os.rename(one, between)
            try:
                os.rename(other, one)
                os.rename(between, other)
            except OSError:
                os.rename(between, one)

    def move_all(self) -> None:
        """Everything of one directory into another, as an unpacked release moves up."""
        source, target = self.directory(), self.directory()
        for name in os.listdir(source):
            path = os.path.join(source, name)
            if not os.path.lexists(os.path.join(target, name)) and not (target + b"/").startswith(path + b"/"):
                os.rename(path, os.path.join(target, name))

    def link(self) -> None:
        os.link(self.file(), self.free())

    def link_symlink(self) -> None:
        """Hard links of what is no regular file."""
        if self.others:
            os.link(self.chance.choice(self.others), self.free(), follow_symlinks=False)

    def relink(self) -> None:
        """Break a hard link: the same content under a new inode, or the name of another."""
        path = self.file()
        if self.chance.random() < 0.5:
            with open(path, "rb") as file:
                data = file.read()
            os.unlink(path)
            with open(path, "wb") as file:
                file.write(data)
        else:
            other = self.file()
            if path != other:
                os.unlink(path)
                os.link(other, path)

    # attributes

    def chmod(self) -> None:
        path = self.anything()
        if not os.path.islink(path):
            os.chmod(path, self.chance.choice([0o600, 0o644, 0o755, 0o700, 0o4755, 0o2775, 0o1777, 0o400, 0o777, 0]))

    def chown(self) -> None:
        if IS_ROOT:
            numbers = [0, 1, 2, 65534, 54321, 12]
            os.chown(self.anything(), self.chance.choice(numbers), self.chance.choice(numbers), follow_symlinks=False)

    def xattr(self) -> None:
        path = self.anything()
        name = self.chance.choice([b"user.a", b"user.b", b"user.long.name", b"trusted.t"])
        if name in os.listxattr(path, follow_symlinks=False) and self.chance.random() < 0.4:
            os.removexattr(path, name, follow_symlinks=False)
        else:
            value = self.chance.randbytes(self.chance.choice([0, 1, 30, 500, 2000]))
            os.setxattr(path, name, value, follow_symlinks=False)

    def acl(self) -> None:
        path = self.anything()
        name = b"system.posix_acl_access"
        if path in self.directories and self.chance.random() < 0.5:
            name = b"system.posix_acl_default"
        if name in os.listxattr(path, follow_symlinks=False) and self.chance.random() < 0.4:
            os.removexattr(path, name, follow_symlinks=False)
            return
        rows = [(1, 6, 0xFFFFFFFF), (2, self.chance.randrange(8), 1), (4, 4, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF)]
        rows.append((0x20, self.chance.randrange(8), 0xFFFFFFFF))
        value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)
        os.setxattr(path, name, value, follow_symlinks=False)

    def turn_back(self) -> None:
        """Give a file a time that some file had before."""
        path = self.anything()
        self.times.append(os.lstat(path).st_mtime_ns)
        os.utime(path, ns=(0, self.chance.choice(self.times)), follow_symlinks=False)

    def touch(self) -> None:
        os.utime(self.anything(), follow_symlinks=False)

    def own_root(self) -> None:
        if self.chance.random() < 0.5:
            os.chmod(self.base, self.chance.choice([0o755, 0o700, 0o2775]))
        else:
            os.setxattr(self.base, b"user.root", self.chance.randbytes(9))

    # kinds

    def file_to_directory(self) -> None:
        path = self.file()
        os.unlink(path)
        os.mkdir(path)
        for number in range(self.chance.randrange(3)):
            with open(os.path.join(path, b"in%d" % number), "wb") as file:
                file.write(self.data(self.size()))

    def directory_to_file(self) -> None:
        path = self.directory()
        if path != self.base:
            shutil.rmtree(path)
            with open(path, "wb") as file:
                file.write(self.data(self.size()))

    def symlink(self) -> None:
        targets = [b"a", b"../..", b"/etc/passwd", b"/", b".", b"no/such", b"x" * 300, b"\xff\n", self.anything()]
        path = self.free() if self.chance.random() < 0.5 or not self.others else self.chance.choice(self.others)
        if os.path.lexists(path):
            os.unlink(path)
        os.symlink(self.chance.choice(targets), path)

    def symlink_to_directory(self) -> None:
        """A directory moves away and a symlink to it takes its place."""
        path, place = self.directory(), self.free()
        if path != self.base and not place.startswith(path + b"/"):
            os.rename(path, place)
            os.symlink(place, path)

    def fifo(self) -> None:
        os.mkfifo(self.free(), 0o640)

    def device(self) -> None:
        if IS_ROOT:
            kind = self.chance.choice([0o020600, 0o060600])
            os.mknod(self.free(), kind, os.makedev(self.chance.randrange(300), self.chance.randrange(1000)))

    def socket(self) -> None:
        """No tree holds sockets: one comes and goes, and the directory's time stays changed."""
        path = self.free()
        os.mknod(path, 0o140600)
        os.unlink(path)

    # directories

    def empty_directories(self) -> None:
        for _ in range(self.chance.randrange(1, 4)):
            os.makedirs(os.path.join(self.free(), b"e", b"m"), exist_ok=True)

    def remove_directory(self) -> None:
        path = self.directory()
        if path != self.base:
            shutil.rmtree(path)

    def deep(self) -> None:
        path = self.free()
        os.makedirs(os.path.join(path, *[b"d%d" % number for number in range(self.chance.randrange(2, 30))]))

    def copy_directory(self) -> None:
        path, place = self.directory(), self.free()
        if path != self.base and not place.startswith(path + b"/") and self.bytes < TREE_BYTES_MAX // 2:
            subprocess.run(["cp", "-a", os.fsdecode(path), os.fsdecode(place)], check=True, capture_output=True)


# -- the model


@dataclass
class Dump:
    """What the model knows about a dump file."""

    name: str
    id: str
    level: int
    targets: list[tuple[str | None, str]]
    """(clone, revision), oldest first."""
    bases: list[str]
    taken_ns: int


@dataclass
class Volume:
    """What the model knows about a volume."""

    name: str
    source: Path | None
    head: str = ""
    clones: dict[str, str] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    records: list[tuple[int, int, str, str]] = field(default_factory=list)
    """(level, taken, dump id, revision)."""


class Life:
    """One life: a home, a pool, and the model beside it."""

    def __init__(self, place: Path, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.gardener = Gardener(self.chance)
        self.user = User(place)
        self.states: dict[str, Description] = {}
        self.volumes: dict[str, Volume] = {}
        self.dumps: dict[str, Dump] = {}
        self.targets: dict[str, Description] = {}
        self.counter = 0
        self.history: list[str] = []
        self.log = os.environ.get("DAL_LIFE_LOG")

    def say(self, text: str) -> None:
        self.history.append(text)
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write(f"{self.seed} {len(self.history)}: {text}\n")

    # -- running commands

    def fresh(self, stem: str) -> str:
        self.counter += 1
        return f"{stem}{self.counter}"

    def run(self, *words: str, code: int | tuple[int, ...] = 0, **environment: str) -> Done:
        self.say(f"dal {' '.join(words)} {environment or ''}"[:300])
        done = self.user.quick(*words, code=code, **environment)
        if done.code:
            self.say(f"  exit {done.code}")
        return done

    def value(self, *words: str) -> Any:
        return json.loads(self.run("--json", *words).out)

    def fault(self) -> dict[str, str]:
        """Return an environment that now and then stops a command before some durable step."""
        roll = self.chance.random()
        if roll > 0.25:
            return {}
        return {
            "DAL_FAULT": f"{self.chance.choice(['kill', 'kill', 'full'])}:{self.chance.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 17, 25])}"
        }

    def both(self, one: list[str], other: list[str]) -> list[Done]:
        """Run two commands at once; exit codes are the caller's to check."""
        done: list[Done | AssertionError | None] = [None, None]
        delays = [self.chance.random() * 0.15, self.chance.random() * 0.15]
        self.say(f"at once: dal {' '.join(one)} | dal {' '.join(other)}")

        def work(number: int, words: list[str]) -> None:
            time.sleep(delays[number])
            try:
                done[number] = self.user.run(*words, code=tuple(range(14)))
            except AssertionError as error:
                done[number] = error

        threads = [threading.Thread(target=work, args=row) for row in enumerate((one, other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ended = []
        for each in done:
            if not isinstance(each, Done):
                raise AssertionError(f"at once: {each}")
            ended.append(each)
        self.say(f"  exit {ended[0].code}, {ended[1].code}")
        return ended

    # -- what must be

    def learn(self, revision: str, state: Description) -> None:
        """Note that a revision holds a state; one that is known already must hold the same."""
        known = self.states.setdefault(revision, state)
        assert known == state, "\n".join(["a changed tree got the revision of another:", *differences(known, state)])

    def check_directory(self, place: Path, wanted: Description, what: str) -> None:
        wrong = differences(describe(place), wanted)
        assert not wrong, "\n".join([f"{what}: {len(wrong)} differ", *wrong[:20]])

    def check_volume(self, volume: Volume) -> None:
        """What the pool says about a volume is what the model says."""
        clones = {one["clone"]: one for one in self.value("clones", volume.name)}
        assert {name: one["revision"] for name, one in clones.items()} == volume.clones
        assert {name for name, one in clones.items() if one["held"]} == volume.held
        shown = self.value("volume", "show", volume.name)
        assert {one["dump"] for one in shown["dumps"]} == {record[2] for record in volume.records}

    def restore_fresh(self, address: str, revision: str) -> None:
        place = self.user.home / "check"
        self.run("restore", address, "--to", "check")
        self.check_directory(place, self.states[revision], f"{address} restored")
        shutil.rmtree(place)

    def check_some(self) -> None:
        """Restore one clone, chosen by chance."""
        volume = self.chance.choice(list(self.volumes.values()))
        if volume.clones:
            name = self.chance.choice(list(volume.clones))
            self.restore_fresh(f"{volume.name}@{name}", volume.clones[name])

    def check_all(self) -> None:
        """Every clone, every dump, every chain, the pool."""
        pool = self.value("verify", "--pool")
        assert pool["whole"] and not [one for one in pool["findings"] if one["severity"] == "error"], pool
        for volume in self.volumes.values():
            self.check_volume(volume)
            for name, revision in volume.clones.items():
                self.restore_fresh(f"{volume.name}@{name}", revision)
            if volume.head:
                self.restore_fresh(volume.name, volume.head)
        for dump in self.dumps.values():
            assert self.value("verify", dump.name)["whole"]
            chain = self.full_chain(dump)
            if chain is not None:
                for clone, revision in chain[-1].targets:
                    words = "+".join(one.name for one in chain)
                    self.restore_fresh(f"{words}@{clone or '#' + revision}", revision)
        assert not list(self.user.home.glob("*.partial"))

    # -- chains

    def full_chain(self, dump: Dump) -> list[Dump] | None:
        """Return dumps that end with this one and start with a full one, if there still are such."""
        chain = [dump]
        while chain[0].bases:
            before = [
                one for one in self.dumps.values()
                if chain[0].bases[0] in {revision for _, revision in one.targets}
                and one.taken_ns <= chain[0].taken_ns and one not in chain
            ]  # fmt: skip
            before = [one for one in before if one.taken_ns < chain[0].taken_ns] or before
            if not before or len(chain) > 12:
                return None
            chain.insert(0, self.chance.choice(before))
        return chain

    @staticmethod
    def is_chain(chain: list[Dump]) -> bool:
        """Tell whether each dump continues those before it."""
        carried = {revision for _, revision in chain[0].targets}
        for before, dump in itertools.pairwise(chain):
            if not dump.bases or dump.bases[0] not in carried or dump.taken_ns < before.taken_ns:
                return False
            carried |= {revision for _, revision in dump.targets}
        return True

    def read_dump(self, name: str) -> Dump:
        """Ask a dump file what it is, and note it."""
        facts = self.value("inspect", name)
        dump = Dump(
            name=name,
            id=facts["dump"],
            level=facts["level"],
            targets=[(one["clone"], one["revision"]) for one in facts["targets"]],
            bases=facts["bases"],
            taken_ns=facts["taken_ns"],
        )
        for _, revision in dump.targets:
            assert revision in self.states
        self.dumps[name] = dump
        return dump

    # -- steps

    def step(self) -> None:
        steps: list[tuple[int, Callable[[], None]]] = [
            (14, self.do_backup), (4, self.do_clone), (3, self.do_unclone), (2, self.do_hold), (12, self.do_dump),
            (8, self.do_merge), (10, self.do_restore_anew), (10, self.do_restore_in_place), (4, self.do_restore_path),
            (7, self.do_restore_volume), (7, self.do_gc), (3, self.do_lose_index), (4, self.do_lose_cache),
            (6, self.do_two_at_once), (2, self.do_forget_dump), (3, self.do_change_target), (1, self.do_rename_volume),
            (2, self.do_remove_volume), (2, self.do_verify),
        ]  # fmt: skip
        chosen = self.chance.choices([one for _, one in steps], [weight for weight, _ in steps])[0]
        self.say(chosen.__name__)
        chosen()
        if self.chance.random() < 0.3:
            self.check_some()
        if self.chance.random() < 0.15:
            self.check_volume(self.chance.choice(list(self.volumes.values())))

    def tracked(self) -> Volume:
        return self.chance.choice([volume for volume in self.volumes.values() if volume.source is not None])

    def grow(self, volume: Volume) -> None:
        assert volume.source is not None
        done = self.gardener.change(volume.source, self.chance.choice([0, 1, 1, 2, 3, 5, 10]))
        self.say(f"  {volume.name}: {' '.join(done)}")

    def begin(self) -> None:
        """Make two directories, the pool, and their first backups."""
        encryption = self.chance.choice(["none", "keyfile"])
        self.run("init", "--encryption", encryption)
        for name in ("doc", "side"):
            source = self.user.home / name
            source.mkdir()
            self.volumes[name] = Volume(name=name, source=source)
            self.say(f"{name}: {' '.join(self.gardener.change(source, 15 if name == 'doc' else 4))}")
            self.do_backup(self.volumes[name], fault={})

    def noted(self, volume: Volume, clone: str, state: Description) -> None:
        """Take over a new clone into the model, if it was made."""
        found = {one["clone"]: one["revision"] for one in self.value("clones", volume.name)}
        shown = self.value("volume", "show", volume.name)
        if clone in found:
            self.learn(found[clone], state)
            volume.clones[clone] = found[clone]
        head = shown["head"]
        if head != volume.head:
            self.learn(head, state)  # a commit without its clone: killed between
            volume.head = head
        assert found == volume.clones

    def do_backup(self, volume: Volume | None = None, fault: dict[str, str] | None = None) -> None:
        volume = volume or self.tracked()
        assert volume.source is not None
        self.grow(volume)
        fault = self.fault() if fault is None else fault
        clone = self.fresh("c")
        what = volume.name if self.chance.random() < 0.3 and volume.head else str(volume.source)
        state = describe(volume.source)
        done = self.run("backup", what, "--name", clone, code=(0, KILLED, 10) if fault else 0, **fault)
        assert describe(volume.source) == state, "a backup changed its source"
        self.noted(volume, clone, state)
        if done.code == 0:
            assert clone in volume.clones and volume.head == volume.clones[clone]
        while len(volume.clones) > CLONES_MAX and len(volume.held) < len(volume.clones):
            self.do_unclone(volume)

    def do_clone(self) -> None:
        volume = self.chance.choice(list(self.volumes.values()))
        clone = self.fresh("n")
        fault = self.fault()
        codes = (0, KILLED, 10) if fault else 0
        if volume.clones and self.chance.random() < 0.4:
            old = self.chance.choice(list(volume.clones))
            self.run("clone", f"{volume.name}@{old}", clone, code=codes, **fault)
            self.noted(volume, clone, self.states[volume.clones[old]])
            return
        if volume.source is None or self.chance.random() < 0.3:
            self.run("clone", volume.name, clone, "--no-scan", code=codes, **fault)
            self.noted(volume, clone, self.states[volume.head])
            return
        self.grow(volume)
        self.run("clone", volume.name, clone, code=codes, **fault)
        self.noted(volume, clone, describe(volume.source))

    def do_unclone(self, volume: Volume | None = None) -> None:
        volume = volume or self.chance.choice(list(self.volumes.values()))
        if not volume.clones:
            return
        clone = self.chance.choice(list(volume.clones))
        if clone in volume.held:
            self.run("unclone", f"{volume.name}@{clone}", code=4)
        else:
            self.run("unclone", f"{volume.name}@{clone}")
            del volume.clones[clone]

    def do_hold(self) -> None:
        volume = self.chance.choice(list(self.volumes.values()))
        if volume.held and self.chance.random() < 0.6:
            clone = self.chance.choice(sorted(volume.held))
            self.run("unhold", f"{volume.name}@{clone}")
            volume.held.discard(clone)
        elif volume.clones:
            clone = self.chance.choice(list(volume.clones))
            self.run("hold", f"{volume.name}@{clone}")
            volume.held.add(clone)

    def do_dump(self) -> None:
        volume = self.chance.choice(list(self.volumes.values()))
        if not volume.head:
            return
        level = self.chance.choice([0, 0, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9])
        address = volume.name
        names = [one["clone"] for one in self.value("clones", volume.name)]
        roll = self.chance.random()
        if names and roll < 0.5:
            address = f"{volume.name}@{self.chance.choice(names[-3:])}"
        elif len(names) > 1 and roll < 0.65:
            first, last = sorted(self.chance.sample(range(len(names)), 2))
            address = f"{volume.name}@{names[first]}..{names[last]}"
        elif names and roll < 0.75:
            address = f"{volume.name}@{self.chance.choice(names)}"
        lower = [record for record in volume.records if record[0] < level]
        name = self.fresh("d") + ".dump"
        words = ["dump", address, "--level", str(level), "-o", name]
        if level and not lower:
            self.run(*words, code=4)
            assert not (self.user.home / name).exists()
            return
        record = self.chance.random() < 0.85
        fault = self.fault()
        self.run(*words, *([] if record else ["--no-record"]), code=(0, KILLED, 10) if fault else 0, **fault)
        self.dump_made(volume, name, level=level, recorded=record if not fault else None)
        while len(self.dumps) > DUMPS_MAX:
            self.do_forget_dump()

    def dump_made(self, volume: Volume, name: str, *, level: int, recorded: bool | None) -> None:
        """Check a new dump file, if there is one, and take it over into the model. `recorded` None: perhaps."""
        for partial in self.user.home.glob("*.partial"):
            partial.unlink()  # of a killed one
        shown = {one["dump"] for one in self.value("volume", "show", volume.name)["dumps"]}
        if not (self.user.home / name).exists():
            assert recorded is None and shown == {one[2] for one in volume.records}
            return
        dump = self.read_dump(name)
        base = max((one for one in volume.records if one[0] < level), key=lambda one: one[1], default=None)
        assert dump.level == level and dump.bases == ([base[3]] if base else [])
        if recorded or (recorded is None and dump.id in shown):
            volume.records.append((level, dump.taken_ns, dump.id, dump.targets[-1][1]))
        assert shown == {one[2] for one in volume.records}

    def do_forget_dump(self) -> None:
        if self.dumps:
            dump = self.dumps.pop(self.chance.choice(list(self.dumps)))
            (self.user.home / dump.name).unlink()
            self.say(f"  lost {dump.name}")

    def some_chain(self) -> list[Dump]:
        """Return dumps to merge: often a chain, sometimes not."""
        ordered = sorted(self.dumps.values(), key=lambda one: one.taken_ns)
        if self.chance.random() < 0.3:
            return self.chance.sample(ordered, min(len(ordered), self.chance.choice([2, 2, 3])))
        chain = [self.chance.choice(ordered)]
        while len(chain) < 5 and self.chance.random() < 0.85:
            follow = [one for one in ordered if one not in chain and self.is_chain([*chain, one])]
            if not follow:
                break
            chain.append(self.chance.choice(follow))
        return chain

    def do_merge(self) -> None:
        if len(self.dumps) < 2:
            return
        chain = self.some_chain()
        if len(chain) < 2:
            return
        name = self.fresh("m") + ".dump"
        words = ["merge", "-o", name, *[dump.name for dump in chain]]
        before = set(os.listdir(self.user.home))
        if not self.is_chain(chain):
            self.run(*words, code=4)
            assert set(os.listdir(self.user.home)) == before
            return
        fault = self.fault()
        done = self.run(*words, code=(0, KILLED, 10) if fault else 0, **fault)
        for partial in self.user.home.glob("*.partial"):
            assert done.code == KILLED
            partial.unlink()
        if not (self.user.home / name).exists():
            assert done.code
            return
        merged = self.read_dump(name)
        assert merged.bases == chain[0].bases and merged.targets == chain[-1].targets
        assert merged.taken_ns == chain[-1].taken_ns and merged.level == chain[0].level
        assert self.value("verify", name)["whole"]
        full = self.full_chain(merged)
        if full is not None:
            self.restore_fresh("+".join(one.name for one in full), merged.targets[-1][1])

    def sources(self) -> Iterator[tuple[str, str]]:
        """Yield every address that can be restored, and the revision it names."""
        for volume in self.volumes.values():
            for clone, revision in volume.clones.items():
                yield f"{volume.name}@{clone}", revision
            if volume.head:
                yield f"{volume.name}@#{volume.head[:16]}", volume.head
        for dump in self.dumps.values():
            chain = self.full_chain(dump)
            if chain is not None:
                words = "+".join(one.name for one in chain)
                yield words, dump.targets[-1][1]
                for clone, revision in dump.targets:
                    if clone is not None:
                        yield f"{words}@{clone}", revision

    def do_restore_anew(self) -> None:
        address, revision = self.chance.choice(list(self.sources()))
        if len(self.targets) >= TARGETS_MAX:
            gone = self.targets.pop(self.chance.choice(list(self.targets)), None)
            assert gone is not None
            for place in self.user.home.glob("t*"):
                if place.is_dir() and place.name not in self.targets:
                    shutil.rmtree(place)
        name = self.fresh("t")
        self.restore_faulty(address, name)
        self.check_directory(self.user.home / name, self.states[revision], f"{address} restored anew")
        self.targets[name] = self.states[revision]

    def restore_faulty(self, address: str, name: str, *more: str) -> None:
        """Restore, perhaps stopped by a fault and then given again."""
        fault = self.fault()
        if fault:
            if self.run("restore", address, "--to", name, *more, code=(0, KILLED, 10), **fault).code == 0:
                return
            self.run("restore", address, "--to", name, "--delete", *more)  # also what the killed one left
        else:
            self.run("restore", address, "--to", name, *more)

    def do_change_target(self) -> None:
        if self.targets:
            name = self.chance.choice(list(self.targets))
            self.say(f"  {name}: {' '.join(self.gardener.change(self.user.home / name, 4))}")
            self.targets[name] = describe(self.user.home / name)

    def do_restore_in_place(self) -> None:
        if not self.targets:
            return self.do_restore_anew()
        if self.chance.random() < 0.5:
            self.do_change_target()
        name = self.chance.choice(list(self.targets))
        address, revision = self.chance.choice(list(self.sources()))
        compare = self.chance.random() < 0.5
        self.restore_faulty(address, name, "--delete", *(["--compare"] if compare else []))
        found, wanted = describe(self.user.home / name), self.states[revision]
        if not compare:
            wanted = self.as_compared_by_time(self.targets[name], found, wanted)
        wrong = differences(found, wanted)
        assert not wrong, "\n".join([f"{address} restored in place: {len(wrong)} differ", *wrong[:20]])
        self.targets[name] = found
        return None

    @staticmethod
    def as_compared_by_time(before: Description, found: Description, wanted: Description) -> Description:
        """Return what a restore that believes sizes and times makes: files of equal ones keep their content."""
        times = {(row[3], row[7]) for row in before.values() if row[0] & 0o170000 == 0o100000}
        allowed = dict(wanted)
        for path, row in wanted.items():
            now = found.get(path)
            if now is not None and row[0] & 0o170000 == 0o100000 == now[0] & 0o170000 and (row[3], row[7]) in times:
                allowed[path] = (*row[:CONTENT], now[CONTENT], row[XATTRS], row[7], now[EXTENTS], *row[EXTENTS + 1 :])
        return allowed

    def do_restore_path(self) -> None:
        address, revision = self.chance.choice(list(self.sources()))
        state = self.states[revision]
        path = self.chance.choice(sorted(state))
        if not path:
            return
        place = self.user.home / "part"
        self.run("restore", address, "--to", "part", f"--path={os.fsdecode(path[1:])}")
        found = beneath(describe(place), path)
        wrong = differences(found, beneath(state, path))
        assert not wrong, "\n".join([f"{address} --path {path!r}: {len(wrong)} differ", *wrong[:20]])
        shutil.rmtree(place)

    def do_restore_volume(self) -> None:
        if not self.dumps:
            return
        chain = self.some_chain()
        if self.chance.random() < 0.5:
            chain = self.full_chain(chain[-1]) or chain
        natives = [volume for volume in self.volumes.values() if volume.source is None]
        volume = self.chance.choice(natives) if natives and self.chance.random() < 0.6 else None
        if volume is not None and self.chance.random() < 0.8:
            follow = [one for one in self.dumps.values() if one.bases == [volume.head]]
            chain = [self.chance.choice(follow)] if follow else chain
        name = volume.name if volume is not None else self.fresh("back")
        words = ["restore", "+".join(one.name for one in chain), "--volume", name]
        good = self.is_chain(chain) and (not chain[0].bases if volume is None else chain[0].bases == [volume.head])
        if not good:
            self.run(*words, code=4)
            assert (name in {one["volume"] for one in self.value("volume", "list")}) == (volume is not None)
            return
        fault = self.fault()
        done = self.run(*words, code=(0, KILLED, 10) if fault else 0, **fault)
        if done.code and volume is None and name not in {one["volume"] for one in self.value("volume", "list")}:
            return
        before = self.value("volume", "show", name)
        if done.code and (not before["head"] or (volume is not None and before["head"] == volume.head)):
            self.run(*words)
        volume = volume or Volume(name=name, source=None)
        self.volumes[name] = volume
        carried = {clone: revision for dump in chain for clone, revision in dump.targets if clone is not None}
        volume.clones = {**carried, **volume.clones}
        for dump in chain:
            if dump.id not in {one[2] for one in volume.records}:
                volume.records.append((dump.level, dump.taken_ns, dump.id, dump.targets[-1][1]))
        volume.records.sort(key=lambda one: one[1])
        volume.head = chain[-1].targets[-1][1]
        self.check_volume(volume)
        self.restore_fresh(name, volume.head)
        if len(natives) > 3:
            self.do_remove_volume()

    def do_rename_volume(self) -> None:
        volume = self.chance.choice(list(self.volumes.values()))
        name = self.fresh("r")
        self.run("volume", "rename", volume.name, name)
        del self.volumes[volume.name]
        volume.name = name
        self.volumes[name] = volume

    def do_remove_volume(self) -> None:
        natives = [volume for volume in self.volumes.values() if volume.source is None]
        if natives:
            volume = self.chance.choice(natives)
            if volume.held:
                self.run("volume", "remove", volume.name, "--yes", code=4)
            else:
                self.run("volume", "remove", volume.name, "--yes")
                del self.volumes[volume.name]

    def do_gc(self) -> None:
        fault = self.fault()
        grace = self.chance.choice(["0s", "0s", "1s", "1s", "3s", "24h"])
        self.run("gc", "--grace", grace, code=(0, KILLED, 10) if fault else 0, **fault)
        if self.chance.random() < 0.3:
            self.do_verify()

    def do_verify(self) -> None:
        assert self.value("verify", "--pool")["whole"]

    def do_lose_index(self) -> None:
        index = self.user.home / "pool" / "index"
        if not index.exists():
            return
        files = [path for path in index.rglob("*") if path.is_file()]
        roll = self.chance.random()
        if roll < 0.4 or not files:
            shutil.rmtree(index)
        elif roll < 0.7:
            self.chance.choice(files).unlink()
        else:
            path = self.chance.choice(files)
            os.truncate(path, self.chance.randrange(path.stat().st_size + 1))
        self.say("  lost the index, or a part")

    def do_lose_cache(self) -> None:
        scans = list((self.user.home / ".cache").rglob("*.scan"))
        if not scans:
            return
        path = self.chance.choice(scans)
        data = bytearray(path.read_bytes())
        roll = self.chance.random()
        if roll < 0.4 or not data:
            path.unlink()
        elif roll < 0.7:
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
            path.write_bytes(data)
        else:
            path.write_bytes(data[: self.chance.randrange(len(data))])
        self.say(f"  lost or broke {path.name}")

    # -- two at once

    def do_two_at_once(self) -> None:
        pairs = [
            self.do_backup_beside_gc, self.do_backup_beside_dump, self.do_two_backups, self.do_same_backups,
            self.do_restore_beside_gc, self.do_dump_beside_gc,
        ]  # fmt: skip
        self.chance.choice(pairs)()

    def do_backup_beside_gc(self) -> None:
        volume = self.tracked()
        self.grow(volume)
        assert volume.source is not None
        state, clone = describe(volume.source), self.fresh("c")
        grace = self.chance.choice(["0s", "5s", "24h"])
        backup, gc = self.both(["backup", str(volume.source), "--name", clone], ["gc", "--grace", grace])
        gc.check(*((0, 7) if grace == "0s" else (0,)))
        backup.check(0)
        self.noted(volume, clone, state)
        self.restore_fresh(f"{volume.name}@{clone}", volume.clones[clone])

    def do_backup_beside_dump(self) -> None:
        volume = self.tracked()
        if not volume.clones:
            return
        self.grow(volume)
        assert volume.source is not None
        state, clone, name = describe(volume.source), self.fresh("c"), self.fresh("d") + ".dump"
        old = self.chance.choice(list(volume.clones))
        lower = [one[0] for one in volume.records]
        level = self.chance.choice([0, min(lower) + 1]) if lower and min(lower) < 9 else 0
        words = ["dump", f"{volume.name}@{old}", "--level", str(level), "-o", name]
        backup, dump = self.both(["backup", str(volume.source), "--name", clone], words)
        backup.check(0)
        dump.check(0)
        self.noted(volume, clone, state)
        self.dump_made(volume, name, level=level, recorded=True)

    def do_two_backups(self) -> None:
        words, states = [], []
        tracked = [volume for volume in self.volumes.values() if volume.source is not None]
        for volume in tracked[:2]:
            self.grow(volume)
            assert volume.source is not None
            states.append((volume, self.fresh("c"), describe(volume.source)))
            words.append(["backup", str(volume.source), "--name", states[-1][1]])
        for done in self.both(words[0], words[1]):
            done.check(0)
        for volume, clone, state in states:
            self.noted(volume, clone, state)
            self.restore_fresh(f"{volume.name}@{clone}", volume.clones[clone])

    def do_same_backups(self) -> None:
        """Two backups of one volume: the later one may be told to come again."""
        volume = self.tracked()
        self.grow(volume)
        assert volume.source is not None
        state, clones = describe(volume.source), [self.fresh("c"), self.fresh("c")]
        done = self.both(*(["backup", str(volume.source), "--name", clone] for clone in clones))
        for one in done:
            one.check(0, 7)
        assert 0 in (done[0].code, done[1].code)
        found = {one["clone"]: one["revision"] for one in self.value("clones", volume.name)}
        for clone, one in zip(clones, done, strict=True):
            if one.code == 0:
                self.learn(found[clone], state)
                volume.clones[clone] = found[clone]
        head = self.value("volume", "show", volume.name)["head"]
        self.learn(head, state)
        volume.head = head
        assert found == volume.clones

    def do_restore_beside_gc(self) -> None:
        address, revision = self.chance.choice(list(self.sources()))
        self.unclone_some()
        if address not in {one for one, _ in self.sources()}:
            return
        restore, gc = self.both(
            ["restore", address, "--to", "check"], ["gc", "--grace", self.chance.choice(["0s", "1s"])]
        )
        restore.check(0)
        gc.check(0)
        self.check_directory(self.user.home / "check", self.states[revision], f"{address} restored beside gc")
        shutil.rmtree(self.user.home / "check")

    def do_dump_beside_gc(self) -> None:
        volume = self.tracked()
        self.unclone_some()
        name = self.fresh("d") + ".dump"
        grace = self.chance.choice(["0s", "1s"])
        dump, gc = self.both(["dump", volume.name, "--level", "0", "-o", name], ["gc", "--grace", grace])
        dump.check(0)
        gc.check(0)
        self.dump_made(volume, name, level=0, recorded=True)
        self.restore_fresh(name, volume.head)

    def unclone_some(self) -> None:
        for _ in range(2):
            self.do_unclone()

    # -- all of it

    def live(self, steps: int) -> None:
        try:
            self.begin()
            for _ in range(steps):
                self.step()
            self.check_all()
        except BaseException as error:
            recent = "\n".join(self.history[-60:])
            self.say(f"FAILED: {type(error).__name__}: {str(error)[:20000]}")
            raise AssertionError(f"seed {self.seed}, step {len(self.history)}: {error}\n{recent}") from error


def live(place: Path, seed: int, *, steps: int = STEPS) -> None:
    """Live one life; the files of a good one are removed."""
    print(f"DAL_LIFE_SEED={seed}")
    home = place / f"life{seed}"
    Life(home, seed).live(steps)
    shutil.rmtree(home)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    chosen = os.environ.get("DAL_LIFE_DIR")
    return Path(chosen) if chosen else tmp_path


@pytest.mark.skipif("DAL_LIFE_SECONDS" in os.environ, reason="the long life is lived")
@pytest.mark.parametrize("seed", [int(os.environ["DAL_LIFE_SEED"])] if "DAL_LIFE_SEED" in os.environ else SEEDS)
def test_a_life_loses_nothing(place: Path, seed: int) -> None:
    """Known lives, so that a change is judged by what it changed; new ones are lived with DAL_LIFE_SECONDS."""
    live(place, seed)


@pytest.mark.skipif("DAL_LIFE_SECONDS" not in os.environ, reason="DAL_LIFE_SECONDS says how long")
@pytest.mark.timeout(0)
def test_many_lives_lose_nothing(place: Path) -> None:
    end = time.monotonic() + float(os.environ["DAL_LIFE_SECONDS"])
    seed = int(os.environ.get("DAL_LIFE_SEED", random.SystemRandom().randrange(10**6)))
    lives = 0
    while time.monotonic() < end:
        live(place, seed + lives)
        lives += 1
    print(f"{lives} lives, {lives * STEPS} steps")
