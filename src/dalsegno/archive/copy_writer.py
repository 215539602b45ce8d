"""Write one copy of a dump to labelled disks, whole or in slices, and find what a killed run left of it."""

import contextlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3
from msgspec.structs import replace as replace_struct

from dalsegno.archive.labels import Mounted, require_same, settle_label, wrong_medium
from dalsegno.archive.media_set import MediaSet, dumps_directory
from dalsegno.archive.parts import (
    NOTE_SUFFIX,
    Pace,
    check_whole,
    copy_of,
    is_slice,
    iterate_slice,
    media_name,
    new_part_header,
    read_head,
    read_part_header,
    slice_name,
    with_parts,
    write_slice,
    write_whole,
)
from dalsegno.backup.media_plan import OVERHEAD_BYTES, PlannedPart, Room, plan_parts
from dalsegno.backup.policy import DirectoryPolicy
from dalsegno.backup.records import DUMP_SUFFIX, DUMPS_DIRECTORY, GOOD, Copy, DumpEntry
from dalsegno.formats.media import PART_NOTE, PART_SLICE, PartHeader, encode_part_header
from dalsegno.terms.errors import DalError, Damaged, Full, Unavailable
from dalsegno.terms.events import Note, Report
from dalsegno.terms.ids import hex_short
from dalsegno.terms.sizes import format_size
from dalsegno.world.files import (
    PARTIAL_SUFFIX,
    file_errors,
    fsync_directory,
    make_directory,
    remove_durable,
    write_durable,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """A dump file on its way to media."""

    source: Path
    entry: DumpEntry
    now_ns: int
    report: Report

    @property
    def name(self) -> str:
        """The dump's file name on media."""
        return media_name(self.source.name, self.entry.dump_id)


@dataclass(slots=True, kw_only=True)
class CopyWriter:
    """Writes one copy; `made` has the parts that are durable and were read back."""

    media: MediaSet
    policy: DirectoryPolicy
    shipment: Shipment
    number: int
    """Which of the copies that the policy wants, from 1."""
    taken: Collection[str]
    """Labels of the media that hold another copy."""
    pace: Pace
    free_bytes: Callable[[Path], int]
    made: list[Copy] = field(default_factory=list)
    _limits: dict[str, int] = field(default_factory=dict)
    """How much fits on media that had less room than they said."""

    def write(self) -> list[Copy]:
        """Write part after part, planning anew when a medium is full before its time.

        Full: no medium has room. Unavailable: none is here. Refused: another one is. Damaged: it reads back otherwise.
        """
        entry, source = self.shipment.entry, self.shipment.source
        head = read_head(source)
        base = new_part_header(entry, kind=PART_NOTE, name=self.shipment.name, head=head, now_ns=self.shipment.now_ns)
        base = replace_struct(base, copy=self.number)
        hasher = blake3()
        offset = 0
        try:
            while offset < entry.size_bytes:
                ours, planned = self._plan(offset=offset, overhead_bytes=OVERHEAD_BYTES + len(head))
                for part in planned:
                    written = self._write_part(ours[part.label], part, base, hasher)
                    if written is None:
                        break
                    hasher = written
                    offset += part.length
            if any(map(is_slice, self.made)) and hasher.digest() != entry.digest:
                raise Damaged(f"{source}: is not the dump that was verified: its digest is another")
        except BaseException:
            # A copy in parts of which one cannot be written is no copy: its parts are removed.
            for copy in self.made:
                with contextlib.suppress(DalError):
                    here = self.media.here()
                    if copy.medium in here:
                        remove_copy(here[copy.medium], copy)
            raise
        return with_parts(self.made, count=len(self.made))

    def _write_part(self, mounted: Mounted, part: PlannedPart, base: PartHeader, hasher: blake3) -> blake3 | None:
        """Write one part, and return the hasher of all slices so far; None when the medium took less than it said."""
        shipment, name = self.shipment, self.shipment.name
        place = Path(DUMPS_DIRECTORY) / (name if part.whole else slice_name(name, len(self.made)))
        header = replace_struct(
            base,
            kind=PART_NOTE if part.whole else PART_SLICE,
            part=len(self.made),
            offset=part.offset,
            length=0 if part.whole else part.length,
        )
        try:
            settle_label(mounted)
            make_directory(dumps_directory(mounted.path))
            path = mounted.path / place
            if part.whole:
                write_whole(shipment.source, path, header, report=shipment.report, pace=self.pace)
            else:
                hasher = write_slice(
                    shipment.source, path, header, hasher=hasher, report=shipment.report, pace=self.pace
                )
        except Full as error:
            # The medium has less room than it said: not more than half of this part, from now on.
            self._limits[part.label] = part.length // 2
            _drop_half(mounted, place.name)
            text = f"{error}; going on with the next medium of target {self.media.name}"
            shipment.report(Note(severity="note", path=os.fsencode(mounted.path), text=text))
            return None
        except Damaged:
            _drop_half(mounted, place.name)
            raise
        self.made.append(
            copy_of(
                header,
                target=self.media.name,
                medium=part.label,
                place=str(place),
                verdict=GOOD,
                checked_at_ns=shipment.now_ns,
            )
        )
        require_same(mounted)
        return hasher

    def _room(self, mounted: Mounted) -> int:
        return max(0, self.free_bytes(mounted.path) - self.policy.reserve_bytes)

    def _plan(self, *, offset: int, overhead_bytes: int) -> tuple[dict[str, Mounted], list[PlannedPart]]:
        """Return the next parts to write; with nobody to ask, all of them or none."""
        size_bytes = self.shipment.entry.size_bytes
        target, places = self.media.name, self.media.places
        while True:
            looked = self.media.look()
            ours = {each.label.label: each for each in looked.ours}
            free = {
                label: min(self._room(mounted), self._limits.get(label, 2 * (size_bytes + overhead_bytes)))
                for label, mounted in ours.items()
                if label not in self.taken
            }
            rooms = [Room(label=label, free_bytes=room) for label, room in free.items()]
            planned, rest = plan_parts(
                size_bytes=size_bytes,
                offset=offset,
                rooms=rooms,
                slice_bytes=self.policy.slice_bytes,
                overhead_bytes=overhead_bytes,
            )
            if not rest or (planned and self.media.has_person):
                return ours, planned
            wanted = f"a medium of target {target!r} with room for {format_size(rest)}"
            there = ", ".join(f"{each.label!r} takes {format_size(each.free_bytes)}" for each in rooms)
            others = "".join(f", {label!r} holds a copy already" for label in sorted(set(self.taken) & ours.keys()))
            if self.media.ask(f"{there or 'none is here'}{others}: insert {wanted} at {places}"):
                self._limits.clear()
                continue
            looked.require_readable()
            if rooms:
                raise Full(f"target {target}: {there}{others}: insert {wanted} at {places} and run again")
            if looked.strangers:
                raise wrong_medium(looked.strangers, wanted=wanted)
            raise Unavailable(
                f"target {target}: no medium is here{others}: insert one at {places} and run again "
                "(a new one is labelled with `dal media label`)"
            )


def remove_copy(mounted: Mounted, copy: Copy) -> None:
    """Remove a copy's file from a medium, and the note of a whole one before it."""
    dumps_directory(mounted.path)
    path = copy.path_on(mounted.path)
    if not is_slice(copy):
        remove_durable(path.with_name(path.name + NOTE_SUFFIX))
    remove_durable(path)


def _drop_half(mounted: Mounted, name: str) -> None:
    """Remove what a failed write may have left: half a file, or one that was read back wrong."""
    directory = dumps_directory(mounted.path)
    for left in (name, name + PARTIAL_SUFFIX):
        with contextlib.suppress(DalError):
            remove_durable(directory / left)


def find_copy(media: MediaSet, shipment: Shipment, number: int, *, taken: Collection[str]) -> list[Copy]:
    """Return copy `number`, durable now, when a killed run left it whole; half a copy in parts is removed."""
    slices: list[tuple[Mounted, Path]] = []
    left = [(mounted, path) for mounted in media.here().values() for path in _files_of(mounted, shipment.entry.dump_id)]
    for _, path in left:
        if path.name.endswith(PARTIAL_SUFFIX):
            remove_durable(path)
    for mounted, path in left:
        if path.name.endswith(DUMP_SUFFIX) and mounted.label.label not in taken:
            copy = _settle_whole(media.name, shipment, mounted, path, number)
            if copy is not None:
                return [copy]
        elif not path.name.endswith((NOTE_SUFFIX, DUMP_SUFFIX, PARTIAL_SUFFIX)):
            slices.append((mounted, path))
    return _settle_slices(media.name, shipment, slices, number)


def _files_of(mounted: Mounted, dump_id: bytes) -> list[Path]:
    directory = dumps_directory(mounted.path)
    with file_errors(directory):
        if not directory.is_dir():
            return []
        return sorted(path for path in directory.iterdir() if f".{hex_short(dump_id)}{DUMP_SUFFIX}" in path.name)


def _settle_whole(target: str, shipment: Shipment, mounted: Mounted, path: Path, number: int) -> Copy | None:
    """Make a whole dump that was left durable with its note, or remove what is not whole."""
    try:
        check_whole(path, shipment.entry.digest, report=shipment.report)
    except Damaged:
        remove_durable(path)
        return None
    header = new_part_header(
        shipment.entry, kind=PART_NOTE, name=path.name, head=read_head(path), now_ns=shipment.now_ns
    )
    header = replace_struct(header, copy=number)
    note = path.with_name(path.name + NOTE_SUFFIX)
    if not note.exists():
        write_durable(note, encode_part_header(header))
    fsync_directory(path.parent)  # who gave these names may have been killed before he synced them
    return _copy_at(header, target, mounted, path, shipment.now_ns)


def _copy_at(header: PartHeader, target: str, mounted: Mounted, path: Path, now_ns: int) -> Copy:
    place, label = str(path.relative_to(mounted.path)), mounted.label.label
    return copy_of(header, target=target, medium=label, place=place, verdict=GOOD, checked_at_ns=now_ns)


def _settle_slices(target: str, shipment: Shipment, slices: list[tuple[Mounted, Path]], number: int) -> list[Copy]:
    """Return the slices of a copy when they are all of it, durable now; else remove them."""
    entry = shipment.entry
    found: list[Copy] = []
    offset = 0
    try:
        headers = [(read_part_header(path)[0], mounted, path) for mounted, path in slices]
        mine = [each for each in headers if each[0].copy == number and each[0].dump_id == entry.dump_id]
        for header, mounted, path in sorted(mine, key=lambda each: each[0].part):
            if header.part != len(found) or header.offset != offset:
                break
            for _ in iterate_slice(path, report=shipment.report, phase="check"):
                pass
            offset += header.length
            found.append(_copy_at(header, target, mounted, path, shipment.now_ns))
    except Damaged:
        offset = -1
    if offset == entry.size_bytes:
        for directory in {path.parent for _, path in slices}:
            fsync_directory(directory)
        return with_parts(found, count=len(found))
    for _, path in slices:
        if _copy_number(path) in (None, number):
            remove_durable(path)
    return []


def _copy_number(path: Path) -> int | None:
    """Return which copy a slice belongs to, or None when it cannot be read."""
    try:
        return read_part_header(path)[0].copy
    except Damaged:
        return None
