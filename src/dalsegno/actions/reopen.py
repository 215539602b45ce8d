"""Reopen a volume that was ended by a head of a far future."""

from dataclasses import dataclass

from dalsegno.actions.session import House
from dalsegno.actions.signers import require_signed_content
from dalsegno.chunks.signatures import leave_unsigned
from dalsegno.terms.errors import BadInput, DalError
from dalsegno.volumes.address import parse_address, resolve
from dalsegno.volumes.reopen import reopen as reopen_here
from dalsegno.volumes.state import VolumeState
from dalsegno.world.clock import now_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened:
    """A volume that takes commits again."""

    state: VolumeState
    servers: tuple[str, ...]
    """Those that did it; empty for a volume of this pool."""
    missing: dict[str, DalError]
    """Servers that did not, and why: one whose head was not of the future has nothing to do."""


def reopen(house: House, text: str) -> Reopened:
    """Put a revision of today in the place of a head of the future, with its files or those of `VOLUME@CLONE`."""
    address = parse_address(text)
    if address.path:
        raise BadInput(f"{text}: expected VOLUME or VOLUME@CLONE")
    now = now_ns()
    realm_volumes = getattr(house, "realm_volumes", None)  # actions/remote.py is loaded only for realms
    if realm_volumes is not None:
        done, missing = realm_volumes.reopen(address.volume, address.selector, now_ns=now)
        state = next(iter(done.values()))
        return Reopened(state=state, servers=tuple(sorted(done)), missing=missing)
    content = b""
    name = address.volume
    if address.selector:
        named = resolve(house.pool, house.volumes, address, now_ns=now)
        name, content = named.state.name, named.revision
    state = house.volumes.get(name)
    require_signed_content(house, state, content or state.head)
    sign = leave_unsigned if state.replicas is not None else house.volumes.sign
    state = reopen_here(house.pool, house.volumes, name, content=content, now_ns=now, workers=house.workers, sign=sign)
    return Reopened(state=state, servers=(), missing={})
