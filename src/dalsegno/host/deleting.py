"""Delete what a restore removes, or what stands where it puts a file, but for what the backup did not cover."""

import errno
import os
import stat as modes
from functools import partial

from dalsegno.formats import objects
from dalsegno.host.changes import DELETE, PROTECT, change_of_existing
from dalsegno.host.descent import DIRECTORY_FLAGS
from dalsegno.host.frame import Frame
from dalsegno.host.ignore import IGNORE_FILE, IGNORE_FILE_BYTES_MAX, Scope
from dalsegno.host.protection import Protection
from dalsegno.host.removal import remove_tree
from dalsegno.host.restoring import Restoring
from dalsegno.trees.read import lookup, read_content


class Deleter:
    """Deletes names of the target that the tree has not."""

    def __init__(self, restoring: Restoring, protection: Protection) -> None:
        self._options = restoring.options
        self._wanted = restoring.wanted
        self._outcome = restoring.outcome
        self._protection = protection

    def delete(self, frame: Frame, name: bytes, *, is_counted: bool) -> None:
        """Remove what the tree has not; what stays is named."""
        outcome, dry_run = self._outcome, self._options.dry_run
        kept_before = outcome.result.protected.count
        stat = os.stat(name, dir_fd=frame.fd, follow_symlinks=False) if outcome.tell is not None else None
        if not dry_run:
            frame.open_up()
        keep = partial(self._keeps, frame) if is_counted else None
        failures = remove_tree(frame.fd, name, keep=keep, dry_run=dry_run)
        above = frame.path + b"/" if frame.path else b""
        for path, error in failures:
            outcome.fail(above + path, f"not deleted: {error.strerror}")
        if is_counted and not failures and outcome.result.protected.count == kept_before:
            outcome.result.deleted += 1
            if outcome.tell is not None and stat is not None and modes.S_ISDIR(stat.st_mode):
                outcome.tell(change_of_existing(DELETE, above + name, stat.st_mode, 0))

    def check_replaced(self, frame: Frame, name: bytes) -> None:
        """Refuse (OSError) to put a file where a directory holds something which is not to be deleted."""
        if not self._options.delete and _holds_names(frame.fd, name):
            text = "a directory that is not empty stands there: move it away, or give --delete"
            raise OSError(errno.ENOTEMPTY, text)
        kept_before = self._outcome.result.protected.count
        if self._options.delete:
            remove_tree(frame.fd, name, keep=partial(self._keeps, frame), dry_run=True)
        if self._outcome.result.protected.count > kept_before:
            text = (
                "a directory stands there that holds what the backup left out: move it away, or give --delete-excluded"
            )
            raise OSError(errno.ENOTEMPTY, text)

    def _keeps(self, frame: Frame, fd: int, path: bytes, stat: os.stat_result) -> bool:
        """Tell whether something beneath a directory is not to be deleted, and note it."""
        whole = frame.path + b"/" + path if frame.path else path
        directory, _, name = whole.rpartition(b"/")
        why = self._protection.why(fd, self._scope_of(frame), directory, name, stat)
        if why:
            self._outcome.result.protected.add(whole, why)
        if self._outcome.tell is not None and (why or not modes.S_ISDIR(stat.st_mode)):
            action, what = (PROTECT, (why,)) if why else (DELETE, ())
            self._outcome.tell(change_of_existing(action, whole, stat.st_mode, stat.st_size, what))
        return bool(why)

    def _scope_of(self, frame: Frame) -> Scope:
        """Return the patterns in force in a directory of the tree, with the `.dalignore` files of the tree itself."""
        missing = []
        each: Frame | None = frame
        while each is not None and each.scope is None:
            missing.append(each)
            each = each.parent
        scope = each.scope if each is not None and each.scope is not None else self._protection.top()
        for each in reversed(missing):
            if self._protection.ignore_files:
                source = self._wanted.source
                found = lookup(source, each.entry.content, IGNORE_FILE)
                if found is not None and found.kind == objects.ENTRY_LINK:
                    found = self._wanted.linked_file(found)
                if found is not None and found.kind == objects.ENTRY_FILE and found.size <= IGNORE_FILE_BYTES_MAX:
                    content = read_content(source, found, offset=0, length=found.size)
                    scope = self._protection.beneath(scope, each.path, content)
            each.scope = scope
        return scope


def _holds_names(directory: int, name: bytes) -> bool:
    fd = os.open(name, DIRECTORY_FLAGS, dir_fd=directory)
    try:
        return bool(os.listdir(fd))
    finally:
        os.close(fd)
