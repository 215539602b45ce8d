"""Restore: a revision into a directory, or dumps into a living volume."""

import grp
import os
import pwd
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict, Unpack

from dalsegno.actions.backup import own_paths, own_places
from dalsegno.actions.session import House
from dalsegno.actions.view import View, open_unchecked_view, require_signed_view
from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.load import load_chain
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.host.changes import Tell
from dalsegno.host.outcome import RestoreResult
from dalsegno.host.owners import OwnerMap
from dalsegno.host.restore import restore_tree
from dalsegno.host.restoring import RestoreOptions
from dalsegno.host.room import Room, look_for_room
from dalsegno.pool.checked import CheckedSource
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import BadInput, Full, NotFound, Refused, Unavailable
from dalsegno.terms.events import Note, Report
from dalsegno.terms.sizes import format_size
from dalsegno.trees.one import OneEntry
from dalsegno.trees.read import lookup, resolve_path
from dalsegno.volumes.state import VolumeState
from dalsegno.world.clock import now_ns
from dalsegno.world.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOutcome:
    """What was restored, from where, into what."""

    label: str
    target: str
    result: RestoreResult
    duration_ns: int
    room: Room | None = None
    """What is free where it goes; None where nobody asked."""
    is_trusted: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest:
    """How a restore is wanted."""

    owners: OwnerMap = field(default_factory=OwnerMap)
    delete: bool = False
    """Remove what the tree does not hold: never the program's own, nor what the backup did not cover."""
    delete_excluded: bool = False
    """Remove also what the backup did not cover."""
    sure: bool = False
    """Delete below `/`, too."""
    dry_run: bool = False
    compare: bool = False
    """Read a file that has the same size and time, instead of taking it for equal."""
    cross_file_systems: bool = False
    """Restore into what is mounted below the target."""
    is_trusted: bool | None = None
    """None: as `restore` and `restore_view` decide."""
    any_size: bool = False
    """Begin also when there is no room for all of it."""


class RestoreKeywords(TypedDict, total=False):
    """The fields of a `RestoreRequest` as arguments of `restore`."""

    owners: OwnerMap
    delete: bool
    delete_excluded: bool
    sure: bool
    dry_run: bool
    compare: bool
    cross_file_systems: bool
    is_trusted: bool | None
    any_size: bool


def restore(
    house: House,
    address: str,
    target: Path,
    *,
    paths: Sequence[bytes] = (),
    tell: Tell | None = None,
    **keywords: Unpack[RestoreKeywords],
) -> RestoreOutcome:
    """Make `target` hold what an address or a chain of dumps names; only what differs is written.

    Only `paths` when given (relative to the volume's root); a path in the address is one of them. `tell` hears of each
    entry. The other arguments are the fields of a `RestoreRequest`. Refused: to delete below `/` unless `sure`, or in
    the program's own places. Without a word (`is_trusted` None) all is trusted but what is not this house's own
    (`is_own`), and what does not count as signed in a volume that requires it is Refused. Full, before anything is
    written: there is no room for it, unless `any_size`.
    """
    return restore_as(house, address, target, RestoreRequest(**keywords), paths=paths, tell=tell)


def restore_as(
    house: House,
    address: str,
    target: Path,
    request: RestoreRequest,
    *,
    paths: Sequence[bytes] = (),
    tell: Tell | None = None,
) -> RestoreOutcome:
    """Restore what an address names, as `restore` does, by one value."""
    with open_unchecked_view(house, address) as view:
        if request.is_trusted is None:
            require_signed_view(house, view)
            request = replace(request, is_trusted=is_own(house, view))
        return restore_view(house, view, target, paths=paths, request=request, tell=tell)


def restore_view(
    house: House,
    view: View,
    target: Path,
    *,
    paths: Sequence[bytes] = (),
    request: RestoreRequest | None = None,
    tell: Tell | None = None,
) -> RestoreOutcome:
    """Make `target` hold what an open view shows, as `restore` does; of a single file it may be that file.

    Without a word the view is trusted, unless it is of a dump for single readers.
    """
    started_ns = now_ns()
    request = request if request is not None else RestoreRequest()
    own = own_paths(house, os.fsencode(target)) if request.delete else ()
    if request.delete and not request.dry_run:
        _check_deletion(house, target, sure=request.sure)
    source, revision, place = view.source, view.revision, target
    wanted = [*paths, *([view.path] if view.path else [])]
    single = _single_file(view, target) if not paths else None
    if single is not None:
        one = OneEntry(view.source, single)
        source, revision, place, wanted = one, one.revision(view.revision), target.parent, [single.name]
    is_trusted = request.is_trusted
    if is_trusted is None:
        require_signed_view(house, view)
        is_trusted = view.chain is None or not view.chain.is_for_readers
    options = _options(request, wanted, own, is_trusted=is_trusted)
    room = look_for_room(os.fsencode(place))
    with _comparing_beside(source, house.workers):
        if not request.dry_run and not room.fits(needed_bytes=revision.total_bytes, needed_files=revision.entry_count):
            foretold = restore_tree(
                source, revision, place, options=replace(options, dry_run=True), report=house.report
            )
            _require_room(target, foretold, room, any_size=request.any_size, report=house.report)
        result = restore_tree(source, revision, place, options=options, tell=tell, report=house.report)
    return RestoreOutcome(
        label=view.label,
        target=os.fspath(target),
        result=result,
        duration_ns=now_ns() - started_ns,
        room=room,
        is_trusted=is_trusted,
    )


def _options(
    request: RestoreRequest, paths: Sequence[bytes], own: Sequence[bytes], *, is_trusted: bool
) -> RestoreOptions:
    return RestoreOptions(
        paths=paths,
        owners=request.owners,
        delete=request.delete,
        delete_excluded=request.delete_excluded,
        own=own,
        dry_run=request.dry_run,
        verify_content=request.compare,
        cross_devices=request.cross_file_systems,
        is_trusted=is_trusted,
    )


def is_own(house: House, view: View) -> bool:
    """Tell whether what is read is of a volume that this house has: a dump of any other may be a stranger's.

    Nor is a dump that was made for single readers: with its key each of them can write it anew.
    """
    if view.chain is None:
        return True
    if view.chain.is_for_readers:
        return False
    try:
        return house.volumes.get_by_id(view.revision.volume) is not None
    except (NotFound, Unavailable):
        return False


def room_words(result: RestoreResult, room: Room) -> str:
    """Say what a restore that a dry run looked at needs, and what there is."""
    needed = format_size(max(0, result.bytes_written - result.bytes_freed))
    if room.free_files is not None and result.created > room.free_files:
        return f"{result.created:,} new files, and there is room for {room.free_files:,}"
    return f"{needed} more, and {format_size(room.free_bytes or 0)} is free"


def fits(result: RestoreResult, room: Room) -> bool:
    """Tell whether there is room for a restore that a dry run looked at."""
    return room.fits(needed_bytes=result.bytes_written - result.bytes_freed, needed_files=result.created)


def _require_room(target: Path, result: RestoreResult, room: Room, *, any_size: bool, report: Report) -> None:
    """Raise Full when there is no room for what a dry run would write; what cannot be told for sure is only said."""
    if fits(result, room):
        return
    text = f"this needs {room_words(result, room)}"
    if any_size or result.deleted or not room.is_exact:
        report(Note(severity="notice", path=os.fsencode(target), text=f"{text}: begun all the same"))
        return
    raise Full(f"{target}: {text}; nothing was written: free some, choose with --path, or begin with --any-size")


@contextmanager
def _comparing_beside(source: Source, workers: Workers) -> Iterator[None]:
    """Let a crew compare with their ids what a restore reads, while it writes."""
    if not isinstance(source, CheckedSource):
        yield
        return
    source.check_beside(workers)
    try:
        yield
    finally:
        source.check_beside(None)


def _single_file(view: View, target: Path) -> Entry | None:
    """Return the file that an address names when `target` is to be that file: of its name, and no directory."""
    above, _, name = view.path.rstrip(b"/").rpartition(b"/")
    if not name or os.fsencode(target.name) != name or target.is_dir():
        return None
    directory = resolve_path(view.source, view.revision, above)
    if directory.kind != objects.ENTRY_DIRECTORY:
        return None
    entry = lookup(view.source, directory.content, name)
    if entry is None or entry.kind == objects.ENTRY_DIRECTORY:
        return None
    if not target.parent.is_dir():
        raise NotFound(f"{target.parent}: no such directory")
    return entry


def _check_deletion(house: House, target: Path, *, sure: bool) -> None:
    """Refuse what would remove a whole system, or what this program keeps."""
    place = os.path.realpath(os.fsencode(target))
    if place == b"/" and not sure:
        raise Refused("--delete below / removes whatever the backup has not: look first (--dry-run), then give --yes")
    for own in own_places(house):
        if place == own or place.startswith(own + b"/"):
            raise Refused(
                f"{os.fsdecode(place)}: the program's own files are in {os.fsdecode(own)}: --delete is refused"
            )


def restore_volume(house: House, paths: Sequence[Path], name: str) -> VolumeState:
    """Make a living, writable volume of dumps, or bring one forward by increments that continue it."""
    with DumpChain.open(paths, house.pool.realm) as chain:
        return load_chain(
            chain, house.pool, house.volumes, name, now_ns=now_ns(), workers=house.workers, report=house.report
        )


def read_owner_map(path: Path) -> OwnerMap:
    """Return the map in a file of lines `user OLD NEW` and `group OLD NEW`, each a name or a number."""

    tables: dict[str, dict[bytes, int]] = {"user": {}, "group": {}}
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not a text: expected lines 'user OLD NEW' or 'group OLD NEW'") from None
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3 or words[0] not in tables:
            raise BadInput(f"{path}, line {number}: expected 'user OLD NEW' or 'group OLD NEW'")
        kind, old, new = words
        try:
            value = (
                int(new)
                if new.isdecimal()
                else (pwd.getpwnam(new).pw_uid if kind == "user" else grp.getgrnam(new).gr_gid)
            )
        except KeyError:
            raise BadInput(f"{path}, line {number}: no {kind} {new!r} on this host") from None
        tables[kind][os.fsencode(old)] = value
    return OwnerMap(mode="map", users=tables["user"], groups=tables["group"])
