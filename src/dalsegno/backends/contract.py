"""What a pool asks of the place that keeps its bytes: the only way from a pool to storage.

Names are relative paths with `/`, without empty, `.` or `..` parts (else BadInput). Names that end in `.partial` or
`.lock` belong to the backend. What is acknowledged survives a loss of power. Every method may raise Unavailable (try
later), NoAccess, and DalError for what the place itself says no with; what else it raises its docstring names.

Values never change, but for two kinds: those below `refs/` and `server/` are swapped, so that one order of changes is
seen by all, and a few notes of the pool are put, each by the holder of a lock. How a backend is added:
docs/contributing.md.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from dalsegno.world.files import UploadFile

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A value in a listing."""

    name: str
    size_bytes: int
    changed_ns: int
    """When it was stored, in ns since 1970, by the clock of the place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The room of a place."""

    total_bytes: int
    free_bytes: int


class BackendWriter(Protocol):
    """One growing value: nobody sees it until `commit`, nobody ever sees it after `abandon`."""

    offset: int

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append; raises Full."""
        ...

    def commit(self) -> None:
        """Make the value durable, whole, under its name; AlreadyThere when the name was taken meanwhile."""
        ...

    def abandon(self) -> None:
        """Drop the value; does nothing after a commit."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class OpenValue(Protocol):
    """A value opened for many reads. It stays readable until it is closed, also when its name is deleted meanwhile."""

    path: Path
    """What to call it in a message; no file need be there."""
    size_bytes: int

    def read_at(self, offset: int, length: int, /) -> bytes:
        """Return the bytes from `offset` on; fewer than `length` only at the end.

        Threads may call it at once. Damaged where the medium cannot give them.
        """
        ...

    def close(self) -> None:
        """Release it; again does nothing."""
        ...


class Lock(Protocol):
    """An advisory lock, between processes and between openings within one process."""

    def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
        """Take the lock, or change its mode; return False when `wait` is False and another holds it."""
        ...

    def release(self) -> None:
        """Release the lock; it may be taken again."""
        ...

    def close(self) -> None:
        """Release the lock, for good."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Backend(Protocol):
    """Named bytes. Threads may share it; other processes use the same place at the same time."""

    place: str
    """What a user calls the place, for messages: a path, an address."""
    directory: Path | None
    """Where the place is among this machine's files, or None: for a backup that must leave it out, and for comparing
    disks. Values are never read or written through it."""

    def __str__(self) -> str:
        """Return `place`."""
        ...

    def where(self, name: str) -> str:
        """Return what to call a value in a message; of the empty name, what all of these begin with."""
        ...

    # Values that never change

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return the bytes from `offset`, fewer when the value ends before; NotFound when there is no such name."""
        ...

    def open(self, name: str) -> OpenValue:
        """Open a value for many reads; NotFound. The caller closes it."""
        ...

    def has(self, name: str) -> bool:
        """Return whether there is a value of this name."""
        ...

    def status(self, name: str) -> Entry:
        """Return size and age of a value; NotFound."""
        ...

    def list(self, prefix: str, *, after: str = "") -> Iterator[str]:
        """Yield the names that begin with `prefix`, sorted by directory; a name added meanwhile may be missed.

        Only those that come after `after`, when it is given.
        """
        ...

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield the same names with size and age; one deleted meanwhile may be left out."""
        ...

    def create(self, name: str, data: bytes, *, mode: int = 0o666) -> None:
        """Store a value whole and durable; AlreadyThere when the name exists, also when two create at once.

        `mode`: who may read it, as in chmod, where the place has such rights; a stricter umask wins.
        """
        ...

    def writer(self, name: str) -> BackendWriter:
        """Begin a value of unknown size. Two writers of one name at once are the caller's mistake."""
        ...

    def take(self, name: str, upload: UploadFile) -> None:
        """Store the bytes of a local file, whose lock the caller holds, as a value, as of now; the file is removed.

        AlreadyThere, unless `has_taken`. Best without a copy.
        """
        ...

    def has_taken(self, name: str, upload: UploadFile) -> bool:
        """Return whether a value is this very file, of a `take` that was killed before the file was removed."""
        ...

    def delete(self, name: str) -> None:
        """Remove a value durably; NotFound when it is not there."""
        ...

    def discard(self, name: str, *, lasting: bool = True) -> bool:
        """Remove a value if it is there; return whether it was. Without `lasting` it may come back after a crash."""
        ...

    # Values that are replaced

    def swap(self, name: str, *, expected: bytes | None, value: bytes | None) -> bool:
        """Replace `expected` by `value` and return True, or change nothing and return False.

        None means absent. Of several swaps at once with the same `expected`, exactly one returns True. A value that
        does not grow may use what is kept for that on a full disk (`making_room`).
        """
        ...

    def put(self, name: str, data: bytes) -> None:
        """Store a value whole and durable, whether there is one or not: for notes that one process at a time writes."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Store a value in the place of one that is there, whose rights the new one gets; else as `put`."""
        ...

    # Durability of what others did

    def settle(self, names: Iterable[str]) -> None:
        """Make names durable that others gave, who may have been killed on the way: before something rests on them."""
        ...

    def settle_below(self, prefix: str) -> None:
        """Make all names below a prefix that ends in `/` durable, and that others are gone."""
        ...

    def settle_seen(self, name: str) -> None:
        """Make what a swapped name means durable, or that it is absent, unless that is known: before it is told."""
        ...

    def settle_value(self, name: str) -> None:
        """Make a value durable, bytes and name, whose writer may have been killed; NotFound.

        What killed writers of it left unfinished is removed.
        """
        ...

    def sweep(self, prefix: str, *, before_ns: int | None) -> None:
        """Remove what killed writers left unfinished below a prefix before a time, or (None) at any time.

        The empty prefix means only names without `/`.
        """
        ...

    # The place

    def is_there(self) -> bool:
        """Return whether the place can be reached."""
        ...

    def was_used(self, prefix: str) -> bool:
        """Return whether there ever was a value below a prefix that ends in `/`, as far as the place can tell.

        False where a pool has packs: its disk is not mounted.
        """
        ...

    def require_free(self, names: Collection[str]) -> None:
        """Raise Refused or AlreadyThere unless a pool can be made here: nothing is here, or only some of `names`.

        `names` are first parts of what an earlier try may have left.
        """
        ...

    def prepare(self, prefixes: Iterable[str]) -> None:
        """Make the place, and room below these prefixes that end in `/`, durably, as far as they have to be made."""
        ...

    def lock(self, name: str) -> Lock:
        """Open a lock, not taken yet; Refused, with the reason, where the place has none."""
        ...

    def space(self) -> Space | None:
        """Return the room of the place, or None where nobody can tell or there is no bound."""
        ...

    def making_room(self, step: Callable[[], Result]) -> Result:
        """Return `step()`, which makes room or comes before what does: on a full disk with what is kept for that.

        Full only when that does not help either (decision 14).
        """
        ...

    def keep_reserve(self, *, large: bool = False) -> None:
        """Keep something in reserve for `making_room`, where there is room for it; more of it with `large`."""
        ...

    def release_reserve(self) -> None:
        """Release what is kept in reserve, for a step that is sure to give it back."""
        ...

    def scratch(self, name: str) -> Path:
        """Return a directory on a local disk, which need not exist, for what this machine can make again or may lose.

        The index, and uploads on their way. Best on the disk of the values, when they are local.
        """
        ...
