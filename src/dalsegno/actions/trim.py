"""Trim: keep a client's pool of a realm small. What the servers have can be read from them.

Only what is reachable here from commits that wait to be acknowledged stays, with their line of revisions. All else goes
at once, so that what the pool promises does not change: beside what it holds it has all that was put here below it.

On a machine that only writes no content stays that was sent; directories do, for the next scan.
"""

from collections.abc import Callable, Iterable, Iterator

from dalsegno.formats.objects import KIND_CHUNK, KIND_REVISION
from dalsegno.pool.collect import CollectResult, collect
from dalsegno.pool.copy import PoolMarks
from dalsegno.pool.pool import Pool
from dalsegno.terms.events import Report
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.closure import visit_reachable
from dalsegno.trees.read import read_revision
from dalsegno.world.clock import now_ns


def trim(pool: Pool, waiting: Callable[[], Iterable[bytes]], *, bytes_max: int, report: Report) -> CollectResult | None:
    """Drop what no revision needs that is `waiting` from a pool larger than `bytes_max`; None when it is not.

    On a machine that only writes, contents go whatever the size.

    What waits is asked for when nobody can write any more: a commit may come until then.
    Conflict while somebody writes: another time will do. Killed at any point it leaves a good pool.
    """
    contents_only = _pack_bytes(pool) <= bytes_max
    if contents_only:
        if not pool.realm.only_writes:
            return None
        pool.refresh()
        if not pool.index.holds_chunks():
            return None

    def live() -> Iterator[bytes]:
        pool.refresh()
        tops = list(waiting())
        seen = PoolMarks(pool)

        def visit(kind: int, identity: bytes) -> bool:
            if not pool.has(ObjectId(identity)):
                return False  # on the servers, with all that it names
            if kind == KIND_CHUNK:
                seen.add_later(identity)
                return False
            return seen.add(identity)

        visit_reachable(pool, [(KIND_REVISION, top) for top in tops], visit)
        for revision in _line(pool, tops):
            seen.add(revision)
        yield from seen.ids()
        if contents_only:
            yield from pool.index.ids_but_chunks()

    return collect(pool, live, grace_seconds=0, now_ns=now_ns(), dry_run=False, report=report)


def _pack_bytes(pool: Pool) -> int:
    return sum(entry.size_bytes for entry in pool.pack_entries().values())


def _line(pool: Pool, waiting: Iterable[bytes]) -> set[bytes]:
    """Return these revisions and all behind them that are here."""
    found: set[bytes] = set()
    stack = list(waiting)
    while stack:
        revision = stack.pop()
        if revision not in found and pool.has(ObjectId(revision)):
            found.add(revision)
            stack += read_revision(pool, revision).parents
    return found
