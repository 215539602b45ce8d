"""Parts of dumps in files: a whole dump with its note, and slices. Written durably, read back from the medium."""

import os
import re
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from blake3 import blake3

from dalsegno.backup.records import DUMP_SUFFIX, Copy, DumpEntry
from dalsegno.formats import pack, pack_header
from dalsegno.formats.media import (
    DIGEST_BYTES,
    HEAD_BYTES_MAX,
    PART_NOTE,
    PART_SHARE,
    PART_SLICE,
    PREAMBLE,
    PartHeader,
    decode_part_header,
    encode_part_header,
    part_header_bytes,
    stripe_count,
)
from dalsegno.terms.errors import Damaged
from dalsegno.terms.events import Progress, Report
from dalsegno.terms.ids import hex_short
from dalsegno.world.files import PRIVATE_FILE, PartialFile, file_errors, iterate_bytes, write_durable

NOTE_SUFFIX: Final = ".note"
SHARE_MARK: Final = f"{DUMP_SUFFIX}.share"
_SLICE: Final = re.compile(r"\.dump\.s\d{3,}\Z")
Pace = Callable[[int], None]
"""Told how many bytes were copied; waits when that was too fast."""


def no_pace(count: int) -> None:
    """Let bytes go as fast as they can."""


def media_name(name: str, dump_id: bytes) -> str:
    """Return a dump's file name on media: that in the spool, with the dump id in it, and without colons (FAT, SMB)."""
    stem = name.removesuffix(DUMP_SUFFIX).replace(":", "")
    return f"{stem}{DUMP_SUFFIX}" if hex_short(dump_id) in stem else f"{stem}.{hex_short(dump_id)}{DUMP_SUFFIX}"


def slice_name(name: str, number: int) -> str:
    """Return the file name of a slice: `<dump>.s000`, `<dump>.s001`, ..."""
    return f"{name}.s{number:03d}"


def is_slice(copy: Copy) -> bool:
    """Return whether a copy on a disk is a slice, by its name."""
    return _SLICE.search(copy.place) is not None


def count_slices(copies: list[Copy], *, dump_bytes: int) -> list[Copy]:
    """Return the slices of one copy with how many there are: of those with a gap one more than are known, at least."""
    whole = sum(copy.size_bytes for copy in copies) == dump_bytes
    count = len(copies) if whole else max(len(copies), *(copy.part for copy in copies)) + 1
    return with_parts(copies, count=count)


def with_parts(copies: Sequence[Copy], *, count: int) -> list[Copy]:
    """Return the parts of one copy, all of which are needed, with how many there are."""
    return [replace(copy, parts=count, needed=count) for copy in copies]


def read_head(path: Path) -> bytes:
    """Return a dump's preamble, header and header digest; empty when they are too large to be repeated.

    Damaged when the file is no dump.
    """
    with file_errors(path), open(path, "rb") as file:
        preamble = file.read(pack.PREAMBLE.size)
        rest = pack_header.decode_preamble(preamble) + pack.HEADER_DIGEST_BYTES
        return preamble + file.read(rest) if len(preamble) + rest <= HEAD_BYTES_MAX else b""


def new_part_header(entry: DumpEntry, *, kind: int, name: str, head: bytes, now_ns: int) -> PartHeader:
    """Return the header of the first copy of the dump that `entry` describes; of parts, more is to be replaced."""
    return PartHeader(
        kind=kind,
        dump_id=entry.dump_id,
        dump_bytes=entry.size_bytes,
        dump_digest=entry.digest,
        copy=1,
        part=0,
        needed=0,
        parts=0,
        offset=0,
        length=0,
        name=name,
        head=head,
        set_name=entry.set_name,
        host=entry.host,
        received_at_ns=entry.received_at_ns,
        raw_bytes=entry.raw_bytes,
        entry_count=entry.entry_count,
        written_at_ns=now_ns,
    )


def read_part_header(path: Path) -> tuple[PartHeader, bytes]:
    """Return the header of a note, slice or share file, and its bytes as they are in the file. Damaged, NotFound."""
    with file_errors(path), open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Damaged(f"{path}: is no file")
        start = file.read(PREAMBLE.size)
        try:
            encoded = start + file.read(part_header_bytes(start) - len(start))
            return decode_part_header(encoded), encoded
        except Damaged as error:
            raise Damaged(f"{path}: {error}") from None


def counted(chunks: Iterator[bytes], *, phase: str, total: int, report: Report, pace: Pace) -> Iterator[bytes]:
    """Yield the chunks, reporting how far they are and waiting when they go too fast."""
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        pace(len(chunk))
        report(Progress(phase=phase, done_bytes=done, total_bytes=total))


def file_digest(path: Path, *, phase: str, report: Report, fresh: bool = True) -> bytes:
    """Return the BLAKE3 of a file, read from its medium."""
    hasher = blake3()
    with file_errors(path):
        total = path.stat().st_size
    for chunk in counted(iterate_bytes(path, fresh=fresh), phase=phase, total=total, report=report, pace=no_pace):
        hasher.update(chunk)
    return hasher.digest()


def write_whole(source: Path, place: Path, header: PartHeader, *, report: Report, pace: Pace) -> None:
    """Copy a dump to `place` and put its note beside it; durable, and read back, when it returns. Full, Damaged."""
    assert header.kind == PART_NOTE
    hasher = blake3()
    with PartialFile(place, mode=PRIVATE_FILE) as file:
        chunks = iterate_bytes(source)
        for chunk in counted(chunks, phase="archive", total=header.dump_bytes, report=report, pace=pace):
            hasher.update(chunk)
            file.write(chunk)
        if hasher.digest() != header.dump_digest:
            raise Damaged(f"{source}: is not the dump that was verified: its digest is another")
        file.commit()
    check_whole(place, header.dump_digest, report=report)
    write_durable(place.with_name(place.name + NOTE_SUFFIX), encode_part_header(header))


def check_whole(place: Path, digest: bytes, *, report: Report) -> None:
    """Read a whole dump back from its medium; Damaged when it is not what was written."""
    if file_digest(place, phase="read back", report=report) != digest:
        raise Damaged(f"{place}: read back, and the bytes are not those that were written: the medium is failing")


def write_slice(source: Path, place: Path, header: PartHeader, *, hasher: blake3, report: Report, pace: Pace) -> blake3:
    """Write one slice of a dump, read it back, and return `hasher` (the dump so far) with it added. Full, Damaged."""
    assert header.kind == PART_SLICE
    whole, own = hasher.copy(), blake3()
    with PartialFile(place, mode=PRIVATE_FILE) as file:
        encoded = encode_part_header(header)
        file.write(encoded)
        chunks = iterate_bytes(source, offset=header.offset, length=header.length)
        for chunk in counted(chunks, phase="archive", total=header.length, report=report, pace=pace):
            whole.update(chunk)
            own.update(chunk)
            file.write(chunk)
        if file.offset != len(encoded) + header.length:
            raise Damaged(f"{source}: became shorter while it was copied")
        file.write(own.digest())
        file.commit()
    if b"".join(iterate_bytes(place, length=len(encoded), fresh=True)) != encoded:
        raise Damaged(f"{place}: read back, and the header is not what was written: the medium is failing")
    for _ in iterate_slice(place, report=report, phase="read back"):
        pass
    return whole


def iterate_slice(place: Path, *, report: Report, phase: str, skip: int = 0) -> Iterator[bytes]:
    """Yield a slice's payload from `skip` on; at its end, Damaged when it is not what was written."""
    header, encoded = read_part_header(place)
    if header.kind != PART_SLICE:
        raise Damaged(f"{place}: is not a slice")
    hasher = blake3()
    position = 0
    chunks = iterate_bytes(place, offset=len(encoded), length=header.length, fresh=True)
    for chunk in counted(chunks, phase=phase, total=header.length, report=report, pace=no_pace):
        hasher.update(chunk)
        if position + len(chunk) > skip:
            yield chunk[max(0, skip - position) :]
        position += len(chunk)
    digest = b"".join(iterate_bytes(place, offset=len(encoded) + header.length, length=DIGEST_BYTES))
    if position != header.length or hasher.digest() != digest:
        raise Damaged(f"{place}: damaged: take another copy")


def copy_of(header: PartHeader, *, target: str, medium: str, place: str, verdict: str, checked_at_ns: int) -> Copy:
    """Return the catalog's row for a part that was found on a medium. Slices: `parts` is what is known so far."""
    slices = header.kind == PART_SLICE
    return Copy(
        dump_id=header.dump_id,
        target=target,
        number=header.copy,
        part=header.part,
        parts=header.parts or (header.part + 1 if slices else 1),
        needed=header.needed or (header.part + 1 if slices else 1),
        medium=medium,
        place=place,
        size_bytes=_part_bytes(header),
        written_at_ns=header.written_at_ns,
        checked_at_ns=checked_at_ns,
        verdict=verdict,
    )


def _part_bytes(header: PartHeader) -> int:
    """Return how much of the medium a part takes, without headers and tags."""
    if header.kind == PART_SHARE:
        return stripe_count(header) * header.length
    return header.length if header.kind == PART_SLICE else header.dump_bytes


class SlicedFile:
    """A dump in slices, read where they are. A PackFile."""

    def __init__(self, paths: Sequence[Path], entry: DumpEntry) -> None:
        """Open the slices, given in their order. Damaged when they are not the whole of the dump."""
        self.path = paths[0]
        self.size_bytes = entry.size_bytes
        self._descriptors: list[int] = []
        self._starts: list[int] = []
        """Where in the dump each slice begins."""
        self._payloads: list[int] = []
        """Where in its file each slice's payload begins."""
        end = 0
        try:
            for path in paths:
                header, encoded = read_part_header(path)
                if header.dump_id != entry.dump_id or header.offset != end:
                    raise Damaged(f"{path}: is not the next slice of dump {hex_short(entry.dump_id)}")
                with file_errors(path):
                    self._descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                self._starts.append(end)
                self._payloads.append(len(encoded))
                end += header.length
            if end != entry.size_bytes:
                raise Damaged(f"{self.path}: the last slices of dump {hex_short(entry.dump_id)} are missing")
        except BaseException:
            self.close()
            raise

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes of the dump from `offset` on."""
        parts = []
        end = min(offset + length, self.size_bytes)
        while offset < end:
            number = bisect_right(self._starts, offset) - 1
            slice_end = self._starts[number + 1] if number + 1 < len(self._starts) else self.size_bytes
            within = offset - self._starts[number]
            data = os.pread(self._descriptors[number], min(end, slice_end) - offset, self._payloads[number] + within)
            if not data:
                break
            parts.append(data)
            offset += len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Give the descriptors back."""
        while self._descriptors:
            os.close(self._descriptors.pop())
