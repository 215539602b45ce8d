"""Record what a process does to the files below a directory: writes, syncs, names that come and go; and let one call fail.

The recorder stands in for the functions of `os` and for `open`, so it sees the durable-file layer and whatever goes past it. SQLite
writes from C code; its databases have their own recovery, tested elsewhere, and count as durable as soon as they changed. They are known
from the moment in which they are opened.
"""

import builtins
import ctypes
import errno
import fcntl
import io
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dalsegno.world import files

Op = tuple[Any, ...]
"""("name", directory, name, file) a name means a file (a number), a directory (`DIRECTORY`) or nothing (None) from now on;
("move", directory, name, other directory, other name) a name goes over to another place, in one step;
("write", file, offset, bytes); ("size", file, bytes); ("sync", file); ("sync-names", directory); ("databases", ((path, bytes or None), ...));
("told", "may", "is" or "ends", what, value) nothing was done, but from now on something may be so, or somebody was told that it is so, or
nothing holds any more of what begins so.
Paths are relative to the root, which is ``""``."""

Fault = tuple[str, int] | tuple[str, str] | tuple[str, str, int]

DIRECTORY = "directory"
DATABASE_SUFFIXES = (".db", ".sqlite")
JOURNAL_SUFFIXES = ("-journal", "-wal")
FAULTS = {
    "sync": errno.EIO,
    "full": errno.ENOSPC,
    "write": errno.EIO,
    "open": errno.EIO,
    "read": errno.EIO,
    "list": errno.EIO,
    "stat": errno.EIO,
}
"""How calls fail. "full" and "write" are calls that want room: writes, and names that are new. "open", "read", "list" and "stat"
also count below the directories that are only read."""

READING = {"read": ("read", "pread", "preadv"), "list": ("scandir", "listdir"), "stat": ("stat", "lstat")}
"""Functions of `os` that read."""


class _Raw(io.RawIOBase):
    """A file opened by `open`, whose reads and writes go through `os.read` and `os.write`."""

    def __init__(self, descriptor: int, name: Any, *, writable: bool) -> None:
        self._descriptor = descriptor
        self._writable = writable
        self.name = name

    def fileno(self) -> int:
        return self._descriptor

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return self._writable

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        return os.write(self._descriptor, data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        os.ftruncate(self._descriptor, size)
        return size

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


class Recorder:
    """What this process does below `root` from `install` on, in order."""

    def __init__(self, root: str, *, read_only: str = "", fault: Fault | None = None) -> None:
        """`read_only`: a directory elsewhere from which reads may fail. `fault`: what fails (`FAULTS`), and which of these
        calls: one, counted from 1; all with a path; or one of those with a path."""
        self.root = os.path.realpath(root)
        self.read_only = os.path.realpath(read_only) if read_only else ""
        self.log: list[Op] = []
        self.fault = fault
        self.counts = dict.fromkeys(FAULTS, 0)
        """How many calls there were that may fail so."""
        self.counts_of: dict[tuple[str, Any], int] = {}
        """The same by kind and path."""
        self.calls = 0
        """How many calls there were, of all that are seen."""
        self.logged_at: list[int] = []
        """Calls by which something went into the log."""
        self.before_call: Callable[[], None] = lambda: None
        self.files: dict[tuple[int, int], int] = {}
        self.known: dict[int, str] = {}
        """File number: the path that it had when the recording began."""
        self._counter = 0
        self._opened: dict[int, tuple[str, int | None]] = {}
        self._only_read: set[int] = set()
        self._databases: dict[str, tuple[int, int] | None] = {}
        self._kept: dict[tuple[int, int], int] = {}
        """Descriptors of databases: closing one would end the locks that SQLite holds in this process."""
        self._lock = threading.RLock()
        self._inside = False
        self._real: dict[str, Callable[..., Any]] = {}
        for directory, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                number = self.files.setdefault((status.st_dev, status.st_ino), len(self.files) + 1)
                self.known.setdefault(number, self._below(path) or "")
                if name.endswith(tuple(each + more for each in DATABASE_SUFFIXES for more in ("", *JOURNAL_SUFFIXES))):
                    self._databases[path] = (status.st_mtime_ns, status.st_size)
        for path in list(self._databases):
            if path.endswith(DATABASE_SUFFIXES):
                for more in JOURNAL_SUFFIXES:
                    self._databases.setdefault(path + more, None)
        self._counter = len(self.files)

    # -- where a call goes

    def _absolute(self, path: Any, directory: int | None) -> str:
        text = os.fsdecode(path)
        if not os.path.isabs(text):
            base = os.readlink(f"/proc/self/fd/{directory}") if directory is not None else os.getcwd()
            text = os.path.join(base, text)
        parent = os.path.realpath(os.path.dirname(text))
        return os.path.join(parent, os.path.basename(text))

    def _below(self, path: Any, directory: int | None = None) -> str | None:
        """Return a path relative to the root, or None for one elsewhere."""
        text = self._absolute(path, directory)
        if text != self.root and not text.startswith(self.root + "/"):
            return None
        return text[len(self.root) + 1 :]

    def _number(self, status: os.stat_result) -> int:
        key = (status.st_dev, status.st_ino)
        if key not in self.files:
            self._counter += 1
            self.files[key] = self._counter
        return self.files[key]

    def _name(self, path: str, value: int | str | None) -> None:
        directory, _, name = path.rpartition("/")
        self.log.append(("name", directory, name, value))

    # -- the functions

    def install(self) -> None:
        """Begin."""
        for name, call in {
            "open": self._open,
            "close": self._close,
            "dup2": self._dup2,
            "write": self._write,
            "pwrite": self._pwrite,
            "ftruncate": self._ftruncate,
            "posix_fallocate": self._posix_fallocate,
            "link": self._link,
            "symlink": self._symlink,
            "rename": self._rename,
            "replace": self._rename,
            "unlink": self._unlink,
            "remove": self._unlink,
            "rmdir": self._rmdir,
            "mkdir": self._mkdir,
            "fsync": self._fsync,
            "fdatasync": self._fsync,
        }.items():
            self._real[name] = getattr(os, name)
            setattr(os, name, self._locked(call, self._real[name]))
        for kind, names in READING.items():
            for name in names:
                self._real[name] = getattr(os, name)
                setattr(os, name, self._reading(kind, self._real[name]))
        files._rename_flags = self._locked(self._rename_new, files._rename_flags)
        self._real_open = builtins.open
        builtins.open = io.open = self._builtin_open  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "sqlite3.connect" or not isinstance(arguments[0], (str, bytes)):
            return
        with self._asking():
            below = self._below(arguments[0])
            if below is not None:
                for more in ("", *JOURNAL_SUFFIXES):
                    self._databases.setdefault(os.path.join(self.root, below + more), None)

    def told(self, kind: str, what: str, value: str) -> None:
        """Note what somebody was told, see `Op`."""
        with self._asking():
            self.look_at_databases()
            self.log.append(("told", kind, what, value))

    @contextmanager
    def _asking(self) -> Iterator[bool]:
        """Keep other threads out, and what is asked meanwhile from being recorded; give whether we are at it already."""
        with self._lock:
            was_inside, self._inside = self._inside, True
            try:
                yield was_inside
            finally:
                self._inside = was_inside

    def _locked(self, call: Callable[..., Any], real: Callable[..., Any] | None) -> Callable[..., Any]:
        def locked(*arguments: Any, **named: Any) -> Any:
            with self._asking() as is_own:
                if is_own:
                    assert real is not None
                    return real(*arguments, **named)
                self._begin_call()
                before = len(self.log)
                try:
                    return call(*arguments, **named)
                finally:
                    if len(self.log) > before:
                        self.logged_at.append(self.calls)

        return locked

    def _reading(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def reading(where: Any = ".", *arguments: Any, **named: Any) -> Any:
            if self._is_read(where, named.get("dir_fd")) and (kind != "stat" or not isinstance(where, int)):
                with self._asking() as is_own:
                    if not is_own:
                        self._begin_call()
                        self._may_fail(kind, path=where)
            return real(where, *arguments, **named)  # may wait for other threads, which want to be recorded

        return reading

    def _begin_call(self) -> None:
        self.look_at_databases()
        self.calls += 1
        self.before_call()

    def _may_fail(self, *kinds: str, path: Any = None) -> None:
        path = path if path is None or isinstance(path, int) else os.fsdecode(path)
        for kind in kinds:
            self.counts[kind] += 1
            if path is not None:
                self.counts_of[kind, path] = self.counts_of.get((kind, path), 0) + 1
            if self.fault in (
                (kind, self.counts[kind]),
                (kind, path),
                (kind, path, self.counts_of.get((kind, path))),
            ):
                number = FAULTS[kind]
                raise OSError(number, os.strerror(number), path)

    def look_at_databases(self) -> None:
        """Note databases that changed: a database and its journal in one step, as they stand together."""
        changed: list[tuple[str, bytes | None]] = []
        for path, before in list(self._databases.items()):
            try:
                status = os.stat(path)
                now: tuple[int, int] | None = (status.st_mtime_ns, status.st_size)
            except FileNotFoundError:
                now = None
            if now != before:
                self._databases[path] = now
                data = None
                if now is not None:
                    data = self._content(path)
                changed.append((path[len(self.root) + 1 :], data))
        if changed:
            self.log.append(("databases", tuple(changed)))

    def _content(self, path: str) -> bytes:
        status = os.stat(path)
        key = (status.st_dev, status.st_ino)
        if key not in self._kept:
            self._kept[key] = self._real["open"](path, os.O_RDONLY | os.O_CLOEXEC)
        return b"".join(iter_all(self._real["pread"], self._kept[key]))

    def watch_databases(self) -> None:
        """Look for databases that appeared."""
        with self._asking():
            for directory, _, names in os.walk(self.root):
                for name in names:
                    if name.endswith(DATABASE_SUFFIXES):
                        for more in ("", *JOURNAL_SUFFIXES):
                            self._databases.setdefault(os.path.join(directory, name + more), None)
            self.look_at_databases()

    def _is_read(self, path: Any, directory: int | None = None) -> bool:
        """Tell whether a path or a descriptor is of what may fail to be read."""
        if isinstance(path, int):
            return path in self._opened or path in self._only_read
        text = os.fsdecode(path)
        if not os.path.isabs(text):
            text = os.path.join(
                os.readlink(f"/proc/self/fd/{directory}") if directory is not None else os.getcwd(), text
            )
        text = os.path.normpath(text) + "/"
        return text.startswith(self.root + "/") or (bool(self.read_only) and text.startswith(self.read_only + "/"))

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        below = self._below(path, dir_fd) if not isinstance(path, int) else None
        was_there = below is not None and os.path.lexists(os.path.join(self.root, below))
        if below is not None and flags & os.O_CREAT and not was_there:
            self._may_fail("full", "write", path=path)
        elif self._is_read(path, dir_fd):
            self._may_fail("open", path=path)
        descriptor: int = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        if below is None:
            if self.read_only and self._is_read(path, dir_fd):
                self._only_read.add(descriptor)
            return descriptor
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._opened[descriptor] = (below, None)
            return descriptor
        if not was_there or not status.st_nlink:
            self.files.pop((status.st_dev, status.st_ino), None)  # the number of a file that is gone, used again
        if not was_there and status.st_nlink:
            self._name(below, self._number(status))
        number = self._number(status)
        self._opened[descriptor] = (below, number)
        if flags & os.O_TRUNC and was_there:
            self.log.append(("size", number, 0))
        return descriptor

    def _close(self, descriptor: int) -> None:
        self._opened.pop(descriptor, None)
        self._only_read.discard(descriptor)
        self._real["close"](descriptor)

    def _dup2(self, old: int, new: int, inheritable: bool = True) -> int:
        self._opened.pop(new, None)
        return int(self._real["dup2"](old, new, inheritable))

    def _write(self, descriptor: int, data: Any) -> int:
        _, number = self._opened.get(descriptor, ("", None))
        if number is None:
            return int(self._real["write"](descriptor, data))
        self._may_fail("full", "write")
        offset = os.lseek(descriptor, 0, os.SEEK_CUR)
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
            offset = os.fstat(descriptor).st_size
        written = int(self._real["write"](descriptor, data))
        self.log.append(("write", number, offset, bytes(memoryview(data).cast("B")[:written])))
        return written

    def _pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        _, number = self._opened.get(descriptor, ("", None))
        if number is not None:
            self._may_fail("full", "write")
        written = int(self._real["pwrite"](descriptor, data, offset))
        if number is not None:
            self.log.append(("write", number, offset, bytes(memoryview(data).cast("B")[:written])))
        return written

    def _ftruncate(self, descriptor: int, size: int) -> None:
        self._real["ftruncate"](descriptor, size)
        _, number = self._opened.get(descriptor, ("", None))
        if number is not None:
            self.log.append(("size", number, size))

    def _posix_fallocate(self, descriptor: int, offset: int, length: int) -> None:
        self._real["posix_fallocate"](descriptor, offset, length)
        _, number = self._opened.get(descriptor, ("", None))
        if number is not None:
            self.log.append(("size", number, os.fstat(descriptor).st_size))

    def _link(self, source: Any, target: Any, **named: Any) -> None:
        below = self._below(target, named.get("dst_dir_fd"))
        if below is not None:
            self._may_fail("full", "write")
        self._real["link"](source, target, **named)
        if below is not None:
            self._name(below, self._number(os.stat(target, dir_fd=named.get("dst_dir_fd"), follow_symlinks=False)))

    def _rename(self, source: Any, target: Any, **named: Any) -> None:
        old, new = self._below(source, named.get("src_dir_fd")), self._below(target, named.get("dst_dir_fd"))
        is_directory = old is not None and os.path.isdir(os.path.join(self.root, old))
        self._real["rename"](source, target, **named)
        if old is None or new is None:
            assert old is new is None, f"{source} crosses the border of what is recorded"
            return
        assert not is_directory, f"{source}: renamed directories are not recorded"
        self.log.append(("move", *_split(old), *_split(new)))

    def _rename_new(self, _: int, source: bytes, __: int, target: bytes, flags: int) -> int:
        """Stand in for renameat2, which is called past `os`."""
        if os.path.lexists(target):
            ctypes.set_errno(errno.EEXIST)
            return -1
        self._rename(source, target)
        return 0

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        below = self._below(path, dir_fd)
        self._real["unlink"](path, dir_fd=dir_fd)
        if below is not None:
            self._name(below, None)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        below = self._below(path, dir_fd)
        self._real["rmdir"](path, dir_fd=dir_fd)
        if below is not None:
            self._name(below, None)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        below = self._below(path, dir_fd)
        if below is not None and not os.path.lexists(os.path.join(self.root, below)):
            self._may_fail("full", "write")
        self._real["mkdir"](path, mode, dir_fd=dir_fd)
        if below is not None:
            self._name(below, DIRECTORY)

    def _symlink(self, source: Any, target: Any, *arguments: Any, **named: Any) -> None:
        below = self._below(target, named.get("dir_fd"))
        assert below is None, f"{target}: symbolic links are not recorded"
        self._real["symlink"](source, target, *arguments, **named)

    def _fsync(self, descriptor: int) -> None:
        path, number = self._opened.get(descriptor, ("", None))
        if descriptor in self._opened:
            self._may_fail("sync")
            self.log.append(("sync", number) if number is not None else ("sync-names", path))
        self._real["fsync"](descriptor)

    def _builtin_open(self, file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **named: Any) -> Any:
        writes = bool(set(mode) & set("wax+"))
        if isinstance(file, int):
            ours = file in self._opened and named.get("closefd", True)
        else:
            ours = not named.get("opener") and (self._below(file) is not None if writes else self._is_read(file))
        if not ours:
            return self._real_open(file, mode, buffering, *arguments, **named)
        flags = os.O_RDWR if "+" in mode else os.O_WRONLY if writes else os.O_RDONLY
        for letter, more in (
            ("w", os.O_CREAT | os.O_TRUNC),
            ("a", os.O_CREAT | os.O_APPEND),
            ("x", os.O_CREAT | os.O_EXCL),
        ):
            flags |= more if letter in mode else 0
        descriptor = file if isinstance(file, int) else os.open(file, flags | os.O_CLOEXEC, 0o666)
        raw = _Raw(descriptor, file, writable=writes)
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in mode else io.BufferedWriter if writes else io.BufferedReader
        buffered: Any = kind(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *arguments, **named)


def iter_all(pread: Callable[[int, int, int], bytes], descriptor: int) -> Iterator[bytes]:
    """Yield all that is in a file."""
    offset = 0
    while data := pread(descriptor, 1 << 20, offset):
        yield data
        offset += len(data)


def _split(path: str) -> tuple[str, str]:
    directory, _, name = path.rpartition("/")
    return directory, name
