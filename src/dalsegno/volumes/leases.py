"""Leases: a volume is frozen while it is cloned, so that clones of its replicas are of one state.

A lease names its holder and ends by itself: a coordinator that dies leaves nothing frozen for long. It stands in the
volume's state, so that a commit and a freeze can never both win.

Everybody who looks at the volume sees who holds it. What makes somebody the holder is a secret beside the name, of
which the state keeps a hash; who works in the pool itself needs none.
"""

from hmac import compare_digest

import msgspec
from blake3 import blake3

from dalsegno.terms.errors import Conflict
from dalsegno.terms.times import SECOND_NS, show_time
from dalsegno.volumes.state import Lease, VolumeState

LEASE_SECONDS_MAX = 3600
_MARK = "\x1f"
"""Between a holder's name and his secret; no name has it."""


def owner_with_secret(name: str, secret: bytes) -> str:
    """Return the `owner` of a lease that only who knows the secret holds. `name` is printable."""
    return f"{name}{_MARK}{secret.hex()}"


def _split(owner: str) -> tuple[str, bytes]:
    """Return the name of an owner, and what proves that he is it; empty for one without a secret."""
    name, mark, secret = owner.partition(_MARK)
    return name, blake3(secret.encode()).digest(length=16) if mark else b""


def is_holder(lease: Lease, *, owner: str) -> bool:
    """Tell whether `owner` holds a lease: his name alone is known to everybody."""
    name, proof = _split(owner)
    return lease.owner == name and compare_digest(lease.proof, proof)


def held(state: VolumeState, *, now_ns: int) -> Lease | None:
    """Return the lease that freezes a volume now; one that ends absurdly late is of a clock that was wrong."""
    lease = state.lease
    if lease is None or not now_ns < lease.until_ns <= now_ns + LEASE_SECONDS_MAX * SECOND_NS:
        return None
    return lease


def freeze(state: VolumeState, *, owner: str, now_ns: int, seconds: int) -> VolumeState:
    """Return `state` frozen by `owner`, anew when it was already. Conflict while somebody else holds it."""
    assert 0 < seconds <= LEASE_SECONDS_MAX
    lease = held(state, now_ns=now_ns)
    if lease is not None and not is_holder(lease, owner=owner):
        raise Conflict(_frozen(state, lease))
    name, proof = _split(owner)
    return msgspec.structs.replace(state, lease=Lease(owner=name, until_ns=now_ns + seconds * SECOND_NS, proof=proof))


def thaw(state: VolumeState, *, owner: str) -> VolumeState:
    """Return `state` without the lease of `owner`; somebody else's stays."""
    if state.lease is None or not is_holder(state.lease, owner=owner):
        return state
    return msgspec.structs.replace(state, lease=None)


def require_thawed(state: VolumeState, *, now_ns: int) -> None:
    """Refuse a change while the volume is frozen."""
    lease = held(state, now_ns=now_ns)
    if lease is not None:
        raise Conflict(_frozen(state, lease))


def _frozen(state: VolumeState, lease: Lease) -> str:
    return f"volume {state.name!r} is frozen by {lease.owner} until {show_time(lease.until_ns)}: try again then"
