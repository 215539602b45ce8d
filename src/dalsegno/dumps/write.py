"""Write a dump: the transfer from a pool to a pack."""

from collections.abc import Callable

from dalsegno.chunks.realm import Realm
from dalsegno.dumps.plan import DumpPlan
from dalsegno.formats import pack
from dalsegno.pool.contract import Source
from dalsegno.pool.pack_write import PackSummary, PackWriter, new_header
from dalsegno.terms.events import Progress, Report, silent
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.closure import new_objects
from dalsegno.world.workers import Workers

PROGRESS_OBJECTS = 500


def write_dump(
    source: Source,
    plan: DumpPlan,
    write: Callable[[bytes], object],
    *,
    realm: Realm,
    sealed: bool,
    workers: Workers | None = None,
    report: Report = silent,
) -> PackSummary:
    """Write the dump that `plan` describes, in one stream, and return what was written. The caller makes it durable."""
    header = new_header(realm, kind=pack.PACK_DUMP, sealed=sealed, note=pack.encode_struct(plan.note))
    sent: set[bytes] = set()
    done_bytes = 0

    def visit(kind: int, identity: bytes) -> bool:
        nonlocal done_bytes
        if identity in sent:
            return False
        sent.add(identity)
        payload = source.get(ObjectId(identity))
        writer.put(kind, identity, payload)
        done_bytes += len(payload)
        if len(sent) % PROGRESS_OBJECTS == 0:
            report(Progress(phase="dump", done_bytes=done_bytes, done_count=len(sent)))
        return True

    base = plan.base.revision if plan.base else None
    with PackWriter(write, realm=realm, header=header, workers=workers) as writer:
        for target in plan.note.targets:
            new_objects(source, target.revision, base, visit=visit)
            base = target.revision
        return writer.finish()
