"""Leases: a volume is frozen while it is cloned, so that clones of its replicas are of one state.

A lease names its holder and ends by itself: a coordinator that dies leaves nothing frozen for long. It stands in the
volume's state, so that a commit and a freeze can never both win.
"""

import msgspec

from dalsegno.terms.errors import Conflict
from dalsegno.terms.times import SECOND_NS, show_time
from dalsegno.volumes.state import Lease, VolumeState

LEASE_SECONDS_MAX = 3600


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
    if lease is not None and lease.owner != owner:
        raise Conflict(_frozen(state, lease))
    return msgspec.structs.replace(state, lease=Lease(owner=owner, until_ns=now_ns + seconds * SECOND_NS))


def thaw(state: VolumeState, *, owner: str) -> VolumeState:
    """Return `state` without the lease of `owner`; somebody else's stays."""
    if state.lease is None or state.lease.owner != owner:
        return state
    return msgspec.structs.replace(state, lease=None)


def require_thawed(state: VolumeState, *, now_ns: int) -> None:
    """Refuse a change while the volume is frozen."""
    lease = held(state, now_ns=now_ns)
    if lease is not None:
        raise Conflict(_frozen(state, lease))


def _frozen(state: VolumeState, lease: Lease) -> str:
    return f"volume {state.name!r} is frozen by {lease.owner} until {show_time(lease.until_ns)}: try again then"
