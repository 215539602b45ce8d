"""Things that tests share: a realm, a store in a dict, and trees made from plain dicts."""

import os
import selectors
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dalsegno.backends.contract import Backend
from dalsegno.backends.memory import MemoryBackend
from dalsegno.chunks.realm import Realm
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import NoAccess, NotFound
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.build import store_directory

REALM = Realm(bytes(range(32)))


def readable(files: Iterable[Any], seconds: float) -> list[Any]:
    """Return which of some sockets, pipes or descriptors can be read within some seconds, however high their numbers."""
    return _ready(files, selectors.EVENT_READ, seconds)


def writable(files: Iterable[Any], seconds: float) -> list[Any]:
    """Return which of some sockets, pipes or descriptors can be written within some seconds."""
    return _ready(files, selectors.EVENT_WRITE, seconds)


def _ready(files: Iterable[Any], event: int, seconds: float) -> list[Any]:
    with selectors.DefaultSelector() as selector:
        for each in files:
            selector.register(each, event)
        return [key.fileobj for key, _ in selector.select(seconds)]


def opens(key: Realm, file: Path) -> bool:
    """Tell whether a key opens a pack."""
    try:
        PackReader.open(file, key).close()
    except NoAccess:
        return False
    return True


def pack_path(pool: Pool, pack_id: bytes) -> Path:
    """Return the file of a pack of a local pool."""
    return Path(pool.where_pack(pack_id))


def ref_path(pool: Pool, name: str) -> Path:
    """Return the file of a ref of a local pool."""
    return Path(pool.where_ref(name))


def set_age(backend: Backend, name: str, changed_ns: int) -> None:
    """Let a value look as if it was stored at another time."""
    if isinstance(backend, MemoryBackend):
        backend._values[name] = backend.read(name), changed_ns
    else:
        os.utime(backend.where(name), ns=(changed_ns, changed_ns))


class DictStore:
    """A Source and Sink over a plain dict, counting what is read."""

    def __init__(self, realm: Realm = REALM) -> None:
        self.realm = realm
        self.objects: dict[bytes, tuple[int, bytes]] = {}
        self.gets = 0

    def put(self, kind: int, payload: bytes, /) -> ObjectId:
        identity = self.realm.identify(kind, payload)
        self.objects[identity] = (kind, bytes(payload))
        return identity

    def has(self, identity: ObjectId, /) -> bool:
        return identity in self.objects

    def get(self, identity: ObjectId, /) -> bytes:
        self.gets += 1
        if identity not in self.objects:
            raise NotFound(identity.hex())
        return self.objects[identity][1]


class PoolStore:
    """A Source and Sink over a real pool without encryption; what was put can be read after `writer.flush()`."""

    def __init__(self, place: Path | Backend, realm: Realm = REALM) -> None:
        self.pool = Pool.create(place, encryption="none", realm=realm)
        self.writer = self.pool.writer()

    def put(self, kind: int, payload: bytes, /) -> ObjectId:
        return self.writer.put(kind, payload)

    def has(self, identity: ObjectId, /) -> bool:
        return self.writer.has(identity)

    def get(self, identity: ObjectId, /) -> bytes:
        return self.pool.get(identity)


def store_model(store: DictStore, model: dict, *, node: int = 1) -> ObjectId:
    """Store nested dicts (directories) and bytes (files) and return the directory's id."""
    entries = []
    for name, value in sorted(model.items()):
        if isinstance(value, dict):
            content = store_model(store, value)
            entries.append(
                Entry(
                    name=name,
                    kind=objects.ENTRY_DIRECTORY,
                    mode=0o755,
                    content_kind=objects.CONTENT_DIRECTORY,
                    content=content,
                )
            )
        else:
            kind, content = objects.CONTENT_INLINE, value
            if len(value) > objects.INLINE_BYTES_MAX:
                kind, content = objects.CONTENT_CHUNK, store.put(objects.KIND_CHUNK, value)
            entries.append(
                Entry(
                    name=name,
                    kind=objects.ENTRY_FILE,
                    mode=0o644,
                    size=len(value),
                    content_kind=kind,
                    content=content,
                )
            )
    return store_directory(store, entries)


def store_revision(store: DictStore, model: dict, *, parents: tuple[bytes, ...] = (), created_ns: int = 1) -> ObjectId:
    """Store a revision of `model` and return its id."""
    root = Entry(
        name=b"",
        kind=objects.ENTRY_DIRECTORY,
        mode=0o755,
        content_kind=objects.CONTENT_DIRECTORY,
        content=store_model(store, model),
    )
    revision = Revision(
        volume=bytes(16),
        parents=list(parents),
        root=root,
        links=b"",
        created_ns=created_ns,
        author="test",
        message="",
        entry_count=0,
        total_bytes=0,
    )
    return store.put(objects.KIND_REVISION, objects.encode(revision))
