"""Read a pack: any object by its place on a file, or block after block from a stream; every byte checked."""

import struct
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from dalsegno.backends.contract import OpenValue
from dalsegno.backends.value_file import OneFile
from dalsegno.chunks.realm import DumpReader, Realm
from dalsegno.chunks.recipients import open_sealed
from dalsegno.formats import pack, pack_block, pack_header
from dalsegno.formats.pack_block import decompress
from dalsegno.formats.pack_footer import check_footer, decode_footer
from dalsegno.formats.pack_index import as_table, decode_rows, new_table
from dalsegno.formats.pack_records import apply_delta, read_record, view_record
from dalsegno.formats.pack_trailer import decode_trailer, trailer_bytes_max
from dalsegno.pool.blocks import PACK_BLOCKS_BYTES_MAX, Blocks
from dalsegno.pool.marks import find_rows
from dalsegno.pool.pack_seal import BlockSeal
from dalsegno.terms.errors import Damaged, NoAccess, NotFound, Refused
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId, hex_short
from dalsegno.world.files import file_errors
from dalsegno.world.workers import Workers

AGE_KEYS_MAX = 4
"""So many are tried of a pack: each costs time, and a writer makes two at most."""


@dataclass(frozen=True, slots=True)
class Opener:
    """What opens the blocks of one pack."""

    header: pack_header.PackHeader
    header_end: int
    _seal: BlockSeal
    generation: int
    """That of the realm's secret under which the pack's key is; of a pack that is not sealed, the newest."""

    @property
    def layout(self) -> pack.Layout:
        """Where the fields of the pack's version stand."""
        return self.header.layout

    def open(self, frame: bytes, body: bytes | memoryview, number: int, *, offset: int) -> pack_block.Body:
        """Return what a stored block holds, its tag checked; Damaged names the offset."""
        opened = self._seal.open(frame, body, number, offset=offset)
        return pack_block.decode_body(self.layout, frame, opened, offset=offset)


def read_opener(read: Callable[[int], bytes], realm: Realm) -> tuple[Opener, bytes]:
    """Read preamble and header through `read` and return the opener and the bytes read.

    Damaged, TooNew, Refused for another realm's pack, NoAccess when its key does not open.
    """
    front = pack_header.read_front(read)
    header = pack_header.decode_front(front)
    if header.realm != realm.realm_id:
        raise Refused(
            f"pack {hex_short(header.pack_id)} belongs to realm {hex_short(header.realm)}, "
            f"this pool to realm {hex_short(realm.realm_id)}; use its own pool, or make one with its key: "
            "`dal init POOL --join KEYFILE`"
        )
    key, generation = b"", realm.generation
    if header.seal == pack.SEAL_AES_256_GCM:
        key, generation = open_pack_key(header, realm)
        if len(key) != pack.KEY_BYTES:
            raise Damaged(f"pack header damaged at offset {pack.PREAMBLE.size}: a key of {len(key)} bytes")
    seal = BlockSeal(key=key, block_key=realm.block_key, header_digest=pack_header.header_digest(front))
    return Opener(header, len(front), seal, generation), front


def pack_key(header: pack_header.PackHeader, realm: Realm) -> bytes:
    """Return the key of a sealed pack; NoAccess when none of the realm's secrets opens it."""
    return open_pack_key(header, realm)[0]


def open_pack_key(header: pack_header.PackHeader, realm: Realm) -> tuple[bytes, int]:
    """Return the key of a sealed pack, and the generation of the realm's secret that opens it.

    NoAccess when none of the realm's does.
    """
    for wrapped in header.keys_of(pack.KEY_REALM):
        with suppress(NoAccess):
            return realm.unwrap_key(wrapped, context=header.pack_id)
    key, _, generation = _sealed_key(header, realm.open_sealed)
    return key, generation


def _sealed_key(
    header: pack_header.PackHeader, open_sealed: Callable[[bytes], tuple[bytes, int]]
) -> tuple[bytes, bytes, int]:
    """Return the key of the pack and that of object ids, as they are sealed to a public key of a generation."""
    for sealed in header.keys_of(pack.KEY_AGE)[:AGE_KEYS_MAX]:
        with suppress(NoAccess, struct.error):
            opened, generation = open_sealed(sealed)
            pack_id, key, id_key = pack.SEALED_KEY.unpack(opened)
            if pack_id == header.pack_id:
                return key, id_key, generation
    raise NoAccess(
        "the pack's key does not open with this key (was the key changed elsewhere? `dal key rotate --to COPY` here, "
        "or `dal key import COPY`)"
    )


def open_as_reader(path: Path, identity: Any) -> DumpReader:
    """Return what reads a dump that was made for the owner of a private key (chunks/recipients.py), and its increments.

    NoAccess when it was not made for him; Damaged when it is no dump.
    """
    with file_errors(path), open(path, "rb") as stream:
        header = pack_header.decode_front(pack_header.read_front(stream.read))
    if not header.keys_of(pack.KEY_AGE):
        raise NoAccess(f"{path}: was not made for a single reader: it opens with the key of its pool")
    try:
        _, id_key, _ = _sealed_key(header, lambda sealed: (open_sealed(sealed, [identity]), 1))
    except NoAccess:
        raise NoAccess(f"{path}: was made for somebody else: this private key does not open it") from None
    return DumpReader(identity, realm_id=header.realm, id_key=id_key)


def open_note(header: pack_header.PackHeader, realm: Realm) -> pack_header.DumpNote:
    """Return a dump's lineage from its header; Refused for a pool's pack, Damaged, NoAccess."""
    if header.kind != pack.PACK_DUMP:
        raise Refused(f"pack {hex_short(header.pack_id)} is a pool's pack, not a dump")
    if header.seal != pack.SEAL_AES_256_GCM:
        return pack_header.decode_note(header.note)
    if header.version == 1:
        return pack_header.decode_note(realm.open_value(header.note, context=header.pack_id))
    try:
        note = AESGCM(pack_key(header, realm)).decrypt(pack.NOTE_NONCE, header.note, header.pack_id)
    except InvalidTag:
        raise Damaged("dump header damaged: its note does not open with the pack's key") from None
    return pack_header.decode_note(note)


PackFile = OpenValue
"""The bytes of one pack, wherever they are: in a place of values, in slices on several disks, in shares."""


class PackReader:
    """Random access to one pack. Also a Source: `get` finds an object by the pack's own index."""

    def __init__(self, file: PackFile, realm: Realm, trailer_bytes_max: int = pack.TRAILER_RAW_BYTES_MAX) -> None:
        self.path = file.path
        self.file = file
        self.realm = realm
        self.size_bytes = file.size_bytes
        position = 0

        def read(length: int) -> bytes:
            nonlocal position
            data = file.read_at(position, min(length, max(0, self.size_bytes - position)))
            position += len(data)
            return data

        self._opener, _ = read_opener(read, realm)
        self.header = self._opener.header
        self.pack_id = self.header.pack_id
        self.frame_bytes = self._opener.layout.frame.size
        self._read_trailer(trailer_bytes_max)
        self._columns: tuple[NDArray[np.uint8], NDArray[np.uint32]] | None = None
        self._prefixes: memoryview | None = None
        self._blocks = Blocks(PACK_BLOCKS_BYTES_MAX)
        self.damaged_blocks: set[int] = set()
        """What `verify` found."""

    @classmethod
    def open(
        cls, place: Path | str | PackFile, realm: Realm, *, trailer_bytes_max: int = pack.TRAILER_RAW_BYTES_MAX
    ) -> "PackReader":
        """Open the pack at a path, or in an open PackFile, which is the reader's from now on.

        No table of blocks of more than `trailer_bytes_max` is read.
        Damaged, Refused (another realm) or NoAccess name the file.
        """
        file = OneFile(Path(place)) if isinstance(place, (Path, str)) else place
        try:
            with file_errors(file.path):  # a directory can be opened, but not read
                return cls(file, realm, trailer_bytes_max)
        except Damaged as error:
            file.close()
            raise Damaged(f"{file.path}: {error}") from None
        except BaseException:
            file.close()
            raise

    @property
    def header_end(self) -> int:
        """Where the first block is in the file."""
        return self._opener.header_end

    @property
    def generation(self) -> int:
        """That of the realm's secret under which the pack's key is; of a pack that is not sealed, the newest."""
        return self._opener.generation

    def close(self) -> None:
        """Give the file back."""
        self.file.close()

    def __enter__(self) -> "PackReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read_trailer(self, bytes_max: int) -> None:
        size = self.size_bytes
        layout = self._opener.layout
        footer_start = max(0, size - layout.footer.size)
        footer = decode_footer(layout, self.file.read_at(footer_start, layout.footer.size))
        if footer is None:
            raise Damaged(f"pack cut short or damaged at offset {size}: no footer")
        # A count that cannot be true is reported before memory is asked for.
        check_footer(layout, footer, header_end=self._opener.header_end, file_bytes=size)
        offset, block_count = footer.trailer_offset, footer.block_count
        if footer.trailer_bytes > bytes_max + pack.STORED_OVERHEAD_BYTES_MAX:
            raise Damaged(f"pack footer damaged at offset {footer_start}: a table of {footer.trailer_bytes} bytes")
        body = self._open_body(offset, footer.trailer_bytes, block_count)
        if body.raw_bytes > min(trailer_bytes_max(layout, block_count), bytes_max):
            raise Damaged(f"pack trailer damaged at offset {offset}: {body.raw_bytes} bytes for {block_count} blocks")
        table = decode_trailer(layout, decompress(body, offset=offset), block_count, offset=offset)
        object_count = footer.object_count if table.object_count is None else table.object_count
        # An id is 32 bytes that nothing compresses.
        if object_count is None or object_count * OBJECT_ID_BYTES > size:
            raise Damaged(f"pack damaged at offset {offset}: {object_count} objects do not fit")
        self.digest = footer.digest
        self.trailer_offset = offset
        self.block_count = block_count
        self.object_count = object_count
        self.offsets, self.stored, self.raw, self.types = table.offsets, table.stored, table.raw, table.types

    def _open_body(self, offset: int, stored_total: int, number: int) -> pack_block.Body:
        """Return what a block holds, its sizes and its tag checked."""
        data = self.file.read_at(offset, stored_total)
        if len(data) < stored_total or stored_total < self.frame_bytes:
            raise Damaged(f"pack cut short at offset {offset + len(data)}")
        frame = data[: self.frame_bytes]
        if pack_block.decode_frame(self._opener.layout, frame, offset=offset) + self.frame_bytes != stored_total:
            raise Damaged(f"pack damaged at offset {offset}: block length")
        return self._opener.open(frame, memoryview(data)[self.frame_bytes :], number, offset=offset)

    def block_body(self, number: int) -> pack_block.Body:
        """Return a block as it is compressed: how merge copies whole blocks. Damaged when its tag is wrong."""
        try:
            return self._open_body(int(self.offsets[number]), int(self.stored[number]) + self.frame_bytes, number)
        except Damaged as error:
            raise Damaged(f"{self.path}: {error}") from None

    def read_block(self, number: int) -> bytes:
        """Return the raw block `number`; Damaged when there is none, or its tag is wrong."""
        if not 0 <= number < self.block_count:
            raise Damaged(f"{self.path}: the index names block {number} of {self.block_count}")
        try:
            offset = int(self.offsets[number])
            body = self._open_body(offset, int(self.stored[number]) + self.frame_bytes, number)
            return decompress(body, offset=offset)
        except Damaged as error:
            raise Damaged(f"{self.path}: {error}") from None

    def cached_block(self, number: int) -> bytes:
        """Return the raw block `number`, from a small cache of those read last."""
        return self._blocks.get(self, number)

    def read_ahead(self, workers: Workers | None) -> None:
        """Let `workers` open the next blocks when this pack is read in order; None, before they end, ends it."""
        self._blocks.read_ahead(workers)

    def objects(self) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """Return the sorted columns of the pack's index: ids (n, 32) and values (n, 4). Damaged; they are kept."""
        if self._columns is None:
            numbers = np.flatnonzero(self.types == pack.BLOCK_INDEX)
            table_bytes = int(self.raw[numbers].sum(dtype=np.uint64))
            if table_bytes != self.object_count * pack.INDEX_ROW_BYTES:
                offset = int(self.offsets[numbers[0]]) if len(numbers) else self.size_bytes
                raise Damaged(
                    f"{self.path}: index at offset {offset}: {table_bytes} bytes for {self.object_count} objects"
                )
            # One table, filled block by block: the columns are views of it.
            table = new_table(self.object_count)
            filled = 0
            for number in numbers.tolist():
                raw = self.read_block(number)
                if len(raw) % pack.INDEX_ROW_BYTES:
                    raise Damaged(f"{self.path}: index block {number} has a torn row")
                rows = as_table(raw)
                if filled + len(rows) <= self.object_count:
                    table[filled : filled + len(rows)] = rows
                filled += len(rows)
            if filled != self.object_count:
                raise Damaged(f"{self.path}: the index has {filled} rows, the footer says {self.object_count}")
            self._columns = decode_rows(table)
        return self._columns

    def forget_lookups(self) -> None:
        """Give back the memory that only find() and the gets need, until somebody asks again."""
        self._prefixes = None
        self._blocks.clear()

    def forget_objects(self) -> None:
        """Give back the memory of objects(), too."""
        self.forget_lookups()
        self._columns = None

    def find(self, identity: bytes) -> int | None:
        """Return the row of `identity` in objects(), or None."""
        prefixes = self._prefixes
        if prefixes is None:
            prefixes = self._prefixes = self._read_prefixes()
        wanted = int.from_bytes(identity[:8], "big")
        row = bisect_left(prefixes, wanted)
        if row < len(prefixes) and prefixes[row] == wanted:
            ids, _ = self.objects()
            while row < len(prefixes) and prefixes[row] == wanted:
                if ids[row].tobytes() == identity:
                    return row
                row += 1
        return None

    def _read_prefixes(self) -> memoryview:
        ids, _ = self.objects()
        prefixes = np.ascontiguousarray(ids[:, :8]).view(">u8").astype(np.uint64).reshape(-1)
        return memoryview(prefixes.tobytes()).cast("Q")

    def find_rows(self, ids: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Return the rows of (n, 32) ids in objects(), -1 for those that are not there."""
        if self._prefixes is None:
            self._prefixes = self._read_prefixes()
        return find_rows(np.frombuffer(self._prefixes, np.uint64), self.objects()[0][:, 8:], ids, self.find)

    def get(self, identity: ObjectId, /) -> bytes:
        """Return an object by its id."""
        return self._get(identity, 0)[1]

    def get_kind(self, identity: bytes) -> tuple[int, bytes]:
        """Return kind and payload of an object by its id."""
        return self._get(identity, 0)

    def _get(self, identity: bytes, depth: int) -> tuple[int, bytes]:
        row = self.find(identity)
        if row is None:
            raise NotFound(f"{self.path}: object {hex_short(identity)} is not in this pack")
        return self.get_row(row, identity, depth)

    def get_row(self, row: int, identity: bytes, depth: int = 0) -> tuple[int, bytes]:
        """Return kind and payload of the object in row `row` of objects(), which find() gave."""
        kind, payload = self.view_row(row, identity, depth)
        return kind, bytes(payload)

    def view_row(self, row: int, identity: bytes, depth: int = 0) -> tuple[int, bytes | memoryview]:
        """Return the same as a view, which keeps its whole block in memory; Damaged, NotFound for a delta's base."""
        block, place, _, _ = self.objects()[1][row].tolist()
        kind, payload, base = view_record(self.cached_block(block), place & pack.OFFSET_MASK, identity)
        if base is None:
            return kind, payload
        if depth >= pack.DELTA_DEPTH_MAX:
            raise Damaged(f"{self.path}: object {hex_short(identity)}: its chain of deltas is too long")
        return kind, apply_delta(payload, self._get(base, depth + 1)[1])

    def __contains__(self, identity: bytes) -> bool:
        return self.find(identity) is not None

    def read_object(self, block: int, offset: int, identity: bytes) -> tuple[int, bytes, bytes | None]:
        """Return (kind, payload, base id or None) of the record at a place that some index named."""
        return read_record(self.cached_block(block), offset, identity)
