"""Signatures: Ed25519 (RFC 8032), over a revision's encoding (docs/formats/objects.md, "Signature") or other bytes.

Whatever is signed begins with a word that says what it is: a signature of one kind of thing is none of another.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from dalsegno.formats.objects import Revision, encode
from dalsegno.terms.errors import BadInput, Damaged

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = PUBLIC_KEY_BYTES + 64
"""Of the field `Revision.signature`: the signer's public key, then the signature."""
_DOMAIN: Final = b"dalsegno revision signature 1\0"
_PRIME: Final = 2**255 - 19
_SMALL_ORDER: Final = frozenset(
    (
        0,
        1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
        _PRIME - 1,
    )
)
"""The y of the points of order 1, 2, 4 and 8: with one of these as public key, everybody can sign."""
_KEY_TYPE: Final = "ssh-ed25519"

Sign = Callable[[Revision], Revision]
"""Return a revision with the signature of whoever makes it, or as it is, when he has no key."""


def leave_unsigned(revision: Revision) -> Revision:
    """Return a revision as it is: what `Sign` does for those without a key."""
    return revision


def is_sound_key(key: bytes) -> bool:
    """Tell whether bytes are a public key that only its owner can sign for, in its one encoding."""
    y = int.from_bytes(key, "little") & (2**255 - 1)
    return len(key) == PUBLIC_KEY_BYTES and y < _PRIME and y not in _SMALL_ORDER


def _signed_bytes(revision: Revision) -> bytes:
    # The encoding names the volume and, by ids, all that the revision stands for.
    return _DOMAIN + encode(msgspec.structs.replace(revision, signature=b""))


class SigningKey:
    """A writer's private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def generate(cls) -> "SigningKey":
        """Return a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def of_text(cls, text: bytes) -> "SigningKey":
        """Return the key in an OpenSSH private key file; Damaged for what is none, or not Ed25519."""
        try:
            key = load_ssh_private_key(text, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise Damaged(f"not a private key of Ed25519 without a passphrase: {error}") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise Damaged("not a private key of Ed25519")
        return cls(key)

    def text(self) -> bytes:
        """Return the key as an OpenSSH private key file."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())

    def sign(self, revision: Revision) -> Revision:
        """Return a revision with this key's signature."""
        return msgspec.structs.replace(revision, signature=self.sign_bytes(_signed_bytes(revision)))

    def sign_bytes(self, data: bytes) -> bytes:
        """Return the public key and the signature of bytes that begin with a word for what they are."""
        return self.public + self._key.sign(data)


def find_signer(revision: Revision) -> bytes | None:
    """Return the public key that a revision is signed with, or None for one that is not signed.

    Damaged: the signature is not one, or not one of this revision.
    """
    return find_signer_of_bytes(_signed_bytes(revision), revision.signature) if revision.signature else None


def find_signer_of_bytes(data: bytes, signed: bytes) -> bytes:
    """Return the public key in `signed`, what `sign_bytes` made of these bytes. Damaged: it is not, or not genuine."""
    key, signature = signed[:PUBLIC_KEY_BYTES], signed[PUBLIC_KEY_BYTES:]
    if len(signed) != SIGNATURE_BYTES or not is_sound_key(key):
        raise Damaged("its signature is not one")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except (InvalidSignature, ValueError):
        raise Damaged("its signature is wrong: it was changed, or made in another's name") from None
    return key


def fingerprint(key: bytes) -> str:
    """Return a public key in short, as `ssh-keygen -l` shows it."""
    digest = sha256(b64decode(public_text(key).split()[1])).digest()
    return "SHA256:" + b64encode(digest).decode().rstrip("=")


def public_text(key: bytes, *, comment: str = "") -> str:
    """Return a public key as OpenSSH writes it: `ssh-ed25519 AAAA... comment`."""
    encoded = Ed25519PublicKey.from_public_bytes(key).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return " ".join([encoded.decode("ascii"), *([comment] if comment else [])])


def read_public(text: str) -> bytes:
    """Return the public key in `ssh-ed25519 AAAA...`; BadInput for another, and for one that proves nothing."""
    words = text.split()
    try:
        key = load_ssh_public_key(" ".join(words[:2]).encode())
    except (ValueError, UnsupportedAlgorithm):
        raise BadInput(f"not a public key: expected {_KEY_TYPE} AAAA..., as `dal key signers` prints it") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadInput(f"a public key of another kind: expected {_KEY_TYPE}")
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    if not is_sound_key(raw):
        raise BadInput("that key proves nothing: everybody can sign for it")
    return raw
