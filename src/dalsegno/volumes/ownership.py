"""Whose a revision is, in a pool that holds volumes of several people: what one may not see of another's past.

A volume that was restored beside its original has the original's revisions as its own head and clones. They name their
parents, which are the original's: those came with nothing, and are not given away.
"""

from dalsegno.formats.objects import Revision
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import Refused
from dalsegno.terms.ids import hex_short
from dalsegno.volumes.ancestry import between, find_revision
from dalsegno.volumes.state import VolumeState
from dalsegno.volumes.store import Volumes


def is_others(volumes: Volumes, state: VolumeState, identity: bytes, revision: Revision) -> bool:
    """Tell whether a revision is another living volume's, and neither head nor clone of this one."""
    if revision.volume == state.id or identity == state.head:
        return False
    if any(clone.revision == identity for clone in state.clones.values()):
        return False
    return volumes.get_by_id(revision.volume) is not None


def require_own(source: Source, volumes: Volumes, state: VolumeState, identity: bytes) -> None:
    """Refuse a revision of another volume. One that is not here is nobody's."""
    revision = find_revision(source, identity)
    if revision is not None and is_others(volumes, state, identity, revision):
        raise Refused(f"revision {hex_short(identity)} is of another volume than {state.name!r}")


def require_own_past(source: Source, volumes: Volumes, state: VolumeState, head: bytes) -> None:
    """Refuse a new head that has revisions of another volume behind it, beyond what this volume has already."""
    try:
        for identity in between(source, head, [state.head] if state.head else []):
            require_own(source, volumes, state, identity)
    except Refused:
        # Clones may have it behind them; there may be very many, and most heads go on from the head.
        named = [clone.revision for clone in state.clones.values()]
        for identity in between(source, head, [each for each in (state.head, *named) if each]):
            require_own(source, volumes, state, identity)
