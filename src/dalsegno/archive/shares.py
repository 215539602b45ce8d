"""The `shares` target: every dump as n shares in n labelled directories, any k of which restore it.

Erasure coding by zfec, stripe by stripe; every chunk carries a tag, so that any k whole chunks of a stripe are enough,
wherever the others are damaged. docs/formats/media.md, "Shares".
"""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import zfec
from blake3 import blake3

from dalsegno.archive.directory import dumps_directory
from dalsegno.archive.labels import (
    BadLabel,
    Looked,
    Mounted,
    look,
    require_all,
    require_same,
    settle_label,
    wrong_medium,
)
from dalsegno.archive.parts import (
    Pace,
    copy_of,
    media_name,
    new_part_header,
    no_pace,
    read_head,
    read_part_header,
)
from dalsegno.archive.targets import Found, Incomplete
from dalsegno.backup.policy import SharesPolicy
from dalsegno.backup.records import BAD, DUMP_SUFFIX, GOOD, MISSING, UNKNOWN, Copy, DumpEntry, Medium
from dalsegno.formats.media import (
    HEADER_DIGEST_BYTES,
    PART_SHARE,
    SHARE_CHUNK_BYTES,
    TAG_BYTES,
    PartHeader,
    chunk_tag,
    encode_part_header,
    stripe_count,
)
from dalsegno.pool.pack_read import PackFile
from dalsegno.terms.errors import DalError, Damaged, Full, NotFound, Refused, Unavailable
from dalsegno.terms.events import Note, Progress, Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.terms.names import file_name
from dalsegno.world.files import (
    PARTIAL_SUFFIX,
    PRIVATE_FILE,
    READ_BYTES,
    PartialFile,
    ResumedFile,
    file_errors,
    fsync_directory,
    iterate_bytes,
    make_directory,
    remove_durable,
)

SHARE_MARK: Final = f"{DUMP_SUFFIX}.share"


class ShareReader:
    """The chunks of one share, each checked by its tag; a chunk that is not whole is None."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header, encoded = read_part_header(path)
        if self.header.kind != PART_SHARE:
            raise Damaged(f"{path}: is not a share")
        self._start = len(encoded)
        self._digest = encoded[-HEADER_DIGEST_BYTES:]
        with file_errors(path):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def chunk(self, stripe: int) -> bytes | None:
        """Return the chunk of a stripe."""
        length = self.header.length
        try:
            data = os.pread(self._descriptor, length + TAG_BYTES, self._start + stripe * (length + TAG_BYTES))
        except OSError:
            return None  # a failing disk: other shares have what is wanted
        whole = len(data) == length + TAG_BYTES and chunk_tag(self._digest, stripe, data[:length]) == data[length:]
        return data[:length] if whole else None

    def verify(self, *, report: Report, phase: str) -> int | None:
        """Read every chunk; return the first stripe whose chunk is damaged, or None when the share is whole."""
        count = stripe_count(self.header)
        for stripe in range(count):
            if self.chunk(stripe) is None:
                return stripe
            done = stripe * self.header.length
            report(Progress(phase=phase, done_bytes=done, total_bytes=count * self.header.length))
        return None

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def __enter__(self) -> "ShareReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def decode_stripe(readers: Sequence[ShareReader], stripe: int) -> list[bytes]:
    """Return the k primary chunks of a stripe, from any k shares whose chunk is whole."""
    k, n = readers[0].header.needed, readers[0].header.parts
    chunks: dict[int, bytes] = {}
    for reader in readers:
        chunk = reader.chunk(stripe)
        if chunk is not None:
            chunks[reader.header.part] = chunk
            if len(chunks) == k:
                break
    if len(chunks) < k:
        names = ", ".join(str(reader.path) for reader in readers)
        raise Damaged(f"{names}: stripe {stripe}: {len(chunks)} whole chunks, {k} are needed: take another copy")
    if set(chunks) == set(range(k)):
        return [chunks[number] for number in range(k)]
    return list(zfec.Decoder(k, n).decode(tuple(chunks.values()), tuple(chunks)))


class SharedFile:
    """A dump in shares, read where they are, stripe by stripe. A PackFile."""

    def __init__(self, readers: Sequence[ShareReader], entry: DumpEntry, stack: ExitStack) -> None:
        self.path = readers[0].path
        self.size_bytes = entry.size_bytes
        self._readers = readers
        self._stack = stack
        self._stripe_bytes = readers[0].header.needed * readers[0].header.length
        self._last: tuple[int, bytes] = (-1, b"")

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes of the dump from `offset` on; Damaged when a stripe has too few whole chunks."""
        end = min(offset + length, self.size_bytes)
        parts = []
        while offset < end:
            stripe, within = divmod(offset, self._stripe_bytes)
            if self._last[0] != stripe:
                self._last = (stripe, b"".join(decode_stripe(self._readers, stripe)))
            parts.append(self._last[1][within : within + end - offset])
            offset += len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Give the shares back."""
        self._stack.close()


class SharesTarget:
    """n labelled directories. A Target (targets.py)."""

    kind = "shares"

    def __init__(self, policy: SharesPolicy, *, pace: Pace = no_pace, lost: Collection[str] = ()) -> None:
        assert 1 <= policy.k <= policy.n
        self.name = policy.name
        self._policy = policy
        self._pace = pace
        self._lost = lost

    def _look_at_all(self) -> Looked:
        policy = self._policy
        return look(policy.paths, target=self.name, kind=self.kind, patterns=policy.labels, lost=self._lost)

    def _look(self) -> list[Mounted]:
        looked = self._look_at_all()
        if len(looked.ours) < self._policy.k:
            looked.require_readable()
            if looked.strangers:
                raise wrong_medium(looked.strangers, wanted=f"a directory of shares of target {self.name!r}")
        return list(looked.ours)

    def bad_labels(self) -> list[BadLabel]:
        """Return the directories whose label cannot be read."""
        return list(self._look_at_all().bad)

    def _at(self, label: str) -> Mounted:
        looked = self._look_at_all()
        for mounted in looked.ours:
            if mounted.label.label == label:
                return mounted
        looked.require_readable()
        raise Unavailable(f"directory {label!r} of target {self.name} is not here: put it back, then run again")

    def present(self) -> list[Medium]:
        """Return the directories that are here now."""
        found = []
        for mounted in self._look_at_all().ours:
            with file_errors(mounted.path):
                status = os.statvfs(mounted.path)
            capacity = status.f_blocks * status.f_frsize
            found.append(
                Medium(
                    label=mounted.label.label,
                    target=self.name,
                    kind=self.kind,
                    id=bytes.fromhex(mounted.label.id),
                    capacity_bytes=capacity,
                    used_bytes=capacity - status.f_bavail * status.f_frsize,
                )
            )
        return found

    # Store

    def store(self, source: Path, entry: DumpEntry, *, now_ns: int, report: Report = silent) -> list[Copy]:
        """Write a share into every directory that is here, at least k; docs in targets.Target."""
        policy = self._policy
        by_path = {mounted.path: mounted for mounted in self._look()}
        places = {number: by_path[path] for number, path in enumerate(policy.paths) if path in by_path}
        self._require_enough(len(places), "hold a share")
        name = media_name(source.name, entry.dump_id)
        head = read_head(source)
        chunk = max(1, min(SHARE_CHUNK_BYTES, -(-entry.size_bytes // policy.k)))
        headers = {
            number: new_part_header(
                entry,
                kind=PART_SHARE,
                name=name,
                head=head,
                now_ns=now_ns,
                part=number,
                needed=policy.k,
                parts=policy.n,
                length=chunk,
            )
            for number in places
        }
        known = self._find_shares(places, entry, now_ns=now_ns, report=report)
        missing = {number: headers[number] for number in places if number not in known}
        stripes = _read_stripes(source, entry, k=policy.k, chunk=chunk)
        needed = policy.k - len(known)
        made = self._write_shares(missing, places, stripes, needed=needed, now_ns=now_ns, report=report)
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

    def _write_shares(
        self,
        headers: Mapping[int, PartHeader],
        places: Mapping[int, Mounted],
        stripes: Iterator[tuple[bytes, ...]],
        *,
        needed: int,
        now_ns: int,
        report: Report,
    ) -> dict[int, Copy]:
        """Write these shares, each durable and read back. A full directory is left out while `needed` others go on."""
        if not headers:
            return {}
        encoder = zfec.Encoder(self._policy.k, self._policy.n)
        total = max(header.dump_bytes for header in headers.values())
        with ExitStack() as stack:
            files: dict[int, PartialFile] = {}
            digests: dict[int, bytes] = {}

            def drop(number: int, error: DalError) -> None:
                files.pop(number).abandon()
                if len(files) < max(1, needed):
                    raise error
                where = os.fsencode(places[number].path)
                report(Note(severity="note", path=where, text=f"{error}; its share is left out"))

            for number, header in headers.items():
                settle_label(places[number])
                directory = dumps_directory(places[number].path)
                encoded = encode_part_header(header)
                digests[number] = encoded[-HEADER_DIGEST_BYTES:]
                make_directory(directory)
                file = stack.enter_context(PartialFile(directory / share_name(header.name, number), mode=PRIVATE_FILE))
                files[number] = file
                try:
                    file.write(encoded)
                except (Full, Unavailable) as error:
                    drop(number, error)
            for stripe, chunks in enumerate(stripes):
                wanted = tuple(files)
                for number, chunk in zip(wanted, encoder.encode(chunks, wanted), strict=True):
                    try:
                        files[number].write(chunk + chunk_tag(digests[number], stripe, chunk))
                    except (Full, Unavailable) as error:
                        drop(number, error)
                done = sum(map(len, chunks))
                self._pace(done * len(files) // self._policy.k)
                report(Progress(phase="archive", done_bytes=min(total, (stripe + 1) * done), total_bytes=total))
            made = {}
            for number in list(files):
                try:
                    files[number].commit()
                except (Full, Unavailable) as error:
                    drop(number, error)
            for number, file in files.items():
                with ShareReader(file.path) as reader:
                    if reader.header != headers[number] or reader.verify(report=report, phase="read back") is not None:
                        raise Damaged(f"{file.path}: read back, and it is not what was written: the disk is failing")
                require_same(places[number])
                made[number] = self._copy(headers[number], places[number], file.path, now_ns=now_ns)
        return made

    # Fetch

    @contextlib.contextmanager
    def _readers(self, copies: Sequence[Copy], entry: DumpEntry) -> Iterator[list[ShareReader]]:
        """Open the shares that can be reached, primary ones first. Unavailable when they are fewer than k."""
        mounted = {each.label.label: each for each in self._look()}
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
        """Put a dump under `to` from any k shares; docs in targets.Target."""
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
        """Make the shares that are damaged or gone again, from k whole ones, in every directory that is here."""
        by_path = {mounted.path: mounted for mounted in self._look()}
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
            headers = {
                number: new_part_header(
                    entry,
                    kind=PART_SHARE,
                    name=first.name,
                    head=first.head,
                    now_ns=now_ns,
                    part=number,
                    needed=first.needed,
                    parts=first.parts,
                    length=first.length,
                )
                for number in chosen
            }
            stripes = (tuple(decode_stripe(readers, stripe)) for stripe in range(stripe_count(first)))
            made = self._write_shares(headers, chosen, stripes, needed=0, now_ns=now_ns, report=report)
        return [made[number] for number in sorted(made)]

    def remove(self, copy: Copy) -> None:
        """Remove a share."""
        root = self._at(copy.medium).path
        dumps_directory(root)
        remove_durable(copy.path_on(root))

    def scan(self, *, report: Report = silent, media: Collection[str] | None = None) -> Iterator[Found]:
        """Yield the shares in the directories that are here."""
        looked = self._look_at_all()
        require_all(looked, media, target=self.name)
        for mounted in looked.ours:
            yield from scan_shares(mounted.path, label=mounted.label.label, target=self.name, report=report)


def share_name(name: str, number: int) -> str:
    """Return the file name of a share: `<dump>.share000`."""
    return f"{name}{SHARE_MARK.removeprefix(DUMP_SUFFIX)}{number:03d}"


def _read_stripes(source: Path, entry: DumpEntry, *, k: int, chunk: int) -> Iterator[tuple[bytes, ...]]:
    """Yield the k primary chunks of every stripe, the last one filled up with zeros."""
    hasher = blake3()
    pending = bytearray()

    def cut(data: bytes) -> tuple[bytes, ...]:
        return tuple(data[start : start + chunk] for start in range(0, k * chunk, chunk))

    for data in iterate_bytes(source):
        hasher.update(data)
        pending += data
        while len(pending) >= k * chunk:
            yield cut(bytes(pending[: k * chunk]))
            del pending[: k * chunk]
    if hasher.digest() != entry.digest:
        raise Damaged(f"{source}: is not the dump that was verified: its digest is another")
    if pending:
        yield cut(bytes(pending).ljust(k * chunk, b"\0"))


def scan_shares(root: Path, *, label: str, target: str, report: Report) -> Iterator[Found]:
    """Yield the shares in one directory, by their headers; one that cannot be read is noted and left out."""
    try:
        directory = dumps_directory(root)
    except Refused as error:
        report(Note(severity="error", path=os.fsencode(root), text=str(error)))
        return
    with file_errors(directory):
        paths = sorted(directory.iterdir()) if directory.is_dir() else []
    for path in paths:
        if SHARE_MARK not in path.name or path.name.endswith(PARTIAL_SUFFIX):
            continue
        try:
            file_name(path.name, of=str(directory))
            header, _ = read_part_header(path)
        except DalError as error:
            report(Note(severity="error", path=os.fsencode(path), text=str(error)))
            continue
        copy = copy_of(
            header,
            target=target,
            medium=label,
            place=str(path.relative_to(root)),
            verdict=UNKNOWN,
            checked_at_ns=0,
        )
        yield Found(copy=copy, header=header, path=path)
