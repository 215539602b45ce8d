"""The `directory` target: removable disks with a label, each dump whole on one or in slices over several.

docs/formats/media.md says what is on a disk. What goes where is decided by `plan_parts`, then done file by file.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from blake3 import blake3

from dalsegno.archive.copy_writer import CopyWriter, Shipment, find_copy, remove_copy
from dalsegno.archive.labels import BadLabel, require_same
from dalsegno.archive.media_set import MediaSet, free_bytes
from dalsegno.archive.parts import Pace, SlicedFile, file_digest, is_slice, iterate_slice, no_pace, read_part_header
from dalsegno.archive.scan import read_dump_or_slice, scan_media
from dalsegno.archive.targets import Ask, Found, Incomplete
from dalsegno.backup.policy import DirectoryPolicy
from dalsegno.backup.records import BAD, GOOD, MISSING, Copy, DumpEntry, Medium
from dalsegno.pool.pack_read import PackFile
from dalsegno.terms.errors import Damaged, Full, NotFound, Refused, Unavailable
from dalsegno.terms.events import Progress, Report, silent
from dalsegno.world.files import READ_BYTES, ResumedFile, iterate_bytes, make_directory


class DirectoryTarget:
    """Labelled disks at the places that the policy names. A Target (targets.py)."""

    kind = "directory"

    def __init__(
        self,
        policy: DirectoryPolicy,
        *,
        ask: Ask | None = None,
        pace: Pace = no_pace,
        lost: Collection[str] = (),
        free_bytes: Callable[[Path], int] = free_bytes,
    ) -> None:
        self.name = policy.name
        self._policy = policy
        self._media = MediaSet(policy, ask=ask, lost=lost)
        self._pace = pace
        self._free_bytes = free_bytes

    def present(self) -> list[Medium]:
        """Return the media that are here now."""
        return self._media.present()

    def bad_labels(self) -> list[BadLabel]:
        """Return the places whose label cannot be read."""
        return self._media.bad_labels()

    def store(self, source: Path, entry: DumpEntry, *, now_ns: int, report: Report = silent) -> list[Copy]:
        """Copy a dump to as many different media as the policy says; docs in targets.Target."""
        shipment = Shipment(source=source, entry=entry, now_ns=now_ns, report=report)
        done: list[Copy] = []
        for number in range(1, self._policy.copies + 1):
            taken = {copy.medium for copy in done}
            try:
                found = find_copy(self._media, shipment, number, taken=taken)
                done += found or self._writer(shipment, number, taken).write()
            except (Full, Unavailable, Refused) as error:
                if not done:
                    raise
                message = f"{number - 1} of {self._policy.copies} copies made; {error}"
                raise Incomplete(message, done) from None
        return done

    def _writer(self, shipment: Shipment, number: int, taken: set[str]) -> CopyWriter:
        return CopyWriter(
            media=self._media,
            policy=self._policy,
            shipment=shipment,
            number=number,
            taken=taken,
            pace=self._pace,
            free_bytes=self._free_bytes,
        )

    # Fetch

    def fetch(self, copies: Sequence[Copy], entry: DumpEntry, to: Path, *, report: Report = silent) -> None:
        """Put a dump under `to`; docs in targets.Target. Unavailable: a medium is away. Damaged: take another copy."""
        parts = sorted(copies, key=lambda copy: copy.part)
        make_directory(to.parent)
        with ResumedFile(to) as file:
            if file.offset > entry.size_bytes:
                file.truncate(0)
            resumed = file.offset > 0
            hasher = blake3()
            for start in range(0, file.offset, READ_BYTES):
                hasher.update(file.read_at(start, min(READ_BYTES, file.offset - start)))
            self._fetch_rest(parts, entry, file, hasher, report=report)
            if hasher.digest() != entry.digest and resumed:
                # What an earlier run left was torn: once more, from the beginning.
                file.truncate(0)
                hasher = blake3()
                self._fetch_rest(parts, entry, file, hasher, report=report)
            if hasher.digest() != entry.digest:
                file.truncate(0)
                where = ", ".join(f"{copy.medium}:{copy.place}" for copy in parts)
                raise Damaged(f"{where}: not what was written: its digest is another; take another copy")
            file.commit()

    def _fetch_rest(
        self, parts: Sequence[Copy], entry: DumpEntry, file: ResumedFile, hasher: blake3, *, report: Report
    ) -> None:
        start = 0
        for copy in parts:
            end = start + copy.size_bytes
            if end > file.offset:
                mounted = self._media.require(copy.medium)
                path = copy.path_on(mounted.path)
                skip = file.offset - start
                if copy.needed == 1 and not is_slice(copy):
                    chunks = iterate_bytes(path, offset=skip)
                else:
                    chunks = iterate_slice(path, report=silent, phase="fetch", skip=skip)
                try:
                    for chunk in chunks:
                        hasher.update(chunk)
                        file.write(chunk)
                        self._pace(len(chunk))
                        report(Progress(phase="fetch", done_bytes=file.offset, total_bytes=entry.size_bytes))
                except NotFound:
                    raise Damaged(f"{copy.medium}: {copy.place} is not there any more: take another copy") from None
                require_same(mounted)
            start = end

    def open_read(self, copies: Sequence[Copy], entry: DumpEntry) -> Path | PackFile | None:
        """Return the file of a whole copy, or its slices as one, when all of it is here."""
        here = self._media.here()
        if any(copy.medium not in here for copy in copies):
            return None
        paths = [copy.path_on(here[copy.medium].path) for copy in sorted(copies, key=lambda each: each.part)]
        if not all(path.is_file() for path in paths):
            return None
        if not is_slice(copies[0]):
            return paths[0]
        try:
            return SlicedFile(paths, entry)
        except Damaged:
            return None  # fetching tells what is wrong, and finds another copy

    # Keep

    def check(self, copy: Copy, entry: DumpEntry, *, report: Report = silent) -> str:
        """Read one copy back and return its verdict."""
        mounted = self._media.require(copy.medium)
        path = copy.path_on(mounted.path)
        try:
            if is_slice(copy):
                if read_part_header(path)[0].dump_id != entry.dump_id:
                    return BAD
                for _ in iterate_slice(path, report=report, phase="check"):
                    pass
                verdict = GOOD
            else:
                verdict = GOOD if file_digest(path, phase="check", report=report) == entry.digest else BAD
        except NotFound:
            verdict = MISSING
        except (Damaged, Unavailable):
            verdict = BAD
        require_same(mounted)
        return verdict

    def repair(self, copies: Sequence[Copy], entry: DumpEntry, *, now_ns: int, report: Report = silent) -> list[Copy]:
        """Disks have nothing to rebuild from: another copy of the dump is archived anew instead."""
        return []

    def remove(self, copy: Copy) -> None:
        """Remove a copy's file and its note."""
        remove_copy(self._media.require(copy.medium), copy)

    def scan(self, *, report: Report = silent, media: Collection[str] | None = None) -> Iterator[Found]:
        """Yield what is on the media that are here; a file that cannot be understood is noted and left out."""
        return scan_media(self._media, read_dump_or_slice, report=report, labels=media)
