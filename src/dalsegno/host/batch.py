"""Small new files of one directory, written side by side with others by workers.

A file costs a handful of system calls, which release the interpreter; handing over one file costs as much as they do,
so files are handed over by the batch.
"""

import contextlib
import os
from dataclasses import dataclass, field
from typing import Final

from dalsegno.formats.objects import Entry
from dalsegno.host.setting import set_all, set_mode, set_owner, set_times

BATCH_FILES_MAX: Final = 64
BATCH_BYTES_MAX: Final = 1024 * 1024
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Batch:
    """Files to write into one directory: entry, content, owner, group."""

    files: list[tuple[Entry, bytes, int, int]] = field(default_factory=list)
    size_bytes: int = 0
    is_native: bool = True
    """Whether the file system says what it does not take."""

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
    """What did not go as it should: files that failed, and why; attributes that could not be set, and why."""

    failed: list[tuple[Entry, OSError]]
    lost: list[tuple[Entry, str, str]]


def write_batch(directory: int, temporary: bytes, batch: Batch) -> BatchResult:
    """Write each file under the temporary name and rename it to its own; closes `directory`."""
    result = BatchResult([], [])
    try:
        for entry, data, uid, gid in batch.files:
            lost: list[tuple[Entry, str, str]] = []
            try:
                _write(directory, temporary, entry, data, (uid, gid), lost, is_native=batch.is_native)
                os.rename(temporary, entry.name, src_dir_fd=directory, dst_dir_fd=directory)
                result.lost.extend(lost)
            except OSError as error:
                result.failed.append((entry, error))
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
    finally:
        os.close(directory)
    return result


def _write(
    directory: int,
    temporary: bytes,
    entry: Entry,
    data: bytes,
    owner: tuple[int, int],
    lost: list[tuple[Entry, str, str]],
    *,
    is_native: bool,
) -> None:
    """Write one file."""

    def lose(attribute: str, text: str) -> None:
        lost.append((entry, attribute, text))

    fd = os.open(temporary, _WRITE_FLAGS, 0o600, dir_fd=directory)
    try:
        written = os.write(fd, data) if data else 0
        while written < len(data):
            written += os.write(fd, memoryview(data)[written:])
        if not is_native:
            set_all(fd, entry, [], owner, lose, is_native=False)
            return
        set_mode(fd, set_owner(fd, entry.mode, *owner, lose), lose)
        set_times(fd, entry.mtime_ns, entry.mtime_ns, lose)
    finally:
        os.close(fd)
