"""Scan a directory of this host into a tree: everything Linux keeps, in work that follows the change.

Directories are visited with an explicit stack, each named by an fd (`Descent`). A directory whose names, keys and
subdirectories are those of the cache keeps its id unread; in others, unchanged files take their entries from before.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from stat import S_IFDIR, S_IFREG, S_IFSOCK
from typing import Final, NamedTuple

from blake3 import blake3
from msgspec.structs import replace

from dalsegno.chunks.cut import Cutter
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.formats.scan_cache import BIRTH_MASK, KEY, KEY_BYTES, KEY_NONE, CachedDirectory, unproven
from dalsegno.host.attributes import (
    STATX,
    STATX_ATTRIBUTE_NODUMP,
    STATX_FLAGS,
    STATX_MASK,
    StatxBuffer,
    libc_statx,
    statx_error,
)
from dalsegno.host.baseline import Baseline
from dalsegno.host.cache import CacheBuilder
from dalsegno.host.contents import ContentReader
from dalsegno.host.descent import DIRECTORY_FLAGS, PLACE_FLAGS, Descent
from dalsegno.host.entries import EntryMaker
from dalsegno.host.fields import (
    ATTRIBUTES,
    FORM_MASK,
    INO,
    KINDS,
    MODE,
    SIZE,
    Fields,
    Leaf,
    OpenDirectory,
    RacyTimes,
    device_number,
)
from dalsegno.host.findings import Findings
from dalsegno.host.hardlinks import HardLinks
from dalsegno.host.ignore import CACHE_TAG_FILE, IgnoreProblem, Rules, Scope, enter_scope, open_scope
from dalsegno.host.listing import LARGE_ENTRIES, NAME_HASH_BYTES, Listing
from dalsegno.host.mounts import boundaries_below
from dalsegno.host.nodes import NodeHistory
from dalsegno.host.prefetch import Prefetch
from dalsegno.host.unchanged import compare_with_cache
from dalsegno.pool.contract import Sink, Source
from dalsegno.terms.errors import BadInput, DalError, NotFound
from dalsegno.terms.events import Report, silent
from dalsegno.trees.build import store_directory
from dalsegno.trees.read import iterate_directory
from dalsegno.world.chance import random_node
from dalsegno.world.clock import now_ns

SHARE_MIN: Final = 0.001
END: Final[tuple[None, bytes]] = (None, KEY_NONE)
EMPTY_HASH: Final = blake3(b"").digest(NAME_HASH_BYTES)
OWN: Final = "Dal Segno's own"
OTHER_FILE_SYSTEM: Final = "another file system"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanOptions:
    """How a scan is done."""

    rules: Rules = field(default_factory=Rules)
    """What is left out."""
    inline_bytes_max: int = objects.INLINE_BYTES_MAX
    """Contents of at most so many bytes are kept in their directory."""
    large_entries: int = LARGE_ENTRIES
    """How many entries of one directory wait in memory as they are."""
    node_source: Callable[[], int] = random_node
    started_ns: int | None = None
    """For tests: files that changed shortly before it (`RACY_NS`) are read again next time; None: now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    """What a scan found; `root`, `links` and the two counts go into the revision."""

    root: Entry
    links: bytes
    entry_count: int
    total_bytes: int
    files_read: int
    bytes_read: int
    unreadable: list[tuple[bytes, str]]
    """What is missing in the tree because it could not be read."""
    changed: list[bytes]
    """Files that changed while they were read, each time they were read."""
    not_entered: list[tuple[bytes, str]]
    """Directories whose content was left out whatever the patterns say, and why: a pseudo file system (its type), the
    program's own, another file system. All but our own are there, empty."""
    missized: list[bytes]
    """Files with more or less content than their size says, as in /proc: stored as they were read."""
    ignore_problems: list[IgnoreProblem]
    """Lines of ignore files that match nothing, and ignore files that were not obeyed."""
    socket_count: int
    """Sockets that were met, which no tree holds."""
    directories_reused: int
    cache: CacheBuilder = field(repr=False)
    """Save it with the id of the revision that this scan becomes."""


class _Subdirectory(NamedTuple):
    """A subdirectory that is yet to be scanned."""

    name: bytes
    place: int
    """Its index among the entries of the directory above; meaningless where that is unchanged."""
    before: Entry | None
    holds: bool
    """Whether the entry before is right but for its content."""


class _Frame:
    """One directory that is being scanned."""

    __slots__ = (
        "changed",
        "clean",
        "device",
        "index",
        "inode",
        "listing",
        "own",
        "path",
        "position",
        "record",
        "scope",
        "subdirectories",
    )

    def __init__(
        self, path: bytes, index: int, own: Entry | None, device: int, inode: int, scope: Scope | None
    ) -> None:
        self.path = path
        self.index = index
        self.own = own
        """Its own entry; None where that of the cache holds, because the directory above is unchanged."""
        self.device = device
        self.inode = inode
        self.scope = scope
        self.record: CachedDirectory | None = None
        self.clean = False
        self.listing = Listing()
        self.subdirectories: list[_Subdirectory] = []
        self.position = 0
        self.changed: dict[bytes, bytes] = {}

    @property
    def name(self) -> bytes:
        """Return the directory's name."""
        return self.path.rpartition(b"/")[2]

    def entry(self, identity: bytes) -> Entry:
        """Return the entry of the directory, which was stored as `identity`."""
        assert self.own is not None
        return self.own if self.own.content == identity else replace(self.own, content=identity)

    def settle(self, below: "_Frame", identity: bytes) -> None:
        """Note that a subdirectory is stored as `identity`."""
        if not self.clean:
            self.listing.entries[below.index] = below.entry(identity)
        elif below.record is None or below.record[3] != identity:
            self.changed[below.name] = identity


class _Scan:
    """The walk of one scan."""

    def __init__(
        self,
        *,
        sink: Sink,
        cutter: Cutter,
        baseline: Baseline | None,
        options: ScanOptions,
        report: Report,
        started_ns: int,
    ) -> None:
        self.sink = sink
        self.baseline = baseline
        self.cache = baseline.cache if baseline is not None else None
        self.rules = options.rules
        self.large_entries = options.large_entries
        self.stack: list[_Frame] = []
        self.findings = Findings(
            report,
            expected_count=baseline.revision.entry_count if baseline is not None else 0,
            share_done=partial(share_done, self.stack),
        )
        self.builder = CacheBuilder(started_ns)
        self.buffer = StatxBuffer()
        self.racy = RacyTimes(started_ns)
        self.nodes = NodeHistory(baseline, self.buffer)
        reader = ContentReader(sink, cutter, self.buffer, self.findings, inline_bytes_max=options.inline_bytes_max)
        self.entries = EntryMaker(sink, reader, self.racy, self.findings, options.node_source)
        self.links = HardLinks(baseline, self.nodes, self.entries, self.findings)
        self.own_names: dict[bytes, set[bytes]] = {}
        self.own_inodes: set[tuple[int, int]] = set()
        self.device = 0
        self.empty = b""
        """The id of a directory with nothing in it, once there was one."""

    # -- one directory

    def open_directory(self, fd: int, frame: _Frame, prior: bytes) -> None:
        """List a directory; decide whether it is as cached; otherwise make its entries, but for subdirectories."""
        names = self.list_names(fd, frame)
        record, rules = frame.record, self.rules
        if not names:
            frame.clean = record is not None and record[5] == 0
            return
        patterns = frame.scope is not None and frame.scope.has_patterns
        filtering = patterns or rules.larger_than is not None or rules.nodump
        if record is not None:
            if filtering:
                names = self.kept_names(fd, frame, names)
                filtering = False
            if self.keep_unchanged(fd, frame, record, names):
                frame.clean = True
                return
        self.make_entries(OpenDirectory(fd, frame.device, names), frame, prior, filtering=filtering)

    def list_names(self, fd: int, frame: _Frame) -> list[bytes]:
        """Return the names in a directory, sorted, but for what is left out whatever the patterns say."""
        names = [os.fsencode(name) for name in os.listdir(fd)]
        names.sort()
        path, findings = frame.path, self.findings
        mounted = findings.boundaries.mounted.get(path)
        if mounted is not None:
            names = [name for name in names if name in mounted]
            findings.not_entered.append((path, "autofs: what is not mounted"))
        own = self.own_names.get(path)
        if own is not None:
            findings.not_entered += [(path + b"/" + name if path else name, OWN) for name in names if name in own]
            names = [name for name in names if name not in own]
        if frame.scope is not None:
            frame.scope, tagged = enter_scope(self.rules, frame.scope, fd, path, names, findings.add_ignore_problem)
            if tagged:
                names = [CACHE_TAG_FILE]
        return names

    def kept_names(self, fd: int, frame: _Frame, names: list[bytes]) -> list[bytes]:
        """Return the names that no rule excludes; what cannot be looked at stays in, so that it is reported."""
        return [
            name
            for name in names
            if libc_statx(fd, name, STATX_FLAGS, STATX_MASK, self.buffer.address) != 0
            or not self.excludes(frame, name, STATX.unpack_from(self.buffer.data))
        ]

    def excludes(self, frame: _Frame, name: bytes, fields: Fields) -> bool:
        rules = self.rules
        form = fields[MODE] & FORM_MASK
        if rules.nodump and fields[ATTRIBUTES] & STATX_ATTRIBUTE_NODUMP:
            return True
        if rules.larger_than is not None and form == S_IFREG and fields[SIZE] > rules.larger_than:
            return True
        if frame.scope is None:
            return False
        return frame.scope.excludes(frame.path, name, is_directory=form == S_IFDIR)

    def keep_unchanged(self, fd: int, frame: _Frame, record: CachedDirectory, names: list[bytes]) -> bool:
        """Tell whether a directory is as cached; note its subdirectories then, and count."""
        assert self.cache is not None
        found = compare_with_cache(fd, names, self.cache, record, self.buffer)
        if found is None:
            return False
        met_bytes = self.links.keep(found.linked, found.keys)
        if met_bytes is None:
            return False
        frame.subdirectories = [_Subdirectory(name, -1, None, True) for name in found.subdirectories]
        self.findings.entry_count += len(found.keys) // KEY_BYTES
        self.findings.total_bytes += found.total_bytes - met_bytes
        self.findings.socket_count += found.socket_count
        return True

    def entries_before(self, frame: _Frame, prior: bytes) -> Iterator[tuple[Entry, bytes]]:
        """Yield the entries of the directory before, with their keys, in name order."""
        if not prior or self.baseline is None:
            return
        view = self.cache.keys(frame.record) if self.cache is not None and frame.record is not None else None
        start = 0
        try:
            for known in iterate_directory(self.baseline.source, prior):
                yield known, bytes(view[start : start + KEY_BYTES]) if view is not None else KEY_NONE
                start += KEY_BYTES
        except DalError as error:
            # What cannot be read of the old tree is read anew from the disk.
            self.findings.note(frame.path, f"not compared with the revision before: {error}")

    def make_entries(self, directory: OpenDirectory, frame: _Frame, prior: bytes, *, filtering: bool) -> None:
        """Fill the frame's entries and keys; subdirectories get a place that is filled once they are done."""
        before = self.entries_before(frame, prior)
        known, known_key = next(before, END)
        prefix = frame.path + b"/" if frame.path else b""
        entries, keys, findings = frame.listing.entries, frame.listing.keys, self.findings
        pack, unpack = KEY.pack, STATX.unpack_from
        fd, data, address = directory.fd, self.buffer.data, self.buffer.address
        for name in directory.names:
            if libc_statx(fd, name, STATX_FLAGS, STATX_MASK, address) != 0:
                findings.fail(prefix + name, statx_error(name))
                continue
            fields = unpack(data)
            _, nlink, _, _, mode, ino, size, _, btime, btime_ns, ctime, ctime_ns, mtime, mtime_ns, _, _, _, _ = fields
            form = mode & FORM_MASK
            if filtering and self.excludes(frame, name, fields):
                continue
            key = pack(ino, size, ctime, ctime_ns, mtime, mtime_ns, (btime ^ btime_ns) & BIRTH_MASK)
            while known is not None and known.name < name:
                known, known_key = next(before, END)
            old, old_key = (known, known_key) if known is not None and known.name == name else END
            if form == S_IFDIR:
                self.add_subdirectory(frame, Leaf(directory, name, prefix + name, fields, key), old, old_key)
                continue
            if nlink <= 1 and old_key == key and old is not None and old.kind == KINDS.get(form):
                entry = old
            elif form == S_IFSOCK:
                findings.note(prefix + name, "socket: left out")
                findings.socket_count += 1
                continue
            else:
                made = self.make_leaf(Leaf(directory, name, prefix + name, fields, key), old, old_key, nlink > 1)
                if made is None:
                    continue
                entry, key = made
            findings.entry_count += 1
            if form == S_IFREG and nlink == 1:
                findings.total_bytes += entry.size
            entries.append(entry)
            keys += key
            if len(entries) >= self.large_entries:
                has_subdirectories = bool(frame.subdirectories)
                frame.listing.relieve(self.sink, has_subdirectories=has_subdirectories, large=self.large_entries)
            findings.progress_if_due()

    def add_subdirectory(self, frame: _Frame, met: Leaf, old: Entry | None, old_key: bytes) -> None:
        """Keep a place among the entries for a subdirectory."""
        holds = old_key == met.key
        if not holds and self.nodes.is_known:
            old = self.nodes.carried(met.directory, met.fields, objects.ENTRY_DIRECTORY, old, old_key)
        entries = frame.listing.entries
        frame.subdirectories.append(_Subdirectory(met.name, len(entries), old, holds))
        entries.append(None)
        frame.listing.keys += unproven(met.key) if self.racy.is_racy(met.directory, met.fields) else met.key

    def make_leaf(
        self, leaf: Leaf, old: Entry | None, old_key: bytes, has_more_names: bool
    ) -> tuple[Entry, bytes] | None:
        """Return the entry and key of a new or changed file; None when it cannot be read."""
        if has_more_names:
            return self.links.add(leaf, old, old_key)
        if self.nodes.is_known:
            old = self.nodes.carried(leaf.directory, leaf.fields, KINDS[leaf.fields[MODE] & FORM_MASK], old, old_key)
        return self.entries.leaf(leaf, old)

    # -- the walk

    def descend(self, way: Descent, path: bytes, name: bytes) -> tuple[int, bool]:
        """Open a subdirectory; tell whether it is a place where a pseudo file system is mounted, which stays empty."""
        mount = self.findings.boundaries.pseudo.get(path)
        if mount is None:
            return way.enter(name), False
        fd = way.enter(name, flags=PLACE_FLAGS)
        if device_number(self.buffer.statx(fd, b"")) == mount.major << 32 | mount.minor:
            self.findings.not_entered.append((path, mount.kind.decode(errors="replace")))
            return fd, True
        way.leave()  # something else is mounted over it
        return way.enter(name), False

    def enter(
        self, fd: int, path: bytes, found: _Subdirectory, above: _Frame | None, *, stays_empty: bool = False
    ) -> _Frame:
        """Open the frame of a directory whose fd is `fd`: its own attributes, then its entries."""
        fields = self.buffer.statx(fd, b"")
        device, inode = device_number(fields), fields[INO]
        old = found.before if found.before is not None and found.before.kind == objects.ENTRY_DIRECTORY else None
        own: Entry | None = None
        if above is None or not above.clean:
            if found.holds and old is not None:
                own = old
            else:
                own = self.entries.directory(fd, path, fields, old, stays_empty=stays_empty)
        scope = above.scope if above is not None else self.top_scope()
        frame = _Frame(path, found.place, own, device, inode, scope)
        if stays_empty:
            return frame
        if above is None:
            self.device = device
        elif self.rules.one_file_system and device != self.device:
            self.findings.not_entered.append((path, OTHER_FILE_SYSTEM))
            return frame
        elif (device, inode) in self.own_inodes:  # by another way than the one that is left out by name
            self.findings.not_entered.append((path, OWN))
            return frame
        record = self.cache.directory(device, inode) if self.cache is not None else None
        prior = record[3] if record is not None else b""
        if record is not None and self.is_lost(record[3]):
            record = None  # something in it is lost: its files are read again, whatever the cache remembers
        frame.record = record
        if not prior and old is not None:
            prior = old.content
        self.open_directory(fd, frame, prior)
        return frame

    def is_lost(self, identity: bytes) -> bool:
        """Tell whether something that a directory of the revision before names is not there."""
        relies = self.baseline.relies if self.baseline is not None else None
        return relies is not None and not relies(identity)

    def top_scope(self) -> Scope | None:
        return open_scope(self.rules, self.findings.add_ignore_problem) if self.rules.by_name else None

    def finish(self, frame: _Frame) -> bytes:
        """Store a directory all of whose subdirectories are done; return its id."""
        record = frame.record
        if frame.clean:
            assert record is not None and self.baseline is not None and self.cache is not None
            identity = record[3]
            if frame.changed:
                identity = store_directory(self.sink, with_changed(self.baseline.source, identity, frame.changed))
            else:
                self.findings.directories_reused += 1
            self.builder.keep_directory(self.cache, record, identity=identity)
            return identity
        if frame.listing.keys:
            identity, names_hash, keys = frame.listing.finish(self.sink)
        else:
            self.empty = self.empty or store_directory(self.sink, [])
            identity, names_hash, keys = self.empty, EMPTY_HASH, b""
        self.builder.add_directory(
            device=frame.device, inode=frame.inode, names_hash=names_hash, identity=identity, keys=keys
        )
        return identity

    def find_boundaries(self, root: bytes) -> None:
        """Note what beneath the root is not entered."""
        self.findings.boundaries = boundaries_below(root)
        for path in self.rules.own:
            above, _, name = path.rpartition(b"/")
            self.own_names.setdefault(above, set()).add(name)
            with suppress(OSError):
                found = os.stat(os.path.join(root, path))
                self.own_inodes.add((os.major(found.st_dev) << 32 | os.minor(found.st_dev), found.st_ino))

    def run(self, root: bytes) -> Entry:
        """Scan everything and return the root's entry."""
        self.findings.root = root
        self.findings.progress()  # so that who listens can ask where it is, from the beginning
        way = Descent(os.open(root, (DIRECTORY_FLAGS & ~os.O_NOFOLLOW)))
        try:
            self.find_boundaries(root)
            before = self.baseline.revision.root if self.baseline is not None else None
            stack = self.stack
            stack.append(self.enter(way.fd, b"", _Subdirectory(b"", -1, before, False), None))
            while True:
                frame = stack[-1]
                if frame.position < len(frame.subdirectories):
                    self.enter_next(way, frame)
                    continue
                identity = self.finish(frame)
                stack.pop()
                if not stack:
                    return frame.entry(identity)
                way.leave()
                stack[-1].settle(frame, identity)
        finally:
            way.close()

    def enter_next(self, way: Descent, frame: _Frame) -> None:
        """Enter the next subdirectory of a directory, or leave it out when it cannot be opened."""
        found = frame.subdirectories[frame.position]
        frame.position += 1
        path = frame.path + b"/" + found.name if frame.path else found.name
        self.findings.directory = path
        depth = way.depth
        try:
            fd, stays_empty = self.descend(way, path, found.name)
            child = self.enter(fd, path, found, frame, stays_empty=stays_empty)
        except OSError as error:
            if way.depth > depth:
                way.leave()
            self.lose(frame, path, found.name, error)
            return
        self.stack.append(child)
        if not frame.clean:
            self.findings.entry_count += 1
        self.findings.progress_if_due()

    def lose(self, frame: _Frame, path: bytes, name: bytes, error: OSError) -> None:
        """Leave out a subdirectory that cannot be opened."""
        self.findings.fail(path, error)
        if frame.clean:
            # Its parent looked unchanged: from here on it is handled as a changed one.
            assert self.baseline is not None and frame.record is not None and self.cache is not None
            self.findings.entry_count -= 1
            entries = frame.listing.entries
            places: dict[bytes, int] = {}
            before: dict[bytes, Entry] = {}
            for number, entry in enumerate(with_changed(self.baseline.source, frame.record[3], frame.changed)):
                if entry.kind == objects.ENTRY_DIRECTORY:
                    places[entry.name], before[entry.name] = number, entry
                entries.append(entry)
            frame.listing.keys += self.cache.keys(frame.record)
            frame.clean = False
            frame.changed = {}
            frame.subdirectories = [
                _Subdirectory(each.name, places[each.name], before[each.name], True) for each in frame.subdirectories
            ]
            entries[places[name]] = None
            self.findings.entry_count -= len(frame.subdirectories) - frame.position


def share_done(stack: list[_Frame]) -> float:
    """Guess how much is done by taking all subdirectories of a directory for equally large."""
    share, weight = 0.0, 1.0
    for frame in stack:
        count = len(frame.subdirectories) + 1  # its own files count like one subdirectory
        share += weight * max(frame.position, 1) / count
        weight /= count
        if weight < SHARE_MIN:
            break
    return min(share, 1.0)


def with_changed(source: Source, identity: bytes, changed: dict[bytes, bytes]) -> Iterator[Entry]:
    """Yield the entries of a directory, some subdirectories with other content."""
    for entry in iterate_directory(source, identity):
        new = changed.get(entry.name)
        yield entry if new is None or new == entry.content else replace(entry, content=new)


def scan_tree(
    root: bytes | Path,
    *,
    sink: Sink,
    cutter: Cutter,
    baseline: Baseline | None = None,
    options: ScanOptions | None = None,
    report: Report = silent,
) -> ScanResult:
    """Store the tree beneath `root` in `sink`, with what carries on from `baseline`. BadInput, NotFound."""
    options = options if options is not None else ScanOptions()
    scan = _Scan(
        sink=sink,
        cutter=cutter,
        baseline=baseline,
        options=options,
        report=report,
        started_ns=now_ns() if options.started_ns is None else options.started_ns,
    )
    findings = scan.findings
    # Only a first scan reads most of what it meets.
    ahead = Prefetch(os.fsencode(root), position=lambda: findings.entry_count) if baseline is None else nullcontext()
    try:
        with ahead:
            entry = scan.run(os.fsencode(root))
    except NotADirectoryError:
        raise BadInput(f"{os.fsdecode(root)}: not a directory") from None
    except FileNotFoundError:
        raise NotFound(f"{os.fsdecode(root)}: no such directory") from None
    links = scan.links.finish(sink, scan.builder)
    findings.progress()
    return ScanResult(
        root=entry,
        links=links,
        entry_count=findings.entry_count,
        total_bytes=findings.total_bytes,
        files_read=findings.files_read,
        bytes_read=findings.bytes_read,
        unreadable=findings.unreadable,
        changed=findings.changed,
        not_entered=findings.not_entered,
        missized=findings.missized,
        socket_count=findings.socket_count,
        ignore_problems=findings.ignore_problems,
        directories_reused=findings.directories_reused,
        cache=scan.builder,
    )
