"""The catalog against the files: made again from media alone, and compared. The files are right, whatever it says."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dalsegno.actions.retrieve import bad_labels, media_here
from dalsegno.archive.chains import chain_to
from dalsegno.archive.installation import Installation
from dalsegno.archive.parts import copy_of, count_slices, is_slice
from dalsegno.archive.scan import scanned_whole
from dalsegno.archive.spool import FETCHED
from dalsegno.archive.targets import Found
from dalsegno.backup.records import (
    BAD,
    DUMP_SUFFIX,
    GOOD,
    MISSING,
    SPOOL_TARGET,
    UNKNOWN,
    Copy,
    DumpEntry,
    Earlier,
    Medium,
    group_copies,
    usable_copies,
)
from dalsegno.chunks.realm import Realm
from dalsegno.formats import pack_header
from dalsegno.formats.media import PART_SLICE, PartHeader
from dalsegno.pool.pack_read import open_note, read_opener
from dalsegno.terms.errors import DalError, Damaged, NoAccess
from dalsegno.terms.events import Note, Progress, Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.world.clock import now_ns
from dalsegno.world.files import fsync_directory

Item = tuple[DumpEntry, tuple[Earlier, ...], tuple[Copy, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What a rebuild found."""

    dump_count: int
    copy_count: int
    media: tuple[str, ...]
    unreadable: tuple[str, ...]
    """Dumps and parts that could not be understood, in words."""
    incomplete: tuple[str, ...]
    """Dumps of which no whole copy was found."""
    bad_labels: tuple[str, ...] = ()
    """Places whose label cannot be read, in words: nothing that is there was looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """One place where catalog and files differ; the catalog was put right where it could be."""

    dump_id: bytes
    medium: str
    place: str
    text: str


def read_lineage(header: PartHeader, realm: Realm) -> pack_header.DumpNote:
    """Return a dump's lineage from any part of it. Refused when it is of another realm."""
    if not header.head:
        raise Damaged(f"dump {hex_short(header.dump_id)}: its header is too large to be repeated in its parts")
    position = 0

    def read(length: int) -> bytes:
        nonlocal position
        data = header.head[position : position + length]
        position += length
        return data

    return open_note(read_opener(read, realm)[0].header, realm)


def entry_of(header: PartHeader, note: pack_header.DumpNote) -> tuple[DumpEntry, tuple[Earlier, ...]]:
    """Return the catalog's row of a dump from what stands in its parts."""
    top = note.targets[-1]
    entry = DumpEntry(
        dump_id=header.dump_id,
        volume_id=note.volume,
        volume_name=note.volume_name,
        level=note.level,
        revision=top.revision,
        base_dump=note.base_dump,
        base_revisions=tuple(note.bases),
        clone_name=top.clone,
        cloned_at_ns=top.created_ns or note.taken_at_ns,
        taken_at_ns=note.taken_at_ns,
        received_at_ns=header.received_at_ns or note.taken_at_ns,
        size_bytes=header.dump_bytes,
        digest=header.dump_digest,
        raw_bytes=header.raw_bytes or top.total_bytes,
        entry_count=header.entry_count or top.entry_count,
        host=header.host,
        set_name=header.set_name,
    )
    earlier = [
        Earlier(revision=target.revision, clone_name=target.clone, cloned_at_ns=target.created_ns)
        for target in note.targets[:-1]
    ]
    return entry, tuple(earlier)


def assemble(found: Sequence[tuple[Copy, PartHeader]]) -> list[Copy]:
    """Return the copies of one dump from its files: slices counted, and copies with one number told apart."""
    whole = [copy for copy, header in found if header.kind != PART_SLICE and header.needed == 0]
    shares = {(copy.target, copy.number, copy.part): copy for copy, header in found if header.needed}
    slices: dict[tuple[str, int], dict[int, tuple[Copy, PartHeader]]] = {}
    for copy, header in found:
        if header.kind == PART_SLICE:
            slices.setdefault((copy.target, copy.number), {})[header.part] = (copy, header)
    made = list(shares.values())
    taken = {(copy.target, copy.number) for copy in made}

    def number_for(target: str, wanted: int) -> int:
        while (target, wanted) in taken:
            wanted += 1
        taken.add((target, wanted))
        return wanted

    for copy in sorted(whole, key=lambda copy: (copy.target, copy.number, copy.medium, copy.place)):
        made.append(replace(copy, number=number_for(copy.target, copy.number)))
    for (target, number), parts in sorted(slices.items()):
        chosen = number_for(target, number)
        ordered = [replace(parts[part][0], number=chosen) for part in sorted(parts)]
        made += count_slices(ordered, dump_bytes=next(iter(parts.values()))[1].dump_bytes)
    return made


def scan_spool(site: Installation, *, report: Report) -> Iterator[Found]:
    """Yield the dumps that lie in the spool."""
    for path, _ in site.spool.files():
        if path.suffix != DUMP_SUFFIX or path.parent.name == FETCHED:
            continue
        try:
            header = scanned_whole(path, name=path.name, report=report)
        except DalError as error:
            report(Note(severity="error", path=os.fsencode(path), text=str(error)))
            continue
        copy = copy_of(
            header, target=SPOOL_TARGET, medium=SPOOL_TARGET, place=str(path), verdict=UNKNOWN, checked_at_ns=0
        )
        yield Found(copy=copy, header=header, path=path)


def rebuild(site: Installation, realm: Realm, *, add: bool = False, report: Report = silent) -> Rebuilt:
    """Make the catalog's dumps, copies and media again from what is here. `add` keeps what it knows of media away.

    Runs and drills stay as they are: nothing on media tells of them.
    """
    unreadable: list[str] = []

    def listen(event: Progress | Note) -> None:
        if isinstance(event, Note) and event.severity == "error":
            unreadable.append(event.text)
        report(event)

    parts: dict[bytes, list[tuple[Copy, PartHeader]]] = {}
    media: dict[str, Medium] = {}
    directories: set[Path] = set()
    sources: list[Iterable[Found]] = [scan_spool(site, report=listen)]
    for target in site.targets.values():
        here = {medium.label: replace(medium, last_seen_ns=now_ns()) for medium in target.present()}
        media.update(here)
        sources.append(target.scan(report=listen, media=here.keys()))
    for source in sources:
        for found in source:
            parts.setdefault(found.copy.dump_id, []).append((found.copy, found.header))
            if found.path is not None:
                directories.add(found.path.parent)
    _settle(directories)
    items: list[Item] = []
    for dump_id, files in sorted(parts.items()):
        # What a note says is better than what was guessed from a file copied by hand.
        header = max((header for _, header in files), key=lambda each: (bool(each.head), bool(each.set_name)))
        try:
            entry, earlier = entry_of(header, read_lineage(header, realm))
        except DalError as error:
            unreadable.append(f"dump {hex_short(dump_id)}: {error}")
            continue
        same = [(copy, each) for copy, each in files if each.dump_digest == header.dump_digest]
        received = min(each.received_at_ns or entry.received_at_ns for _, each in same)
        items.append((replace(entry, received_at_ns=received), earlier, tuple(assemble(same))))
    if add:
        items, media = _with_known(site, items, media)
    site.catalog.replace_all(items, list(media.values()))
    return Rebuilt(
        dump_count=len(items),
        copy_count=sum(len(copies) for _, _, copies in items),
        media=tuple(sorted(media)),
        unreadable=tuple(unreadable),
        incomplete=tuple(
            f"dump {hex_short(entry.dump_id)}: level {entry.level} of {entry.volume_name}: {len(copies)} parts found, "
            f"{copies[0].needed if copies else 1} are needed"
            for entry, _, copies in items
            if not usable_copies(copies)
        ),
        bad_labels=tuple(str(each.error) for each in bad_labels(site)),
    )


def _settle(directories: Iterable[Path]) -> None:
    """Make the names in these directories durable: rows follow files, and who made the files may have been killed."""
    for directory in sorted(directories):
        with contextlib.suppress(NoAccess):  # a medium that is mounted to be read only: nothing is under way there
            fsync_directory(directory)


def _with_known(
    site: Installation, items: list[Item], media: dict[str, Medium]
) -> tuple[list[Item], dict[str, Medium]]:
    """Return what was found together with what the catalog knows of media that are away."""
    here = set(media) | {SPOOL_TARGET}
    found = {entry.dump_id: (entry, earlier, copies) for entry, earlier, copies in items}
    known = site.catalog.dumps()
    away = site.catalog.copies_of(entry.dump_id for entry in known)
    for entry in known:
        kept = tuple(copy for copy in away.get(entry.dump_id, []) if copy.medium not in here)
        if entry.dump_id in found:
            fresh, earlier, copies = found[entry.dump_id]
            found[entry.dump_id] = (fresh, earlier, tuple(join_copies(kept, copies, dump_bytes=entry.size_bytes)))
        elif kept:
            found[entry.dump_id] = (entry, tuple(site.catalog.earlier(entry.dump_id)), kept)
    joined = {medium.label: medium for medium in site.catalog.media()} | media
    return list(found.values()), joined


def join_copies(kept: Sequence[Copy], fresh: Sequence[Copy], *, dump_bytes: int) -> list[Copy]:
    """Return copies known and copies found as one list: slices and shares of one copy complete each other."""
    by_key = {(copy.target, copy.number, copy.part): copy for copy in fresh}
    for copy in kept:
        number = copy.number
        whole = copy.parts == 1
        while whole and (copy.target, number, copy.part) in by_key:
            number += 1
        by_key.setdefault((copy.target, number, copy.part), replace(copy, number=number))
    joined: list[Copy] = []
    for parts in group_copies(by_key.values()).values():
        joined += count_slices(parts, dump_bytes=dump_bytes) if is_slice(parts[0]) else parts
    return joined


def check(
    site: Installation,
    *,
    read: bool = False,
    is_run_at_work: Callable[[], bool] = lambda: False,
    report: Report = silent,
) -> list[Disagreement]:
    """Compare the catalog with the media that are here, and put its verdicts right. `read`: every byte of each copy.

    What a run at work writes and removes meanwhile is no disagreement.
    """
    here = media_here(site, report=report)
    at_ns = now_ns()
    found = [
        Disagreement(dump_id=b"", medium="", place=os.fspath(each.path), text=str(each.error))
        for each in bad_labels(site)
    ]
    entries = {entry.dump_id: entry for entry in site.catalog.dumps()}
    copies = [copy for group in site.catalog.copies_of(entries).values() for copy in group]
    seen: dict[tuple[str, str], Found] = {}
    for target in site.targets.values():
        if target.kind != "command":  # to scan one means to fetch everything
            for each in target.scan(report=report, media=here[target.name]):
                seen[(each.copy.medium, each.copy.place)] = each
    checked: list[tuple[Copy, str]] = []
    for number, copy in enumerate(copies):
        report(Progress(phase="check", done_count=number, total_count=len(copies)))
        verdict = _verdict(site, copy, entries[copy.dump_id], here.get(copy.target, set()), seen, read, report)
        if verdict is not None:
            checked.append((copy, verdict))
    is_busy = is_run_at_work()
    if is_busy:
        text = "a run is at work: what it writes and removes is not compared; check again after it"
        report(Note(severity="notice", path=b"catalog", text=text))
    # As it is now: what runs recorded and removed since it was read above is no disagreement.
    entries = {entry.dump_id: entry for entry in site.catalog.dumps()}
    known = [copy for group in site.catalog.copies_of(entries).values() for copy in group]
    if not is_busy:
        found += _unlisted(seen, known)
    rows = {copy.key for copy in known}
    changed: list[Copy] = []
    for copy, verdict in checked:
        if copy.key not in rows or (is_busy and verdict == MISSING):
            continue
        if verdict in (BAD, MISSING):
            words = {BAD: "is damaged", MISSING: "is not there any more"}[verdict]
            found.append(Disagreement(dump_id=copy.dump_id, medium=copy.medium, place=copy.place, text=words))
        if read or verdict != copy.verdict:
            checked_at_ns = at_ns if read or verdict in (BAD, MISSING) else copy.checked_at_ns
            changed.append(replace(copy, verdict=verdict, checked_at_ns=checked_at_ns))
    if changed:
        site.catalog.put_copies(changed)
    found += _see_media(site, at_ns)
    return found if is_busy else found + _hopeless(site, entries)


def _unlisted(seen: Mapping[tuple[str, str], Found], known: Iterable[Copy]) -> list[Disagreement]:
    """Return the files on media that the catalog does not know."""
    text = "is on the medium and not in the catalog: `dal catalog rebuild --add` takes it in"
    unlisted = seen.keys() - {(copy.medium, copy.place) for copy in known}
    return [
        Disagreement(dump_id=seen[key].copy.dump_id, medium=key[0], place=key[1], text=text) for key in sorted(unlisted)
    ]


def _see_media(site: Installation, at_ns: int) -> list[Disagreement]:
    """Note which media were seen, and return those that have another's label."""
    found = []
    for target in site.targets.values():
        for here_now in target.present():
            before = site.catalog.get_medium(here_now.label)
            if before is None:
                continue
            if before.id and before.id != here_now.id:
                text = "is another medium than the one that had this label: its label file has another id"
                found.append(Disagreement(dump_id=b"", medium=here_now.label, place="", text=text))
                continue
            site.catalog.put_medium(replace(here_now, **_kept(before), last_seen_ns=at_ns))
    return found


def _hopeless(site: Installation, entries: Mapping[bytes, DumpEntry]) -> list[Disagreement]:
    """Return the dumps of which no usable copy is left, and those that build on one that is gone."""
    found = []
    copies = site.catalog.copies_of(entries)
    for entry in entries.values():
        if not usable_copies(copies.get(entry.dump_id, [])):
            text = f"level {entry.level} of {entry.volume_name}: no usable copy is left"
        elif not entry.is_full and not chain_to(site.catalog, entry):
            text = f"level {entry.level} of {entry.volume_name}: a dump that it builds on is gone"
        else:
            continue
        found.append(Disagreement(dump_id=entry.dump_id, medium="", place="", text=text))
    return found


def _kept(before: Medium) -> dict[str, Any]:
    """Return what a drive does not tell about a medium."""
    return {"first_used_ns": before.first_used_ns, "state": before.state}


def _verdict(
    site: Installation,
    copy: Copy,
    entry: DumpEntry,
    here: Iterable[str],
    seen: dict[tuple[str, str], Found],
    read: bool,
    report: Report,
) -> str | None:
    """Return what is true of a copy now, or None when its medium is away."""
    if copy.target == SPOOL_TARGET:
        path = copy.path_in_spool()
        if not path.is_file():
            return MISSING
        if path.stat().st_size != entry.size_bytes:
            return BAD
        if not read:
            return copy.verdict if copy.verdict not in (MISSING,) else UNKNOWN
        whole = scanned_whole(path, name=path.name, report=report).dump_digest == entry.digest
        return GOOD if whole else BAD
    if copy.medium not in here or copy.target not in site.targets:
        return None
    target = site.targets[copy.target]
    if read:
        return target.check(copy, entry, report=report)
    if target.kind == "command":
        return None
    there = seen.get((copy.medium, copy.place))
    if there is None or there.copy.dump_id != copy.dump_id:
        return MISSING
    if there.header.dump_digest != entry.digest:
        return BAD
    return UNKNOWN if copy.verdict == MISSING else copy.verdict
