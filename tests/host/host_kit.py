"""A store in memory, and a way to look at a directory as `find` and `getfattr` would."""

import contextlib
import os
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dalsegno.chunks.cut import Cutter
from dalsegno.chunks.realm import Realm
from dalsegno.formats.objects import Revision
from dalsegno.host import restore
from dalsegno.host.baseline import Baseline
from dalsegno.host.cache import ScanCache, load_cache
from dalsegno.host.changes import Tell
from dalsegno.host.ignore import Rules
from dalsegno.host.outcome import RestoreResult
from dalsegno.host.restoring import RestoreOptions
from dalsegno.host.scan import ScanOptions, ScanResult, scan_tree
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import NotFound
from dalsegno.terms.events import Event, Report, silent
from dalsegno.terms.ids import ObjectId
from dalsegno.world.clock import now_ns
from dalsegno.world.workers import Workers

REVISION_ID = b"r" * 32


class MemoryStore:
    """Source and Sink over a dict."""

    def __init__(self) -> None:
        self.realm = Realm(b"s" * 32)
        self.objects: dict[bytes, bytes] = {}
        self.gets = 0

    def put(self, kind: int, payload: bytes) -> ObjectId:
        identity = self.realm.identify(kind, payload)
        self.objects[identity] = payload
        return identity

    def has(self, identity: ObjectId) -> bool:
        return identity in self.objects

    def get(self, identity: ObjectId) -> bytes:
        self.gets += 1
        try:
            return self.objects[identity]
        except KeyError:
            raise NotFound(f"object {identity[:6].hex()}") from None


def revision_of(result: ScanResult) -> Revision:
    return Revision(
        volume=b"v" * 16,
        parents=[],
        root=result.root,
        links=result.links,
        created_ns=0,
        author="",
        message="",
        entry_count=result.entry_count,
        total_bytes=result.total_bytes,
    )


def restore_tree(
    source: Source,
    revision: Revision,
    target: bytes | Path,
    *,
    tell: Tell | None = None,
    report: Report = silent,
    workers: Workers | None = None,
    **options: Any,
) -> RestoreResult:
    """Restore with these options."""
    wanted = RestoreOptions(**options)
    return restore.restore_tree(source, revision, target, options=wanted, tell=tell, report=report, workers=workers)


class Machine:
    """A store with the scans made into it."""

    def __init__(self, directory: Path) -> None:
        self.store = MemoryStore()
        self.cutter = Cutter(self.store.realm.chunk_seed)
        self.cache_path = directory / "cache"
        self.revision: Revision | None = None
        self.cache: ScanCache | None = None
        self.events: list[Event] = []

    def baseline(self, *, cached: bool = True) -> Baseline | None:
        """Return what the next scan compares with."""
        if self.revision is None:
            return None
        cache = load_cache(self.cache_path, revision=REVISION_ID) if cached else None
        return Baseline(revision=self.revision, source=self.store, cache=cache)

    def scan(self, root: bytes | Path, *, rules: Rules | None = None, cached: bool = True, **more: Any) -> ScanResult:
        """Scan as if ten seconds had passed since the last change."""
        self.events.clear()
        more.setdefault("started_ns", now_ns() + 10 * 10**9)
        result = scan_tree(
            root,
            sink=self.store,
            cutter=self.cutter,
            baseline=self.baseline(cached=cached),
            options=ScanOptions(rules=rules if rules is not None else Rules(), **more),
            report=self.events.append,
        )
        self.revision = revision_of(result)
        result.cache.save(self.cache_path, revision=REVISION_ID)
        return result


def describe_tree(root: bytes) -> dict[bytes, tuple[object, ...]]:
    """Return everything that must survive, by path; hard links as the sorted group of their paths."""
    found: dict[bytes, tuple[object, ...]] = {}
    groups: dict[int, list[bytes]] = {}
    paths = [root]
    for above, directories, files in os.walk(root):
        paths += [os.path.join(above, name) for name in directories + files]
    for path in paths:
        stat = os.lstat(path)
        short = path[len(root) :]
        xattrs = tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        )
        content: object = None
        kind = stat.st_mode & 0o170000
        if kind == 0o100000:
            with open(path, "rb") as file:
                content = file.read()
            if stat.st_nlink > 1:
                groups.setdefault(stat.st_ino, []).append(short)
        elif kind == 0o120000:
            content = os.readlink(path)
        found[short] = (
            stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime_ns, stat.st_rdev, content, xattrs,
            stat.st_size if kind == 0o100000 else 0,
        )  # fmt: skip
    for group in groups.values():
        for short in group:
            found[short] = (*found[short], tuple(sorted(group)))
    return found


USER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for owners, devices and mounts")


@contextlib.contextmanager
def mounted(place: Path, *words: str) -> Iterator[Path]:
    """Mount something (`mount WORDS PLACE`) at `place`, made if it is missing; skip where that is not possible."""
    place.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", *words, place], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"NOT TESTED: mount {' '.join(words)}: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@contextlib.contextmanager
def file_system(directory: Path, *command: str, size: str = "16M") -> Iterator[Path]:
    """Make a file system in an image with a command such as `mkfs.ext4 -q`, and mount it."""
    image = directory / f"{command[0]}.img"
    subprocess.run(["truncate", "-s", size, image], check=True)
    try:
        made = subprocess.run([*command, image], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"NOT TESTED: no {command[0]}")
    if made.returncode:
        pytest.skip(f"NOT TESTED: {' '.join(command)}: {made.stderr.strip()}")
    with mounted(directory / f"{command[0]}.mount", "-o", "loop", str(image)) as place:
        yield place


def let_users_in(path: Path) -> None:
    """Let other users reach a directory of the test."""
    for each in (path, *path.parents):
        if each.stat().st_uid == os.geteuid() and each != Path("/") and not each.stat().st_mode & 1:
            each.chmod(each.stat().st_mode | 0o711)


def run_apart(action: Callable[[], None]) -> None:
    """Run `action` in a process of its own, which it may change; what it raises fails the test."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def run_as_user(action: Callable[[], None], *, groups: tuple[int, ...] = ()) -> None:
    """Run `action` in a process of USER; what it raises fails the test."""

    def become_user() -> None:
        os.setgroups(groups)
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        action()

    run_apart(become_user)
