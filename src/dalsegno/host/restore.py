"""Restore trees into a directory of this host: only what differs is written, nothing ever outside the target.

Every operation names one entry of a directory that is held open (`Descent`), so a symlink in the tree or planted in
the target is never followed. A file appears under its name only whole: it is written beside it and renamed.
"""

import os
import stat as modes
from contextlib import suppress
from pathlib import Path
from typing import Final

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision
from dalsegno.host import attributes
from dalsegno.host.access import OWNER_ALL, Opened, close_again, is_searchable, lend
from dalsegno.host.attributes import place_of
from dalsegno.host.batches import Batches
from dalsegno.host.changes import Tell
from dalsegno.host.deleting import Deleter
from dalsegno.host.descent import DIRECTORY_FLAGS, Descent
from dalsegno.host.examining import Examiner
from dalsegno.host.finishing import Finisher, temporary_name
from dalsegno.host.frame import Frame
from dalsegno.host.leaves import Leaves
from dalsegno.host.outcome import Outcome, RestoreResult
from dalsegno.host.protection import Protection
from dalsegno.host.removal import MOUNTED, crossing, remove_tree
from dalsegno.host.restoring import FORMS, RestoreOptions, Restoring
from dalsegno.host.selection import Selection, check_selection, plan_selection
from dalsegno.host.target import ROOT_KEPT, ROOT_REFUSED, is_root_of_other, make_target
from dalsegno.host.untrusted import DEVICE_LEFT, Taming
from dalsegno.host.wanted import WantedTree
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import DalError, Damaged, NotFound, Refused
from dalsegno.terms.events import Report, silent
from dalsegno.trees.read import iterate_directory
from dalsegno.world.files import is_rehearsal
from dalsegno.world.workers import Workers

_XATTRS_INHERITED: Final = frozenset({"system.posix_acl_default", "btrfs.compression"})


class _Restore:
    """The walk of one restore down the tree and the target."""

    def __init__(self, restoring: Restoring, protection: Protection) -> None:
        self.restoring = restoring
        self.way = restoring.way
        self.options = restoring.options
        self.wanted = restoring.wanted
        self.outcome = restoring.outcome
        self.dry_run = restoring.options.dry_run
        # A rehearsal takes its steps one after the other.
        self.has_batches = restoring.workers is not None and not self.dry_run and not restoring.is_rehearsal
        self.examiner = Examiner(restoring)
        self.deleter = Deleter(restoring, protection)
        self.finisher = Finisher(restoring, self.deleter, self.examiner.times)
        self.batches = Batches(restoring, self.finisher)
        self.leaves = Leaves(restoring, self.examiner, self.deleter, self.batches)
        # Contents of the directories on the way down: one that contains itself would never end.
        self.above: set[bytes] = set()
        self.empty_content = b""

    def close_frames(self, stack: list[Frame]) -> None:
        """Take back, after an error, what was changed in directories that will not be finished."""
        while stack:
            frame = stack.pop()
            if frame.fd >= 0:
                with suppress(OSError, DalError):
                    close_again(self.way.fd, frame.opened)
                    if stack:
                        self.way.leave()

    def open_frame(self, entry: Entry, path: bytes, fd: int, *, fresh: bool, selection: Selection | None) -> Frame:
        """Begin a directory that is open (or, dry, absent)."""
        # Directories without names have one content: of many it is read once.
        items = (
            iter(()) if entry.content == self.empty_content else iterate_directory(self.wanted.source, entry.content)
        )
        if selection is not None:
            items = (item for item in items if item.name in selection)
        frame = Frame(entry, path, fd, items, fresh=fresh, selection=selection)
        if not fresh and fd >= 0:
            frame.existing = set(map(os.fsencode, os.listdir(fd)))
        if fd >= 0 and self.has_batches:
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
            self.outcome.count(None, entry, path, frozenset())
            return self.open_frame(entry, path, -1, fresh=True, selection=selection)
        if not fresh:
            return self.enter_existing(frame, entry, path, selection)
        frame.open_up()
        self.restoring.announce("make-directory")
        os.mkdir(name, 0o700, dir_fd=frame.fd)
        fd = self.way.enter(name)
        try:
            below = self.open_frame(entry, path, fd, fresh=True, selection=selection)
        except BaseException:
            self.way.leave()
            raise
        below.place, below.file_system = frame.place, frame.file_system
        below.begin_new(frame.inherited, self.restoring.lose(path))
        self.outcome.count(None, entry, path, frozenset())
        return below

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
            if not self.options.cross_devices and crossing(frame.place, place) == MOUNTED:
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
            below.file_system = frame.file_system
        below.look_at_flags()
        if not self.dry_run and not is_searchable(fd):
            below.open_up()
        return below

    def check_root(self, frame: Frame) -> None:
        """Spare the root of the running system what a backup of something else would do to it."""
        if frame.selection is None and is_root_of_other(frame.fd, self.wanted.source, self.wanted.revision.root):
            if self.options.delete:
                raise Refused(ROOT_REFUSED)
            self.finisher.keeps_root = True
            self.outcome.leave(b".", ROOT_KEPT)

    def leave_out(self, entry: Entry, path: bytes) -> None:
        """Say that something in the tree is nothing that a directory of this host can hold."""
        text = f"{objects.ENTRY_NAMES.get(entry.kind, entry.kind)}: not restored"
        if entry.kind == objects.ENTRY_MOUNT:
            text = f"a mount point to {os.fsdecode(entry.content)}: left out, it means something in a mount only"
        self.outcome.leave(path, text)
        self.outcome.note(path, text)

    def leave_mounted(self, entry: Entry, path: bytes) -> None:
        """Say that nothing is restored into another file system."""
        if next(iterate_directory(self.wanted.source, entry.content), None) is None:
            text = f"{MOUNTED}: left as it is (an empty directory in the backup)"
            self.outcome.leave(path, text)
            self.outcome.note(path, text)
        else:
            self.outcome.fail(path, f"{MOUNTED}: not restored; unmount it, or give --cross-file-systems")

    def open_root(self, fd: int, selection: Selection | None, *, fresh: bool) -> Frame:
        """Begin the target itself, open as `fd`, or (a dry run) not there."""
        root = self.wanted.tamed(self.wanted.revision.root)
        frame = self.open_frame(root, b"", fd, fresh=fresh or fd < 0, selection=selection)
        if fd >= 0:
            frame.place = place_of(fd)
            self.check_root(frame)
            frame.look_at_place(may_write=not self.dry_run)
            frame.look_at_flags()
            if frame.fresh:
                frame.begin_new(frame.inherited, self.restoring.lose(b""))
            elif not self.dry_run and not is_searchable(fd):
                frame.open_up()
            self.leaves.names.device = frame.place.device
        self.above.add(root.content)
        return frame

    def leave_directory(self, stack: list[Frame]) -> None:
        """Leave the deepest directory, of which all was met."""
        frame = stack[-1]
        if not frame.met_names and not frame.damaged and frame.selection is None:
            self.empty_content = frame.entry.content
        if frame.fd >= 0:
            self.way.open_parent()  # as long as the directory's mode lets us
        self.batches.hand_over(frame)
        is_open = frame.fd >= 0
        self.batches.end(frame)
        stack.pop()
        self.above.discard(frame.entry.content)
        if stack and is_open:
            stack[-1].fd = self.way.leave()

    def restore_entry(self, stack: list[Frame], entry: Entry) -> None:
        """Restore one entry of the deepest directory; one that is a directory is entered."""
        frame, name = stack[-1], entry.name
        self.outcome.check_bounds()
        if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise Damaged(f"{os.fsdecode(frame.path)}: the tree holds the forbidden name {name!r}")
        path = frame.path + b"/" + name if frame.path else name
        if entry.kind != objects.ENTRY_LINK:
            entry = self.wanted.tamed(entry)
        try:
            if frame.file_system.folds and name not in frame.existing:
                frame.take_alias(name)
            if entry.kind == objects.ENTRY_DIRECTORY:
                if entry.content in self.above:
                    raise Damaged("a directory that contains itself")
                below = self.enter_directory(frame, entry, path)
                if below is not None:
                    below.parent = frame
                    stack.append(below)
                    self.above.add(entry.content)
            elif self.wanted.is_forbidden(entry):
                self.outcome.leave(path, DEVICE_LEFT)
            elif entry.kind == objects.ENTRY_LINK or entry.kind in FORMS:
                self.leaves.restore(frame, entry, path)
            else:
                self.leave_out(entry, path)
        except (DalError, OSError, OverflowError, ValueError) as error:
            self.restoring.escalate(error)
            if entry.kind == objects.ENTRY_LINK and isinstance(error, Damaged | NotFound):
                self.leaves.names.failed.add(entry.link)
            self.outcome.fail_with(path, error)
        frame.existing.discard(name)
        frame.met_names = True
        self.outcome.finish_entry()

    def run(self, selection: Selection | None, *, fresh: bool) -> None:
        """Restore everything that is selected; `fresh`: the target was made for it."""
        stack: list[Frame] = []
        try:
            stack.append(self.open_root(self.way.fd, selection, fresh=fresh))
            while stack:
                entry = self.next_entry(stack[-1])
                if entry is None:
                    self.leave_directory(stack)
                else:
                    self.restore_entry(stack, entry)
            self.batches.settle(0)
        except BaseException:
            for path, text in self.outcome.result.failed:  # no result will tell of them
                self.outcome.note(path, text, severity="error")
            raise
        finally:
            self.batches.abandon()
            self.leaves.names.first.close()
            self.examiner.times.close()
            self.close_frames(stack)

    def next_entry(self, frame: Frame) -> Entry | None:
        """Return the next entry of a directory of the tree; None at its end, or where it cannot be read further."""
        try:
            return next(frame.items, None)
        except (DalError, OSError) as error:
            self.restoring.escalate(error)
            frame.damaged = True
            self.outcome.fail(frame.path, f"directory not readable in the backup: {error}", is_damaged=True)
            return None


def open_target(target: bytes, *, dry_run: bool) -> int:
    """Return the open target, -1 where a dry run has none. OSError."""
    try:
        return os.open(target, DIRECTORY_FLAGS & ~os.O_NOFOLLOW)
    except FileNotFoundError:
        if not dry_run:
            raise
        return -1


def restore_tree(
    source: Source,
    revision: Revision,
    target: bytes | Path,
    *,
    options: RestoreOptions | None = None,
    tell: Tell | None = None,
    report: Report = silent,
    workers: Workers | None = None,
) -> RestoreResult:
    """Make `target` (made if it is missing, with its attributes) hold the tree, or the subtrees of `options`.

    A file with the entry's size and modification time is taken for equal unless `verify_content`. What is not trusted
    loses what `untrusted.py` names; `tamed` counts it. `tell` hears of each entry. Raises Full, NoAccess (read-only),
    Refused, and Damaged for a tree with far more in it than its revision says; the rest is in `failed` and `lost`.
    """
    options = options if options is not None else RestoreOptions()
    selection = plan_selection(options.paths)
    if selection is not None:
        check_selection(source, revision.root.content, selection)
    place = os.fsencode(target)
    fresh = not options.dry_run and make_target(place)
    taming = None if options.is_trusted else Taming()
    outcome = Outcome(revision, report=report, tell=tell)
    way = Descent(open_target(place, dry_run=options.dry_run))
    try:
        restoring = Restoring(
            way=way,
            options=options,
            wanted=WantedTree(source, revision, options.owners, taming),
            outcome=outcome,
            workers=workers,
            temporary=temporary_name(),
            is_rehearsal=is_rehearsal(),
        )
        protection = Protection(revision.coverage, options.own, delete_excluded=options.delete_excluded)
        _Restore(restoring, protection).run(selection, fresh=fresh)
    finally:
        way.close()
    outcome.progress()
    if taming is not None:
        outcome.result.tamed = taming.counts
    return outcome.result
