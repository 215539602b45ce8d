"""A realm: one secret from which every key follows, and the ids that its pools share.

Keys come from the secret by BLAKE3 in key derivation mode (BLAKE3 paper, section 4.2), one context for each use.
"""

from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dalsegno.terms.errors import Damaged, NoAccess
from dalsegno.terms.ids import ObjectId, RealmId
from dalsegno.world.chance import random_bytes

SECRET_BYTES: Final = 32
_NONCE_BYTES: Final = 12


def _derive(secret: bytes, use: str) -> bytes:
    return blake3(secret, derive_key_context=f"dalsegno 2026-11 {use}").digest()


class Realm:
    """Holds the secret of a realm and does everything that needs it."""

    def __init__(self, secret: bytes) -> None:
        assert len(secret) == SECRET_BYTES
        self.secret = secret
        self.realm_id = RealmId(_derive(secret, "realm id")[:16])
        self.id_key = _derive(secret, "object ids")
        self.block_key = _derive(secret, "unsealed block tags")
        self.chunk_seed = int.from_bytes(_derive(secret, "chunk cut points")[:8], "little") >> 1
        self._wrap = AESGCM(_derive(secret, "pack keys"))
        self._values = AESGCM(_derive(secret, "values"))

    def identify(self, kind: int, payload: bytes | memoryview) -> ObjectId:
        """Return the id of an object: BLAKE3-256 of its kind byte and payload, keyed with the realm's id key."""
        return ObjectId(blake3(kind.to_bytes(1, "little"), key=self.id_key).update(payload).digest())

    def wrap_key(self, pack_key: bytes, *, context: bytes) -> bytes:
        """Return `pack_key` sealed under the realm's key, bound to `context`."""
        nonce = random_bytes(_NONCE_BYTES)
        return nonce + self._wrap.encrypt(nonce, pack_key, context)

    def unwrap_key(self, wrapped: bytes, *, context: bytes) -> bytes:
        """Return the pack key in `wrapped`; NoAccess when it belongs to another realm's key."""
        try:
            return self._wrap.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise NoAccess("the pack's key does not open with this pool's key") from None

    def seal_value(self, value: bytes, *, context: bytes) -> bytes:
        """Return `value` sealed and bound to `context` (for example a ref's name)."""
        nonce = random_bytes(_NONCE_BYTES)
        return nonce + self._values.encrypt(nonce, value, context)

    def open_value(self, sealed: bytes, *, context: bytes) -> bytes:
        """Return what seal_value sealed; Damaged when a bit or the context differs."""
        try:
            return self._values.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise Damaged(f"sealed value {context.decode(errors='replace')}: damaged or from another pool") from None
