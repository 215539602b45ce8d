"""Verify a pack, every byte of it: one in a file side by side, one from a pipe block after block."""

from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from dalsegno.chunks.realm import Realm
from dalsegno.formats import pack, pack_block, pack_header
from dalsegno.formats.pack_block import decompress
from dalsegno.formats.pack_footer import decode_footer
from dalsegno.formats.pack_index import encode_place, file_order
from dalsegno.formats.pack_records import split_records
from dalsegno.pool.pack_read import PackReader, read_opener
from dalsegno.terms.errors import Damaged, NotFound
from dalsegno.terms.events import Progress, Report, silent
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId, hex_short
from dalsegno.terms.sizes import MIB
from dalsegno.world.workers import Workers


def verify(reader: PackReader, report: Report = silent, workers: Workers | None = None) -> Iterator[str]:
    """Yield a finding for everything that is wrong with a pack: file digest, blocks, object ids, index against records.

    Workers check blocks side by side; findings come in the order of the file all the same.
    """
    _, values = reader.objects()
    order = file_order(values)
    starts = np.searchsorted(values[order, 0], np.arange(reader.block_count + 1))
    numbers = [n for n in range(reader.block_count) if reader.types[n] in (pack.BLOCK_METADATA, pack.BLOCK_DATA)]
    tasks = ((number, order[starts[number] : starts[number + 1]]) for number in numbers)
    check = partial(_verify_block, reader)
    seen = 0
    if workers is None:
        digest_findings = verify_digest(reader)
        results: Iterator[tuple[int, list[str]]] = map(check, tasks)
    else:
        digest = workers.submit(verify_digest, reader)
        results = workers.map_ordered(check, tasks)
    for number, (count, findings) in zip(numbers, results, strict=True):
        seen += count
        yield from findings
        report(Progress(phase="verify", done_bytes=int(reader.offsets[number]), total_bytes=reader.size_bytes))
    yield from digest_findings if workers is None else digest.result()
    if seen != reader.object_count:
        yield f"{reader.path}: {seen} objects found, the footer says {reader.object_count}"


def _verify_block(reader: PackReader, task: tuple[int, NDArray[np.intp]]) -> tuple[int, list[str]]:
    number, rows = task
    findings = []
    count = 0
    try:
        ids, values = reader.objects()
        named = ids[rows].tobytes()
        places = values[rows, 1].tolist()
        raw = reader.read_block(number)
        for position, kind, encoding, identity, payload in split_records(raw, offset=int(reader.offsets[number])):
            at = OBJECT_ID_BYTES * count
            if (
                count >= len(places)
                or places[count] != encode_place(position, kind)
                or named[at : at + OBJECT_ID_BYTES] != identity
            ):
                findings.append(f"{reader.path}: object {hex_short(identity)} in block {number}: the index disagrees")
            count += 1
            whole = payload if encoding == pack.ENCODING_WHOLE else _whole_of_delta(reader, identity)
            if whole is not None and reader.realm.identify(kind, whole) != identity:
                findings.append(
                    f"{reader.path}: object {hex_short(identity)} in block {number}: content and id disagree"
                )
    except Damaged as error:
        findings.append(str(error))
    if findings:
        reader.damaged_blocks.add(number)
    return count, findings


def _whole_of_delta(reader: PackReader, identity: bytes) -> bytes | None:
    try:
        return reader.get(ObjectId(identity))
    except NotFound:
        return None  # its base is in another pack: the pool's check follows it there


def verify_digest(reader: PackReader) -> list[str]:
    """Return a finding when the file's digest, which the footer has, is wrong."""
    hasher = blake3()
    end = reader.size_bytes - pack.FOOTER_END_BYTES
    position = 0
    while position < end:
        data = reader.file.read_at(position, min(4 * MIB, end - position))
        if not data:
            break
        hasher.update(data)
        position += len(data)
    return [] if hasher.digest() == reader.digest else [f"{reader.path}: the file's digest is wrong"]


def stream_blocks(stream: BinaryIO, realm: Realm) -> Iterator[tuple[pack_header.PackHeader, int, int, int, bytes]]:
    """Yield (header, offset, number, type, raw block) from a pipe; Damaged, of the footer's digest at the end."""
    hasher = blake3()
    offset = 0

    def read(length: int) -> bytes:
        nonlocal offset
        parts = []
        wanted = length
        while wanted:
            data = stream.read(wanted)
            if not data:
                break
            parts.append(data)
            wanted -= len(data)
        joined = b"".join(parts)
        offset += len(joined)
        return joined

    opener, head = read_opener(read, realm)
    hasher.update(head)
    layout = opener.layout
    number = 0
    while True:
        start = offset
        frame = read(layout.frame.size)
        if len(frame) < layout.frame.size:
            raise Damaged(f"pack cut short at offset {offset}: no trailer")
        stored_bytes = pack_block.decode_frame(layout, frame, offset=start)
        body = read(stored_bytes)
        if len(body) < stored_bytes:
            raise Damaged(f"pack cut short at offset {offset}: in block {number}")
        hasher.update(frame)
        hasher.update(body)
        opened = opener.open(frame, body, number, offset=start)
        yield opener.header, start, number, opened.block_type, decompress(opened, offset=start)
        if opened.block_type == pack.BLOCK_TRAILER:
            break
        number += 1
    footer = read(layout.footer.size)
    found = decode_footer(layout, footer)
    if found is None:
        raise Damaged(f"pack cut short at offset {offset}: no footer")
    hasher.update(footer[: -pack.FOOTER_END_BYTES])
    if hasher.digest() != found.digest:
        raise Damaged(f"pack footer damaged at offset {start}: the digest is wrong")
    if read(1):
        raise Damaged(f"pack goes on after its end at offset {offset - 1}")
