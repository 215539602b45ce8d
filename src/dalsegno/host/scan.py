"""Scan a directory of this host into a tree: everything Linux keeps, in work that follows the change.

Directories are visited with an explicit stack, each named by an fd (`Descent`). A directory whose names, keys and
subdirectories are those of the cache keeps its id unread; in others, unchanged files take their entries from before.
"""

import errno
import os
import stat as modes
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3
from msgspec.structs import replace

from dalsegno.chunks.cut import Cutter
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision
from dalsegno.formats.scan_cache import BIRTH_MASK, KEY, KEY_BYTES, KEY_NONE, CachedDirectory, unproven
from dalsegno.host import attributes
from dalsegno.host.attributes import (
    STATX,
    STATX_ATTRIBUTE_NODUMP,
    STATX_DEVICE,
    STATX_FLAGS,
    STATX_MASK,
    STATX_SHORT,
    StatxBuffer,
    libc_statx,
    statx_error,
)
from dalsegno.host.cache import CacheBuilder, ScanCache
from dalsegno.host.descent import DIRECTORY_FLAGS, PLACE_FLAGS, Descent
from dalsegno.host.ignore import CACHE_TAG_FILE, IgnoreProblem, Rules, Scope, enter_scope, open_scope
from dalsegno.host.linked import LinkedFiles
from dalsegno.host.listing import LARGE_ENTRIES, NAME_HASH_BYTES, Listing
from dalsegno.host.mounts import Boundaries, boundaries_below
from dalsegno.host.prefetch import Prefetch
from dalsegno.pool.contract import Sink, Source
from dalsegno.terms.errors import BadInput, DalError, NotFound
from dalsegno.terms.events import Note, Progress, Report, silent
from dalsegno.terms.sizes import GIB, KIB, MIB
from dalsegno.trees.build import store_data, store_directory
from dalsegno.trees.links import LinksTable
from dalsegno.trees.read import iterate_directory, links_key
from dalsegno.world.chance import random_node
from dalsegno.world.clock import now_ns

SMALL_BYTES_MAX: Final = 128 * KIB
"""Files up to this size without holes are one chunk, read at once."""
READ_TRIES: Final = 3
READ_AGAIN_BYTES_MAX: Final = 1 * GIB
"""A larger file that changes while it is read (a running machine's disk) is read once: it would change again."""
MISSIZED_BYTES_MAX: Final = 4 * GIB
"""How much is read of a file that has more than its size says: it may have no end."""
PROGRESS_FILES: Final = 256
SHARE_MIN: Final = 0.001
FACTS_MAX: Final = 8
"""Directories of the revision before whose nodes are kept at hand for files that were renamed."""
PROGRESS_BYTES: Final = 16 * MIB
FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
SECTOR_BYTES: Final = 512
END: Final[tuple[None, bytes]] = (None, KEY_NONE)
EMPTY_HASH: Final = blake3(b"").digest(NAME_HASH_BYTES)
_KINDS: Final = {
    modes.S_IFREG: objects.ENTRY_FILE,
    modes.S_IFDIR: objects.ENTRY_DIRECTORY,
    modes.S_IFLNK: objects.ENTRY_SYMLINK,
    modes.S_IFIFO: objects.ENTRY_FIFO,
    modes.S_IFCHR: objects.ENTRY_CHAR_DEVICE,
    modes.S_IFBLK: objects.ENTRY_BLOCK_DEVICE,
}
RACY_NS: Final = 50_000_000
"""A file changed less than this before a scan is read again next time: the kernel stamps changes with the time of its
last tick (at most 10 ms ago), so that a second change shortly after the first may leave no trace in the times."""
RACY_COARSE_NS: Final = 2 * attributes.SECOND_NS + RACY_NS
"""The same for file systems with times in (two) seconds, or with a clock that is not this host's."""
OWN: Final = "Dal Segno's own"
OTHER_FILE_SYSTEM: Final = "another file system"
_VANISHED: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""Not ESTALE: all of a server's directory may be stale, and is not gone."""

Fields = tuple[int, ...]
# Positions in Fields: docstring of attributes.STATX.
_ATTRIBUTES, _NLINK, _UID, _GID, _MODE, _INO, _SIZE, _BLOCKS = range(8)
_BTIME_S, _BTIME_NS, _CTIME_S, _CTIME_NS, _MTIME_S, _MTIME_NS, _RMAJOR, _RMINOR, _DMAJOR, _DMINOR = range(8, 18)


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


class _Reading:
    """Reads an open file for `store_data`, shows how far it is, and remembers where the file ended before it should."""

    def __init__(self, scan: "_Scan", fd: int) -> None:
        self._scan = scan
        self._fd = fd
        self._counted = scan.bytes_read
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
        self._scan.show_reading(self._counted + self.size)
        return data


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
        self.device = device
        self.inode = inode
        self.scope = scope
        self.record: CachedDirectory | None = None
        self.clean = False
        self.listing = Listing()
        self.subdirectories: list[tuple[bytes, int, Entry | None, bool]] = []
        """(name, index in entries, entry before, whether that entry still holds but for its content)."""
        self.position = 0
        self.changed: dict[bytes, bytes] = {}


def device_number(fields: Fields) -> int:
    """Return one number for the device that a file is on."""
    return fields[_DMAJOR] << 32 | fields[_DMINOR]


def birth_of(fields: Fields) -> int:
    """Return a file's birth time folded into 32 bits; 0 where the file system keeps none."""
    return (fields[_BTIME_S] ^ fields[_BTIME_NS]) & BIRTH_MASK


class _Scan:
    """The state of one scan."""

    def __init__(
        self,
        *,
        sink: Sink,
        cutter: Cutter,
        previous: Revision | None,
        source: Source | None,
        cache: ScanCache | None,
        rules: Rules,
        report: Report,
        node_source: Callable[[], int],
        started_ns: int,
        large_entries: int,
        relies: Callable[[bytes], bool] | None,
        inline_bytes_max: int,
    ) -> None:
        self.sink = sink
        self.inline_bytes_max = inline_bytes_max
        self.relies = relies
        self.cutter = cutter
        self.previous = previous if source is not None else None
        self.source = source
        self.cache = cache if self.previous is not None else None
        links = self.previous.links if self.previous is not None else b""
        self.links_unsound = bool(links) and relies is not None and not relies(links)
        self.rules = rules
        self.report = report
        self.node_source = node_source
        self.racy_ns = started_ns - RACY_NS
        self.racy_seconds = (started_ns - RACY_COARSE_NS) // attributes.SECOND_NS
        self.exact_devices: dict[int, bool] = {}
        self.directory_device = self.directory_fd = 0
        self.directory_names: list[bytes] = []
        self.directory_marks: array[int] | None = None
        self.claimed: set[int] = set()
        """Nodes carried on to another name or another inode than before: no other file gets them."""
        self.facts: dict[bytes, tuple[bytearray, array[int], array[int]]] = {}
        self.builder = CacheBuilder(started_ns)
        self.large_entries = large_entries
        self.buffer = StatxBuffer()
        self.owners = attributes.OwnerNames()
        self.noatime = os.O_NOATIME
        self.flagless: set[int] = set()
        self.linked = LinkedFiles()
        self.previous_links = LinksTable(source, links) if source is not None and links else None
        self.entry_count = 0
        self.total_bytes = 0
        self.files_read = 0
        self.bytes_read = 0
        self.progress_count = 0
        self.progress_bytes = 0
        self.unreadable: list[tuple[bytes, str]] = []
        self.changed: list[bytes] = []
        self.missized: list[bytes] = []
        self.socket_count = 0
        self.not_entered: list[tuple[bytes, str]] = []
        self.boundaries = Boundaries(pseudo={}, mounted={})
        self.own_names: dict[bytes, set[bytes]] = {}
        self.own_inodes: set[tuple[int, int]] = set()
        self.ignore_problems: list[IgnoreProblem] = []
        self.directories_reused = 0
        self.empty = b""
        """The id of a directory with nothing in it, once there was one."""
        self.key = KEY_NONE
        self.device = 0
        self.stack: list[_Frame] = []

    # -- notes

    def note(self, path: bytes, text: str) -> None:
        self.report(Note(severity="note", path=path, text=text))

    def tell_ignored(self, problem: IgnoreProblem) -> None:
        """Collect what is wrong with ignore files: the scan goes on, as git does."""
        self.ignore_problems.append(problem)
        self.note(problem.path, str(problem))

    def fail(self, path: bytes, error: OSError) -> None:
        """Leave out what cannot be read: gone is a note, the rest an error."""
        mount = self.boundaries.pseudo.get(path)
        if mount is not None:  # such as a mount of ours whose program was killed
            self.not_entered.append((path, mount.kind.decode(errors="replace")))
            return
        if error.errno in _VANISHED:
            self.note(path, "vanished while it was scanned")
            return
        text = error.strerror or str(error)
        self.unreadable.append((path, text))
        self.note(path, f"not readable: {text}")

    def progress(self) -> None:
        self.progress_count = self.entry_count
        self.progress_bytes = self.bytes_read
        before = self.previous.entry_count if self.previous is not None else 0
        self.report(
            Progress(
                phase="scan",
                done_count=self.entry_count,
                total_count=max(before, self.entry_count) if before else 0,
                done_bytes=self.bytes_read,
                share=0.0 if before else self.share_done(),
            )
        )

    def show_reading(self, bytes_read: int) -> None:
        """Show that a large file is being read, which counts once it is done."""
        if bytes_read - self.progress_bytes >= PROGRESS_BYTES:
            counted, self.bytes_read = self.bytes_read, bytes_read
            self.progress()
            self.bytes_read = counted

    def share_done(self) -> float:
        """Guess how much is done by taking all subdirectories of a directory for equally large."""
        share, weight = 0.0, 1.0
        for frame in self.stack:
            count = len(frame.subdirectories) + 1  # its own files count like one subdirectory
            share += weight * max(frame.position, 1) / count
            weight /= count
            if weight < SHARE_MIN:
                break
        return min(share, 1.0)

    def is_racy(self, fd: int, fields: Fields) -> bool:
        """Tell whether a file (`fd`: its directory) changed so shortly before the scan that its times may not show
        the next change."""
        seconds, nanoseconds = fields[_CTIME_S], fields[_CTIME_NS]
        if seconds < self.racy_seconds:
            return False
        device = device_number(fields)
        if nanoseconds == 0 or device != self.directory_device:
            return True
        exact = self.exact_devices.get(device)
        if exact is None:
            exact = self.exact_devices[device] = attributes.has_host_clock(fd)
        return not exact or seconds * attributes.SECOND_NS + nanoseconds >= self.racy_ns

    # -- one directory

    def open_directory(self, fd: int, frame: _Frame, prior: bytes) -> None:
        """List a directory; decide whether it is as cached; otherwise make its entries, but for subdirectories."""
        names = [os.fsencode(name) for name in os.listdir(fd)]
        names.sort()
        path = frame.path
        rules = self.rules
        if path in self.boundaries.mounted:
            names = [name for name in names if name in self.boundaries.mounted[path]]
            self.not_entered.append((path, "autofs: what is not mounted"))
        own = self.own_names.get(path)
        if own is not None:
            self.not_entered += [(path + b"/" + name if path else name, OWN) for name in names if name in own]
            names = [name for name in names if name not in own]
        if frame.scope is not None:
            frame.scope, tagged = enter_scope(rules, frame.scope, fd, path, names, self.tell_ignored)
            if tagged:
                names = [CACHE_TAG_FILE]
        patterns = frame.scope is not None and frame.scope.has_patterns
        filtering = patterns or rules.larger_than is not None or rules.nodump
        record = frame.record
        if not names:
            frame.clean = record is not None and record[5] == 0
            return
        if record is not None and not filtering and self.unchanged(fd, frame, record, names):
            frame.clean = True
            return
        if record is not None and filtering:
            kept = []
            for name in names:
                # What cannot be looked at stays in, so that it is reported.
                if libc_statx(fd, name, STATX_FLAGS, STATX_MASK, self.buffer.address) != 0 or not self.excludes(
                    frame, name, STATX.unpack_from(self.buffer.data)
                ):
                    kept.append(name)
            names = kept
            filtering = False
            if self.unchanged(fd, frame, record, names):
                frame.clean = True
                return
        self.make_entries(fd, frame, names, prior, filtering)

    def unchanged(self, fd: int, frame: _Frame, record: CachedDirectory, names: list[bytes]) -> bool:
        """Tell whether names and keys are those of the cache; note the subdirectories and count."""
        cache = self.cache
        assert cache is not None
        if blake3(b"\0".join(names)).digest(NAME_HASH_BYTES) != record[2] and not self.has_sockets(fd, names, record):
            return False
        keys = bytearray()
        subdirectories: list[tuple[bytes, int, Entry | None, bool]] = []
        total = 0
        unpack = STATX_SHORT.unpack_from
        pack = KEY.pack
        data, address = self.buffer.data, self.buffer.address
        linked: list[tuple[int, int, int, int]] = []
        for name in names:
            if libc_statx(fd, name, STATX_FLAGS, STATX_MASK, address) != 0:
                return False
            nlink, mode, ino, size, btime, btime_ns, ctime, ctime_ns, mtime, mtime_ns = unpack(data)
            form = mode & 0o170000
            if form == 0o140000:
                continue
            keys += pack(ino, size, ctime, ctime_ns, mtime, mtime_ns, (btime ^ btime_ns) & BIRTH_MASK)
            if form == 0o100000:
                total += size
            elif form == 0o040000:
                subdirectories.append((name, -1, None, True))
                continue
            if nlink > 1:
                major, minor = STATX_DEVICE.unpack_from(data)
                linked.append((major << 32 | minor, ino, len(keys) - KEY_BYTES, size if form == 0o100000 else 0))
        if keys != cache.keys(record):
            return False
        met_bytes = self.keep_links(linked, keys)
        if met_bytes is None:
            return False
        total -= met_bytes
        frame.subdirectories = subdirectories
        self.entry_count += len(keys) // KEY_BYTES
        self.total_bytes += total
        return True

    def has_sockets(self, fd: int, names: list[bytes], record: CachedDirectory) -> bool:
        """Tell whether the names are those of the cache once sockets, which no tree holds, are left out."""
        if len(names) <= record[5]:
            return False
        kept = []
        for name in names:
            if libc_statx(fd, name, STATX_FLAGS, STATX_MASK, self.buffer.address) != 0:
                return False
            if STATX.unpack_from(self.buffer.data)[_MODE] & 0o170000 != 0o140000:
                kept.append(name)
        if blake3(b"\0".join(kept)).digest(NAME_HASH_BYTES) != record[2]:
            return False
        self.socket_count += len(names) - len(kept)
        return True

    def excludes(self, frame: _Frame, name: bytes, fields: Fields) -> bool:
        rules = self.rules
        form = fields[_MODE] & 0o170000
        if rules.nodump and fields[_ATTRIBUTES] & STATX_ATTRIBUTE_NODUMP:
            return True
        if rules.larger_than is not None and form == 0o100000 and fields[_SIZE] > rules.larger_than:
            return True
        if frame.scope is None:
            return False
        return frame.scope.excludes(frame.path, name, is_directory=form == 0o040000)

    @staticmethod
    def key_of(fields: Fields) -> bytes:
        return KEY.pack(
            fields[_INO],
            fields[_SIZE],
            fields[_CTIME_S],
            fields[_CTIME_NS],
            fields[_MTIME_S],
            fields[_MTIME_NS],
            birth_of(fields),
        )

    def entries_before(self, frame: _Frame, prior: bytes) -> Iterator[tuple[Entry, bytes]]:
        """Yield the entries of the directory before, with their keys, in name order."""
        if not prior or self.source is None:
            return
        view = self.cache.keys(frame.record) if self.cache is not None and frame.record is not None else None
        start = 0
        try:
            for known in iterate_directory(self.source, prior):
                yield known, bytes(view[start : start + KEY_BYTES]) if view is not None else KEY_NONE
                start += KEY_BYTES
        except DalError as error:
            # What cannot be read of the old tree is read anew from the disk.
            self.note(frame.path, f"not compared with the revision before: {error}")

    def make_entries(self, fd: int, frame: _Frame, names: list[bytes], prior: bytes, filtering: bool) -> None:
        """Fill the frame's entries and keys; subdirectories get a place that `finish` fills."""
        before = self.entries_before(frame, prior)
        known, known_key = next(before, END)
        prefix = frame.path + b"/" if frame.path else b""
        entries = frame.listing.entries
        keys = frame.listing.keys
        pack = KEY.pack
        unpack = STATX.unpack_from
        data, address = self.buffer.data, self.buffer.address
        self.directory_device = frame.device
        self.directory_fd = fd
        self.directory_names = names
        self.directory_marks = None
        for name in names:
            if libc_statx(fd, name, STATX_FLAGS, STATX_MASK, address) != 0:
                self.fail(prefix + name, statx_error(name))
                continue
            fields = unpack(data)
            _, nlink, _, _, mode, ino, size, _, btime, btime_ns, ctime, ctime_ns, mtime, mtime_ns, _, _, _, _ = fields
            form = mode & 0o170000
            if filtering and self.excludes(frame, name, fields):
                continue
            key = pack(ino, size, ctime, ctime_ns, mtime, mtime_ns, (btime ^ btime_ns) & BIRTH_MASK)
            while known is not None and known.name < name:
                known, known_key = next(before, END)
            old, old_key = (known, known_key) if known is not None and known.name == name else END
            if form == 0o040000:
                holds = old_key == key
                if not holds and self.cache is not None:
                    old = self.carry(fields, objects.ENTRY_DIRECTORY, old, old_key)
                frame.subdirectories.append((name, len(entries), old, holds))
                entries.append(None)
                keys += unproven(key) if self.is_racy(fd, fields) else key
                continue
            entry: Entry | None
            if nlink > 1 and form != 0o140000:
                entry = self.make_link(fd, name, prefix + name, fields, key, old, old_key)
                key = self.key
            elif old_key == key and old is not None and old.kind == _KINDS.get(form):
                entry = old
            elif form == 0o140000:
                self.note(prefix + name, "socket: left out")
                self.socket_count += 1
                continue
            else:
                if self.cache is not None:
                    old = self.carry(fields, _KINDS[form], old, old_key)
                entry = self.make_entry(fd, name, prefix + name, fields, key, old)
                key = self.key
            if entry is None:
                continue
            self.entry_count += 1
            if form == 0o100000 and nlink == 1:
                self.total_bytes += entry.size
            entries.append(entry)
            keys += key
            if len(entries) >= self.large_entries:
                frame.listing.relieve(
                    self.sink, has_subdirectories=bool(frame.subdirectories), large=self.large_entries
                )
            if (
                self.entry_count - self.progress_count >= PROGRESS_FILES
                or self.bytes_read - self.progress_bytes >= PROGRESS_BYTES
            ):
                self.progress()

    # -- what carries on: node and birth time

    def carry(self, fields: Fields, kind: int, old: Entry | None, old_key: bytes) -> Entry | None:
        """Return the entry, of the same kind, that a file had at the last scan; None for a new file.

        An inode keeps its node under whatever name, as long as its birth time is the same. A new inode takes on the
        node of its path when the old inode is gone (an editor saved the file), and not when it was renamed.
        """
        inode, _, _, _, _, _, birth = KEY.unpack(old_key)
        if old is not None and inode == fields[_INO] and birth == birth_of(fields):
            was = self.old_link(old.link) if old.kind == objects.ENTRY_LINK else old
            if was is not None and was.kind == kind:
                return was
        found = self.trace(fields, kind)
        if found is None and old is not None and old.kind == kind and not self.lives_here(inode, birth):
            found = old
        if found is None or found.node in self.claimed:
            return None
        self.claimed.add(found.node)
        return found

    def trace(self, fields: Fields, kind: int) -> Entry | None:
        """Return the entry (without name and content) that this inode had under another name at the last scan."""
        assert self.cache is not None
        birth = birth_of(fields)
        for place in self.cache.find(device_number(fields), fields[_INO], birth):
            if birth == 0:  # a file system without birth times: a rename at least keeps size and mtime
                _, size, _, _, mtime, mtime_ns, _ = KEY.unpack(place.key)
                if (size, mtime, mtime_ns) != (fields[_SIZE], fields[_MTIME_S], fields[_MTIME_NS]):
                    continue
            facts = self.directory_facts(place.directory)
            if facts is None:
                continue
            kinds, nodes, births = facts
            was, node, birth_ns = kinds[place.position], nodes[place.position], births[place.position]
            if was == objects.ENTRY_LINK:
                linked = self.old_link(node)
                if linked is None:
                    continue
                was, birth_ns = linked.kind, linked.btime_ns
            if was == kind:
                return Entry(name=b"", kind=kind, node=node, btime_ns=birth_ns)
        return None

    def directory_facts(self, identity: bytes) -> tuple[bytearray, "array[int]", "array[int]"] | None:
        """Return the kinds, nodes (links: link ids) and birth times in a directory of the revision before."""
        facts = self.facts.get(identity)
        if facts is None:
            assert self.source is not None
            facts = bytearray(), array("Q"), array("q")
            try:
                for entry in iterate_directory(self.source, identity):
                    facts[0].append(entry.kind)
                    facts[1].append(entry.link if entry.kind == objects.ENTRY_LINK else entry.node)
                    facts[2].append(entry.btime_ns)
            except DalError:
                return None
            if len(self.facts) >= FACTS_MAX:
                del self.facts[next(iter(self.facts))]
            self.facts[identity] = facts
        return facts

    def lives_here(self, inode: int, birth: int) -> bool:
        """Tell whether an inode of the last scan has another name in the current directory now."""
        if inode == 0:
            return False
        marks = self.directory_marks
        if marks is None:
            marks = self.directory_marks = array("Q")
            for name in self.directory_names:
                if libc_statx(self.directory_fd, name, STATX_FLAGS, STATX_MASK, self.buffer.address) == 0:
                    fields = STATX.unpack_from(self.buffer.data)
                    marks.append(fields[_INO] ^ birth_of(fields) << 32)
            np.frombuffer(marks, np.uint64).sort()
        mark = inode ^ birth << 32
        index = bisect_left(marks, mark)
        return index < len(marks) and marks[index] == mark

    # -- one entry

    def encode_xattrs(self, target: int | bytes) -> bytes:
        found = attributes.read_xattrs(target)
        if not found:
            return b""
        data = objects.encode_xattrs(found)
        if len(data) <= objects.XATTRS_INLINE_BYTES_MAX:
            return b"\x01" + data
        return b"\x02" + self.sink.put(objects.KIND_CHUNK, data)

    def directory_xattrs(self, fd: int, path: bytes) -> bytes:
        """Return a directory's extended attributes; what is in it does not depend on them."""
        try:
            return self.encode_xattrs(fd)
        except OSError as error:
            self.unreadable.append((path, f"extended attributes: {error.strerror or error}"))
            return b""

    def read_flags(self, fd: int, device: int) -> int:
        if device in self.flagless:
            return 0
        try:
            flags = attributes.get_flags(fd)
        except OSError:
            return 0
        if flags is None:
            self.flagless.add(device)
            return 0
        return flags

    def open_file(self, directory: int, name: bytes) -> int:
        try:
            return os.open(name, FILE_FLAGS | self.noatime, dir_fd=directory)
        except PermissionError:
            # O_NOATIME is for owners only.
            return os.open(name, FILE_FLAGS, dir_fd=directory)

    def make_entry(
        self, directory: int, name: bytes, path: bytes, fields: Fields, key: bytes, old: Entry | None
    ) -> Entry | None:
        """Return the entry of a file that is no directory, its content stored; None when it cannot be read."""
        form = fields[_MODE] & 0o170000
        kind = _KINDS[form]
        content_kind = 0
        content = b""
        size = device = flags = 0
        try:
            if form == 0o100000:
                fd = self.open_file(directory, name)
                try:
                    fields, key, size, content_kind, content = self.read_file(fd, path, fields, key)
                    flags = self.read_flags(fd, fields[_DMAJOR] << 32 | fields[_DMINOR])
                    xattrs = self.encode_xattrs(fd)
                finally:
                    os.close(fd)
            else:
                if form == 0o120000:
                    content = os.readlink(name, dir_fd=directory)
                    size = len(content)
                    content_kind = objects.CONTENT_INLINE
                elif form in (0o020000, 0o060000):
                    device = os.makedev(fields[_RMAJOR], fields[_RMINOR])
                try:
                    xattrs = self.encode_xattrs(attributes.path_beneath(directory, name))
                except FileNotFoundError:  # no /proc
                    xattrs = b""
        except OSError as error:
            self.fail(path, error)
            return None
        # Of the last look at the file: it may have changed since the directory was listed.
        self.key = unproven(key) if self.is_racy(directory, fields) else key
        _, _, uid, gid, mode, _, _, _, btime, btime_ns, _, _, mtime, mtime_ns, _, _, _, _ = fields
        if old is not None and old.kind == kind:
            node, birth = old.node, old.btime_ns
        else:
            node, birth = self.node_source(), attributes.join_time_ns(btime, btime_ns)
        return Entry(
            name=name,
            kind=kind,
            mode=mode & 0o7777,
            uid=uid,
            gid=gid,
            owner=self.owners.user(uid),
            group=self.owners.group(gid),
            mtime_ns=attributes.join_time_ns(mtime, mtime_ns),
            btime_ns=birth,
            size=size,
            node=node,
            content_kind=content_kind,
            content=content,
            device=device,
            flags=flags,
            xattrs=xattrs,
        )

    def read_file(self, fd: int, path: bytes, fields: Fields, key: bytes) -> tuple[Fields, bytes, int, int, bytes]:
        """Store the content of an open file as it was at one moment, as far as its times can tell."""
        for attempt in range(READ_TRIES):
            size = fields[_SIZE]
            if size <= SMALL_BYTES_MAX and (
                fields[_BLOCKS] * SECTOR_BYTES >= size or size <= objects.INLINE_BYTES_MAX or not has_holes(fd, size)
            ):
                found, stored, content_kind, content = self.store_small(fd, size)
            else:
                found, content_kind, content = self.store_large(fd, fields)
                stored = found
            self.files_read += 1
            self.bytes_read += stored
            after = os.fstat(fd)
            same = (
                size == after.st_size
                and after.st_mtime_ns == fields[_MTIME_S] * 1_000_000_000 + fields[_MTIME_NS]
                and after.st_ctime_ns == fields[_CTIME_S] * 1_000_000_000 + fields[_CTIME_NS]
                and after.st_ino == fields[_INO]
            )
            if same and found == size:
                return fields, key, stored, content_kind, content
            if size > READ_AGAIN_BYTES_MAX:
                break
            if attempt + 1 < READ_TRIES:
                fields = self.buffer.statx(fd, b"")
                if fields[_MODE] & 0o170000 != 0o100000:
                    raise FileNotFoundError(errno.ENOENT, "replaced by something that is no file")
                key = self.key_of(fields)
        if same:
            # Nothing changed, and yet there is more or less than was said, as in /proc: no times tell when it changes.
            if found > size:
                stored, content_kind, content = self.store_to_end(fd, path)
            self.missized.append(path)
            self.note(path, f"its size is said to be {size:,}: {stored:,} bytes were read and stored")
        else:
            self.changed.append(path)
            self.note(path, "changed while read")
        return fields, unproven(key), stored, content_kind, content

    def store_small(self, fd: int, size: int) -> tuple[int, int, int, bytes]:
        """Store a file of one chunk; return how much there was, how much is stored, and the content's kind, value."""
        data = os.pread(fd, size + 1, 0)
        found = len(data)
        if found == 0:
            return 0, 0, objects.CONTENT_NONE, b""
        if found <= self.inline_bytes_max:
            return found, found, objects.CONTENT_INLINE, data
        if found > SMALL_BYTES_MAX:  # grown by the probing byte: stored as it was
            data = data[:size]
        return found, len(data), objects.CONTENT_CHUNK, self.sink.put(objects.KIND_CHUNK, data)

    def store_to_end(self, fd: int, path: bytes) -> tuple[int, int, bytes]:
        """Store what can be read of a file that has more than its size says; return how much, and kind and value."""
        data = os.pread(fd, SMALL_BYTES_MAX, 0)
        if len(data) <= self.inline_bytes_max:
            return len(data), objects.CONTENT_INLINE if data else objects.CONTENT_NONE, data
        read = _Reading(self, fd)
        content_kind, content = store_data(self.sink, self.cutter, read, [(0, MISSIZED_BYTES_MAX)], 0)
        if read.end is None:
            self.unreadable.append((path, f"has no end: only the first {MISSIZED_BYTES_MAX // GIB} GiB are stored"))
        return read.size, content_kind, content

    def store_large(self, fd: int, fields: Fields) -> tuple[int, int, bytes]:
        """Store a file in chunks and holes; return how much of it there was, and the content's kind and value."""
        size = fields[_SIZE]
        extents = [(0, size)]
        if fields[_BLOCKS] * SECTOR_BYTES < size:
            extents = list_extents(fd, size)
        read = _Reading(self, fd)
        content_kind, content = store_data(self.sink, self.cutter, read, extents, size)
        if read.end is None:
            return size, content_kind, content
        # It has shrunk, or never had so much: what is there no more must not come back as zeros.
        extents = [(start, min(length, read.end - start)) for start, length in extents if start < read.end]
        return read.end, *store_data(self.sink, self.cutter, _Reading(self, fd), extents, read.end)

    # -- hard links

    def cached_link(self, device: int, inode: int) -> tuple[int, bytes] | None:
        """Return (node, key) of a file with several names; None when its content may be lost."""
        return self.cache.link(device, inode) if self.cache is not None and not self.links_unsound else None

    def keep_links(self, linked: list[tuple[int, int, int, int]], keys: bytearray) -> int | None:
        """Note the hard-linked files of a directory, (device, inode, place in `keys`, bytes), when all are as cached.

        Return how many bytes are of files that were met before; None, and nothing noted, when one is not as cached.
        """
        met_bytes = 0
        found: list[tuple[int, int, int, int, bytes]] = []
        for device, inode, place, size in linked:
            key = keys[place : place + KEY_BYTES]
            row = self.linked.find(device, inode)
            if row is not None:
                if self.linked.key(row) != key:
                    return None
                met_bytes += size
                continue
            known = self.cached_link(device, inode)
            if known is None or known[1] != key:
                return None
            found.append((device, inode, size, *known))
        for device, inode, size, node, cached_key in found:
            if self.linked.find(device, inode) is None:
                self.linked.add(device, inode, node=node, key=cached_key, entry=None)
            else:
                met_bytes += size
        return met_bytes

    def old_link(self, node: int) -> Entry | None:
        """Return the file that a node was in the revision before, under its name in the links table."""
        try:
            found = self.previous_links.find(node) if self.previous_links is not None else None
        except DalError:
            if not self.links_unsound:
                raise
            return None  # all files with several names are read anew
        return found[1] if found is not None else None

    def make_link(
        self, directory: int, name: bytes, path: bytes, fields: Fields, key: bytes, old: Entry | None, old_key: bytes
    ) -> Entry | None:
        """Return the link entry of a name of a file with several; the file goes to the links table once."""
        device, inode = device_number(fields), fields[_INO]
        self.key = key
        row = self.linked.find(device, inode)
        node = self.linked.node(row) if row is not None else None
        if node is None:
            known = self.cached_link(device, inode)
            if known is not None and (KEY.unpack(known[1])[6] != birth_of(fields) or self.linked.has_node(known[0])):
                known = None
            if known is not None and known[1] == key:
                node = known[0]
                self.linked.add(device, inode, node=node, key=key, entry=None)
                self.total_bytes += fields[_SIZE] if fields[_MODE] & 0o170000 == 0o100000 else 0
            else:
                before: Entry | None = None
                if known is not None:
                    node = known[0]
                    before = self.old_link(node)
                elif self.cache is not None:
                    before = self.carry(fields, _KINDS[fields[_MODE] & 0o170000], old, old_key)
                    # A node that the cache knows may belong to a directory that is yet to be found unchanged.
                    if before is not None and (self.links_unsound or not self.cache.knows_link(before.node)):
                        node = before.node
                elif old is not None:
                    node = old.link if old.kind == objects.ENTRY_LINK else old.node
                    before = self.old_link(node) or old
                if node is None or self.linked.has_node(node):
                    node, before = 0, None
                entry = self.make_entry(directory, name, path, fields, key, before)
                if entry is None:
                    return None
                node = node or entry.node
                named = replace(entry, name=links_key(node), node=node)
                self.linked.add(device, inode, node=node, key=self.key, entry=named)
                self.total_bytes += entry.size if entry.kind == objects.ENTRY_FILE else 0
        if old is not None and old.kind == objects.ENTRY_LINK and old.link == node:
            return old
        return Entry(name=name, kind=objects.ENTRY_LINK, link=node)

    def finish_links(self) -> bytes:
        """Store the links table and return its id, or nothing without links."""
        linked = self.linked
        self.builder.add_links(linked.records, count=len(linked))
        if not len(linked):
            return b""
        if not linked.new_count and self.cache is not None and self.cache.link_count == len(linked):
            assert self.previous is not None
            return self.previous.links
        return store_directory(self.sink, self.links_table())

    def links_table(self) -> Iterator[Entry]:
        """Yield the files of the links table in its order: new ones, and from the old table what is as before."""
        links = self.previous.links if self.previous is not None else b""
        before = iterate_directory(self.source, links) if links and self.source is not None else iter(())
        for row in self.linked.rows_by_node():
            entry = self.linked.entry(row)
            if entry is None:
                name = links_key(self.linked.node(row))
                entry = next((known for known in before if known.name >= name), None)
                if entry is None or entry.name != name:
                    raise NotFound(
                        f"links table: no file {name.decode()} in the revision before: remove the scan cache, run again"
                    )
            yield entry

    # -- the walk

    def descend(self, way: Descent, path: bytes, name: bytes) -> tuple[int, bool]:
        """Open a subdirectory; tell whether it is a place where a pseudo file system is mounted, which stays empty."""
        mount = self.boundaries.pseudo.get(path)
        if mount is None:
            return way.enter(name), False
        fd = way.enter(name, flags=PLACE_FLAGS)
        if device_number(self.buffer.statx(fd, b"")) == mount.major << 32 | mount.minor:
            self.not_entered.append((path, mount.kind.decode(errors="replace")))
            return fd, True
        way.leave()  # something else is mounted over it
        return way.enter(name), False

    def enter(self, fd: int, frame_path: bytes, index: int, old: Entry | None, holds: bool, scope: Scope | None,
              *, parent_clean: bool, stays_empty: bool = False) -> _Frame:  # fmt: skip
        """Open the frame of a directory whose fd is `fd`: its own attributes, then its entries."""
        fields = self.buffer.statx(fd, b"")
        device = device_number(fields)
        own: Entry | None = None
        if not parent_clean:
            if holds and old is not None and old.kind == objects.ENTRY_DIRECTORY:
                own = old
            else:
                carried = old is not None and old.kind == objects.ENTRY_DIRECTORY
                own = Entry(
                    name=frame_path.rpartition(b"/")[2],
                    kind=objects.ENTRY_DIRECTORY,
                    mode=fields[_MODE] & 0o7777,
                    uid=fields[_UID],
                    gid=fields[_GID],
                    owner=self.owners.user(fields[_UID]),
                    group=self.owners.group(fields[_GID]),
                    mtime_ns=attributes.join_time_ns(fields[_MTIME_S], fields[_MTIME_NS]),
                    btime_ns=(
                        old.btime_ns
                        if carried and old is not None
                        else attributes.join_time_ns(fields[_BTIME_S], fields[_BTIME_NS])
                    ),
                    node=old.node if carried and old is not None else self.node_source(),
                    content_kind=objects.CONTENT_DIRECTORY,
                    flags=0 if stays_empty else self.read_flags(fd, device),
                    xattrs=b"" if stays_empty else self.directory_xattrs(fd, frame_path),
                )
        frame = _Frame(frame_path, index, own, device, fields[_INO], scope)
        if stays_empty:
            return frame
        if index == -2:
            self.device = device
        elif self.rules.one_file_system and device != self.device:
            self.not_entered.append((frame_path, OTHER_FILE_SYSTEM))
            return frame
        elif (device, frame.inode) in self.own_inodes:  # by another way than the one that is left out by name
            self.not_entered.append((frame_path, OWN))
            return frame
        record = self.cache.directory(device, frame.inode) if self.cache is not None else None
        prior = record[3] if record is not None else b""
        if record is not None and self.relies is not None and not self.relies(record[3]):
            record = None  # something in it is lost: its files are read again, whatever the cache remembers
        frame.record = record
        if not prior and old is not None and old.kind == objects.ENTRY_DIRECTORY:
            prior = old.content
        self.open_directory(fd, frame, prior)
        return frame

    def finish(self, frame: _Frame) -> bytes:
        """Store a directory all of whose subdirectories are done; return its id."""
        record = frame.record
        if frame.clean:
            assert record is not None and self.cache is not None
            identity = record[3]
            if frame.changed:
                assert self.source is not None
                identity = store_directory(self.sink, with_changed(self.source, identity, frame.changed))
            else:
                self.directories_reused += 1
            self.builder.keep_directory(self.cache, record, identity=identity)
            return identity
        if not frame.listing.keys:
            self.empty = self.empty or store_directory(self.sink, [])
            self.builder.add_directory(
                device=frame.device, inode=frame.inode, names_hash=EMPTY_HASH, identity=self.empty, keys=b""
            )
            return self.empty
        identity, names_hash, keys = frame.listing.finish(self.sink)
        self.builder.add_directory(
            device=frame.device, inode=frame.inode, names_hash=names_hash, identity=identity, keys=keys
        )
        return identity

    def find_boundaries(self, root: bytes) -> None:
        """Note what beneath the root is not entered."""
        self.boundaries = boundaries_below(root)
        for path in self.rules.own:
            above, _, name = path.rpartition(b"/")
            self.own_names.setdefault(above, set()).add(name)
            with suppress(OSError):
                found = os.stat(os.path.join(root, path))
                self.own_inodes.add((os.major(found.st_dev) << 32 | os.minor(found.st_dev), found.st_ino))

    def run(self, root: bytes) -> Entry:
        """Scan everything and return the root's entry."""
        fd = os.open(root, (DIRECTORY_FLAGS & ~os.O_NOFOLLOW))
        self.find_boundaries(root)
        way = Descent(fd)
        try:
            scope = open_scope(self.rules, self.tell_ignored) if self.rules.by_name else None
            before = self.previous.root if self.previous is not None else None
            top = self.enter(fd, b"", -2, before, False, scope, parent_clean=False)
            stack = self.stack
            stack.append(top)
            while True:
                frame = stack[-1]
                if frame.position < len(frame.subdirectories):
                    name, index, old, holds = frame.subdirectories[frame.position]
                    frame.position += 1
                    path = frame.path + b"/" + name if frame.path else name
                    depth = way.depth
                    try:
                        fd, stays_empty = self.descend(way, path, name)
                    except OSError as error:
                        if way.depth > depth:
                            way.leave()
                        self.lose(frame, path, name, error)
                        continue
                    try:
                        child = self.enter(
                            fd, path, index, old, holds, frame.scope, parent_clean=frame.clean, stays_empty=stays_empty
                        )
                    except OSError as error:
                        way.leave()
                        self.lose(frame, path, name, error)
                        continue
                    stack.append(child)
                    if not frame.clean:
                        self.entry_count += 1
                    if self.entry_count - self.progress_count >= PROGRESS_FILES:
                        self.progress()
                    continue
                identity = self.finish(frame)
                stack.pop()
                if not stack:
                    assert frame.own is not None
                    own = frame.own
                    return own if own.content == identity else replace(own, content=identity)
                way.leave()
                parent = stack[-1]
                if parent.clean:
                    if frame.record is None or frame.record[3] != identity:
                        parent.changed[frame.path.rpartition(b"/")[2]] = identity
                else:
                    assert frame.own is not None
                    own = frame.own
                    parent.listing.entries[frame.index] = (
                        own if own.content == identity else replace(own, content=identity)
                    )
        finally:
            way.close()

    def lose(self, frame: _Frame, path: bytes, name: bytes, error: OSError) -> None:
        """Leave out a subdirectory that cannot be opened."""
        self.fail(path, error)
        if frame.clean:
            # Its parent looked unchanged: from here on it is handled as a changed one.
            assert self.source is not None and frame.record is not None and self.cache is not None
            self.entry_count -= 1
            entries = frame.listing.entries
            places: dict[bytes, int] = {}
            before: dict[bytes, Entry] = {}
            for number, entry in enumerate(with_changed(self.source, frame.record[3], frame.changed)):
                if entry.kind == objects.ENTRY_DIRECTORY:
                    places[entry.name], before[entry.name] = number, entry
                entries.append(entry)
            frame.listing.keys += self.cache.keys(frame.record)
            frame.clean = False
            frame.changed = {}
            frame.subdirectories = [(one, places[one], before[one], True) for one, _, _, _ in frame.subdirectories]
            entries[places[name]] = None
            self.entry_count -= len(frame.subdirectories) - frame.position


def with_changed(source: Source, identity: bytes, changed: dict[bytes, bytes]) -> Iterator[Entry]:
    """Yield the entries of a directory, some subdirectories with other content."""
    for entry in iterate_directory(source, identity):
        new = changed.get(entry.name)
        yield entry if new is None or new == entry.content else replace(entry, content=new)


def has_holes(fd: int, size: int) -> bool:
    """Tell whether an open file has a hole before its end."""
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE) < size
    except OSError:
        return False


def list_extents(fd: int, size: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the parts of an open file that hold data."""
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


def scan_tree(
    root: bytes | Path,
    *,
    sink: Sink,
    cutter: Cutter,
    previous: Revision | None = None,
    source: Source | None = None,
    cache: ScanCache | None = None,
    rules: Rules | None = None,
    report: Report = silent,
    node_source: Callable[[], int] = random_node,
    started_ns: int | None = None,
    relies: Callable[[bytes], bool] | None = None,
    large_entries: int = LARGE_ENTRIES,
    inline_bytes_max: int = objects.INLINE_BYTES_MAX,
) -> ScanResult:
    """Store the tree beneath `root` in `sink`.

    `previous` (read from `source`) gives what carries on: node numbers, birth times, and with a `cache` loaded for
    that very revision, everything that is unchanged. `started_ns` is for tests: files that changed shortly
    before it (`RACY_NS`) are read again next time. `relies` is asked, where something in `source` is lost, whether a
    directory of the cache is there with all that it names. `large_entries` is how many entries of one directory wait in
    memory as they are. Contents of at most `inline_bytes_max` stand in their directory.
    """
    scan = _Scan(
        sink=sink,
        cutter=cutter,
        previous=previous,
        source=source,
        cache=cache,
        rules=rules if rules is not None else Rules(),
        report=report,
        node_source=node_source,
        started_ns=now_ns() if started_ns is None else started_ns,
        relies=relies,
        large_entries=large_entries,
        inline_bytes_max=inline_bytes_max,
    )
    # Only a first scan reads most of what it meets.
    ahead = Prefetch(os.fsencode(root), position=lambda: scan.entry_count) if previous is None else nullcontext()
    try:
        with ahead:
            entry = scan.run(os.fsencode(root))
    except NotADirectoryError:
        raise BadInput(f"{os.fsdecode(root)}: not a directory") from None
    except FileNotFoundError:
        raise NotFound(f"{os.fsdecode(root)}: no such directory") from None
    links = scan.finish_links()
    scan.progress()
    return ScanResult(
        root=entry,
        links=links,
        entry_count=scan.entry_count,
        total_bytes=scan.total_bytes,
        files_read=scan.files_read,
        bytes_read=scan.bytes_read,
        unreadable=scan.unreadable,
        changed=scan.changed,
        not_entered=scan.not_entered,
        missized=scan.missized,
        socket_count=scan.socket_count,
        ignore_problems=scan.ignore_problems,
        directories_reused=scan.directories_reused,
        cache=scan.builder,
    )
