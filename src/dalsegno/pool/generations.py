"""The generations of a pool's key: secrets that followed one another, of which the newest opens the older ones.

Only who has the newest secret gets at the others, which pool.toml holds sealed under it; who kept an older one opens
nothing that was written after it (docs/decisions/025-a-pools-key-is-changed.md). A change goes in steps, each durable
before the next, and is taken up again where it was cut off:

    1. the key files of who makes it hold the new secret, before the old ones
    2. pool.toml: new secret, new holders; refs of the old one are still believed
    3. every ref is sealed anew
    4. pool.toml: refs of the old one are believed no more
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dalsegno.backends.address import open_backend
from dalsegno.backends.contract import Backend
from dalsegno.chunks.realm import SECRET_BYTES, Realm
from dalsegno.pool.settings import (
    GENERATIONS_MAX,
    REFS_VERSION,
    SETTINGS_NAME,
    Holder,
    PoolSettings,
    decode_settings,
    encode_settings,
    not_genuine,
    read_settings,
)
from dalsegno.terms.errors import Conflict, Damaged, Full, NoAccess, Refused
from dalsegno.terms.times import show_time
from dalsegno.world.chance import random_bytes

HOLDERS_LOCK: Final = "holders"
"""Held by who changes pool.toml, and by who seals a ref and writes it."""
_NONCE_BYTES: Final = 12
_CONTEXT: Final = b"dalsegno older secrets 1\0"


def _older_cipher(secret: bytes) -> AESGCM:
    return AESGCM(blake3(secret, derive_key_context="dalsegno 2026-11 older secrets").digest())


def seal_older(realm: Realm, pool_id: bytes) -> bytes:
    """Return the older secrets of a realm, the newest first, sealed under the newest of all for a pool."""
    nonce = random_bytes(_NONCE_BYTES)
    joined = b"".join(realm.secrets[1:])
    return nonce + _older_cipher(realm.secret).encrypt(nonce, joined, _CONTEXT + pool_id + realm.realm_id)


def realm_of(settings: PoolSettings, secret: bytes) -> Realm | None:
    """Return the realm whose newest secret this is as a pool's settings tell it, or None when it is not."""
    if len(secret) != SECRET_BYTES:
        return None
    older: list[bytes] = []
    if settings.generation > 1:
        sealed, context = settings.older, _CONTEXT + settings.pool_id + settings.realm_id
        try:
            joined = _older_cipher(secret).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except InvalidTag:
            return None
        older = [joined[at : at + SECRET_BYTES] for at in range(0, len(joined), SECRET_BYTES)]
    realm = Realm(secret, older=older)
    return realm if realm.realm_id == settings.realm_id else None


def fitting_realm(settings: PoolSettings, key: Realm) -> Realm | None:
    """Return the realm as a pool has it, by a key that has the newest secret of the pool; or None.

    The key may be newer than the pool: another pool of its realm, or a change of the key that was cut off.
    """
    return next((found for secret in key.secrets if (found := realm_of(settings, secret)) is not None), None)


def is_of_before(settings: PoolSettings, key: Realm) -> str:
    """Return what to say of a key that is of the pool's realm and does not open the pool."""
    return (
        f"is of before the key of this pool was changed on {show_time(settings.changed_ns)}: it opens nothing here any "
        f"more (generation {key.generation}, the pool's is {settings.generation}); get a copy of the new one "
        "(`dal key export`), then `dal key import`"
    )


def new_secret_after(realm: Realm, known: Sequence[Realm]) -> Realm:
    """Return the realm's key after a change: the newest of those that are known already, or one with a fresh secret.

    A key file that is ahead of its pool is of a change that was cut off: what it holds is never made anew, since
    somebody may have been told it. Full: it was changed too often.
    """
    later = [key for key in known if key.generation > realm.generation and key.succeeds(realm)]
    if later:
        return max(later, key=lambda key: key.generation)
    if realm.generation >= GENERATIONS_MAX:
        raise Full(f"the key was changed {GENERATIONS_MAX} times: back up into a new pool (`dal init`)")
    return Realm(random_bytes(SECRET_BYTES), older=realm.secrets)


def change_settings(
    place: Path | Backend, realm: Realm, change: Callable[[PoolSettings], tuple[PoolSettings, Realm]]
) -> PoolSettings:
    """Put the settings, and the realm that signs them, in the place of the pool's that `change` makes of those.

    Two at once wait for each other; the file is replaced whole. What `change` raises leaves all as it was. Damaged: the
    settings are not those of the realm. Conflict: its key was changed meanwhile.
    """
    backend = open_backend(place)
    with backend.lock(HOLDERS_LOCK) as lock:
        lock.acquire()
        # `change` may find done what somebody did that was killed before he made it durable
        backend.settle_value(SETTINGS_NAME)
        settings = read_settings(backend)
        if not settings.holders:
            raise Refused(f"{backend}: nothing is encrypted here: there is no key to hold")
        if settings.generation > realm.generation:
            raise Conflict(f"{backend}: another process changed its key just now: nothing was done")
        if realm_of(settings, realm.secret) is None or not settings.is_genuine(realm.secret):
            raise Damaged(not_genuine(backend))
        changed, signer = change(settings)
        if not changed.holders:
            raise Refused("that is the only holder: without it nobody could open the pool; add another one before")
        data = encode_settings(changed, signer.secret)
        new = decode_settings(data, Path(backend.where(SETTINGS_NAME)))
        assert new.is_genuine(signer.secret) and new.holders == changed.holders
        assert realm_of(new, signer.secret) is not None
        backend.replace(SETTINGS_NAME, data)
        return new


def change_key(
    place: Path | Backend,
    realm: Realm,
    *,
    now_ns: int,
    prepare: Callable[[PoolSettings], tuple[Realm, tuple[Holder, ...]]],
) -> PoolSettings:
    """Do steps 1 and 2 of a change; `prepare` does the first, and returns the new key and its holders."""

    def change(settings: PoolSettings) -> tuple[PoolSettings, Realm]:
        new, holders = prepare(settings)
        assert new.generation > realm.generation and new.succeeds(realm)
        changed = replace(
            settings,
            version=3,
            generation=new.generation,
            refs_since=settings.refs_since,
            changed_ns=now_ns,
            older=seal_older(new, settings.pool_id),
            holders=holders,
        )
        return changed, new

    return change_settings(place, realm, change)


class PoolWithRefs(Protocol):
    """A pool whose refs are sealed anew, and that has been opened with its newest secret, or renews itself."""

    backend: Backend
    realm: Realm

    def renew_key(self) -> None:
        """Go on with the key as it is now."""
        ...

    def reseal_refs(self) -> list[str]:
        """Seal every ref with the newest secret; return the names of those that cannot be opened."""
        ...


def finish_change(pool: PoolWithRefs) -> list[str]:
    """Do steps 3 and 4 of a change that has come so far; return the refs that cannot be opened and stay as they are."""
    pool.renew_key()
    damaged = pool.reseal_refs()
    realm = pool.realm

    def change(settings: PoolSettings) -> tuple[PoolSettings, Realm]:
        return replace(settings, refs_since=settings.generation, refs=settings.refs if damaged else REFS_VERSION), realm

    if read_settings(pool.backend).refs_since < realm.generation:
        change_settings(pool.backend, realm, change)
    pool.renew_key()
    return damaged


def refuse_old_seals(pool: PoolWithRefs) -> None:
    """Seal what is left of refs of version 1 anew, and have none of these believed any more.

    They were bound to a name alone, so that one of another pool of the realm could stand in another's place. Of a pool
    that is not encrypted whoever holds the storage makes refs of any version.
    """
    settings = read_settings(pool.backend)
    if settings.refs == REFS_VERSION or not settings.holders or pool.realm.only_writes or pool.reseal_refs():
        return
    realm = pool.realm
    change_settings(pool.backend, realm, lambda settings: (replace(settings, refs=REFS_VERSION), realm))
    pool.renew_key()


def check_succeeds(key: Realm, realm: Realm, name: str) -> None:
    """Raise NoAccess when the key that `name` holds is not the realm's after changes."""
    if key.only_writes or not key.succeeds(realm):
        raise NoAccess(f"{name}: does not hold the key of this pool's realm as it was after changes")
