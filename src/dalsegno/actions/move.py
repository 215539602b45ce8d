"""Move a volume from one server of a realm to another."""

from dalsegno.actions.release import change_set
from dalsegno.replicas.context import Merge
from dalsegno.replicas.move import Move, move
from dalsegno.replicas.replica_sets import roles
from dalsegno.replicas.servers import Servers
from dalsegno.terms.errors import BadInput
from dalsegno.terms.events import Report, silent


def move_volume(
    servers: Servers, volume: str, source: str, target: str, *, merge: Merge, report: Report = silent
) -> Move:
    """Move `volume` while it is written; run again, it goes on where it was cut short."""
    if source == target:
        raise BadInput(f"{volume} is on {source}: name another server to move it to")
    known = servers.replica_set(volume)
    others = sorted(roles(known) - {source, target}) if known is not None else []
    context = servers.context(merge=merge, report=report)
    return move(
        servers.peers(volume, [source, target, *others], context, known),
        source,
        target,
        publish=lambda change: change_set(servers, volume, change),
    )
