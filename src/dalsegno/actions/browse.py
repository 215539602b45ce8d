"""Read what is in volumes and dumps: list, read, find, compare, history of one file."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import translate
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from dalsegno.actions.backup import own_paths
from dalsegno.actions.rules import left_out, rules_of
from dalsegno.actions.session import House
from dalsegno.actions.view import View, open_view, split_dumps
from dalsegno.chunks.cut import Cutter
from dalsegno.formats import objects
from dalsegno.formats.objects import ENTRY_DIRECTORY, ENTRY_FILE, ENTRY_NAMES, ENTRY_SYMLINK, Entry, Revision
from dalsegno.host.baseline import Baseline
from dalsegno.host.cache import SCAN_SUFFIX, load_cache
from dalsegno.host.scan import ScanOptions, scan_tree
from dalsegno.pool.contract import Source
from dalsegno.pool.sources import FirstOf, Scratch
from dalsegno.terms.errors import BadInput, DalError, Damaged, Lost, NotFound, Refused
from dalsegno.terms.events import Note, Report
from dalsegno.trees.diff import Change, diff_revisions
from dalsegno.trees.diff_links import settle_links
from dalsegno.trees.read import iterate_content, iterate_directory, read_revision, resolve_link, resolve_path
from dalsegno.trees.walk import Unreadable, walk
from dalsegno.volumes.address import parse_address, resolve
from dalsegno.volumes.ancestry import find_revision
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import TRACKED, VolumeState
from dalsegno.world.clock import now_ns

ZEROS = bytes(256 * 1024)
VIEWS_COMPARED = ("content", "kind", "mode", "owner", "times", "xattrs", "flags", "size")


@dataclass(frozen=True, slots=True)
class Row:
    """A path and what is there; a hard link shows as the file behind it."""

    path: bytes
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A path that matches, in all clones from `first` to `last`."""

    volume: str
    first: str
    last: str
    path: bytes
    entry: Entry
    """As it is in the last of them."""

    @property
    def address(self) -> str:
        """The path in the newest clone that has it, as every command takes it."""
        clone = f"@{self.last}" if self.last else ""
        return f"{self.volume}{clone}:/{os.fsdecode(self.path)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One distinct state of a file, in all clones from `first` to `last`; entry None: it was not there."""

    first: str
    last: str
    clone_count: int
    entry: Entry | None


def list_volumes(house: House) -> list[VolumeState]:
    """Return all volumes by name."""
    return house.volumes.list()


def ls(house: House, address: str, *, recursive: bool = False) -> Iterator[Row]:
    """Yield what is in a directory (or the file itself), in name order."""
    with open_view(house, address) as view:
        yield from _rows(view, telling(house.report, view.label), recursive=recursive)


def telling(report: Report, label: str) -> Unreadable:
    """Return what reports the paths of a state that cannot be read, once each; the command goes on, and ends with 5."""
    told: set[bytes] = set()

    def tell(path: bytes, error: DalError) -> None:
        if path not in told:
            told.add(path)
            place = f"{label}:/".encode(errors="surrogateescape") + path
            report(Note(severity="error", path=place, text=f"cannot be read: {error}", is_damage=True))

    return tell


def _rows(view: View, tell: Unreadable, *, recursive: bool) -> Iterator[Row]:
    source = view.source
    start = resolve_path(source, view.revision, view.path)
    if start.kind != ENTRY_DIRECTORY:
        yield Row(view.path, start)
    elif recursive:
        skip = len(view.path) + 1 if view.path else 0
        for path, entry in walk(source, view.revision, view.path, unreadable=tell):
            if path != view.path:
                yield Row(path[skip:], _file_of(view, path, entry, tell))
    else:
        above = view.path + b"/" if view.path else b""
        for entry in iterate_directory(source, start.content, unreadable=partial(tell, view.path)):
            yield Row(entry.name, _file_of(view, above + entry.name, entry, tell))


def _file_of(view: View, path: bytes, entry: Entry, tell: Unreadable) -> Entry:
    """Return the file behind a hard link; the link itself when that cannot be read, which is told."""
    try:
        return resolve_link(view.source, view.revision.links, entry)
    except (Damaged, NotFound) as error:
        tell(path, error)
        return entry


def iterate_file(house: House, address: str) -> Iterator[bytes]:
    """Yield a file's bytes in order, holes as zeros."""
    with open_view(house, address) as view:
        entry = resolve_path(view.source, view.revision, view.path)
        if entry.kind == ENTRY_SYMLINK:
            raise BadInput(f"{address}: is a symlink to {os.fsdecode(entry.content)}")
        if entry.kind != ENTRY_FILE:
            raise BadInput(f"{address}: is a {ENTRY_NAMES.get(entry.kind, 'special file')}, not a file")
        position = 0
        for offset, data in iterate_content(view.source, entry):
            yield from _zeros(offset - position)
            yield data
            position = offset + len(data)
        yield from _zeros(entry.size - position)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield ZEROS[:count]
        count -= len(ZEROS)


def read_file(house: House, address: str) -> bytes:
    """Return a whole file."""
    return b"".join(iterate_file(house, address))


def _matcher(pattern: str, *, ignore_case: bool = False) -> Callable[[bytes], bool]:
    """Return what tells whether a path is meant. A `?` is a character, however many bytes it has."""
    whole = pattern.strip("/")
    regex = translate(whole) if "/" in pattern else translate(whole).replace("(?s:", "(?s:(?:.*/)?", 1)
    match = re.compile(regex, re.IGNORECASE if ignore_case else 0).fullmatch
    return lambda path: match(os.fsdecode(path)) is not None


def ordered_clones(state: VolumeState) -> list[tuple[str, Clone]]:
    """Return a volume's clones, oldest first."""
    return list(state.clones.by_time())


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A state in a volume's history: a clone of the pool, or what a dump brings."""

    name: str
    created_ns: int
    revision: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A volume's states, oldest first, and where to read them."""

    volume: str
    steps: list[Step]
    source: Source


def pool_steps(state: VolumeState) -> list[Step]:
    """Return the clones of a volume, oldest first, and the head when no clone names it."""
    steps = [
        Step(name=name, created_ns=clone.created_ns, revision=clone.revision) for name, clone in ordered_clones(state)
    ]
    if state.head and state.head not in {step.revision for step in steps}:
        steps.append(Step(name="latest", created_ns=now_ns(), revision=state.head))
    return steps


def pool_histories(house: House, volume: str | None) -> Iterator[History]:
    """Yield the history of every volume in the pool, or of one."""
    states = house.volumes.list() if volume is None else [house.volumes.get(volume)]
    for state in states:
        # Opened one by one: of a volume on servers only then is it known where to read it.
        state = house.volumes.get_by_id(state.id) or state
        yield History(volume=state.name, steps=pool_steps(state), source=house.pool)


Histories = Callable[[str | None], Iterator[History]]


def find(
    house: House,
    pattern: str,
    address: str | None = None,
    *,
    histories: Histories | None = None,
    ignore_case: bool = False,
) -> Iterator[Found]:
    """Yield the paths whose name (with a `/` in the pattern: whole path) matches, over all clones or in one address.

    Over all clones only the oldest is walked; from there on the work follows the changes. `histories` gives states
    beyond those in the pool.
    """
    matcher = _matcher(pattern, ignore_case=ignore_case)
    parsed = parse_address(address) if address is not None and split_dumps(address) is None else None
    if address is None or (parsed is not None and not parsed.selector and not parsed.path):
        volume = parsed.volume if parsed is not None else None
        for history in (histories or partial(pool_histories, house))(volume):
            yield from _find_history(history, matcher, house.report)
        return
    with open_view(house, address) as view:
        volume, _, clone = view.label.rpartition("@") if view.chain is None else (view.label, "", view.clone or "")
        tell = telling(house.report, view.label)
        for path, entry in walk(view.source, view.revision, view.path, unreadable=tell):
            if matcher(path) and path:
                entry = _file_of(view, path, entry, tell)
                yield Found(volume=volume, first=clone, last=clone, path=path, entry=entry)


def _read_state(history: History, step: Step, report: Report) -> Revision | None:
    """Return the revision of a step; None when it is lost, which is said."""
    revision = find_revision(history.source, step.revision)
    if revision is None:
        label = f"{history.volume}@{step.name}".encode(errors="surrogateescape")
        text = "lost, passed over: `dal verify --pool` tells more"
        report(Note(severity="notice", path=label, text=text, is_damage=True))
    return revision


def _readable(history: History, before: Revision | None, step: Step, now: Revision, report: Report) -> Iterator[Change]:
    """Yield what changed since the state before, as far as it can be read; what cannot is said."""
    label = f"{history.volume}@{step.name}"
    tell = telling(report, label)
    try:
        yield from diff_revisions(history.source, before, now, unreadable=tell)
    except (Damaged, NotFound) as error:  # a state that is named is there, or it is damaged
        tell(b"", error)


def _find_history(history: History, matcher: Callable[[bytes], bool], report: Report) -> Iterator[Found]:
    source = history.source
    open_since: dict[bytes, tuple[str, Entry]] = {}
    before: Revision | None = None
    before_id, before_name = b"", ""
    for step in history.steps:
        name, identity = step.name, step.revision
        if identity != before_id:
            revision = _read_state(history, step, report)
            if revision is None:
                continue
            for change in _readable(history, before, step, revision, report):
                if not change.path or not matcher(change.path):
                    continue
                known = open_since.get(change.path)
                if change.new is None:
                    if known is not None:
                        del open_since[change.path]
                        yield Found(
                            volume=history.volume, first=known[0], last=before_name, path=change.path, entry=known[1]
                        )
                else:
                    # Of a changed hard link the table's entry is told.
                    named = replace(change.new, name=change.path.rpartition(b"/")[2])
                    entry = resolve_link(source, revision.links, named)
                    open_since[change.path] = (known[0] if known else name, entry)
            before, before_id = revision, identity
        before_name = name
    for path, (first, entry) in sorted(open_since.items()):
        yield Found(volume=history.volume, first=first, last=before_name, path=path, entry=entry)


def versions(house: House, address: str, *, histories: Histories | None = None) -> list[Version]:
    """Return the distinct versions of one file over all clones, oldest first; `histories` as in find()."""
    parsed = parse_address(address)
    if not parsed.path:
        raise BadInput(f"{address}: expected VOLUME:/PATH")
    if histories is None:
        state = resolve(house.pool, house.volumes, parsed, now_ns=now_ns()).state
        history = History(volume=state.name, steps=pool_steps(state), source=house.pool)
    else:
        opened = histories(parsed.volume)  # held to the end: the dumps are closed when it goes
        history = next(opened)
    found: list[Version] = []
    seen: dict[bytes, Entry | None] = {}
    is_unreadable = False
    for step in history.steps:
        name, identity = step.name, step.revision
        if identity not in seen:
            revision = _read_state(history, step, house.report)
            if revision is None:
                continue
            try:
                seen[identity] = resolve_path(history.source, revision, parsed.path)
            except (Damaged, Lost) as error:
                telling(house.report, f"{history.volume}@{name}")(parsed.path, error)
                is_unreadable = True
                continue
            except NotFound:
                seen[identity] = None
        entry = seen[identity]
        if found and found[-1].entry == entry:
            last = found[-1]
            found[-1] = Version(first=last.first, last=name, clone_count=last.clone_count + 1, entry=entry)
        else:
            found.append(Version(first=name, last=name, clone_count=1, entry=entry))
    if all(version.entry is None for version in found):
        if is_unreadable:
            raise Damaged(f"{address}: in no clone of {history.volume!r} that can be read")
        raise NotFound(f"{address}: in no clone of {history.volume!r}")
    return found


def changed_parts(change: Change) -> list[str]:
    """Return which parts of a changed entry differ: content, kind, mode, owner, times, xattrs, flags."""
    old, new = change.old, change.new
    if old is None or new is None:
        return []
    parts = {
        "kind": old.kind != new.kind,
        "content": old.kind != ENTRY_DIRECTORY
        and (old.content_kind, old.content, old.size) != (new.content_kind, new.content, new.size),
        "mode": old.mode != new.mode,
        "owner": (old.uid, old.gid, old.owner, old.group) != (new.uid, new.gid, new.owner, new.group),
        "times": old.mtime_ns != new.mtime_ns,
        "xattrs": old.xattrs != new.xattrs,
        "flags": old.flags != new.flags,
        "device": old.device != new.device,
        "links": old.link != new.link,
        "replaced": old.node != new.node and old.kind == new.kind,
    }
    return [name for name, differs in parts.items() if differs]


def diff(house: House, old: str, new: str | None = None) -> Iterator[Change]:
    """Yield what changed from `old` to `new`; without `new`, from `old` to the volume's live source."""
    with open_view(house, old) as before:
        if new is None:
            yield from _diff_live(house, before)
            return
        with open_view(house, new) as after:
            source: Source = before.source
            if after.source is not before.source:
                source = FirstOf([after.source, before.source])
            tell = telling(house.report, f"{before.label} or {after.label}")
            changes = diff_revisions(source, before.revision, after.revision, unreadable=tell)
            settled = settle_links(changes, source, before.revision, after.revision)
            yield from _below(settled, after.path or before.path)


def _below(changes: Iterator[Change], path: bytes) -> Iterator[Change]:
    for change in changes:
        if not path or change.path == path or change.path.startswith(path + b"/"):
            yield change


def _diff_live(house: House, before: View) -> Iterator[Change]:
    state = before.state
    if state is None or state.kind != TRACKED:
        raise Refused(f"{before.label} follows no directory: name a second address to compare with")
    pool = house.pool
    scratch = Scratch(pool.realm, pool, keeps=(objects.KIND_DIRECTORY,))  # enough to compare
    baseline: Baseline | None = None
    if state.head:
        cache = load_cache(house.cache_dir / f"{state.id.hex()}{SCAN_SUFFIX}", revision=state.head)
        baseline = Baseline(revision=read_revision(pool, state.head), source=pool, cache=cache)
    scan = scan_tree(
        Path(os.fsdecode(state.source)),
        sink=scratch,
        cutter=Cutter(pool.realm.chunk_seed),
        baseline=baseline,
        options=ScanOptions(rules=rules_of(left_out(state.settings), own=own_paths(house, state.source))),
        report=house.report,
    )
    for path, text in scan.unreadable:  # what seems to be removed is perhaps only not readable
        house.report(Note(severity="error", path=path, text=f"not readable: {text}"))
    live = Revision(
        volume=state.id,
        parents=[],
        root=scan.root,
        links=scan.links,
        created_ns=now_ns(),
        author="",
        message="",
        entry_count=scan.entry_count,
        total_bytes=scan.total_bytes,
    )
    changes = diff_revisions(scratch, before.revision, live, unreadable=telling(house.report, before.label))
    yield from _below(settle_links(changes, scratch, before.revision, live), before.path)
