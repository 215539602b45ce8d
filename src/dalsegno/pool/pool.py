"""A pool: packs, the index over them, and refs. The ref is the only commit point.

    pool.toml            settings and, for some encryptions, the secret (keys.py)
    packs/ab/<id>.pack   objects
    refs/<name>          small values, sealed, changed by compare-and-swap
    index/               local, made again from packs when lost (index.py)
    condemned/<id>       packs that a collection found dead, with the time; deleted after a grace period (collect.py)
    condemned/objects    ids of dead directories, recipes and revisions that stay behind in kept packs
    damaged/             what was lost, and what rests on it (damage.py)
    writers.lock         held shared by writers, exclusively by a collection without grace
    reserve              room for what makes room on a full disk (backends/reserve.py)

Order of writing: blocks, pack durable under its name, index, ref. Deletion goes the other way round.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np

from dalsegno.backends.address import open_backend
from dalsegno.backends.contract import Backend, BackendWriter, Entry, Lock
from dalsegno.chunks.realm import Realm
from dalsegno.formats import pack
from dalsegno.formats.objects import references
from dalsegno.formats.pack_records import apply_delta, split_records, view_record
from dalsegno.pool.blocks import POOL_BLOCKS_BYTES_MAX, Blocks
from dalsegno.pool.damage import PackDamage, find_unsound, summary
from dalsegno.pool.generations import HOLDERS_LOCK
from dalsegno.pool.id_sets import as_sorted_ids, member_mask
from dalsegno.pool.index import Ids, Index, Values
from dalsegno.pool.index_rows import ROWS_IN_MEMORY_MAX
from dalsegno.pool.keys import Opened, create_pool_settings, open_pool_settings
from dalsegno.pool.losses import Losses
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pack_verify import verify
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.pool.settings import (
    SETTINGS_BYTES_MAX,
    SETTINGS_NAME,
    Holder,
    KdfCost,
    PoolSettings,
    decode_settings,
    encode_settings,
    not_genuine,
)
from dalsegno.pool.swaps import update_value
from dalsegno.terms.errors import (
    AlreadyThere,
    BadInput,
    Conflict,
    DalError,
    Damaged,
    Lost,
    NoAccess,
    NotFound,
    Refused,
    Unavailable,
)
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId, PackId, hex_short
from dalsegno.terms.sizes import MIB
from dalsegno.terms.times import show_time
from dalsegno.world.errands import GivenUp
from dalsegno.world.workers import Workers, new_lock

PACK_BYTES_TARGET: Final = 64 * MIB
RESERVE_LARGE_FROM: Final = 16 * MIB
"""From so many bytes in packs on a pool has a large reserve."""
PACK_OBJECTS_MAX: Final = 100_000
assert PACK_OBJECTS_MAX < ROWS_IN_MEMORY_MAX
READERS_OPEN_MAX: Final = 256
READERS_RETIRED_MAX: Final = 64
"""Readers put aside stay open a while, for threads that still read from them."""
RESCUE_ROUNDS_MAX: Final = 10
PACKS: Final = "packs"
REFS: Final = "refs/"
CONDEMNED: Final = "condemned"
DEAD_OBJECTS: Final = "condemned/objects"
PACK_SUFFIX: Final = ".pack"
WRITERS_LOCK: Final = "writers"
"""Held shared by writers, and by a collection without grace alone."""
COLLECT_LOCK: Final = "collect"
"""Held by whoever collects, or changes the list of dead objects."""

_REF_2: Final = b"dalsegno ref 2\0"


def pack_name(pack_id: bytes) -> str:
    """Return the name of a pack in its backend."""
    digits = pack_id.hex()
    return f"{PACKS}/{digits[:2]}/{digits}{PACK_SUFFIX}"


def pack_id_of(name: str) -> PackId | None:
    """Return the pack whose name in a backend this is, or None."""
    try:
        pack_id = PackId(bytes.fromhex(name.rpartition("/")[2].removesuffix(PACK_SUFFIX)))
    except ValueError:
        return None
    return pack_id if pack_name(pack_id) == name else None


def _ref_context(pool_id: bytes, name: str) -> bytes:
    """Return what a ref is sealed with: neither another pool's nor another name's can stand in its place."""
    return _REF_2 + pool_id + name.encode()


class Elsewhere(Protocol):
    """Another place with objects of the realm."""

    def get_kind(self, identity: bytes, /) -> tuple[int, bytes]:
        """Return kind and payload of an object, checked by its id; NotFound, or Unavailable: it may be there."""
        ...


class Pool:
    """Objects by id and refs by name, in one place. May be used from several threads and processes at once."""

    def __init__(
        self,
        backend: Backend,
        settings: PoolSettings,
        realm: Realm,
        key_path: Path | None,
        holder: str | None = None,
        *,
        reopen: Callable[[], Opened] | None = None,
    ) -> None:
        """`reopen` opens the pool's key again, without asking anybody, when it was changed."""
        self.backend = backend
        self.realm = realm
        self.settings = settings
        """As they were when the key was looked at last."""
        self.is_key_ahead = False
        """Whether the key that opened the pool is newer than the pool's own."""
        self.passphrase: str | None = None
        """What opened the pool, when that was one: to let its holder in again when the key is changed."""
        self._reopen = reopen
        self._settings_data = b""
        """pool.toml as it was when the key was looked at last; empty before the first time."""
        self.pool_id = settings.pool_id
        self.encryption = settings.encryption
        self.holder = holder
        """Who opened the pool: the name of one of `holders`; None for an exported key, or when nothing is encrypted."""
        self.key_path = key_path
        self.elsewhere: Elsewhere | None = None
        """Where an object is read from that is not here: of a pool that is only a part of others."""
        self.damaged_packs: dict[PackId, DalError] = {}
        """Packs whose index could not be read when the pool was opened: the rest stays usable."""
        self._lock = new_lock()
        self._key_lock = new_lock()
        self._refresh_lock = new_lock()
        self._readers: OrderedDict[PackId, PackReader] = OrderedDict()
        self._retired: deque[PackReader] = deque()
        self._blocks = Blocks(POOL_BLOCKS_BYTES_MAX)
        self.losses = Losses(backend)
        """What is known to be lost, as of the last refresh."""
        self.index = Index(
            backend.scratch("index"),
            backend=backend,
            list_packs=self.list_packs,
            read_pack=self._read_columns,
            settle_packs=lambda packs: self.backend.settle(map(pack_name, packs)),
            report_damage=self._note_unopened,
            report_lost=self._note_lost,
            report_remade=self.losses.note_index_remade,
        )
        self.losses.attach(self.index)
        self.index.refresh()

    @classmethod
    def create(
        cls,
        place: Path | str | Backend,
        *,
        encryption: str,
        passphrase: str | None = None,
        key_path: Path | None = None,
        realm: Realm | None = None,
        cost: KdfCost | None = None,
    ) -> "Pool":
        """Make a pool at a place, which must be absent or empty; `realm` makes it a pool of the same realm."""
        backend = open_backend(place)
        if backend.has(SETTINGS_NAME):
            raise AlreadyThere(f"{backend}: there is a pool already")
        if next(backend.list(PACKS + "/"), None) is not None:
            raise Damaged(f"{backend}: packs without {SETTINGS_NAME}; put back your copy of that file")
        backend.require_free({PACKS, "refs", "index", CONDEMNED})
        settings, realm, used_key_path = create_pool_settings(
            place=backend.directory or backend.place,
            encryption=encryption,
            passphrase=passphrase,
            key_path=key_path,
            realm=realm,
            cost=cost or KdfCost(),
        )
        backend.prepare([PACKS + "/", REFS, "index/", CONDEMNED + "/"])
        # Last, because a directory becomes a pool by it; the secret of an open pool is for its owner's group at most.
        mode = 0o640 if encryption == "none" else 0o644
        backend.create(SETTINGS_NAME, encode_settings(settings, realm.secret), mode=mode)
        backend.keep_reserve()

        def open_key() -> Opened:
            ask = None if passphrase is None else lambda: passphrase
            return open_pool_settings(backend, passphrase=ask, key_path=used_key_path)

        return cls(backend, settings, realm, used_key_path, reopen=open_key)

    @classmethod
    def open(
        cls,
        place: Path | str | Backend,
        *,
        passphrase: Callable[[], str] | None = None,
        key_path: Path | None = None,
        is_sealed: bool = False,
        check: Callable[[PoolSettings], None] | None = None,
    ) -> "Pool":
        """Open the pool at a place. NotFound, NoAccess, Damaged or TooNew say what is wrong.

        `is_sealed` and `check` are those of `open_pool_settings`.
        """
        backend = open_backend(place)
        asked: list[str] = []

        def ask() -> str:
            assert passphrase is not None
            if not asked:
                asked.append(passphrase())
            return asked[0]

        def open_key(check: Callable[[PoolSettings], None] | None = None) -> Opened:
            ask_once = ask if passphrase is not None else None
            return open_pool_settings(backend, passphrase=ask_once, key_path=key_path, is_sealed=is_sealed, check=check)

        opened = open_key(check)
        pool = cls(backend, opened.settings, opened.realm, opened.key_path, opened.holder, reopen=open_key)
        pool.is_key_ahead = opened.is_key_ahead
        pool.passphrase = asked[0] if asked and opened.key_path is None else None
        return pool

    def close(self) -> None:
        """Give back files."""
        with self._lock:
            for reader in (*self._readers.values(), *self._retired):
                reader.close()
            self._readers.clear()
            self._retired.clear()
            self._blocks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The key

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Who holds the pool's key."""
        return self.settings.holders

    def renew_key(self) -> None:
        """Go on with the pool's key as it is now; costs the reading of a small value, mostly.

        Refused when it was changed and does not open with what opened the pool, or is an older one than before.
        """
        if self.encryption == "none" or self._reopen is None:
            return
        if self._read_settings() == self._settings_data:
            return
        with self._key_lock:
            data = self._read_settings()
            settings = decode_settings(data, Path(self.backend.where(SETTINGS_NAME)))
            if settings.generation < self.settings.generation or settings.realm_id != self.realm.realm_id:
                where = self.backend.where(SETTINGS_NAME)
                raise Refused(f"{where}: another one was put there, with an older key: put it back")
            if not self.realm.only_writes:
                if settings.generation > self.realm.generation:
                    settings = self._take_changed_key(settings)  # as they are by then, and genuine
                elif not settings.is_genuine(self.realm.secret):
                    raise Damaged(not_genuine(self.backend))
            self.settings = settings
            self._settings_data = data

    def _read_settings(self) -> bytes:
        return self.backend.read(SETTINGS_NAME, 0, SETTINGS_BYTES_MAX + 1)

    def _take_changed_key(self, settings: PoolSettings) -> PoolSettings:
        assert self._reopen is not None
        try:
            opened = self._reopen()
            self.realm.take(opened.realm)
        except (NoAccess, BadInput, NotFound) as error:
            raise Refused(
                f"{self.backend}: its key was changed on {show_time(settings.changed_ns)}, after this began: begin "
                f"again, with the new one ({error})"
            ) from None
        return opened.settings

    def measure_generations(self) -> dict[int, tuple[int, int]]:
        """Return for each generation of the key how many packs are under it, and their bytes; reads all headers."""
        found: dict[int, tuple[int, int]] = {}
        for pack_id in self.list_packs():
            try:
                with self.open_pack(pack_id) as reader:
                    count, size = found.get(reader.generation, (0, 0))
                    found[reader.generation] = count + 1, size + reader.size_bytes
            except (NotFound, Damaged, NoAccess):
                continue  # collected meanwhile, or told by whoever looks for damage
        return found

    def reseal_refs(self) -> list[str]:
        """Seal every ref anew with the newest secret; return the names of those that cannot be opened."""
        damaged = []
        for name in self.list_refs():
            try:
                while (value := self.get_ref(name)) is not None and not self.swap_ref(name, value, value):
                    pass
            except Damaged:
                damaged.append(name)
        return damaged

    @contextmanager
    def _sealing(self) -> Iterator[None]:
        """Keep the key as it is while a ref is sealed and written: none is ever written that others cannot read."""
        if self.encryption == "none" or self._reopen is None:
            yield
            return
        with self.backend.lock(HOLDERS_LOCK) as lock:
            # Not shared: swaps take turns anyway, and those who change the key would wait for a gap between them.
            lock.acquire()
            self.renew_key()
            yield

    # Packs

    @property
    def place(self) -> str:
        """What a user calls the pool's place."""
        return self.backend.place

    def where_pack(self, pack_id: bytes) -> str:
        """Return what to call a pack in a message."""
        return self.backend.where(pack_name(pack_id))

    def has_pack(self, pack_id: bytes) -> bool:
        """Return whether a pack is there now."""
        return self.backend.has(pack_name(pack_id))

    def pack_status(self, pack_id: bytes) -> Entry:
        """Return size and age of a pack; NotFound."""
        return self.backend.status(pack_name(pack_id))

    def pack_size(self, pack_id: bytes) -> int | None:
        """Return the bytes of a pack, or None when it is not there."""
        try:
            return self.pack_status(pack_id).size_bytes
        except NotFound:
            return None

    def list_packs(self) -> set[PackId]:
        """Return the packs that are there now."""
        found = map(pack_id_of, self.backend.list(PACKS + "/"))
        return {pack_id for pack_id in found if pack_id is not None}

    def pack_entries(self) -> dict[PackId, Entry]:
        """Return the packs that are there now, with size and age: one listing."""
        found = ((pack_id_of(entry.name), entry) for entry in self.backend.entries(PACKS + "/"))
        return {pack_id: entry for pack_id, entry in found if pack_id is not None}

    def open_pack(self, pack_id: bytes) -> PackReader:
        """Open a pack apart from those that `get` keeps open; the caller closes it."""
        reader = PackReader.open(self.backend.open(pack_name(pack_id)), self.realm)
        if reader.pack_id != pack_id:
            found = reader.pack_id
            reader.close()
            where = self.where_pack(pack_id)
            raise Damaged(f"{where}: holds pack {hex_short(found)}: renamed by somebody; give it back its name")
        return reader

    def _read_columns(self, pack_id: PackId) -> tuple[Ids, Values]:
        reader = self.open_pack(pack_id)
        try:
            return reader.objects()
        finally:
            reader.close()

    def _note_unopened(self, pack_id: PackId, error: DalError) -> None:
        self.damaged_packs[pack_id] = error

    # What is lost

    def _note_lost(self, lost: set[PackId]) -> None:
        if not self.backend.was_used(PACKS + "/"):
            raise Damaged(f"{self.backend.where(PACKS)}: none of the pool's packs is there: is their disk mounted?")
        for pack_id in lost:
            self.losses.set(pack_id, PackDamage(lost=True))

    def look_at_pack(self, pack_id: PackId) -> None:
        """Read all of a pack in which something was wrong, and note what."""
        try:
            with self.open_pack(pack_id) as reader:
                for _ in verify(reader):
                    pass
                self.losses.set(pack_id, PackDamage(blocks=frozenset(reader.damaged_blocks)))
        except Damaged:
            self.losses.note_block(pack_id, None)

    def read_unsound(self) -> bytes:
        """Return the joined ids of directories and recipes that rest on something lost, as far as it was looked at."""
        return self.losses.read_unsound()[1]

    @property
    def is_damage_new(self) -> bool:
        """Whether something is lost of which nobody has looked yet what rests on it."""
        # Of a pool that is only a part of others, what is missing may be with them.
        notes = self.losses.notes
        return bool(notes) and self.elsewhere is None and self.losses.read_unsound()[0] != notes.digest()

    def look_for_unsound(self, *, is_collecting: bool = False) -> bytes:
        """Find what rests on something lost, so that nobody relies on it, and return the ids.

        Every directory is read once. A collection holds its lock already.
        """
        with self.backend.lock(COLLECT_LOCK) as lock:
            if not is_collecting:
                lock.acquire()
            self.refresh()
            while True:
                known = self.losses.notes
                packs = self.index.packs_on_disk.difference(self.read_condemned())
                found = find_unsound(self.index, self._open_packs(packs), report_damage=self.losses.note_block)
                if self.losses.notes == known:  # else look-ups gave answers that do not hold any more
                    break
            column = np.frombuffer(found, f"S{OBJECT_ID_BYTES}")
            found = column[~member_mask(as_sorted_ids(self.read_dead_objects()), column)].tobytes()
            self.losses.write_unsound(found)
            return found

    def _open_packs(self, pack_ids: Iterable[PackId]) -> Iterator[tuple[PackId, PackReader]]:
        for pack_id in sorted(pack_ids):
            try:
                reader = self.open_pack(pack_id)
            except NotFound:
                continue
            except Damaged:
                self.losses.note_block(pack_id, None)
                continue
            with reader:
                yield pack_id, reader

    def read_shunned_objects(self) -> bytes:
        """Return the joined ids of objects on which nobody may rely: the dead and the unsound."""
        return self.read_dead_objects() + self.read_unsound()

    def _reader(self, pack_id: PackId) -> PackReader:
        with self._lock:
            reader = self._readers.get(pack_id)
            if reader is not None:
                self._readers.move_to_end(pack_id)
                return reader
        opened = self.open_pack(pack_id)
        with self._lock:
            reader = self._readers.setdefault(pack_id, opened)
            if reader is not opened:
                opened.close()
            if len(self._readers) > READERS_OPEN_MAX:
                self._retired.append(self._readers.popitem(last=False)[1])
                if len(self._retired) > READERS_RETIRED_MAX:
                    self._retired.popleft().close()
            return reader

    def _block(self, pack_id: PackId, block_index: int) -> bytes:
        return self._blocks.get(self._reader(pack_id), block_index)

    def _block_or_note(self, pack_id: PackId, block_index: int) -> bytes:
        """Return a raw block; when it cannot be read, say so in a note, for the next backup to heal."""
        try:
            reader = self._reader(pack_id)
        except Damaged:
            self.losses.note_block(pack_id, None)
            raise
        try:
            return self._blocks.get(reader, block_index)
        except Damaged:
            if block_index < reader.block_count:  # else it is the index that is wrong
                self.losses.note_block(pack_id, block_index)
            raise

    def read_ahead(self, workers: Workers | None) -> None:
        """Let `workers` open the next blocks of packs that are read in order; None, before they end, ends it."""
        self._blocks.read_ahead(workers)

    def _forget_pack(self, pack_id: PackId) -> None:
        with self._lock:
            reader = self._readers.pop(pack_id, None)
            if reader is not None:
                self._retired.append(reader)

    # Objects

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object of any kind; NotFound, or Damaged naming pack and offset."""
        return self.get_kind(identity)[1]

    def get_kind(self, identity: bytes) -> tuple[int, bytes]:
        """Return kind and payload of an object."""
        kind, payload = self.view_kind(identity)
        return kind, bytes(payload)

    def view_kind(self, identity: bytes) -> tuple[int, bytes | memoryview]:
        """Return the same without a copy: a view keeps its whole block in memory, so it is not for keeping."""
        try:
            return self._view(identity, 0)
        except NotFound as error:
            absent: DalError = error
        if self.elsewhere is not None:
            try:
                return self.elsewhere.get_kind(identity)
            except (NotFound, Unavailable) as error:
                absent = error
        # Another process may have added the pack, or moved the object when it collected the old one.
        self.refresh()
        try:
            return self._view(identity, 0)
        except NotFound:
            if self.elsewhere is None and self.losses.notes:
                what = summary(self.losses.notes)
                absent = Lost(f"object {hex_short(identity)}: lost, the pool {self.backend} lacks {what}")
            raise absent from None

    def _view(self, identity: bytes, depth: int) -> tuple[int, bytes | memoryview]:
        if depth > pack.DELTA_DEPTH_MAX:
            raise Damaged(f"object {hex_short(identity)}: its chain of deltas is longer than {pack.DELTA_DEPTH_MAX}")
        damage: Damaged | None = None
        for location in self.index.find_all(identity):
            try:
                raw = self._block_or_note(location.pack_id, location.block_index)
                kind, found, base = view_record(raw, location.offset, identity)
                payload: bytes | memoryview = found
                if base is not None:
                    payload = apply_delta(found, bytes(self._view(base, depth + 1)[1]))
                if self._is_old(location.pack_id) and self.realm.identify(kind, payload) != identity:
                    raise Damaged("another object than its id says, made by somebody who has an older key")
                return kind, payload
            except NotFound:
                self._forget_pack(location.pack_id)
            except Damaged as error:
                where = self.where_pack(location.pack_id)
                text = str(error).removeprefix(f"{where}: ")
                damage = Damaged(f"{where}: block {location.block_index} offset {location.offset}: {text}")
        if damage is not None:
            raise damage
        raise NotFound(f"object {hex_short(identity)}: not in pool {self.backend}")

    def _is_old(self, pack_id: PackId) -> bool:
        """Tell whether a pack is under an older secret: then what is in it is believed by its id only."""
        return self.realm.generation > 1 and self.realm.is_old(self._reader(pack_id).generation)

    def beside(self, identity: bytes, *, bytes_max: int) -> list[tuple[int, bytes, bytes]]:
        """Return (kind, id, payload) of an object, of those behind it in its block, and of those before it.

        So many as have about `bytes_max` bytes together, but the object in any case.
        """
        kind, payload = self.get_kind(identity)
        location = self.index.lookup(identity)
        if location is None or len(payload) >= bytes_max:
            return [(kind, identity, payload)]
        try:
            raw = self._block(location.pack_id, location.block_index)
            records = list(split_records(raw, offset=0))
            is_old = self._is_old(location.pack_id)
        except (NotFound, Damaged):  # another copy was read
            return [(kind, identity, payload)]
        own = next((n for n, record in enumerate(records) if record[3] == identity), len(records))
        found = [(kind, identity, payload)]
        left = bytes_max - len(payload)
        for _, each_kind, encoding, each, data in (*records[own + 1 :], *reversed(records[:own])):
            left -= len(data)
            if left < 0:
                break
            if encoding == pack.ENCODING_WHOLE and not (is_old and self.realm.identify(each_kind, data) != each):
                found.append((each_kind, each, bytes(data)))
        return found

    def has(self, identity: ObjectId, /) -> bool:
        """Return whether an object is known to be in a pack that is there."""
        return self.index.contains(identity)

    def lacking(self, ids: Iterable[bytes]) -> set[bytes]:
        """Return those of many ids that `has` does not know."""
        column = np.frombuffer(b"".join(ids), np.uint8).reshape(-1, OBJECT_ID_BYTES)
        return {identity.tobytes() for identity in column[~self.index.hold(column)]}

    def measure(self) -> tuple[int, int]:
        """Return how many objects there are, without those that are known to be dead, and bytes before compression.

        Packs that are condemned do not count; of dead objects in others the bytes do.
        """
        self.refresh()
        count, raw_bytes = self.index.measure(self.read_condemned())
        return count - len(self.read_dead_objects()) // OBJECT_ID_BYTES, raw_bytes

    def find_prefix(self, digits: str) -> list[ObjectId]:
        """Return the ids that begin with these hexadecimal digits."""
        return self.index.find_prefix(digits)

    def refresh(self) -> None:
        """See what other processes added, collected, and found damaged."""
        with self._refresh_lock:
            self.losses.reload()
            self.index.refresh()
            for pack_id in [key for key, each in self.losses.notes.packs.items() if each.lost]:
                if pack_id in self.index.packs_on_disk:  # somebody brought it back
                    self.losses.set(pack_id, PackDamage())

    def writer(self, workers: Workers | None = None, *, refresh: bool = True) -> "PoolWriter":
        """Begin to write; use it in a `with` block, flush, guard, and then swap a ref.

        Without `refresh` packs that others added are not looked for first: quicker, for who commits every moment; what
        they stored may be stored once more, and `commit_guard` is as strict.
        """
        return PoolWriter(self, workers=workers, refresh=refresh)

    # Refs

    def get_ref(self, name: str) -> bytes | None:
        """Return a ref's value, or None; Damaged when it is not what was written."""
        return self._read_ref(name)[1]

    def _read_ref(self, name: str) -> tuple[bytes | None, bytes | None]:
        before: bytes | None = None
        while True:
            try:
                sealed = self.backend.read(REFS + name)
            except NotFound:
                return None, None
            try:
                return sealed, self._open_ref(name, sealed)
            except Damaged:
                # What was read before the key was changed may be opened after it: then it has been sealed anew.
                if sealed == before:
                    raise Damaged(
                        f"{self.where_ref(name)}: the ref is damaged, or came from another pool: put back a copy of "
                        "this file"
                    ) from None
                before = sealed

    def _seal_ref(self, name: str, value: bytes) -> bytes:
        return self.realm.seal_value(value, context=_ref_context(self.pool_id, name))

    def _open_ref(self, name: str, sealed: bytes) -> bytes:
        known = self.realm.generation
        try:
            return self._open_sealed_ref(name, sealed)
        except Damaged:
            self.renew_key()
            if self.realm.generation == known:
                raise
        return self._open_sealed_ref(name, sealed)

    def _open_sealed_ref(self, name: str, sealed: bytes) -> bytes:
        # Whoever has an older secret could make refs: once all are sealed anew, it counts for them no more.
        since = self.settings.refs_since
        try:
            return self.realm.open_value(sealed, context=_ref_context(self.pool_id, name), since=since)
        except Damaged:
            if self.settings.refs > 1:
                raise
            # Of version 1, which was bound to its name alone; the next write binds it to the pool.
            return self.realm.open_value(sealed, context=name.encode(), since=since)

    def swap_ref(self, name: str, expected: bytes | None, value: bytes | None) -> bool:
        """Set a ref if it is as expected (None: absent) and return True; else change nothing. Durable on return."""
        with self._sealing():
            sealed_value = None if value is None else self._seal_ref(name, value)
            while True:
                sealed, current = self._read_ref(name)
                if current != expected:
                    return False
                if self.backend.swap(REFS + name, expected=sealed, value=sealed_value):
                    return True

    def update_ref(
        self, name: str, change: Callable[[bytes | None], bytes | None], *, what: str | None = None
    ) -> bytes | None:
        """Replace a ref's value by `change(value)`, None meaning absent, and return the new one.

        `change` may be called several times, on the newest value each time; what it raises leaves the ref as it was. A
        value that stays is not written. Conflict when others were faster each time; its sentence is about `what`.
        """
        return update_value(_Refs(self), name, change, what=what or f"{self.backend}: {name}")

    def settle_ref(self, name: str) -> None:
        """Make a ref durable as it is, whoever set it: before somebody is told that it is so."""
        self.backend.settle([REFS + name])

    def settle_seen_ref(self, name: str) -> None:
        """Make a ref durable as it is, or absent, whoever did that, unless it is known to be: before somebody is told.

        After the ref was read: what is told is then durable, or something later is.
        """
        self.backend.settle_seen(REFS + name)

    def where_ref(self, name: str) -> str:
        """Return what to call a ref in a message."""
        return self.backend.where(REFS + name)

    def replace_damaged_ref(self, name: str, value: bytes | None) -> bool:
        """Set a ref that is damaged (None: remove it) and return True; else change nothing."""
        with self._sealing():
            try:
                sealed = self.backend.read(REFS + name)
                self._open_ref(name, sealed)
            except NotFound:
                return False
            except Damaged:
                sealed_value = None if value is None else self._seal_ref(name, value)
                return self.backend.swap(REFS + name, expected=sealed, value=sealed_value)
            return False

    def list_refs(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of refs that begin with `prefix`."""
        for name in self.backend.list(REFS + prefix):
            yield name.removeprefix(REFS)

    # What a collection left for writers to avoid

    def read_condemned(self) -> dict[PackId, int]:
        """Return the condemned packs and since when, in ns."""
        condemned: dict[PackId, int] = {}
        for name in self.backend.list(CONDEMNED + "/"):
            try:
                pack_id = PackId(bytes.fromhex(name.rpartition("/")[2]))
                condemned[pack_id] = int(self.backend.read(name))
            except ValueError:
                continue
            except NotFound:
                continue
        return condemned

    def read_dead_objects(self) -> bytes:
        """Return the joined ids of dead objects in kept packs; what they name may be gone: nobody may rely on them."""
        try:
            data = self.backend.read(DEAD_OBJECTS)
        except NotFound:
            return b""
        return data[: len(data) // OBJECT_ID_BYTES * OBJECT_ID_BYTES]


class _Refs:
    """The refs of a pool as values that are changed by compare-and-swap."""

    def __init__(self, pool: Pool) -> None:
        self.get = pool.get_ref
        self.swap = pool.swap_ref


class PoolWriter:
    """Stores objects that are not there yet. Durable after `flush`, safe to name in a ref after `commit_guard`.

    What an object names is put before it, so that an object in the pool has all that it names beside it, whoever was
    killed (adopt.py). A writer shares the pool with collections. It remembers what it did not store because it was
    there: if a collection condemned that meanwhile, `commit_guard` stores it again, with everything below it.
    """

    def __init__(
        self, pool: Pool, *, workers: Workers | None = None, locked: bool = True, refresh: bool = True
    ) -> None:
        self.pool = pool
        self.objects_added = 0
        self.bytes_added = 0
        """Payload bytes of the objects that were new."""
        self.bytes_stored = 0
        """Bytes of the packs written so far."""
        self.objects_healed = 0
        """Directories and recipes that rested on something lost, and do no more."""
        self._workers = workers
        self._identify = pool.realm.identify
        self._open: set[bytes] = set()
        self._pack: PackWriter | None = None
        self._file: BackendWriter | None = None
        self._relied: dict[PackId, bytearray] = {}
        self._own_packs: list[PackId] = []
        self._rescued: set[bytes] = set()
        self._is_given_up = False
        self._lock: Lock | None = None
        if locked:
            self._lock = pool.backend.lock(WRITERS_LOCK)
            self._lock.acquire(shared=True)
        try:
            if refresh:
                pool.refresh()
            if pool.is_damage_new:
                pool.look_for_unsound(is_collecting=not locked)
            self._read_shunned()
        except BaseException:
            self._unlock()
            raise

    def _read_shunned(self) -> None:
        self._condemned = set(self.pool.read_condemned())
        self._dead_data = self.pool.read_shunned_objects()
        self._dead = as_sorted_ids(self._dead_data)

    def see_damage(self) -> bool:
        """Find what rests on damage that was met since the beginning; return whether there was any."""
        if not self.pool.is_damage_new:
            return False
        self.pool.look_for_unsound()
        self._read_shunned()
        return True

    def _is_dead(self, identity: bytes) -> bool:
        if identity in self._rescued or not len(self._dead):
            return False
        return bool(member_mask(self._dead, np.frombuffer(identity, f"S{OBJECT_ID_BYTES}"))[0])

    def _rely(self, identity: bytes) -> bool:
        """Return whether an object is there to stay, and remember that we count on it."""
        pack_id = self.pool.index.pack_of(identity)
        if pack_id is None:
            return False
        if self._condemned and pack_id in self._condemned:
            for location in self.pool.index.find_good(identity):
                if location.pack_id not in self._condemned:
                    pack_id = location.pack_id
                    break
            else:
                return False
        if self._dead_data and self._is_dead(identity):
            return False
        relied = self._relied.get(pack_id)
        if relied is None:
            relied = self._relied[pack_id] = bytearray()
        if relied[-OBJECT_ID_BYTES:] != identity:
            relied += identity
        return True

    def put(self, kind: int, payload: bytes, /) -> ObjectId:
        """Store an object unless it is there, and return its id."""
        identity = self._identify(kind, payload)
        if identity not in self._open and not self._rely(identity):
            self._store(kind, identity, payload)
        return identity

    def has(self, identity: ObjectId, /) -> bool:
        """Return whether an object, with all that it names, is there and may be counted on."""
        return identity in self._open or self._rely(identity)

    def put_known(self, kind: int, identity: ObjectId, payload: bytes) -> None:
        """Store an object whose id the caller has verified."""
        if identity not in self._open and not self._rely(identity):
            self._store(kind, identity, payload)

    def store_copy(self, kind: int, identity: ObjectId, payload: bytes) -> None:
        """Store one more copy of an object, whoever else holds it: how a collection empties a pack."""
        if identity not in self._open:
            self._store(kind, identity, payload)

    def _store(self, kind: int, identity: bytes, payload: bytes) -> None:
        if self._is_given_up:
            raise GivenUp
        writer = self._pack
        if writer is None:
            writer = self._begin_pack()
        writer.put(kind, identity, payload)
        self._open.add(identity)
        self.objects_added += 1
        self.bytes_added += len(payload)
        if self._dead_data:
            self._rescued.add(identity)
        if writer.object_count >= PACK_OBJECTS_MAX or writer.bytes_written >= PACK_BYTES_TARGET:
            self.flush()

    def _begin_pack(self) -> PackWriter:
        self.pool.renew_key()
        sealed = self.pool.encryption != "none"
        header = new_header(self.pool.realm, kind=pack.PACK_POOL, sealed=sealed, stays=True)
        self._file = self.pool.backend.writer(pack_name(header[0].pack_id))
        self._pack = PackWriter(self._file.write, realm=self.pool.realm, header=header, workers=self._workers)
        return self._pack

    def flush(self) -> None:
        """Finish the open pack: durable under its name, then in the index."""
        if self._is_given_up:
            raise GivenUp
        if self._pack is None:
            return
        assert self._file is not None
        try:
            summary = self._pack.finish()
            self._file.commit()
        except BaseException:
            self.abandon()
            raise
        self._pack = self._file = None
        pack_id = PackId(summary.pack_id)
        self.bytes_stored += summary.size_bytes
        self._own_packs.append(pack_id)
        with self.pool._refresh_lock:
            assert summary.columns is not None
            self.pool.index.add_segment([(pack_id, *summary.columns)])
        self._open.clear()

    def commit_guard(self) -> None:
        """Make sure that everything stored or relied on will stay. Call after `flush`, just before each ref swap.

        Conflict when something relied on was collected already, which takes a writer slower than the grace period.
        """
        for _ in range(RESCUE_ROUNDS_MAX):
            self.flush()
            self.pool.index.settle()
            endangered = self._find_endangered()
            if not endangered:
                self._forget_healed()
                return
            self.pool.refresh()
            self._rescue(endangered)
        raise Conflict(f"pool {self.pool.backend}: collections outrun this writer: run again")

    def _forget_healed(self) -> None:
        """Take what was stored again, with all that it names, off the list of what rests on something lost."""
        if not self._rescued or not self.pool.read_unsound():
            return
        with self.pool.backend.lock(COLLECT_LOCK) as lock:
            # While a collection runs the list stays; until the next writer it is only stored more than once.
            if lock.acquire(wait=False):
                digest, data = self.pool.losses.read_unsound()
                ids = [data[at : at + OBJECT_ID_BYTES] for at in range(0, len(data), OBJECT_ID_BYTES)]
                left = [identity for identity in ids if identity not in self._rescued]
                if len(left) < len(ids):
                    self.objects_healed += len(ids) - len(left)
                    self.pool.losses.write_unsound(b"".join(left), digest=digest)
                    self._read_shunned()

    def _find_endangered(self) -> list[bytes]:
        before = self._dead_data
        self.pool.losses.reload()
        self._read_shunned()
        dead_changed = before != self._dead_data
        endangered: list[bytes] = []

        def look_at(pack_id: PackId, ids: Callable[[], bytes | bytearray]) -> None:
            gone = (
                pack_id in self._condemned or pack_id in self.pool.losses.notes.packs or not self.pool.has_pack(pack_id)
            )
            if not gone and not dead_changed:
                return
            data = bytes(ids())
            chosen: Iterable[int] = range(len(data) // OBJECT_ID_BYTES)
            if not gone:
                column = np.frombuffer(data, f"S{OBJECT_ID_BYTES}")
                chosen = np.flatnonzero(member_mask(self._dead, column)).tolist()
            for number in chosen:
                identity = data[number * OBJECT_ID_BYTES : (number + 1) * OBJECT_ID_BYTES]
                if gone or identity not in self._rescued:
                    endangered.append(identity)

        for pack_id in list(self._relied):
            relied = self._relied[pack_id]
            look_at(pack_id, lambda relied=relied: relied)  # type: ignore[misc]
        for pack_id in self._own_packs:
            look_at(pack_id, lambda pack_id=pack_id: self._own_ids(pack_id))  # type: ignore[misc]
        return [identity for identity in endangered if not self._is_safe(identity)]

    def _own_ids(self, pack_id: PackId) -> bytes:
        try:
            return self.pool._read_columns(pack_id)[0].tobytes()
        except NotFound:
            raise Conflict(
                f"pool {self.pool.backend}: what was written has been collected already: run again"
            ) from None

    def _is_safe(self, identity: bytes) -> bool:
        if identity in self._open:
            return True
        if self._is_dead(identity):
            return False
        return any(
            location.pack_id not in self._condemned and self.pool.has_pack(location.pack_id)
            for location in self.pool.index.find_good(identity)
        )

    def _rescue(self, endangered: list[bytes]) -> None:
        """Store objects again with all that they name, once it is sure that all of that is here."""
        found: dict[bytes, None] = {}
        stack = list(endangered)
        while stack:
            identity = stack.pop()
            if identity in found or self._is_safe(identity):
                continue
            found[identity] = None
            if self.pool.elsewhere is None:  # else what is below may be there, too
                stack.extend(below for _, below in references(*self._get_endangered(identity)))
        # Those found last first, which lie deepest: what a killed writer leaves should not name what is about to go.
        for identity in reversed(found):
            kind, payload = self._get_endangered(identity)
            self._rescued.add(identity)
            self._store(kind, identity, payload)

    def _get_endangered(self, identity: bytes) -> tuple[int, bytes]:
        try:
            return self.pool.get_kind(identity)
        except NotFound:
            raise Conflict(
                f"pool {self.pool.backend}: object {hex_short(identity)} was collected meanwhile: run again"
            ) from None

    def abandon(self) -> None:
        """Drop the pack that is open."""
        if self._pack is not None:
            self._pack.close()
        if self._file is not None:
            self._file.abandon()
        self._pack = self._file = None
        self._open.clear()

    def give_up(self) -> None:
        """Let collections go on, for a thread that may hang: should it go on after all, it stores nothing: GivenUp."""
        self._is_given_up = True
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def close(self) -> None:
        """Flush and let collections without grace go on."""
        try:
            self.flush()
            if self._own_packs:
                self.pool.backend.keep_reserve(large=self.bytes_stored > RESERVE_LARGE_FROM)
        finally:
            self.abandon()
            self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
            self._unlock()
