"""A store in memory, and a way to look at a directory as `find` and `getfattr` would."""

import os
from pathlib import Path

from dalsegno.chunks.cut import Cutter
from dalsegno.chunks.realm import Realm
from dalsegno.formats.objects import Revision
from dalsegno.host.cache import ScanCache, load_cache
from dalsegno.host.ignore import Rules
from dalsegno.host.scan import ScanResult, scan_tree
from dalsegno.terms.errors import NotFound
from dalsegno.terms.events import Event
from dalsegno.terms.ids import ObjectId
from dalsegno.world.clock import now_ns

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


class Machine:
    """A store with the scans made into it."""

    def __init__(self, directory: Path) -> None:
        self.store = MemoryStore()
        self.cutter = Cutter(self.store.realm.chunk_seed)
        self.cache_path = directory / "cache"
        self.revision: Revision | None = None
        self.cache: ScanCache | None = None
        self.events: list[Event] = []

    def scan(self, root: bytes | Path, *, rules: Rules | None = None, cached: bool = True) -> ScanResult:
        """Scan as if ten seconds had passed since the last change."""
        self.events.clear()
        result = scan_tree(
            root,
            sink=self.store,
            cutter=self.cutter,
            previous=self.revision,
            source=self.store,
            cache=load_cache(self.cache_path, revision=REVISION_ID) if cached else None,
            rules=rules,
            report=self.events.append,
            started_ns=now_ns() + 10 * 10**9,
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
