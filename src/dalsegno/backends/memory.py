"""Values in this process's memory: for tests, and as the shortest whole example of a backend.

What it has beside its values, the scratch directories, is in a temporary directory that goes with the backend.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self

from dalsegno.backends.contract import BackendWriter, Entry, Lock, OpenValue, Result, Space
from dalsegno.terms.errors import AlreadyThere, BadInput, NotFound, Refused
from dalsegno.world.bell import Bell
from dalsegno.world.clock import real_now_ns
from dalsegno.world.files import READ_BYTES, UploadFile
from dalsegno.world.workers import new_lock

_RESERVED: Final = (".partial", ".lock")
_NAME_BYTES_MAX: Final = 1024
_WAIT_SECONDS: Final = 3600.0


class MemoryBackend:
    """Named bytes in a dictionary. A Backend: contract.py says what each method promises."""

    def __init__(self, name: str = "memory", *, clock: Callable[[], int] = real_now_ns) -> None:
        self.place = f"memory:{name}"
        self.directory: Path | None = None
        self._clock = clock
        self._values: dict[str, tuple[bytes, int]] = {}
        """Name: value, and when it was stored."""
        self._used: set[str] = set()
        """Prefixes below which there ever was a value."""
        self._guard = new_lock()
        self._locks: dict[str, _Holders] = {}
        self._scratch = TemporaryDirectory(prefix="dal-")

    def __str__(self) -> str:
        return self.place

    def where(self, name: str) -> str:
        """Return place and name."""
        return f"{self.place}/{name}"

    def _check(self, name: str) -> str:
        bad = any(part in ("", ".", "..") or "\0" in part for part in name.split("/"))
        if bad or len(name) > _NAME_BYTES_MAX or name.endswith(_RESERVED):
            raise BadInput(f"name {name!r}: not a relative path that a backend may use")
        return name

    def _set(self, name: str, data: bytes | None) -> None:
        """Store or remove a value, with the guard held."""
        if data is None:
            self._values.pop(name, None)
            return
        self._values[name] = bytes(data), self._clock()
        parts = name.split("/")
        self._used.update("/".join(parts[:count]) + "/" for count in range(1, len(parts)))

    def _find(self, name: str) -> tuple[bytes, int]:
        with self._guard:
            found = self._values.get(self._check(name))
        if found is None:
            raise NotFound(f"{self.where(name)}: not there")
        return found

    # Values that never change

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a value from `offset`."""
        data = self._find(name)[0]
        return data[offset:] if length is None else data[offset : offset + length]

    def open(self, name: str) -> OpenValue:
        """Open a value for many reads."""
        return _OpenBytes(self.where(name), self._find(name)[0])

    def has(self, name: str) -> bool:
        """Return whether there is a value of this name."""
        return self._check(name) in self._values

    def status(self, name: str) -> Entry:
        """Return size and age of a value."""
        data, changed_ns = self._find(name)
        return Entry(name=name, size_bytes=len(data), changed_ns=changed_ns)

    def list(self, prefix: str, *, after: str = "") -> Iterator[str]:
        """Yield the names that begin with `prefix`."""
        with self._guard:
            names = [name for name in self._values if name.startswith(prefix)]
        order = after.split("/")
        for name in sorted(names, key=lambda name: name.split("/")):
            if not after or name.split("/") > order:
                yield name

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield the names that begin with `prefix`, with size and age."""
        for name in self.list(prefix):
            with contextlib.suppress(NotFound):
                yield self.status(name)

    def create(self, name: str, data: bytes, *, mode: int = 0o666) -> None:
        """Store a value under a name that must be free."""
        with self._guard:
            if self._check(name) in self._values:
                raise AlreadyThere(f"{self.where(name)}: exists")
            self._set(name, data)

    def writer(self, name: str) -> BackendWriter:
        """Begin a value of unknown size."""
        return _MemoryWriter(self, self._check(name))

    def take(self, name: str, upload: UploadFile) -> None:
        """Store the bytes of a local file and remove it."""
        with self.writer(name) as writer:
            while data := upload.read_at(writer.offset, READ_BYTES):
                writer.write(data)
            writer.commit()
        upload.remove()

    def has_taken(self, name: str, upload: UploadFile) -> bool:
        """Return False: a copy is another one."""
        return False

    def delete(self, name: str) -> None:
        """Remove a value."""
        if not self.discard(name):
            raise NotFound(f"{self.where(name)}: not there")

    def discard(self, name: str, *, lasting: bool = True) -> bool:
        """Remove a value if it is there."""
        with self._guard:
            was_there = self._check(name) in self._values
            self._set(name, None)
            return was_there

    # Values that are replaced

    def swap(self, name: str, *, expected: bytes | None, value: bytes | None) -> bool:
        """Compare and swap."""
        with self._guard:
            current = self._values.get(self._check(name))
            if (current[0] if current is not None else None) != expected:
                return False
            self._set(name, value)
            return True

    def put(self, name: str, data: bytes) -> None:
        """Store a value, whether there is one or not."""
        with self._guard:
            self._set(self._check(name), data)

    def replace(self, name: str, data: bytes) -> None:
        """Store a value in the place of one that is there."""
        self.put(name, data)

    # Durability: memory has none to give, and nobody else who might be killed.

    def settle(self, names: Iterable[str]) -> None:
        """Check the names."""
        for name in names:
            self._check(name)

    def settle_below(self, prefix: str) -> None:
        """Do nothing."""

    def settle_seen(self, name: str) -> None:
        """Do nothing."""

    def settle_value(self, name: str) -> None:
        """Check that the value is there."""
        self._find(name)

    def sweep(self, prefix: str, *, before_ns: int | None) -> None:
        """Do nothing: an unfinished value is its writer's alone."""

    # The place

    def is_there(self) -> bool:
        """Return True."""
        return True

    def was_used(self, prefix: str) -> bool:
        """Return whether there ever was a value below a prefix."""
        return prefix in self._used

    def require_free(self, names: Collection[str]) -> None:
        """Refuse where there are values under other names."""
        if any(name.partition("/")[0] not in names for name in self._values):
            raise Refused(f"{self.place}: is not empty; choose another")

    def prepare(self, prefixes: Iterable[str]) -> None:
        """Do nothing."""

    def lock(self, name: str) -> Lock:
        """Open a lock."""
        with self._guard:
            return _MemoryLock(self._locks.setdefault(name, _Holders()))

    def space(self) -> Space | None:
        """Return None: there is no bound."""
        return None

    def making_room(self, step: Callable[[], Result]) -> Result:
        """Return `step()`."""
        return step()

    def keep_reserve(self, *, large: bool = False) -> None:
        """Do nothing."""

    def release_reserve(self) -> None:
        """Do nothing."""

    def scratch(self, name: str) -> Path:
        """Return a directory in the temporary one."""
        return Path(self._scratch.name) / name


class _OpenBytes:
    """A value opened for many reads."""

    def __init__(self, where: str, data: bytes) -> None:
        self.path = Path(where)
        self.size_bytes = len(data)
        self._data = data

    def read_at(self, offset: int, length: int, /) -> bytes:
        return self._data[offset : offset + length]

    def close(self) -> None:
        pass


class _MemoryWriter:
    """A value that grows until it is committed."""

    def __init__(self, backend: MemoryBackend, name: str) -> None:
        self.offset = 0
        self._backend = backend
        self._name = name
        self._data: bytearray | None = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        assert self._data is not None, "already committed or abandoned"
        self._data += data
        size = memoryview(data).nbytes
        self.offset += size
        return size

    def commit(self) -> None:
        assert self._data is not None, "already committed or abandoned"
        self._backend.create(self._name, bytes(self._data))
        self._data = None

    def abandon(self) -> None:
        self._data = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()


class _Holders:
    """Who holds a lock: one alone, or several that share it."""

    def __init__(self) -> None:
        self.guard = new_lock()
        self.released = Bell()
        self.alone: _MemoryLock | None = None
        self.sharing: set[_MemoryLock] = set()


class _MemoryLock:
    """One opening of a lock."""

    def __init__(self, holders: _Holders) -> None:
        self._holders = holders

    def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
        while True:
            count = self._holders.released.count
            if self._try(shared=shared):
                return True
            if not wait:
                return False
            self._holders.released.wait(count, _WAIT_SECONDS)

    def _try(self, *, shared: bool) -> bool:
        holders = self._holders
        with holders.guard:
            others = holders.sharing - {self}
            if holders.alone not in (None, self) or (others and not shared):
                return False
            holders.alone = None if shared else self
            holders.sharing = {*others, self} if shared else others
        if shared:
            holders.released.ring()  # others may share it now
        return True

    def release(self) -> None:
        holders = self._holders
        with holders.guard:
            if holders.alone is self:
                holders.alone = None
            holders.sharing.discard(self)
        holders.released.ring()

    def close(self) -> None:
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
