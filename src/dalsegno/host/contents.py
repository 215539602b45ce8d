"""Store the content of files that are scanned, each as it was at one moment, as far as its times can tell."""

import errno
import os
from stat import S_IFREG
from typing import Final, NamedTuple

from dalsegno.chunks.cut import Cutter
from dalsegno.formats import objects
from dalsegno.formats.scan_cache import unproven
from dalsegno.host.attributes import StatxBuffer
from dalsegno.host.fields import BLOCKS, FORM_MASK, MODE, SIZE, Fields, is_at, key_of
from dalsegno.host.findings import Findings
from dalsegno.pool.contract import Sink
from dalsegno.terms.sizes import GIB, KIB
from dalsegno.trees.build import store_data

SMALL_BYTES_MAX: Final = 128 * KIB
"""Files up to this size without holes are one chunk, read at once."""
READ_TRIES: Final = 3
READ_AGAIN_BYTES_MAX: Final = 1 * GIB
"""A larger file that changes while it is read (a running machine's disk) is read once: it would change again."""
MISSIZED_BYTES_MAX: Final = 4 * GIB
"""How much is read of a file that has more than its size says: it may have no end."""
SECTOR_BYTES: Final = 512


class Content(NamedTuple):
    """The content of a file, stored, and what the file was like when it was read."""

    fields: Fields
    key: bytes
    """One that equals no file's where times do not tell whether this is the content."""
    size: int
    kind: int
    value: bytes


class Stored(NamedTuple):
    """What one reading of a file stored."""

    found: int
    """How many bytes there were."""
    size: int
    """How many of them are stored."""
    kind: int
    value: bytes


class _Reading:
    """Reads an open file for `store_data`, shows how far it is, and remembers where the file ended before it should."""

    def __init__(self, findings: Findings, fd: int) -> None:
        self._findings = findings
        self._fd = fd
        self._counted = findings.bytes_read
        self.size = 0
        """How many bytes were read."""
        self.end: int | None = None
        """Where there was nothing more to read."""

    def __call__(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes."""
        data = os.pread(self._fd, length, offset)
        if not data and self.end is None:
            self.end = offset
        self.size += len(data)
        self._findings.show_reading(self._counted + self.size)
        return data


class ContentReader:
    """Reads open files and stores them; contents of at most `inline_bytes_max` stay as they are."""

    def __init__(
        self, sink: Sink, cutter: Cutter, buffer: StatxBuffer, findings: Findings, *, inline_bytes_max: int
    ) -> None:
        self._sink = sink
        self._cutter = cutter
        self._buffer = buffer
        self._findings = findings
        self._inline_bytes_max = inline_bytes_max

    def read(self, fd: int, path: bytes, fields: Fields, key: bytes) -> Content:
        """Store an open file's content; `fields` and `key` are as the file was met. OSError."""
        findings = self._findings
        for attempt in range(READ_TRIES):
            size = fields[SIZE]
            found, stored, kind, value = self._store(fd, fields)
            findings.files_read += 1
            findings.bytes_read += stored
            same = is_at(fields, os.fstat(fd))
            if same and found == size:
                return Content(fields, key, stored, kind, value)
            if size > READ_AGAIN_BYTES_MAX:
                break
            if attempt + 1 < READ_TRIES:
                fields = self._buffer.statx(fd, b"")
                if fields[MODE] & FORM_MASK != S_IFREG:
                    raise FileNotFoundError(errno.ENOENT, "replaced by something that is no file")
                key = key_of(fields)
        if same:
            # Nothing changed, and yet there is more or less than was said, as in /proc: no times tell when it changes.
            if found > size:
                _, stored, kind, value = self._store_to_end(fd, path)
            findings.missized.append(path)
            findings.note(path, f"its size is said to be {size:,}: {stored:,} bytes were read and stored")
        else:
            findings.changed.append(path)
            findings.note(path, "changed while read")
        return Content(fields, unproven(key), stored, kind, value)

    def _store(self, fd: int, fields: Fields) -> Stored:
        size = fields[SIZE]
        if size <= SMALL_BYTES_MAX and (
            fields[BLOCKS] * SECTOR_BYTES >= size or size <= objects.INLINE_BYTES_MAX or not has_holes(fd, size)
        ):
            return self._store_small(fd, size)
        return self._store_large(fd, fields)

    def _store_small(self, fd: int, size: int) -> Stored:
        """Store a file of one chunk."""
        data = os.pread(fd, size + 1, 0)
        found = len(data)
        if found == 0:
            return Stored(0, 0, objects.CONTENT_NONE, b"")
        if found <= self._inline_bytes_max:
            return Stored(found, found, objects.CONTENT_INLINE, data)
        if found > SMALL_BYTES_MAX:  # grown by the probing byte: stored as it was
            data = data[:size]
        return Stored(found, len(data), objects.CONTENT_CHUNK, self._sink.put(objects.KIND_CHUNK, data))

    def _store_to_end(self, fd: int, path: bytes) -> Stored:
        """Store what can be read of a file that has more than its size says."""
        data = os.pread(fd, SMALL_BYTES_MAX, 0)
        if len(data) <= self._inline_bytes_max:
            kind = objects.CONTENT_INLINE if data else objects.CONTENT_NONE
            return Stored(len(data), len(data), kind, data)
        read = _Reading(self._findings, fd)
        kind, value = store_data(self._sink, self._cutter, read, [(0, MISSIZED_BYTES_MAX)], 0)
        if read.end is None:
            text = f"has no end: only the first {MISSIZED_BYTES_MAX // GIB} GiB are stored"
            self._findings.unreadable.append((path, text))
        return Stored(read.size, read.size, kind, value)

    def _store_large(self, fd: int, fields: Fields) -> Stored:
        """Store a file in chunks and holes."""
        size = fields[SIZE]
        extents = [(0, size)]
        if fields[BLOCKS] * SECTOR_BYTES < size:
            extents = list_extents(fd, size)
        read = _Reading(self._findings, fd)
        kind, value = store_data(self._sink, self._cutter, read, extents, size)
        if read.end is None:
            return Stored(size, size, kind, value)
        # It has shrunk, or never had so much: what is there no more must not come back as zeros.
        end = read.end
        extents = [(start, min(length, end - start)) for start, length in extents if start < end]
        return Stored(end, end, *store_data(self._sink, self._cutter, _Reading(self._findings, fd), extents, end))


def has_holes(fd: int, size: int) -> bool:
    """Tell whether an open file has a hole before its end."""
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE) < size
    except OSError:
        return False


def list_extents(fd: int, size: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the parts of an open file that hold data. OSError."""
    extents = []
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            position = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return [(0, size)]
            raise
        start = min(start, size)
        if position > start:
            extents.append((start, min(position, size) - start))
    return [extent for extent in extents if extent[1] > 0]
