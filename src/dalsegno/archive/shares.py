"""The `shares` target: every dump as n shares in n labelled directories, any k of which restore it.

Erasure coding by zfec, stripe by stripe; every chunk carries a tag, so that any k whole chunks of a stripe are enough,
wherever the others are damaged. docs/formats/media.md, "Shares".
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from blake3 import blake3
from msgspec.structs import replace

from dalsegno.archive.labels import BadLabel, Mounted, require_same, wrong_medium
from dalsegno.archive.media_set import MediaSet, dumps_directory
from dalsegno.archive.parts import SHARE_MARK, Pace, copy_of, media_name, new_part_header, no_pace, read_head
from dalsegno.archive.scan import read_share, scan_media
from dalsegno.archive.share_files import SharedFile, ShareReader, ShareWriter, decode_stripe, read_stripes
from dalsegno.archive.targets import Found, Incomplete
from dalsegno.backup.policy import SharesPolicy
from dalsegno.backup.records import BAD, GOOD, MISSING, Copy, DumpEntry, Medium
from dalsegno.formats.media import PART_SHARE, SHARE_CHUNK_BYTES, PartHeader, stripe_count
from dalsegno.pool.pack_read import PackFile
from dalsegno.terms.errors import DalError, Damaged, NotFound, Unavailable
from dalsegno.terms.events import Progress, Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.world.files import (
    PARTIAL_SUFFIX,
    READ_BYTES,
    ResumedFile,
    fsync_directory,
    make_directory,
    remove_durable,
)


class SharesTarget:
    """n labelled directories. A Target (targets.py)."""

    kind = "shares"

    def __init__(self, policy: SharesPolicy, *, pace: Pace = no_pace, lost: Collection[str] = ()) -> None:
        assert 1 <= policy.k <= policy.n
        self.name = policy.name
        self._policy = policy
        self._media = MediaSet(policy, lost=lost)
        self._pace = pace

    def _reachable(self) -> list[Mounted]:
        """Return the directories that are here. Refused: too few are, and another medium is in the place of one."""
        looked = self._media.look()
        if len(looked.ours) < self._policy.k:
            looked.require_readable()
            if looked.strangers:
                raise wrong_medium(looked.strangers, wanted=f"a directory of shares of target {self.name!r}")
        return list(looked.ours)

    def _at(self, label: str) -> Mounted:
        looked = self._media.look()
        for mounted in looked.ours:
            if mounted.label.label == label:
                return mounted
        looked.require_readable()
        raise Unavailable(f"directory {label!r} of target {self.name} is not here: put it back, then run again")

    def present(self) -> list[Medium]:
        """Return the directories that are here now."""
        return self._media.present()

    def bad_labels(self) -> list[BadLabel]:
        """Return the directories whose label cannot be read."""
        return self._media.bad_labels()

    # Store

    def store(self, source: Path, entry: DumpEntry, *, now_ns: int, report: Report = silent) -> list[Copy]:
        """Write a share into every directory that is here, at least k; docs in targets.Target."""
        policy = self._policy
        by_path = {mounted.path: mounted for mounted in self._reachable()}
        places = {number: by_path[path] for number, path in enumerate(policy.paths) if path in by_path}
        self._require_enough(len(places), "hold a share")
        name = media_name(source.name, entry.dump_id)
        chunk = max(1, min(SHARE_CHUNK_BYTES, -(-entry.size_bytes // policy.k)))
        header = new_part_header(entry, kind=PART_SHARE, name=name, head=read_head(source), now_ns=now_ns)
        header = replace(header, needed=policy.k, parts=policy.n, length=chunk)
        known = self._find_shares(places, entry, now_ns=now_ns, report=report)
        missing = {number: mounted for number, mounted in places.items() if number not in known}
        writer = self._writer(header, missing, needed=policy.k - len(known), report=report)
        made = self._write(writer, read_stripes(source, entry, k=policy.k, chunk=chunk))
        copies = {**known, **made}
        self._require_enough(len(copies), "took a share")
        if len(copies) < policy.n:
            text = (
                f"{len(copies)} of {policy.n} shares are stored: the next run makes the others when there is room, "
                f"or `dal archive repair {self.name}`"
            )
            raise Incomplete(text, [copies[number] for number in sorted(copies)])
        return [copies[number] for number in sorted(copies)]

    def _require_enough(self, count: int, what: str) -> None:
        k, n = self._policy.k, self._policy.n
        if count < k:
            raise Unavailable(
                f"target {self.name}: {count} of {n} directories {what}, at least {k} must: "
                "mount them and run again (a new one is labelled with `dal media label`)"
            )

    def _find_shares(
        self, places: Mapping[int, Mounted], entry: DumpEntry, *, now_ns: int, report: Report
    ) -> dict[int, Copy]:
        """Return the shares that a killed run left whole, durable now; what it left half is removed."""
        found = {}
        for number, mounted in places.items():
            directory = dumps_directory(mounted.path)
            for path in sorted(directory.glob(f"*{hex_short(entry.dump_id)}{SHARE_MARK}*")):
                if not path.name.endswith(PARTIAL_SUFFIX):
                    with contextlib.suppress(Damaged), ShareReader(path) as reader:
                        header = reader.header
                        shape = (number, self._policy.k, self._policy.n)
                        fits = (header.part, header.needed, header.parts) == shape
                        fits = fits and header.dump_digest == entry.digest
                        if fits and reader.verify(report=report, phase="check") is None:
                            fsync_directory(directory)
                            found[number] = self._copy(header, mounted, path, now_ns=now_ns)
                            continue
                remove_durable(path)
        return found

    def _copy(self, header: PartHeader, mounted: Mounted, path: Path, *, now_ns: int) -> Copy:
        return copy_of(
            header,
            target=self.name,
            medium=mounted.label.label,
            place=str(path.relative_to(mounted.path)),
            verdict=GOOD,
            checked_at_ns=now_ns,
        )

    def _writer(self, header: PartHeader, places: Mapping[int, Mounted], *, needed: int, report: Report) -> ShareWriter:
        headers = {number: replace(header, part=number) for number in places}
        return ShareWriter(headers=headers, places=places, needed=needed, pace=self._pace, report=report)

    def _write(self, writer: ShareWriter, stripes: Iterator[tuple[bytes, ...]]) -> dict[int, Copy]:
        made = {}
        for number, path in writer.write(stripes).items():
            header, mounted = writer.headers[number], writer.places[number]
            made[number] = self._copy(header, mounted, path, now_ns=header.written_at_ns)
        return made

    # Fetch

    @contextlib.contextmanager
    def _readers(self, copies: Sequence[Copy], entry: DumpEntry) -> Iterator[list[ShareReader]]:
        """Open the shares that can be reached, primary ones first. Unavailable when they are fewer than k."""
        mounted = {each.label.label: each for each in self._reachable()}
        readers: list[ShareReader] = []
        with ExitStack() as stack:
            for copy in sorted(copies, key=lambda each: each.part):
                if copy.medium in mounted:
                    with contextlib.suppress(NotFound, Damaged):
                        reader = ShareReader(copy.path_on(mounted[copy.medium].path))
                        stack.callback(reader.close)
                        same = (readers[0].header if readers else reader.header).length == reader.header.length
                        if reader.header.dump_digest == entry.digest and same:
                            readers.append(reader)
            needed = copies[0].needed
            if len(readers) < needed:
                away = sorted({copy.medium for copy in copies} - mounted.keys())
                raise Unavailable(
                    f"target {self.name}: {len(readers)} of {needed} needed shares can be read"
                    + (f"; not here: {', '.join(away)}" if away else "; the others are damaged or gone")
                )
            yield readers

    def fetch(self, copies: Sequence[Copy], entry: DumpEntry, to: Path, *, report: Report = silent) -> None:
        """Put a dump under `to` from any k shares; docs in targets.Target. Unavailable: too few are here. Damaged."""
        make_directory(to.parent)
        with self._readers(copies, entry) as readers, ResumedFile(to) as file:
            header = readers[0].header
            stripe_bytes = header.needed * header.length
            resumed = 0 < file.offset <= entry.size_bytes
            file.truncate(file.offset // stripe_bytes * stripe_bytes if resumed else 0)
            for attempt in (1, 2):
                hasher = blake3()
                for start in range(0, file.offset, READ_BYTES):
                    hasher.update(file.read_at(start, min(READ_BYTES, file.offset - start)))
                for stripe in range(file.offset // stripe_bytes, stripe_count(header)):
                    data = b"".join(decode_stripe(readers, stripe))[: entry.size_bytes - file.offset]
                    hasher.update(data)
                    file.write(data)
                    self._pace(len(data))
                    report(Progress(phase="fetch", done_bytes=file.offset, total_bytes=entry.size_bytes))
                if hasher.digest() == entry.digest:
                    break
                file.truncate(0)
                if attempt == 2 or not resumed:
                    raise Damaged(f"target {self.name}: its shares give another dump: try another copy")
            file.commit()

    def open_read(self, copies: Sequence[Copy], entry: DumpEntry) -> PackFile | None:
        """Return the shares as one file, when enough of them are here."""
        with ExitStack() as stack:
            try:
                readers = stack.enter_context(self._readers(copies, entry))
            except Unavailable:
                return None
            return SharedFile(readers, entry, stack.pop_all())

    # Keep

    def check(self, copy: Copy, entry: DumpEntry, *, report: Report = silent) -> str:
        """Read one share and return its verdict."""
        mounted = self._at(copy.medium)
        try:
            with ShareReader(copy.path_on(mounted.path)) as reader:
                same = (reader.header.dump_id, reader.header.part) == (entry.dump_id, copy.part)
                whole = same and reader.verify(report=report, phase="check") is None
        except NotFound:
            return MISSING
        except DalError:
            return BAD
        require_same(mounted)
        return GOOD if whole else BAD

    def repair(self, copies: Sequence[Copy], entry: DumpEntry, *, now_ns: int, report: Report = silent) -> list[Copy]:
        """Make the shares that are damaged or gone again, from k whole ones, in every directory that is here.

        Unavailable: too few are here. Damaged: the dump was stored as another number of shares.
        """
        by_path = {mounted.path: mounted for mounted in self._reachable()}
        places = {number: by_path[path] for number, path in enumerate(self._policy.paths) if path in by_path}
        labels = {mounted.label.label for mounted in places.values()}
        whole = {
            copy.part for copy in copies if copy.medium in labels and self.check(copy, entry, report=report) == GOOD
        }
        # A directory that holds a share already gets no other: losing it must cost one share.
        taken = {copy.medium for copy in copies if copy.part in whole}
        vacant = [mounted for _, mounted in sorted(places.items()) if mounted.label.label not in taken]
        lost = [number for number in range(self._policy.n) if number not in whole]
        with self._readers(copies, entry) as readers:
            first = readers[0].header
            if (first.needed, first.parts) != (self._policy.k, self._policy.n):
                raise Damaged(
                    f"target {self.name}: dump {hex_short(entry.dump_id)} has {first.needed}/{first.parts} shares, "
                    f"the policy says {self._policy.k}/{self._policy.n}: archive it anew instead"
                )
            chosen: dict[int, Mounted] = {}
            for number in lost:
                own = places.get(number)
                if own in vacant:
                    chosen[number] = own
                    vacant.remove(own)
            for number, mounted in zip([each for each in lost if each not in chosen], vacant, strict=False):
                chosen[number] = mounted
            header = new_part_header(entry, kind=PART_SHARE, name=first.name, head=first.head, now_ns=now_ns)
            header = replace(header, needed=first.needed, parts=first.parts, length=first.length)
            stripes = (tuple(decode_stripe(readers, stripe)) for stripe in range(stripe_count(first)))
            made = self._write(self._writer(header, chosen, needed=0, report=report), stripes)
        return [made[number] for number in sorted(made)]

    def remove(self, copy: Copy) -> None:
        """Remove a share."""
        root = self._at(copy.medium).path
        dumps_directory(root)
        remove_durable(copy.path_on(root))

    def scan(self, *, report: Report = silent, media: Collection[str] | None = None) -> Iterator[Found]:
        """Yield the shares in the directories that are here."""
        return scan_media(self._media, read_share, report=report, labels=media)
