"""What media say of themselves, by notes and headers: from it a catalog is made again."""

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from dalsegno.archive.labels import Mounted, require_all
from dalsegno.archive.media_set import MediaSet, dumps_directory
from dalsegno.archive.parts import NOTE_SUFFIX, SHARE_MARK, copy_of, file_digest, read_head, read_part_header
from dalsegno.archive.targets import Found
from dalsegno.backup.records import DUMP_SUFFIX, UNKNOWN
from dalsegno.formats import pack, pack_header
from dalsegno.formats.media import PART_NOTE, PartHeader
from dalsegno.terms.errors import DalError, Damaged, NotFound, Refused
from dalsegno.terms.events import Note, Progress, Report
from dalsegno.terms.names import file_name
from dalsegno.world.files import PARTIAL_SUFFIX, file_errors

ReadHeader = Callable[[Path, Report], PartHeader | None]
"""Return the header of a file on a medium; None when it is none of those that are looked for."""


def scan_media(media: MediaSet, read: ReadHeader, *, report: Report, labels: Collection[str] | None) -> Iterator[Found]:
    """Yield the parts of dumps on the media that are here; a file that cannot be understood is noted and left out.

    Unavailable when these are not the media of `labels`.
    """
    looked = media.look()
    require_all(looked, labels, target=media.name)
    for mounted in sorted(looked.ours, key=lambda each: each.label.label):
        yield from _scan_medium(mounted, read, target=media.name, report=report)


def _scan_medium(mounted: Mounted, read: ReadHeader, *, target: str, report: Report) -> Iterator[Found]:
    try:
        directory = dumps_directory(mounted.path)
    except Refused as error:
        report(Note(severity="error", path=os.fsencode(mounted.path), text=str(error)))
        return
    with file_errors(directory):
        paths = sorted(directory.iterdir()) if directory.is_dir() else []
    for number, path in enumerate(paths):
        report(Progress(phase="scan", done_count=number, total_count=len(paths)))
        try:
            header = None if path.name.endswith(PARTIAL_SUFFIX) else read(path, report)
        except DalError as error:
            report(Note(severity="error", path=os.fsencode(path), text=str(error)))
            continue
        if header is not None:
            copy = copy_of(
                header,
                target=target,
                medium=mounted.label.label,
                place=str(path.relative_to(mounted.path)),
                verdict=UNKNOWN,
                checked_at_ns=0,
            )
            yield Found(copy=copy, header=header, path=path)


def read_share(path: Path, report: Report) -> PartHeader | None:
    """Return the header of a share. Damaged, Refused."""
    if SHARE_MARK not in path.name:
        return None
    file_name(path.name, of=str(path.parent))
    return read_part_header(path)[0]


def read_dump_or_slice(path: Path, report: Report) -> PartHeader | None:
    """Return the header of a slice or of a whole dump, which is in its note; a dump without one is read. Damaged."""
    if path.name.endswith(NOTE_SUFFIX) or not path.is_file():
        return None
    if not file_name(path.name, of=str(path.parent)).endswith(DUMP_SUFFIX):
        return read_part_header(path)[0]
    with contextlib.suppress(NotFound, Damaged):
        return read_part_header(path.with_name(path.name + NOTE_SUFFIX))[0]
    # A dump that somebody copied here by hand: what the note would say is in the file, or unknown.
    return scanned_whole(path, name=path.name, report=report)


def scanned_whole(path: Path, *, name: str, report: Report) -> PartHeader:
    """Return the header that a dump's note would have, from the dump itself; Damaged when it is none."""
    head = read_head(path)
    with file_errors(path):
        status = path.stat()
    return PartHeader(
        kind=PART_NOTE,
        dump_id=pack_header.decode_header(head[pack.PREAMBLE.size : -pack.HEADER_DIGEST_BYTES]).pack_id,
        dump_bytes=status.st_size,
        dump_digest=file_digest(path, phase="scan", report=report),
        copy=1,
        part=0,
        needed=0,
        parts=0,
        offset=0,
        length=0,
        name=name,
        head=head,
        set_name="",
        host="",
        received_at_ns=status.st_mtime_ns,
        raw_bytes=0,
        entry_count=0,
        written_at_ns=status.st_mtime_ns,
    )
