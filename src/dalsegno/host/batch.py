"""Small new files of one directory, written side by side with others by workers.

A file costs a handful of system calls, which release the interpreter; handing over one file costs as much as they do,
so files are handed over by the batch.
"""

import contextlib
import os
from dataclasses import dataclass, field
from typing import Final

from dalsegno.formats.objects import Entry

BATCH_FILES_MAX: Final = 64
BATCH_BYTES_MAX: Final = 1024 * 1024
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Batch:
    """Files to write into one directory: entry, content, owner, group."""

    files: list[tuple[Entry, bytes, int, int]] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, entry: Entry, data: bytes, uid: int, gid: int) -> None:
        """Add a file."""
        self.files.append((entry, data, uid, gid))
        self.size_bytes += len(data)

    @property
    def is_full(self) -> bool:
        """Tell whether it is time to hand the batch over."""
        return len(self.files) >= BATCH_FILES_MAX or self.size_bytes >= BATCH_BYTES_MAX


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What did not go as it should: files that failed, and why; files whose owner could not be set."""

    failed: list[tuple[Entry, OSError]]
    not_owned: list[Entry]


def write_batch(directory: int, temporary: bytes, batch: Batch, mode_unowned: int) -> BatchResult:
    """Write each file under the temporary name and rename it to its own; closes `directory`.

    A file whose owner cannot be set gets only the mode bits in `mode_unowned`.
    """
    result = BatchResult([], [])
    try:
        for entry, data, uid, gid in batch.files:
            try:
                if not _write(directory, temporary, entry, data, uid, gid, mode_unowned):
                    result.not_owned.append(entry)
                os.rename(temporary, entry.name, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError as error:
                result.failed.append((entry, error))
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
    finally:
        os.close(directory)
    return result


def _write(directory: int, temporary: bytes, entry: Entry, data: bytes, uid: int, gid: int, mode_unowned: int) -> bool:
    """Write one file and return whether its owner could be set."""
    fd = os.open(temporary, _WRITE_FLAGS, 0o600, dir_fd=directory)
    try:
        written = os.write(fd, data) if data else 0
        while written < len(data):
            written += os.write(fd, memoryview(data)[written:])
        mode, owned = entry.mode, True
        try:
            os.fchown(fd, uid, gid)
        except PermissionError:
            mode, owned = mode & mode_unowned, False
        os.fchmod(fd, mode)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        return owned
    finally:
        os.close(fd)
