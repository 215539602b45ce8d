"""What a pool asks of the place that keeps its bytes."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


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


class Backend(Protocol):
    """Named bytes. Names are relative paths with `/`, without empty, `.` or `..` parts (else BadInput).

    What is acknowledged survives a loss of power. Names that end in `.partial` or `.lock` belong to the backend.
    """

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return the bytes from `offset`, fewer when the value ends before; NotFound when there is no such name."""
        ...

    def size(self, name: str) -> int:
        """Return the bytes of a value; NotFound."""
        ...

    def create(self, name: str, data: bytes) -> None:
        """Store a value whole and durable; AlreadyThere when the name exists, also when two create at once."""
        ...

    def swap(self, name: str, *, expected: bytes | None, value: bytes | None) -> bool:
        """Replace `expected` by `value` and return True, or change nothing and return False.

        None means absent. Of several swaps at once with the same `expected`, exactly one returns True.
        """
        ...

    def settle(self, names: Iterable[str]) -> None:
        """Make names durable that others gave, who may have been killed on the way: before something rests on them."""
        ...

    def settle_below(self, prefix: str) -> None:
        """Make all names below a prefix that ends in `/` durable, and that others are gone."""
        ...

    def settle_seen(self, name: str) -> None:
        """Make what a swapped name means durable, or that it is absent, unless that is known: before it is told."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin with `prefix`, sorted by directory; a name added meanwhile may be missed."""
        ...

    def delete(self, name: str) -> None:
        """Remove a value durably; NotFound when it is not there."""
        ...

    def local_path(self, name: str) -> Path | None:
        """Return where a value can be mapped into memory, or None for a place that is not local."""
        ...

    def writer(self, name: str) -> BackendWriter:
        """Begin a value of unknown size. Two writers of one name at once are the caller's mistake."""
        ...
