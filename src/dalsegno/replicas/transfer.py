"""Copy objects between two sites: ask what is missing, fetch it in groups as packs, upload them, adopt.

Chunks name nothing: they go first and are adopted group by group, so that a transfer that was cut off begins behind
them. Directories, recipes and revisions go last and are adopted as one, so that nothing there ever names what is not.
The next group is fetched while the last one goes up and the one before is checked.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np

from dalsegno.formats import objects, pack, pack_header
from dalsegno.formats.object_rows import ROW_BYTES, Rows, as_rows, read_rows, row_ids, row_kinds, row_lengths
from dalsegno.replicas.contract import BATCH_BYTES_TARGET, BATCH_IDS_MAX, Site
from dalsegno.terms.errors import DalError, Damaged, NotFound, Unavailable
from dalsegno.terms.events import Progress, Report, silent
from dalsegno.terms.ids import OBJECT_ID_BYTES
from dalsegno.terms.sizes import MIB
from dalsegno.world.files import ScratchFile
from dalsegno.world.workers import Lane

SPOOL_MEMORY_BYTES_MAX: Final = 8 * MIB
PIECE_BYTES: Final = 1 * MIB
TRIES_MAX: Final = 3
"""How often a pack is fetched, or its upload is taken up again, before a site counts as away."""
GIVES_UP_ON: Final = (Unavailable, NotFound, Damaged)
"""What a source may answer when another one can still do: away, without the revision any more, or rotten."""
GROUPS_WAITING_MAX: Final = 1
PACKED_BYTES_MAX: Final = 4096
"""What a pack holds of an object besides its payload, at most: record, rows of indexes, its part of blocks' frames."""


class Origin(Protocol):
    """Where objects are copied from: a Site, or a chain of dumps that stands for one."""

    @property
    def name(self) -> str:
        """What progress calls it."""
        ...

    def missing(self, volume: str, targets: Sequence[bytes], bases: Sequence[bytes]) -> Iterator[bytes]:
        """Yield the rows of what `targets` reach and `bases` do not."""
        ...

    def objects(self, volume: str, ids: bytes) -> Iterator[bytes]:
        """Yield the bytes of a pack of these objects."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What a copy took."""

    objects: int = 0
    bytes_crossed: int = 0
    """Bytes of the packs that went up, and of the ids that were asked about."""
    payload_bytes: int = 0
    """What the objects are before they are compressed."""

    def __add__(self, other: "Transferred") -> "Transferred":
        return Transferred(
            objects=self.objects + other.objects,
            bytes_crossed=self.bytes_crossed + other.bytes_crossed,
            payload_bytes=self.payload_bytes + other.payload_bytes,
        )


NOTHING: Final = Transferred()


class Spool:
    """Bytes on their way: in memory while they are few, else in a scratch file. A PackFile."""

    path = Path("a pack on its way")

    def __init__(self, memory_bytes_max: int = SPOOL_MEMORY_BYTES_MAX) -> None:
        self.size_bytes = 0
        self._memory_bytes_max = memory_bytes_max
        self._memory = bytearray()
        self._file: ScratchFile | None = None

    def write(self, data: bytes) -> None:
        """Append `data`."""
        if self._file is None and self.size_bytes + len(data) > self._memory_bytes_max:
            self._file = ScratchFile()
            if self._memory:
                self._file.append(self._memory)
            self._memory = bytearray()
        if self._file is None:
            self._memory += data
        else:
            self._file.append(data)
        self.size_bytes += len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes from `offset` on, fewer than `length` only at the end."""
        length = min(length, max(0, self.size_bytes - offset))
        if self._file is None:
            return bytes(memoryview(self._memory)[offset : offset + length])
        return self._file.read(offset, length)

    def pieces(self, offset: int = 0) -> Iterator[bytes]:
        """Yield what follows `offset`."""
        while offset < self.size_bytes:
            data = self.read_at(offset, PIECE_BYTES)
            offset += len(data)
            yield data

    def pack_id(self) -> bytes:
        """Return the id of the pack that the bytes are."""
        header_bytes = pack_header.decode_preamble(self.read_at(0, pack.PREAMBLE.size))
        return pack_header.decode_header(self.read_at(pack.PREAMBLE.size, header_bytes)).pack_id

    def close(self) -> None:
        """Give the room back."""
        self._memory = bytearray()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _RowFile:
    """Rows in the order in which they came, more than memory has room for if need be."""

    def __init__(self) -> None:
        self._spool = Spool()
        self.count = 0
        self.payload_bytes = 0

    def add(self, rows: Rows) -> None:
        if len(rows):
            self._spool.write(rows.tobytes())
            self.count += len(rows)
            self.payload_bytes += int(row_lengths(rows).sum())

    def batches(self) -> Iterator[Rows]:
        step = BATCH_IDS_MAX * ROW_BYTES
        for offset in range(0, self._spool.size_bytes, step):
            yield as_rows(self._spool.read_at(offset, step))

    def close(self) -> None:
        self._spool.close()


def cut_groups(batches: Iterable[Rows]) -> Iterator[Rows]:
    """Yield the rows in groups of about BATCH_BYTES_TARGET payload and at most BATCH_IDS_MAX."""
    held = np.empty((0, ROW_BYTES), np.uint8)
    for rows in batches:
        held = np.concatenate((held, rows)) if len(held) else rows
        while len(held):
            ends = np.cumsum(row_lengths(held))
            count = min(int(np.searchsorted(ends, BATCH_BYTES_TARGET)) + 1, BATCH_IDS_MAX)
            if count >= len(held):
                break
            yield held[:count]
            held = held[count:]
    if len(held):
        yield held


def fetch(source: Origin, volume: str, ids: bytes, *, payload_bytes: int | None = None) -> Spool:
    """Return a pack of the objects with these joined ids, which have `payload_bytes`; Damaged when it is larger."""
    count = len(ids) // OBJECT_ID_BYTES
    most = count * objects.OBJECT_BYTES_MAX if payload_bytes is None else payload_bytes
    most += count * PACKED_BYTES_MAX + pack.HEADER_BYTES_MAX
    for tries_left in reversed(range(TRIES_MAX)):
        spool = Spool()
        try:
            for piece in source.objects(volume, ids):
                spool.write(piece)
                if spool.size_bytes > most:
                    raise Damaged(f"{source.name}: sent more than the {count} objects that were asked for")
            return spool
        except Unavailable:
            spool.close()
            if not tries_left:
                raise
        except BaseException:
            spool.close()
            raise
    raise AssertionError("unreachable")


def send(to: Site, volume: str, spool: Spool) -> bytes:
    """Upload a pack, go on where an upload was cut off, and return the pack's id."""
    pack_id = spool.pack_id()
    offset = 0
    for tries_left in reversed(range(TRIES_MAX)):
        try:
            if to.upload(volume, pack_id, offset, spool.pieces(offset)) == spool.size_bytes:
                return pack_id
            offset = to.upload_size(volume, pack_id)
        except Unavailable:
            if not tries_left:
                raise
            offset = _size_there(to, volume, pack_id)
    raise Unavailable(f"{to.name}: an upload does not get through: try again")


def _size_there(to: Site, volume: str, pack_id: bytes) -> int:
    for tries_left in reversed(range(TRIES_MAX)):
        try:
            return to.upload_size(volume, pack_id)
        except Unavailable:
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def copy(
    source: Origin,
    to: Site,
    volume: str,
    targets: Sequence[bytes],
    bases: Sequence[bytes] = (),
    *,
    report: Report = silent,
) -> Transferred:
    """Make the revisions `targets` whole at `to`, which has `bases` whole, with all that they name.

    Only what is not there crosses. What was sent by a copy that was cut off is there.
    """
    done = _Copy(source, to, volume, report)
    try:
        return done.run(targets, bases)
    except _BaseNotWhole as error:
        # What lay behind a base was not all there: compare everything. Nearly all of it is there still.
        again = _Copy(source, to, volume, report)
        try:
            return done.figures() + again.run(targets, ())
        except _BaseNotWhole:
            raise error.because from None


class _BaseNotWhole(Exception):
    def __init__(self, because: NotFound) -> None:
        super().__init__(str(because))
        self.because = because


class _Copy:
    """One run of `copy`."""

    def __init__(self, source: Origin, to: Site, volume: str, report: Report) -> None:
        self._source = source
        self._to = to
        self._volume = volume
        self._report = report
        self._objects = 0
        self._bytes_crossed = 0
        self._payload_bytes = 0
        self._done_bytes = 0
        self._total_bytes = 0
        self._metadata: list[bytes] = []
        self._spools: set[Spool] = set()

    def figures(self) -> Transferred:
        return Transferred(objects=self._objects, bytes_crossed=self._bytes_crossed, payload_bytes=self._payload_bytes)

    def run(self, targets: Sequence[bytes], bases: Sequence[bytes]) -> Transferred:
        with ExitStack() as ending:
            chunks, metadata = _RowFile(), _RowFile()
            ending.callback(chunks.close)
            ending.callback(metadata.close)
            ending.callback(self._drop_spools)
            answer = self._source.missing(self._volume, targets, bases)
            for rows in read_rows(answer, of=self._source.name):
                is_chunk = row_kinds(rows) == objects.KIND_CHUNK
                chunks.add(rows[is_chunk])
                metadata.add(rows[~is_chunk])
            self._total_bytes = chunks.payload_bytes + metadata.payload_bytes
            parts = [(file, adopt) for file, adopt in ((chunks, True), (metadata, False)) if file.count]
            groups = ((group, adopt) for file, adopt in parts for group in cut_groups(self._wanted(file)))
            self._move(groups, ending)
            if self._metadata:
                try:
                    self._to.adopt(self._volume, self._metadata)
                except NotFound as error:
                    raise _BaseNotWhole(error) from None
        return self.figures()

    def _wanted(self, file: _RowFile) -> Iterator[Rows]:
        for rows in file.batches():
            ids = row_ids(rows)
            answer = np.frombuffer(self._to.have(self._volume, ids), np.uint8)
            if len(answer) != len(rows):
                raise Damaged(f"{self._to.name}: asked about {len(rows)} objects, told about {len(answer)}")
            self._bytes_crossed += len(ids) + len(answer)
            wanted = rows[answer == 0]
            self._tell(int(row_lengths(rows[answer != 0]).sum()))
            yield wanted

    def _move(self, groups: Iterator[tuple[Rows, bool]], ending: ExitStack) -> None:
        """Fetch and send group after group; with more than one, side by side."""
        first = next(groups, None)
        if first is None:
            return
        spool = self._fetch(first[0])
        second = next(groups, None)
        if second is None:
            self._send(spool, first, None)
            return
        uploads = Lane(GROUPS_WAITING_MAX)
        ending.callback(uploads.close)
        checks = Lane(GROUPS_WAITING_MAX)
        ending.callback(checks.close)
        uploads.submit(self._send, spool, first, checks)
        following: tuple[Rows, bool] | None = second
        while following is not None:
            uploads.submit(self._send, self._fetch(following[0]), following, checks)
            following = next(groups, None)
        uploads.drain()
        checks.drain()

    def _fetch(self, rows: Rows) -> Spool:
        payload_bytes = int(row_lengths(rows).sum())
        spool = fetch(self._source, self._volume, row_ids(rows), payload_bytes=payload_bytes)
        self._spools.add(spool)
        return spool

    def _drop_spools(self) -> None:
        for spool in self._spools:
            spool.close()

    def _send(self, spool: Spool, group: tuple[Rows, bool], checks: Lane | None) -> None:
        rows, adopt = group
        with spool:
            pack_id = send(self._to, self._volume, spool)
            self._bytes_crossed += spool.size_bytes
        self._spools.discard(spool)
        if not adopt:
            self._metadata.append(pack_id)
        elif checks is None:
            self._to.adopt(self._volume, [pack_id])
        else:
            checks.submit(self._to.adopt, self._volume, [pack_id])
        payload_bytes = int(row_lengths(rows).sum())
        self._objects += len(rows)
        self._payload_bytes += payload_bytes
        self._tell(payload_bytes)

    def _tell(self, more_bytes: int) -> None:
        self._done_bytes += more_bytes
        self._report(
            Progress(
                phase=f"copy to {self._to.name}",
                done_bytes=self._done_bytes,
                total_bytes=self._total_bytes,
                done_count=self._objects,
            )
        )


def bring(
    volume: str,
    targets: Sequence[bytes],
    bases: Sequence[bytes],
    *,
    sources: Sequence[Site],
    to: Site,
    report: Report = silent,
) -> Transferred:
    """Make `targets` whole at `to`, from the first source that can; the next goes on where one ends in the middle."""
    assert sources and targets
    failure: DalError | None = None
    for source in sources:
        try:
            return copy(source, to, volume, targets, bases, report=report)
        except GIVES_UP_ON as error:
            failure = error
            to.state(volume)  # raises when it is the target that is away
    assert failure is not None
    raise failure
