"""The holders of a pool's key: how each gets at the realm's secret, and how one is added, changed, removed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from dalsegno.backends.contract import Backend
from dalsegno.chunks.realm import Realm
from dalsegno.chunks.recipients import check_recipient, open_sealed, seal_to
from dalsegno.pool.generations import change_settings, realm_of
from dalsegno.pool.settings import (
    KEY_FILE,
    PASSPHRASE,
    RECIPIENT,
    SALT_BYTES,
    SETTINGS_NAME,
    Holder,
    KdfCost,
    PoolSettings,
    check_name,
)
from dalsegno.terms.errors import AlreadyThere, BadInput, Conflict, Damaged, NoAccess, NotFound
from dalsegno.world.chance import random_bytes

_NONCE_BYTES: Final = 12
_HOLDER_2: Final = b"dalsegno holder 2\0"


def passphrase_key(passphrase: str, *, salt: bytes, cost: KdfCost) -> bytes:
    """Return the key that a passphrase stands for."""
    kdf = Argon2id(
        salt=salt,
        length=32,
        iterations=cost.passes,
        lanes=cost.lanes,
        memory_cost=cost.memory_kib,
        ad=None,
        secret=None,
    )
    return kdf.derive(passphrase.encode())


def _binding(holder: Holder, pool_id: bytes) -> bytes:
    return pool_id if holder.is_old else _HOLDER_2 + pool_id + holder.name.encode()


def passphrase_holder(
    passphrase: str, *, name: str, secret: bytes, pool_id: bytes, cost: KdfCost, is_old: bool = False
) -> Holder:
    """Return a holder whose passphrase opens the secret; BadInput for an empty one, or a cost out of bounds."""
    if not passphrase:
        raise BadInput("the passphrase is empty")
    if not cost.is_sane():
        raise BadInput(f"{cost}: out of bounds")
    salt, nonce = random_bytes(SALT_BYTES), random_bytes(_NONCE_BYTES)
    holder = Holder(name=check_name(name), kind=PASSPHRASE, cost=cost, salt=salt, is_old=is_old)
    key = passphrase_key(passphrase, salt=salt, cost=cost)
    return replace(holder, wrapped_secret=nonce + AESGCM(key).encrypt(nonce, secret, _binding(holder, pool_id)))


def recipient_holder(recipient: str, *, name: str, secret: bytes) -> Holder:
    """Return a holder whose private key, of age or ssh, opens the secret; BadInput for what is no public key."""
    text = " ".join(check_recipient(recipient).split()[:2])
    return Holder(name=check_name(name), kind=RECIPIENT, recipient=text, wrapped_secret=seal_to([text], secret))


def open_by_passphrase(settings: PoolSettings, passphrase: str) -> tuple[bytes, Holder] | None:
    """Return the secret and the holder whose passphrase it is, or None. Damaged: what it opens is something else."""
    for holder in settings.holders:
        if holder.kind != PASSPHRASE:
            continue
        key = passphrase_key(passphrase, salt=holder.salt, cost=holder.cost)
        wrapped = holder.wrapped_secret
        try:
            binding = _binding(holder, settings.pool_id)
            secret = AESGCM(key).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], binding)
        except (InvalidTag, ValueError):
            continue
        if realm_of(settings, secret) is None:
            raise Damaged(f"{SETTINGS_NAME}: its secret is not that of its realm: put back your copy of it")
        return secret, holder
    return None


def open_by_identity(settings: PoolSettings, identity: Any) -> tuple[bytes, Holder] | None:
    """Return the secret and the holder whose private key of age or ssh it is, or None."""
    for holder in settings.holders:
        if holder.kind != RECIPIENT:
            continue
        try:
            secret = open_sealed(holder.wrapped_secret, [identity])
        except NoAccess:
            continue
        if realm_of(settings, secret) is not None:  # anybody can seal anything to a public key
            return secret, holder
    return None


def change_holders(
    place: Path | Backend, realm: Realm, change: Callable[[PoolSettings], Sequence[Holder]]
) -> PoolSettings:
    """Put the holders in the place of the pool's that `change` makes of its present settings; return the new ones.

    Errors are those of `change_settings` (generations.py).
    """

    def changed(settings: PoolSettings) -> tuple[PoolSettings, Realm]:
        return replace(settings, version=max(settings.version, 2), holders=tuple(change(settings))), realm

    return change_settings(place, realm, changed)


def renewed_holders(
    settings: PoolSettings, new: Realm, *, opened_by: str | None, passphrase: str | None, has_key_file: bool
) -> tuple[tuple[Holder, ...], tuple[Holder, ...]]:
    """Return the holders of a new key, and those that cannot be among them.

    Public keys are; of passphrases the one that was given, of the holder `opened_by`; key files if one was renewed.
    """
    kept, dropped = [], []
    for holder in settings.holders:
        if holder.kind == RECIPIENT:
            kept.append(recipient_holder(holder.recipient, name=holder.name, secret=new.secret))
        elif holder.kind == PASSPHRASE and holder.name == opened_by and passphrase is not None:
            kept.append(
                passphrase_holder(
                    passphrase, name=holder.name, secret=new.secret, pool_id=settings.pool_id, cost=holder.cost
                )
            )
        elif holder.kind == KEY_FILE and has_key_file:
            kept.append(holder)
        else:
            dropped.append(holder)
    return tuple(kept), tuple(dropped)


def with_holder(settings: PoolSettings, holder: Holder) -> tuple[Holder, ...]:
    """Return the holders with one more; AlreadyThere: one has this name or this public key."""
    for each in settings.holders:
        if each.name == holder.name:
            raise AlreadyThere(f"there is a holder {holder.name!r}: choose another name, --name NAME")
        if holder.recipient and each.recipient == holder.recipient:
            raise AlreadyThere(f"this public key is holder {each.name!r} already")
    return (*settings.holders, holder)


def with_changed(settings: PoolSettings, before: Holder, after: Holder) -> tuple[Holder, ...]:
    """Return the holders with `after` in the place of `before`; Conflict: that is not as it was any more."""
    if before not in settings.holders:
        raise Conflict(f"holder {before.name!r} was changed by another process just now: nothing was done")
    return tuple(after if holder == before else holder for holder in settings.holders)


def without_holder(settings: PoolSettings, name: str) -> tuple[Holder, ...]:
    """Return the holders without one; NotFound."""
    find_holder(settings, name)
    return tuple(holder for holder in settings.holders if holder.name != name)


def find_holder(settings: PoolSettings, name: str) -> Holder:
    """Return the holder of a name; NotFound says which there are."""
    for holder in settings.holders:
        if holder.name == name:
            return holder
    raise NotFound(f"no holder {name!r}: there are {', '.join(holder.name for holder in settings.holders)}")


def free_name(holders: Sequence[Holder], wanted: str) -> str:
    """Return a name that no holder has, the wanted one if possible."""
    names = {holder.name for holder in holders}
    numbered = (f"{wanted}-{number}" for number in range(2, len(names) + 3))
    return wanted if wanted not in names else next(name for name in numbered if name not in names)


def key_file_holder() -> Holder:
    """Return the holder that is a key file."""
    return Holder(name=KEY_FILE, kind=KEY_FILE)
