"""Clones: name a state, list, forget, hold."""

from dataclasses import dataclass

from dalsegno.actions.backup import TakeResult, take
from dalsegno.actions.mount import settle
from dalsegno.actions.session import House
from dalsegno.terms.errors import AlreadyThere, BadInput, DalError, NotFound, Refused
from dalsegno.volumes.address import Address, parse_address, resolve
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import NATIVE, TRACKED
from dalsegno.world.clock import now_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneResult:
    """A new clone, and what was taken from the volume's source before."""

    volume: str
    clone_name: str
    clone: Clone
    taken: TakeResult | None


def clone(
    house: House, volume: str, clone_name: str | None = None, *, scan: bool = True, automatic: bool = False
) -> CloneResult:
    """Name a volume's state now; a tracked volume first takes what changed in its source (unless `scan` is False).

    `volume` may be an address: then that older state gets another name. `automatic`: no person chose `clone_name`.
    """
    address = parse_address(volume)
    taken = None
    revision = b""
    if address.selector:
        resolved = resolve(house.pool, house.volumes, address, now_ns=now_ns())
        state, revision = resolved.state, resolved.revision
    else:
        state = house.volumes.get(address.volume)
        if clone_name is not None and clone_name in state.clones:
            raise AlreadyThere(f"clone {volume}@{clone_name} exists already: choose another name, or unclone it first")
        if state.kind == NATIVE:
            settle(house, state)
        if state.kind == TRACKED and scan:
            taken = take(house, state, state.source, message="clone")
            revision = taken.revision
    name, made = house.volumes.add_clone(
        state.name, clone_name, now_ns=now_ns(), revision=revision, automatic=automatic
    )
    return CloneResult(volume=state.name, clone_name=name, clone=made, taken=taken)


def named_clone(house: House, text: str) -> tuple[str, str]:
    """Return volume and clone of an address that must name a clone; a time means the clone that it finds."""
    address: Address = parse_address(text)
    if not address.selector or address.path:
        raise BadInput(f"{text}: expected VOLUME@CLONE")
    resolved = resolve(house.pool, house.volumes, address, now_ns=now_ns())
    if resolved.clone is None:
        raise BadInput(f"{text}: expected the name of a clone; `dal clones {resolved.state.name}` shows them")
    return resolved.state.name, resolved.clone


def unclone(house: House, text: str) -> tuple[str, str, Clone]:
    """Forget the clone that an address names in full: what is removed is named exactly, not by a time or `latest`."""
    address = parse_address(text)
    if not address.selector or address.path:
        raise BadInput(f"{text}: expected VOLUME@CLONE")
    try:
        return address.volume, address.selector, house.volumes.unclone(address.volume, address.selector)
    except NotFound as error:
        try:
            volume, name = named_clone(house, text)
        except DalError:
            raise error from None
        raise Refused(
            f"{text}: that is {volume}@{name} now, and what is removed has to be named: `dal unclone {volume}@{name}`"
        ) from None


def set_held(house: House, text: str, *, held: bool) -> tuple[str, str, Clone]:
    """Hold or unhold a clone."""
    volume, name = named_clone(house, text)
    return volume, name, house.volumes.set_held(volume, name, held=held)
