"""A writable mount on a recorded disk: its engine answers requests as the kernel sends them, and what it acknowledges.

A sync that was answered, and an unmount, promise all that was written before; what was written since may be there as of any commit that
was begun. There is no kernel here, so that one seed always does the same.
"""

import hashlib
import itertools
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from explorer import Command, Explorer, Promise
from machine import Machine

from dalsegno.assembly.local import open_pool
from dalsegno.formats import fuse
from dalsegno.formats.fuse import Header
from dalsegno.mount.service import Opened, open_writable
from dalsegno.terms.errors import NotFound
from dalsegno.volumes.state import NATIVE

VOLUME = "native"
TREE = f"tree {VOLUME}"
NAMES = ("a", "b", "c", "d/a", "d/b", "d/e/a")
Told = Callable[[str, str, str], object]
Files = dict[str, bytes]


def fingerprint_of(files: Files) -> str:
    """Return what `explorer.fingerprint` returns of a directory with these files."""
    digest = hashlib.sha256()

    def add(below: str) -> None:
        inside = sorted(path for path in files if path.startswith(below))
        for path in inside:
            if "/" not in path[len(below) :]:
                digest.update(f"{path}\0".encode() + hashlib.sha256(files[path]).digest())
        for name in sorted({path[len(below) :].partition("/")[0] for path in inside if "/" in path[len(below) :]}):
            add(f"{below}{name}/")

    add("")
    return digest.hexdigest()


class Kernel:
    """Sends requests by path."""

    def __init__(self, opened: Opened) -> None:
        self._methods = opened.writable.methods
        self._unique = itertools.count(1)

    def ask(self, opcode: int, node: int, body: Any) -> bytes:
        """Return what a request is answered with."""
        uid, gid = os.getuid(), os.getgid()
        answer = self._methods[opcode](Header(0, opcode, next(self._unique), node, uid, gid, os.getpid()), body)
        return b"".join(answer) if isinstance(answer, (list, tuple)) else bytes(answer or b"")

    def node(self, path: str) -> int:
        """Return a path's node, 0 when nothing is there."""
        node = fuse.ROOT_NODE
        for name in path.split("/") if path else ():
            try:
                node = int.from_bytes(self.ask(fuse.LOOKUP, node, fuse.Name(name.encode()))[:8], "little")
            except FileNotFoundError:
                return 0
            if not node:
                return 0
        return node

    def _place(self, path: str) -> tuple[int, bytes]:
        directory, _, name = path.rpartition("/")
        if directory and not self.node(directory):
            above, own = self._place(directory)
            self.ask(fuse.MKDIR, above, fuse.MakeDirectory(0o755, 0o022, own))
        return self.node(directory), name.encode()

    def write(self, path: str, offset: int, data: bytes) -> None:
        """Write, and make the file before if it is not there."""
        if not self.node(path):
            directory, name = self._place(path)
            self.ask(fuse.MKNOD, directory, fuse.MakeNode(stat.S_IFREG | 0o644, 0, 0o022, name))
        self.ask(fuse.WRITE, self.node(path), fuse.Write(0, offset, len(data), 0, 0, 0, memoryview(data)))

    def truncate(self, path: str, size: int) -> None:
        """Cut a file off or make it longer."""
        self.ask(fuse.SETATTR, self.node(path), fuse.SetAttr(fuse.SET_SIZE, 0, size, *[0] * 10))

    def rename(self, path: str, new: str) -> None:
        """Give a file another name, in place of what had it."""
        directory, name = self._place(path)
        to, new_name = self._place(new)
        self.ask(fuse.RENAME2, directory, fuse.Rename2(to, 0, name, new_name))

    def unlink(self, path: str) -> None:
        """Remove a file."""
        directory, name = self._place(path)
        self.ask(fuse.UNLINK, directory, fuse.Name(name))

    def sync(self, path: str) -> None:
        """Sync a file, or the top."""
        node = self.node(path)
        self.ask(fuse.FSYNC if path else fuse.FSYNCDIR, node, fuse.Fsync(0, 0))

    def files(self, path: str = "") -> Files:
        """Return all files below a directory with what is in them."""
        found: Files = {}
        offset, node = 0, self.node(path)
        while data := self.ask(fuse.READDIR, node, fuse.Read(0, offset, 4096, 0, 0, 0)):
            for each in fuse.decode_dirents(data):
                offset = each.offset
                below = f"{path}/{each.name.decode()}".lstrip("/")
                if each.name in (b".", b".."):
                    continue
                if each.type == stat.S_IFDIR >> 12:
                    found.update(self.files(below))
                else:
                    found[below] = self.ask(fuse.READ, self.node(below), fuse.Read(0, 0, 1 << 20, 0, 0, 0))
        return found


class Writer:
    """Works in a mount, and tells what was acknowledged."""

    def __init__(self, opened: Opened, chance: random.Random, told: Told) -> None:
        self._kernel = Kernel(opened)
        self._commit = opened.committer.commit
        self._chance = chance
        self._told = told
        self.files = self._kernel.files()

    def step(self) -> None:
        """Do one thing."""
        chance = self._chance
        act = chance.choice((self._write, self._write, self._write, self._truncate, self._rename, self._unlink))
        act()
        match chance.randrange(6):
            case 0 | 1:
                self.tell(lambda: self._kernel.sync(chance.choice(sorted(self.files)) if self.files else ""))
            case 2:  # by the clock: nobody is told
                self._told("may", TREE, fingerprint_of(self.files))
                self._commit()

    def tell(self, act: Callable[[], object]) -> None:
        """Do what promises all that was written."""
        now = fingerprint_of(self.files)
        self._told("may", TREE, now)
        act()
        self._told("is", TREE, now)

    def _write(self) -> None:
        path = self._chance.choice(NAMES)
        data = self._chance.randbytes(self._chance.choice((10, 300, 3000, 70_000)))
        known = self.files.get(path, b"")
        offset = self._chance.choice((0, len(known), len(known) // 2))
        self._kernel.write(path, offset, data)
        self.files[path] = known[:offset] + data + known[offset + len(data) :]

    def _truncate(self) -> None:
        if self.files:
            path = self._chance.choice(sorted(self.files))
            size = self._chance.choice((0, len(self.files[path]) // 2, len(self.files[path]) + 10))
            self._kernel.truncate(path, size)
            self.files[path] = self.files[path][:size].ljust(size, b"\0")

    def _rename(self) -> None:
        if self.files:
            path, new = self._chance.choice(sorted(self.files)), self._chance.choice(NAMES)
            if path != new:
                self._kernel.rename(path, new)
                self.files[new] = self.files.pop(path)

    def _unlink(self) -> None:
        if self.files:
            path = self._chance.choice(sorted(self.files))
            self._kernel.unlink(path)
            del self.files[path]


def work(words: list[str], told: Told) -> int:
    """Mount, work, and unmount; `look` only reads, and syncs what it sees."""
    seed, count = words
    chance = random.Random(seed)
    with open_pool(Path(os.environ["DAL_POOL"])) as house:
        try:
            state = house.volumes.get(VOLUME)
        except NotFound:
            state = house.volumes.create(VOLUME, kind=NATIVE, now_ns=1)
        writer: Writer | None = None

        def session() -> None:
            nonlocal writer
            with open_writable(house, state) as opened:
                writer = Writer(opened, chance, told)
                # What is seen and then synced is promised, too, whoever wrote it.
                writer.tell(lambda: writer and writer._kernel.sync(""))
                for _ in range(int(count)):
                    writer.step()
                told("may", TREE, fingerprint_of(writer.files))

        session()
        assert writer is not None
        told("is", TREE, fingerprint_of(writer.files))
    return 0


class MountExplorer(Explorer):
    """Explores a pool one of whose volumes is mounted now and then. The mount comes up again and takes what is written."""

    def __init__(self, machine: Machine, *, seed: int) -> None:
        super().__init__(machine, seed=seed)
        machine.environment = {"DAL_POOL": f"{machine.home}/pool"}

    def _broken(self, promise: Promise) -> str:
        what = super()._broken(promise)
        if what:
            return what
        self._generation += 1
        ran = self.machine.run(worked(3, seed=self._generation).words, ("verify", "--pool"))
        code, text, _ = ran.done[-1]
        return "" if code == 0 else f"mounted again: exit {code}: {text[-800:]}"


def worked(count: int = 6, *, seed: int) -> Command:
    """Mount the native volume, do so many things in it, and unmount it."""
    return Command(f"mount {seed}", ("@mount_world:work", str(seed), str(count)))
