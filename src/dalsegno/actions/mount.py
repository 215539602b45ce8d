"""What a mount needs of a house: what an address shows, a volume's clones, what a mount point names."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dalsegno.actions.session import House, author
from dalsegno.actions.view import View, open_dumps, open_unchecked_view
from dalsegno.chunks.realm import Realm
from dalsegno.formats.objects import Coverage, Entry, Revision
from dalsegno.pool.checked import CheckedSource
from dalsegno.pool.contract import Sink
from dalsegno.pool.pool import PoolWriter
from dalsegno.terms.errors import BadInput, Conflict, DalError, Full, NoAccess, NotFound, error_kinds
from dalsegno.terms.times import SECOND_NS, time_name
from dalsegno.trees.read import read_revision
from dalsegno.volumes.address import CLOCKS_APART_NS, newest_name, parse_address
from dalsegno.volumes.ancestry import find_revision
from dalsegno.volumes.leases import held
from dalsegno.volumes.state import AUTOMATIC, NATIVE, READER, STANDBY, VolumeState
from dalsegno.volumes.store import PIN_SECONDS_MAX
from dalsegno.world.chance import random_node
from dalsegno.world.clock import now_ns
from dalsegno.world.control_socket import Words, ask
from dalsegno.world.files import FileLock
from dalsegno.world.workers import new_lock

AUTOMATIC_KEPT_SECONDS: Final = 300
"""Automatic revisions thin out: of those within so long only the newest stays in the log."""
PIN_SECONDS: Final = 6 * 3600
"""How long a mount that died still keeps what it showed; it renews all the time, for a machine that slept."""
PIN_RENEW_SECONDS: Final = 1800
assert 2 * PIN_RENEW_SECONDS < PIN_SECONDS < PIN_SECONDS_MAX
LOCK_SUFFIX: Final = ".lock"
COMMIT_TRIES_MAX: Final = 5
COMMIT_SECONDS_MAX: Final = 600
ANSWER_SECONDS_MAX: Final = 10


def open_shown(house: House, text: str) -> View:
    """Open what an address or a chain of dumps names, as the top of a mount."""
    return open_unchecked_view(house, text)


def open_shown_dumps(paths: list[Path], realm: Realm, *, clone: str, path: bytes) -> View:
    """Open dumps without their pool: the key alone is enough."""
    return open_dumps(paths, realm, clone, path=path, label="+".join(map(os.fspath, paths)))


def mounts_directory(house: House) -> Path:
    """Return where this user's writable mounts of this pool keep what they need while they run."""
    return house.cache_dir / "mounts"


def mount_socket(house: House, volume_id: bytes) -> Path:
    """Return where a volume's writable mount listens."""
    return mounts_directory(house) / f"{volume_id.hex()}.sock"


def mount_lock(house: House, volume_id: bytes) -> Path:
    """Return the lock that a volume's writable mount holds."""
    return mount_socket(house, volume_id).with_suffix(LOCK_SUFFIX)


def has_failed(socket: Path) -> bool:
    """Tell whether the mount that listened there ended without removing the socket, its last act."""
    with FileLock(socket.with_suffix(LOCK_SUFFIX)) as lock:
        return lock.acquire(wait=False) and socket.exists()


def running_mount(cache_base: Path, at: str) -> Path | None:
    """Return where the writable mount at a directory listens, of all pools of this user."""
    for path in sorted(cache_base.glob("*/mounts/*.sock")):
        answer = ask(path, {"do": "where"}, timeout_seconds=ANSWER_SECONDS_MAX)
        if answer is not None and answer.get("at") == at:
            return path
    return None


def pin_base(house: House, volume_id: bytes, revision: bytes) -> None:
    """Keep the state that a writable mount began with: what is unchanged is read from it as long as the mount lasts."""
    if revision:
        house.volumes.pin(volume_id, revision, holder=_holder(house))


def unpin_base(house: House, volume_id: bytes) -> None:
    """Let go of what pin_base kept. One that was killed leaves its pin to the next mount of the volume."""
    house.volumes.unpin(volume_id, holder=_holder(house))


class Pins:
    """The states that a mount shows: kept whole by leases, which it renews and which end some time after it died.

    A pool that may only be read keeps nothing for us: then only names do, and what `dal gc` takes is missing.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._holder = f"{os.uname().nodename}:{os.getpid()}:{random_node():x}"
        self._pinned: dict[bytes, bytes] = {}
        self._renewed_ns = now_ns()
        self._lock = new_lock()

    def add(self, volume_id: bytes, revision: bytes) -> None:
        """Keep a state from now on."""
        with self._lock:
            if revision not in self._pinned and self._pin(volume_id, revision):
                self._pinned[revision] = volume_id

    def _pin(self, volume_id: bytes, revision: bytes) -> bool:
        until_ns = now_ns() + PIN_SECONDS * SECOND_NS
        try:
            self._house.volumes.pin(volume_id, revision, holder=self._holder + revision.hex(), until_ns=until_ns)
        except (NoAccess, Full):
            return False
        return True

    def renew(self) -> None:
        """Pin again what is pinned, when it is time."""
        with self._lock:
            if now_ns() - self._renewed_ns < PIN_RENEW_SECONDS * SECOND_NS:
                return
            try:
                for revision, volume_id in self._pinned.items():
                    self._pin(volume_id, revision)
            except DalError:
                return  # tried again at the next call: the leases last much longer
            self._renewed_ns = now_ns()

    def drop(self) -> None:
        """Let go of everything."""
        with self._lock:
            for revision, volume_id in self._pinned.items():
                self._house.volumes.unpin(volume_id, holder=self._holder + revision.hex())
            self._pinned.clear()


def _holder(house: House) -> str:
    return f"{os.uname().nodename}:{mounts_directory(house)}"


def settle(house: House, state: VolumeState) -> None:
    """Let a volume's writable mount, if there is one, commit what was written until now; not while it is frozen."""
    if held(state, now_ns=now_ns()) is None:
        tell_mount(mount_socket(house, state.id), {"do": "commit"})


def tell_mount(path: Path, wish: Words) -> Words | None:
    """Ask something of a running mount and return its answer, None without a mount; its errors are ours."""
    answer = ask(path, wish, timeout_seconds=COMMIT_SECONDS_MAX)
    if answer is not None and "error" in answer:
        raise error_kinds().get(answer["error"], DalError)(answer["message"])
    return answer


def volume_by_id(house: House, volume_id: bytes) -> VolumeState:
    """Return a volume's state now."""
    state = house.volumes.get_by_id(volume_id)
    if state is None:
        raise NotFound("the volume was removed meanwhile")
    return state


def open_clone(house: House, volume_id: bytes, name: str) -> View:
    """Open one clone of a volume, or its newest state as `latest`."""
    state = volume_by_id(house, volume_id)
    clone = state.clones.get(name)
    revision_id = clone.revision if clone is not None else state.head if name == "latest" else b""
    if not revision_id:
        raise NotFound(f"no clone {state.name}@{name}: `dal clones {state.name}` shows what there is")
    source = CheckedSource(house.pool, house.pool.realm)
    return View(
        source=source,
        revision_id=revision_id,
        revision=read_revision(source, revision_id),
        path=b"",
        label=f"{state.name}@{name}",
        clone=name,
        state=state,
        chain=None,
    )


def writable_volume(house: House, text: str) -> VolumeState | None:
    """Return the native volume that an address names as it is now and as a whole, or None: all else is read only."""
    address = parse_address(text)
    if address.selector or address.path:
        return None
    try:
        state = house.volumes.get(address.volume)
    except NotFound:
        return None
    return state if state.kind == NATIVE and state.role not in (READER, STANDBY) else None


def open_point(house: House, point: bytes) -> View:
    """Open what a mount point within a volume names: an address of this pool, or on a server; never a file."""
    text = point.decode(errors="surrogateescape")
    if os.sep in text.partition(":/")[0] and not text.startswith("//"):
        raise BadInput(f"mount point to {text!r}: expected VOLUME[@CLONE]")
    return open_unchecked_view(house, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A whole tree, as it is about to become a revision."""

    root: Entry
    links: bytes
    entry_count: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What a commit of a mounted volume did."""

    revision: bytes
    bytes_stored: int
    displaced: str
    """The clone that keeps what somebody else committed meanwhile; empty when nobody did."""


def commit_tree(
    house: House, volume_id: bytes, build: Callable[[Sink], Tree], *, head: bytes, refresh: bool
) -> Committed:
    """Make what `build` stores the newest state of a volume, whose newest was `head`.

    `refresh`: look first what others have stored, so as not to store it again; to be done now and then.

    When somebody else committed meanwhile, that state gets a name and ours follows it: nothing is lost, and the mount
    goes on showing what its users see.
    """
    displaced = ""
    if refresh:
        house.volumes.trim()
    with house.pool.writer(house.workers, refresh=refresh) as writer:
        tree = build(writer)
        if house.volumes.merges:
            return _commit_line(house, volume_id, tree, writer, head=head)
        for _ in range(COMMIT_TRIES_MAX):
            state = volume_by_id(house, volume_id)
            if state.head not in (head, b""):
                displaced, _ = house.volumes.add_clone(
                    state.name,
                    f"before-mount-{time_name(now_ns())}",
                    now_ns=now_ns(),
                    revision=state.head,
                    automatic=True,
                )
            revision = Revision(
                volume=volume_id,
                parents=_parents(house, state, head),
                root=tree.root,
                links=tree.links,
                created_ns=now_ns(),
                author=author(),
                message=AUTOMATIC,
                entry_count=tree.entry_count,
                total_bytes=tree.total_bytes,
                coverage=_coverage(house, head),
            )
            try:
                _, identity = house.volumes.commit_revision(writer, state, revision)
            except Conflict:
                if volume_by_id(house, volume_id).head == state.head:
                    raise  # frozen: whoever holds it will let go
                head = state.head
                continue
            return Committed(revision=bytes(identity), bytes_stored=writer.bytes_stored, displaced=displaced)
    raise Conflict("the volume changes too fast: try again")


def _commit_line(house: House, volume_id: bytes, tree: Tree, writer: PoolWriter, *, head: bytes) -> Committed:
    """Continue the mount's own line; the volume's servers merge it with what others commit."""
    state = house.volumes.known(volume_id)
    # One that was not acknowledged may be on some servers already: what follows continues it.
    head = house.volumes.continued(volume_id, head)
    revision = Revision(
        volume=volume_id,
        parents=[head] if head else [],
        root=tree.root,
        links=tree.links,
        created_ns=now_ns(),
        author=author(),
        message=AUTOMATIC,
        entry_count=tree.entry_count,
        total_bytes=tree.total_bytes,
        coverage=_coverage(house, head),
    )
    _, identity = house.volumes.commit_revision(writer, state, revision)
    return Committed(revision=bytes(identity), bytes_stored=writer.bytes_stored, displaced="")


def _coverage(house: House, head: bytes) -> Coverage | None:
    """Return what the state that was mounted says it left out: what changed since was changed in the mount."""
    before = find_revision(house.pool, head) if head else None
    return before.coverage if before is not None else None


def _parents(house: House, state: VolumeState, head: bytes) -> list[bytes]:
    """Return what a new automatic revision follows: one that nobody named and that is not old steps aside for it."""
    if not state.head:
        return []
    # What other servers may have already, and be ahead of, stays in the line.
    if state.head != head or state.replicas is not None or newest_name(house.pool, state) is not None:
        return [state.head]
    previous = read_revision(house.pool, head)
    if state.dumps.naming(head, since_ns=previous.created_ns - CLOCKS_APART_NS):
        return [state.head]
    slot_ns = AUTOMATIC_KEPT_SECONDS * SECOND_NS
    if previous.message != AUTOMATIC or previous.created_ns // slot_ns != now_ns() // slot_ns:
        return [head]
    return previous.parents
