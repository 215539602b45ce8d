"""The signers that a pool knows: names for the public keys with which revisions are signed (docs/formats/pool.md)."""

from collections.abc import Callable, Sequence
from typing import Annotated, Final

import msgspec

from dalsegno.chunks.signatures import PUBLIC_KEY_BYTES, is_sound_key
from dalsegno.formats.objects import UNREADABLE
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import check_name
from dalsegno.terms.errors import AlreadyThere, BadInput, Damaged, Full, NotFound, TooNew

SIGNERS_REF: Final = "signers"
SIGNERS_VERSION: Final = 1
SIGNERS_MAX: Final = 1000


class Signer(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs with a key."""

    name: str
    key: Annotated[bytes, msgspec.Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
    since_ns: int


class _Signers(msgspec.Struct, kw_only=True):
    version: int
    signers: list[Signer]


def list_signers(pool: Pool) -> list[Signer]:
    """Return the signers that the pool knows, by name. Damaged, TooNew."""
    return _decode(pool, pool.get_ref(SIGNERS_REF))


def _decode(pool: Pool, data: bytes | None) -> list[Signer]:
    if data is None:
        return []
    place = pool.where_ref(SIGNERS_REF)
    try:
        version = msgspec.msgpack.decode(data, type=dict).get("version")
        if isinstance(version, int) and version > SIGNERS_VERSION:
            raise TooNew(f"{place}: signers of version {version}, this program reads {SIGNERS_VERSION}: update it")
        signers = msgspec.msgpack.decode(data, type=_Signers).signers
        for signer in signers:
            check_name(signer.name)
    except (*UNREADABLE, BadInput) as error:
        raise Damaged(f"{place}: {error}") from None
    return [signer for signer in signers if is_sound_key(signer.key)]


def trust_signer(pool: Pool, signer: Signer) -> None:
    """Add a signer. AlreadyThere: the name or the key is in the list; BadInput: a name that cannot be written."""
    check_name(signer.name)

    def change(known: Sequence[Signer]) -> Sequence[Signer]:
        for each in known:
            if each.key == signer.key and each.name == signer.name:
                return known
            if each.key == signer.key:
                raise AlreadyThere(f"this key is signer {each.name!r} already")
            if each.name == signer.name:
                raise AlreadyThere(f"there is a signer {each.name!r} with another key: `dal key remove-signer` first")
        if len(known) >= SIGNERS_MAX:
            raise Full(f"a pool knows at most {SIGNERS_MAX} signers: `dal key remove-signer NAME` makes room")
        return sorted([*known, signer], key=lambda each: each.name)

    _change(pool, change)


def remove_signer(pool: Pool, name: str) -> Signer:
    """Remove a signer and return it. NotFound says which there are."""
    removed: list[Signer] = []

    def change(known: Sequence[Signer]) -> Sequence[Signer]:
        removed[:] = [each for each in known if each.name == name]
        if not removed:
            raise NotFound(f"no signer {name!r}: there are {', '.join(each.name for each in known) or 'none'}")
        return [each for each in known if each.name != name]

    _change(pool, change)
    return removed[0]


def _change(pool: Pool, change: Callable[[Sequence[Signer]], Sequence[Signer]]) -> None:
    def changed(data: bytes | None) -> bytes:
        known = _decode(pool, data)
        wanted = list(change(known))
        if data is not None and wanted == known:
            return data
        return msgspec.msgpack.encode(_Signers(version=SIGNERS_VERSION, signers=wanted))

    pool.update_ref(SIGNERS_REF, changed, what="the list of signers")
    pool.settle_seen_ref(SIGNERS_REF)  # whoever made it so may have been killed before it was durable
