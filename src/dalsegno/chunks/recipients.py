"""Keys sealed to public keys, in the age format (https://age-encryption.org/v1), by the library pyrage."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import bech32
import pyrage
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from dalsegno.terms.errors import BadInput, NoAccess

_IDENTITY_PREFIX: Final = "age-secret-key-"
SECRET_BYTES: Final = 32
RECIPIENTS_MAX: Final = 64
STANZAS_MAX: Final = RECIPIENTS_MAX + 2
"""age puts one in that is nobody's."""
SEALED_BYTES_MAX: Final = 16 * 1024
_AGE: Final = b"age-encryption.org/v1\n"


def age_identity(secret: bytes) -> str:
    """Return the age identity (X25519) that 32 bytes are: `AGE-SECRET-KEY-1...`."""
    assert len(secret) == SECRET_BYTES
    words = bech32.convertbits(secret, 8, 5) or []
    return str(bech32.bech32_encode(_IDENTITY_PREFIX, words)).upper()


def age_recipient(identity: str) -> str:
    """Return the public key of an age identity: `age1...`."""
    return str(pyrage.x25519.Identity.from_str(identity).to_public())


def check_recipient(text: str) -> str:
    """Return a recipient that something can be sealed to, `age1...` or `ssh-ed25519 ...`; BadInput for another."""
    _recipient(text)
    return text


def _recipient(text: str) -> Any:
    if holds_identity(text):
        raise BadInput("that is a private key: a recipient is named by the public one, age1... or ssh-ed25519 ...")
    try:
        if text.startswith("ssh-"):
            return pyrage.ssh.Recipient.from_str(text)
        return pyrage.x25519.Recipient.from_str(text)
    except (pyrage.RecipientError, UnicodeEncodeError) as error:
        raise BadInput(f"recipient {text!r}: {error}: expected age1... or ssh-ed25519 ...") from None


def holds_identity(text: str) -> bool:
    """Tell whether the text of a file looks like a private key of age or ssh."""
    return "-----BEGIN OPENSSH PRIVATE KEY-----" in text or "AGE-SECRET-KEY-1" in text.upper()


def read_identity(text: str, *, passphrase: Callable[[], str] | None = None) -> Any:
    """Return the private key in the text of a file: age identities' own lines, or one OpenSSH private key.

    `passphrase` is asked for that of an OpenSSH key. BadInput, when the text is neither; NoAccess for a wrong one.
    """
    if "-----BEGIN" in text:
        try:
            return pyrage.ssh.Identity.from_buffer(
                _without_passphrase(text.encode(errors="backslashreplace"), passphrase)
            )
        except pyrage.IdentityError as error:
            raise BadInput(f"not a private key that can be used here: {error}") from None
    for line in text.splitlines():
        if line.strip().upper().startswith("AGE-SECRET-KEY-1"):
            try:
                return pyrage.x25519.Identity.from_str(line.strip())
            except (pyrage.IdentityError, UnicodeEncodeError) as error:
                raise BadInput(f"not an age identity: {error}") from None
    raise BadInput("holds no age identity (AGE-SECRET-KEY-1...) and no OpenSSH private key")


def _without_passphrase(text: bytes, passphrase: Callable[[], str] | None) -> bytes:
    try:
        load_ssh_private_key(text, None)
    except TypeError:  # how the library says that it is under a passphrase
        if passphrase is None:
            raise NoAccess("the private key is under a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        return text  # whoever uses it says what is wrong
    else:
        return text
    try:
        key = load_ssh_private_key(text, passphrase().encode())
    except ValueError:
        raise NoAccess("the private key does not open with this passphrase") from None
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def seal_to(recipients: Sequence[str], value: bytes) -> bytes:
    """Return `value` as an age file that each of the recipients opens. BadInput: there are too many."""
    if len(recipients) > RECIPIENTS_MAX:
        raise BadInput(f"{len(recipients)} public keys: at most {RECIPIENTS_MAX} at once")
    return bytes(pyrage.encrypt(value, [_recipient(text) for text in recipients]))


def open_sealed(sealed: bytes, identities: Iterable[Any]) -> bytes:
    """Return what `seal_to` sealed; NoAccess when none of the identities opens it, or it is damaged or very long.

    The library's time grows with the square of the length: a megabyte, which anybody can write, would take hours.
    """
    if len(sealed) > SEALED_BYTES_MAX or sealed.count(b"\n-> ") > STANZAS_MAX or not sealed.startswith(_AGE):
        raise NoAccess(f"sealed in no way that this program reads, or to more than {RECIPIENTS_MAX} public keys")
    try:
        return bytes(pyrage.decrypt(sealed, list(identities)))
    except pyrage.DecryptError as error:
        raise NoAccess(f"sealed to somebody else ({error})") from None
