"""What a server asks of dumps that somebody sent before it loads them: more than that they are whole.

Who may write one volume must not get at another by it, move a head anywhere, or leave names that no clone may have.
"""

from dalsegno.dumps.chain import DumpChain
from dalsegno.formats import objects
from dalsegno.formats.objects import Revision
from dalsegno.pool.copy import PoolMarks
from dalsegno.pool.marks import Marks
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import Damaged, NoAccess, NotFound, Refused
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.trees.closure import new_objects, visit_reachable
from dalsegno.trees.read import read_revision
from dalsegno.volumes.ancestry import is_ancestor
from dalsegno.volumes.dates import require_past
from dalsegno.volumes.signed import signature_problem
from dalsegno.volumes.state import VolumeState
from dalsegno.volumes.store import check_clone_name


class ChainOverPool:
    """What a chain carries, with the pool behind it."""

    def __init__(self, chain: DumpChain, pool: Pool) -> None:
        self._chain = chain
        self._pool = pool

    def get(self, identity: ObjectId, /) -> bytes:
        """Return the payload of an object. NotFound when neither has it."""
        try:
            return self._chain.get(identity)
        except NotFound:
            return self._pool.get(identity)


def check_sent(
    chain: DumpChain, pool: Pool, state: VolumeState | None, *, now_ns: int, may_jump: bool, sees_all: bool
) -> None:
    """Refuse a chain with times of the future or bad names, or that takes volume `state` elsewhere than forward.

    `may_jump`: who sent it may administer the volume, so its head may go to a revision of which nobody can tell that it
    continues the head. `sees_all`: he may read every volume, so an increment may count on whatever is in the pool.
    """
    source = ChainOverPool(chain, pool)
    for note, reader in zip(chain.notes, chain.readers, strict=True):
        require_past(f"dump {hex_short(reader.pack_id)}", note.taken_at_ns, now_ns=now_ns)
    for target in chain.targets():
        if target.clone:
            check_clone_name(target.clone)
        revision = read_revision(source, ObjectId(target.revision))
        problem = signature_problem(revision)
        if problem is not None:
            raise Refused(f"revision {hex_short(target.revision)}: {problem}")
        for at_ns in (target.created_ns, revision.created_ns):
            require_past(f"revision {hex_short(target.revision)}", at_ns, now_ns=now_ns)
        if state is not None and state.head:
            _require_lineage(pool, state, target.revision, revision)
    if state is None or not state.head:
        return
    if not may_jump and not is_ancestor(source, state.head, chain.target.revision):
        raise NoAccess(
            f"volume {state.name!r}: nothing tells that revision {hex_short(chain.target.revision)} continues "
            f"{hex_short(state.head)}, since dumps leave out what was between: loading it needs the right to administer"
        )
    if not sees_all:
        _require_carried(chain, source, pool, state.head)


def _require_lineage(pool: Pool, state: VolumeState, identity: bytes, revision: Revision) -> None:
    # A volume that was restored beside its original is brought forward by the original's increments.
    lineage = {state.id, read_revision(pool, ObjectId(state.head)).volume}
    if revision.volume not in lineage:
        raise Refused(f"revision {hex_short(identity)} is of another volume than {state.name!r}")


def _require_carried(chain: DumpChain, source: ChainOverPool, pool: Pool, base: bytes) -> None:
    """Refuse an increment that counts on more than what it carries and the state that it starts from."""
    seen = Marks(reversed(chain.readers))
    outside: set[bytes] = set()

    def visit(kind: int, identity: bytes) -> bool:
        if any(reader.find(identity) is not None for reader in chain.readers):
            return seen.add(identity)
        outside.add(identity)
        return False

    for target in chain.targets():
        new_objects(source, target.revision, base, visit=visit)
    if not outside:
        return
    # A merged increment may leave out what its base has elsewhere: look at all of that.
    met = PoolMarks(pool)

    def find(kind: int, identity: bytes) -> bool:
        outside.discard(identity)
        return met.add(identity)

    visit_reachable(pool, [(objects.KIND_REVISION, base)], find)
    if outside:
        raise Damaged(
            f"{chain.readers[0].path}: object {hex_short(min(outside))} is neither in the dumps nor in the state that "
            "they start from"
        )
