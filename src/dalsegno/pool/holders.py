"""The holders of a pool's key: how each gets at the realm's secret, and how one is added, changed, removed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from dalsegno.backends.address import open_backend
from dalsegno.backends.contract import Backend
from dalsegno.chunks.realm import SECRET_BYTES, Realm
from dalsegno.chunks.recipients import check_recipient, open_sealed, seal_to
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
    decode_settings,
    encode_settings,
    not_genuine,
    read_settings,
)
from dalsegno.terms.errors import AlreadyThere, BadInput, Conflict, Damaged, NoAccess, NotFound, Refused
from dalsegno.world.chance import random_bytes

HOLDERS_LOCK: Final = "holders"
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


def _is_of(secret: bytes, realm_id: bytes) -> bool:
    return len(secret) == SECRET_BYTES and Realm(secret).realm_id == realm_id


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
        if not _is_of(secret, settings.realm_id):
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
        if _is_of(secret, settings.realm_id):  # anybody can seal anything to a public key
            return secret, holder
    return None


def change_holders(
    place: Path | Backend, secret: bytes, change: Callable[[PoolSettings], Sequence[Holder]]
) -> PoolSettings:
    """Put the holders in the place of the pool's that `change` makes of its present settings; return the new ones.

    Two at once wait for each other; the file is replaced whole. What `change` raises leaves all as it was. Damaged: the
    settings are not those of the realm with this secret.
    """
    backend = open_backend(place)
    with backend.lock(HOLDERS_LOCK) as lock:
        lock.acquire()
        backend.settle_value(
            SETTINGS_NAME
        )  # `change` may find done what somebody did that was killed before he made it durable
        settings = read_settings(backend)
        if not settings.holders:
            raise Refused(f"{backend}: nothing is encrypted here: there is no key to hold")
        if not _is_of(secret, settings.realm_id) or not settings.is_genuine(secret):
            raise Damaged(not_genuine(backend))
        holders = tuple(change(settings))
        if not holders:
            raise Refused("that is the only holder: without it nobody could open the pool; add another one before")
        data = encode_settings(replace(settings, version=2, holders=holders), secret)
        new = decode_settings(data, Path(backend.where(SETTINGS_NAME)))
        assert new.is_genuine(secret) and new.holders == holders
        backend.replace(SETTINGS_NAME, data)
        return new


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
        raise Conflict(f"holder {before.name!r} was changed by somebody else just now: nothing was done")
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
