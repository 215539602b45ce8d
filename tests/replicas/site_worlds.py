"""A few servers with one volume, in dicts or as real Keepers over pools, for tests that must hold on both."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memory_site import (
    VOLUME,
    VOLUME_ID,
    Clock,
    FaultySite,
    MemorySite,
    files_of,
    merge_flat,
    put_revision,
    put_root,
)

from dalsegno.backends.contract import Backend
from dalsegno.backends.local import LocalBackend
from dalsegno.backends.memory import MemoryBackend
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.pool.adopt import UPLOADS
from dalsegno.pool.pool import Pool
from dalsegno.replicas.context import ReplicaContext
from dalsegno.replicas.contract import LEASE_SECONDS
from dalsegno.replicas.keeper import Keeper
from dalsegno.replicas.peers import Peers
from dalsegno.terms.errors import Conflict, Moved, NotFound
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes import leases
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import NATIVE, READER, WRITER, Release, ReplicaSet, VolumeState
from dalsegno.volumes.store import Volumes
from dalsegno.world.workers import Workers
from kit import REALM, store_model


class WholeMemorySite(MemorySite):
    """A MemorySite that shows releases, is moved away from, and counts how often it was watched."""

    def _require_here(self, volume: str) -> None:
        state = self.state(volume)
        if state.replicas is not None and state.replicas.moved_to:
            raise Moved(f"{volume} is at {state.replicas.moved_to}", server=state.replicas.moved_to)

    def advance(self, volume: str, revision: bytes, *, owner: str = "") -> VolumeState:
        self._require_here(volume)
        return super().advance(volume, revision, owner=owner)

    def freeze(self, volume: str, *, owner: str, seconds: int = LEASE_SECONDS) -> VolumeState:
        self._require_here(volume)
        return super().freeze(volume, owner=owner, seconds=seconds)

    def clone(self, volume: str, name: str, clone: Clone) -> VolumeState:
        self._require_here(volume)
        return super().clone(volume, name, clone)

    def arrange(self, volume: str, replicas: ReplicaSet) -> VolumeState:
        state = self.state(volume)
        newer = state.replicas is None or state.replicas.version < replicas.version
        if newer and replicas.moved_to and leases.held(state, now_ns=self.clock()) is None:
            raise Conflict(f"{self.name}: not frozen any more")
        state = super().arrange(volume, replicas)
        return self._change(volume, lease=None) if newer and replicas.moved_to else state

    def switch(self, volume: str, release: Release) -> VolumeState:
        self.calls.append("switch")
        state = self.state(volume)
        if self.have(volume, release.revision) != b"\1":
            raise NotFound(f"{self.name}: the release is not here whole")
        old = state.released
        if old is not None and (old.number, old.revision) >= (release.number, release.revision):
            return state
        if state.role == READER:
            return self._change(volume, released=release, head=release.revision)
        return self._change(volume, released=release)

    def watch(self, volume: str, head: bytes, *, seconds: float, follower: str = "") -> VolumeState:
        self.calls.append("watch")
        return self.state(volume)


class MemoryWorld:
    """Servers in dicts."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.sites: dict[str, Any] = {}
        self.faulty: dict[str, FaultySite] = {}

    def add(self, name: str) -> FaultySite:
        """Start a server; return it as a client reaches it."""
        self.sites[name] = WholeMemorySite(name, self.clock)
        self.faulty[name] = FaultySite(self.sites[name])
        return self.faulty[name]

    def store(self, name: str, files: Mapping[bytes, bytes], *, parents: Sequence[bytes]) -> bytes:
        """Put a revision into a server's pool."""
        return put_revision(self.sites[name], files, parents=parents, created_ns=self.clock.now_ns)

    def files(self, name: str, revision: bytes) -> dict[bytes, bytes]:
        """Return what is in a revision on a server."""
        return files_of(self.sites[name].store, revision)


class KeeperWorld:
    """Servers that are Keepers over pools."""

    def __init__(self, path: Path, make: Callable[[Path], Backend] = LocalBackend) -> None:
        self.clock = Clock()
        self.sites: dict[str, Any] = {}
        self.faulty: dict[str, FaultySite] = {}
        self._path = path
        self._make = make

    def add(self, name: str) -> FaultySite:
        """Start a server; return it as a client reaches it."""
        pool = Pool.create(self._make(self._path / name), encryption="none", realm=REALM)
        self.sites[name] = Keeper(
            name,
            pool,
            Volumes(pool),
            workers=Workers(1),
            clock=self.clock,
            scratch=pool.backend.scratch(UPLOADS),
        )
        self.faulty[name] = FaultySite(self.sites[name])
        return self.faulty[name]

    def store(self, name: str, files: Mapping[bytes, bytes], *, parents: Sequence[bytes]) -> bytes:
        """Put a revision into a server's pool."""
        with self.sites[name].pool.writer() as writer:
            root = Entry(
                name=b"",
                kind=objects.ENTRY_DIRECTORY,
                mode=0o755,
                content_kind=objects.CONTENT_DIRECTORY,
                content=store_model(writer, dict(files)),
            )
            return put_root(writer, root, parents=parents, created_ns=self.clock.now_ns)

    def files(self, name: str, revision: bytes) -> dict[bytes, bytes]:
        """Return what is in a revision on a server."""
        self.sites[name].pool.refresh()
        return files_of(self.sites[name].pool, revision)


WORLDS: dict[str, Callable[[Path], Any]] = {"memory": MemoryWorld, "keeper": KeeperWorld}
WORLDS_AND_BACKENDS: dict[str, Callable[[Path], Any]] = {
    **WORLDS,
    "keeper in memory": lambda path: KeeperWorld(path, lambda place: MemoryBackend(place.name)),
}


def found(world: Any, replicas: ReplicaSet) -> None:
    """Make the volume on the writers of a replica set."""
    for name in replicas.writers:
        world.sites[name].create(
            VolumeState(
                id=VOLUME_ID,
                name=VOLUME,
                kind=NATIVE,
                source=b"",
                created_ns=world.clock.now_ns,
                role=WRITER,
                replicas=replicas,
            )
        )


def commit(world: Any, names: str | Sequence[str], files: Mapping[bytes, bytes], *, owner: str = "") -> bytes:
    """Commit a state on top of a server's head, there and on the others named."""
    names = [names] if isinstance(names, str) else names
    revision = b""
    for name in names:
        site = world.sites[name]
        if not revision:
            world.clock.now_ns += SECOND_NS
        head = site.state(VOLUME).head
        revision = world.store(name, files, parents=[head] if head else [])
        site.advance(VOLUME, revision, owner=owner)
        state = site.state(VOLUME)
        if len(state.replicas.writers) == 1:
            site.agree(VOLUME, revision)
    return revision


def clone(world: Any, names: str | Sequence[str], clone_name: str) -> Clone:
    """Clone the head of servers."""
    names = [names] if isinstance(names, str) else names
    made = Clone(revision=world.sites[names[0]].state(VOLUME).head, created_ns=world.clock.now_ns)
    for name in names:
        world.sites[name].clone(VOLUME, clone_name, made)
    return made


def head_files(world: Any, name: str) -> dict[bytes, bytes]:
    """Return what a server's volume has in it now."""
    return world.files(name, world.sites[name].state(VOLUME).head)


def context(world: Any, **more: Any) -> ReplicaContext:
    """Return what work on a world's servers uses."""
    given: dict[str, Any] = {"realm": REALM, "owner": "test", "merge": merge_flat, "clock": world.clock}
    return ReplicaContext(**{**given, **more})


def peers(world: Any, names: Iterable[str], replicas: ReplicaSet | None = None, **more: Any) -> Peers:
    """Return servers as a client reaches them."""
    sites = {name: world.faulty[name] for name in names}
    return Peers(volume=VOLUME, sites=sites, context=context(world, **more), replicas=replicas)
