"""A realm: one secret from which every key follows, and the ids that its pools share.

Keys come from the secret by BLAKE3 in key derivation mode (BLAKE3 paper, section 4.2), one context for each use.
"""

from functools import cached_property
from typing import Any, Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dalsegno.chunks.recipients import age_identity, age_recipient, open_sealed, read_identity, seal_to
from dalsegno.formats import pack
from dalsegno.terms.errors import Damaged, NoAccess, Refused
from dalsegno.terms.ids import ObjectId, RealmId
from dalsegno.world.chance import random_bytes

SECRET_BYTES: Final = 32
CHUNK_SEED_MAX: Final = 2**63 - 1
_NONCE_BYTES: Final = 12


def _derive(secret: bytes, use: str) -> bytes:
    return blake3(secret, derive_key_context=f"dalsegno 2026-11 {use}").digest()


class Realm:
    """Holds the secret of a realm and does everything that needs it."""

    only_writes = False
    """Whether this machine must not read what it sent."""

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

    def keys_for_realm(self, pack_key: bytes, pack_id: bytes) -> list[tuple[int, bytes]]:
        """Return a pack's key as it is sealed in packs that others of the realm get (docs/formats/pack.md, "Keys")."""
        return self.keys_for_pool(pack_key, pack_id)

    def keys_for_pool(self, pack_key: bytes, pack_id: bytes) -> list[tuple[int, bytes]]:
        """Return a pack's key as it is sealed in packs of this machine's own pool."""
        return [(pack.KEY_REALM, self.wrap_key(pack_key, context=pack_id))]

    @cached_property
    def recipient(self) -> str:
        """The realm's public key: who has it alone makes packs that only the realm's secret opens."""
        return age_recipient(self._identity)

    @cached_property
    def _identity(self) -> str:
        return age_identity(_derive(self.secret, "recipient of pack keys"))

    def open_sealed(self, sealed: bytes) -> bytes:
        """Return what was sealed to `recipient`; NoAccess when it was not."""
        return open_sealed(sealed, [read_identity(self._identity)])

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


class WriteKey(Realm):
    """A realm as a machine has it that writes and cannot read: it names objects, and seals packs to the public key.

    `secret` belongs to this machine alone. It seals what waits here to be sent, and what is remembered of volumes.
    """

    only_writes = True
    recipient: str = ""

    def __init__(self, *, realm_id: bytes, id_key: bytes, chunk_seed: int, recipient: str, secret: bytes = b"") -> None:
        super().__init__(secret or random_bytes(SECRET_BYTES))
        self.realm_id = RealmId(realm_id)
        self.id_key = id_key
        self.chunk_seed = chunk_seed
        self.recipient = recipient

    @classmethod
    def of(cls, realm: Realm) -> "WriteKey":
        """Return a new machine's key to write into a realm."""
        return cls(realm_id=realm.realm_id, id_key=realm.id_key, chunk_seed=realm.chunk_seed, recipient=realm.recipient)

    def keys_for_realm(self, pack_key: bytes, pack_id: bytes) -> list[tuple[int, bytes]]:
        """Return a pack's key sealed to the realm's public key: this machine cannot open it again."""
        return [(pack.KEY_AGE, seal_to([self.recipient], pack.SEALED_KEY.pack(pack_id, pack_key, self.id_key)))]

    def open_sealed(self, sealed: bytes) -> bytes:
        """NoAccess: this machine only writes."""
        raise NoAccess("this machine's key only writes: what it sent is read where the realm's own key is")


class DumpReader(Realm):
    """A realm as it is seen by somebody who was given dumps of it: its ids can be checked, nothing else opens.

    `secret`, which is random, seals what this process keeps for itself.
    """

    def __init__(self, identity: Any, *, realm_id: bytes, id_key: bytes) -> None:
        super().__init__(random_bytes(SECRET_BYTES))
        self.realm_id = RealmId(realm_id)
        self.id_key = id_key
        self._reader = identity

    def open_sealed(self, sealed: bytes) -> bytes:
        """Return what was sealed to the reader's own key; NoAccess when it was not."""
        return open_sealed(sealed, [self._reader])

    def wrap_key(self, pack_key: bytes, *, context: bytes) -> bytes:
        """Refused: nobody could open it."""
        raise Refused("what others gave you can be read with your key, not made anew under theirs")
