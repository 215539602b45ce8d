"""Whose tokens count on a server of a realm: its own, and those of makers in a list that this server keeps for itself.

Every server writes to the realm's directory, so a token does not count for standing there. Who makes one signs it, and
each server looks whether it knows that key. Its list is among its own values (server_key.py), where no other server
writes:

    server/maker    this server's private key
    server/makers   the makers that it knows, and the tokens from before they were signed
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec

from dalsegno.chunks.signatures import PUBLIC_KEY_BYTES, SigningKey, find_signer_of_bytes, fingerprint, is_sound_key
from dalsegno.formats.objects import UNREADABLE
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import check_name
from dalsegno.replicas.server_key import ServerValues, find_server_values, renew_server_values
from dalsegno.replicas.tokens import Token
from dalsegno.terms.errors import AlreadyThere, BadInput, Damaged, Full, NoAccess, NotFound, TooNew

MAKER: Final = "maker"
MAKERS: Final = "makers"
MEMBERSHIP: Final = "realm"
MAKERS_VERSION: Final = 1
MAKERS_MAX: Final = 100
FIRST: Final = "first"
"""How the maker is called that a realm's directory named when this server came to it."""
_DOMAIN: Final = b"dalsegno token signature 1\0"
_WHAT: Final = "what the server of this pool knows of who makes tokens"


class Maker(msgspec.Struct, frozen=True, kw_only=True):
    """A server whose tokens count here."""

    name: str
    key: Annotated[bytes, msgspec.Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
    since_ns: int
    expires_ns: int = 0
    """From then on its tokens count no more; 0: never."""


class Makers(msgspec.Struct, frozen=True, kw_only=True):
    """What a server keeps of who makes tokens; its own tokens count in any case."""

    version: int = MAKERS_VERSION
    makers: list[Maker] = []
    older: list[Token] = []
    """Tokens that count just as they are: from before tokens were signed, or when this server had another key."""
    is_new: bool = False
    """It has not come to a realm yet: the maker that the directory names then is taken, once."""


class _Known(msgspec.Struct, kw_only=True):
    """Of a Membership (member.py), what is needed here."""

    view: dict[str, Any] | None = None
    tokens: list[Token] = []


# Signatures


def _signed_bytes(token: Token, realm_id: bytes) -> bytes:
    said = [
        token.id,
        token.digest,
        token.rights,
        token.volumes,
        token.note,
        token.created_ns,
        token.expires_ns,
        token.peer,
    ]
    return _DOMAIN + realm_id + msgspec.msgpack.encode(said)


def sign_token(token: Token, key: SigningKey, *, realm_id: bytes) -> Token:
    """Return a token with the signature of the server that makes it, for this realm."""
    return msgspec.structs.replace(token, signature=key.sign_bytes(_signed_bytes(token, realm_id)))


def find_maker(token: Token, *, realm_id: bytes) -> bytes | None:
    """Return the public key that a token is signed with, or None for one that is not signed.

    Damaged: the signature is not one, or of something else.
    """
    return find_signer_of_bytes(_signed_bytes(token, realm_id), token.signature) if token.signature else None


def problem_of(token: Token, maker: bytes | None, known: Makers, *, own: bytes | None, now_ns: int) -> str:
    """Return why a genuine token does not count, or the empty string. `maker`: whose signature it has."""
    if maker is None:
        return "" if msgspec.structs.replace(token, used_ns=0) in known.older else "nobody signed it"
    if maker == own or msgspec.structs.replace(token, used_ns=0) in known.older:
        return ""
    found = next((each for each in known.makers if each.key == maker), None)
    if found is None:
        return f"made with {fingerprint(maker)}, which is not known here"
    if found.expires_ns and now_ns >= found.expires_ns:
        return f"made by {found.name}, whose tokens count here no more"
    return ""


# This server's key


def find_own(values: ServerValues) -> SigningKey | None:
    """Return the key with which this server signs the tokens that it makes, or None."""
    data = values.get(MAKER)
    return SigningKey.of_text(data) if data is not None else None


def own_key(values: ServerValues) -> SigningKey:
    """Return the key with which this server signs the tokens that it makes; one is made, durable, where none is."""
    while (found := find_own(values)) is None:
        values.swap(MAKER, None, SigningKey.generate().text())
    values.settle_seen(MAKER)
    return found


def renew_identity(pool: Pool) -> None:
    """Give a pool's server new keys (`renew_server_values`). The tokens that it made count here as they are."""
    kept: list[Token] = []
    try:
        values = find_server_values(pool)
        own = find_own(values) if values is not None else None
        if values is not None and own is not None:
            realm_id = pool.realm.realm_id
            kept = [each for each in _known(values).tokens if _is_made_with(own.public, each, realm_id)]
    except (NoAccess, Damaged):
        pass  # the old key is not at hand, and nothing stays
    renewed = renew_server_values(pool)
    if kept:
        change_makers(renewed, lambda known: msgspec.structs.replace(known, older=[*known.older, *kept]))


def _is_made_with(key: bytes, token: Token, realm_id: bytes) -> bool:
    try:
        return find_maker(token, realm_id=realm_id) == key
    except Damaged:
        return False


# The list


def _known(values: ServerValues) -> _Known:
    data = values.get(MEMBERSHIP)
    try:
        return msgspec.msgpack.decode(data, type=_Known) if data is not None else _Known()
    except UNREADABLE as error:
        raise Damaged(f"what the server of this pool knows of its realm: {error}") from None


def read_makers(values: ServerValues) -> Makers:
    """Return the makers that a server knows; for one that never had a list, what it begins with. Damaged, TooNew."""
    data = values.get(MAKERS)
    if data is None:
        known = _known(values)
        # What it had seen of a realm counted when nothing was signed yet, and goes on.
        older = [token for token in known.tokens if not token.signature and not token.peer]
        return Makers(older=older, is_new=known.view is None)
    return _decode(data)


def _decode(data: bytes) -> Makers:
    try:
        version = msgspec.msgpack.decode(data, type=dict).get("version")
        if isinstance(version, int) and version > MAKERS_VERSION:
            raise TooNew(f"{_WHAT}: version {version}, this program reads {MAKERS_VERSION}: update it")
        return msgspec.msgpack.decode(data, type=Makers)
    except UNREADABLE as error:
        raise Damaged(f"{_WHAT}: {error}") from None


def change_makers(values: ServerValues, change: Callable[[Makers], Makers]) -> Makers:
    """Replace what a server keeps of makers, durable on return, and return it."""
    made = Makers()

    def changed(data: bytes | None) -> bytes:
        nonlocal made
        made = change(_decode(data) if data is not None else read_makers(values))
        return msgspec.msgpack.encode(made)

    values.update(MAKERS, changed, what=_WHAT)
    values.settle_seen(MAKERS)
    return made


def settle_makers(values: ServerValues) -> None:
    """Write down what a server begins with that never had a list, before it sees anything of its realm."""
    if values.get(MAKERS) is None:
        change_makers(values, lambda known: known)


def meet_directory(values: ServerValues, maker: bytes, *, now_ns: int) -> Makers:
    """Take the maker that a realm's directory names if this server never was in a realm, and return what is known.

    What the directory names later changes nothing: others write there, too.
    """
    known = read_makers(values)
    if values.get(MAKERS) is not None and not known.is_new:
        return known

    own = find_own(values)

    def met(known: Makers) -> Makers:
        there = {each.key for each in known.makers} | ({own.public} if own is not None else set())
        if not known.is_new or not is_sound_key(maker) or maker in there:
            return msgspec.structs.replace(known, is_new=False)
        others = [each for each in known.makers if each.name != FIRST]
        first = Maker(name=FIRST, key=maker, since_ns=now_ns)
        return msgspec.structs.replace(known, makers=[*others, first], is_new=False)

    return change_makers(values, met)


def trust_maker(values: ServerValues, maker: Maker) -> None:
    """Have the tokens of a maker count here. AlreadyThere: this name has another key; BadInput, Full."""
    check_name(maker.name)
    if not is_sound_key(maker.key):
        raise BadInput("that key proves nothing: everybody can sign for it")

    def change(known: Makers) -> Makers:
        if any(each.name == maker.name and each.key != maker.key for each in known.makers):
            raise AlreadyThere(f"maker {maker.name!r} has another key: `dal token remove-maker {maker.name}` first")
        others = [each for each in known.makers if each.key != maker.key]
        if len(others) >= MAKERS_MAX:
            raise Full(f"a server knows at most {MAKERS_MAX} makers: `dal token remove-maker NAME` makes room")
        return msgspec.structs.replace(known, makers=sorted([*others, maker], key=lambda each: each.name))

    change_makers(values, change)


def remove_maker(values: ServerValues, name: str) -> Maker:
    """Have the tokens of a maker count here no more, and return it. NotFound says which there are."""
    removed: list[Maker] = []

    def change(known: Makers) -> Makers:
        removed[:] = [each for each in known.makers if each.name == name]
        if not removed:
            there = ", ".join(each.name for each in known.makers) or "none but this server itself"
            raise NotFound(f"no maker {name!r}: there are {there}")
        return msgspec.structs.replace(known, makers=[each for each in known.makers if each.name != name])

    change_makers(values, change)
    return removed[0]
