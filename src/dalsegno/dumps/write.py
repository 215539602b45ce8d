"""Write a dump: the transfer from a pool to a pack. What is wanted is marked first, then copied block by block."""

from collections.abc import Callable, Sequence

from dalsegno.chunks.realm import Realm
from dalsegno.dumps.plan import DumpPlan
from dalsegno.formats import objects, pack, pack_header
from dalsegno.pool.copy import PoolMarks
from dalsegno.pool.pack_write import BLOCKS_PENDING_MAX, PackSummary, PackWriter, new_header
from dalsegno.pool.pool import Pool
from dalsegno.terms.events import Progress, Report, silent
from dalsegno.trees.closure import new_objects
from dalsegno.world.workers import Workers

PROGRESS_OBJECTS = 500


def write_dump(
    pool: Pool,
    plan: DumpPlan,
    write: Callable[[bytes], object],
    *,
    realm: Realm,
    sealed: bool,
    recipients: Sequence[str] = (),
    dense: bool = False,
    workers: Workers | None = None,
    pending_max: int = BLOCKS_PENDING_MAX,
    report: Report = silent,
) -> PackSummary:
    """Write the dump that `plan` describes, in one stream, and return what was written. The caller makes it durable.

    Blocks are copied as the pool has compressed them; `dense` compresses them anew, more slowly and smaller.
    """
    wanted = PoolMarks(pool)

    met = 0

    def visit(kind: int, identity: bytes) -> bool:
        nonlocal met
        met += 1
        if met % PROGRESS_OBJECTS == 0:
            report(Progress(phase="compare", done_count=met))
        if kind == objects.KIND_CHUNK:
            wanted.add_later(identity)
            return False
        return wanted.add(identity)

    base = plan.base.revision if plan.base else None
    for target in plan.note.targets:
        new_objects(pool, target.revision, base, visit=visit)
        base = target.revision
    note = pack_header.encode_note(plan.note)
    header = new_header(realm, kind=pack.PACK_DUMP, sealed=sealed, note=note, recipients=recipients)
    with PackWriter(write, realm=realm, header=header, workers=workers, dense=dense, pending_max=pending_max) as writer:
        wanted.copy(writer, lambda done, total: report(Progress(phase="dump", done_bytes=done, total_bytes=total)))
        return writer.finish()
