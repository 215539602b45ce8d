"""A directory as a backend: a name is a path below the root."""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from dalsegno.backends.contract import BackendWriter, Entry, Lock, OpenValue, Result, Space
from dalsegno.backends.reserve import RESERVE_NAME, keep_reserve, release_reserve, with_reserve
from dalsegno.backends.value_file import OneFile
from dalsegno.terms.errors import AlreadyThere, BadInput, NoAccess, NotFound, Refused
from dalsegno.world.files import (
    PARTIAL_SUFFIX,
    FileLock,
    PartialFile,
    UploadFile,
    file_errors,
    fsync_directory,
    make_directory,
    remove_durable,
    remove_left_behind,
    remove_older,
    settle_file,
    write_durable,
)

LOCK_SUFFIX = ".lock"
SWAPPED = "refs/"
"""Values below this are swapped, and rest on each other."""
ROOT_MODE = 0o750
"""What others on this machine may do is not left to the umask."""
_NAME_BYTES_MAX = 1024


class LocalBackend:
    """Named bytes in files below a directory. A Backend: contract.py says what each method promises."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place = str(root)
        self.directory: Path | None = root
        self._made: set[Path] = set()
        """Directories that are known to be there and durable: what is put into them needs no look."""
        self._read_from: set[Path] = set()
        """Directories with swapped values that were read since the last swap: their writers may have been killed before
        they synced them."""
        self._settled: dict[Path, tuple[int, int]] = {}
        """Values, and directories for what is not in them: how they were when they were known to be durable."""

    def _path(self, name: str) -> Path:
        parts = name.split("/")
        bad = any(part in ("", ".", "..") or "\0" in part for part in parts)
        if bad or len(name) > _NAME_BYTES_MAX or name.endswith((PARTIAL_SUFFIX, LOCK_SUFFIX)):
            raise BadInput(f"name {name!r}: not a relative path that a backend may use")
        return self.root / name

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a value from `offset`."""
        path = self._path(name)
        if name.startswith(SWAPPED):
            try:
                return self._read(path, offset, length)
            finally:
                # Not before: another thread's swap may have synced the directory as it was then.
                self._read_from.add(path.parent)
        return self._read(path, offset, length)

    @staticmethod
    def _read(path: Path, offset: int, length: int | None) -> bytes:
        with file_errors(path), open(path, "rb", buffering=0) as file:
            if offset:
                file.seek(offset)
            if length is None:
                return file.readall()
            pieces = []
            while length > 0:
                piece = file.read(length)
                if not piece:
                    break
                pieces.append(piece)
                length -= len(piece)
            return b"".join(pieces)

    def __str__(self) -> str:
        return self.place

    def where(self, name: str) -> str:
        """Return the path of a value; of the empty name, the beginning of all paths."""
        return str(self.root / name) if name else os.path.join(self.place, "")

    def open(self, name: str) -> OpenValue:
        """Open a value for many reads."""
        return OneFile(self._path(name))

    def has(self, name: str) -> bool:
        """Return whether there is a value of this name."""
        path = self._path(name)
        with file_errors(path):
            return path.exists()

    def status(self, name: str) -> Entry:
        """Return size and age of a value."""
        path = self._path(name)
        with file_errors(path):
            status = path.stat()
        return Entry(name=name, size_bytes=status.st_size, changed_ns=status.st_mtime_ns)

    def create(self, name: str, data: bytes, *, mode: int = 0o666) -> None:
        """Store a value under a name that must be free."""
        path = self._path(name)
        make_directory(path.parent, to_owner=True)
        write_durable(path, data, mode=mode, replace=False, to_owner=True)

    def put(self, name: str, data: bytes) -> None:
        """Store a value, whether there is one or not."""
        path = self._path(name)
        if path.parent in self._made:
            with contextlib.suppress(NotFound):  # another process removed the directory
                write_durable(path, data, to_owner=True)
                return
        make_directory(path.parent, to_owner=True)
        self._made.add(path.parent)
        write_durable(path, data, to_owner=True)

    def replace(self, name: str, data: bytes) -> None:
        """Store a value in the place of one that is there, with its mode, owner and group."""
        write_durable(self._path(name), data, keep_rights=True)

    def swap(self, name: str, *, expected: bytes | None, value: bytes | None) -> bool:
        """Compare and swap under a lock on `refs.lock`, so that processes on this machine see one order.

        A value that does not grow may use the reserve: forgetting something works on a full disk.
        """
        path = self._path(name)
        with FileLock(self.root / ("refs" + LOCK_SUFFIX)) as lock:
            lock.acquire()
            try:
                current: bytes | None = self.read(name)
            except NotFound:
                current = None
            if current != expected:
                return False
            self._settle_reads(path.parent)
            if current is None:
                self.settle([name])  # the first of its directory, or of the pool: that has to last, too
            if value is None or (current is not None and len(value) <= len(current)):
                with_reserve(self.root, lambda: self._set(path, value))
            else:
                self._set(path, value)
            self._note_settled(path)
            self._note_settled(path.parent)
            return True

    @staticmethod
    def _set(path: Path, value: bytes | None) -> None:
        if value is None:
            remove_durable(path)
        else:
            make_directory(path.parent, to_owner=True)
            write_durable(path, value, to_owner=True)

    def settle(self, names: Iterable[str]) -> None:
        """Sync the directories that the names are in, up to the root."""
        self._settle(names)

    def _settle(self, names: Iterable[str], *, writes: bool = True) -> None:
        folders: set[Path] = set()
        for name in names:
            path = self._path(name).parent
            while path not in folders and path != self.root.parent:
                folders.add(path)
                path = path.parent
        for path in sorted(folders):
            with contextlib.suppress(NotFound):
                fsync_directory(path, writes=writes)

    def settle_below(self, prefix: str) -> None:
        """Sync all directories below a prefix, up to the root, empty ones, too: somebody removed what was there."""
        top = self._path(prefix.rstrip("/"))
        self.settle([prefix + "any"])
        with file_errors(top):
            for directory, directories, _ in os.walk(top):
                for name in directories:
                    fsync_directory(Path(directory, name))

    def settle_seen(self, name: str) -> None:
        """Sync what a swapped value is now, or that there is none, unless that is known to be durable.

        For who tells somebody what he saw. Costs a look, mostly.
        """
        path = self._path(name)
        place = path if _mark(path) is not None else path.parent
        mark = _mark(place)
        if mark is None or self._settled.get(place) != mark:
            with contextlib.suppress(NoAccess):  # a disk that takes no writes any more can be read still
                self._settle([name], writes=False)
            if mark is not None:
                self._settled[place] = mark

    def _note_settled(self, path: Path) -> None:
        mark = _mark(path)
        if mark is None:
            self._settled.pop(path, None)
        else:
            self._settled[path] = mark

    def _settle_reads(self, own: Path) -> None:
        """Make durable what was read of other directories: the value that is about to be written may rest on it."""
        while self._read_from:
            path = self._read_from.pop()
            if path == own:
                continue
            try:
                with contextlib.suppress(NotFound):
                    fsync_directory(path)
            except BaseException:
                self._read_from.add(path)  # the next swap has to
                raise

    def settle_value(self, name: str) -> None:
        """Sync a file and its directory, and remove what killed writers of it left."""
        path = self._path(name)
        remove_left_behind(path.parent, path.name)
        settle_file(path)

    def sweep(self, prefix: str, *, before_ns: int | None) -> None:
        """Remove `.partial` files."""
        remove_older(self.root / prefix, "*" + PARTIAL_SUFFIX, before_ns=before_ns, recursive=bool(prefix))

    def list(self, prefix: str, *, after: str = "") -> Iterator[str]:
        """Yield the names that begin with `prefix`."""
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root
        order = after.split("/")
        for name in self._walk(start, folder + "/" if folder else "", prefix):
            if not after or name.split("/") > order:
                yield name

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield the names that begin with `prefix`, with size and age."""
        for name in self.list(prefix):
            with contextlib.suppress(NotFound):
                yield self.status(name)

    def _walk(self, path: Path, name: str, prefix: str) -> Iterator[str]:
        try:
            with file_errors(path), os.scandir(path) as scan:
                entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan)
        except NotFound:
            return
        for part, is_directory in entries:
            child = name + part
            if is_directory:
                if child.startswith(prefix) or prefix.startswith(child + "/"):
                    yield from self._walk(path / part, child + "/", prefix)
            elif child.startswith(prefix) and not child.endswith((PARTIAL_SUFFIX, LOCK_SUFFIX)):
                yield child

    def delete(self, name: str) -> None:
        """Remove a value."""
        path = self._path(name)
        if not remove_durable(path):
            raise NotFound(f"{path}: not there")

    def discard(self, name: str, *, lasting: bool = True) -> bool:
        """Remove a value if it is there."""
        return remove_durable(self._path(name), sync=lasting)

    def take(self, name: str, upload: UploadFile) -> None:
        """Give a file its name here, by a link or a rename."""
        path = self._path(name)
        make_directory(path.parent, to_owner=True)
        upload.take_to(path)

    def has_taken(self, name: str, upload: UploadFile) -> bool:
        """Return whether a value is this file."""
        return upload.is_at(self._path(name))

    def writer(self, name: str) -> BackendWriter:
        """Begin a value of unknown size."""
        path = self._path(name)
        make_directory(path.parent, to_owner=True)
        return PartialFile(path, replace=False, to_owner=True)

    # The place

    def is_there(self) -> bool:
        """Return whether the directory is there."""
        return self.root.is_dir()

    def was_used(self, prefix: str) -> bool:
        """Return whether there is anything below a prefix, be it an empty directory."""
        folder = self.root / prefix
        with contextlib.suppress(NotFound), file_errors(folder), os.scandir(folder) as found:
            return next(found, None) is not None
        return False

    def require_free(self, names: Collection[str]) -> None:
        """Refuse a directory that holds anything but `names` and what a backend keeps beside them."""
        if not self.root.is_dir():
            if self.root.exists():
                raise AlreadyThere(f"{self.root}: not a directory")
            return
        own = {*names, RESERVE_NAME}
        with file_errors(self.root):
            found = os.listdir(self.root)
        if any(name not in own and not name.endswith((PARTIAL_SUFFIX, LOCK_SUFFIX)) for name in found):
            raise Refused(f"{self.root}: the directory is not empty; choose another")

    def prepare(self, prefixes: Iterable[str]) -> None:
        """Make the directory and others in it; the rights of one that is there already are its maker's affair."""
        make_directory(self.root, mode=ROOT_MODE)
        for prefix in prefixes:
            path = self._path(prefix.rstrip("/"))
            make_directory(path, to_owner=True)
            self._made.add(path)

    def lock(self, name: str) -> Lock:
        """Open the lock on the file `<name>.lock`."""
        return FileLock(self.root / (name + LOCK_SUFFIX))

    def space(self) -> Space | None:
        """Return the room of the file system."""
        with file_errors(self.root):
            usage = shutil.disk_usage(self.root)
        return Space(total_bytes=usage.total, free_bytes=usage.free)

    def making_room(self, step: Callable[[], Result]) -> Result:
        """Return `step()`, on a full disk once more without the reserve (reserve.py)."""
        return with_reserve(self.root, step)

    def keep_reserve(self, *, large: bool = False) -> None:
        """Make the reserve unless it is there."""
        keep_reserve(self.root, large=large)

    def release_reserve(self) -> None:
        """Remove the reserve."""
        release_reserve(self.root)

    def scratch(self, name: str) -> Path:
        """Return a directory beside the values."""
        return self.root / name


def _mark(path: Path) -> tuple[int, int] | None:
    """Return what changes whenever a file is replaced, or a name in a directory; None where nothing is."""
    with file_errors(path):
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
    return status.st_ino, status.st_ctime_ns
