"""Durable files: after a commit returns, the file is complete under its name even if the power fails.

Every durable operation announces itself through `durable_step`, where a rehearsal makes it fail:
`DAL_FAULT=kill:N` kills this process before step N, `DAL_FAULT=full:N` fills the disk from step N on.
"""

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from dalsegno.terms.errors import (
    AlreadyThere,
    BadInput,
    Conflict,
    DalError,
    Damaged,
    Full,
    NoAccess,
    NotFound,
    Refused,
    Unavailable,
)
from dalsegno.world.chance import random_bytes

PARTIAL_SUFFIX = ".partial"
READ_BYTES = 1024 * 1024
PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
"""Modes of what holds other people's files or names, and is for its owner alone; a stricter umask counts."""
_UNSUPPORTED = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))
"""How file systems say that they have no such call."""
_NO_LINKS = _UNSUPPORTED | {errno.EPERM, errno.EACCES}
"""How they say that they have no hard links: FAT and exFAT say EPERM, some shares EACCES."""
_NO_LOCKS = _UNSUPPORTED | {errno.ENOLCK}
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_rename_flags = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_NO_ACCESS = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))
AWAY = frozenset((errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH))
"""How a disk, a share or a FUSE file system says that it cannot tell now: not that there is nothing."""

_steps_taken = 0
_rehearse: Callable[[str, bool], None] | None = None
_temporary_counter = itertools.count()


def durable_step(name: str, *, writes: bool = True) -> None:
    """Count one durable operation about to happen; a rehearsal kills the process or fills the disk here.

    Removing a file is a step too, but succeeds on a full disk: `writes` is False.
    """
    if _rehearse is not None:
        _rehearse(name, writes)
    fault = os.environ.get("DAL_FAULT")
    if fault is None:
        return
    global _steps_taken
    _steps_taken += 1
    action, _, number = fault.partition(":")
    if action not in ("kill", "full") or not number.isdecimal():
        raise BadInput(f"DAL_FAULT={fault!r}: expected kill:N or full:N")
    if action == "kill" and _steps_taken == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "full" and _steps_taken >= int(number) and writes:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (rehearsal, step {name})")


def is_rehearsal() -> bool:
    """Tell whether faults are to be made: who takes a step for every file asks once, not each time."""
    return _rehearse is not None or "DAL_FAULT" in os.environ


def rehearse(step: Callable[[str, bool], None] | None) -> None:
    """Have `step(name, writes)` called before each durable operation of this process; what it raises is the fault."""
    global _rehearse
    _rehearse = step


def raise_file_error(error: OSError, path: Path | str) -> NoReturn:
    """Raise the error of our tree that says what a failed file operation means for the caller."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        raise Full(f"{path}: {reason}: free some space and run again") from error
    if error.errno in _NO_ACCESS:
        raise NoAccess(f"{path}: {reason}") from error
    if error.errno == errno.EFBIG:
        raise Full(
            f"{path}: {reason}: larger than its file system holds or than this process may write (ulimit -f)"
        ) from error
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise NotFound(f"{path}: {reason}") from error
    if isinstance(error, FileExistsError):
        raise AlreadyThere(f"{path}: {reason}") from error
    if isinstance(error, (BlockingIOError, TimeoutError)) or error.errno in AWAY:
        raise Unavailable(f"{path}: {reason}") from error
    raise DalError(f"{path}: {reason}") from error


@contextlib.contextmanager
def file_errors(path: Path | str) -> Iterator[None]:
    """Turn every OSError within the block into an error of our tree that names `path`."""
    try:
        yield
    except OSError as error:
        raise_file_error(error, path)


def status_of(path: Path | str | bytes) -> os.stat_result | None:
    """Return the status of a file, links followed, or None when there is none that can be reached by this name.

    Unavailable when its disk cannot tell: `os.path.isdir` and its like would say that nothing is there.
    """
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno in AWAY:
            raise_file_error(error, os.fsdecode(path))
    except ValueError:  # a NUL in the name
        pass
    return None


def is_directory(path: Path | str | bytes) -> bool:
    """Tell whether there is a directory; Unavailable as `status_of`."""
    status = status_of(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def is_file(path: Path | str | bytes) -> bool:
    """Tell whether there is an ordinary file; Unavailable as `status_of`."""
    status = status_of(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def _sync(descriptor: int) -> None:
    """Make a file or directory durable, where the file system can: FUSE and shares often cannot for directories."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def _sync_names(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(path: Path, *, writes: bool = True) -> None:
    """Make the names in a directory durable. `writes` False: they are old ones, and want no room."""
    with file_errors(path):
        durable_step("fsync-directory", writes=writes)
        _sync_names(path)


def _give_to_owner(descriptor: int, parent: Path) -> None:
    """As root, give something new to whom its directory belongs: he could not use it otherwise.

    Who owns the directory could put anything there himself, so nobody gets more than he had. Only for what was made
    just now: whatever else stands there may be a link, or have another name elsewhere.
    """
    if os.geteuid() != 0:
        return
    owner = os.stat(parent)
    if owner.st_uid != 0:
        with contextlib.suppress(OSError):  # a share that has owners of its own
            os.chown(descriptor, owner.st_uid, owner.st_gid)


def _give_directory_to_owner(path: Path) -> None:
    """Do the same with a directory that was made just now; what somebody put in its place meanwhile stays as it is."""
    if os.geteuid() != 0:
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _give_to_owner(descriptor, path.parent)
        finally:
            os.close(descriptor)


def _open_or_make(path: Path, flags: int, mode: int) -> int:
    """Open a file, or make it, and return its descriptor. Refused for a link, and for what is no ordinary file.

    Who owns the directory could otherwise choose what root writes to. What root makes belongs to whom the directory
    belongs; so does, since root may have been killed over it, a file of root's with nothing in it and no other name.
    """
    while True:
        try:
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            break
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            raise Refused(f"{path}: is no ordinary file, or a link to one: remove it") from None
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            break
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise Refused(f"{path}: is no ordinary file: remove it")
    if (status.st_uid, status.st_size, status.st_nlink) == (0, 0, 1):
        _give_to_owner(descriptor, path.parent)
    return descriptor


def make_directory(path: Path, *, mode: int = 0o777, to_owner: bool = False) -> None:
    """Create a directory and its parents durably; one that exists is fine. `mode` is that of the last.

    One that exists is known to be durable when something is in it: whoever put that there had made the directory
    durable before. An empty one may be what a process left that was killed on the way. With `to_owner`, what root makes
    belongs to whom the directory above belongs.
    """
    with contextlib.suppress(NotFound, NoAccess), file_errors(path), os.scandir(path) as entries:
        if next(entries, None) is not None:
            return
    if path.parent != path:
        make_directory(path.parent, to_owner=to_owner)
    with file_errors(path):
        durable_step("make-directory")
        try:
            path.mkdir(mode=mode)
        except FileExistsError:
            if not path.is_dir():
                raise
        else:
            if to_owner:
                _give_directory_to_owner(path)
    fsync_directory(path.parent)


def claim_private_file(path: Path) -> None:
    """Make an empty file that only its owner reads, for a database to write into; one that exists is left as it is."""
    with file_errors(path), contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))


def file_size(path: Path) -> int:
    """Return a file's bytes; 0 when it is gone."""
    with file_errors(path):
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0


def is_open_to_all(path: Path) -> bool:
    """Tell whether anybody on this machine may read or write a file that should be for few; False when it is gone."""
    try:
        return bool(os.stat(path).st_mode & 0o007)
    except OSError:
        return False


def settle_file(path: Path) -> None:
    """Make a file that somebody else wrote durable, bytes and name: he may have been killed before he did."""
    with file_errors(path):
        durable_step("fsync")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)
    fsync_directory(path.parent)


def rename_new(source: Path, target: Path) -> None:
    """Give `source` the name `target`, which must be free: FileExistsError otherwise, also when two race.

    Where the kernel cannot say so in one call, by a hard link; where there are none either (old FUSE, some shares), the
    name is claimed by an empty file that is replaced at once: killed just then, the empty file stays.
    """
    if _rename_flags is not None:
        names = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target))
        if _rename_flags(*names, _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NO_LINKS:
            raise OSError(number, os.strerror(number), os.fspath(target))
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_over_claim(source, target)
    else:
        os.unlink(source)


def _rename_over_claim(source: Path, target: Path) -> None:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        os.rename(source, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(target)
        raise


def _write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data).cast("B")
    if is_rehearsal() and len(view) > 1:
        # A fault in the middle of a write leaves the first half.
        os.write(descriptor, view[: len(view) // 2])
        view = view[len(view) // 2 :]
        durable_step("write-rest")
    written = os.write(descriptor, view)
    while written < len(view):
        written += os.write(descriptor, view[written:])


def _keep_special(path: Path) -> None:
    """Refuse to put a file in the place of a device, a FIFO or a socket: a rename would take `/dev/null` away."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise Refused(f"{path}: is no ordinary file; name another")


def make_filler(path: Path, data: bytes) -> None:
    """Put a file there whose room is what matters, nobody reads it. Full leaves nothing behind; not synced."""
    temporary = path.with_name(path.name + PARTIAL_SUFFIX)
    with file_errors(path):
        durable_step("filler")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                _give_to_owner(descriptor, path.parent)
                _write_all(descriptor, data)
                # Many file systems find out only now whether there is room.
                with contextlib.suppress(OSError):
                    os.posix_fallocate(descriptor, 0, len(data))
            finally:
                os.close(descriptor)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _copy_rights(descriptor: int, path: Path) -> None:
    """Give a file that is to replace another one its owner and group, where that is possible, and its mode."""
    status = os.stat(path)
    with contextlib.suppress(OSError):  # only root gives away, and a share has owners of its own
        os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


def write_durable(
    path: Path,
    data: bytes | bytearray | memoryview,
    *,
    mode: int = 0o666,
    replace: bool = True,
    sync: bool = True,
    to_owner: bool = False,
    keep_rights: bool = False,
) -> None:
    """Put `data` under `path` so that a reader sees the old bytes or the new ones, never half of them.

    With `replace` False an existing file raises AlreadyThere, also when two processes race. `sync` False is for files
    that can be made again and check themselves: they may be lost or torn when the power fails. With `to_owner`, what
    root writes belongs to whom the directory belongs; with `keep_rights` the file keeps mode, owner and group.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{next(_temporary_counter)}{PARTIAL_SUFFIX}")
    with file_errors(path):
        _keep_special(path)
        durable_step("write")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            try:
                if to_owner:
                    _give_to_owner(descriptor, path.parent)
                if keep_rights:
                    _copy_rights(descriptor, path)
                _write_all(descriptor, data)
                if sync:
                    durable_step("fsync")
                    _sync(descriptor)
            finally:
                os.close(descriptor)
            durable_step("rename")
            if replace:
                os.rename(temporary, path)
            else:
                rename_new(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    if sync:
        fsync_directory(path.parent)


def append_lines(path: Path, lines: Sequence[bytes], *, sync: bool = False) -> None:
    """Add lines at the end of a file that only its owner reads, in one write; one that is not there is made.

    Each begins with a newline, so that what a killed process left half written spoils no line but its own. What root
    makes belongs to whom the directory belongs.
    """
    with file_errors(path):
        durable_step("append")
        descriptor = _open_or_make(path, os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            _write_all(descriptor, b"".join(b"\n" + line for line in lines))
            if sync:
                durable_step("fsync")
                _sync(descriptor)
        finally:
            os.close(descriptor)
    if sync:
        fsync_directory(path.parent)


def remove_left_behind(directory: Path, names: str) -> None:
    """Remove the half files that `write_durable` of killed processes of this machine left of files with such names.

    For a file that is written once, in a place where no collection passes. Another machine that writes the same file on
    a share just now would get NotFound, and nothing half.
    """
    with file_errors(directory):
        for left in directory.glob(f"{names}.*.*{PARTIAL_SUFFIX}"):
            process = left.name.split(".")[-3]
            if process.isdecimal() and not _is_running(int(process)):
                remove_durable(left, sync=False)


def remove_older(directory: Path, pattern: str, *, before_ns: int | None, recursive: bool = True) -> None:
    """Remove the files of some names that were changed last before a time, or (None) at any time; not durably."""
    for path in directory.rglob(pattern) if recursive else directory.glob(pattern):
        with file_errors(path):
            try:
                is_old = before_ns is None or path.stat().st_mtime_ns <= before_ns
            except FileNotFoundError:
                continue
        if is_old:
            remove_durable(path, sync=False)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def remove_durable(path: Path, *, sync: bool = True) -> bool:
    """Remove a file; return False when it was not there."""
    with file_errors(path):
        durable_step("remove", writes=False)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        if sync:
            durable_step("fsync-directory", writes=False)
            _sync_names(path.parent)
    return True


def iterate_bytes(path: Path, *, offset: int = 0, length: int | None = None, fresh: bool = False) -> Iterator[bytes]:
    """Yield a file's bytes, at most 1 MiB at a time; fewer than `length` when it ends before.

    `fresh`: what the system keeps of the file in memory is dropped first, so that the bytes come from the medium.
    Damaged: a FIFO is in its place.
    """
    with file_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO is not waited for
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                raise Damaged(f"{path}: is no file")
            if fresh:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(descriptor, offset, 0, os.POSIX_FADV_SEQUENTIAL)
            position, end = offset, None if length is None else offset + length
            while end is None or position < end:
                wanted = READ_BYTES if end is None else min(READ_BYTES, end - position)
                data = os.pread(descriptor, wanted, position)
                if not data:
                    return
                position += len(data)
                yield data
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock a file for as long as it is open; return False when another process has. Without locks nobody has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _remove_unless_written(path: Path) -> None:
    """Remove what a killed process left; Conflict when one that lives writes there: its half would get the name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not _try_lock(descriptor):
            raise Conflict(f"{path}: another process writes this file now: wait for it, or name another")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _open_alone(path: Path) -> int:
    """Open a file to go on with it, or make it; Conflict when another process that lives writes there."""
    while True:
        descriptor = _open_or_make(path, os.O_RDWR, 0o600)
        if not _try_lock(descriptor):
            os.close(descriptor)
            raise Conflict(f"{path}: another process writes this file now: wait for it, or name another")
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # another one committed it meanwhile: it has its own name now


class PartialFile:
    """A file that grows under `<path>.partial` and appears under `path` whole and durable at `commit`.

    Conflict, also from `commit`, when another process writes the same file.
    `replace` False makes `commit` raise AlreadyThere when the name has been taken meanwhile. With `to_owner`, what root
    writes belongs to whom the directory belongs.
    """

    def __init__(self, path: Path, *, mode: int = 0o666, replace: bool = True, to_owner: bool = False) -> None:
        self.path = path
        self.partial_path = path.with_name(path.name + PARTIAL_SUFFIX)
        self.offset = 0
        self._replace = replace
        with file_errors(self.partial_path):
            _keep_special(path)
            durable_step("create")
            _remove_unless_written(self.partial_path)
            self._descriptor = os.open(self.partial_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            _try_lock(self._descriptor)
            if to_owner:
                _give_to_owner(self._descriptor, path.parent)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append `data`; return its size."""
        size = memoryview(data).nbytes
        try:
            durable_step("write")
            _write_all(self._descriptor, data)
        except OSError as error:
            raise_file_error(error, self.path)
        self.offset += size
        return size

    def rewrite(self, offset: int, data: bytes) -> None:
        """Replace bytes that were written before."""
        assert offset + len(data) <= self.offset
        with file_errors(self.path):
            durable_step("write")
            written = os.pwrite(self._descriptor, data, offset)
            assert written == len(data), "a short write over bytes that were there"

    def commit(self) -> None:
        """Make the bytes durable, then the name."""
        assert self._descriptor >= 0, "already committed or abandoned"
        with file_errors(self.path):
            durable_step("fsync")
            _sync(self._descriptor)
            durable_step("rename")
            if not _is_at(self._descriptor, self.partial_path):  # on a share without locks
                raise Conflict(f"{self.path}: another process writes this file, too: run again when it has ended")
            if self._replace:
                os.rename(self.partial_path, self.path)
            else:
                rename_new(self.partial_path, self.path)
            os.close(self._descriptor)
            self._descriptor = -1
        fsync_directory(self.path.parent)

    def abandon(self) -> None:
        """Drop the bytes; does nothing after a commit."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if _is_at(self._descriptor, self.partial_path):
                os.unlink(self.partial_path)
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()


class ResumedFile:
    """A file that grows under `<path>.partial`, over several runs if need be, and appears whole under `path`.

    Unlike a PartialFile it keeps what it has when it is closed early; `offset` tells where to go on. The bytes of an
    earlier run may be torn: whoever commits has checked them all. Conflict when another process writes the same file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial_path = path.with_name(path.name + PARTIAL_SUFFIX)
        with file_errors(self.partial_path):
            durable_step("create")
            self._descriptor = _open_alone(self.partial_path)
            self.offset = os.lseek(self._descriptor, 0, os.SEEK_END)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append `data`; return its size."""
        size = memoryview(data).nbytes
        with file_errors(self.path):
            durable_step("write")
            _write_all(self._descriptor, data)
        self.offset += size
        return size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return what was written at a place."""
        with file_errors(self.partial_path):
            return os.pread(self._descriptor, length, offset)

    def truncate(self, size: int) -> None:
        """Drop what is behind `size`."""
        with file_errors(self.partial_path):
            os.ftruncate(self._descriptor, size)
            self.offset = os.lseek(self._descriptor, size, os.SEEK_SET)

    def sync(self) -> None:
        """Make the bytes so far durable under the name that they have until the end."""
        with file_errors(self.partial_path):
            durable_step("fsync")
            _sync(self._descriptor)
        fsync_directory(self.path.parent)

    def rewrite(self, offset: int, data: bytes) -> None:
        """Replace bytes that were written before."""
        assert offset + len(data) <= self.offset
        with file_errors(self.path):
            durable_step("write")
            written = os.pwrite(self._descriptor, data, offset)
            assert written == len(data), "a short write over bytes that were there"

    def commit(self) -> None:
        """Make the bytes durable, then the name."""
        with file_errors(self.path):
            durable_step("fsync")
            _sync(self._descriptor)
            durable_step("rename")
            os.rename(self.partial_path, self.path)
        self.close()
        fsync_directory(self.path.parent)

    def close(self) -> None:
        """Leave the bytes for a later run; does nothing after a commit."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class UploadFile:
    """A file that grows by requests that may overlap, be done twice or come late, until it is taken away whole.

    Whoever writes or takes it holds its lock meanwhile, and asks first whether the name still means this file: bytes
    that come late never reach a file that has become something else.
    """

    def __init__(self, path: Path, *, create: bool, sync: bool = True) -> None:
        """With `create` a new one is made if need be; without `sync` its name may be lost when the power fails."""
        self.path = path
        new = create and not path.exists()
        with file_errors(path):
            if new:
                durable_step("create")
            if create:
                self._descriptor = _open_or_make(path, os.O_RDWR, 0o666)
            else:
                self._descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            self.size_bytes = os.fstat(self._descriptor).st_size
            self.has_other_name = False
            """As of the last `lock`: taken, but killed before this name was dropped."""
        if create and sync:  # who made it before may have been killed before that
            fsync_directory(path.parent)

    def lock(self) -> bool:
        """Keep others from writing and taking it; return False when the name means another file by now, or none."""
        with file_errors(self.path):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            own = os.fstat(self._descriptor)
            self.size_bytes = own.st_size
            self.has_other_name = own.st_nlink > 1
            try:
                there = os.stat(self.path)
            except FileNotFoundError:
                return False
            return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)

    def unlock(self) -> None:
        """Let others write and take it."""
        with file_errors(self.path):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write at a place within the file or at its end."""
        with file_errors(self.path):
            durable_step("write")
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            _write_all(self._descriptor, data)
        self.size_bytes = max(self.size_bytes, offset + memoryview(data).nbytes)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes from `offset` on, fewer than `length` only at the end."""
        with file_errors(self.path):
            return os.pread(self._descriptor, length, offset)

    def truncate(self, size: int) -> None:
        """Drop what is behind `size`."""
        with file_errors(self.path):
            os.ftruncate(self._descriptor, size)
        self.size_bytes = min(self.size_bytes, size)

    def sync(self) -> None:
        """Make the bytes durable."""
        with file_errors(self.path):
            durable_step("fsync")
            _sync(self._descriptor)

    def is_at(self, path: Path) -> bool:
        """Tell whether `path` is another name of this file."""
        own = os.fstat(self._descriptor)
        try:
            there = os.stat(path)
        except FileNotFoundError:
            return False
        return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)

    def take_to(self, path: Path) -> None:
        """Give the durable bytes another name, which must be free or this file's, as of now, and drop this one."""
        self.sync()
        with file_errors(path):
            os.utime(self._descriptor)
            if not self.is_at(path):
                durable_step("link")
                try:
                    os.link(self.path, path)
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    rename_new(self.path, path)
        fsync_directory(path.parent)
        self.remove()

    def remove(self) -> None:
        """Take the name away. When the power fails it may come back, as one more name of what the file became."""
        remove_durable(self.path, sync=False)

    def close(self) -> None:
        """Give the descriptor back, and with it the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ScratchFile:
    """Bytes too many for memory, in a file without a name in TMPDIR (else /var/tmp): it ends with the process."""

    def __init__(self) -> None:
        self._directory = os.environ.get("TMPDIR") or "/var/tmp"
        self._size = 0
        # A name that nobody knows before: others may put files there, too, and one of this name would be in the way.
        name = os.path.join(self._directory, f"dalsegno-{random_bytes(16).hex()}{PARTIAL_SUFFIX}")
        with file_errors(self._directory):
            self._descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.unlink(name)

    def append(self, data: bytes | bytearray) -> int:
        """Add `data` at the end and return where it begins."""
        offset = self._size
        with file_errors(self._directory):
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            _write_all(self._descriptor, data)
        self._size += len(data)
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on, which must be there."""
        assert offset + length <= self._size
        with file_errors(self._directory):
            data = os.pread(self._descriptor, length, offset)
            while len(data) < length:
                data += os.pread(self._descriptor, length - len(data), offset + len(data))
        return data

    def close(self) -> None:
        """Give the room back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FileLock:
    """An advisory lock on a file, between processes and between openings within one process.

    A file that root makes belongs to whom the directory belongs. Refused where the file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with file_errors(path):
            self._descriptor = _open_or_make(path, os.O_RDWR, 0o666)

    def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
        """Take the lock, or change its mode; return False when `wait` is False and another holds it."""
        operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._descriptor, operation if wait else operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise Refused(
                    f"{self.path}: this file system has no locks ({error.strerror}): mount it with them (NFS: "
                    "local_lock=all, Lustre: flock), or choose another place"
                ) from error
            raise_file_error(error, self.path)
        return True

    def release(self) -> None:
        """Let go of the lock; it may be taken again."""
        with file_errors(self.path):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the lock, for good."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
