"""Archive targets: where finished dumps are copied to. The contract, and from policy to target."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dalsegno.archive.labels import BadLabel
from dalsegno.backup.records import Copy, DumpEntry, Medium
from dalsegno.formats.media import PartHeader
from dalsegno.pool.pack_read import PackFile
from dalsegno.terms.errors import Unavailable
from dalsegno.terms.events import Report

Ask = Callable[[str], bool]
"""Ask a person for a medium; True when they say that it is there now."""


class Incomplete(Unavailable):
    """A target took some of the copies that it should hold; `copies` are durable and are to be recorded."""

    code = "incomplete"

    def __init__(self, message: str, copies: Sequence[Copy]) -> None:
        super().__init__(message)
        self.copies = list(copies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file on a medium that carries a dump or a part of one."""

    copy: Copy
    header: PartHeader
    path: Path | None
    """Where it can be read; None when a command has to fetch it."""


class Target(Protocol):
    """One archive target of the policy. Errors name the medium and what to do."""

    name: str
    kind: str

    def store(self, source: Path, entry: DumpEntry, *, now_ns: int, report: Report) -> list[Copy]:
        """Copy a dump to the target's media and return where it is now.

        Every copy is durable, was read back from its medium, and had the digest of `entry`. What an earlier, killed
        run left whole is found, checked and returned, not written again; what it left half is removed.
        Full: no medium has room. Refused: another medium is in the place of one of this target. Unavailable: none is
        there. Incomplete: fewer copies than the policy wants; those that were made are in the error.
        """

    def fetch(self, copies: Sequence[Copy], entry: DumpEntry, to: Path, *, report: Report) -> None:
        """Put a dump under `to`, whole and durable, with the digest of `entry`.

        `copies` are the usable parts of one copy. What an earlier, interrupted call left under `<to>.partial` is gone
        on with. Unavailable names the media to insert; Damaged says that this copy is not what was written.
        """

    def open_read(self, copies: Sequence[Copy], entry: DumpEntry) -> Path | PackFile | None:
        """Return where the dump can be read in place, any byte of it, or None when it must be fetched first.

        What is read this way is checked block by block, as in every dump; an open PackFile is the caller's to close.
        """

    def check(self, copy: Copy, entry: DumpEntry, *, report: Report) -> str:
        """Read one copy and return its verdict: good, bad or missing. Unavailable when its medium is away."""

    def repair(self, copies: Sequence[Copy], entry: DumpEntry, *, now_ns: int, report: Report) -> list[Copy]:
        """Make again the parts that are bad or missing, from those that are whole; return the new ones."""

    def remove(self, copy: Copy) -> None:
        """Remove a copy's file durably; one that is gone already is fine. Unavailable when its medium is away."""

    def present(self) -> list[Medium]:
        """Return the media of this target that can be reached now."""

    def bad_labels(self) -> list[BadLabel]:
        """Return the places of this target whose label is there and cannot be read: all else goes on without them."""

    def scan(self, *, report: Report, media: Collection[str] | None = None) -> Iterator[Found]:
        """Yield every file of a dump on the media that are present, as their own headers tell: for a rebuild.

        Unavailable when these are not `media`, the labels that `present` told: one that cannot be read is not empty.
        """
