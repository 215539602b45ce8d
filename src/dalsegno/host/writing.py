"""Write files that a restore makes: whole under a temporary name beside their own, then renamed."""

import errno
import os
import stat as modes
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.host import attributes
from dalsegno.host.access import unlocked
from dalsegno.host.frame import Frame
from dalsegno.host.removal import remove_tree
from dalsegno.host.restoring import FORMS, PATH_FLAGS, READ_FLAGS, Restoring
from dalsegno.host.setting import (
    FULL_ERRORS,
    mode_without_acl,
    prepare_empty,
    set_all,
    set_flags,
    set_mode,
    set_owner,
    set_times,
    set_xattrs,
    why,
)
from dalsegno.terms.errors import Damaged
from dalsegno.terms.sizes import MIB
from dalsegno.trees.read import iterate_content

RUN_BYTES_MAX: Final = 1 * MIB
WRITES_PENDING_MAX: Final = 8
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE_ERRORS: Final = FULL_ERRORS | {errno.EROFS}
"""They are of the place, not of the kind of file."""


class FileWriter:
    """Writes files that are no directories."""

    def __init__(self, restoring: Restoring) -> None:
        self._restoring = restoring
        self._wanted = restoring.wanted
        self._outcome = restoring.outcome
        self._temporary = restoring.temporary

    def write(self, frame: Frame, entry: Entry, path: bytes, stat: os.stat_result | None) -> int:
        """Write a file beside its name and rename it there, in the place of what `stat` says; return its inode."""
        try:
            self._restoring.announce("write")
            frame.open_up()
            if entry.kind == objects.ENTRY_FILE:
                self._write_file(frame, entry, path)
            else:
                self._write_special(frame.fd, entry, path)
            inode = os.stat(self._temporary, dir_fd=frame.fd, follow_symlinks=False).st_ino
            self.place(frame.fd, entry.name, stat)
        except BaseException:
            with suppress(OSError):
                os.unlink(self._temporary, dir_fd=frame.fd)
            raise
        return inode

    def place(self, directory: int, name: bytes, stat: os.stat_result | None) -> None:
        """Rename the temporary to its name, in the place of what is there. OSError."""
        self._restoring.announce("rename")
        if stat is not None and modes.S_ISDIR(stat.st_mode):
            for path, error in remove_tree(directory, name):
                raise OSError(error.errno, f"{os.fsdecode(path)} stands in the way: {error.strerror}")
        try:
            os.rename(self._temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except PermissionError:
            if stat is None:
                raise
            with unlocked(directory, name):
                os.rename(self._temporary, name, src_dir_fd=directory, dst_dir_fd=directory)

    def lock_again(self, directory: int, entry: Entry, path: bytes) -> None:
        """Set the locking flags of a file that is in place."""
        if entry.kind != objects.ENTRY_FILE or not entry.flags & attributes.FLAGS_LOCKING:
            return
        fd = os.open(entry.name, READ_FLAGS, dir_fd=directory)
        try:
            set_flags(fd, entry.flags, self._restoring.lose(path))
        finally:
            os.close(fd)

    def _write_file(self, frame: Frame, entry: Entry, path: bytes) -> None:
        """Write a whole file, but for locking flags, under the temporary name."""
        # The content is asked for first: what is not there leaves no trace.
        data = self._wanted.whole_content(entry)
        wanted = self._wanted.xattrs_of(entry) if entry.xattrs else []
        fd = os.open(self._temporary, _WRITE_FLAGS, 0o600, dir_fd=frame.fd)
        jobs: deque[Future[None]] = deque()
        try:
            if entry.flags or frame.inherited or wanted:
                prepare_empty(fd, entry.flags, frame.inherited, wanted)
            if data is None:
                self._write_pieces(fd, entry, jobs)
            elif data:
                write_all(fd, [data], 0)
                self._outcome.result.bytes_written += len(data)
            self._wanted.compared()
            lose = self._restoring.lose(path)
            set_all(fd, entry, wanted, self._wanted.owners.of(entry), lose, is_native=frame.file_system.is_native)
            if entry.flags or frame.inherited:
                set_flags(fd, entry.flags & ~attributes.FLAGS_LOCKING, lose)
        finally:
            # After an error, too: no worker may write to a descriptor that has been given back.
            for job in jobs:
                job.exception()
            os.close(fd)

    def _write_pieces(self, fd: int, entry: Entry, jobs: "deque[Future[None]]") -> None:
        """Write the pieces of a large file; `jobs` are what workers still write of it, none at the end."""
        end = 0
        run: list[bytes] = []
        run_bytes = 0
        for offset, piece in iterate_content(self._wanted.source, entry):
            if offset < end or offset + len(piece) > entry.size:
                raise Damaged("its pieces overlap")
            if run and (offset != end or run_bytes >= RUN_BYTES_MAX):
                self._write_run(fd, run, end - run_bytes, jobs)
                run, run_bytes = [], 0
            run.append(piece)
            run_bytes += len(piece)
            end = offset + len(piece)
        if run:
            self._write_run(fd, run, end - run_bytes, jobs)
        while jobs:
            jobs.popleft().result()
        if end < entry.size:
            os.ftruncate(fd, entry.size)

    def _write_run(self, fd: int, pieces: list[bytes], offset: int, jobs: "deque[Future[None]]") -> None:
        """Write pieces that lie side by side, in a worker if there are some."""
        workers = self._restoring.workers
        if workers is None:
            write_all(fd, pieces, offset)
        else:
            jobs.append(workers.submit(write_all, fd, pieces, offset))
            if len(jobs) > WRITES_PENDING_MAX:
                jobs.popleft().result()
        self._outcome.add_written(sum(map(len, pieces)))

    def _write_special(self, directory: int, entry: Entry, path: bytes) -> None:
        """Make a symlink, FIFO or device under the temporary name."""
        temporary = self._temporary
        wanted = self._wanted.xattrs_of(entry) if entry.xattrs else []
        try:
            if entry.kind == objects.ENTRY_SYMLINK:
                os.symlink(entry.content, temporary, dir_fd=directory)
            else:
                os.mknod(temporary, FORMS[entry.kind] | 0o600, entry.device, dir_fd=directory)
        except OSError as error:
            if error.errno in _PLACE_ERRORS:
                raise
            raise OSError(error.errno, f"a {objects.ENTRY_NAMES[entry.kind]} cannot be made: {why(error)}") from error
        lose = self._restoring.lose(path)
        mode = set_owner(temporary, entry.mode, *self._wanted.owners.of(entry), lose, directory=directory)
        if wanted or entry.kind != objects.ENTRY_SYMLINK:
            lost = set_xattrs(attributes.path_beneath(directory, temporary), wanted, lose)
            mode = mode_without_acl(mode, wanted, lost)
        if entry.kind != objects.ENTRY_SYMLINK:
            fd = os.open(temporary, PATH_FLAGS, dir_fd=directory)
            try:
                set_mode(b"/proc/self/fd/%d" % fd, mode, lose)
            finally:
                os.close(fd)
        set_times(temporary, entry.mtime_ns, entry.mtime_ns, lose, directory=directory)


def write_all(fd: int, pieces: list[bytes], offset: int) -> None:
    """Write pieces one after the other from `offset` on. OSError."""
    written = os.pwritev(fd, pieces, offset)
    if written < sum(map(len, pieces)):
        rest = memoryview(b"".join(pieces))
        while written < len(rest):
            written += os.pwrite(fd, rest[written:], offset + written)
