"""Read a volume's objects from whichever of its servers has them; what a merge makes lies beside until it is sent."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from dalsegno.chunks.realm import Realm
from dalsegno.formats import objects, pack
from dalsegno.formats.object_rows import read_rows, row_ids, row_kinds, row_lengths
from dalsegno.formats.objects import Reference, references
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.pool.sources import first_of
from dalsegno.replicas.contract import BATCH_IDS_MAX, Site
from dalsegno.replicas.transfer import Spool, cut_groups, fetch
from dalsegno.terms.errors import Damaged, NotFound
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.terms.sizes import MIB
from dalsegno.trees.closure import visit_reachable
from dalsegno.volumes.state import VolumeState
from dalsegno.world.workers import new_lock

RECORDS_CACHED_BYTES_MAX: Final = 32 * MIB
STEPS_ALONE_MAX: Final = 24
"""Blocks asked for one by one before all revisions are fetched at once."""


class SitesSource:
    """A Source: the objects of one volume, from the first of several sites that has them, each checked by its id."""

    def __init__(self, volume: str, sites: Sequence[Site], realm: Realm) -> None:
        self._volume = volume
        self._sites = list(sites)
        self._realm = realm
        self._lock = new_lock()
        self._records: OrderedDict[bytes, tuple[int, bytes]] = OrderedDict()
        self._size = 0
        self._revisions: dict[bytes, bytes] = {}
        self._blocks_read = 0
        self.bytes_crossed = 0
        self.load_more: Callable[[], None] | None = None
        """Called once when many blocks have been asked for one by one: what is wanted is a long history."""

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object."""
        return self.get_kind(identity)[1]

    def get_kind(self, identity: bytes) -> tuple[int, bytes]:
        """Return kind and payload of an object."""
        known = self._revisions.get(identity)
        if known is not None:
            return objects.KIND_REVISION, known
        with self._lock:
            record = self._records.get(identity)
            if record is not None:
                self._records.move_to_end(identity)
        if record is not None and self._realm.identify(*record) == identity:
            return record
        return self._read(identity)

    def _read(self, identity: bytes) -> tuple[int, bytes]:
        self._blocks_read += 1
        if self._blocks_read > STEPS_ALONE_MAX and self.load_more is not None:
            load, self.load_more = self.load_more, None
            load()
            if identity in self._revisions:
                return objects.KIND_REVISION, self._revisions[identity]
        return first_of(
            self._sites,
            lambda site: self._read_from(site, identity),
            absent=lambda: NotFound(f"object {hex_short(identity)}: on none of the servers that answer"),
        )

    def _read_from(self, site: Site, identity: bytes) -> tuple[int, bytes]:
        found: tuple[int, bytes] | None = None
        for kind, name, payload in site.block(self._volume, ObjectId(identity)):
            self.bytes_crossed += len(payload)
            if name == identity and self._realm.identify(kind, payload) == identity:
                found = kind, payload
            self._put_record(name, kind, payload)
        if found is None:
            raise Damaged(f"{site.name}: object {hex_short(identity)}: its content and its id disagree")
        return found

    def _put_record(self, identity: bytes, kind: int, payload: bytes) -> None:
        if kind == objects.KIND_REVISION and self._realm.identify(kind, payload) == identity:
            self._revisions[identity] = payload
            return
        with self._lock:
            self._size += len(payload) - len(self._records.pop(identity, (0, b""))[1])
            self._records[identity] = kind, payload
            while self._size > RECORDS_CACHED_BYTES_MAX and len(self._records) > 1:
                self._size -= len(self._records.popitem(last=False)[1][1])

    def load_revisions(self, site: Site, state: VolumeState) -> None:
        """Fetch at once the revisions between a site's head and what all writers have in common."""
        if not state.head or not state.common or state.head == state.common:
            return
        for rows in read_rows(site.missing(self._volume, [state.head], [state.common]), of=site.name):
            chosen = rows[row_kinds(rows) == objects.KIND_REVISION]
            for group in cut_groups(iter([chosen])):
                with fetch(site, self._volume, row_ids(group), payload_bytes=int(row_lengths(group).sum())) as spool:
                    self.bytes_crossed += spool.size_bytes
                    for identity, kind, payload in unpack(spool, self._realm):
                        self._put_record(identity, kind, payload)


def unpack(spool: Spool, realm: Realm) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield id, kind and payload of every object of a pack, as its index names them; ids are not checked."""
    reader = PackReader(spool, realm)
    ids, _ = reader.objects()
    for row in range(len(ids)):
        identity = ids[row].tobytes()
        kind, payload = reader.get_kind(identity)
        yield identity, kind, payload


class Workbench:
    """A Source and a Sink: reads from the sites, keeps what is put beside them, and packs it to be sent."""

    def __init__(self, source: SitesSource, realm: Realm) -> None:
        self._source = source
        self._realm = realm
        self._spool = Spool()
        self._places: dict[bytes, tuple[int, int, int]] = {}
        """Id: kind, offset and length."""

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object."""
        place = self._places.get(identity)
        if place is None:
            return self._source.get(identity)
        return self._spool.read_at(place[1], place[2])

    def put(self, kind: int, payload: bytes, /) -> ObjectId:
        """Keep an object and return its id."""
        identity = self._realm.identify(kind, payload)
        if identity not in self._places:
            self._places[identity] = kind, self._spool.size_bytes, len(payload)
            self._spool.write(bytes(payload))
        return identity

    def has(self, identity: ObjectId, /) -> bool:
        """Tell whether an object was put here."""
        return identity in self._places

    def pack(self, tops: Sequence[bytes]) -> tuple[Spool, list[Reference]]:
        """Return a pack of what the revisions `tops` reach here, and what that names which is not here."""
        outside: dict[Reference, None] = {}

        def visit(kind: int, identity: bytes) -> bool:
            if identity not in self._places:
                outside[kind, identity] = None
                return False
            if identity in wanted:
                return False
            wanted[identity] = None
            return True

        wanted: dict[bytes, None] = {}
        visit_reachable(self, [(objects.KIND_REVISION, top) for top in tops], visit)
        return self.write_pack(list(wanted)), list(outside)

    def write_pack(self, ids: Sequence[bytes]) -> Spool:
        """Return a pack of these objects, wherever they are."""
        spool = Spool()
        header = new_header(self._realm, kind=pack.PACK_POOL, sealed=True)
        with PackWriter(spool.write, realm=self._realm, header=header) as writer:
            for identity in ids:
                writer.put(*self._kind_first(identity))
            writer.finish()
        return spool

    def _kind_first(self, identity: bytes) -> tuple[int, bytes, bytes]:
        place = self._places.get(identity)
        if place is not None:
            return place[0], identity, self._spool.read_at(place[1], place[2])
        kind, payload = self._source.get_kind(identity)
        return kind, identity, payload

    def pack_absent(self, to: Site, volume: str, tops: Sequence[Reference]) -> Spool | None:
        """Return a pack of what is below `tops`, these included, and not at `to`; None when all is there."""
        wanted: dict[bytes, None] = {}
        level = list(dict.fromkeys(tops))
        while level:
            below: dict[Reference, None] = {}
            for start in range(0, len(level), BATCH_IDS_MAX):
                batch = level[start : start + BATCH_IDS_MAX]
                answer = to.have(volume, b"".join(identity for _, identity in batch))
                for (kind, identity), there in zip(batch, answer, strict=True):
                    if there or identity in wanted:
                        continue
                    wanted[identity] = None
                    if kind != objects.KIND_CHUNK:
                        payload = self.get(ObjectId(identity))
                        below.update((reference, None) for reference in references(kind, payload))
            level = list(below)
        return self.write_pack(list(wanted)) if wanted else None

    def close(self) -> None:
        """Give the room back."""
        self._spool.close()
