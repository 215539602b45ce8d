"""A mount beside a plain directory: random system calls in both, the same answers, the same tree."""

import errno
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mount_kit import mounted, needs_fuse

from cli_kit import User

pytestmark = needs_fuse

SEED = int(os.environ.get("DAL_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
STEPS = int(os.environ.get("DAL_TEST_STEPS", "1200"))
NAMES = [b"a", b"b", b"c", b"d", b"e", b"long" * 50, b"\xff\xfe", b"with space"]
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
PUNCH, ZERO, KEEP = 2, 0x10, 1


def renameat2(source: bytes, target: bytes, flags: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, source, -100, target, flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Sides:
    """The same calls on both sides; descriptors are kept in pairs."""

    def __init__(self, ours: Path, theirs: Path) -> None:
        self.roots = [os.fsencode(ours), os.fsencode(theirs)]
        self.open: list[list[int]] = []
        self.trace: list[str] = []

    def both(self, what: str, act: Callable[[bytes, int], Any]) -> Any:
        results = []
        for side, root in enumerate(self.roots):
            try:
                results.append(("ok", act(root, side)))
            except OSError as error:
                results.append((errno.errorcode.get(error.errno or 0), None))
        self.trace.append(f"{what} -> {results[1][0]}")
        assert results[0] == results[1], (SEED, what, results, self.trace[-30:])
        return results[1]

    def close_all(self) -> None:
        for pair in self.open:
            for fd in pair:
                os.close(fd)
        self.open = []


def look(root: bytes) -> dict[bytes, tuple[Any, ...]]:
    found: dict[bytes, tuple[Any, ...]] = {}
    inodes: dict[int, bytes] = {}
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted([*names, *files]):
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, root)
            facts = os.lstat(path)
            kind = stat.S_IFMT(facts.st_mode)
            data: Any = None
            if kind == stat.S_IFLNK:
                data = os.readlink(path)
            elif kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    data = file.read()
            xattrs = {}
            if kind in (stat.S_IFREG, stat.S_IFDIR):
                xattrs = {key: os.getxattr(path, key) for key in os.listxattr(path)}
            size = facts.st_size if kind == stat.S_IFREG else 0
            links = 0 if kind == stat.S_IFDIR else facts.st_nlink
            twin = b"" if kind == stat.S_IFDIR else inodes.setdefault(facts.st_ino, relative)
            device = facts.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
            found[relative] = (facts.st_mode, facts.st_uid, facts.st_gid, size, links, twin, device, data, xattrs)
    return found


def compare(sides: Sides) -> None:
    ours, theirs = look(sides.roots[0]), look(sides.roots[1])
    differing = {
        path.replace(b"long" * 50, b"LONG"): (ours.get(path, ())[:7], theirs.get(path, ())[:7])
        for path in ours.keys() | theirs.keys()
        if ours.get(path) != theirs.get(path)
    }
    assert not differing, (SEED, differing, [line.replace("long" * 50, "LONG") for line in sides.trace[-100:]])


class Machine:
    """Chooses what happens next."""

    def __init__(self, chance: random.Random, sides: Sides) -> None:
        self.chance = chance
        self.sides = sides

    def path(self) -> bytes:
        depth = self.chance.choice([1, 1, 1, 2, 2, 3])
        return b"/".join(self.chance.choice(NAMES) for _ in range(depth))

    def data(self) -> bytes:
        size = self.chance.choice([0, 1, 10, 130, 4096, 5000, 70_000, 300_000])
        return self.chance.randbytes(size)

    def step(self) -> None:
        acts = [
            (self.create, 8),
            (self.write, 12),
            (self.read, 6),
            (self.truncate, 4),
            (self.mkdir, 5),
            (self.unlink, 4),
            (self.rmdir, 2),
            (self.rename, 7),
            (self.link, 3),
            (self.symlink, 2),
            (self.chmod, 3),
            (self.chown, 2),
            (self.times, 2),
            (self.xattr, 3),
            (self.punch, 3),
            (self.mknod, 1),
            (self.listing, 3),
            (self.stat, 4),
            (self.close, 3),
            (self.sync, 1),
            (self.seek, 2),
        ]
        self.chance.choices([act for act, _ in acts], [weight for _, weight in acts])[0]()

    def create(self) -> None:
        path = self.path()
        flags = os.O_RDWR | self.chance.choice(
            [os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC, 0, os.O_APPEND, os.O_CREAT | os.O_APPEND]
        )
        mode = self.chance.choice([0o644, 0o600, 0o4755, 0o2775, 0o777])
        fds: list[int] = [-1, -1]

        def act(root: bytes, side: int) -> None:
            fds[side] = os.open(os.path.join(root, path), flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode)

        if self.sides.both(f"open {path!r} {flags:o} {mode:o}", act)[0] == "ok":
            self.sides.open.append(fds)

    def fd(self) -> list[int] | None:
        return self.chance.choice(self.sides.open) if self.sides.open else None

    def write(self) -> None:
        pair = self.fd()
        if pair is None:
            return
        data, offset = self.data(), self.chance.choice([0, 1, 100, 4096, 100_000, 1_000_000])
        if self.chance.random() < 0.5:
            self.sides.both(f"pwrite {len(data)} at {offset}", lambda root, side: os.pwrite(pair[side], data, offset))
        else:
            self.sides.both(f"write {len(data)}", lambda root, side: os.write(pair[side], data))

    def read(self) -> None:
        pair = self.fd()
        if pair is not None:
            size, offset = self.chance.choice([1, 5000, 400_000]), self.chance.choice([0, 5, 4000, 99_999, 900_000])
            self.sides.both(f"pread {size} at {offset}", lambda root, side: os.pread(pair[side], size, offset))

    def truncate(self) -> None:
        pair, size = self.fd(), self.chance.choice([0, 1, 50, 4096, 90_000, 1_200_000])
        if pair is not None and self.chance.random() < 0.6:
            self.sides.both(f"ftruncate {size}", lambda root, side: os.ftruncate(pair[side], size))
        else:
            path = self.path()
            self.sides.both(f"truncate {path!r} {size}", lambda root, side: os.truncate(root + b"/" + path, size))

    def mkdir(self) -> None:
        path, mode = self.path(), self.chance.choice([0o755, 0o700, 0o2755, 0o1777])
        self.sides.both(f"mkdir {path!r}", lambda root, side: os.mkdir(root + b"/" + path, mode))

    def unlink(self) -> None:
        path = self.path()
        self.sides.both(f"unlink {path!r}", lambda root, side: os.unlink(root + b"/" + path))

    def rmdir(self) -> None:
        path = self.path()
        self.sides.both(f"rmdir {path!r}", lambda root, side: os.rmdir(root + b"/" + path))

    def rename(self) -> None:
        source, target = self.path(), self.path()
        flags = self.chance.choice([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE])
        self.sides.both(
            f"rename {source!r} {target!r} {flags}",
            lambda root, side: renameat2(root + b"/" + source, root + b"/" + target, flags),
        )

    def link(self) -> None:
        source, target = self.path(), self.path()
        self.sides.both(
            f"link {source!r} {target!r}",
            lambda root, side: os.link(root + b"/" + source, root + b"/" + target, follow_symlinks=False),
        )

    def symlink(self) -> None:
        path, target = self.path(), self.chance.choice([b"a", b"../b", b"x" * 300])
        self.sides.both(f"symlink {path!r}", lambda root, side: os.symlink(target, root + b"/" + path))

    def chmod(self) -> None:
        path, mode = self.path(), self.chance.choice([0o644, 0o6755, 0o1777, 0, 0o777, 0o2644])
        self.sides.both(f"chmod {path!r} {mode:o}", lambda root, side: os.chmod(root + b"/" + path, mode))

    def chown(self) -> None:
        path, uid, gid = self.path(), self.chance.choice([-1, 0, 1000]), self.chance.choice([-1, 0, 100])
        if os.geteuid() == 0:
            self.sides.both(f"chown {path!r} {uid} {gid}", lambda root, side: os.lchown(root + b"/" + path, uid, gid))

    def times(self) -> None:
        path, at = self.path(), self.chance.choice([0, -1_500_000_000, 1_700_000_000_123_456_789])

        def act(root: bytes, side: int) -> int:
            os.utime(root + b"/" + path, ns=(5, at), follow_symlinks=False)
            return os.lstat(root + b"/" + path).st_mtime_ns

        self.sides.both(f"utime {path!r} {at}", act)

    def xattr(self) -> None:
        path, name = self.path(), self.chance.choice([b"user.one", b"user.two", b"trusted.three"])
        value, flags = self.chance.choice([b"", b"v", b"x" * 1000]), self.chance.choice([0, 1, 2])
        if self.chance.random() < 0.3:
            self.sides.both(f"removexattr {path!r}", lambda root, side: os.removexattr(root + b"/" + path, name))
        else:
            self.sides.both(
                f"setxattr {path!r} {name!r} {flags}",
                lambda root, side: os.setxattr(root + b"/" + path, name, value, flags),
            )

    def punch(self) -> None:
        pair = self.fd()
        if pair is None:
            return
        mode = self.chance.choice([PUNCH | KEEP, ZERO, ZERO | KEEP, 0, KEEP])
        offset, length = self.chance.choice([0, 100, 4096, 80_000]), self.chance.choice([1, 4096, 200_000])
        self.sides.both(
            f"fallocate {mode} {offset} {length}", lambda root, side: fallocate(pair[side], mode, offset, length)
        )

    def mknod(self) -> None:
        path = self.path()
        form = self.chance.choice([stat.S_IFIFO, stat.S_IFCHR, stat.S_IFREG, stat.S_IFSOCK])
        if os.geteuid() == 0 or form == stat.S_IFIFO:
            device = os.makedev(1, 3) if form == stat.S_IFCHR else 0
            self.sides.both(
                f"mknod {path!r} {form:o}", lambda root, side: os.mknod(root + b"/" + path, form | 0o644, device)
            )

    def listing(self) -> None:
        path = self.path() if self.chance.random() < 0.7 else b"."
        self.sides.both(f"listdir {path!r}", lambda root, side: sorted(os.listdir(root + b"/" + path)))

    def stat(self) -> None:
        path = self.path()

        def act(root: bytes, side: int) -> tuple[int, ...]:
            facts = os.lstat(root + b"/" + path)
            regular = stat.S_ISREG(facts.st_mode)
            links = 0 if stat.S_ISDIR(facts.st_mode) else facts.st_nlink
            return facts.st_mode, facts.st_uid, facts.st_gid, facts.st_size if regular else 0, links

        self.sides.both(f"stat {path!r}", act)

    def close(self) -> None:
        if self.sides.open:
            pair = self.sides.open.pop(self.chance.randrange(len(self.sides.open)))
            for fd in pair:
                os.close(fd)

    def sync(self) -> None:
        pair = self.fd()
        if pair is not None:
            self.sides.both("fsync", lambda root, side: os.fsync(pair[side]))

    def seek(self) -> None:
        pair = self.fd()
        if pair is not None:
            offset = self.chance.choice([0, 10, 4096, 500_000])
            self.sides.both(
                f"seek data behind the end {offset}",
                lambda root, side: os.lseek(pair[side], offset, os.SEEK_SET),
            )


@pytest.fixture
def home(user: User) -> User:
    user.quick("init", "--encryption", "none")
    user.quick("volume", "create", "v")
    return user


EVICTING = """
import dalsegno.mount.commit as commit
import dalsegno.mount.evict as evict

commit.COMMIT_SECONDS, commit.LOOK_SECONDS = 0, 0.02
evict.INODES_KEPT_MAX = evict.LOOK_NS = evict.REST_NS = 0
"""


@pytest.mark.parametrize("before", ["", EVICTING], ids=["roomy", "evicting"])
def test_random_calls_have_the_same_results_as_on_a_plain_directory(home: User, before: str) -> None:
    print(f"seed {SEED}: DAL_TEST_SEED={SEED} repeats this run")
    chance = random.Random(SEED)
    plain = home.home / "plain"
    plain.mkdir()
    clones: dict[str, dict[bytes, tuple[Any, ...]]] = {}
    for era in range(3):
        with mounted(home, "v", *(["--devices"] if os.geteuid() == 0 else []), before=before) as mount:
            sides = Sides(mount.path, plain)
            machine = Machine(chance, sides)
            assert look(sides.roots[0]) == look(sides.roots[1]), (SEED, era, "after mounting again")
            for step in range(STEPS // 3):
                machine.step()
                if step % 100 == 99:
                    compare(sides)
                if step % 150 == 75:
                    name = f"c{era}-{step}"
                    clones[name] = without_sockets(look(sides.roots[1]))
                    home.quick("clone", "v", name)
                    assert look(os.fsencode(mount.path / ".clones" / name)) == clones[name], (SEED, name)
            sides.close_all()
            for directory, _, files in os.walk(sides.roots[1]):
                for path in (os.path.join(directory, name) for name in files):
                    if stat.S_ISSOCK(os.lstat(path).st_mode):
                        os.unlink(path)
            if era == 1:
                # What was synced is there after a crash.
                fd = os.open(mount.path, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)
                mount.kill()
            else:
                mount.end()
            counted(home, look(os.fsencode(plain)))
    for name, before in clones.items():
        with mounted(home, f"v@{name}") as mount:
            assert look(os.fsencode(mount.path)) == before, (SEED, name)
    home.quick("verify", "--pool")


def counted(home: User, tree: dict[bytes, tuple[Any, ...]]) -> None:
    """Check the counts of the newest revision; a file with several names is counted once in bytes."""
    newest = home.value("log", "v")[0]
    files = {facts[5]: facts[3] for facts in tree.values() if stat.S_ISREG(facts[0])}
    assert (newest["entries"], newest["bytes"]) == (len(tree), sum(files.values())), SEED


def without_sockets(tree: dict[bytes, tuple[Any, ...]]) -> dict[bytes, tuple[Any, ...]]:
    return {path: facts for path, facts in tree.items() if not stat.S_ISSOCK(facts[0])}
