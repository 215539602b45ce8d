"""A Site in dicts: the contract said once more, as short as can be. And what makes sites fail."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from dalsegno.formats import objects, pack
from dalsegno.formats.object_records import Record
from dalsegno.formats.objects import Entry, Revision, references
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.replicas.contract import LEASE_SECONDS
from dalsegno.replicas.transfer import Spool
from dalsegno.terms.errors import (
    AlreadyThere,
    Conflict,
    DalError,
    Damaged,
    Diverged,
    NotFound,
    Refused,
    Unavailable,
)
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.times import SECOND_NS
from dalsegno.trees.build import store_directory
from dalsegno.trees.closure import new_objects, visit_reachable
from dalsegno.volumes import leases
from dalsegno.volumes.ancestry import between, find_revision, is_ancestor, merge_bases
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import ANY, NATIVE, READER, STANDBY, WRITER, Release, ReplicaSet, VolumeState
from kit import REALM, DictStore, store_model

VOLUME = "home"
VOLUME_ID = bytes(range(16))


class MemorySite:
    """A server whose disk is a dict."""

    def __init__(self, name: str, clock: Callable[[], int]) -> None:
        self.name = name
        self.store = DictStore()
        self.volumes: dict[str, VolumeState] = {}
        self.uploads: dict[bytes, bytearray] = {}
        self.clock = clock
        self.calls: list[str] = []

    def _change(self, volume: str, **fields: Any) -> VolumeState:
        state = msgspec.structs.replace(self.state(volume), **fields)
        self.volumes[volume] = state
        return state

    def is_whole(self, kind: int, identity: bytes) -> bool:
        lacking: list[bytes] = []

        def visit(_: int, below: bytes) -> bool:
            if below not in self.store.objects:
                lacking.append(below)
                return False
            return not lacking

        visit_reachable(self.store, [(kind, identity)], visit)
        return not lacking

    def states(self) -> list[VolumeState]:
        return [self.volumes[name] for name in sorted(self.volumes)]

    def state(self, volume: str) -> VolumeState:
        if volume not in self.volumes:
            raise NotFound(f"{self.name}: no volume {volume!r}")
        return self.volumes[volume]

    def block(self, volume: str, identity: ObjectId) -> list[Record]:
        self.state(volume)
        self.calls.append("block")
        if identity not in self.store.objects:
            raise NotFound(f"{self.name}: {identity.hex()}")
        kind, payload = self.store.objects[identity]
        return [(kind, identity, payload)]

    def missing(self, volume: str, targets: Sequence[bytes], bases: Sequence[bytes]) -> Iterator[bytes]:
        self.state(volume)
        self.calls.append("missing")
        here = [base for base in bases if base in self.store.objects and self.is_whole(objects.KIND_REVISION, base)]
        here.sort(key=lambda base: objects.decode_revision(self.store.get(ObjectId(base))).created_ns)
        met: dict[bytes, None] = {}

        def visit(_: int, identity: bytes) -> bool:
            if identity in met:
                return False
            met[identity] = None
            return True

        for target in targets:
            if target not in self.store.objects:
                raise NotFound(f"{self.name}: {target.hex()}")
            new_objects(self.store, target, here[-1] if here else None, visit=visit)
        for target in targets:
            for identity in between(self.store, target, here):
                if identity in self.store.objects:
                    met[identity] = None
        for identity in met:
            if identity not in self.store.objects:
                raise NotFound(f"{self.name}: {identity.hex()}")
            kind, payload = self.store.objects[identity]
            yield identity + (len(payload) | kind << 28).to_bytes(4, "little")

    def objects(self, volume: str, ids: bytes) -> Iterator[bytes]:
        self.calls.append("objects")
        spool = Spool()
        with PackWriter(spool.write, realm=REALM, header=new_header(REALM, kind=pack.PACK_POOL, sealed=True)) as writer:
            for start in range(0, len(ids), 32):
                identity = ids[start : start + 32]
                if identity not in self.store.objects:
                    raise NotFound(f"{self.name}: {identity.hex()}")
                kind, payload = self.store.objects[identity]
                writer.put(kind, identity, payload)
            writer.finish()
        for offset in range(0, spool.size_bytes, 1000):
            yield spool.read_at(offset, 1000)

    def have(self, volume: str, ids: bytes) -> bytes:
        self.state(volume)
        self.calls.append("have")
        answer = bytearray()
        for start in range(0, len(ids), 32):
            identity = ids[start : start + 32]
            found = self.store.objects.get(identity)
            answer.append(found is not None and self.is_whole(found[0], identity))
        return bytes(answer)

    def upload_size(self, volume: str, upload: bytes) -> int:
        return len(self.uploads.get(upload, b""))

    def upload(self, volume: str, upload: bytes, offset: int, pieces: Iterable[bytes]) -> int:
        self.state(volume)
        self.calls.append("upload")
        held = self.uploads.setdefault(upload, bytearray())
        assert offset <= len(held)
        del held[offset:]
        for piece in pieces:
            held += piece
        return len(held)

    def adopt(self, volume: str, uploads: Sequence[bytes]) -> None:
        self.state(volume)
        self.calls.append("adopt")
        found: dict[bytes, tuple[int, bytes]] = {}
        for upload in uploads:
            if upload not in self.uploads:
                raise NotFound(f"{self.name}: no upload {upload.hex()}")
            spool = Spool()
            spool.write(bytes(self.uploads[upload]))
            reader = PackReader(spool, REALM)
            assert reader.pack_id == upload
            for row in reader.objects()[0]:
                identity = row.tobytes()
                kind, payload = reader.get_kind(identity)
                if REALM.identify(kind, payload) != identity:
                    raise Damaged(f"{self.name}: forged {identity.hex()}")
                found[identity] = kind, payload
        for kind, payload in found.values():
            # A revision may come without its tree, to tell who its parents are.
            for _, below in references(kind, payload) if kind != objects.KIND_REVISION else ():
                if below not in found and below not in self.store.objects:
                    raise NotFound(f"{self.name}: {below.hex()} is named and not here")
        self.store.objects.update(found)

    def commit(
        self,
        volume: str,
        revision: bytes,
        upload: bytes,
        pieces: Iterable[bytes],
        *,
        common: bytes = b"",
        owner: str = "",
    ) -> VolumeState:
        if upload:
            self.uploads.pop(upload, None)
            self.upload(volume, upload, 0, pieces)
            self.adopt(volume, [upload])
        state = self.advance(volume, revision, owner=owner)
        if common:
            self.agree(volume, common)
            state = self.state(volume)
        return state

    def create(self, state: VolumeState) -> VolumeState:
        there = self.volumes.get(state.name)
        if there is not None and there.id != state.id:
            raise AlreadyThere(f"{self.name}: another volume {state.name!r}")
        return self.volumes.setdefault(state.name, state)

    def remove(self, volume: str) -> None:
        self.volumes.pop(volume, None)

    def _require_thawed(self, state: VolumeState, owner: str) -> None:
        lease = leases.held(state, now_ns=self.clock())
        if lease is not None and lease.owner != owner:
            raise Conflict(f"{self.name}: frozen by {lease.owner}")

    def advance(self, volume: str, revision: bytes, *, owner: str = "") -> VolumeState:
        self.calls.append("advance")
        state = self.state(volume)
        if state.role not in (WRITER, STANDBY):
            raise Refused(f"{self.name}: a {state.role or 'stranger'} takes no commits")
        if state.head and is_ancestor(self.store, revision, state.head):
            return state
        if not self.is_whole(objects.KIND_REVISION, revision):
            raise NotFound(f"{self.name}: {revision.hex()} is not here whole")
        if state.head and not is_ancestor(self.store, state.head, revision):
            raise Diverged(f"{self.name}: diverged")
        self._require_thawed(state, owner)
        new = objects.decode_revision(self.store.get(ObjectId(revision)))
        for parent in new.parents:
            older = find_revision(self.store, parent)
            assert older is None or older.created_ns < new.created_ns
        return self._change(volume, head=revision)

    def agree(self, volume: str, revision: bytes, *, uncloned: Mapping[str, Sequence[Clone]] = {}) -> None:
        self.calls.append("agree")
        state = self.state(volume)
        if revision:
            assert is_ancestor(self.store, revision, state.head)
            if not state.common or is_ancestor(self.store, state.common, revision):
                state = self._change(volume, common=revision)
        left = {
            name: [each for each in kept if each not in uncloned.get(name, ())] for name, kept in state.uncloned.items()
        }
        self._change(volume, uncloned={name: kept for name, kept in left.items() if kept})

    def freeze(self, volume: str, *, owner: str, seconds: int = LEASE_SECONDS) -> VolumeState:
        self.calls.append("freeze")
        self.volumes[volume] = leases.freeze(
            self.state(volume), owner=owner, now_ns=self.clock(), seconds=min(seconds, LEASE_SECONDS)
        )
        return self.volumes[volume]

    def thaw(self, volume: str, *, owner: str) -> None:
        self.calls.append("thaw")
        self.volumes[volume] = leases.thaw(self.state(volume), owner=owner)

    def clone(self, volume: str, name: str, clone: Clone) -> VolumeState:
        self.calls.append("clone")
        state = self.state(volume)
        if any(_same(clone, gone) for gone in state.uncloned.get(name, ())):
            return state
        there = state.clones.get(name)
        if there is not None and not _same(there, clone):
            raise AlreadyThere(f"{self.name}: {name} is another clone")
        if not self.is_whole(objects.KIND_REVISION, clone.revision):
            raise NotFound(f"{self.name}: {clone.revision.hex()} is not here whole")
        held = clone.held or (there is not None and there.held)
        return self._change(volume, clones={**state.clones, name: msgspec.structs.replace(clone, held=held)})

    def unclone(self, volume: str, name: str, clone: Clone, *, here_only: bool = False) -> VolumeState:
        self.calls.append("unclone")
        state = self.state(volume)
        clones, uncloned = dict(state.clones), dict(state.uncloned)
        if name in clones and _same(clones[name], clone):
            if clones[name].held and not clone.held:
                raise Refused(f"{self.name}: {name} is held")
            del clones[name]
        if not here_only and not any(_same(each, clone) for each in uncloned.get(name, ())):
            uncloned[name] = [*uncloned.get(name, ()), msgspec.structs.replace(clone, held=False)]
        return self._change(volume, clones=clones, uncloned=uncloned)

    def arrange(self, volume: str, replicas: ReplicaSet) -> VolumeState:
        self.calls.append("arrange")
        state = self.state(volume)
        if state.replicas is not None and state.replicas.version >= replicas.version:
            return state
        roles = {WRITER: replicas.writers, READER: replicas.readers, STANDBY: replicas.standbys}
        role = next((role for role, names in roles.items() if self.name in names), "")
        return self._change(volume, replicas=replicas, role=role)

    def switch(self, volume: str, release: Release) -> VolumeState:
        raise NotImplementedError

    def watch(self, volume: str, head: bytes, *, seconds: float, follower: str = "") -> VolumeState:
        return self.state(volume)


def _same(a: Clone, b: Clone) -> bool:
    return (a.revision, a.created_ns) == (b.revision, b.created_ns)


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, now_ns: int = 1_790_000_000 * SECOND_NS) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns

    def pause(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)

    def skewed(self, hours: float) -> Callable[[], int]:
        return lambda: self.now_ns + int(hours * 3600 * SECOND_NS)


class ClientDied(BaseException):
    """The client of a faulty site is dead."""


class FaultySite:
    """A site as one client reaches it, over a network that chance rules."""

    def __init__(self, site: Any, chance: random.Random | None = None, *, faults: float = 0.0, deaths: float = 0.0):
        self.name = site.name
        self.site = site
        self.down = False
        self.faults = faults
        self.deaths = deaths
        self.late: list[Callable[[], object]] = []
        self.fail: dict[str, Callable[[], None]] = {}
        """Call: what happens before it."""
        self._chance = chance or random.Random(0)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:
            if self.down:
                raise Unavailable(f"{self.name}: no answer")
            if name in self.fail:
                self.fail[name]()
            if self._chance.random() < self.deaths:
                raise ClientDied
            if self._chance.random() < self.faults:
                raise Unavailable(f"{self.name}: no answer (request lost)")
            if name == "upload":
                words = (*words[:3], self._cut(words[3]))
            if name == "commit":
                words = (*words[:3], list(words[3]))
            if self._chance.random() < self.faults and name not in ("upload", "missing", "objects"):
                self.late.append(lambda: getattr(self.site, name)(*words, **named))
            result = getattr(self.site, name)(*words, **named)
            if name in ("missing", "objects"):
                return self._cut(result)
            if self._chance.random() < self.faults:
                raise Unavailable(f"{self.name}: no answer (lost)")
            return result

        return call

    def _cut(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if self._chance.random() < self.faults:
                raise Unavailable(f"{self.name}: connection lost")
            yield piece

    def do_late(self) -> None:
        """Do what was done already once more, long after."""
        while self.late:
            again = self.late.pop(self._chance.randrange(len(self.late)))
            try:
                again()
            except DalError:
                pass


def empty_volume(writers: Sequence[str], *, rule: str = ANY, version: int = 1) -> VolumeState:
    """Return a replicated volume with nothing in it."""
    return VolumeState(
        id=VOLUME_ID,
        name=VOLUME,
        kind=NATIVE,
        source=b"",
        created_ns=1,
        role=WRITER,
        replicas=ReplicaSet(version=version, writers=list(writers), rule=rule),
    )


def put_revision(
    site: MemorySite, files: Mapping[bytes, bytes], *, parents: Sequence[bytes] = (), created_ns: int
) -> bytes:
    """Store a revision of a flat directory on a site, under no name."""
    root = Entry(
        name=b"",
        kind=objects.ENTRY_DIRECTORY,
        mode=0o755,
        content_kind=objects.CONTENT_DIRECTORY,
        content=store_model(site.store, dict(files)),
    )
    return put_root(site.store, root, parents=parents, created_ns=created_ns)


def put_root(store: Any, root: Entry, *, parents: Sequence[bytes], created_ns: int) -> bytes:
    """Store a revision of a root entry."""
    revision = Revision(
        volume=VOLUME_ID,
        parents=sorted(parents),
        root=root,
        links=b"",
        created_ns=created_ns,
        author="test",
        message="",
        entry_count=0,
        total_bytes=0,
    )
    return bytes(store.put(objects.KIND_REVISION, objects.encode(revision)))


def files_of(source: Any, revision: bytes) -> dict[bytes, bytes]:
    """Return the files of a revision of a flat directory."""
    return {
        name: source.get(ObjectId(entry.content)) if entry.content_kind == objects.CONTENT_CHUNK else entry.content
        for name, entry in entries_of(source, revision).items()
    }


def entries_of(source: Any, revision: bytes) -> dict[bytes, Entry]:
    """Return the entries of a revision of a flat directory."""
    root = objects.decode_revision(source.get(ObjectId(revision))).root
    found: dict[bytes, Entry] = {}
    waiting = [root.content] if root.content else []
    while waiting:
        node = objects.decode_directory(source.get(ObjectId(waiting.pop())))
        if isinstance(node, objects.DirectoryLeaf):
            found.update({entry.name: entry for entry in node.entries})
        else:
            waiting += [child.id for child in node.children]
    return found


def merge_flat(source: Any, sink: Any, a: bytes, b: bytes) -> bytes:
    """Merge two flat directories: a Merge that loses nothing, symmetric and without a clock."""
    a, b = sorted((a, b))
    bases = [base for base in merge_bases(source, a, b) if find_revision(source, base) is not None]
    base = entries_of(source, bases[0]) if bases else {}
    ours, theirs = entries_of(source, a), entries_of(source, b)
    merged: dict[bytes, Entry] = {}
    for name in ours.keys() | theirs.keys():
        one, other = ours.get(name), theirs.get(name)
        if one == other:
            chosen = [one]
        elif one == base.get(name):
            chosen = [other]
        elif other == base.get(name):
            chosen = [one]
        else:
            chosen = sorted((each for each in (one, other) if each is not None), key=msgspec.msgpack.encode)
        for number, entry in enumerate(each for each in chosen if each is not None):
            side = (
                name
                if not number
                else name + b"~" + REALM.identify(1, msgspec.msgpack.encode(entry))[:4].hex().encode()
            )
            merged[side] = msgspec.structs.replace(entry, name=side)
    root = objects.decode_revision(source.get(ObjectId(a))).root
    content = store_directory(sink, [merged[name] for name in sorted(merged)])
    newest = max(objects.decode_revision(source.get(ObjectId(each))).created_ns for each in (a, b))
    return put_root(sink, msgspec.structs.replace(root, content=content), parents=[a, b], created_ns=newest + 1)


def random_bytes_of(seed: int, count: int) -> bytes:
    """Return bytes that do not compress."""
    return np.random.default_rng(seed).bytes(count)
