"""What another server of the realm may do here: what the role that it has in a volume needs, and nothing else.

A writer and a standby take part in merging, so they write; a read-only site fetches. Nobody administers by being a
server: whoever breaks into one has what that one holds, and may write where it does.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from dalsegno.replicas.contract import Site
from dalsegno.replicas.servers import Desk
from dalsegno.replicas.tokens import PEER_NOTE, READ, WRITE, Token
from dalsegno.replicas.view import Placed
from dalsegno.terms.errors import NotFound, Unavailable
from dalsegno.volumes.state import ReplicaSet, holders

NO_RIGHTS: Final[list[str]] = []


def as_peer(token: Token, site: Site, desk: Desk | None, *, volume: str) -> Token:
    """Return a peer's token with the rights that its server has on a volume, or (empty) on those that it holds."""
    name = token.note.removeprefix(PEER_NOTE)
    if not volume:
        held = {state.name for state in site.states() if name in holders(state.replicas)}
        held |= {placed.name for placed in _placed(desk) if name in holders(placed.replicas)}
        return msgspec.structs.replace(token, rights=[READ], volumes=sorted(held))
    rights = _rights_in(_here(site, volume), name)
    if not rights:
        rights = _rights_in(next((each.replicas for each in _placed(desk) if each.name == volume), None), name)
    return msgspec.structs.replace(token, rights=rights, volumes=[volume] if rights else [])


def is_placed(desk: Desk | None, volume: str, replicas: ReplicaSet) -> bool:
    """Tell whether a volume's replica set is what the directory says."""
    return any(each.name == volume and each.replicas == replicas for each in _placed(desk))


def _rights_in(replicas: ReplicaSet | None, name: str) -> list[str]:
    if replicas is None:
        return NO_RIGHTS
    if name in (*replicas.writers, *replicas.standbys):
        return [WRITE]
    return [READ] if name in replicas.readers else NO_RIGHTS


def _here(site: Site, volume: str) -> ReplicaSet | None:
    try:
        return site.state(volume).replicas
    except NotFound:
        return None


def _placed(desk: Desk | None) -> Iterable[Placed]:
    if desk is None:
        return []
    try:
        return desk.view().volumes
    except Unavailable:
        return []
