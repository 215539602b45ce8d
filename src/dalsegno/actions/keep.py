"""Keep house: collect what nothing names, check the pool, count."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dalsegno.actions.house import House
from dalsegno.formats.objects import KIND_CHUNK, KIND_REVISION
from dalsegno.pool.adopt import Standing
from dalsegno.pool.check import Finding, check_pool
from dalsegno.pool.collect import CollectResult, collect
from dalsegno.pool.copy import PoolMarks
from dalsegno.terms.errors import DalError, Damaged, NotFound
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.trees.closure import visit_reachable
from dalsegno.trees.read import read_revision
from dalsegno.world.clock import now_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Sizes and counts of a pool."""

    path: str
    pool_id: bytes
    encryption: str
    volume_count: int
    clone_count: int
    pack_count: int
    pack_bytes: int
    object_count: int
    index_bytes: int
    protected_bytes: int
    """Bytes of files in the newest state of every volume."""


def gc(house: House, *, grace_seconds: int, dry_run: bool = False) -> CollectResult:
    """Give back the room of what no head, clone or dump record names. Never stops writers."""

    def live() -> Iterator[bytes]:
        # Called after the packs were listed: refs are read anew here.
        house.pool.refresh()
        seen = PoolMarks(house.pool)

        def visit(kind: int, identity: bytes) -> bool:
            if kind == KIND_CHUNK:
                seen.add_later(identity)
                return False
            return seen.add(identity)

        # A revision that cannot be read stops the collection: nobody knows what it would have kept.
        tops = sorted(set(house.volumes.revisions_kept(now_ns=now_ns())))
        try:
            visit_reachable(house.pool, [(KIND_REVISION, top) for top in tops], visit)
        except NotFound as error:
            raise Damaged(f"{error}; nothing was collected: `dal verify --pool` tells which volumes need it") from None
        _see_history(house, seen, visit)
        yield from seen.ids()

    if not dry_run:
        house.volumes.drop_ended_pins(now_ns=now_ns())
    return collect(house.pool, live, grace_seconds=grace_seconds, now_ns=now_ns(), dry_run=dry_run, report=house.report)


def _see_history(house: House, seen: PoolMarks, visit: Callable[[int, bytes], bool]) -> None:
    """Mark the past of replicated volumes: trees where they are whole, else the revision alone."""
    standing = Standing(house.pool)
    for revision in house.volumes.history_kept():
        if standing.is_whole(revision):
            visit_reachable(house.pool, [(KIND_REVISION, revision)], visit)
        elif house.pool.has(ObjectId(revision)):
            seen.add(revision)
            for identity in _find_whole(house, seen, revision):
                seen.add(identity)


def _find_whole(house: House, seen: PoolMarks, revision: bytes) -> set[bytes]:
    """Return what must be marked beside `seen` to keep a revision's tree; nothing when it is not all here."""
    found: set[bytes] = set()

    def visit(kind: int, identity: bytes) -> bool:
        if identity in found or (identity in seen and kind != KIND_REVISION):
            return False
        if not house.pool.has(ObjectId(identity)):
            raise NotFound(f"object {hex_short(identity)}")
        found.add(identity)
        return True

    try:
        visit_reachable(house.pool, [(KIND_REVISION, revision)], visit)
    except NotFound:
        return set()
    return found


def verify_pool(house: House) -> Iterator[Finding]:
    """Yield all that is wrong with the pool: packs, index, refs, and that every volume's objects are there."""
    yield from check_pool(house.pool, house.report)
    seen = PoolMarks(house.pool)

    def visit(kind: int, identity: bytes) -> bool:
        if not seen.add(identity):
            return False
        if not house.pool.has(ObjectId(identity)):
            missing.append(identity)
            return False
        return True

    missing: list[bytes] = []
    for state in house.volumes.list():
        states = {clone.revision: f"{state.name}@{name}" for name, clone in state.clones.items()}
        if state.head:
            states.setdefault(state.head, f"{state.name}@latest")
        for revision, label in states.items():
            try:
                visit_reachable(house.pool, [(KIND_REVISION, revision)], visit)
            except DalError as error:
                yield Finding(severity="error", where=label, text=str(error))
            if missing:
                text = f"{len(missing)} objects are missing, the first {hex_short(missing[0])}"
                yield Finding(severity="error", where=label, text=f"{text}; restore what is left, back up again")
                missing.clear()


def stats(house: House) -> Stats:
    """Return sizes and counts."""
    pool = house.pool
    states = house.volumes.list()
    packs = pool.list_packs()
    protected = 0
    for state in states:
        if state.head:
            protected += read_revision(pool, state.head).total_bytes
    index = pool.path / "index"
    return Stats(
        path=str(pool.path),
        pool_id=pool.pool_id,
        encryption=pool.encryption,
        volume_count=len(states),
        clone_count=sum(len(state.clones) for state in states),
        pack_count=len(packs),
        pack_bytes=sum(pool.pack_path(pack).stat().st_size for pack in packs),
        object_count=pool.index.object_count,
        index_bytes=sum(file.stat().st_size for file in index.iterdir() if file.is_file()),
        protected_bytes=protected,
    )
