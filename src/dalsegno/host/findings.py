"""What a scan has found so far: counts, what could not be read or was left out, and the reports of it."""

import errno
import os
from collections.abc import Callable
from typing import Final

from dalsegno.host.ignore import IgnoreProblem
from dalsegno.host.mounts import Boundaries
from dalsegno.terms.events import Note, Progress, Report
from dalsegno.terms.sizes import MIB

PROGRESS_FILES: Final = 256
PROGRESS_BYTES: Final = 16 * MIB
_VANISHED: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""Not ESTALE: all of a server's directory may be stale, and is not gone."""


class Findings:
    """Counts and lists of one scan (see ScanResult), which report themselves."""

    def __init__(self, report: Report, *, expected_count: int, share_done: Callable[[], float]) -> None:
        self._report = report
        self._expected_count = expected_count
        self._share_done = share_done
        self._progress_count = 0
        self._progress_bytes = 0
        self.root = b""
        self.directory = b""
        """What is being looked at, from the root."""
        self.file = b""
        """The file in it that is being read, from the root; empty when none is."""
        self.boundaries = Boundaries(pseudo={}, mounted={})
        """What is mounted beneath the scan's root."""
        self.entry_count = 0
        self.total_bytes = 0
        self.files_read = 0
        self.bytes_read = 0
        self.unreadable: list[tuple[bytes, str]] = []
        self.changed: list[bytes] = []
        self.missized: list[bytes] = []
        self.not_entered: list[tuple[bytes, str]] = []
        self.ignore_problems: list[IgnoreProblem] = []
        self.socket_count = 0
        self.directories_reused = 0

    def note(self, path: bytes, text: str) -> None:
        """Report something about a path."""
        self._report(Note(severity="note", path=path, text=text))

    def add_ignore_problem(self, problem: IgnoreProblem) -> None:
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
        """Report how far the scan is."""
        self._progress_count = self.entry_count
        self._progress_bytes = self.bytes_read
        before = self._expected_count
        self._report(
            Progress(
                phase="scan",
                done_count=self.entry_count,
                total_count=max(before, self.entry_count) if before else 0,
                done_bytes=self.bytes_read,
                share=0.0 if before else self._share_done(),
                where=self.where,
            )
        )

    def where(self) -> bytes:
        """Return the path that is being looked at."""
        return os.path.join(self.root, self.file or self.directory)

    def progress_if_due(self) -> None:
        """Report how far the scan is, when enough came since the last time."""
        if (
            self.entry_count - self._progress_count >= PROGRESS_FILES
            or self.bytes_read - self._progress_bytes >= PROGRESS_BYTES
        ):
            self.progress()

    def show_reading(self, bytes_read: int) -> None:
        """Show that a large file is being read, which counts once it is done."""
        if bytes_read - self._progress_bytes >= PROGRESS_BYTES:
            counted, self.bytes_read = self.bytes_read, bytes_read
            self.progress()
            self.bytes_read = counted
