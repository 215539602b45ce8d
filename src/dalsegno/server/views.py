"""How much of a volume's state a token sees: all that it may read, and else what a writer cannot do without.

Who only appends must know the head, which his next revision continues, and which names of clones were given lately;
whether another is taken he is told when he wants it. The ids of other revisions are keys to them; where dumps are and
what others do with the volume is not his affair.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from dalsegno.replicas import wire
from dalsegno.replicas.tokens import READ, Token
from dalsegno.terms.ids import OBJECT_ID_BYTES
from dalsegno.volumes.clones import Clone, Clones
from dalsegno.volumes.signed import SETTING
from dalsegno.volumes.state import NATIVE, VolumeState

UNSEEN: Final = bytes(OBJECT_ID_BYTES)
"""In place of a revision that the token may not see: no object has this id."""
SETTINGS_SEEN: Final = frozenset(("quota_bytes", SETTING))

Blank = Callable[[str], str]
"""Takes a place on the server's disks out of a path."""


def shown_value(value: Any, token: Token, *, blank: Blank) -> Any:
    """Return an answer as the token may see it."""
    if isinstance(value, VolumeState):
        return shown_state(value, token, blank=blank)
    if isinstance(value, wire.States):
        return wire.States(volumes=[shown_state(state, token, blank=blank) for state in value.volumes])
    return value


def shown_state(state: VolumeState, token: Token, *, blank: Blank) -> VolumeState:
    """Return a volume's state as the token may see it."""
    lease = msgspec.structs.replace(state.lease, proof=b"") if state.lease is not None else None
    if token.allows(READ, state.name):
        return msgspec.structs.replace(state, lease=lease, dumps=state.dumps.with_paths(blank))
    return VolumeState(
        id=state.id,
        name=state.name,
        kind=NATIVE,
        source=b"",
        created_ns=state.created_ns,
        head=state.head,
        clones=Clones({name: _unseen(clone) for name, clone in state.clones.newest.items()}),
        settings={key: value for key, value in state.settings.items() if key in SETTINGS_SEEN},
        lease=lease,
        role=state.role,
        replicas=state.replicas,
    )


def _unseen(clone: Clone) -> Clone:
    return Clone(revision=UNSEEN, created_ns=clone.created_ns, held=clone.held, automatic=clone.automatic)
