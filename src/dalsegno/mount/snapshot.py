"""One commit of a writable mount: everything that changed, as it was at one moment, and how it is stored.

What is taken is values only: storing it needs no lock and meets nobody who writes meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from dalsegno.chunks.cut import Cutter
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.mount.inodes import Inode
from dalsegno.mount.listing import Kept
from dalsegno.mount.readonly import read_pieces
from dalsegno.pool.contract import Sink
from dalsegno.trees.edit import BASE, HOLE, Patches, edit_content, edit_directory

Spooled = Callable[[int, int], bytes]
"""`spooled(place, length)` gives written bytes."""


@dataclass(slots=True)
class FileJob:
    """A file whose bytes a commit stores: as it was stored before, and what was written over it."""

    inode: Inode
    base: Entry
    patches: Patches
    content_kind: int = 0
    content: bytes = b""


@dataclass(slots=True)
class Draft:
    """An entry that a commit stores; its content comes from a job, or from a directory that is stored before it."""

    entry: Entry
    job: FileJob | None = None
    folder: int = 0


@dataclass(slots=True)
class DirectoryJob:
    """A directory whose changed names a commit stores."""

    number: int
    stored: bytes
    drafts: dict[bytes, Draft | None]
    depth: int
    result: bytes = b""


@dataclass(slots=True)
class Snapshot:
    """Everything that one commit stores, taken at one moment."""

    files: list[FileJob]
    directories: list[DirectoryJob]
    links: DirectoryJob | None
    linked: dict[int, Inode]
    """The inodes behind the changed rows of the table of links."""
    links_before: bytes
    root: Entry
    root_number: int
    root_before: bytes
    entry_count: int
    total_bytes: int
    spool_end: int
    began_ns: int


def store(snapshot: Snapshot, *, source: Kept, sink: Sink, cutter: Cutter, spooled: Spooled) -> tuple[Entry, bytes]:
    """Store a snapshot and return the root and the id of the table of links; the ids are noted in its jobs."""
    for job in snapshot.files:
        base, patches = job.base, job.patches

        def read(offset: int, length: int, base: Entry = base, patches: Patches = patches) -> bytes:
            return _frozen_bytes(source, spooled, base, patches, offset, length)

        job.content_kind, job.content = edit_content(source, sink, cutter, base, patches, read)
    results: dict[int, bytes] = {}
    for directory in snapshot.directories:
        _store_directory(directory, source, sink, results)
    empty = edit_directory(source, sink, b"", {})
    links = snapshot.links_before
    if snapshot.links is not None:
        _store_directory(snapshot.links, source, sink, results)
        links = snapshot.links.result
        if links == empty:
            links = snapshot.links.result = b""
    root = msgspec.structs.replace(
        _settle_xattrs(snapshot.root, sink),
        content_kind=objects.CONTENT_DIRECTORY,
        content=results.get(snapshot.root_number) or snapshot.root_before or empty,
    )
    return root, links


def _frozen_bytes(source: Kept, spooled: Spooled, base: Entry, patches: Patches, offset: int, length: int) -> bytes:
    parts: list[bytes | memoryview] = []
    for piece in patches.pieces(offset, offset + length):
        size = piece.end - piece.start
        if piece.place == HOLE:
            parts.append(bytes(size))
        elif piece.place == BASE:
            parts += read_pieces(source, base, offset=piece.start, size=size)
        else:
            parts.append(spooled(piece.place, size))
    return b"".join(parts)


def _store_directory(job: DirectoryJob, source: Kept, sink: Sink, results: dict[int, bytes]) -> None:
    changes: dict[bytes, Entry | None] = {}
    for name, draft in job.drafts.items():
        if draft is None:
            changes[name] = None
            continue
        entry = draft.entry
        if draft.job is not None:
            size = draft.job.patches.size
            entry = msgspec.structs.replace(
                entry, content_kind=draft.job.content_kind, content=draft.job.content, size=size
            )
        elif draft.folder:
            content = results.get(draft.folder)
            if content is None:
                content = edit_directory(source, sink, b"", {})
            entry = msgspec.structs.replace(entry, content=content)
        changes[name] = _settle_xattrs(entry, sink)
    job.result = results[job.number] = edit_directory(source, sink, job.stored, changes)


def _settle_xattrs(entry: Entry, sink: Sink) -> Entry:
    """Return an entry whose attributes, when they are many, are in a chunk of their own."""
    if entry.xattrs[:1] != b"\x01" or len(entry.xattrs) - 1 <= objects.XATTRS_INLINE_BYTES_MAX:
        return entry
    identity = sink.put(objects.KIND_CHUNK, entry.xattrs[1:])
    return msgspec.structs.replace(entry, xattrs=b"\x02" + identity)
