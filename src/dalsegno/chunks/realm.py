"""A realm: secrets from which every key follows, and the ids that its pools share.

Keys come from a secret by BLAKE3 in key derivation mode (BLAKE3 paper, section 4.2), one context for each use.
"""

from collections.abc import Sequence
from contextlib import suppress
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


class _Generation:
    """One secret of a realm, and what is sealed with it; its ciphers are made when they are needed."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    @cached_property
    def wrap(self) -> AESGCM:
        """What pack keys are sealed with."""
        return AESGCM(_derive(self.secret, "pack keys"))

    @cached_property
    def values(self) -> AESGCM:
        """What values are sealed with."""
        return AESGCM(_derive(self.secret, "values"))

    @cached_property
    def identity(self) -> str:
        """The private half of the public key, as age writes it."""
        return age_identity(_derive(self.secret, "recipient of pack keys"))

    @cached_property
    def recipient(self) -> str:
        """The public key."""
        return age_recipient(self.identity)


class Realm:
    """Holds the secrets of a realm and does everything that needs them.

    A realm begins with one secret. When its key is changed, a new one is put before it: that seals from then on, and
    the older ones open what they sealed. Ids and cut points stay those of the first. Safe to use from several threads.
    """

    only_writes = False
    """Whether this machine must not read what it sent."""

    def __init__(self, secret: bytes, *, older: Sequence[bytes] = ()) -> None:
        """`older` are the secrets before `secret`, the newest first."""
        secrets = (secret, *older)
        assert all(len(each) == SECRET_BYTES for each in secrets)
        self._generations = tuple(map(_Generation, secrets))
        first = secrets[-1]
        self.realm_id = RealmId(_derive(first, "realm id")[:16])
        self.id_key = _derive(first, "object ids")
        self.block_key = _derive(first, "unsealed block tags")
        self.chunk_seed = int.from_bytes(_derive(first, "chunk cut points")[:8], "little") >> 1

    @property
    def secret(self) -> bytes:
        """The newest secret, which seals."""
        return self._generations[0].secret

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """All secrets, the newest first."""
        return tuple(each.secret for each in self._generations)

    @property
    def generation(self) -> int:
        """How many secrets there are: 1 until the key is changed."""
        return len(self._generations)

    def is_old(self, generation: int) -> bool:
        """Tell whether a newer secret than that of a generation is there: others may have the older ones, too."""
        return generation < len(self._generations)

    def at(self, generation: int) -> "Realm":
        """Return the realm as it was when it had so many secrets."""
        assert 1 <= generation <= self.generation
        secrets = self.secrets[self.generation - generation :]
        return Realm(secrets[0], older=secrets[1:])

    def succeeds(self, other: "Realm") -> bool:
        """Tell whether this is the key of `other`, as it is or after changes."""
        return self.secrets[-other.generation :] == other.secrets

    def take(self, newer: "Realm") -> None:
        """Go on with the key as it is after changes; NoAccess when it does not follow from this one."""
        if not newer.succeeds(self):
            raise NoAccess("what is said to be the newer key of the realm is not: it does not contain this one")
        if newer.generation > self.generation:
            self._generations = newer._generations

    def identify(self, kind: int, payload: bytes | memoryview) -> ObjectId:
        """Return the id of an object: BLAKE3-256 of its kind byte and payload, keyed with the realm's id key."""
        return ObjectId(blake3(kind.to_bytes(1, "little"), key=self.id_key).update(payload).digest())

    def wrap_key(self, pack_key: bytes, *, context: bytes) -> bytes:
        """Return `pack_key` sealed under the realm's key, bound to `context`."""
        nonce = random_bytes(_NONCE_BYTES)
        return nonce + self._generations[0].wrap.encrypt(nonce, pack_key, context)

    def unwrap_key(self, wrapped: bytes, *, context: bytes) -> tuple[bytes, int]:
        """Return the pack key in `wrapped`, and the generation of the secret it is under.

        NoAccess when it belongs to another realm's key.
        """
        nonce, sealed = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        generations = self._generations
        for number, each in enumerate(generations):
            with suppress(InvalidTag, ValueError):
                return each.wrap.decrypt(nonce, sealed, context), len(generations) - number
        raise NoAccess("the pack's key does not open with this pool's key")

    def keys_for_realm(self, pack_key: bytes, pack_id: bytes) -> list[tuple[int, bytes]]:
        """Return a pack's key as it is sealed in packs that others of the realm get (docs/formats/pack.md, "Keys")."""
        return self.keys_for_pool(pack_key, pack_id)

    def keys_for_pool(self, pack_key: bytes, pack_id: bytes) -> list[tuple[int, bytes]]:
        """Return a pack's key as it is sealed in packs of this machine's own pool."""
        return [(pack.KEY_REALM, self.wrap_key(pack_key, context=pack_id))]

    @property
    def recipient(self) -> str:
        """The realm's public key: who has it alone makes packs that only the realm's secret opens."""
        return self._generations[0].recipient

    def open_sealed(self, sealed: bytes) -> tuple[bytes, int]:
        """Return what was sealed to `recipient`, and the generation whose that was; NoAccess when it was not."""
        generations = self._generations
        for number, each in enumerate(generations):
            with suppress(NoAccess):
                return open_sealed(sealed, [read_identity(each.identity)]), len(generations) - number
        raise NoAccess("sealed to somebody else")

    def seal_value(self, value: bytes, *, context: bytes) -> bytes:
        """Return `value` sealed and bound to `context` (for example a ref's name)."""
        nonce = random_bytes(_NONCE_BYTES)
        return nonce + self._generations[0].values.encrypt(nonce, value, context)

    def open_value(self, sealed: bytes, *, context: bytes, since: int = 1) -> bytes:
        """Return what seal_value sealed; Damaged when a bit or the context differs.

        What was sealed with a secret of a generation before `since` is damaged, too.
        """
        generations = self._generations
        for each in generations[: max(1, len(generations) - since + 1)]:
            with suppress(InvalidTag, ValueError):
                return each.values.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        raise Damaged(f"sealed value {context.decode(errors='replace')}: damaged or from another pool")


class WriteKey(Realm):
    """A realm as a machine has it that writes and cannot read: it names objects, and seals packs to the public key.

    `secret` belongs to this machine alone. It seals what waits here to be sent, and what is remembered of volumes.
    """

    only_writes = True

    def __init__(
        self,
        *,
        realm_id: bytes,
        id_key: bytes,
        chunk_seed: int,
        recipient: str,
        generation: int = 1,
        secret: bytes = b"",
    ) -> None:
        """`generation` is that of the realm's secret behind `recipient`."""
        super().__init__(secret or random_bytes(SECRET_BYTES))
        self.realm_id = RealmId(realm_id)
        self.id_key = id_key
        self.chunk_seed = chunk_seed
        self._public = (recipient, generation)

    @classmethod
    def of(cls, realm: Realm) -> "WriteKey":
        """Return a new machine's key to write into a realm."""
        return cls(
            realm_id=realm.realm_id,
            id_key=realm.id_key,
            chunk_seed=realm.chunk_seed,
            recipient=realm.recipient,
            generation=realm.generation,
        )

    @property
    def recipient(self) -> str:
        """The realm's public key."""
        return self._public[0]

    @property
    def generation(self) -> int:
        """How many secrets the realm had when it gave away `recipient`."""
        return self._public[1]

    def succeeds(self, other: Realm) -> bool:
        """Tell whether this writes into the same realm; who only writes cannot tell more."""
        return other.only_writes and (self.realm_id, self.id_key) == (other.realm_id, other.id_key)

    def take(self, newer: Realm) -> None:
        """Seal to the newer public key from now on; NoAccess when that is another realm's."""
        if not newer.succeeds(self):
            raise NoAccess("what is said to be the newer key to write into the realm is not of this realm")
        if newer.generation > self.generation:
            self._public = (newer.recipient, newer.generation)

    def keys_for_realm(self, pack_key: bytes, pack_id: bytes) -> list[tuple[int, bytes]]:
        """Return a pack's key sealed to the realm's public key: this machine cannot open it again."""
        return [(pack.KEY_AGE, seal_to([self.recipient], pack.SEALED_KEY.pack(pack_id, pack_key, self.id_key)))]

    def open_sealed(self, sealed: bytes) -> tuple[bytes, int]:
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

    def open_sealed(self, sealed: bytes) -> tuple[bytes, int]:
        """Return what was sealed to the reader's own key; NoAccess when it was not."""
        return open_sealed(sealed, [self._reader]), self.generation

    def wrap_key(self, pack_key: bytes, *, context: bytes) -> bytes:
        """Refused: nobody could open it."""
        raise Refused("what others gave you can be read with your key, not made anew under theirs")
