"""The `directory` target: removable disks with a label, each dump whole on one or in slices over several.

docs/formats/media.md says what is on a disk. What goes where is decided by `plan_parts`, then done file by file.
"""

import contextlib
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from blake3 import blake3

from dalsegno.archive.labels import (
    BadLabel,
    Looked,
    Mounted,
    look,
    require_all,
    require_same,
    settle_label,
    wrong_medium,
)
from dalsegno.archive.parts import (
    NOTE_SUFFIX,
    Pace,
    SlicedFile,
    check_whole,
    copy_of,
    file_digest,
    is_slice,
    iterate_slice,
    media_name,
    new_part_header,
    no_pace,
    read_head,
    read_part_header,
    slice_name,
    write_slice,
    write_whole,
)
from dalsegno.archive.targets import Ask, Found, Incomplete
from dalsegno.backup.policy import DirectoryPolicy
from dalsegno.backup.records import BAD, DUMP_SUFFIX, DUMPS_DIRECTORY, GOOD, MISSING, UNKNOWN, Copy, DumpEntry, Medium
from dalsegno.formats import pack, pack_header
from dalsegno.formats.media import PART_NOTE, PART_SLICE, PartHeader, encode_part_header
from dalsegno.pool.pack_read import PackFile
from dalsegno.terms.errors import DalError, Damaged, Full, NotFound, Refused, Unavailable
from dalsegno.terms.events import Note, Progress, Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.terms.names import file_name
from dalsegno.terms.sizes import MIB, format_size
from dalsegno.world.files import (
    PARTIAL_SUFFIX,
    READ_BYTES,
    ResumedFile,
    file_errors,
    fsync_directory,
    iterate_bytes,
    make_directory,
    remove_durable,
    write_durable,
)

SLICE_BYTES_MIN: Final = 1 * MIB
"""A medium with less room than this is full."""
OVERHEAD_BYTES: Final = 64 * 1024
"""What a note or header, a digest and the file system take besides the bytes of a dump and its own header."""
SLICES_MAX: Final = 100_000


def dumps_directory(root: Path) -> Path:
    """Return where dumps lie on a medium. Refused when something there leads elsewhere: we write and remove as root."""
    place = root / DUMPS_DIRECTORY
    try:
        mode = os.lstat(place).st_mode
    except OSError:
        return place  # not made yet, or who opens it says what is wrong
    if not stat.S_ISDIR(mode):
        raise Refused(f"{place}: is no directory: remove it from the medium, dumps are stored in one of that name")
    return place


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many bytes a medium takes still."""

    label: str
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPart:
    """Bytes of a dump that go to one medium; the whole dump when `whole`."""

    label: str
    offset: int
    length: int
    whole: bool = False


def plan_parts(
    *,
    size_bytes: int,
    offset: int,
    rooms: Sequence[Room],
    slice_bytes: int | None,
    overhead_bytes: int = OVERHEAD_BYTES,
) -> tuple[list[PlannedPart], int]:
    """Return which bytes go where, and how many are left over when all rooms are full.

    A dump of which nothing is written yet goes whole to the first medium that takes it; else slices fill the media in
    their order.
    """
    if offset == 0 and (slice_bytes is None or size_bytes <= slice_bytes):
        for room in rooms:
            if room.free_bytes >= size_bytes + overhead_bytes:
                return [PlannedPart(label=room.label, offset=0, length=size_bytes, whole=True)], 0
    planned = []
    for room in rooms:
        free = room.free_bytes - overhead_bytes
        while offset < size_bytes and free >= min(SLICE_BYTES_MIN, size_bytes - offset) and free > 0:
            length = min(free, size_bytes - offset, slice_bytes or size_bytes)
            planned.append(PlannedPart(label=room.label, offset=offset, length=length))
            offset += length
            free -= length + overhead_bytes
    return planned, size_bytes - offset


class DirectoryTarget:
    """Labelled disks at the places that the policy names. A Target (targets.py)."""

    kind = "directory"

    def __init__(
        self, policy: DirectoryPolicy, *, ask: Ask | None = None, pace: Pace = no_pace, lost: Collection[str] = ()
    ) -> None:
        self.name = policy.name
        self._policy = policy
        self._ask = ask
        self._pace = pace
        self._lost = lost

    # Which media are here

    def _look(self) -> Looked:
        policy = self._policy
        return look(policy.paths, target=self.name, kind=self.kind, patterns=policy.labels, lost=self._lost)

    def _here(self) -> dict[str, Mounted]:
        return {each.label.label: each for each in self._look().ours}

    def _free_bytes(self, mounted: Mounted) -> int:
        with file_errors(mounted.path):
            status = os.statvfs(mounted.path)
        return max(0, status.f_bavail * status.f_frsize - self._policy.reserve_bytes)

    def present(self) -> list[Medium]:
        """Return the media that are here now."""
        found = []
        for label, mounted in sorted(self._here().items()):
            with file_errors(mounted.path):
                status = os.statvfs(mounted.path)
            capacity = status.f_blocks * status.f_frsize
            found.append(
                Medium(
                    label=label,
                    target=self.name,
                    kind=self.kind,
                    id=bytes.fromhex(mounted.label.id),
                    capacity_bytes=capacity,
                    used_bytes=capacity - status.f_bavail * status.f_frsize,
                )
            )
        return found

    def bad_labels(self) -> list[BadLabel]:
        """Return the places whose label cannot be read."""
        return list(self._look().bad)

    def _places(self) -> str:
        return " or ".join(map(str, self._policy.paths))

    def _asked(self, question: str) -> bool:
        return self._ask is not None and self._ask(question)

    def _require(self, label: str) -> Mounted:
        """Return the medium with this label, asking for it when somebody is there to ask."""
        while True:
            looked = self._look()
            ours = {each.label.label: each for each in looked.ours}
            if label in ours:
                return ours[label]
            if self._asked(f"insert medium {label!r} of target {self.name} at {self._places()}"):
                continue
            looked.require_readable()
            others = [*looked.strangers, *looked.ours]
            if others and len(self._policy.paths) == len(others):
                raise wrong_medium(others, wanted=f"{label!r} of target {self.name!r}")
            raise Unavailable(f"medium {label!r} of target {self.name} is not here: insert it at {self._places()}")

    # Store

    def store(self, source: Path, entry: DumpEntry, *, now_ns: int, report: Report = silent) -> list[Copy]:
        """Copy a dump to as many different media as the policy says; docs in targets.Target."""
        done: list[Copy] = []
        for number in range(1, self._policy.copies + 1):
            taken = {copy.medium for copy in done}
            try:
                done += self._store_one(source, entry, number, taken=taken, now_ns=now_ns, report=report)
            except (Full, Unavailable, Refused) as error:
                if not done:
                    raise
                message = f"{number - 1} of {self._policy.copies} copies made; {error}"
                raise Incomplete(message, done) from None
        return done

    def _store_one(
        self, source: Path, entry: DumpEntry, number: int, *, taken: set[str], now_ns: int, report: Report
    ) -> list[Copy]:
        name = media_name(source.name, entry.dump_id)
        known = self._find_copy(entry, number, taken=taken, now_ns=now_ns, report=report)
        if known:
            return known
        made: list[Copy] = []
        try:
            self._write_parts(source, entry, number, made, name=name, taken=taken, now_ns=now_ns, report=report)
        except BaseException:
            # A copy in parts of which one cannot be written is no copy: give the room back.
            for copy in made:
                with contextlib.suppress(DalError):
                    self._remove_at(self._here().get(copy.medium), copy)
            raise
        return [replace(copy, parts=len(made), needed=len(made)) for copy in made]

    def _write_parts(
        self,
        source: Path,
        entry: DumpEntry,
        number: int,
        made: list[Copy],
        *,
        name: str,
        taken: set[str],
        now_ns: int,
        report: Report,
    ) -> None:
        """Write part after part, planning anew when a medium is full before its time; `made` grows."""
        limits: dict[str, int] = {}
        offset, hasher, head = 0, blake3(), read_head(source)
        overhead_bytes = OVERHEAD_BYTES + len(head)
        while offset < entry.size_bytes:
            ours, planned = self._plan(entry, offset=offset, taken=taken, limits=limits, overhead_bytes=overhead_bytes)
            for part in planned:
                mounted = ours[part.label]
                place = Path(DUMPS_DIRECTORY) / (name if part.whole else slice_name(name, len(made)))
                header = new_part_header(
                    entry,
                    kind=PART_NOTE if part.whole else PART_SLICE,
                    name=name,
                    head=head,
                    now_ns=now_ns,
                    copy=number,
                    part=len(made),
                    offset=part.offset,
                    length=0 if part.whole else part.length,
                )
                try:
                    settle_label(mounted)
                    make_directory(dumps_directory(mounted.path))
                    path = mounted.path / place
                    if part.whole:
                        write_whole(source, path, header, report=report, pace=self._pace)
                    else:
                        hasher = write_slice(source, path, header, hasher=hasher, report=report, pace=self._pace)
                except Full as error:
                    # The medium has less room than it said: not more than half of this part, from now on.
                    limits[part.label] = part.length // 2
                    self._drop_half(mounted, place.name)
                    text = f"{error}; going on with the next medium of target {self.name}"
                    report(Note(severity="note", path=os.fsencode(mounted.path), text=text))
                    break
                except Damaged:
                    self._drop_half(mounted, place.name)
                    raise
                copy = copy_of(
                    header, target=self.name, medium=part.label, place=str(place), verdict=GOOD, checked_at_ns=now_ns
                )
                offset += part.length
                made.append(copy)
                require_same(mounted)
        if any(map(is_slice, made)) and hasher.digest() != entry.digest:
            raise Damaged(f"{source}: is not the dump that was verified: its digest is another")

    def _plan(
        self, entry: DumpEntry, *, offset: int, taken: set[str], limits: dict[str, int], overhead_bytes: int
    ) -> tuple[dict[str, Mounted], list[PlannedPart]]:
        """Return the next parts to write; with nobody to ask, all of them or none."""
        while True:
            looked = self._look()
            ours = {each.label.label: each for each in looked.ours}
            free = {
                label: min(self._free_bytes(mounted), limits.get(label, 2 * (entry.size_bytes + overhead_bytes)))
                for label, mounted in ours.items()
                if label not in taken
            }
            rooms = [Room(label=label, free_bytes=room) for label, room in free.items()]
            planned, rest = plan_parts(
                size_bytes=entry.size_bytes,
                offset=offset,
                rooms=rooms,
                slice_bytes=self._policy.slice_bytes,
                overhead_bytes=overhead_bytes,
            )
            if not rest or (planned and self._ask is not None):
                return ours, planned
            wanted = f"a medium of target {self.name!r} with room for {format_size(rest)}"
            there = ", ".join(f"{each.label!r} takes {format_size(each.free_bytes)}" for each in rooms)
            others = "".join(f", {label!r} holds a copy already" for label in sorted(taken & ours.keys()))
            if self._asked(f"{there or 'none is here'}{others}: insert {wanted} at {self._places()}"):
                limits.clear()
                continue
            looked.require_readable()
            if rooms:
                raise Full(f"target {self.name}: {there}{others}: insert {wanted} at {self._places()} and run again")
            if looked.strangers:
                raise wrong_medium(looked.strangers, wanted=wanted)
            raise Unavailable(
                f"target {self.name}: no medium is here{others}: insert one at {self._places()} and run again "
                "(a new one is labelled with `dal media label`)"
            )

    def _drop_half(self, mounted: Mounted, name: str) -> None:
        """Remove what a failed write may have left: half a file, or one that was read back wrong."""
        directory = dumps_directory(mounted.path)
        for left in (name, name + PARTIAL_SUFFIX):
            with contextlib.suppress(DalError):
                remove_durable(directory / left)

    def _find_copy(self, entry: DumpEntry, number: int, *, taken: set[str], now_ns: int, report: Report) -> list[Copy]:
        """Return copy `number`, durable now, when a killed run left it whole; half a copy in parts is removed."""
        slices: list[tuple[Mounted, Path]] = []
        here = self._here().values()
        left = [(mounted, path) for mounted in here for path in self._files_of(mounted, entry.dump_id)]
        for _, path in left:
            if path.name.endswith(PARTIAL_SUFFIX):
                remove_durable(path)
        for mounted, path in left:
            if path.name.endswith(DUMP_SUFFIX) and mounted.label.label not in taken:
                copy = self._adopt(mounted, path, entry, number, now_ns=now_ns, report=report)
                if copy is not None:
                    return [copy]
            elif not path.name.endswith((NOTE_SUFFIX, DUMP_SUFFIX, PARTIAL_SUFFIX)):
                slices.append((mounted, path))
        return self._adopt_slices(slices, entry, number, now_ns=now_ns, report=report)

    def _adopt(
        self, mounted: Mounted, path: Path, entry: DumpEntry, number: int, *, now_ns: int, report: Report
    ) -> Copy | None:
        try:
            check_whole(path, entry.digest, report=report)
        except Damaged:
            remove_durable(path)
            return None
        header = new_part_header(
            entry, kind=PART_NOTE, name=path.name, head=read_head(path), now_ns=now_ns, copy=number
        )
        note = path.with_name(path.name + NOTE_SUFFIX)
        if not note.exists():
            write_durable(note, encode_part_header(header))
        fsync_directory(path.parent)  # who gave these names may have been killed before he synced them
        place = str(path.relative_to(mounted.path))
        label = mounted.label.label
        return copy_of(header, target=self.name, medium=label, place=place, verdict=GOOD, checked_at_ns=now_ns)

    def _adopt_slices(
        self, slices: list[tuple[Mounted, Path]], entry: DumpEntry, number: int, *, now_ns: int, report: Report
    ) -> list[Copy]:
        found: list[Copy] = []
        offset = 0
        try:
            headers = [(read_part_header(path)[0], mounted, path) for mounted, path in slices]
            mine = [each for each in headers if each[0].copy == number and each[0].dump_id == entry.dump_id]
            for header, mounted, path in sorted(mine, key=lambda each: each[0].part):
                if header.part != len(found) or header.offset != offset:
                    break
                for _ in iterate_slice(path, report=report, phase="check"):
                    pass
                offset += header.length
                place = str(path.relative_to(mounted.path))
                label = mounted.label.label
                found.append(
                    copy_of(header, target=self.name, medium=label, place=place, verdict=GOOD, checked_at_ns=now_ns)
                )
        except Damaged:
            offset = -1
        if offset == entry.size_bytes:
            for directory in {path.parent for _, path in slices}:
                fsync_directory(directory)
            return [replace(copy, parts=len(found), needed=len(found)) for copy in found]
        for _, path in slices:
            if _copy_number(path) in (None, number):
                remove_durable(path)
        return []

    def _files_of(self, mounted: Mounted, dump_id: bytes) -> list[Path]:
        directory = dumps_directory(mounted.path)
        with file_errors(directory):
            if not directory.is_dir():
                return []
            return sorted(path for path in directory.iterdir() if f".{hex_short(dump_id)}{DUMP_SUFFIX}" in path.name)

    # Fetch

    def fetch(self, copies: Sequence[Copy], entry: DumpEntry, to: Path, *, report: Report = silent) -> None:
        """Put a dump under `to`; docs in targets.Target."""
        parts = sorted(copies, key=lambda copy: copy.part)
        make_directory(to.parent)
        with ResumedFile(to) as file:
            if file.offset > entry.size_bytes:
                file.truncate(0)
            resumed = file.offset > 0
            hasher = blake3()
            for start in range(0, file.offset, READ_BYTES):
                hasher.update(file.read_at(start, min(READ_BYTES, file.offset - start)))
            self._fetch_rest(parts, entry, file, hasher, report=report)
            if hasher.digest() != entry.digest and resumed:
                # What an earlier run left was torn: once more, from the beginning.
                file.truncate(0)
                hasher = blake3()
                self._fetch_rest(parts, entry, file, hasher, report=report)
            if hasher.digest() != entry.digest:
                file.truncate(0)
                where = ", ".join(f"{copy.medium}:{copy.place}" for copy in parts)
                raise Damaged(f"{where}: not what was written: its digest is another; take another copy")
            file.commit()

    def _fetch_rest(
        self, parts: Sequence[Copy], entry: DumpEntry, file: ResumedFile, hasher: blake3, *, report: Report
    ) -> None:
        start = 0
        for copy in parts:
            end = start + copy.size_bytes
            if end > file.offset:
                mounted = self._require(copy.medium)
                path = copy.path_on(mounted.path)
                skip = file.offset - start
                if copy.needed == 1 and not is_slice(copy):
                    chunks = iterate_bytes(path, offset=skip)
                else:
                    chunks = iterate_slice(path, report=silent, phase="fetch", skip=skip)
                try:
                    for chunk in chunks:
                        hasher.update(chunk)
                        file.write(chunk)
                        self._pace(len(chunk))
                        report(Progress(phase="fetch", done_bytes=file.offset, total_bytes=entry.size_bytes))
                except NotFound:
                    raise Damaged(f"{copy.medium}: {copy.place} is not there any more: take another copy") from None
                require_same(mounted)
            start = end

    def open_read(self, copies: Sequence[Copy], entry: DumpEntry) -> Path | PackFile | None:
        """Return the file of a whole copy, or its slices as one, when all of it is here."""
        here = self._here()
        if any(copy.medium not in here for copy in copies):
            return None
        paths = [copy.path_on(here[copy.medium].path) for copy in sorted(copies, key=lambda each: each.part)]
        if not all(path.is_file() for path in paths):
            return None
        if not is_slice(copies[0]):
            return paths[0]
        try:
            return SlicedFile(paths, entry)
        except Damaged:
            return None  # fetching tells what is wrong, and finds another copy

    # Keep

    def check(self, copy: Copy, entry: DumpEntry, *, report: Report = silent) -> str:
        """Read one copy back and return its verdict."""
        mounted = self._require(copy.medium)
        path = copy.path_on(mounted.path)
        try:
            if is_slice(copy):
                if read_part_header(path)[0].dump_id != entry.dump_id:
                    return BAD
                for _ in iterate_slice(path, report=report, phase="check"):
                    pass
                verdict = GOOD
            else:
                verdict = GOOD if file_digest(path, phase="check", report=report) == entry.digest else BAD
        except NotFound:
            verdict = MISSING
        except (Damaged, Unavailable):
            verdict = BAD
        require_same(mounted)
        return verdict

    def repair(self, copies: Sequence[Copy], entry: DumpEntry, *, now_ns: int, report: Report = silent) -> list[Copy]:
        """Disks have nothing to rebuild from: another copy of the dump is archived anew instead."""
        return []

    def remove(self, copy: Copy) -> None:
        """Remove a copy's file and its note."""
        self._remove_at(self._require(copy.medium), copy)

    def _remove_at(self, mounted: Mounted | None, copy: Copy) -> None:
        if mounted is None:
            return
        dumps_directory(mounted.path)
        path = copy.path_on(mounted.path)
        if not is_slice(copy):
            remove_durable(path.with_name(path.name + NOTE_SUFFIX))
        remove_durable(path)

    def scan(self, *, report: Report = silent, media: Collection[str] | None = None) -> Iterator[Found]:
        """Yield what is on the media that are here; a file that cannot be understood is noted and left out."""
        looked = self._look()
        require_all(looked, media, target=self.name)
        for label, mounted in sorted((each.label.label, each) for each in looked.ours):
            yield from scan_directory(mounted.path, label=label, target=self.name, report=report)


def _copy_number(path: Path) -> int | None:
    """Return which copy a slice belongs to, or None when it cannot be read."""
    try:
        return read_part_header(path)[0].copy
    except Damaged:
        return None


def scan_directory(root: Path, *, label: str, target: str, report: Report) -> Iterator[Found]:
    """Yield the dumps and slices on one medium, by their notes and headers; dumps without note are read."""
    try:
        directory = dumps_directory(root)
    except Refused as error:
        report(Note(severity="error", path=os.fsencode(root), text=str(error)))
        return
    with file_errors(directory):
        paths = sorted(directory.iterdir()) if directory.is_dir() else []
    for number, path in enumerate(paths):
        report(Progress(phase="scan", done_count=number, total_count=len(paths)))
        if path.name.endswith((NOTE_SUFFIX, PARTIAL_SUFFIX)) or not path.is_file():
            continue
        try:
            whole = file_name(path.name, of=str(directory)).endswith(DUMP_SUFFIX)
            header = _whole_header(path, report=report) if whole else read_part_header(path)[0]
        except DalError as error:
            report(Note(severity="error", path=os.fsencode(path), text=str(error)))
            continue
        copy = copy_of(
            header,
            target=target,
            medium=label,
            place=str(path.relative_to(root)),
            verdict=UNKNOWN,
            checked_at_ns=0,
        )
        yield Found(copy=copy, header=header, path=path)


def _whole_header(path: Path, *, report: Report) -> PartHeader:
    note = path.with_name(path.name + NOTE_SUFFIX)
    with contextlib.suppress(NotFound, Damaged):
        return read_part_header(note)[0]
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
