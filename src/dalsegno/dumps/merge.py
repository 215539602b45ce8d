"""Merge dumps without their source: a full with increments, or increments with each other.

The result holds exactly the objects of the last dump's targets. Each block is opened with its tag checked before
a byte of it is used; blocks that are wanted whole are sealed again as they are, without compressing them anew.
"""

from array import array
from collections.abc import Callable

import msgspec
import numpy
from numpy.typing import NDArray

from dalsegno.chunks.realm import Realm
from dalsegno.dumps.chain import DumpChain
from dalsegno.formats import objects, pack
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pack_write import PackSummary, PackWriter, new_header
from dalsegno.terms.errors import Damaged
from dalsegno.terms.events import Progress, Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.trees.closure import visit_reachable
from dalsegno.world.workers import Workers

OFFSET_MASK = (1 << pack.OFFSET_BITS) - 1
ID_OFFSET = pack.RECORD.size - 32


def merged_note(chain: DumpChain) -> pack.DumpNote:
    """Return the lineage of the merged dump: from the first dump's base to the last dump's targets."""
    first, last = chain.notes[0], chain.notes[-1]
    ancestors = [dump for note in chain.notes for dump in note.merged]
    return msgspec.structs.replace(
        last,
        level=first.level,
        bases=first.bases,
        base_dump=first.base_dump,
        merged=ancestors + [reader.pack_id for reader in chain.readers],
    )


def merge_dumps(
    chain: DumpChain,
    write: Callable[[bytes], object],
    *,
    realm: Realm,
    sealed: bool,
    workers: Workers | None = None,
    report: Report = silent,
) -> tuple[pack.DumpNote, PackSummary]:
    """Write the merged dump in one stream; the caller makes it durable and gives it its name."""
    note = merged_note(chain)
    wanted = find_wanted(chain, [target.revision for target in note.targets])
    header = new_header(realm, kind=pack.PACK_DUMP, sealed=sealed, note=pack.encode_struct(note))
    total = sum(int(reader.stored.sum()) for reader in chain.readers)
    done = 0

    def progress(copied: int) -> None:
        report(Progress(phase="merge", done_bytes=done + copied, total_bytes=total))

    with PackWriter(write, realm=realm, header=header, workers=workers) as writer:
        for reader, marks in zip(chain.readers, wanted, strict=True):
            _copy_wanted(reader, marks, writer, progress)
            done += int(reader.stored.sum())
        return note, writer.finish()


def find_wanted(chain: DumpChain, revisions: list[bytes]) -> list[NDArray[numpy.bool_]]:
    """Return for each dump which of its rows the target needs; what two dumps hold is taken from the newer."""
    marks = [numpy.zeros(reader.object_count, dtype=numpy.bool_) for reader in chain.readers]
    outside_allowed = bool(chain.bases)
    pairs = list(zip(chain.readers, marks, strict=True))[::-1]

    def visit(kind: int, identity: bytes) -> bool:
        for reader, mark in pairs:
            row = reader.find(identity)
            if row is not None:
                if mark[row]:
                    return False
                mark[row] = True
                return True
        if outside_allowed:
            return False
        raise Damaged(f"object {hex_short(identity)} is in none of the dumps: {chain.missing_hint()}")

    visit_reachable(chain, [(objects.KIND_REVISION, revision) for revision in revisions], visit)
    return marks


def _copy_records(reader: PackReader, number: int, wanted: NDArray[numpy.intp], writer: PackWriter) -> None:
    """Copy the wanted records of a block, run by run, into a block of their own."""
    ids, values = reader.objects()
    wanted = wanted[numpy.argsort(values[wanted, 1] & OFFSET_MASK, kind="stable")]
    starts = (values[wanted, 1] & OFFSET_MASK).astype(numpy.int64)
    lengths = values[wanted, 2].astype(numpy.int64) + pack.RECORD.size
    ends = starts + lengths
    raw = reader.read_block(number)
    breaks = numpy.flatnonzero(starts[1:] != ends[:-1]) + 1
    run_starts = starts[numpy.concatenate(([0], breaks))].tolist()
    run_ends = ends[numpy.concatenate((breaks - 1, [len(ends) - 1]))].tolist()
    if run_ends[-1] > len(raw):
        raise Damaged(f"{reader.path}: block {number}: the index points outside it")
    for start, identity in zip(starts.tolist(), ids[wanted], strict=True):
        if raw[start + ID_OFFSET : start + ID_OFFSET + 32] != identity.tobytes():
            raise Damaged(f"{reader.path}: block {number}: the index points at another record")
    rows = values[wanted].copy()
    rows[:, 1] = (numpy.cumsum(lengths) - lengths) | (rows[:, 1] & ~numpy.uint32(OFFSET_MASK))
    columns = array("I")
    columns.frombytes(rows.tobytes())
    kept = b"".join([raw[start:end] for start, end in zip(run_starts, run_ends, strict=True)])
    writer.put_records(kept, int(reader.types[number]), ids[wanted].tobytes(), columns)


def _copy_wanted(
    reader: PackReader, marks: NDArray[numpy.bool_], writer: PackWriter, progress: Callable[[int], None]
) -> None:
    ids, values = reader.objects()
    order = numpy.argsort(values[:, 0], kind="stable")
    blocks = values[order, 0]
    copied = 0
    for number in range(reader.block_count):
        low, high = numpy.searchsorted(blocks, [number, number + 1])
        rows = order[low:high]
        copied += int(reader.stored[number])
        wanted = rows[marks[rows]]
        if not len(wanted):
            continue
        if len(wanted) == len(rows) and not values[rows, 3].any():
            body, raw_bytes, block_type = reader.block_body(number)
            columns = array("I")
            columns.frombytes(values[rows].tobytes())
            writer.put_block(body, raw_bytes, block_type, ids[rows].tobytes(), columns)
        elif not values[wanted, 3].any():
            _copy_records(reader, number, wanted, writer)
        else:
            for row in wanted[numpy.argsort(values[wanted, 1] & 0xFFFFFF, kind="stable")]:
                identity = ids[row].tobytes()
                kind, payload = reader.get_kind(identity)
                writer.put(kind, identity, payload)
        progress(copied)
