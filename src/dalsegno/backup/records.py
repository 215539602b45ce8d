"""What the catalog remembers, as values: dumps, copies, media, runs, jobs, drills (docs/formats/catalog.md)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dalsegno.terms.errors import Refused
from dalsegno.terms.names import file_name

DUMPS_DIRECTORY: Final = "dumps"
"""The directory of a medium in which dumps, slices and shares are."""
DUMP_SUFFIX: Final = ".dump"

SPOOL_TARGET: Final = "spool"
"""A copy of this target is the dump file in the spool; its place is an absolute path."""

GOOD: Final = "good"
"""Read back after it was written, or checked since: the digest was right."""
BAD: Final = "bad"
"""Checked, and the bytes are not those that were written."""
MISSING: Final = "missing"
"""Looked for on its medium, and not there."""
UNKNOWN: Final = ""
"""Not looked at yet."""

MEDIUM_ACTIVE: Final = "active"
MEDIUM_FULL: Final = "full"
MEDIUM_LOST: Final = "lost"
"""Said by a person: nothing on it counts any more."""

JOB_OPEN: Final = "open"
JOB_DONE: Final = "done"
JOB_FAILED: Final = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A clone that a dump carries besides its newest one."""

    revision: bytes
    clone_name: str
    cloned_at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpEntry:
    """A finished dump. What its header says can be read from the file again; the rest is on its media too."""

    dump_id: bytes
    volume_id: bytes
    volume_name: str
    level: int
    revision: bytes
    """The state that the dump brings a volume to."""
    base_dump: bytes = b""
    """Empty for a full dump."""
    base_revisions: tuple[bytes, ...] = ()
    clone_name: str = ""
    cloned_at_ns: int
    """When `revision` was frozen: what `home@2026-10-03` is compared with."""
    taken_at_ns: int
    """When the dump was written, by the clock of its host."""
    received_at_ns: int
    """When this catalog learned of it, by the clock here: what retention counts by."""
    size_bytes: int
    digest: bytes
    """BLAKE3-256 of the whole file."""
    raw_bytes: int = 0
    """Bytes of files in the state that it brings."""
    entry_count: int = 0
    host: str = ""
    set_name: str = ""
    verdict: str = UNKNOWN
    verified_at_ns: int = 0

    @property
    def is_full(self) -> bool:
        """True when it needs no other dump."""
        return not self.base_revisions

    @property
    def made_ns(self) -> int:
        """When it was made, as far as clocks can be believed: a dump on a base from the future is dated behind that."""
        return min(self.taken_at_ns, self.received_at_ns) if self.received_at_ns else self.taken_at_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One file on one medium: a whole dump, one slice of it, or one share of it."""

    dump_id: bytes
    target: str
    number: int = 1
    """Which of the target's copies, from 1: parts of one number belong together."""
    part: int = 0
    """Which slice or share, from 0."""
    parts: int = 1
    """How many there are of this copy."""
    needed: int = 1
    """How many of them restore the dump: all slices, or k shares."""
    medium: str
    """The label."""
    place: str
    """Path within the medium, or the name that a command gave it."""
    size_bytes: int
    written_at_ns: int
    checked_at_ns: int
    verdict: str = GOOD

    @property
    def key(self) -> tuple[bytes, str, int, int]:
        """What tells it from all others in the catalog: dump, target, number and part."""
        return self.dump_id, self.target, self.number, self.part

    @property
    def is_usable(self) -> bool:
        """True unless it was found missing or bad."""
        return self.verdict in (GOOD, UNKNOWN)

    def path_on(self, root: Path) -> Path:
        """Return where it is on the medium that is mounted at `root`; Refused when that would be anywhere else."""
        directory, slash, name = self.place.rpartition("/")
        if directory != DUMPS_DIRECTORY or not slash:
            raise Refused(f"medium {self.medium!r}: {self.place[:80]!r} is no place of a dump: it is not used")
        return root / directory / file_name(name, of=f"medium {self.medium!r}")

    def path_in_spool(self) -> Path:
        """Return where it is in the spool, or in one that was; Refused for a path that is no dump's."""
        path = Path(self.place)
        name = file_name(path.name, of="spool")
        if not path.is_absolute() or ".." in path.parts or "\0" in self.place or not name.endswith(DUMP_SUFFIX):
            raise Refused(f"spool: {self.place[:80]!r} is no place of a dump: it is not used")
        return path


def group_copies(copies: Iterable[Copy]) -> dict[tuple[str, int], list[Copy]]:
    """Return the parts of each copy, by target and number, in order."""
    groups: dict[tuple[str, int], list[Copy]] = {}
    for copy in sorted(copies, key=lambda each: (each.target, each.number, each.part)):
        groups.setdefault((copy.target, copy.number), []).append(copy)
    return groups


def usable_copies(copies: Iterable[Copy]) -> list[list[Copy]]:
    """Return the copies of one dump from which it can be restored, each with its usable parts."""
    groups = [[copy for copy in parts if copy.is_usable] for parts in group_copies(copies).values()]
    return [parts for parts in groups if parts and len(parts) >= parts[0].needed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """A labelled place for copies: a disk, a directory of shares, whatever a command writes to."""

    label: str
    target: str
    kind: str
    id: bytes = b""
    """From the label file: two disks with one label are told apart by it."""
    capacity_bytes: int = 0
    used_bytes: int = 0
    first_used_ns: int = 0
    last_seen_ns: int = 0
    state: str = MEDIUM_ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the cycle; `ended_ns` is 0 while it goes on, or when it was killed."""

    id: int
    started_ns: int
    ended_ns: int = 0
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One volume's turn in one run: the journal. A job is known by run, set and volume name."""

    run_id: int
    set_name: str
    volume_name: str
    volume_id: bytes = b""
    step: str
    """The last step that is done."""
    data: dict[str, Any] = field(default_factory=dict)
    """What the next step needs, as JSON."""
    updated_ns: int
    state: str = JOB_OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """One trial restore from media and how it ended."""

    volume_id: bytes
    volume_name: str
    set_name: str = ""
    dump_id: bytes
    kind: str
    """`sample` (some files) or `whole` (the volume, into a scratch directory)."""
    started_ns: int
    ended_ns: int
    file_count: int
    total_bytes: int
    verdict: str
    findings: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
