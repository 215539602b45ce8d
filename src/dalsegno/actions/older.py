"""Compare a pool with the catalog: a volume must be at least as new as the newest dump that was made of it."""

from dalsegno.actions.session import House
from dalsegno.archive.catalog import Catalog
from dalsegno.backup.records import DumpEntry
from dalsegno.pool.known import KnownHead
from dalsegno.terms.times import show_time
from dalsegno.volumes.ancestry import find_revision
from dalsegno.volumes.rollback import line_between
from dalsegno.volumes.state import VolumeState


def older_than_catalog(house: House, catalog: Catalog) -> list[str]:
    """Return a line for each volume whose newest state does not come after what the catalog has a dump of."""
    lines = []
    for state in house.volumes.list():
        dumps = catalog.dumps(state.id)
        if dumps and _is_older(house, state, dumps[-1]):
            head = find_revision(house.pool, state.head) if state.head else None
            now = f"of {show_time(head.created_ns)}" if head is not None else "missing"
            lines.append(
                f"volume {state.name!r}: its newest state is {now}, the catalog has a dump of the state of "
                f"{show_time(dumps[-1].cloned_at_ns)}: was an older copy of the pool put back? "
                f"`dal restore {state.name}@DATE` reads dumps"
            )
    return lines


def _is_older(house: House, state: VolumeState, dump: DumpEntry) -> bool:
    dumped = find_revision(house.pool, dump.revision)
    if dumped is None and dump.revision != state.head:
        # Thinned out since then, or not there yet in an older copy: a head that came after it was made after the clone.
        head = find_revision(house.pool, state.head) if state.head else None
        return not state.head or (head is not None and head.created_ns < dump.cloned_at_ns)
    made_ns = dumped.created_ns if dumped is not None else 0
    known = KnownHead(head=dump.revision, created_ns=made_ns, at_ns=dump.cloned_at_ns)
    return line_between(house.pool, known, state.head) is False
