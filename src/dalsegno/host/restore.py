"""Restore trees into a directory of this host: only what differs is written, nothing ever outside the target.

Every operation names one entry of a directory that is held open (`Descent`), so a symlink in the tree or planted in
the target is never followed. A file appears under its name only whole: it is written beside it and renamed.
"""

import errno
import os
import re
import stat as modes
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision
from dalsegno.host import attributes
from dalsegno.host.access import (
    CAP_FOWNER,
    OWNER_ALL,
    OWNER_READS,
    Opened,
    close_again,
    has_capability,
    is_searchable,
    lend,
    unlocked,
)
from dalsegno.host.attributes import place_of
from dalsegno.host.batch import Batch, BatchResult, write_batch
from dalsegno.host.changes import (
    CHANGE,
    CONTENT,
    CREATE,
    DELETE,
    KIND,
    LINKS,
    PROTECT,
    Tell,
    change_of,
    change_of_existing,
)
from dalsegno.host.descent import DIRECTORY_FLAGS, Descent, open_max
from dalsegno.host.existing import Existing, change, compare, is_plainly_equal, say_unattainable
from dalsegno.host.frame import Frame
from dalsegno.host.ignore import IGNORE_FILE, IGNORE_FILE_BYTES_MAX, Scope
from dalsegno.host.kept import KeptTimes
from dalsegno.host.links import INODE_UNKNOWN, FirstNames
from dalsegno.host.losses import GROUP, LINK, OWNER, SET_ID, XATTR, Loss, Losses
from dalsegno.host.owners import OwnerMap, Owners
from dalsegno.host.protection import Protected, Protection
from dalsegno.host.removal import MOUNTED, crossing, remove_tree
from dalsegno.host.selection import Selection, check_selection, plan_selection
from dalsegno.host.setting import (
    FULL_ERRORS,
    Lose,
    is_full,
    mode_without_acl,
    once,
    prepare_empty,
    set_all,
    set_flags,
    set_mode,
    set_owner,
    set_times,
    set_xattrs,
    why,
)
from dalsegno.host.target import ROOT_KEPT, ROOT_REFUSED, is_root_of_other, make_target
from dalsegno.host.untrusted import DEVICE_LEFT, Taming
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import Conflict, DalError, Damaged, Full, NoAccess, NotFound, Refused
from dalsegno.terms.events import Note, Progress, Report, silent
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.sizes import MIB
from dalsegno.trees.extents import data_bytes
from dalsegno.trees.limit import bytes_max, entries_max, too_large, too_many
from dalsegno.trees.links import LinksTable
from dalsegno.trees.read import entry_xattrs, iterate_content, iterate_directory, lookup, read_content
from dalsegno.world.chance import random_bytes
from dalsegno.world.files import durable_step, is_rehearsal
from dalsegno.world.memory import give_large_blocks_back
from dalsegno.world.workers import Workers

BLOCK_BYTES: Final = 512
"""What st_blocks counts."""
PROGRESS_FILES: Final = 256
PROGRESS_BYTES: Final = 16 * MIB
RUN_BYTES_MAX: Final = 1 * MIB
WRITES_PENDING_MAX: Final = 8
BATCHES_PENDING_MAX: Final = 32
LINKS_MANY: Final = 100_000
"""Hard-linked files from which on memory counts for more than page faults."""
TEMPORARY_PREFIX: Final = b".dal-restore-"
_TEMPORARY: Final = re.compile(rb"^\.dal-restore-[0-9a-f]{16}(-[0-9]+)?\Z")
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_XATTRS_INHERITED: Final = frozenset({"system.posix_acl_default", "btrfs.compression"})
_PATH_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_NO_LINK_ERRORS: Final = {errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS}
"""The place has no hard links, no more of them for this file, or none between these directories."""
_FORMS: Final = {
    objects.ENTRY_FILE: modes.S_IFREG,
    objects.ENTRY_DIRECTORY: modes.S_IFDIR,
    objects.ENTRY_SYMLINK: modes.S_IFLNK,
    objects.ENTRY_FIFO: modes.S_IFIFO,
    objects.ENTRY_CHAR_DEVICE: modes.S_IFCHR,
    objects.ENTRY_BLOCK_DEVICE: modes.S_IFBLK,
}


@dataclass(slots=True, kw_only=True)
class RestoreResult:
    """What a restore did, or with `dry_run` would do."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    bytes_written: int = 0
    failed: list[tuple[bytes, str]] = field(default_factory=list)
    """What is missing or not as it should be, and why."""
    damaged_count: int = 0
    """How many of them failed because the backup is damaged or lacks something."""
    lost: Losses = field(default_factory=Losses)
    """Attributes of restored files that could not be given back."""
    protected: Protected = field(default_factory=Protected)
    """What was not deleted because the backup did not cover it."""
    bytes_freed: int = 0
    """In a dry run: bytes of the files that would be replaced."""
    tamed: dict[str, int] = field(default_factory=dict)
    """What was not taken from a backup that is not trusted: how often which."""
    left: list[tuple[bytes, str]] = field(default_factory=list)
    """What was left as it is on purpose, and why: nothing of the backup is missing there."""


def _nothing() -> None:
    """Wait for nothing."""


class _Restore:
    """The state of one restore."""

    def __init__(
        self,
        source: Source,
        revision: Revision,
        *,
        owners: OwnerMap,
        delete: bool,
        dry_run: bool,
        verify_content: bool,
        cross_devices: bool,
        taming: Taming | None,
        protection: Protection,
        tell: Tell | None,
        report: Report,
        workers: Workers | None,
    ) -> None:
        self.protection = protection
        self.tell = tell
        # In what the file looked at last differed from the tree.
        self.difference: set[str] = set()
        self.source = source
        self.taming = taming
        self.revision = revision
        self.owners = Owners(owners)
        self.delete = delete
        self.dry_run = dry_run
        self.verify_content = verify_content
        self.cross_devices = cross_devices
        self.report = report
        self.workers = workers
        self.compared: Callable[[], None] = getattr(source, "settle", _nothing)
        """Returns when what the source gave was compared with its ids, where that is done beside (pool/checked.py)."""
        self.is_rehearsal = is_rehearsal()
        self.result = RestoreResult()
        self.times = KeptTimes(may_write=not dry_run)
        self.temporary = TEMPORARY_PREFIX + random_bytes(8).hex().encode()
        self.device = 0
        self.keeps_root = False
        self.way = Descent(-1)
        self.links = LinksTable(source, revision.links)
        self.links_met = False
        self.first_names = FirstNames()
        self.links_failed: set[int] = set()
        # Contents of the directories on the way down: one that contains itself would never end.
        self.above: set[bytes] = set()
        self.empty_content = b""
        # Batches handed over, oldest first, and directories that wait for theirs to be finished.
        self.batches: deque[tuple[Frame, Batch, Future[BatchResult]]] = deque()
        self.batch_count = 0
        self.batches_pending_max = min(BATCHES_PENDING_MAX, open_max() // 2)
        self.entries_max = entries_max(revision)
        self.bytes_max = bytes_max(revision)
        self.done_count = 0
        self.progress_count = 0
        self.progress_bytes = 0

    # -- what is trusted

    def tamed(self, entry: Entry) -> Entry:
        """Return an entry without what must not come from a backup that is not trusted."""
        return entry if self.taming is None else self.taming.entry(entry)

    def xattrs_of(self, entry: Entry) -> list[tuple[bytes, bytes]]:
        """Return the extended attributes that an entry is to have."""
        found = entry_xattrs(self.source, entry)
        return found if self.taming is None or not found else self.taming.xattrs(found)

    # -- notes

    def fail(self, path: bytes, text: str, *, is_damaged: bool = False) -> None:
        self.result.failed.append((path or b".", text))
        self.result.damaged_count += is_damaged

    def note(self, path: bytes, text: str) -> None:
        self.report(Note(severity="note", path=path or b".", text=text))

    def lose(self, path: bytes, attribute: str, text: str) -> None:
        """Say that a restored file lacks something."""
        is_expected = attribute in (OWNER, GROUP, SET_ID) and os.geteuid() != 0
        self.result.lost.add(Loss(path=path or b".", attribute=attribute, text=text), is_expected=is_expected)
        self.note(path, f"{attribute} not restored: {text}")

    def progress(self) -> None:
        self.progress_count = self.done_count
        self.progress_bytes = self.result.bytes_written
        self.report(
            Progress(
                phase="restore",
                done_count=self.done_count,
                total_count=self.revision.entry_count,
                done_bytes=self.result.bytes_written,
                total_bytes=self.revision.total_bytes,
            )
        )

    # -- attributes

    def fix_attributes(self, frame: Frame, name: bytes, entry: Entry, path: bytes, stat: os.stat_result) -> bool | None:
        """Give an existing file the entry's attributes and tell whether any differed.

        None when they differ and the file is to be written anew: its attributes are not ours to set, or it has further
        names, of which some may lie outside the target.
        """
        fd, lent = self.open_existing(frame.fd, name, modes.S_IFMT(stat.st_mode))
        is_open = fd >= 0
        try:
            if not is_open:
                fd = os.open(name, _PATH_FLAGS, dir_fd=frame.fd)
            now = os.fstat(fd)
            if (now.st_dev, now.st_ino) != (stat.st_dev, stat.st_ino):
                raise Conflict(f"{os.fsdecode(path)}: replaced while it was restored")
            owner = self.owners.of(entry)
            if is_open and is_plainly_equal(fd, stat, entry, owner):
                self.difference = set()
                return False
            wanted = self.xattrs_of(entry)
            file = Existing(fd, stat, directory=frame.fd, name=name, is_open=is_open)
            self.difference = compare(file, entry, owner, wanted, self.times)
            lose: Lose = partial(self.lose, path)
            if not self.difference:
                say_unattainable(stat, entry, owner, lose)
            if not self.difference or self.dry_run:
                return bool(self.difference)
            if stat.st_nlink > 1 or not self.may_change(stat):
                return None
            if frame.place.mount and frame.place.mount != place_of(fd).mount:
                raise OSError(errno.EXDEV, MOUNTED)
            lose = lose if frame.is_native else once(lose)
            change(file, entry, owner, wanted, self.difference, lose, is_native=frame.is_native)
            lent = None
            return True
        finally:
            if lent is not None:
                os.fchmod(fd, lent)
            if fd >= 0:
                os.close(fd)

    def open_existing(self, directory: int, name: bytes, form: int) -> tuple[int, int | None]:
        """Open an existing file or directory; return the fd, -1 for what can only be named, and a mode to put back."""
        if form not in (modes.S_IFREG, modes.S_IFDIR):
            return -1, None
        try:
            return os.open(name, _READ_FLAGS, dir_fd=directory), None
        except PermissionError:
            lent = None if self.dry_run else lend(directory, name, OWNER_READS)
            return (-1, None) if lent is None else (os.open(name, _READ_FLAGS, dir_fd=directory), lent)

    @staticmethod
    def may_change(stat: os.stat_result) -> bool:
        """Tell whether the mode and times of a file are ours to set."""
        return stat.st_uid == os.geteuid() or has_capability(CAP_FOWNER)

    # -- one entry that is no directory

    def content_equal(self, directory: int, name: bytes, entry: Entry) -> bool:
        """Compare an existing file with the content in the tree, byte by byte."""
        fd, lent = self.open_existing(directory, name, modes.S_IFREG)
        if fd < 0:
            return False
        try:
            position = 0
            for offset, data in (*iterate_content(self.source, entry), (entry.size, b"")):
                while position < offset:
                    gap = os.pread(fd, min(MIB, offset - position), position)
                    if not gap or gap.count(0) != len(gap):
                        return False
                    position += len(gap)
                if data and os.pread(fd, len(data), offset) != data:
                    return False
                position = offset + len(data)
            self.compared()
            return True
        finally:
            if lent is not None:
                os.fchmod(fd, lent)
            os.close(fd)

    def is_same(self, directory: int, name: bytes, entry: Entry, stat: os.stat_result) -> bool:
        """Tell whether an existing file has the entry's kind and content."""
        if modes.S_IFMT(stat.st_mode) != _FORMS[entry.kind]:
            return False
        if entry.kind == objects.ENTRY_FILE:
            if stat.st_size != entry.size or not self.times.is_same(directory, stat.st_mtime_ns, entry.mtime_ns):
                return False
            return not self.verify_content or self.content_equal(directory, name, entry)
        if entry.kind == objects.ENTRY_SYMLINK:
            return os.readlink(name, dir_fd=directory) == entry.content
        if entry.kind in (objects.ENTRY_CHAR_DEVICE, objects.ENTRY_BLOCK_DEVICE):
            return stat.st_rdev == entry.device
        return True

    def whole_content(self, entry: Entry) -> bytes | None:
        """Return the content of a small file, or None for one in pieces."""
        data: bytes | None = None
        if entry.content_kind == objects.CONTENT_CHUNK:
            data = self.source.get(ObjectId(entry.content))
        elif entry.content_kind == objects.CONTENT_INLINE:
            data = entry.content
        elif entry.size == 0:
            data = b""
        if data is not None and len(data) != entry.size:
            raise Damaged(f"{len(data)} bytes of content, the entry says {entry.size}")
        return data

    # -- batches

    def hand_over(self, frame: Frame) -> None:
        """Let a worker write the frame's batch."""
        if not frame.batch.files:
            return
        assert self.workers is not None
        fd = self.duplicate(frame.fd)
        batch, frame.batch = frame.batch, Batch()
        batch.is_native = frame.is_native
        self.batch_count += 1
        temporary = b"%s-%d" % (self.temporary, self.batch_count)
        future = self.workers.submit(write_batch, fd, temporary, batch)
        frame.batches_pending += 1
        self.batches.append((frame, batch, future))
        self.settle(self.batches_pending_max)

    def duplicate(self, fd: int) -> int:
        """Return one more descriptor of a directory; where they are scarce, after those of all batches came back."""
        try:
            return os.dup(fd)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self.settle(0)
        return os.dup(fd)

    def settle(self, pending_max: int) -> None:
        """Take the results of batches, oldest first, until few are pending; directories that are complete end here."""
        while len(self.batches) > pending_max or (self.batches and self.batches[0][2].done()):
            frame, batch, future = self.batches[0]
            result = future.result()
            frame.batches_pending -= 1
            self.result.created += len(batch.files) - len(result.failed)
            self.result.bytes_written += batch.size_bytes
            above = frame.path + b"/" if frame.path else b""
            for entry, attribute, text in result.lost:
                self.lose(above + entry.name, attribute, text)
            for entry, error in result.failed:
                self.result.bytes_written -= entry.size
                self.escalate(error)
                self.fail(above + entry.name, why(error))
            if frame.own_fd and not frame.batches_pending:
                self.end_directory(frame)
            self.batches.popleft()

    def end_directory(self, frame: Frame) -> None:
        """Finish a directory whose files are all there."""
        try:
            self.finish_directory(frame)
        except (DalError, OSError, OverflowError, ValueError) as error:
            with suppress(OSError):
                close_again(frame.fd, frame.opened)
            self.escalate(error)
            self.fail(frame.path, why(error), is_damaged=isinstance(error, Damaged | NotFound))
        finally:
            if frame.own_fd:
                os.close(frame.fd)
                frame.fd, frame.own_fd = -1, False

    def abandon_batches(self) -> None:
        """Wait for what workers still write, and give descriptors back, after an error."""
        for frame, _, future in self.batches:
            future.exception()
            if frame.own_fd:
                with suppress(OSError):
                    close_again(frame.fd, frame.opened)
                os.close(frame.fd)
                frame.own_fd = False
        self.batches.clear()

    def close_frames(self, stack: list[Frame]) -> None:
        """Take back, after an error, what was changed in directories that will not be finished."""
        while stack:
            frame = stack.pop()
            if frame.fd >= 0:
                with suppress(OSError, DalError):
                    close_again(self.way.fd, frame.opened)
                    if stack:
                        self.way.leave()

    def write_file(self, frame: Frame, entry: Entry, path: bytes) -> None:
        """Write a whole file, but for locking flags, under the temporary name."""
        # The content is asked for first: what is not there leaves no trace.
        data = self.whole_content(entry)
        wanted = self.xattrs_of(entry) if entry.xattrs else []
        fd = os.open(self.temporary, _WRITE_FLAGS, 0o600, dir_fd=frame.fd)
        jobs: deque[Future[None]] = deque()
        try:
            if entry.flags or frame.inherited or wanted:
                prepare_empty(fd, entry.flags, frame.inherited, wanted)
            if data is None:
                end = 0
                run: list[bytes] = []
                run_bytes = 0
                for offset, piece in iterate_content(self.source, entry):
                    if offset < end or offset + len(piece) > entry.size:
                        raise Damaged("its pieces overlap")
                    if run and (offset != end or run_bytes >= RUN_BYTES_MAX):
                        self.write_run(fd, run, end - run_bytes, jobs)
                        run, run_bytes = [], 0
                    run.append(piece)
                    run_bytes += len(piece)
                    end = offset + len(piece)
                if run:
                    self.write_run(fd, run, end - run_bytes, jobs)
                while jobs:
                    jobs.popleft().result()
                if end < entry.size:
                    os.ftruncate(fd, entry.size)
            elif data:
                write_all(fd, [data], 0)
                self.result.bytes_written += len(data)
            self.compared()
            lose = partial(self.lose, path)
            set_all(fd, entry, wanted, self.owners.of(entry), lose, is_native=frame.is_native)
            if entry.flags or frame.inherited:
                set_flags(fd, entry.flags & ~attributes.FLAGS_LOCKING, lose)
        finally:
            # After an error, too: no worker may write to a descriptor that has been given back.
            for job in jobs:
                job.exception()
            os.close(fd)

    def write_run(self, fd: int, pieces: list[bytes], offset: int, jobs: "deque[Future[None]]") -> None:
        """Write pieces that lie side by side, in a worker if there are some."""
        if self.workers is None:
            write_all(fd, pieces, offset)
        else:
            jobs.append(self.workers.submit(write_all, fd, pieces, offset))
            if len(jobs) > WRITES_PENDING_MAX:
                jobs.popleft().result()
        self.result.bytes_written += sum(map(len, pieces))
        if self.result.bytes_written > self.bytes_max:
            raise too_large(self.revision)
        if self.result.bytes_written - self.progress_bytes >= PROGRESS_BYTES:
            self.progress()

    def write_special(self, directory: int, temporary: bytes, entry: Entry, path: bytes) -> None:
        """Make a symlink, FIFO or device under the temporary name."""
        wanted = self.xattrs_of(entry) if entry.xattrs else []
        try:
            if entry.kind == objects.ENTRY_SYMLINK:
                os.symlink(entry.content, temporary, dir_fd=directory)
            else:
                os.mknod(temporary, _FORMS[entry.kind] | 0o600, entry.device, dir_fd=directory)
        except OSError as error:
            if error.errno in FULL_ERRORS or error.errno == errno.EROFS:
                raise
            raise OSError(error.errno, f"a {objects.ENTRY_NAMES[entry.kind]} cannot be made: {why(error)}") from error
        lose = partial(self.lose, path)
        mode = set_owner(temporary, entry.mode, *self.owners.of(entry), lose, directory=directory)
        if wanted or entry.kind != objects.ENTRY_SYMLINK:
            lost = set_xattrs(attributes.path_beneath(directory, temporary), wanted, lose)
            mode = mode_without_acl(mode, wanted, lost)
        if entry.kind != objects.ENTRY_SYMLINK:
            fd = os.open(temporary, _PATH_FLAGS, dir_fd=directory)
            try:
                set_mode(b"/proc/self/fd/%d" % fd, mode, lose)
            finally:
                os.close(fd)
        set_times(temporary, entry.mtime_ns, entry.mtime_ns, lose, directory=directory)

    def place(self, directory: int, name: bytes, stat: os.stat_result | None) -> None:
        """Rename the temporary to its name, in the place of what is there."""
        if self.is_rehearsal:
            durable_step("rename")
        if stat is not None and modes.S_ISDIR(stat.st_mode):
            self.clear_directory(directory, name)
        try:
            os.rename(self.temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except PermissionError:
            if stat is None:
                raise
            with unlocked(directory, name):
                os.rename(self.temporary, name, src_dir_fd=directory, dst_dir_fd=directory)

    @staticmethod
    def clear_directory(directory: int, name: bytes) -> None:
        for path, error in remove_tree(directory, name):
            raise OSError(error.errno, f"{os.fsdecode(path)} stands in the way: {error.strerror}")

    def is_for_batch(self, frame: Frame, entry: Entry) -> bool:
        """Tell whether a worker may write a file: new, small, and with nothing but owner, mode and time."""
        return (
            frame.plain
            and entry.kind == objects.ENTRY_FILE
            and not entry.xattrs
            and not entry.flags
            and (entry.content_kind in (objects.CONTENT_CHUNK, objects.CONTENT_INLINE) or not entry.size)
            and entry.name not in frame.existing
        )

    def restore_leaf(self, frame: Frame, entry: Entry, path: bytes) -> None:
        """Restore one entry that is no directory."""
        if self.is_for_batch(frame, entry):
            frame.open_up()
            frame.batch.add(entry, self.whole_content(entry) or b"", *self.owners.of(entry))
            if self.tell is not None:
                self.tell(change_of(CREATE, path, entry))
            if frame.batch.is_full:
                self.hand_over(frame)
            return
        name = entry.name
        link = entry.link if entry.kind == objects.ENTRY_LINK else 0
        stat: os.stat_result | None = None
        if name in frame.existing:
            with suppress(FileNotFoundError):
                stat = os.stat(name, dir_fd=frame.fd, follow_symlinks=False)
        if stat is not None and modes.S_ISDIR(stat.st_mode):
            self.check_replaced(frame, name)
        if link:
            if self.restore_further_name(frame, entry, path, stat):
                return
            is_copy = self.first_names.find(entry.link) is not None
            entry = self.linked_file(entry)
            if self.taming is not None and self.taming.is_forbidden(entry):
                self.result.left.append((path, DEVICE_LEFT))
                return
            if is_copy:
                self.bytes_max += entry.size  # a place without hard links holds it once for each name
            if entry.kind not in _FORMS or entry.kind == objects.ENTRY_DIRECTORY:
                raise Damaged("the links table names something that is no file")
        what: set[str] = set()
        if stat is not None:
            what = {CONTENT} if modes.S_IFMT(stat.st_mode) == _FORMS[entry.kind] else {KIND}
        if stat is not None and self.is_same(frame.fd, name, entry, stat):
            shared = stat.st_nlink > 1 and (
                not link or self.first_names.link_of_inode(stat.st_ino) not in (None, link)
            )  # tied to what the tree keeps apart
            differs = None if shared else self.fix_attributes(frame, name, entry, path, stat)
            what = {LINKS} if shared else self.difference
            if differs is not None:
                if differs:
                    self.count(stat, entry, path, what)
                else:
                    self.result.unchanged += 1
                if link:
                    self.first_names.add(link, frame.path, name, stat.st_ino)
                return
        inode = INODE_UNKNOWN
        if not self.dry_run:
            inode = self.write_anew(frame, entry, path, stat)
        elif entry.kind == objects.ENTRY_FILE and entry.content_kind != objects.CONTENT_NONE:
            self.result.bytes_written += data_bytes(self.source, entry)
            if stat is not None and modes.S_ISREG(stat.st_mode) and stat.st_nlink == 1:
                self.result.bytes_freed += stat.st_blocks * BLOCK_BYTES
        if link:
            self.first_names.add(link, frame.path, name, inode)
        if entry.flags & attributes.FLAGS_LOCKING and not self.dry_run:
            self.lock_again(frame.fd, name, entry, path)
        self.count(stat, entry, path, what)

    def restore_further_name(self, frame: Frame, entry: Entry, path: bytes, stat: os.stat_result | None) -> bool:
        """Restore a name of a file that has another already; False when the file itself is to be written there."""
        if entry.link in self.links_failed:
            raise Damaged("the file that this is a name of could not be restored")
        row = self.first_names.find(entry.link)
        if row is None:
            return False
        if stat is not None and stat.st_ino == self.first_names.inode(row) and stat.st_dev == self.device:
            self.result.unchanged += 1
            return True
        if self.dry_run or self.link_to(row, frame, entry.name, path, stat):
            self.count(stat, entry, path, {LINKS})
            return True
        return False  # a copy, to which the names that follow are linked

    def write_anew(self, frame: Frame, entry: Entry, path: bytes, stat: os.stat_result | None) -> int:
        """Write a file beside its name and rename it there; return its inode."""
        try:
            if self.is_rehearsal:
                durable_step("write")
            frame.open_up()
            if entry.kind == objects.ENTRY_FILE:
                self.write_file(frame, entry, path)
            else:
                self.write_special(frame.fd, self.temporary, entry, path)
            inode = os.stat(self.temporary, dir_fd=frame.fd, follow_symlinks=False).st_ino
            self.place(frame.fd, entry.name, stat)
        except BaseException:
            with suppress(OSError):
                os.unlink(self.temporary, dir_fd=frame.fd)
            raise
        return inode

    def check_replaced(self, frame: Frame, name: bytes) -> None:
        """Refuse to put a file in the place of a directory that holds something which is not to be deleted."""
        if not self.delete and _holds_names(frame.fd, name):
            text = "a directory that is not empty stands there: move it away, or give --delete"
            raise OSError(errno.ENOTEMPTY, text)
        kept_before = self.result.protected.count
        if self.delete:
            remove_tree(frame.fd, name, keep=partial(self.keeps, frame), dry_run=True)
        if self.result.protected.count > kept_before:
            text = (
                "a directory stands there that holds what the backup left out: move it away, or give --delete-excluded"
            )
            raise OSError(errno.ENOTEMPTY, text)

    def lock_again(self, directory: int, name: bytes, entry: Entry, path: bytes) -> None:
        """Set the locking flags of a file that is in place."""
        if entry.kind != objects.ENTRY_FILE or not entry.flags & attributes.FLAGS_LOCKING:
            return
        fd = os.open(name, _READ_FLAGS, dir_fd=directory)
        try:
            set_flags(fd, entry.flags, partial(self.lose, path))
        finally:
            os.close(fd)

    def linked_file(self, entry: Entry) -> Entry:
        """Return the file that a hard link is a name of."""
        if not self.links_met:
            self.links_met = True
            if self.links.count > LINKS_MANY:
                give_large_blocks_back()
        found = self.links.find(entry.link)
        if found is None:
            raise Damaged(f"{entry.name!r}: its file {entry.link:x} is not in the links table")
        return self.tamed(replace(found[1], name=entry.name))

    def link_to(self, row: int, frame: Frame, name: bytes, path: bytes, stat: os.stat_result | None) -> bool:
        """Make `name` a further name of a file, in the place of what `stat` says is there; tell if that can be."""
        known = self.first_names
        frame.open_up()
        if stat is None and self.is_rehearsal:
            durable_step("rename")
        try:
            self.make_link(row, frame.fd, name if stat is None else self.temporary)
        except OSError as error:
            if error.errno not in _NO_LINK_ERRORS:
                raise
            first = known.directory(row) + b"/" + known.name(row)
            self.lose(path, LINK, f"{why(error)}: a copy of {os.fsdecode(first.lstrip(b'/'))}")
            return False
        if stat is not None:
            try:
                self.place(frame.fd, name, stat)
            except BaseException:
                with suppress(OSError):
                    os.unlink(self.temporary, dir_fd=frame.fd)
                raise
        return True

    def make_link(self, row: int, directory: int, name: bytes) -> None:
        known = self.first_names
        above, first = known.open_directory(self.way.root, row), known.name(row)
        if os.stat(first, dir_fd=above, follow_symlinks=False).st_ino != known.inode(row):
            shown = os.fsdecode(known.directory(row) + b"/" + first)
            raise Conflict(f"{shown.lstrip('/')}: replaced while it was restored")
        try:
            os.link(first, name, src_dir_fd=above, dst_dir_fd=directory, follow_symlinks=False)
        except PermissionError:
            with unlocked(above, first):
                os.link(first, name, src_dir_fd=above, dst_dir_fd=directory, follow_symlinks=False)

    def count(self, stat: os.stat_result | None, entry: Entry, path: bytes, what: set[str]) -> None:
        """Count and tell of an entry that was made, or (`stat` is what was there) changed."""
        if stat is None:
            self.result.created += 1
        else:
            self.result.updated += 1
        if self.tell is not None:
            if entry.kind == objects.ENTRY_LINK:
                entry = self.linked_file(entry)
            self.tell(change_of(CREATE if stat is None else CHANGE, path, entry, tuple(sorted(what)) if stat else ()))

    # -- directories

    def open_frame(self, entry: Entry, path: bytes, fd: int, *, fresh: bool, selection: Selection | None) -> Frame:
        """Begin a directory that is open (or, dry, absent)."""
        # Directories without names have one content: of many it is read once.
        items = iter(()) if entry.content == self.empty_content else iterate_directory(self.source, entry.content)
        if selection is not None:
            items = (item for item in items if item.name in selection)
        frame = Frame(entry, path, fd, items, fresh=fresh, selection=selection)
        if not fresh and fd >= 0:
            frame.existing = set(map(os.fsencode, os.listdir(fd)))
        # A rehearsal takes its steps one after the other.
        if self.workers is not None and fd >= 0 and not self.dry_run and not self.is_rehearsal:
            frame.plain = _XATTRS_INHERITED.isdisjoint(attributes.list_xattrs(fd))
        return frame

    def enter_directory(self, frame: Frame, entry: Entry, path: bytes) -> Frame | None:
        """Make a subdirectory exist and enter it; None where another file system is mounted."""
        name = entry.name
        fresh = True
        selection = frame.selection.get(name) if frame.selection is not None else None
        if name in frame.existing:
            stat = os.stat(name, dir_fd=frame.fd, follow_symlinks=False)
            if modes.S_ISDIR(stat.st_mode):
                fresh = False
            elif not self.dry_run:
                frame.open_up()
                for _, error in remove_tree(frame.fd, name):
                    raise error
        if self.dry_run and (fresh or frame.fd < 0):
            self.count(None, entry, path, set())
            return self.open_frame(entry, path, -1, fresh=True, selection=selection)
        if not fresh:
            return self.enter_existing(frame, entry, path, selection)
        frame.open_up()
        if self.is_rehearsal:
            durable_step("make-directory")
        os.mkdir(name, 0o700, dir_fd=frame.fd)
        fd = self.way.enter(name)
        try:
            below = self.open_frame(entry, path, fd, fresh=True, selection=selection)
        except BaseException:
            self.way.leave()
            raise
        below.place, below.is_native, below.folds = frame.place, frame.is_native, frame.folds
        below.begin_new(frame.inherited, partial(self.lose, path))
        self.count(None, entry, path, set())
        return below

    def check_root(self, frame: Frame) -> None:
        """Spare the root of the running system what a backup of something else would do to it."""
        if frame.selection is None and is_root_of_other(frame.fd, self.source, self.revision.root):
            if self.delete:
                raise Refused(ROOT_REFUSED)
            self.keeps_root = True
            self.result.left.append((b".", ROOT_KEPT))

    def enter_existing(self, frame: Frame, entry: Entry, path: bytes, selection: Selection | None) -> Frame | None:
        lent = None
        try:
            fd = self.way.enter(entry.name)
        except PermissionError:
            lent = None if self.dry_run else lend(frame.fd, entry.name, OWNER_ALL)
            if lent is None:
                raise
            fd = self.way.enter(entry.name)
        opened = Opened(mode=lent, flags=None) if lent is not None else None
        try:
            place = place_of(fd)
            if not self.cross_devices and crossing(frame.place, place) == MOUNTED:
                self.leave_mounted(entry, path)
                close_again(fd, opened)
                self.way.leave()
                return None
            below = self.open_frame(entry, path, fd, fresh=False, selection=selection)
        except BaseException:
            with suppress(OSError):
                close_again(fd, opened)
            self.way.leave()
            raise
        below.place, below.opened = place, opened
        if place.mount != frame.place.mount:
            below.look_at_place(may_write=not self.dry_run)
        else:
            below.is_native, below.folds = frame.is_native, frame.folds
        below.look_at_flags()
        if not self.dry_run and not is_searchable(fd):
            below.open_up()
        return below

    def leave_out(self, entry: Entry, path: bytes) -> None:
        """Say that something in the tree is nothing that a directory of this host can hold."""
        text = f"{objects.ENTRY_NAMES.get(entry.kind, entry.kind)}: not restored"
        if entry.kind == objects.ENTRY_MOUNT:
            text = f"a mount point to {os.fsdecode(entry.content)}: left out, it means something in a mount only"
        self.result.left.append((path, text))
        self.note(path, text)

    def leave_mounted(self, entry: Entry, path: bytes) -> None:
        """Say that nothing is restored into another file system."""
        if next(iterate_directory(self.source, entry.content), None) is None:
            text = f"{MOUNTED}: left as it is (an empty directory in the backup)"
            self.result.left.append((path, text))
            self.note(path, text)
        else:
            self.fail(path, f"{MOUNTED}: not restored; unmount it, or give --cross-file-systems")

    def delete_name(self, frame: Frame, name: bytes, *, is_counted: bool) -> None:
        """Remove what the tree has not; what stays is named."""
        kept_before = self.result.protected.count
        stat = os.stat(name, dir_fd=frame.fd, follow_symlinks=False) if self.tell is not None else None
        if not self.dry_run:
            frame.open_up()
        keep = partial(self.keeps, frame) if is_counted else None
        failures = remove_tree(frame.fd, name, keep=keep, dry_run=self.dry_run)
        above = frame.path + b"/" if frame.path else b""
        for path, error in failures:
            self.fail(above + path, f"not deleted: {error.strerror}")
        if is_counted and not failures and self.result.protected.count == kept_before:
            self.result.deleted += 1
            if self.tell is not None and stat is not None and modes.S_ISDIR(stat.st_mode):
                self.tell(change_of_existing(DELETE, above + name, stat.st_mode, 0))

    def keeps(self, frame: Frame, fd: int, path: bytes, stat: os.stat_result) -> bool:
        """Tell whether something beneath a directory is not to be deleted, and note it."""
        whole = frame.path + b"/" + path if frame.path else path
        directory, _, name = whole.rpartition(b"/")
        why = self.protection.why(fd, self.scope_of(frame), directory, name, stat)
        if why:
            self.result.protected.add(whole, why)
        if self.tell is not None and (why or not modes.S_ISDIR(stat.st_mode)):
            action, what = (PROTECT, (why,)) if why else (DELETE, ())
            self.tell(change_of_existing(action, whole, stat.st_mode, stat.st_size, what))
        return bool(why)

    def scope_of(self, frame: Frame) -> Scope:
        """Return the patterns in force in a directory of the tree, with the `.dalignore` files of the tree itself."""
        missing = []
        each: Frame | None = frame
        while each is not None and each.scope is None:
            missing.append(each)
            each = each.parent
        scope = each.scope if each is not None and each.scope is not None else self.protection.top()
        for each in reversed(missing):
            if self.protection.ignore_files:
                found = lookup(self.source, each.entry.content, IGNORE_FILE)
                if found is not None and found.kind == objects.ENTRY_LINK:
                    found = self.linked_file(found)
                if found is not None and found.kind == objects.ENTRY_FILE and found.size <= IGNORE_FILE_BYTES_MAX:
                    content = read_content(self.source, found, offset=0, length=found.size)
                    scope = self.protection.beneath(scope, each.path, content)
            each.scope = scope
        return scope

    def finish_directory(self, frame: Frame) -> None:
        """Delete what is not in the tree, then give a finished directory its attributes."""
        entry, fd, path = frame.entry, frame.fd, frame.path
        if fd < 0:
            return
        for name in sorted(frame.existing) if frame.selection is None else ():
            stale = _TEMPORARY.match(name) is not None
            if stale or (self.delete and not frame.damaged):
                self.delete_name(frame, name, is_counted=not stale)
        opened = frame.opened
        if (frame.selection is not None and not frame.fresh) or (self.keeps_root and not path):
            close_again(fd, opened)
            return
        if not frame.fresh:
            stat, owner = os.fstat(fd), self.owners.of(entry)
            if opened is None and is_plainly_equal(fd, stat, entry, owner):
                self.result.unchanged += 1
                return
            directory = Existing(fd, stat, directory=fd, opened=opened)
            difference = compare(directory, entry, owner, self.xattrs_of(entry), self.times)
            if not difference:
                say_unattainable(stat, entry, owner, partial(self.lose, path))
                close_again(fd, opened)
                self.result.unchanged += 1
                return
            self.count(os.fstat(fd), entry, path, difference)
            if XATTR in difference and not self.dry_run:
                frame.open_up()
        if self.dry_run:
            return
        lose = partial(self.lose, path)
        set_all(fd, entry, self.xattrs_of(entry), self.owners.of(entry), lose, is_native=frame.is_native)
        if entry.flags or not frame.fresh:
            set_flags(fd, entry.flags, lose)

    def open_root(self, fd: int, selection: Selection | None, *, fresh: bool) -> Frame:
        """Begin the target itself, open as `fd`, or (a dry run) not there."""
        root = self.tamed(self.revision.root)
        frame = self.open_frame(root, b"", fd, fresh=fresh or fd < 0, selection=selection)
        if fd >= 0:
            frame.place = place_of(fd)
            self.check_root(frame)
            frame.look_at_place(may_write=not self.dry_run)
            frame.look_at_flags()
            if frame.fresh:
                frame.begin_new(frame.inherited, partial(self.lose, b""))
            elif not self.dry_run and not is_searchable(fd):
                frame.open_up()
            self.device = frame.place.device
        self.above.add(root.content)
        return frame

    def leave_directory(self, stack: list[Frame]) -> None:
        """Leave the deepest directory, of which all was met."""
        frame = stack[-1]
        if not frame.met_names and not frame.damaged and frame.selection is None:
            self.empty_content = frame.entry.content
        if frame.fd >= 0:
            self.way.open_parent()  # as long as the directory's mode lets us
        self.hand_over(frame)
        is_open = frame.fd >= 0
        if frame.batches_pending:
            frame.fd, frame.own_fd = self.duplicate(frame.fd), True
        else:
            self.end_directory(frame)
        stack.pop()
        self.above.discard(frame.entry.content)
        if stack and is_open:
            stack[-1].fd = self.way.leave()

    def restore_entry(self, stack: list[Frame], entry: Entry) -> None:
        """Restore one entry of the deepest directory; one that is a directory is entered."""
        frame, name = stack[-1], entry.name
        if self.done_count >= self.entries_max:
            raise too_many(self.revision)
        if self.result.bytes_written > self.bytes_max:
            raise too_large(self.revision)
        if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise Damaged(f"{os.fsdecode(frame.path)}: the tree holds the forbidden name {name!r}")
        path = frame.path + b"/" + name if frame.path else name
        if entry.kind != objects.ENTRY_LINK:
            entry = self.tamed(entry)
        try:
            if frame.folds and name not in frame.existing:
                frame.take_alias(name)
            if entry.kind == objects.ENTRY_DIRECTORY:
                if entry.content in self.above:
                    raise Damaged("a directory that contains itself")
                below = self.enter_directory(frame, entry, path)
                if below is not None:
                    below.parent = frame
                    stack.append(below)
                    self.above.add(entry.content)
            elif self.taming is not None and self.taming.is_forbidden(entry):
                self.result.left.append((path, DEVICE_LEFT))
            elif entry.kind == objects.ENTRY_LINK or entry.kind in _FORMS:
                self.restore_leaf(frame, entry, path)
            else:
                self.leave_out(entry, path)
        except (DalError, OSError, OverflowError, ValueError) as error:
            self.escalate(error)
            if entry.kind == objects.ENTRY_LINK and isinstance(error, Damaged | NotFound):
                self.links_failed.add(entry.link)
            self.fail(path, why(error), is_damaged=isinstance(error, Damaged | NotFound))
        frame.existing.discard(name)
        frame.met_names = True
        self.done_count += 1
        if self.done_count - self.progress_count >= PROGRESS_FILES:
            self.progress()

    def run(self, target: bytes, selection: Selection | None, *, fresh: bool) -> None:
        """Restore everything that is selected; `fresh`: the target was made for it."""
        try:
            fd = os.open(target, DIRECTORY_FLAGS & ~os.O_NOFOLLOW)
        except FileNotFoundError:
            if not self.dry_run:
                raise
            fd = -1
        self.way = Descent(fd)
        stack: list[Frame] = []
        try:
            stack.append(self.open_root(fd, selection, fresh=fresh))
            while stack:
                frame = stack[-1]
                try:
                    entry = next(frame.items, None)
                except (DalError, OSError) as error:
                    self.escalate(error)
                    frame.damaged = True
                    self.fail(frame.path, f"directory not readable in the backup: {error}", is_damaged=True)
                    entry = None
                if entry is None:
                    self.leave_directory(stack)
                else:
                    self.restore_entry(stack, entry)
            self.settle(0)
        except BaseException:
            for path, text in self.result.failed:  # no result will tell of them
                self.report(Note(severity="error", path=path, text=text))
            raise
        finally:
            self.abandon_batches()
            self.first_names.close()
            self.times.close()
            self.close_frames(stack)
            self.way.close()

    def escalate(self, error: Exception) -> None:
        """Raise what no further file would survive."""
        if isinstance(error, OSError):
            root = self.way.root
            # A name that did not fit while there is room: the index of one directory is full, say.
            is_name = error.filename is not None and error.errno == errno.ENOSPC and not is_full(root)
            if error.errno in FULL_ERRORS and not is_name:
                text = "the target has no space left: free some and run the same restore again, it resumes"
                raise Full(text) from error
            if error.errno == errno.EROFS and os.fstatvfs(root).f_flag & os.ST_RDONLY:
                raise NoAccess(
                    "the target is read-only: mount it for writing and run the same restore again"
                ) from error
        if isinstance(error, DalError) and not isinstance(error, Damaged | NotFound | Conflict):
            raise error


def write_all(fd: int, pieces: list[bytes], offset: int) -> None:
    """Write pieces one after the other from `offset` on."""
    written = os.pwritev(fd, pieces, offset)
    if written < sum(map(len, pieces)):
        rest = memoryview(b"".join(pieces))
        while written < len(rest):
            written += os.pwrite(fd, rest[written:], offset + written)


def _holds_names(directory: int, name: bytes) -> bool:
    fd = os.open(name, DIRECTORY_FLAGS, dir_fd=directory)
    try:
        return bool(os.listdir(fd))
    finally:
        os.close(fd)


def restore_tree(
    source: Source,
    revision: Revision,
    target: bytes | Path,
    *,
    paths: Sequence[bytes] = (),
    owners: OwnerMap | None = None,
    delete: bool = False,
    delete_excluded: bool = False,
    own: Iterable[bytes] = (),
    dry_run: bool = False,
    verify_content: bool = False,
    cross_devices: bool = False,
    is_trusted: bool = True,
    tell: Tell | None = None,
    report: Report = silent,
    workers: Workers | None = None,
) -> RestoreResult:
    """Make `target` (made if it is missing, with its attributes) hold the tree, or only the subtrees `paths`.

    A file with the entry's size and modification time is taken for equal unless `verify_content`. `delete` removes
    what the tree does not hold, within what is restored, but for what the backup did not cover (unless
    `delete_excluded`) and for `own` paths, those of the program. What is not trusted loses what `untrusted.py` names;
    `tamed` counts it. Raises Full, NoAccess (read-only), Refused, and Damaged for a tree with far more in it than its
    revision says; the rest is in `failed` and `lost`.
    """
    selection = plan_selection(paths)
    if selection is not None:
        check_selection(source, revision.root.content, selection)
    place = os.fsencode(target)
    fresh = not dry_run and make_target(place)
    taming = None if is_trusted else Taming()
    restore = _Restore(
        source,
        revision,
        owners=owners if owners is not None else OwnerMap(),
        delete=delete,
        dry_run=dry_run,
        verify_content=verify_content,
        cross_devices=cross_devices,
        taming=taming,
        tell=tell,
        protection=Protection(revision.coverage, own, delete_excluded=delete_excluded),
        report=report,
        workers=workers,
    )
    restore.run(place, selection, fresh=fresh)
    restore.progress()
    if taming is not None:
        restore.result.tamed = taming.counts
    return restore.result
