"""Read a realm's objects from the nearest server that lives; the next one takes over in the middle of a file.

How near a server is was measured when it was asked last, and is remembered between commands (Nearness). Every payload
is checked against its id before anybody sees it: no server is believed.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from dalsegno.chunks.realm import Realm
from dalsegno.formats.objects import UNREADABLE
from dalsegno.replicas.contract import Site
from dalsegno.terms.errors import DalError, Damaged, NoAccess, NotFound, Unavailable
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.terms.sizes import MIB
from dalsegno.terms.times import SECOND_NS
from dalsegno.world.files import write_durable
from dalsegno.world.workers import new_lock

RECORDS_BYTES_MAX: Final = 64 * MIB
MEASURED_NS: Final = 600 * SECOND_NS
"""After so long a server is measured anew: with the next block that is wanted."""
FAILED_NS: Final = 20 * SECOND_NS
"""So long a server that did not answer is asked after all others."""
WEIGHT: Final = 0.3
"""What the newest of the measurements counts."""


class Measured(msgspec.Struct, kw_only=True):
    """What is known of a server."""

    seconds: float = 0.0
    """About how long an answer takes."""
    measured_ns: int = 0
    failed_ns: int = 0
    """When it did not answer; 0: it did the last time."""


class Nearness:
    """How near the servers are, remembered in a file that may be lost at any time. Threads may share it."""

    def __init__(self, path: Path | None, *, clock: Callable[[], int]) -> None:
        self._path = path
        self._clock = clock
        self._lock = new_lock()
        self._changed = False
        self._known: dict[str, Measured] = {}
        if path is not None:
            try:
                self._known = msgspec.json.decode(path.read_bytes(), type=dict[str, Measured])
            except (OSError, *UNREADABLE):
                pass  # only a memory: what is lost is measured anew

    def order(self, names: Iterable[str]) -> list[str]:
        """Return servers in the order in which to ask: those to be measured, by distance, those that failed."""
        now = self._clock()

        def key(name: str) -> tuple[int, float, str]:
            known = self._known.get(name) or Measured()
            if known.failed_ns and abs(now - known.failed_ns) < FAILED_NS:
                return 2, known.seconds, name
            if abs(now - known.measured_ns) >= MEASURED_NS:
                return 0, known.seconds, name
            return 1, known.seconds, name

        with self._lock:
            return sorted(dict.fromkeys(names), key=key)

    def has_failed(self, name: str) -> bool:
        """Tell whether a server did not answer lately."""
        known = self._known.get(name)
        return known is not None and bool(known.failed_ns) and abs(self._clock() - known.failed_ns) < FAILED_NS

    def seconds(self, name: str) -> float | None:
        """Return about how long a server takes to answer, or None when that was never measured."""
        known = self._known.get(name)
        return known.seconds if known is not None and known.measured_ns else None

    def answered(self, name: str, *, ticks_ns: int) -> None:
        """Note how long an answer took."""
        seconds, now = ticks_ns / SECOND_NS, self._clock()
        with self._lock:
            known = self._known.setdefault(name, Measured())
            fresh = known.measured_ns and not known.failed_ns and abs(now - known.measured_ns) < MEASURED_NS
            known.seconds = known.seconds + WEIGHT * (seconds - known.seconds) if fresh else seconds
            known.measured_ns, known.failed_ns = now, 0
            self._changed = True

    def failed(self, name: str) -> None:
        """Note that a server did not answer."""
        with self._lock:
            self._known.setdefault(name, Measured()).failed_ns = self._clock()
            self._changed = True

    def lives(self, name: str) -> None:
        """Note that a server answered, however long that took."""
        with self._lock:
            known = self._known.get(name)
            if known is not None and known.failed_ns:
                known.failed_ns, self._changed = 0, True

    def save(self) -> None:
        """Remember for the next command."""
        with self._lock:
            if self._path is None or not self._changed:
                return
            data, self._changed = msgspec.json.encode(self._known), False
        try:
            write_durable(self._path, data, mode=0o600, sync=False)
        except (DalError, OSError):
            pass  # only a memory


class NearestSource:
    """A Source: objects of a realm's volumes, from whichever server is nearest. Threads may share it."""

    def __init__(
        self,
        realm: Realm,
        *,
        site: Callable[[str], Site],
        nearness: Nearness,
        ticks: Callable[[], int],
    ) -> None:
        """`site` returns a server by name."""
        self._realm = realm
        self._site = site
        self._nearness = nearness
        self._ticks = ticks
        self._first = ""
        self._lock = new_lock()
        self._places: dict[str, tuple[str, ...]] = {}
        """Volume: the servers that have it; the volume that was opened last comes first."""
        self._records: OrderedDict[bytes, tuple[int, bytes]] = OrderedDict()
        self._size = 0
        self.bytes_crossed = 0

    def place(self, volume: str, servers: Iterable[str], *, first: str = "") -> None:
        """Say which servers have a volume, and which of them is asked first, however far it is."""
        with self._lock:
            self._first = first or self._first
            others = {name: places for name, places in self._places.items() if name != volume}
            self._places = {volume: tuple(servers), **others}

    @contextmanager
    def looking(self, volume: str, servers: Iterable[str]) -> Iterator[None]:
        """Read a volume's objects from these servers as well, for a moment."""
        with self._lock:
            is_new = volume not in self._places
            if is_new:
                self._places = {**self._places, volume: tuple(servers)}
        try:
            yield
        finally:
            with self._lock:
                if is_new:
                    self._places = {name: places for name, places in self._places.items() if name != volume}

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object."""
        return self.get_kind(identity)[1]

    def get_kind(self, identity: bytes) -> tuple[int, bytes]:
        """Return kind and payload of an object."""
        with self._lock:
            record = self._records.get(identity)
            if record is not None:
                self._records.move_to_end(identity)
                return record
            places = dict(self._places)
        return self._fetch(identity, places)

    def _fetch(self, identity: bytes, places: Mapping[str, tuple[str, ...]]) -> tuple[int, bytes]:
        errors: dict[str, DalError] = {}
        found_nowhere = True
        for name in self._order(places):
            for volume, servers in places.items():
                if name not in servers:
                    continue
                began = self._ticks()
                try:
                    records = self._site(name).block(volume, ObjectId(identity))
                except NotFound:
                    self._nearness.answered(name, ticks_ns=self._ticks() - began)
                    continue
                except (Unavailable, NoAccess, Damaged) as error:
                    errors[name] = error
                    if isinstance(error, Unavailable):
                        self._nearness.failed(name)
                        break
                    found_nowhere = found_nowhere and isinstance(error, NoAccess)
                    continue
                self._nearness.answered(name, ticks_ns=self._ticks() - began)
                record = self._keep(identity, records)
                if record is not None:
                    return record
                errors[name] = Damaged(f"{name}: object {hex_short(identity)}: its content and its id disagree")
                found_nowhere = False
        if errors and self._realm.only_writes:
            raise NoAccess("this machine's key only writes: what it sent is read where the realm's own key is")
        raise _failure(identity, errors, found_nowhere=found_nowhere)

    def _order(self, places: Mapping[str, tuple[str, ...]]) -> list[str]:
        names = self._nearness.order(name for servers in places.values() for name in servers)
        if self._first in names and not self._nearness.has_failed(self._first):
            names.remove(self._first)
            names.insert(0, self._first)
        return names

    def _keep(self, wanted: bytes, records: Iterable[tuple[int, bytes, bytes]]) -> tuple[int, bytes] | None:
        """Keep what came along, each under the id that it really has, and return what is wanted."""
        found: tuple[int, bytes] | None = None
        checked = []
        for kind, identity, payload in records:
            self.bytes_crossed += len(payload)
            if self._realm.identify(kind, payload) == identity:
                checked.append((identity, (kind, payload)))
                if identity == wanted:
                    found = kind, payload
        with self._lock:
            # What was asked for comes last: it is the last to go.
            for identity, record in reversed(checked):
                before = self._records.pop(identity, None)
                self._size += len(record[1]) - (len(before[1]) if before is not None else 0)
                self._records[identity] = record
            while self._size > RECORDS_BYTES_MAX and len(self._records) > 1:
                self._size -= len(self._records.popitem(last=False)[1][1])
        return found


def _failure(identity: bytes, errors: Mapping[str, DalError], *, found_nowhere: bool) -> DalError:
    what = f"object {hex_short(identity)}"
    if not errors:
        return NotFound(f"{what}: on none of the servers")
    told = "; ".join(str(error) for _, error in sorted(errors.items()))
    for kind in (Damaged, Unavailable, NoAccess):
        if any(isinstance(error, kind) for error in errors.values()) and (kind is not Damaged or not found_nowhere):
            return kind(f"{what}: no server that can be reached has it: {told}")
    return NotFound(f"{what}: on none of the servers: {told}")
