"""Who signs: the signers that a pool knows, and volumes that take only what these sign."""

from dataclasses import dataclass

import msgspec

from dalsegno.actions.session import House
from dalsegno.chunks.signatures import public_text, read_public
from dalsegno.pool.settings import check_name
from dalsegno.pool.signers import Signer, list_signers, trust_signer
from dalsegno.terms.errors import BadInput, NoAccess, Refused, Unsigned
from dalsegno.volumes.signed import REQUIRED, SETTING, find_problem, known_signers, list_keys, requires_signatures
from dalsegno.volumes.state import VolumeState
from dalsegno.volumes.store import free_name
from dalsegno.world.clock import now_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSigners:
    """Who is known: this user, and those in the pool's list."""

    own: bytes | None
    """This user's public key; None when he has signed nothing yet."""
    own_name: str
    signers: list[Signer]


def known(house: House) -> KnownSigners:
    """Return the signers that are known."""
    own = house.signer
    return KnownSigners(
        own=own.public() if own is not None else None,
        own_name=own.name if own is not None else "",
        signers=list_signers(house.pool),
    )


def trust(house: House, name: str, text: str) -> Signer:
    """Add a signer with the public key in `text`. BadInput, AlreadyThere."""
    signer = Signer(name=name, key=read_public(text), since_ns=now_ns())
    trust_signer(house.pool, signer)
    return signer


def _trust_oneself(house: House) -> None:
    """Put this user's own key into the list, under his name."""
    key = house.signer.ready() if house.signer is not None else None
    if house.signer is None or key is None:
        raise NoAccess("there is no key here to sign with, so nothing could be backed up any more")
    signers = list_signers(house.pool)
    if any(each.key == key for each in signers):
        return
    try:
        name = check_name(house.signer.name)
    except BadInput:
        name = "own"
    name = free_name(name, {each.name for each in signers})
    trust_signer(house.pool, Signer(name=name, key=key, since_ns=now_ns()))


def set_signed(house: House, name: str, *, required: bool) -> VolumeState:
    """Have a volume take only states of signers that the pool knows, this user among them; or any states again.

    Refused while its newest state does not count as signed by one of them.
    """
    state = house.volumes.get(name)
    if required:
        _trust_oneself(house)
        problem = None
        if state.head:
            problem = find_problem(house.pool, house.pool.realm, state, state.head, list_keys(house.pool))
        if problem is not None:
            raise Refused(f"volume {name!r}: its newest state is none that it would take: {problem}; or back up again")

    def change(current: VolumeState) -> VolumeState:
        settings = {key: value for key, value in current.settings.items() if key != SETTING}
        return msgspec.structs.replace(current, settings={**settings, **({SETTING: REQUIRED} if required else {})})

    return house.volumes.update(state.id, change)


def require_own(house: House, state: VolumeState) -> None:
    """Refuse to begin what ends in a commit that this pool's volume would not take: this user is no known signer.

    Unsigned says so. Of a volume on servers only these know.
    """
    if not requires_signatures(state) or state.replicas is not None:
        return
    key = house.signer.ready() if house.signer is not None else None
    if key is None or key not in list_keys(house.pool):
        how = f"`dal key trust-signer NAME '{public_text(key)}'`, or " if key is not None else ""
        raise Unsigned(
            f"volume {state.name!r} takes only signed states, and this user is no signer whom it knows: {how}mount it "
            "with --read-only"
        )


def require_signed_content(house: House, state: VolumeState, revision: bytes) -> None:
    """Refuse to make a new state of what is in one that does not count as signed: that would be signed, then."""
    if requires_signatures(state):
        signers = known_signers(house.pool, house.signer)
        problem = find_problem(house.pool, house.pool.realm, state, revision, signers)
        if problem is not None:
            raise Unsigned(f"volume {state.name!r} takes only signed states: {problem}")
