"""Verify dumps: every byte, every id, and that nothing is missing; salvage what is whole of a damaged one."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dalsegno.chunks.realm import Realm
from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.merge import find_wanted
from dalsegno.formats import pack, pack_block, pack_header
from dalsegno.formats.objects import KIND_REVISION, decode_revision
from dalsegno.formats.pack_block import decompress
from dalsegno.formats.pack_records import split_records
from dalsegno.pool.pack_read import open_note, read_opener
from dalsegno.pool.pack_verify import stream_blocks, verify
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.terms.errors import DalError, Damaged
from dalsegno.terms.events import Progress, Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.volumes.ancestry import find_revision
from dalsegno.volumes.signed import signature_problem
from dalsegno.world.workers import Workers


def verify_dump(path: Path, realm: Realm, *, workers: Workers | None = None, report: Report = silent) -> Iterator[str]:
    """Yield a finding for everything that is wrong with a dump file; nothing when it is whole."""
    try:
        with DumpChain.open([path], realm) as chain:
            findings = list(verify(chain.readers[0], report, workers))
            yield from findings
            if not findings:
                targets = [target.revision for target in chain.targets()]
                find_wanted(chain, targets)
                for identity in dict.fromkeys(targets):
                    revision = find_revision(chain, identity)  # an increment may rest on one that its base has
                    problem = signature_problem(revision) if revision is not None else None
                    if problem is not None:
                        yield f"{path}: revision {hex_short(identity)}: {problem}"
    except Damaged as error:
        yield str(error)


def verify_stream(stream: BinaryIO, realm: Realm, *, report: Report = silent) -> tuple[pack_header.DumpNote, int]:
    """Read a dump from a pipe to its end; Damaged names the offset. Returns its lineage and how many objects it has."""
    note = None
    count = 0
    for header, offset, _, block_type, raw in stream_blocks(stream, realm):
        note = note or open_note(header, realm)
        if block_type in (pack.BLOCK_METADATA, pack.BLOCK_DATA):
            for _, kind, encoding, identity, payload in split_records(raw, offset=offset):
                count += 1
                if encoding == pack.ENCODING_WHOLE and realm.identify(kind, payload) != identity:
                    raise Damaged(f"object {hex_short(identity)} at offset {offset}: content and id disagree")
                if kind == KIND_REVISION and encoding == pack.ENCODING_WHOLE:
                    problem = signature_problem(decode_revision(bytes(payload)))
                    if problem is not None:
                        raise Damaged(f"revision {hex_short(identity)} at offset {offset}: {problem}")
        report(Progress(phase="verify", done_bytes=offset, done_count=count))
    assert note is not None
    return note, count


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvage:
    """What could be saved of a damaged dump."""

    object_count: int
    damaged: list[str]


def salvage_dump(path: Path, realm: Realm, write: Callable[[bytes], object], *, sealed: bool) -> Salvage:
    """Write a dump of all objects that are whole in a damaged one. The header must be whole."""
    damaged: list[str] = []
    saved: set[bytes] = set()
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        opener, head = read_opener(stream.read, realm)
        note = open_note(opener.header, realm)
        header = new_header(realm, kind=pack.PACK_DUMP, sealed=sealed, note=pack_header.encode_note(note))
        writer = PackWriter(write, realm=realm, header=header)
        layout = opener.layout
        offset = len(head)
        number = 0
        while offset < size:
            try:
                frame = stream.read(layout.frame.size)
                if len(frame) < layout.frame.size:
                    raise Damaged(f"cut short at offset {offset}")
                stored_bytes = pack_block.decode_frame(layout, frame, offset=offset)
            except DalError as error:
                damaged.append(str(error))
                break
            body = stream.read(stored_bytes)
            try:
                if len(body) < stored_bytes:
                    raise Damaged(f"cut short at offset {offset + len(frame) + len(body)}")
                opened = opener.open(frame, body, number, offset=offset)
                if opened.block_type == pack.BLOCK_TRAILER:
                    break
                raw = decompress(opened, offset=offset)
                if opened.block_type in (pack.BLOCK_METADATA, pack.BLOCK_DATA):
                    for _, kind, encoding, identity, payload in split_records(raw, offset=offset):
                        whole = encoding != pack.ENCODING_WHOLE or realm.identify(kind, payload) == identity
                        if whole and identity not in saved:
                            saved.add(identity)
                            writer.put(kind, identity, bytes(payload), encoding)
            except Damaged as error:
                damaged.append(str(error))
            offset += len(frame) + stored_bytes
            number += 1
    writer.finish()
    return Salvage(object_count=len(saved), damaged=damaged)
