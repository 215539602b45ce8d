"""Merge dumps without their source: a full with increments, or increments with each other.

The result holds exactly the objects of the last dump's targets.
"""

from collections.abc import Callable

import msgspec

from dalsegno.chunks.realm import Realm
from dalsegno.dumps.chain import DumpChain
from dalsegno.formats import objects, pack, pack_header
from dalsegno.pool.copy import copy_marked
from dalsegno.pool.marks import Marks
from dalsegno.pool.pack_write import PackSummary, PackWriter, new_header
from dalsegno.terms.errors import Damaged
from dalsegno.terms.events import Progress, Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.trees.closure import visit_reachable
from dalsegno.world.workers import Workers


def merged_note(chain: DumpChain) -> pack_header.DumpNote:
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
) -> tuple[pack_header.DumpNote, PackSummary]:
    """Write the merged dump in one stream; the caller makes it durable and gives it its name."""
    note = merged_note(chain)
    wanted = find_wanted(chain, [target.revision for target in note.targets])
    header = new_header(realm, kind=pack.PACK_DUMP, sealed=sealed, note=pack_header.encode_note(note))
    total = sum(int(reader.raw.sum(dtype="u8")) for reader in chain.readers)
    done = 0

    def progress(copied: int) -> None:
        report(Progress(phase="merge", done_bytes=done + copied, total_bytes=total))

    for reader in chain.readers:
        reader.forget_lookups()
    with PackWriter(write, realm=realm, header=header, workers=workers) as writer:
        for number, reader in enumerate(chain.readers):
            ids, values = reader.objects()
            marked = wanted.mask(len(chain.readers) - 1 - number)
            copy_marked(reader, writer, ids=ids, values=values, marked=marked, fetch=chain.get_kind, progress=progress)
            writer.drain()
            reader.forget_objects()
            done += int(reader.raw.sum(dtype="u8"))
        return note, writer.finish()


def find_wanted(chain: DumpChain, revisions: list[bytes]) -> Marks:
    """Return which objects the target needs, newest dump first; what two dumps hold is taken from the newer."""
    marks = Marks(reversed(chain.readers))

    def visit(kind: int, identity: bytes) -> bool:
        if kind == objects.KIND_CHUNK:
            marks.add_later(identity)
            return False
        return marks.add(identity) and identity not in marks.elsewhere

    visit_reachable(chain, [(objects.KIND_REVISION, revision) for revision in revisions], visit)
    marks.settle()
    if marks.elsewhere and not chain.bases:
        missing = min(marks.elsewhere)
        raise Damaged(f"object {hex_short(missing)} is in none of the dumps: {chain.missing_hint()}")
    return marks
