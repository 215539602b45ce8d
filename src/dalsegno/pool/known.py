"""What this user remembers of a place where a pool was: which pool, how sealed, and how new its volumes were.

Whoever controls the storage can put another pool there, one that is not sealed, or yesterday's refs. What is here lies
in the user's own state directory, beyond his reach (docs/decisions/020-what-was-seen-of-a-place-is-remembered.md):

    known/<place>/pools           one JSON object a line: the pools that may be at this place
    known/<place>/<pool id>       one JSON object a line: the heads that were seen there, the last of a line counts

`place` is the first 16 bytes of BLAKE3 of the place's absolute path, or of `realm ID` for the servers of a realm: there
each server is a line (replicas/seen.py), and the file is called by the realm's id. Lines are only added; a file that
has grown to many times what it says is written anew. What cannot be read of it is not known, and never ends a command.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from blake3 import blake3

from dalsegno.backends.contract import Backend
from dalsegno.pool.keys import notes_of_keys_for
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import SETTINGS_NAME, PoolSettings
from dalsegno.terms.errors import DalError, Refused
from dalsegno.terms.events import Note, Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.terms.times import show_time
from dalsegno.world import places
from dalsegno.world.clock import now_ns
from dalsegno.world.files import FileLock, append_lines, file_errors, make_directory, write_durable
from dalsegno.world.workers import new_lock

KNOWN_DIRECTORY: Final = "known"
POOLS_NAME: Final = "pools"
LINES_PER_HEAD_MAX: Final = 3
"""A file with more lines for each that counts is written anew ..."""
LINES_FREE: Final = 256
"""... once it has so many more."""
FILE_BYTES_MAX: Final = 64 * 1024 * 1024
HOW_TO_ACCEPT: Final = "`dal pool trust` accepts it, --trust-pool takes it for one command alone"

Differs = Callable[[str], None]
"""Called with what is another or older than it was; what it raises ends the command."""


def refuse(text: str) -> None:
    """End the command: what `Differs` does unless somebody said otherwise."""
    raise Refused(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPool:
    """A pool that was seen at a place."""

    pool_id: bytes
    realm_id: bytes
    encryption: str
    at_ns: int
    """When it was seen there first, or accepted."""
    generation: int = 1
    """How many secrets its key had (generations.py)."""
    refs: int = 1
    """The oldest version of seals of refs that it believed: settings that believe more are those of before."""


def known_pool(pool: Pool) -> KnownPool:
    """Return what is remembered of a pool that is open."""
    return KnownPool(
        pool_id=pool.pool_id,
        realm_id=pool.realm.realm_id,
        encryption=pool.encryption,
        at_ns=now_ns(),
        generation=pool.settings.generation,
        refs=pool.settings.refs,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHead:
    """A head that a volume had."""

    head: bytes
    created_ns: int
    """When that revision was made; 0 when it could not be read."""
    at_ns: int
    """When it was seen."""
    counter: int = 0
    """How often the volume's state had been written."""
    version: int = 0
    """Of the volume's replica set, on a server: a replica that is made anew under a later one counts anew."""
    name: str = ""
    """A keyed hash of the volume's name, on a server: there a name alone says which volume is meant."""


class _PoolLine(msgspec.Struct, omit_defaults=True):
    pool: str
    realm: str
    encryption: str
    at: int
    place: str = ""
    generation: int = 1
    refs: int = 1


class _HeadLine(msgspec.Struct, omit_defaults=True):
    volume: str
    head: str = ""
    created: int = 0
    counter: int = 0
    version: int = 0
    name: str = ""
    at: int = 0
    line: int = 0
    """Copies of one pool that are used in turn at one place go on in lines of their own."""
    set: bool = False
    """Counts although it is older than the one before: this user's own doing, or accepted by him."""
    gone: bool = False
    """The volume was removed."""


T = TypeVar("T", _PoolLine, _HeadLine)


def pool_difference(known: Sequence[KnownPool], settings: PoolSettings) -> str | None:
    """Return in what the pool at a place is not one that was seen there, or None."""
    if not known:
        return None
    same = [each for each in known if each.pool_id == settings.pool_id]
    # Of one pool the last counts: an older key is there again after it was accepted.
    if same and same[-1].realm_id == settings.realm_id and settings.generation < same[-1].generation:
        return (
            f"the pool has an older key (generation {settings.generation}; it had {same[-1].generation}, seen here "
            f"since {show_time(same[-1].at_ns)})"
        )
    if same and same[-1].realm_id == settings.realm_id and settings.refs < same[-1].refs:
        return f"the pool's settings are older than those that were seen here since {show_time(same[-1].at_ns)}"
    for each in same:
        if each.realm_id == settings.realm_id and (settings.encryption != "none" or each.encryption == "none"):
            return None
    was = (same or list(known))[-1]
    now = f"encryption {settings.encryption}"
    before = f"encryption {was.encryption}, seen here since {show_time(was.at_ns)}"
    if same and was.realm_id == settings.realm_id:
        return f"the pool is not sealed any more ({now}; it had {before})"
    if same:
        return f"the pool has another key (realm {hex_short(settings.realm_id)}; it had {hex_short(was.realm_id)})"
    return f"another pool ({hex_short(settings.pool_id)}, {now}) than before ({hex_short(was.pool_id)}, {before})"


class KnownPlace:
    """What is remembered of one place: read when it is made, added to as things are seen."""

    def __init__(self, place: Path | str, *, state: Path | None = None, report: Report = silent) -> None:
        """`place` is a path, or what says where in other words; `state` where things are remembered, the user's own."""
        self.place = os.path.abspath(place) if isinstance(place, Path) else place
        self._report = report
        self._told = False
        state = state or places.find_state_dir()
        name = blake3(os.fsencode(self.place)).hexdigest(16)
        self.directory = state / KNOWN_DIRECTORY / name if state is not None else None
        self.pools = [
            KnownPool(
                pool_id=bytes.fromhex(line.pool),
                realm_id=bytes.fromhex(line.realm),
                encryption=line.encryption,
                at_ns=line.at,
                generation=line.generation,
                refs=line.refs,
            )
            for line in _read_lines(self._file(POOLS_NAME), _PoolLine)
        ]

    def _file(self, name: str) -> Path | None:
        return self.directory / name if self.directory is not None else None

    def check(self, settings: PoolSettings, differs: Differs) -> bool:
        """Call `differs` when another pool is here than was; return whether it is one that may be here.

        Of a place that nothing is known of, your own key files tell whether a sealed pool was made there.
        """
        text = pool_difference(self.pools, settings)
        if not self.pools and settings.encryption == "none" and (made := notes_of_keys_for(Path(self.place))):
            text = f"the pool is not sealed; one that is was made here ({made[-1].get('made', 'once')})"
        if text is None:
            return True
        differs(f"{self.place}: {text}: is this the right disk? {HOW_TO_ACCEPT}")
        return False

    def remember(self, pool: KnownPool, backend: Backend) -> None:
        """Remember that a pool may be here; what cannot be written is said once.

        Its settings are made durable first: whoever wrote them may have been killed before they were.
        """
        same = [each for each in self.pools if each.pool_id == pool.pool_id]
        last = (same[-1].generation, same[-1].refs) if same else None
        if any(_facts(pool) == _facts(each) for each in same) and last == (pool.generation, pool.refs):
            return
        if not self.is_settled(lambda: backend.settle_seen(SETTINGS_NAME)):
            return
        self.pools.append(pool)
        line = _PoolLine(
            pool=pool.pool_id.hex(),
            realm=pool.realm_id.hex(),
            encryption=pool.encryption,
            at=pool.at_ns,
            place=os.fsencode(self.place).decode(errors="replace"),
            generation=pool.generation,
            refs=pool.refs,
        )
        self.append(POOLS_NAME, [msgspec.json.encode(line)], sync=True)

    def append(self, name: str, lines: Sequence[bytes], *, sync: bool = False) -> None:
        """Add lines to a file; that it cannot be done is said once, and nothing else happens."""
        file = self._file(name)
        if file is None:
            self._tell("HOME is not set")
            return
        try:
            make_directory(file.parent, mode=0o700, to_owner=True)
            with FileLock(file.parent / "lock") as lock:
                lock.acquire(shared=True)
                append_lines(file, lines, sync=sync)
        except DalError as error:
            self._tell(str(error))

    def is_settled(self, settle: Callable[[], None]) -> bool:
        """Make durable what was seen, and tell whether it is; that it cannot be made so is said once."""
        try:
            settle()
        except DalError as error:
            self._tell(str(error))
            return False
        return True

    def rewrite(self, name: str, read: Callable[[Path], list[bytes]]) -> None:
        """Replace a file by the lines that `read` finds in it to count, while nobody adds any."""
        file = self._file(name)
        if file is None:
            return
        try:
            with FileLock(file.parent / "lock") as lock:
                lock.acquire()
                data = b"".join(b"\n" + line for line in read(file))
                write_durable(file, data, mode=0o600, to_owner=True)
        except DalError as error:
            self._tell(str(error))

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            text = f"what is seen of this pool cannot be remembered, an exchanged one would not be noticed: {why}"
            self._report(Note(severity="notice", path=os.fsencode(self.place), text=text))

    def heads(self, pool_id: bytes) -> "KnownHeads":
        """Return what is remembered of the volumes of a pool."""
        return KnownHeads(self, pool_id.hex())


def _facts(pool: KnownPool) -> tuple[bytes, bytes, str, int, int]:
    return pool.pool_id, pool.realm_id, pool.encryption, pool.generation, pool.refs


class KnownHeads:
    """The heads that were seen of one pool's volumes at one place. May be used from several threads."""

    def __init__(self, place: KnownPlace, name: str) -> None:
        self._place = place
        self._name = name
        self._lock = new_lock()
        file = place._file(name)
        found = _read_lines(file, _HeadLine)
        self._lines, self._removed = _replay(found)
        self._live = sum(map(len, self._lines.values()))
        self._written = len(found)
        self._named = {head.name: each for each, lines in self._lines.items() for head in lines.values() if head.name}

    def of(self, volume_id: bytes) -> dict[int, KnownHead]:
        """Return the heads of a volume, one for each line in which it goes on."""
        return self._lines.get(volume_id, {})

    def volumes(self) -> list[bytes]:
        """Return the volumes that were seen and not removed by this user."""
        return list(self._lines)

    def named(self, name: str) -> bytes | None:
        """Return the volume that was seen last under a name's hash, unless it was removed."""
        volume_id = self._named.get(name)
        return volume_id if volume_id in self._lines else None

    def is_settled(self, settle: Callable[[], None]) -> bool:
        """Make durable what was seen, and tell whether it is: else it must not be remembered."""
        return self._place.is_settled(settle)

    def removed_ns(self, volume_id: bytes) -> int | None:
        """Return when this user removed a volume that has not been there since; None when he did not."""
        return self._removed.get(volume_id)

    def put(self, volume_id: bytes, line: int, head: KnownHead, *, force: bool = False) -> None:
        """Remember a head; of the same line only a later one counts, unless `force`."""
        self._add([_head_line(volume_id, line, head, force=force)])

    def put_lines(self, volume_id: bytes, heads: Mapping[int, KnownHead], *, alone: bool = False) -> None:
        """Remember heads of several lines, whatever was known of these; `alone`: and no others."""
        gone = [_HeadLine(volume=volume_id.hex(), gone=True)] if alone and volume_id in self._lines else []
        self._add([*gone, *(_head_line(volume_id, line, head, force=True) for line, head in heads.items())])

    def forget(self, volume_id: bytes, *, removed: bool = True) -> None:
        """Forget the heads of a volume; that this user `removed` it is remembered."""
        if volume_id in self._lines:
            self._add([_HeadLine(volume=volume_id.hex(), gone=True, at=now_ns() if removed else 0)])

    def _add(self, records: Sequence[_HeadLine]) -> None:
        if not records:
            return
        with self._lock:
            for record in records:
                volume_id = bytes.fromhex(record.volume)
                before = len(self._lines.get(volume_id, ()))
                _apply(self._lines, self._removed, record)
                self._live += len(self._lines.get(volume_id, ())) - before
                if record.name:
                    self._named[record.name] = volume_id
            self._place.append(self._name, list(map(msgspec.json.encode, records)))
            self._written += len(records)
            live = self._live + len(self._removed)
            if self._written > LINES_PER_HEAD_MAX * live + LINES_FREE:
                self._written = live
                self._place.rewrite(self._name, _lines_that_count)


def _lines_that_count(file: Path) -> list[bytes]:
    found, removed = _replay(_read_lines(file, _HeadLine))
    gone = [_HeadLine(volume=each.hex(), gone=True, at=at_ns) for each, at_ns in removed.items()]
    heads = [
        line_that_counts(volume_id, line, head) for volume_id, lines in found.items() for line, head in lines.items()
    ]
    return [*map(msgspec.json.encode, gone), *heads]


def line_that_counts(volume_id: bytes, line: int, head: KnownHead) -> bytes:
    """Return the text of a line which counts whatever stands before it."""
    return msgspec.json.encode(_head_line(volume_id, line, head, force=True))


def _head_line(volume_id: bytes, line: int, head: KnownHead, *, force: bool) -> _HeadLine:
    return _HeadLine(
        volume=volume_id.hex(),
        head=head.head.hex(),
        created=head.created_ns,
        counter=head.counter,
        version=head.version,
        name=head.name,
        at=head.at_ns,
        line=line,
        set=force,
    )


def _replay(records: Sequence[_HeadLine]) -> tuple[dict[bytes, dict[int, KnownHead]], dict[bytes, int]]:
    found: dict[bytes, dict[int, KnownHead]] = {}
    removed: dict[bytes, int] = {}
    for record in records:
        _apply(found, removed, record)
    return found, removed


def _apply(found: dict[bytes, dict[int, KnownHead]], removed: dict[bytes, int], record: _HeadLine) -> None:
    volume_id = bytes.fromhex(record.volume)
    if record.gone:
        found.pop(volume_id, None)
        if record.at:
            removed[volume_id] = record.at
        return
    removed.pop(volume_id, None)
    # Readers meet the old or the new value: threads look without a lock.
    lines = dict(found.get(volume_id, {}))
    known = lines.get(record.line)
    head = KnownHead(
        head=bytes.fromhex(record.head),
        created_ns=record.created,
        counter=record.counter,
        version=record.version,
        name=record.name,
        at_ns=record.at,
    )
    # Two processes may write down in another order what they saw.
    if known is None or record.set or not _is_before(head, known):
        lines[record.line] = head
        found[volume_id] = lines


def _is_before(one: KnownHead, other: KnownHead) -> bool:
    if one.counter and other.counter:
        return one.counter < other.counter
    return one.created_ns < other.created_ns


def _read_lines(file: Path | None, kind: type[T]) -> list[T]:
    """Return the lines that can be read: one may be torn, and nobody is stopped by that."""
    if file is None:
        return []
    try:
        with file_errors(file), open(file, "rb") as opened:
            data = opened.read(FILE_BYTES_MAX)
    except DalError:
        return []
    decoder = msgspec.json.Decoder(kind)
    found = []
    for line in data.split(b"\n"):
        try:
            if line:
                record = decoder.decode(line)
                ids = [record.pool, record.realm] if isinstance(record, _PoolLine) else [record.volume, record.head]
                bytes.fromhex("".join(ids))
                found.append(record)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors, too
            continue
    return found
