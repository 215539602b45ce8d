"""Shares of a dump in files: any k of n give it back (docs/formats/media.md, "Shares")."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import zfec
from blake3 import blake3

from dalsegno.archive.labels import Mounted, require_same, settle_label
from dalsegno.archive.media_set import dumps_directory
from dalsegno.archive.parts import SHARE_MARK, Pace, read_part_header
from dalsegno.backup.records import DUMP_SUFFIX, DumpEntry
from dalsegno.formats.media import (
    HEADER_DIGEST_BYTES,
    PART_SHARE,
    TAG_BYTES,
    PartHeader,
    chunk_tag,
    encode_part_header,
    stripe_count,
)
from dalsegno.terms.errors import DalError, Damaged, Full, Unavailable
from dalsegno.terms.events import Note, Progress, Report
from dalsegno.world.files import PRIVATE_FILE, PartialFile, file_errors, iterate_bytes, make_directory


class ShareReader:
    """The chunks of one share, each checked by its tag; a chunk that is not whole is None."""

    def __init__(self, path: Path) -> None:
        """Open a share. Damaged: it is none; NotFound."""
        self.path = path
        self.header, encoded = read_part_header(path)
        if self.header.kind != PART_SHARE:
            raise Damaged(f"{path}: is not a share")
        self._start = len(encoded)
        self._digest = encoded[-HEADER_DIGEST_BYTES:]
        with file_errors(path):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def chunk(self, stripe: int) -> bytes | None:
        """Return the chunk of a stripe."""
        length = self.header.length
        try:
            data = os.pread(self._descriptor, length + TAG_BYTES, self._start + stripe * (length + TAG_BYTES))
        except OSError:
            return None  # a failing disk: other shares have what is wanted
        whole = len(data) == length + TAG_BYTES and chunk_tag(self._digest, stripe, data[:length]) == data[length:]
        return data[:length] if whole else None

    def verify(self, *, report: Report, phase: str) -> int | None:
        """Read every chunk; return the first stripe whose chunk is damaged, or None when the share is whole."""
        count = stripe_count(self.header)
        for stripe in range(count):
            if self.chunk(stripe) is None:
                return stripe
            done = stripe * self.header.length
            report(Progress(phase=phase, done_bytes=done, total_bytes=count * self.header.length))
        return None

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def __enter__(self) -> "ShareReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def decode_stripe(readers: Sequence[ShareReader], stripe: int) -> list[bytes]:
    """Return the k primary chunks of a stripe, from any k shares whose chunk is whole. Damaged: there are fewer."""
    k, n = readers[0].header.needed, readers[0].header.parts
    chunks: dict[int, bytes] = {}
    for reader in readers:
        chunk = reader.chunk(stripe)
        if chunk is not None:
            chunks[reader.header.part] = chunk
            if len(chunks) == k:
                break
    if len(chunks) < k:
        names = ", ".join(str(reader.path) for reader in readers)
        raise Damaged(f"{names}: stripe {stripe}: {len(chunks)} whole chunks, {k} are needed: take another copy")
    if set(chunks) == set(range(k)):
        return [chunks[number] for number in range(k)]
    return list(zfec.Decoder(k, n).decode(tuple(chunks.values()), tuple(chunks)))


class SharedFile:
    """A dump in shares, read where they are, stripe by stripe. A PackFile."""

    def __init__(self, readers: Sequence[ShareReader], entry: DumpEntry, stack: ExitStack) -> None:
        self.path = readers[0].path
        self.size_bytes = entry.size_bytes
        self._readers = readers
        self._stack = stack
        self._stripe_bytes = readers[0].header.needed * readers[0].header.length
        self._last: tuple[int, bytes] = (-1, b"")

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes of the dump from `offset` on; Damaged when a stripe has too few whole chunks."""
        end = min(offset + length, self.size_bytes)
        parts = []
        while offset < end:
            stripe, within = divmod(offset, self._stripe_bytes)
            if self._last[0] != stripe:
                self._last = (stripe, b"".join(decode_stripe(self._readers, stripe)))
            parts.append(self._last[1][within : within + end - offset])
            offset += len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Give the shares back."""
        self._stack.close()


@dataclass(slots=True, kw_only=True)
class ShareWriter:
    """Writes shares of one dump side by side. A full directory is left out while `needed` others go on."""

    headers: Mapping[int, PartHeader]
    """By the number of the share; all have the same shape."""
    places: Mapping[int, Mounted]
    needed: int
    pace: Pace
    report: Report
    _files: dict[int, PartialFile] = field(default_factory=dict)
    _digests: dict[int, bytes] = field(default_factory=dict)

    def write(self, stripes: Iterable[tuple[bytes, ...]]) -> dict[int, Path]:
        """Write the shares, each durable and read back, and return where they are. Full, Unavailable, Damaged."""
        if not self.headers:
            return {}
        shape = next(iter(self.headers.values()))
        encoder = zfec.Encoder(shape.needed, shape.parts)
        total = max(header.dump_bytes for header in self.headers.values())
        with ExitStack() as stack:
            for number in self.headers:
                self._begin(number, stack)
            for stripe, chunks in enumerate(stripes):
                wanted = tuple(self._files)
                for number, chunk in zip(wanted, encoder.encode(chunks, wanted), strict=True):
                    self._write(number, chunk + chunk_tag(self._digests[number], stripe, chunk))
                done = sum(map(len, chunks))
                self.pace(done * len(self._files) // shape.needed)
                self.report(Progress(phase="archive", done_bytes=min(total, (stripe + 1) * done), total_bytes=total))
            for number, file in list(self._files.items()):
                with self._left_out_when_full(number):
                    file.commit()
            for number, file in self._files.items():
                self._read_back(number, file.path)
            return {number: file.path for number, file in self._files.items()}

    def _begin(self, number: int, stack: ExitStack) -> None:
        header, mounted = self.headers[number], self.places[number]
        settle_label(mounted)
        directory = dumps_directory(mounted.path)
        encoded = encode_part_header(header)
        self._digests[number] = encoded[-HEADER_DIGEST_BYTES:]
        make_directory(directory)
        file = PartialFile(directory / share_name(header.name, number), mode=PRIVATE_FILE)
        self._files[number] = stack.enter_context(file)
        self._write(number, encoded)

    def _write(self, number: int, data: bytes) -> None:
        with self._left_out_when_full(number):
            self._files[number].write(data)

    @contextlib.contextmanager
    def _left_out_when_full(self, number: int) -> Iterator[None]:
        try:
            yield
        except (Full, Unavailable) as error:
            self._drop(number, error)

    def _drop(self, number: int, error: DalError) -> None:
        self._files.pop(number).abandon()
        if len(self._files) < max(1, self.needed):
            raise error
        where = os.fsencode(self.places[number].path)
        self.report(Note(severity="note", path=where, text=f"{error}; its share is left out"))

    def _read_back(self, number: int, path: Path) -> None:
        with ShareReader(path) as reader:
            if (
                reader.header != self.headers[number]
                or reader.verify(report=self.report, phase="read back") is not None
            ):
                raise Damaged(f"{path}: read back, and it is not what was written: the disk is failing")
        require_same(self.places[number])


def share_name(name: str, number: int) -> str:
    """Return the file name of a share: `<dump>.share000`."""
    return f"{name}{SHARE_MARK.removeprefix(DUMP_SUFFIX)}{number:03d}"


def read_stripes(source: Path, entry: DumpEntry, *, k: int, chunk: int) -> Iterator[tuple[bytes, ...]]:
    """Yield the k primary chunks of every stripe, the last one filled up with zeros. Damaged: it is another dump."""
    hasher = blake3()
    pending = bytearray()

    def cut(data: bytes) -> tuple[bytes, ...]:
        return tuple(data[start : start + chunk] for start in range(0, k * chunk, chunk))

    for data in iterate_bytes(source):
        hasher.update(data)
        pending += data
        while len(pending) >= k * chunk:
            yield cut(bytes(pending[: k * chunk]))
            del pending[: k * chunk]
    if hasher.digest() != entry.digest:
        raise Damaged(f"{source}: is not the dump that was verified: its digest is another")
    if pending:
        yield cut(bytes(pending).ljust(k * chunk, b"\0"))
