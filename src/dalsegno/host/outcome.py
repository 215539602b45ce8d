"""What a restore has done so far: counts, what failed or was lost, the reports of it, and the bounds of a sane tree."""

import os
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Final

from dalsegno.formats.objects import Entry, Revision
from dalsegno.host.changes import CHANGE, CREATE, Tell, change_of
from dalsegno.host.losses import GROUP, OWNER, SET_ID, Loss, Losses
from dalsegno.host.protection import Protected
from dalsegno.host.setting import why
from dalsegno.terms.errors import Damaged, NotFound
from dalsegno.terms.events import Note, Progress, Report
from dalsegno.terms.sizes import MIB
from dalsegno.trees.limit import bytes_max, entries_max, too_large, too_many

PROGRESS_FILES: Final = 256
PROGRESS_BYTES: Final = 16 * MIB


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


class Outcome:
    """The result of one restore as it grows, and who hears of it."""

    def __init__(self, revision: Revision, *, report: Report, tell: Tell | None) -> None:
        self.result = RestoreResult()
        self.tell = tell
        self._revision = revision
        self._report = report
        self._entries_max = entries_max(revision)
        self._bytes_max = bytes_max(revision)
        self._done_count = 0
        self._progress_count = 0
        self._progress_bytes = 0

    def fail(self, path: bytes, text: str, *, is_damaged: bool = False) -> None:
        """Note what is missing or not as it should be."""
        self.result.failed.append((path or b".", text))
        self.result.damaged_count += is_damaged

    def fail_with(self, path: bytes, error: Exception) -> None:
        """Note what an error kept from being restored."""
        self.fail(path, why(error), is_damaged=isinstance(error, Damaged | NotFound))

    def note(self, path: bytes, text: str, *, severity: str = "note") -> None:
        """Report something about a path."""
        self._report(Note(severity=severity, path=path or b".", text=text))

    def lose(self, path: bytes, attribute: str, text: str) -> None:
        """Say that a restored file lacks something."""
        is_expected = attribute in (OWNER, GROUP, SET_ID) and os.geteuid() != 0
        self.result.lost.add(Loss(path=path or b".", attribute=attribute, text=text), is_expected=is_expected)
        self.note(path, f"{attribute} not restored: {text}")

    def leave(self, path: bytes, text: str) -> None:
        """Note what is left as it is on purpose."""
        self.result.left.append((path, text))

    def count(self, stat: os.stat_result | None, entry: Entry, path: bytes, what: Set[str]) -> None:
        """Count and tell of an entry that was made, or (`stat` is what was there) changed."""
        if stat is None:
            self.result.created += 1
        else:
            self.result.updated += 1
        if self.tell is not None:
            self.tell(change_of(CREATE if stat is None else CHANGE, path, entry, tuple(sorted(what)) if stat else ()))

    def progress(self) -> None:
        """Report how far the restore is."""
        self._progress_count = self._done_count
        self._progress_bytes = self.result.bytes_written
        self._report(
            Progress(
                phase="restore",
                done_count=self._done_count,
                total_count=self._revision.entry_count,
                done_bytes=self.result.bytes_written,
                total_bytes=self._revision.total_bytes,
            )
        )

    def finish_entry(self) -> None:
        """Count an entry that was dealt with, and report now and then."""
        self._done_count += 1
        if self._done_count - self._progress_count >= PROGRESS_FILES:
            self.progress()

    def check_bounds(self) -> None:
        """Raise Damaged when far more was met than the revision says there is."""
        if self._done_count >= self._entries_max:
            raise too_many(self._revision)
        if self.result.bytes_written > self._bytes_max:
            raise too_large(self._revision)

    def allow(self, size_bytes: int) -> None:
        """Let so many bytes more be written: a place without hard links holds a file once for each name."""
        self._bytes_max += size_bytes

    def add_written(self, size_bytes: int) -> None:
        """Count bytes of a large file, and report now and then. Damaged when there are far too many."""
        self.result.bytes_written += size_bytes
        if self.result.bytes_written > self._bytes_max:
            raise too_large(self._revision)
        if self.result.bytes_written - self._progress_bytes >= PROGRESS_BYTES:
            self.progress()
