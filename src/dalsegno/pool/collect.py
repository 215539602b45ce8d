"""Collect what nothing names any more, beside writers, in two phases: condemn, wait, delete.

1. Mark: `live` yields the ids that some ref reaches, one or many joined at a time.
2. A pack that holds nothing needed is condemned: a file with the time. One that is needed for less than 70 % of its
   bytes is written again: its needed objects go to a new pack, then the old one is condemned.
3. A pack condemned for longer than the grace period, and still not needed by this run's mark, is deleted. If something
   that was found dead only now names an object in it, it waits once more: until this run somebody might have relied on
   what was found dead, which means on all that it names.

Packs younger than the grace period are left alone: their writers have not swapped their refs yet. A writer that
relied on a condemned pack stores those objects again before it commits (PoolWriter.commit_guard).

Dead directories, recipes and revisions that stay behind in kept packs are listed in `condemned/objects`, before
anything they name is deleted: a writer that finds one must not conclude that what it names is there.

Each step leaves a good pool when killed; the next run decides anew and so goes on.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from dalsegno.formats.objects import KIND_CHUNK, references
from dalsegno.formats.pack import ENCODING_DELTA
from dalsegno.pool.adopt import JOINED_SUFFIX, UPLOADS
from dalsegno.pool.copy import PoolMarks
from dalsegno.pool.index import Ids, Values
from dalsegno.pool.pack_read import PackReader, read_record
from dalsegno.pool.pool import (
    COLLECT_LOCK,
    CONDEMNED,
    DEAD_OBJECTS,
    PACKS,
    REFS,
    WRITERS_LOCK,
    Pool,
    PoolWriter,
    SortedIds,
    as_sorted_ids,
    member_mask,
)
from dalsegno.terms.errors import BadInput, Conflict, DalError, Damaged, NotFound
from dalsegno.terms.events import Note, Progress, Report
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId, PackId
from dalsegno.world.files import PARTIAL_SUFFIX, FileLock, make_directory, remove_durable, write_durable

SECOND_NS: Final = 1_000_000_000
LIVE_PERCENT_MIN: Final = 70
GRACE_SECONDS_DEFAULT: Final = 24 * 3600
PARTIAL_GRACE_NS: Final = 24 * 3600 * SECOND_NS
NOBODY: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectResult:
    """What a collection did, or with `dry_run` would do."""

    packs: int
    kept: int
    condemned: int
    """Packs newly condemned, those written again included."""
    rewritten: int
    deleted: int
    reprieved: int
    """Condemned packs that are needed again."""
    freed_bytes: int
    condemned_bytes: int
    """Bytes that wait for their grace period to end."""
    live_objects: int
    dead_objects: int
    """Dead objects that stay behind in kept packs."""


@dataclass(slots=True, kw_only=True)
class _Pack:
    number: int
    pack_id: PackId
    size_bytes: int
    mtime_ns: int
    live_bytes: int = 0
    total_bytes: int = 0
    needed_bytes: int = 0
    needed_count: int = 0


def collect(
    pool: Pool,
    live: Callable[[], Iterable[bytes]],
    *,
    grace_seconds: int,
    now_ns: int,
    dry_run: bool,
    report: Report,
) -> CollectResult:
    """Collect `pool`. With a grace of 0 nobody may be writing: Conflict otherwise, as when another collects."""
    if grace_seconds < 0:
        raise BadInput(f"grace of {grace_seconds} s: expected 0 or more")
    with FileLock(pool.path / COLLECT_LOCK) as lock, FileLock(pool.path / WRITERS_LOCK) as writers:
        if not lock.acquire(wait=False):
            raise Conflict(f"{pool.path}: another collection is running: try again when it has ended")
        if grace_seconds == 0 and not writers.acquire(wait=False):
            raise Conflict(f"{pool.path}: a writer is at work: wait for it, or give a grace period")
        return _Collection(pool, grace_ns=grace_seconds * SECOND_NS, now_ns=now_ns, report=report).run(live, dry_run)


class _Collection:
    """One run, with the locks held."""

    def __init__(self, pool: Pool, *, grace_ns: int, now_ns: int, report: Report) -> None:
        self.pool = pool
        self.grace_ns = grace_ns
        self.now_ns = now_ns
        self.report = report
        self.live: SortedIds = as_sorted_ids(b"")
        self.owners: npt.NDArray[np.int32] = np.zeros(0, np.int32)

    def run(self, live: Callable[[], Iterable[bytes]], dry_run: bool) -> CollectResult:
        pool = self.pool
        # Packs before refs: a pack that comes later is not judged by a mark that could not know it.
        packs = self._list_packs()
        condemned_since = pool.read_condemned()
        self._mark(live)
        pool.refresh()
        packs = self._measure(packs)
        kept: list[_Pack] = []
        doomed: list[_Pack] = []
        partial: list[_Pack] = []
        dead_ids: list[bytes] = []
        newly_dead: list[bytes] = []
        ordinary = [each for each in packs if each.pack_id not in condemned_since]
        # The fullest claim first, so that of two copies the one in the emptier pack is given up; condemned packs last.
        ordinary.sort(key=lambda each: (-(each.live_bytes / max(each.total_bytes, 1)), each.pack_id))
        for each in ordinary:
            dead = self._claim(each)
            newly_dead.append(dead)
            young = bool(self.grace_ns) and each.mtime_ns > self.now_ns - self.grace_ns
            if young:
                kept.append(each)
            elif not each.needed_count:
                doomed.append(each)
            elif each.needed_bytes * 100 < each.total_bytes * LIVE_PERCENT_MIN:
                partial.append(each)
            else:
                kept.append(each)
                dead_ids.append(dead)
        reprieved, expired, waiting = self._judge_condemned(
            [each for each in packs if each.pack_id in condemned_since], condemned_since
        )
        for each in reprieved:
            dead_ids.append(self._dead_metadata(each))
        dead_objects = b"".join(dead_ids)
        renewed = self._still_named(expired, newly_dead)
        waiting += renewed
        expired = [each for each in expired if each not in renewed]
        now_deleted = expired + (doomed + partial if self.grace_ns == 0 else [])
        result = CollectResult(
            packs=len(packs),
            kept=len(kept) + len(reprieved),
            condemned=len(doomed) + len(partial),
            rewritten=len(partial),
            deleted=len(now_deleted),
            reprieved=len(reprieved),
            freed_bytes=sum(each.size_bytes for each in now_deleted),
            condemned_bytes=sum(each.size_bytes for each in waiting + ([] if self.grace_ns == 0 else doomed + partial)),
            live_objects=len(self.live),
            dead_objects=len(dead_objects) // OBJECT_ID_BYTES,
        )
        if dry_run:
            return result
        make_directory(pool.path / CONDEMNED)
        # Rewriting first, so that a full disk stops before anything was taken away.
        rewritten = self._rewrite(partial)
        self._write_dead_objects(dead_objects)
        for each in reprieved:
            remove_durable(self._condemned_path(each.pack_id))
        for each in doomed + rewritten + renewed:
            write_durable(self._condemned_path(each.pack_id), b"%d" % self.now_ns)
        for number, each in enumerate(now_deleted):
            self.report(Progress(phase="delete", done_count=number, total_count=len(now_deleted)))
            remove_durable(pool.pack_path(each.pack_id))
            remove_durable(self._condemned_path(each.pack_id))
        pool.index.forget([each.pack_id for each in now_deleted])
        self._sweep(condemned_since)
        return result

    def _list_packs(self) -> list[_Pack]:
        found = []
        for number, pack_id in enumerate(sorted(self.pool.list_packs())):
            try:
                status = self.pool.pack_path(pack_id).stat()
            except FileNotFoundError:
                continue
            found.append(_Pack(number=number, pack_id=pack_id, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns))
        return found

    def _mark(self, live: Callable[[], Iterable[bytes]]) -> None:
        joined = bytearray()
        for ids in live():
            assert len(ids) % OBJECT_ID_BYTES == 0
            joined += ids
        self.report(Progress(phase="mark", done_count=len(joined) // OBJECT_ID_BYTES))
        self.live = as_sorted_ids(joined)

    def _columns(self, each: _Pack) -> tuple[Ids, Values]:
        reader = self.pool.open_pack(each.pack_id)
        try:
            return reader.objects()
        finally:
            reader.close()

    def _measure(self, packs: list[_Pack]) -> list[_Pack]:
        """Fill in live and total bytes, until the bases of live deltas are live too; drop packs that do not open."""
        while True:
            usable: list[_Pack] = []
            bases = bytearray()
            for number, each in enumerate(packs):
                self.report(Progress(phase="measure", done_count=number, total_count=len(packs)))
                try:
                    ids, values = self._columns(each)
                except NotFound:
                    continue
                except DalError as error:
                    # A damaged pack may be all that is left of something: keep it until somebody has looked.
                    self.report(Note(severity="error", path=bytes(self.pool.pack_path(each.pack_id)), text=str(error)))
                    continue
                mask = member_mask(self.live, _joined(ids))
                each.total_bytes = int(values[:, 2].sum(dtype=np.uint64))
                each.live_bytes = int(values[mask, 2].sum(dtype=np.uint64))
                bases += self._missing_bases(each, ids, values, mask)
                usable.append(each)
            if not bases:
                self.owners = np.full(len(self.live), NOBODY, np.int32)
                return usable
            self.live = as_sorted_ids(bytearray(self.live.tobytes()) + bases)

    def _missing_bases(self, each: _Pack, ids: Ids, values: Values, mask: npt.NDArray[np.bool_]) -> bytearray:
        found = bytearray()
        rows = np.flatnonzero(mask & (values[:, 3] == ENCODING_DELTA))
        if len(rows):
            reader = self.pool.open_pack(each.pack_id)
            try:
                for row in rows.tolist():
                    base = _read(reader, ids, values, row)[2]
                    if base is not None and not member_mask(self.live, np.frombuffer(base, "S32"))[0]:
                        found += base
            finally:
                reader.close()
        return found

    def _claim(self, each: _Pack) -> bytes:
        """Make this pack the owner of the live objects that no earlier one holds; return its dead metadata's ids."""
        ids, values = self._columns(each)
        rows = self._owned_rows(ids, NOBODY)
        self.owners[np.searchsorted(self.live, _joined(ids)[rows])] = each.number
        each.needed_count = len(rows)
        each.needed_bytes = int(values[rows, 2].sum(dtype=np.uint64))
        return self._dead_in(ids, values)

    def _owned_rows(self, ids: Ids, owner: int) -> npt.NDArray[np.intp]:
        """Return the rows of live objects whose owner is `owner`."""
        joined = _joined(ids)
        rows = np.flatnonzero(member_mask(self.live, joined))
        owned: npt.NDArray[np.intp] = rows[self.owners[np.searchsorted(self.live, joined[rows])] == owner]
        return owned

    def _dead_in(self, ids: Ids, values: Values) -> bytes:
        metadata = (values[:, 1] >> np.uint32(24)) != KIND_CHUNK
        dead = metadata & ~member_mask(self.live, _joined(ids))
        found: bytes = ids[dead].tobytes()
        return found

    def _dead_metadata(self, each: _Pack) -> bytes:
        return self._dead_in(*self._columns(each))

    def _judge_condemned(
        self, packs: list[_Pack], since: dict[PackId, int]
    ) -> tuple[list[_Pack], list[_Pack], list[_Pack]]:
        reprieved: list[_Pack] = []
        expired: list[_Pack] = []
        waiting: list[_Pack] = []
        for each in packs:
            self._claim(each)
            if each.needed_count:
                reprieved.append(each)
            elif since[each.pack_id] + self.grace_ns <= self.now_ns:
                expired.append(each)
            else:
                waiting.append(each)
        return reprieved, expired, waiting

    def _still_named(self, expired: list[_Pack], dead_ids: list[bytes]) -> list[_Pack]:
        """Return the expired packs that hold what is named by objects that nobody knew to be dead before this run."""
        if not expired or self.grace_ns == 0:
            return []
        known = as_sorted_ids(self.pool.read_dead_objects())
        dead = np.frombuffer(b"".join(dead_ids), f"S{OBJECT_ID_BYTES}")
        named = PoolMarks(self.pool)
        ids = dead[~member_mask(known, dead)].tobytes()
        stack = [ids[at : at + OBJECT_ID_BYTES] for at in range(0, len(ids), OBJECT_ID_BYTES)]
        while stack:
            try:
                below = list(references(*self.pool.get_kind(stack.pop())))
            except (NotFound, Damaged):
                continue  # a revision that came without its tree has nothing below it, what is damaged nobody can use
            column = np.array([identity for _, identity in below], f"S{OBJECT_ID_BYTES}")
            for row in np.flatnonzero(~member_mask(self.live, column)).tolist():
                kind, identity = below[row]
                if named.add(identity) and kind != KIND_CHUNK:
                    stack.append(identity)
        return [each for each in expired if bool(named.holds(self._columns(each)[0]).any())]

    def _rewrite(self, packs: list[_Pack]) -> list[_Pack]:
        """Copy what is needed of these packs into new ones, durable and indexed; return the packs given up."""
        if not packs:
            return []
        writer = PoolWriter(self.pool, locked=False)
        try:
            for number, each in enumerate(packs):
                self.report(Progress(phase="rewrite", done_count=number, total_count=len(packs)))
                ids, values = self._columns(each)
                rows = self._owned_rows(ids, each.number)
                order = np.lexsort((values[rows, 1] & np.uint32(0xFFFFFF), values[rows, 0]))
                for row in rows[order].tolist():
                    identity = ObjectId(ids[row].tobytes())
                    kind, payload = self.pool.get_kind(identity)
                    writer.store_copy(kind, identity, payload)
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        return packs

    def _condemned_path(self, pack_id: PackId) -> Path:
        return self.pool.path / CONDEMNED / pack_id.hex()

    def _write_dead_objects(self, dead_objects: bytes) -> None:
        if dead_objects != self.pool.read_dead_objects():
            write_durable(self.pool.path / DEAD_OBJECTS, dead_objects)

    def _sweep(self, condemned_since: dict[PackId, int]) -> None:
        """Remove what killed runs and killed writers left: verdicts on packs that are gone, files never finished."""
        for pack_id in condemned_since:
            if not self.pool.pack_path(pack_id).exists():
                remove_durable(self._condemned_path(pack_id), sync=False)
        for folder in (PACKS, REFS, CONDEMNED, "index", UPLOADS):
            for partial in self._left_behind(folder):
                try:
                    old = partial.stat().st_mtime_ns <= self.now_ns - max(self.grace_ns, PARTIAL_GRACE_NS)
                except FileNotFoundError:
                    continue
                # Without grace we hold the writers' lock, so a pack in the making has no maker any more.
                if old or (self.grace_ns == 0 and folder == PACKS):
                    remove_durable(partial, sync=False)

    def _left_behind(self, folder: str) -> Iterator[Path]:
        for suffix in (PARTIAL_SUFFIX, JOINED_SUFFIX) if folder == UPLOADS else (PARTIAL_SUFFIX,):
            yield from (self.pool.path / folder).rglob("*" + suffix)


def _joined(ids: Ids) -> npt.NDArray[np.bytes_]:
    return np.ascontiguousarray(ids).view(f"S{OBJECT_ID_BYTES}").reshape(-1)


def _read(reader: PackReader, ids: Ids, values: Values, row: int) -> tuple[int, bytes, bytes | None]:
    block_index, where = int(values[row, 0]), int(values[row, 1]) & 0xFFFFFF
    return read_record(reader.cached_block(block_index), where, ids[row].tobytes())
