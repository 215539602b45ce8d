"""Take whole packs that somebody else made into a pool, every bit checked before they are part of it.

A pack that lies outside the pool is opened like any other, and its bytes, records and ids are checked, block by block.
Every object that a directory or a recipe in it names must come with it or *stand* in the pool: lie in a pack that is
not condemned, and not be among the dead objects. What stands has all that it names beside it, by this very rule; so
nothing below it need be looked at.

A revision is the exception: it may come without its tree, to tell who its parents are. Whoever needs a revision whole
asks whether the objects that it names stand, too (`require_whole`).

Packs join one by one, those first that others need. Packs that need each other become one pack: there is no moment in
which an object stands in the pool and what it names does not.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from dalsegno.formats import objects, pack
from dalsegno.formats.pack_index import decode_kinds, decode_offsets, file_order
from dalsegno.pool.copy import copy_marked
from dalsegno.pool.id_sets import SortedIds, as_sorted_ids, member_mask
from dalsegno.pool.index import Ids, Segment, Values
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pack_verify import verify_digest
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.pool.pool import (
    COLLECT_LOCK,
    DEAD_OBJECTS,
    PACK_OBJECTS_MAX,
    Pool,
    PoolWriter,
    pack_name,
)
from dalsegno.terms.errors import Conflict, Damaged, NoAccess, NotFound, Refused, TooNew
from dalsegno.terms.ids import OBJECT_ID_BYTES, PackId, hex_short
from dalsegno.terms.sizes import MIB
from dalsegno.world.files import UploadFile
from dalsegno.world.workers import Workers

UPLOADS: Final = "uploads"
"""Where packs wait, in the scratch of a pool's place, until they are adopted."""
JOINED_SUFFIX: Final = ".joined"
"""Beside an upload that became part of another pack, in its place: so that adopting it again is no error."""
ADOPTED_BYTES_MAX: Final = 256 * MIB
ADOPTED_RAW_BYTES_MAX: Final = 512 * MIB
ADOPTED_TRAILER_BYTES_MAX: Final = 4 * MIB
METADATA_BYTES_MAX: Final = 4 * MIB
"""A directory node, a recipe node or a revision; the largest that is written is a third of it."""
NAMES_BYTES: Final = 16 * MIB
"""What a pack names is looked through for repetitions whenever it has become so much more."""
NOTHING: Final = 0
"""No kind of object: it does not stand."""

Kinds = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


class Standing:
    """Which objects stand in a pool: as its index and its condemned, dead and unsound objects are now."""

    def __init__(self, pool: Pool, *, condemned: set[PackId] | None = None, dead: SortedIds | None = None) -> None:
        self._pool = pool
        self._condemned = set(pool.read_condemned()) if condemned is None else condemned
        self._dead = as_sorted_ids(pool.read_shunned_objects()) if dead is None else dead

    def kinds(
        self,
        ids: Ids,
        *,
        rescued: Iterable[bytes] = (),
        told: Callable[[PackId, bytes], object] | None = None,
    ) -> Kinds:
        """Return the kinds of objects that stand, NOTHING for the others; `told(pack, joined ids)` says where.

        The dead who were `rescued` stand.
        """
        kinds = np.zeros(len(ids), np.uint8)
        column = _column(ids)
        open_rows: Rows = np.arange(len(ids))
        if len(self._dead):
            dead = member_mask(self._dead, column)
            if dead.any():
                saved = set(rescued)
                dead = np.array([is_dead and ids[n].tobytes() not in saved for n, is_dead in enumerate(dead)], np.bool_)
                open_rows = np.flatnonzero(~dead)
        doubtful: list[Rows] = []
        for segment in self._pool.index.segments:
            if not len(open_rows):
                break
            found = segment.find_rows(ids[open_rows])
            hit = found >= 0
            if not hit.any():
                continue
            values = np.frombuffer(segment.values, np.uint32).reshape(-1, 4)[found[hit]]
            numbers = values[:, 0]
            good = ~self._shunned(segment)[numbers]
            places = open_rows[hit][good]
            kinds[places] = decode_kinds(values[good, 2]).astype(np.uint8)
            if told is not None:
                for number in np.unique(numbers[good]).tolist():
                    told(segment.pack_ids[number], ids[places[numbers[good] == number]].tobytes())
            doubtful.append(open_rows[hit][~good])
            open_rows = np.concatenate((open_rows[~hit], open_rows[hit][~good]))
        # Another copy may lie in the same segment, behind the one that was found.
        for place in np.unique(np.concatenate(doubtful)).tolist() if doubtful else ():
            if kinds[place] == NOTHING:
                identity = ids[place].tobytes()
                for location in self._pool.index.find_good(identity):
                    if location.pack_id not in self._condemned:
                        kinds[place] = location.kind
                        if told is not None:
                            told(location.pack_id, identity)
                        break
        return kinds

    def _shunned(self, segment: Segment) -> Mask:
        shunned = np.zeros(len(segment.pack_ids), np.bool_)
        shunned[list(segment.shunned)] = True
        if self._condemned:
            shunned |= np.array([pack_id in self._condemned for pack_id in segment.pack_ids], np.bool_)
        return shunned

    def is_whole(self, identity: bytes) -> bool:
        """Return whether a revision stands with its tree."""
        if self.kinds(as_ids(identity))[0] != objects.KIND_REVISION:
            return False
        try:
            below = list(objects.references(*self._pool.get_kind(identity)))
        except (NotFound, Damaged):  # collected since the index was looked at, or nothing to be relied on
            return False
        wanted = np.array([kind for kind, _ in below], np.uint8)
        return bool((self.kinds(as_ids(b"".join(each for _, each in below))) == wanted).all())


def as_ids(joined: bytes | bytearray) -> Ids:
    """Return joined ids as (n, 32)."""
    return np.frombuffer(bytes(joined), np.uint8).reshape(-1, OBJECT_ID_BYTES)


def _column(ids: Ids) -> npt.NDArray[np.bytes_]:
    return np.ascontiguousarray(ids).view(f"S{OBJECT_ID_BYTES}").reshape(-1)


@dataclass(slots=True, kw_only=True, eq=False)
class _Checked:
    """A pack whose every bit was checked."""

    file: UploadFile
    reader: PackReader
    ids: Ids
    kinds: Kinds
    named: Ids
    """What its directories and recipes name, once for each kind that it is named as."""
    named_kinds: Kinds


def check_pack(file: UploadFile, pool: Pool, pack_id: bytes, workers: Workers | None) -> _Checked:
    """Check everything about a pack that can be told from it alone. Damaged or Refused otherwise."""
    if file.size_bytes > ADOPTED_BYTES_MAX:
        raise Refused(f"{file.path}: {file.size_bytes} bytes: a pack of at most {ADOPTED_BYTES_MAX} is taken")
    reader = PackReader.open(file, pool.realm, trailer_bytes_max=ADOPTED_TRAILER_BYTES_MAX)
    path = file.path
    if reader.header.kind != pack.PACK_POOL:
        raise Refused(f"{path}: a dump, not a pool's pack: load it instead")
    if reader.header.note or reader.pack_id != pack_id:
        raise Damaged(f"{path}: holds pack {reader.pack_id.hex()}, not {pack_id.hex()}")
    if reader.object_count > PACK_OBJECTS_MAX or int(reader.raw.sum(dtype=np.uint64)) > ADOPTED_RAW_BYTES_MAX:
        raise Refused(f"{path}: more than {PACK_OBJECTS_MAX} objects or {ADOPTED_RAW_BYTES_MAX} bytes in one pack")
    _check_layout(reader)
    ids, values = reader.objects()
    column = _column(ids)
    if bool((column[:-1] >= column[1:]).any()):
        raise Damaged(f"{path}: the index is not in order")
    order = file_order(values)
    blocks = values[order, 0]
    count = int(np.count_nonzero(reader.types != pack.BLOCK_INDEX))
    if len(blocks) and int(blocks[-1]) >= count:
        raise Damaged(f"{path}: the index names block {int(blocks[-1])} of {count}")
    starts = np.searchsorted(blocks, np.arange(count + 1))
    tasks = [(number, order[starts[number] : starts[number + 1]]) for number in range(count)]
    check = partial(_check_block, reader, ids, values)
    if workers is None:
        named, named_kinds = _gather(map(check, tasks))
        findings = verify_digest(reader)
    else:
        digest = workers.submit(verify_digest, reader)
        named, named_kinds = _gather(workers.map_ordered(check, tasks))
        findings = digest.result()
    if findings:
        raise Damaged(findings[0])
    kinds = decode_kinds(values[:, 1]).astype(np.uint8)
    return _Checked(file=file, reader=reader, ids=ids, kinds=kinds, named=named, named_kinds=named_kinds)


def _check_layout(reader: PackReader) -> None:
    """Check that blocks lie end to end, records first, then the index: no byte is without a tag over it."""
    ends = reader.offsets.astype(np.int64) + reader.stored.astype(np.int64) + reader.frame_bytes
    starts = np.concatenate((reader.offsets.astype(np.int64), [reader.trailer_offset]))
    whole = int(starts[0]) == reader.header_end and bool((starts[1:] == ends).all())
    types = reader.types
    records = int(np.count_nonzero(types != pack.BLOCK_INDEX))
    known = np.isin(types[:records], (pack.BLOCK_METADATA, pack.BLOCK_DATA)).all()
    if not whole or not bool(known):
        raise Damaged(f"{reader.path}: its blocks do not lie end to end")


def _check_block(reader: PackReader, ids: Ids, values: Values, task: tuple[int, Rows]) -> bytes:
    """Check a block's records against the index and their ids; return what they name, each an id and a kind."""
    number, rows = task
    where = f"{reader.path}: block {number}"
    raw = reader.read_block(number)
    ids, values = ids[rows], values[rows]
    starts = decode_offsets(values[:, 1]).astype(np.int64)
    ends = starts + pack.RECORD.size + values[:, 2].astype(np.int64)
    kinds = decode_kinds(values[:, 1])
    block_type = int(reader.types[number])
    size = len(raw)
    if not len(rows) or starts[0] or ends[-1] != size or bool((ends[:-1] != starts[1:]).any()):
        raise Damaged(f"{where}: its records do not lie end to end")
    if size != int(reader.raw[number]):
        raise Damaged(f"{where}: the trailer gives it another size")
    heads = np.frombuffer(raw, np.uint8)[starts[:, None] + np.arange(pack.RECORD.size)]
    if (
        bool((heads[:, 0] != kinds).any())
        or bool((np.ascontiguousarray(heads[:, 2:6]).view("<u4").reshape(-1) != values[:, 2]).any())
        or bool((heads[:, 1] != values[:, 3]).any())
        or not np.array_equal(heads[:, 6:], ids)
    ):
        raise Damaged(f"{where}: the index disagrees with a record")
    if heads[:, 1].any():
        raise Refused(f"{where}: holds deltas: send whole objects")
    is_data = block_type == pack.BLOCK_DATA
    bytes_max = objects.OBJECT_BYTES_MAX if is_data else METADATA_BYTES_MAX
    if not bool(np.isin(kinds, _KINDS[is_data]).all()) or int(values[:, 2].max()) > bytes_max:
        raise Damaged(f"{where}: an object that does not belong there, or that is larger than it may be")
    view = memoryview(raw)
    identify = reader.realm.identify
    places = list(zip(kinds.tolist(), (starts + pack.RECORD.size).tolist(), ends.tolist(), strict=True))
    named = b"".join([identify(kind, view[start:end]) for kind, start, end in places])
    if named != ids.tobytes():
        wrong = int(np.flatnonzero((as_ids(named) != ids).any(axis=1))[0])
        raise Damaged(f"{where}: object {hex_short(ids[wrong].tobytes())}: its content and its id disagree")
    return b"" if is_data else _names_in(view, places, where)


_KINDS: Final = {
    True: (objects.KIND_CHUNK,),
    False: (objects.KIND_RECIPE, objects.KIND_DIRECTORY, objects.KIND_REVISION),
}


def _names_in(view: memoryview, places: Sequence[tuple[int, int, int]], where: str) -> bytes:
    """Return what the directories and recipes in a block name, each an id and a kind, and none twice."""
    names: dict[bytes, None] = {}
    for kind, start, end in places:
        for each, identity in objects.references(kind, bytes(view[start:end])):
            if len(identity) != OBJECT_ID_BYTES:
                raise Damaged(f"{where}: an object names something by an id of another length")
            if kind != objects.KIND_REVISION:
                names[identity + bytes((each,))] = None
    return b"".join(names)


def _gather(found: Iterable[bytes]) -> tuple[Ids, Kinds]:
    """Return all pairs of id and kind, none twice, sorted by id. What is named again and again takes no room."""
    joined = bytearray()
    room = NAMES_BYTES
    for pairs in found:
        joined += pairs
        if len(joined) > room:
            joined = bytearray(_unique(joined))
            room = max(NAMES_BYTES, 2 * len(joined))
    rows = np.frombuffer(_unique(joined), np.uint8).reshape(-1, OBJECT_ID_BYTES + 1)
    return np.ascontiguousarray(rows[:, :OBJECT_ID_BYTES]), rows[:, OBJECT_ID_BYTES].copy()


def _unique(pairs: bytearray) -> bytes:
    # The last byte is a kind and never zero: numpy would take zeros from the end.
    return np.unique(np.frombuffer(bytes(pairs), f"S{OBJECT_ID_BYTES + 1}")).tobytes()


def _each_once(ids: bytes, kinds: bytes) -> tuple[Ids, Kinds]:
    """Return pairs of id and kind without repetitions, sorted by id."""
    pairs = np.empty((len(kinds), OBJECT_ID_BYTES + 1), np.uint8)
    pairs[:, :OBJECT_ID_BYTES] = as_ids(ids)
    pairs[:, OBJECT_ID_BYTES] = np.frombuffer(kinds, np.uint8)
    _, first = np.unique(pairs.view(f"S{OBJECT_ID_BYTES + 1}").reshape(-1), return_index=True)
    return pairs[first, :OBJECT_ID_BYTES], pairs[first, OBJECT_ID_BYTES]


class Adopter(PoolWriter):
    """A pool's writer that takes whole packs, and relies on many objects at a time."""

    def stand(self, ids: Ids) -> Kinds:
        """Return the kinds of objects that stand, NOTHING for the others, and rely on those that do."""
        return Standing(self.pool, condemned=self._condemned, dead=self._dead).kinds(
            ids, rescued=self._rescued, told=self._note
        )

    def _note(self, pack_id: PackId, ids: bytes) -> None:
        self._relied.setdefault(pack_id, bytearray()).extend(ids)

    def save(self, ids: Sequence[bytes]) -> None:
        """Make objects stand, with all that they name, that are here but do not stand: store them once more."""
        # Most likely another process collected, and what lay in a pack that is condemned lies in a new one, too.
        self.pool.refresh()
        try:
            self._rescue(list(ids))
        except Conflict as error:
            raise NotFound(str(error)) from None

    def require_whole(self, identity: bytes) -> objects.Revision:
        """Return a revision that stands, or that can be made stand, with its tree; NotFound otherwise."""
        try:
            kind, payload = self.pool.get_kind(identity)
        except NotFound:
            raise NotFound(f"revision {hex_short(identity)} is not here: send it first") from None
        if kind != objects.KIND_REVISION:
            raise Refused(f"object {hex_short(identity)} is no revision")
        below = list(objects.references(kind, payload))
        wanted = np.array([objects.KIND_REVISION, *(each for each, _ in below)], np.uint8)
        ids = identity + b"".join(each for _, each in below)
        found = self.stand(as_ids(ids))
        lacking = np.flatnonzero(found == NOTHING).tolist()
        if lacking:
            try:
                self.save([ids[n * OBJECT_ID_BYTES : (n + 1) * OBJECT_ID_BYTES] for n in lacking])
            except NotFound:
                raise NotFound(f"revision {hex_short(identity)} is not here whole: send what is missing") from None
            self.flush()
            found = self.stand(as_ids(ids))
        if not np.array_equal(found, wanted):
            raise Damaged(f"revision {hex_short(identity)} names an object that is of another kind")
        return objects.decode_revision(payload)

    def commit_guard(self) -> None:
        """Make sure that everything stored or relied on will stay; dead objects that were stored again live again."""
        super().commit_guard()
        again = self._rescued.intersection(_split(self.pool.read_dead_objects())) if self._rescued else None
        if not again:
            return
        with self.pool.backend.lock(COLLECT_LOCK) as lock:
            # A collection that is running decides by itself; until the next one they are only stored more than once.
            if lock.acquire(wait=False):
                dead = [identity for identity in _split(self.pool.read_dead_objects()) if identity not in again]
                self.pool.backend.put(DEAD_OBJECTS, b"".join(dead))
                self._read_shunned()

    def adopt(self, files: Sequence[tuple[PackId, UploadFile]]) -> None:
        """Check packs that lie beside the pool, whose locks the caller holds, and make them part of it.

        They are gone from their places afterwards. After Damaged, Refused, TooNew or NoAccess the pack that is to blame
        is gone and nothing has changed in the pool, as with NotFound: something is missing that may still come.
        """
        checked = []
        for pack_id, file in files:
            try:
                each = check_pack(file, self.pool, pack_id, self._workers)
                self._drop_standing(each)
            except (Damaged, Refused, TooNew, NoAccess):
                file.remove()
                raise
            checked.append(each)
        wanted = [each for each in checked if bool((self.stand(each.ids) == NOTHING).any())]
        self._find_named(wanted)
        # What is relied on must be there until the packs have their names; the guard after that is for good.
        self.commit_guard()
        added: list[tuple[PackId, Ids, Values]] = []
        for group in _in_order(wanted):
            added.append(self._place(group[0]) if len(group) == 1 and self._fits(group[0]) else self._join(group))
        if self._dead_data:
            for each in wanted:
                self._rescued.update(each.ids[n].tobytes() for n in np.flatnonzero(_among(self._dead, each.ids)))
        if added:
            with self.pool._refresh_lock:
                self.pool.index.add_segment(added)
            self._own_packs += [pack_id for pack_id, _, _ in added]
            self.objects_added += sum(len(ids) for _, ids, _ in added)
        self.commit_guard()
        for each in checked:
            if each not in wanted:
                each.file.remove()

    def _drop_standing(self, checked: _Checked) -> None:
        """Rely on what stands of all that a pack names, and remember only the rest: most of a large volume stands."""
        found = self.stand(checked.named)
        self._require_kinds(checked, found, found != NOTHING)
        left = found == NOTHING
        checked.named, checked.named_kinds = checked.named[left], checked.named_kinds[left]

    def _require_kinds(self, checked: _Checked, found: Kinds, known: Mask) -> None:
        wrong = np.flatnonzero(known & (found != checked.named_kinds)).tolist()
        if wrong:
            name = hex_short(checked.named[wrong[0]].tobytes())
            raise Damaged(f"{checked.file.path}: an object in it names {name}, which is of another kind")

    def _find_named(self, checked: list[_Checked]) -> None:
        """Check that everything named comes along or stands, as what it is named as."""
        if not checked:
            return
        ids, kinds = _each_once(
            b"".join(each.ids.tobytes() for each in checked), b"".join(each.kinds.tobytes() for each in checked)
        )
        for each in checked:
            rows = _rows_in(ids, each.named)
            here = rows >= 0
            found = np.zeros(len(rows), np.uint8)
            found[here] = kinds[rows[here]]
            lacking = np.flatnonzero(found == NOTHING).tolist()
            if lacking:
                # Here, perhaps, but condemned or among the dead: storing it again shows whether it is whole.
                try:
                    self.save([each.named[n].tobytes() for n in lacking])
                except NotFound as error:
                    raise NotFound(f"{each.file.path} names what is neither sent nor here: {error}") from None
                self.flush()
                found[lacking] = self.stand(each.named[lacking])
            try:
                self._require_kinds(each, found, np.ones(len(found), np.bool_))
            except Damaged:
                each.file.remove()
                raise

    def _fits(self, each: _Checked) -> bool:
        """Tell whether a pack can be taken as it is: sealed as this pool's are, and under its own name."""
        sealed = each.reader.header.seal != pack.SEAL_NONE
        backend, name = self.pool.backend, pack_name(each.reader.pack_id)
        is_free = not backend.has(name) or backend.has_taken(name, each.file)
        return sealed == (self.pool.encryption != "none") and is_free

    def _place(self, each: _Checked) -> tuple[PackId, Ids, Values]:
        pack_id = PackId(each.reader.pack_id)
        self.pool.backend.take(pack_name(pack_id), each.file)
        self.bytes_stored += each.reader.size_bytes
        return (pack_id, *each.reader.objects())

    def _join(self, group: list[_Checked]) -> tuple[PackId, Ids, Values]:
        """Make one pack of several: their blocks are copied as they are."""
        sealed = self.pool.encryption != "none"
        header = new_header(self.pool.realm, kind=pack.PACK_POOL, sealed=sealed, stays=True)
        pack_id = PackId(header[0].pack_id)
        file = self.pool.backend.writer(pack_name(pack_id))
        try:
            with PackWriter(file.write, realm=self.pool.realm, header=header, workers=self._workers) as writer:
                copied: SortedIds = as_sorted_ids(b"")
                for each in group:
                    ids, values = each.reader.objects()
                    marked = ~member_mask(copied, _column(ids))
                    copied = as_sorted_ids(bytearray(copied.tobytes() + ids[marked].tobytes()))
                    copy_marked(
                        each.reader,
                        writer,
                        ids=ids,
                        values=values,
                        marked=marked,
                        fetch=each.reader.get_kind,
                        progress=_nobody,
                    )
                    writer.drain()
                summary = writer.finish()
            file.commit()
        except BaseException:
            file.abandon()
            raise
        self.bytes_stored += summary.size_bytes
        for each in group:
            each.file.remove()
        return (pack_id, *(summary.columns or self.pool._read_columns(pack_id)))


def _split(ids: bytes) -> list[bytes]:
    return [ids[at : at + OBJECT_ID_BYTES] for at in range(0, len(ids), OBJECT_ID_BYTES)]


def _nobody(copied: int) -> None:
    pass


def _among(column: SortedIds, ids: Ids) -> Mask:
    return member_mask(column, _column(ids))


def _rows_in(ids: Ids, wanted: Ids) -> Rows:
    """Return the places of `wanted` in sorted `ids`, -1 for those that are not there."""
    if not len(ids):
        return np.full(len(wanted), -1, np.intp)
    column, sought = _column(ids), _column(wanted)
    rows = np.searchsorted(column, sought)
    rows[rows == len(column)] = 0
    rows[column[rows] != sought] = -1
    return rows


def _in_order(checked: list[_Checked]) -> list[list[_Checked]]:
    """Return the packs so that each comes after those that hold what it names; those that need each other together."""
    count = len(checked)
    needs = np.eye(count, dtype=np.bool_)
    if count > 1:
        for a, each in enumerate(checked):
            left = each.named[_rows_in(each.ids, each.named) < 0]
            for b, other in enumerate(checked):
                needs[a, b] |= bool((_rows_in(other.ids, left) >= 0).any())
    for middle in range(count):
        needs |= needs[:, middle : middle + 1] & needs[middle]
    groups: dict[bytes, list[int]] = {}
    for number in range(count):
        groups.setdefault((needs[number] & needs[:, number]).tobytes(), []).append(number)
    ordered = sorted(groups.values(), key=lambda group: int(needs[group[0]].sum()))
    return [[checked[number] for number in group] for group in ordered]
