"""Dumps that servers send: looked at before anything of them is kept, and checked before they have a name.

A server may send anything. In the first bytes is what a dump says that it is: it must be what was asked for. What
follows is passed on block by block, each after it was checked, so that what is no dump ends where it stops being one.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO, RawIOBase
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from dalsegno.chunks.realm import Realm
from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.merge import find_wanted
from dalsegno.dumps.verify import verify_stream
from dalsegno.formats.pack import KEY_AGE
from dalsegno.formats.pack_header import DumpNote
from dalsegno.pool.pack_read import open_note, read_opener
from dalsegno.terms.errors import Conflict, Damaged
from dalsegno.terms.ids import hex_short
from dalsegno.terms.sizes import KIB

HEAD_BYTES_MAX: Final = 64 * KIB
"""In so many bytes is the lineage of a dump that carries one state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for."""

    volume: bytes
    revision: bytes
    level: int
    base_dump: bytes
    """Empty: none."""
    for_readers: bool = False
    """It is to open by keys of its readers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A dump that came."""

    dump_id: bytes
    note: DumpNote
    size_bytes: int


def receive(
    pieces: Iterable[bytes], write: Callable[[bytes], object], *, realm: Realm, wanted: Wanted, whole: bool = True
) -> Received:
    """Pass on a dump as it comes, and return what it is; nothing of another than the `wanted` one.

    Conflict when it is another one, Damaged when it is none. Without `whole` only its head is looked at, for whom reads
    all of it again anyway.
    """
    head, rest = _take_head(iter(pieces))
    opener, _ = read_opener(BytesIO(head).read, realm)
    note = open_note(opener.header, realm)
    _require(note, wanted)
    if wanted.for_readers and not opener.header.keys_of(KEY_AGE):
        raise Conflict("it sent a dump that only members of the realm can open")
    passing = _Passing(chain([head], rest), write)
    if whole:
        verify_stream(cast(BinaryIO, passing), realm, report=lambda event: passing.pass_on())
    else:
        while passing.read(HEAD_BYTES_MAX):
            passing.pass_on()
    passing.pass_on()
    return Received(dump_id=opener.header.pack_id, note=note, size_bytes=passing.size_bytes)


def require_whole(path: Path, realm: Realm, *, wanted: Wanted) -> None:
    """Refuse, as Damaged, a dump whose index does not find all that its state needs."""
    with DumpChain.open([path], realm) as dump:
        find_wanted(dump, [wanted.revision])


def _take_head(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the first bytes, and the pieces with what is behind them."""
    head = bytearray()
    for piece in pieces:
        head += piece
        if len(head) >= HEAD_BYTES_MAX:
            break
    return bytes(head), pieces


def _require(note: DumpNote, wanted: Wanted) -> None:
    if not note.targets:
        raise Damaged("it sent a dump of nothing")
    sent = note.targets[-1].revision
    if sent != wanted.revision:
        raise Conflict(f"it sent revision {hex_short(sent)}, not {hex_short(wanted.revision)}")
    if (note.volume, note.level, note.base_dump) != (wanted.volume, wanted.level, wanted.base_dump):
        raise Conflict(f"it sent a dump of another volume, or of level {note.level}, and not the one asked for")


class _Passing(RawIOBase):
    """Bytes on their way: read by what checks them, and written only when it says so."""

    def __init__(self, pieces: Iterator[bytes], write: Callable[[bytes], object]) -> None:
        self._pieces = pieces
        self._write = write
        self._ahead = memoryview(b"")
        self._held: list[bytes] = []
        self.size_bytes = 0

    def read(self, count: int = -1) -> Any:
        """Return at most `count` of the next bytes; none at the end."""
        while not self._ahead:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._ahead = memoryview(piece)
        data = bytes(self._ahead[:count])
        self._ahead = self._ahead[count:]
        self._held.append(data)
        return data

    def pass_on(self) -> None:
        """Write what was read."""
        for data in self._held:
            self._write(data)
            self.size_bytes += len(data)
        self._held.clear()
