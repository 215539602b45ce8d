"""One server's part in replication, over its pool: a Site (contract.py).

What a call adds to the pool is under no name until `advance`, `clone` or `switch` names it; each of these asks first
whether the revision *stands* with its tree (pool/adopt.py), which is a look at a few index rows whatever the volume's
size: what stands has all that it names beside it. That holds between `adopt` and `advance`, too, however a collection
runs: what an object names is deleted no sooner than one grace period after the object itself was found dead, and then
it does not stand.

A call must not run on the `workers` that the Keeper was given: it waits for them.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from copy import copy
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import numpy as np

from dalsegno.formats import pack
from dalsegno.formats.object_records import Record
from dalsegno.formats.object_rows import encode_rows
from dalsegno.formats.objects import (
    KIND_CHUNK,
    KIND_DIRECTORY,
    KIND_REVISION,
    DirectoryList,
    Revision,
    decode_directory,
)
from dalsegno.pool.adopt import ADOPTED_BYTES_MAX, JOINED_SUFFIX, Adopter, Standing, as_ids
from dalsegno.pool.copy import PoolMarks
from dalsegno.pool.pack_write import SENT_PENDING_MAX, PackWriter, new_header
from dalsegno.pool.pool import Pool
from dalsegno.replicas.contract import BATCH_IDS_MAX, BLOCK_ANSWER_BYTES_MAX, LEASE_SECONDS, STATE_BYTES_MAX
from dalsegno.terms.errors import (
    AlreadyThere,
    BadInput,
    Conflict,
    DalError,
    Damaged,
    Diverged,
    Full,
    Moved,
    NotFound,
    Refused,
)
from dalsegno.terms.ids import OBJECT_ID_BYTES, UUID_BYTES, ObjectId, PackId, hex_short
from dalsegno.terms.sizes import GIB, KIB, format_size
from dalsegno.terms.times import SECOND_NS, show_time
from dalsegno.trees.claim import false_claim
from dalsegno.trees.closure import new_objects
from dalsegno.trees.read import read_revision
from dalsegno.volumes import leases
from dalsegno.volumes.ancestry import behind_all, between, find_revision, is_ancestor
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.dates import is_old, require_past
from dalsegno.volumes.ownership import is_others, require_own_past
from dalsegno.volumes.pasts import Pasts
from dalsegno.volumes.records import DumpRecords
from dalsegno.volumes.reopen import reopen
from dalsegno.volumes.signed import require_signed_line, signature_problem
from dalsegno.volumes.state import (
    NATIVE,
    READER,
    STANDBY,
    TRACKED,
    WRITER,
    Release,
    ReplicaSet,
    VolumeState,
    encode_state,
)
from dalsegno.volumes.store import PIN_SECONDS_MAX, Volumes, check_clone_name, check_volume_name
from dalsegno.world.bell import Bell
from dalsegno.world.clock import ticks_ns
from dalsegno.world.files import PARTIAL_SUFFIX, UploadFile, make_directory, remove_durable, write_durable
from dalsegno.world.workers import Workers, new_lock

ROWS_AT_ONCE: Final = 8192
BELOW_BYTES_MAX: Final = 256 * KIB
UPLOADS_AT_ONCE_MAX: Final = 256
"""Packs in one `adopt` call: each is an open file."""
CLONES_MAX: Final = 200_000
"""More than one each hour for twenty years. What a clone costs does not grow with them."""
UNCLONED_MAX: Final = 1000
"""Removed clones remembered under one name, and names with removed clones."""
REFRESH_NS: Final = SECOND_NS
"""How long the index is taken to be that of the disk, where a mistake costs only another try."""
POLL_SECONDS: Final = 0.25
"""How soon `watch` sees what another process did."""
STATES_SEEN_MAX: Final = 100
WAITING_BYTES_MAX: Final = 16 * GIB
"""Of one caller's uploads that were not adopted yet. A client adopts packs of files one by one, at the end what names
them."""
UPLOAD_BYTES_MIN: Final = 64 * KIB
"""What an upload counts for at least: names take room, too."""
COUNTED_NS: Final = 5 * SECOND_NS
OWNERS_COUNTED_MAX: Final = 10_000
FOLLOWERS_MAX: Final = 1000
PIN_SECONDS: Final = 60
"""A follower's revision is pinned anew so often at most; what was pinned before serves it nearly as well."""
FOLLOWER_SECONDS: Final = PIN_SECONDS_MAX
"""What a follower has is kept for it so long after it was heard of last."""

T = TypeVar("T")
Taking = Generator[None, bytes, T]
"""Takes the pieces of an upload, an empty one at its end: who waits for them needs no thread meanwhile."""
Followers = dict[str, tuple[bytes, int]]
"""Follower: the revision that it has, and when it told so."""


class Keeper:
    """A Site over a pool. Any number of threads may use it, and other processes the pool."""

    def __init__(
        self,
        name: str,
        pool: Pool,
        volumes: Volumes,
        *,
        workers: Workers,
        clock: Callable[[], int],
        scratch: Path,
    ) -> None:
        """`scratch` is where uploads wait: best `pool.backend.scratch(UPLOADS)`, which gc sweeps."""
        self.name = name
        self.pool = pool
        self.volumes = volumes
        self._workers = workers
        self._clock = clock
        self._uploads = scratch
        self._bell = Bell()
        self._pasts = Pasts(pool)
        self._lock = new_lock()
        self._refreshed_ns = 0
        self._followers: dict[bytes, Followers] = {}
        self._states_seen: dict[str, tuple[int, int, VolumeState]] = {}
        """Volume: count of the bell and time before the state was read."""
        self._pinned: dict[tuple[bytes, str], int] = {}
        self._is_narrow = False
        self._owner = ""
        self._waiting: dict[str, tuple[int, int]] = {}
        """Owner: when his uploads were counted, and their bytes."""

    def asked_by(self, owner: str, *, sees_all: bool) -> "Keeper":
        """Return the same for one caller, whose uploads are his own, and of whose bytes only so many wait.

        Unless he `sees_all`, he may not read every volume of the pool, and gets no revision of another one. Other
        objects he gets by their ids (docs/decisions/008-tokens-and-the-realms-key.md).
        """
        his = copy(self)
        his._owner = owner
        his._is_narrow = not sees_all
        return his

    def _update(self, volume_id: bytes, change: Callable[[VolumeState], VolumeState]) -> VolumeState:
        return self.volumes.update(volume_id, change, bytes_max=STATE_BYTES_MAX)

    # What is there

    def states(self) -> list[VolumeState]:
        """Return all volumes by name."""
        return self.volumes.list_settled()

    def state(self, volume: str) -> VolumeState:
        """Return a volume's state, durable: whoever asks lets go of his own copy when the head is here."""
        return self.volumes.get_settled(volume)

    # Objects out

    def block(self, volume: str, identity: ObjectId, *, bytes_max: int = BLOCK_ANSWER_BYTES_MAX) -> list[Record]:
        """Return an object and those stored beside it; with a list of directory nodes some of what is below it."""
        state = self.volumes.get(volume)
        if len(identity) != OBJECT_ID_BYTES:
            raise BadInput(f"object id of {len(identity)} bytes: expected {OBJECT_ID_BYTES}")
        records = self.pool.beside(identity, bytes_max=bytes_max)
        records += _nodes_below(self.pool, records, bytes_max=min(bytes_max, BELOW_BYTES_MAX))
        if not self._is_narrow:
            return records
        kept = [record for record in records if record[0] != KIND_REVISION or not self._is_others(state, record[1])]
        if kept[:1] != records[:1]:
            raise _not_its(state, identity)
        return kept

    def _is_others(self, state: VolumeState, identity: bytes) -> bool:
        revision = find_revision(self.pool, identity)
        return revision is not None and is_others(self.volumes, state, identity, revision)

    def missing(self, volume: str, targets: Sequence[bytes], bases: Sequence[bytes]) -> Iterator[bytes]:
        """Return the rows of what `targets` have and `bases` have not; NotFound at once, not on the way."""
        state = self.volumes.get(volume)
        self._refresh()
        bases = [base for base in bases if base]  # the head of a volume that is empty yet
        self._check_revisions(*targets, *bases)
        for target in targets:
            self._require_own(state, target)
        try:
            marks = self._mark(state, targets, bases)
        except NotFound:
            # A base whose tree is not all here any more: compare with nothing.
            marks = self._mark(state, targets, ())
        return _rows(marks)

    def _mark(self, state: VolumeState, targets: Sequence[bytes], bases: Sequence[bytes]) -> PoolMarks:
        marks = PoolMarks(self.pool)

        def visit(kind: int, identity: bytes) -> bool:
            if kind == KIND_CHUNK:
                marks.add_later(identity)
                return False
            return marks.add(identity)

        known = {base: revision for base in bases if (revision := find_revision(self.pool, base)) is not None}
        asked = {target: read_revision(self.pool, target) for target in targets if target not in known}
        previous: bytes | None = None
        for target in sorted(asked, key=lambda target: (asked[target].created_ns, target)):
            if previous is None:
                previous = self._fitting(target, known)
            new_objects(self.pool, target, previous, visit=visit)
            previous = target
        for identity in behind_all(self.pool, asked, bases):
            if not self._is_narrow or not self._is_others(state, identity):
                marks.add(identity)
        return marks

    def _fitting(self, target: bytes, known: Mapping[bytes, Revision]) -> bytes | None:
        """Return the newest base whose tree is here; one that lies behind the target is better than any other."""
        fit = {
            base: revision.created_ns
            for base, revision in known.items()
            if self.pool.has(ObjectId(revision.root.content))
        }
        if not fit:
            return None
        oldest_ns = min(fit.values())
        for identity in between(self.pool, target, ()):
            if identity in fit:
                return identity
            if read_revision(self.pool, identity).created_ns < oldest_ns:
                break
        return max(fit, key=lambda base: (fit[base], base))

    def objects(self, volume: str, ids: bytes) -> Iterator[bytes]:
        """Return a pack of these objects, block by block; NotFound at once when the index has not all of them."""
        state = self.volumes.get(volume)
        self._check_ids(ids)
        if self._is_narrow:
            kinds = Standing(self.pool).kinds(as_ids(ids))
            for row in np.flatnonzero(kinds == KIND_REVISION).tolist():
                identity = ids[row * OBJECT_ID_BYTES : (row + 1) * OBJECT_ID_BYTES]
                if self._is_others(state, identity):
                    raise _not_its(state, identity)
        marks = PoolMarks(self.pool)
        marks.add_many(ids)
        if marks.elsewhere:
            self.pool.refresh()
            marks = PoolMarks(self.pool)
            marks.add_many(ids)
        if marks.elsewhere:
            raise NotFound(f"object {hex_short(min(marks.elsewhere))}: not in pool {self.pool.place}")
        return self._pack(marks)

    def _pack(self, marks: PoolMarks) -> Iterator[bytes]:
        pieces: list[bytes] = []
        header = new_header(self.pool.realm, kind=pack.PACK_POOL, sealed=self.pool.encryption != "none")
        with PackWriter(
            pieces.append, realm=self.pool.realm, header=header, workers=self._workers, pending_max=SENT_PENDING_MAX
        ) as writer:
            for _ in marks.copy_steps(writer):
                while pieces:
                    yield pieces.pop(0)
            writer.finish()
        yield from pieces

    # Objects in

    def have(self, volume: str, ids: bytes) -> bytes:
        """Return 1 for each object that stands, and for a revision when what it names stands, too."""
        self.volumes.get(volume)
        self._check_ids(ids)
        self._refresh()
        standing = Standing(self.pool)
        kinds = standing.kinds(as_ids(ids))
        for row in np.flatnonzero(kinds == KIND_REVISION).tolist():
            if not standing.is_whole(ids[row * OBJECT_ID_BYTES : (row + 1) * OBJECT_ID_BYTES]):
                kinds[row] = 0
        return bytes((kinds != 0).astype(np.uint8))

    def _refresh(self) -> None:
        """See what other processes did until a moment ago. What is seen too late is found before a head moves."""
        now = self._clock()
        if not 0 <= now - self._refreshed_ns < REFRESH_NS:
            self.pool.refresh()
            self._refreshed_ns = now
        if self.pool.is_damage_new:  # what rests on something lost does not stand: it is asked for
            self.pool.look_for_unsound()

    def _check_ids(self, ids: bytes) -> None:
        if len(ids) % OBJECT_ID_BYTES or len(ids) > BATCH_IDS_MAX * OBJECT_ID_BYTES:
            raise BadInput(f"{len(ids)} bytes of ids: expected at most {BATCH_IDS_MAX} ids of {OBJECT_ID_BYTES} bytes")

    def _check_revisions(self, *identities: bytes) -> None:
        """Refuse what cannot be the id of a revision; it need not be here."""
        for identity in identities:
            if len(identity) != OBJECT_ID_BYTES:
                raise BadInput(f"revision id of {len(identity)} bytes: expected {OBJECT_ID_BYTES}")
            location = self.pool.index.lookup(identity)
            if location is not None and location.kind != KIND_REVISION:
                raise Refused(f"object {hex_short(identity)} is no revision")

    def _require_own(self, state: VolumeState, identity: bytes) -> None:
        """Refuse a revision of another volume, which the caller may have no rights on; it need not be here."""
        revision = find_revision(self.pool, identity)
        if revision is None or revision.volume == state.id:
            return
        if self._is_narrow and is_others(self.volumes, state, identity, revision):
            raise _not_its(state, identity)
        # What was restored beside the original keeps the original's id in the past that came with it.
        if self._is_behind(identity, state.head):
            return
        if all(clone.revision != identity for clone in state.clones.values()):
            raise _not_its(state, identity)

    def _upload_path(self, state: VolumeState, upload: bytes) -> Path:
        if len(upload) != UUID_BYTES:
            raise BadInput(f"upload id of {len(upload)} bytes: expected {UUID_BYTES}")
        owner = f"{self._owner}-" if self._owner else ""
        return self._uploads / state.id.hex() / (owner + upload.hex() + PARTIAL_SUFFIX)

    def _count_waiting(self) -> int:
        """Return how many bytes of this caller's uploads wait to be adopted."""
        total = 0
        for path in self._uploads.glob(f"*/{self._owner}-*{PARTIAL_SUFFIX}"):
            with suppress(OSError):  # adopted meanwhile
                total += max(path.stat().st_size, UPLOAD_BYTES_MIN)
        return total

    def _wait_with(self, added: int) -> None:
        """Count bytes that a caller is about to add to what waits. Refused beyond what he may have there."""
        if not self._owner:
            return
        now = ticks_ns()
        with self._lock:
            counted_ns, total = self._waiting.get(self._owner, (0, WAITING_BYTES_MAX))
        if total + added > WAITING_BYTES_MAX or now - counted_ns > COUNTED_NS:
            counted_ns, total = now, self._count_waiting()
        if total + added > WAITING_BYTES_MAX:
            raise Refused(
                f"{format_size(total)} that were sent with this token wait to be adopted: at most "
                f"{format_size(WAITING_BYTES_MAX)} may; what nobody adopts goes with a collection"
            )
        with self._lock:
            if len(self._waiting) >= OWNERS_COUNTED_MAX:
                self._waiting.clear()
            self._waiting[self._owner] = counted_ns, total + added

    def upload_size(self, volume: str, upload: bytes) -> int:
        """Return how many bytes of an upload are there: all, when it was adopted already."""
        path = self._upload_path(self.volumes.get(volume), upload)
        adopted = self._adopted_size(path, upload)
        if adopted is not None:
            return adopted
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0

    def _adopted_size(self, path: Path, upload: bytes) -> int | None:
        """Return the size of an upload that is part of the pool, or None."""
        size = self.pool.pack_size(upload)
        if size is not None:
            return size
        try:
            return int(self._joined_path(path).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def upload(self, volume: str, upload: bytes, offset: int, pieces: Iterable[bytes]) -> int:
        """Add bytes to an upload. Conflict when there are fewer than `offset`, or when it was adopted meanwhile."""
        return take_all(self.uploading(volume, upload, offset), pieces)

    def uploading(self, volume: str, upload: bytes, offset: int) -> Taking[int]:
        """Do the same with pieces that come one by one (`Taking`)."""
        return self._uploading(self.volumes.get(volume), upload, offset, sync=True)

    def _uploading(self, state: VolumeState, upload: bytes, offset: int, *, sync: bool) -> Taking[int]:
        path = self._upload_path(state, upload)
        adopted = self._adopted_size(path, upload)
        if adopted is not None:
            return adopted
        make_directory(path.parent)
        if not path.exists():
            self._wait_with(UPLOAD_BYTES_MIN)
        there = path.stat().st_size if path.exists() else 0
        if not 0 <= offset <= there:
            raise Conflict(f"upload {hex_short(upload)}: goes on at {there}, not at {offset}")
        with UploadFile(path, create=True, sync=sync) as file:
            while piece := (yield):
                if offset + len(piece) > ADOPTED_BYTES_MAX:
                    raise Refused(f"upload {hex_short(upload)}: more than {format_size(ADOPTED_BYTES_MAX)}; send less")
                self._wait_with(len(piece))
                # Only while a piece is written: a sender who died must not keep others from going on.
                if not file.lock() or file.has_other_name:
                    raise Conflict(f"upload {hex_short(upload)}: adopted or removed meanwhile")
                try:
                    file.write_at(offset, piece)
                finally:
                    file.unlock()
                offset += len(piece)
            if sync:
                file.sync()
            return file.size_bytes

    def adopt(self, volume: str, uploads: Sequence[bytes]) -> None:
        """Check uploads and make them part of the pool. An upload that is damaged, or never right, is removed."""
        self._adopt(self.volumes.get(volume), uploads)

    def _adopt(self, state: VolumeState, uploads: Sequence[bytes]) -> None:
        if len(set(uploads)) > UPLOADS_AT_ONCE_MAX:
            raise BadInput(f"{len(set(uploads))} uploads: at most {UPLOADS_AT_ONCE_MAX} are adopted at once")
        files: list[tuple[PackId, UploadFile]] = []
        with ExitStack() as stack:
            for upload in sorted(set(uploads)):  # in one order, so that two calls do not wait for each other
                path = self._upload_path(state, upload)
                file = self._open_upload(path, upload)
                if file is not None:
                    files.append((PackId(upload), stack.enter_context(file)))
            if not files:
                return
            try:
                self._adopt_files(files)
            except (NotFound, Conflict):
                # Another process may have added what is named, or collected what was counted on.
                self.pool.refresh()
                self._adopt_files(files)
            for upload, file in files:
                if not self.pool.has_pack(upload):
                    write_durable(self._joined_path(file.path), b"%d" % file.size_bytes, sync=False)

    def _adopt_files(self, files: list[tuple[PackId, UploadFile]]) -> None:
        with Adopter(self.pool, workers=self._workers, refresh=False) as adopter:
            adopter.adopt(files)

    def _open_upload(self, path: Path, upload: bytes) -> UploadFile | None:
        """Return an upload, its lock held, or None when it was adopted before."""
        try:
            file = UploadFile(path, create=False)
        except NotFound:
            file = None
        if file is not None:
            if file.lock():
                return file
            file.close()
        if self._adopted_size(path, upload) is not None:
            return None
        raise NotFound(f"upload {hex_short(upload)} is not here: send it again")

    def _joined_path(self, path: Path) -> Path:
        return path.with_name(path.name.removesuffix(PARTIAL_SUFFIX) + JOINED_SUFFIX)

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
        """Do upload, adopt, advance and agree in one call."""
        return take_all(self.committing(volume, revision, upload, common=common, owner=owner), pieces)

    def committing(
        self, volume: str, revision: bytes, upload: bytes, *, common: bytes = b"", owner: str = ""
    ) -> Taking[VolumeState]:
        """Do the same with pieces that come one by one (`Taking`)."""
        state = self.volumes.get(volume)
        _require_moving(state)
        _require_thawed(state, owner=owner, now_ns=self._clock())
        if upload:
            yield from self._uploading(state, upload, 0, sync=False)
            self._adopt(state, [upload])
        return self._advance(volume, revision, owner=owner, common=common, sent=bool(upload))

    # What moves

    def create(self, state: VolumeState) -> VolumeState:
        """Make an empty volume like `state`, with what belongs to it wherever it is."""
        check_volume_name(state.name)
        if (
            len(state.id) != UUID_BYTES
            or state.kind not in (NATIVE, TRACKED)
            or (state.kind == TRACKED) != bool(state.source)
        ):
            raise BadInput(f"volume {state.name!r}: its id, kind or source cannot be right")
        require_past(f"volume {state.name!r}", state.created_ns, now_ns=self._clock())
        for record in (dumps := _dumps_told(state)):
            require_past(f"dump {hex_short(record.dump_id)}", record.taken_at_ns, now_ns=self._clock())
        existing = self.volumes.get_by_id(state.id)
        if existing is None:
            new = VolumeState(
                id=state.id,
                name=state.name,
                # What a tracked volume follows is a directory of another machine: this one's must never be read for it.
                kind=NATIVE,
                source=b"",
                created_ns=state.created_ns,
                settings=state.settings,
                dumps=dumps,
                replicas=state.replicas,
                role=self._role(state.replicas) if state.replicas is not None else state.role,
            )
            if len(encode_state(new)) > STATE_BYTES_MAX:
                raise Refused(f"volume {state.name!r}: its settings and records have too many bytes")
            try:
                return self.volumes.add(new)
            except (AlreadyThere, Conflict):
                existing = self.volumes.get_by_id(state.id)
                if existing is None:
                    raise
        if existing.name != state.name:
            raise AlreadyThere(f"volume {existing.name!r} is this same volume: rename it, or remove it first")
        return self.arrange(state.name, state.replicas) if state.replicas is not None else self._settled(existing)

    def remove(self, volume: str) -> None:
        """Forget a volume; one that is not here is no error. Refused while a clone is held that nobody else has."""
        try:
            state = self.volumes.get_settled(volume)
        except NotFound:
            return
        self.volumes.remove(volume, force=state.replicas is not None)
        folder = self._uploads / state.id.hex()
        with suppress(FileNotFoundError):
            for path in list(folder.iterdir()):
                remove_durable(path, sync=False)
            folder.rmdir()
        self._bell.ring()

    def advance(self, volume: str, revision: bytes, *, owner: str = "") -> VolumeState:
        """Move the head forward."""
        return self._advance(volume, revision, owner=owner, common=b"")

    def _advance(self, volume: str, revision: bytes, *, owner: str, common: bytes, sent: bool = False) -> VolumeState:
        state = self.volumes.get(volume)
        _require_moving(state)
        self._check_revisions(revision)
        if self._is_behind(revision, state.head):
            # Also when nothing changes: who made it the head may have been killed before that was durable.
            return self._update(state.id, lambda current: self._agreed_if_behind(current, common))
        if self.pool.has(ObjectId(revision)):
            self._require_forward(state, revision)  # before anything is looked at that takes longer
        with Adopter(self.pool, refresh=not self.pool.has(ObjectId(revision))) as adopter:
            new = adopter.require_whole(revision)
            self._check_revision(state, revision, new)
            if self._is_narrow:
                require_own_past(self.pool, self.volumes, state, revision)
            self._check_claim(state, revision, new)
            require_signed_line(
                self.pool, self.pool, state, revision, is_known=lambda each: self._is_behind(each, state.head)
            )
            if sent and state.role == WRITER and state.head:
                self._require_merged(volume, new)

            def change(current: VolumeState) -> VolumeState:
                _require_moving(current)
                if self._is_behind(revision, current.head):
                    return self._agreed_if_behind(current, common)
                self._require_forward(current, revision)
                _require_thawed(current, owner=owner, now_ns=self._clock())
                return self._agreed_if_behind(msgspec.structs.replace(current, head=bytes(revision)), common)

            adopter.commit_guard()
            state = self._update(state.id, change)
        self._bell.ring()
        return state

    def _is_behind(self, old: bytes, head: bytes) -> bool:
        """Return whether `old` is the head or lies behind it."""
        return bool(head) and self._pasts.is_ancestor(old, head)

    def _require_forward(self, state: VolumeState, revision: bytes) -> None:
        if state.head and not self._pasts.is_ancestor(state.head, revision):
            raise Diverged(
                f"volume {state.name!r} on {self.name} is at revision {hex_short(state.head)}, "
                f"which does not lie behind {hex_short(revision)}: merge them first"
            )

    def _require_merged(self, volume: str, revision: Revision) -> None:
        """Refuse a new merge without what it merged: it was collected since it was sent, and nobody else may have it.

        The head would stand without its past, and who has only that would be a stranger to it.
        """
        if len(revision.parents) > 1:
            for parent in revision.parents:
                if find_revision(self.pool, parent) is None:
                    raise NotFound(f"volume {volume!r}: merged revision {hex_short(parent)} is not here: send it again")

    def _check_claim(self, state: VolumeState, identity: bytes, revision: Revision) -> None:
        """Refuse a tree that holds much more than its revision says: whoever walks it later would never end."""
        wrong = false_claim(self.pool, revision, find_revision(self.pool, state.head) if state.head else None)
        if wrong is not None:
            raise Refused(f"revision {hex_short(identity)} of volume {state.name!r}: {wrong}")

    def _check_revision(self, state: VolumeState, identity: bytes, revision: Revision) -> None:
        if revision.volume != state.id:
            raise _not_its(state, identity)
        problem = signature_problem(revision)
        if problem is not None:
            raise Refused(f"revision {hex_short(identity)} of volume {state.name!r}: {problem}")
        require_past(f"revision {hex_short(identity)}", revision.created_ns, now_ns=self._clock())
        for parent in revision.parents:
            known = find_revision(self.pool, parent)
            if known is not None and known.created_ns >= revision.created_ns:
                raise Refused(f"revision {hex_short(identity)} is not later than its parent {hex_short(parent)}")
        quota = state.settings.get("quota_bytes")
        # A merge adds nothing that was not accepted somewhere: refusing it would keep replicas apart for ever.
        if isinstance(quota, int) and revision.total_bytes > quota and len(revision.parents) < 2:
            raise Full(
                f"volume {state.name!r}: {format_size(revision.total_bytes)} of files, "
                f"and its quota is {format_size(quota)}"
            )

    def reopen(self, volume: str, *, at_ns: int, content: bytes = b"") -> VolumeState:
        """Put a revision of `at_ns` in the place of a head of the future; all servers with one head make the same."""
        state = self.volumes.get(volume)
        _require_moving(state)
        now_ns = self._clock()
        require_past(f"volume {volume!r}", at_ns, now_ns=now_ns)
        if is_old(at_ns, now_ns=now_ns):
            raise Refused(f"volume {volume!r}: {show_time(at_ns)} is not now: look at the clocks")
        if content:
            self._check_revisions(content)
            self._require_own(state, content)
        state = reopen(self.pool, self.volumes, volume, content=content, now_ns=at_ns, workers=self._workers)
        self._bell.ring()
        return state

    def agree(self, volume: str, revision: bytes, *, uncloned: Mapping[str, Sequence[Clone]] = {}) -> None:
        """Note what all writers have; `common` only moves forward."""
        self._agree(self.volumes.get(volume), revision, uncloned)

    def _agree(self, state: VolumeState, revision: bytes, uncloned: Mapping[str, Sequence[Clone]]) -> VolumeState:
        return self._update(state.id, lambda current: self._agreed(current, revision, uncloned))

    def _agreed(self, state: VolumeState, revision: bytes, uncloned: Mapping[str, Sequence[Clone]]) -> VolumeState:
        common = state.common
        if revision and revision != common:
            self._check_revisions(revision)
            if not self._is_behind(revision, state.head):
                raise Refused(f"volume {state.name!r}: revision {hex_short(revision)} is not behind the head")
            if not common or not self._pasts.is_ancestor(revision, common):
                common = self._newer(common, revision)
        remembered = {
            name: left
            for name, removed in state.uncloned.items()
            if (left := [clone for clone in removed if not _is_among(clone, uncloned.get(name, ()))])
        }
        return msgspec.structs.replace(state, common=bytes(common), uncloned=remembered)

    def _agreed_if_behind(self, state: VolumeState, common: bytes) -> VolumeState:
        """Return `state` with what a commit says of the past; where that is not known, the commit stands."""
        return self._agreed(state, common, {}) if common and self._is_behind(common, state.head) else state

    def _newer(self, a: bytes, b: bytes) -> bytes:
        """Return the later of two revisions, one of which may be empty or absent."""
        times = {each: revision.created_ns for each in (a, b) if each and (revision := find_revision(self.pool, each))}
        return max(times, key=lambda each: (times[each], each), default=b)

    def freeze(self, volume: str, *, owner: str, seconds: int = LEASE_SECONDS) -> VolumeState:
        """Freeze the volume, or freeze it on."""
        if not owner or not 0 < seconds <= leases.LEASE_SECONDS_MAX:
            raise BadInput(f"a lease of {seconds} s: expected an owner, and 1 to {leases.LEASE_SECONDS_MAX} s")

        def change(current: VolumeState) -> VolumeState:
            _require_here(current)
            return leases.freeze(current, owner=owner, now_ns=self._clock(), seconds=seconds)

        return self._update(self.volumes.get(volume).id, change)

    def thaw(self, volume: str, *, owner: str) -> None:
        """End a lease."""
        self._update(self.volumes.get(volume).id, lambda current: leases.thaw(current, owner=owner))

    def clone(self, volume: str, name: str, clone: Clone) -> VolumeState:
        """Name a revision."""
        check_clone_name(name)
        require_past(f"clone {volume}@{name}", clone.created_ns, now_ns=self._clock())
        self._check_revisions(clone.revision)
        state = self.volumes.get(volume)
        _require_here(state)
        if self._cloned(state, name, clone) is state:
            return self._settled(state)
        if len(state.clones) >= CLONES_MAX and name not in state.clones:
            raise Refused(f"volume {volume!r} has {CLONES_MAX} clones: forget some first (`dal unclone`)")
        with Adopter(self.pool, refresh=not self.pool.has(ObjectId(clone.revision))) as adopter:
            adopter.require_whole(clone.revision)
            self._require_own(state, clone.revision)
            adopter.commit_guard()
            return self._update(state.id, lambda current: self._cloned(current, name, clone))

    def _settled(self, state: VolumeState) -> VolumeState:
        """Return a state that says already what is wanted, durable: who made it so may have been killed before."""
        return self._update(state.id, lambda current: current)

    def _cloned(self, state: VolumeState, name: str, clone: Clone) -> VolumeState:
        """Return `state` with a clone; itself when nothing is to be done."""
        if _is_among(clone, state.uncloned.get(name, ())):
            return state
        known = state.clones.get(name)
        if known is not None:
            if not _is_among(known, (clone,)):
                raise AlreadyThere(f"clone {state.name}@{name} exists already, of another state or time")
            if known.held or not clone.held:
                return state
        return msgspec.structs.replace(state, clones=state.clones.put(name, clone))

    def unclone(self, volume: str, name: str, clone: Clone, *, here_only: bool = False) -> VolumeState:
        """Forget a clone. Refused while it is held, unless `clone` is, too."""

        def change(current: VolumeState) -> VolumeState:
            clones, uncloned = current.clones, current.uncloned
            known = clones.get(name)
            if known is not None and _is_among(known, (clone,)):
                if known.held and not clone.held:
                    raise Refused(f"clone {current.name}@{name} is held: `dal unhold {current.name}@{name}` first")
                clones = clones.without([name])
            if not here_only and not _is_among(clone, uncloned.get(name, ())):
                removed = [*uncloned.get(name, ()), msgspec.structs.replace(clone, held=False)]
                uncloned = {**uncloned, name: removed[-UNCLONED_MAX:]}
                for oldest in list(uncloned)[:-UNCLONED_MAX]:
                    del uncloned[oldest]
            return msgspec.structs.replace(current, clones=clones, uncloned=uncloned)

        check_clone_name(name)
        return self._update(self.volumes.get(volume).id, change)

    def arrange(self, volume: str, replicas: ReplicaSet) -> VolumeState:
        """Take a larger replica set. One that says the volume moved is taken only while it is frozen."""

        def change(current: VolumeState) -> VolumeState:
            if current.replicas is not None and replicas.version <= current.replicas.version:
                return current
            role = self._role(replicas)
            if not replicas.moved_to:
                return msgspec.structs.replace(current, replicas=replicas, role=role)
            if leases.held(current, now_ns=self._clock()) is None:
                raise Conflict(f"volume {volume!r} is not frozen any more: commits may have come; begin again")
            return msgspec.structs.replace(current, replicas=replicas, role=role, lease=None)

        state = self._update(self.volumes.get(volume).id, change)
        self._bell.ring()
        return state

    def _role(self, replicas: ReplicaSet) -> str:
        roles = ((WRITER, replicas.writers), (STANDBY, replicas.standbys), (READER, replicas.readers))
        return next((role for role, names in roles if self.name in names), "")

    def switch(self, volume: str, release: Release) -> VolumeState:
        """Show a release on a READER, note it elsewhere. Of two with one number the larger revision id counts."""
        require_past(f"release {release.number} of {volume!r}", release.released_ns, now_ns=self._clock())
        state = self.volumes.get(volume)
        self._check_revisions(release.revision)
        if state.role != READER:
            return self._update(state.id, lambda current: _switched(current, release))
        if _switched(state, release) is state:
            return self._settled(state)
        with Adopter(self.pool, refresh=not self.pool.has(ObjectId(release.revision))) as adopter:
            adopter.require_whole(release.revision)
            self._require_own(state, release.revision)
            require_signed_line(self.pool, self.pool, state, release.revision)
            adopter.commit_guard()
            state = self._update(state.id, lambda current: _switched(current, release))
        self._bell.ring()
        return state

    def watch(self, volume: str, head: bytes, *, seconds: float, follower: str = "") -> VolumeState:
        """Wait for another head. What a follower has is kept whole for it as long as it asks now and then."""
        until_ns = ticks_ns() + int(seconds * SECOND_NS)
        count = self._bell.count
        state = self.state(volume) if seconds <= 0 else self._seen(volume, count)
        if follower:
            self._note_follower(state, follower, head)
        while state.head == head:
            left = (until_ns - ticks_ns()) / SECOND_NS
            if left <= 0:
                break
            self._bell.wait(count, min(left, POLL_SECONDS))
            count = self._bell.count
            state = self._seen(volume, count)
        return state

    def _seen(self, volume: str, count: int) -> VolumeState:
        """Return the state as it was a moment ago, and after the bell's `count`: read once for all who watch."""
        now = ticks_ns()
        known = self._states_seen.get(volume)
        if known is not None and known[0] >= count and now - known[1] < POLL_SECONDS * SECOND_NS:
            return known[2]
        state = self.state(volume)
        with self._lock:
            if len(self._states_seen) >= STATES_SEEN_MAX:
                self._states_seen.clear()
            self._states_seen[volume] = count, now, state
        return state

    def followers(self, volume: str) -> Followers:
        """Return who follows a volume, since this server was started."""
        with self._lock:
            return dict(self._followers.get(self.volumes.get(volume).id, {}))

    def _note_follower(self, state: VolumeState, follower: str, head: bytes) -> None:
        now_ns = self._clock()
        unheard = ""
        with self._lock:
            known = self._followers.setdefault(state.id, {})
            if follower not in known and len(known) >= FOLLOWERS_MAX:
                unheard = min(known, key=lambda name: known[name][1])
                del known[unheard]
                self._pinned.pop((state.id, unheard), None)
            known[follower] = (head, now_ns)
            pinned_ns = self._pinned.get((state.id, follower))
            is_pinned = pinned_ns is not None and now_ns - pinned_ns < PIN_SECONDS * SECOND_NS
            if head and not is_pinned:
                self._pinned[state.id, follower] = now_ns
        if unheard:
            self.volumes.unpin(state.id, holder=f"follower {unheard}")
        if not head or is_pinned:
            return
        with suppress(DalError):  # without a pin the next increment is only found the long way
            if Standing(self.pool).is_whole(head):
                until_ns = now_ns + FOLLOWER_SECONDS * SECOND_NS
                self.volumes.pin(state.id, head, holder=f"follower {follower}", until_ns=until_ns)


def _not_its(state: VolumeState, identity: bytes) -> Refused:
    return Refused(f"revision {hex_short(identity)} is of another volume than {state.name!r}")


def take_all(taking: Taking[T], pieces: Iterable[bytes]) -> T:
    """Give a generator that takes pieces all of them, and return what it returns."""
    try:
        next(taking)
        for piece in pieces:
            if piece:  # an empty one says that it was the last
                taking.send(piece)
        taking.send(b"")
    except StopIteration as end:
        found: T = end.value
        return found
    finally:
        taking.close()
    raise AssertionError("it takes more than there is")


def _nodes_below(pool: Pool, records: Sequence[Record], *, bytes_max: int) -> list[Record]:
    """Return nodes below the first record, if that is a list of directory nodes: who reads on will ask for them.

    The nodes of a table of clones may lie in as many packs as there are nodes.
    """
    known = {record[1]: record for record in records}
    found: list[Record] = []
    left = bytes_max
    waiting = deque(records[:1])
    met: set[bytes] = set()  # who names one list again and again has us read it once
    while waiting:
        kind, _, payload = waiting.popleft()
        node = decode_directory(payload) if kind == KIND_DIRECTORY else None
        for child in node.children if isinstance(node, DirectoryList) else ():
            record = known.get(child.id)
            if record is None:
                try:
                    record = (KIND_DIRECTORY, child.id, pool.get(ObjectId(child.id)))
                except (NotFound, Damaged):
                    continue  # told to whoever asks for it
                left -= len(record[2])
                if left < 0:
                    return found
                found.append(record)
                known[child.id] = record
            if isinstance(node, DirectoryList) and node.level > 1 and child.id not in met:
                met.add(child.id)
                waiting.append(record)
    return found


def is_behind(pool: Pool, old: bytes, head: bytes) -> bool:
    """Return whether `old` is the head or lies behind it."""
    return bool(head) and is_ancestor(pool, old, head)


def _rows(marks: PoolMarks) -> Iterator[bytes]:
    for ids, kinds, lengths in marks.rows():
        table = encode_rows(ids, kinds, lengths)
        for start in range(0, len(table), ROWS_AT_ONCE):
            yield table[start : start + ROWS_AT_ONCE].tobytes()


def _require_here(state: VolumeState) -> None:
    if state.replicas is not None and state.replicas.moved_to:
        server = state.replicas.moved_to
        raise Moved(f"volume {state.name!r} has moved to {server}: ask there", server=server)


def _dumps_told(state: VolumeState) -> DumpRecords:
    """Return the dumps that a new volume is told of; BadInput where they are in a table of somebody else."""
    if not state.dumps.is_readable:
        raise BadInput(f"volume {state.name!r}: a new replica is told of dumps without a table")
    return state.dumps.sent()


def _require_moving(state: VolumeState) -> None:
    """Refuse a commit where there is nothing to commit to."""
    _require_here(state)
    if state.role == READER:
        raise Refused(f"volume {state.name!r} is read-only here: it shows what is released to it")
    if state.replicas is not None and state.role not in (WRITER, STANDBY):
        raise Refused(f"volume {state.name!r} is no longer kept up to date here: look at its replica set again")


def _require_thawed(state: VolumeState, *, owner: str, now_ns: int) -> None:
    lease = leases.held(state, now_ns=now_ns)
    if lease is None or not leases.is_holder(lease, owner=owner):
        leases.require_thawed(state, now_ns=now_ns)


def _is_among(clone: Clone, others: Sequence[Clone]) -> bool:
    return any(clone.revision == other.revision and clone.created_ns == other.created_ns for other in others)


def _switched(state: VolumeState, release: Release) -> VolumeState:
    known = state.released
    if known is not None and (known.number, known.revision) >= (release.number, release.revision):
        return state
    if state.role != READER:
        return msgspec.structs.replace(state, released=release)
    return msgspec.structs.replace(state, released=release, head=release.revision)
