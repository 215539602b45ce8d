"""Whose signature a revision has, as far as it is known here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dalsegno.chunks.signatures import find_signer, fingerprint
from dalsegno.formats.objects import Revision
from dalsegno.pool.pool import Pool
from dalsegno.pool.signers import list_signers
from dalsegno.pool.signing_key import OwnSigner
from dalsegno.terms.errors import Damaged

SIGNED: Final = "signed"
UNKNOWN: Final = "unknown"
UNSIGNED: Final = "unsigned"
BAD: Final = "bad"
FINGERPRINT_SHOWN: Final = len("SHA256:") + 12

Signers = Mapping[bytes, str]
"""Public keys and whose they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What is known of a revision's signature."""

    status: str
    """SIGNED, by a signer that is known; UNKNOWN: by another; UNSIGNED; BAD: not genuine."""
    name: str = ""
    """Of a known signer."""
    key: bytes = b""
    """The public key that it is genuine for; empty for UNSIGNED and BAD."""

    def words(self, author: str) -> str:
        """Return for people who made a revision: the `author` that it names, and who signed it unless that is he."""
        if self.status == SIGNED and self.name == author:
            return author
        if self.status == UNSIGNED:
            return f"{author} (unsigned)"
        return f"{author} ({'BAD SIGNATURE' if self.status == BAD else f'signed by {self.signer}'})"

    @property
    def signer(self) -> str:
        """The name of who signed, or his key in short."""
        return self.name or fingerprint(self.key)[:FINGERPRINT_SHOWN] + "..."

    def value(self) -> dict[str, Any]:
        """Return it for programs."""
        key = fingerprint(self.key) if self.key else None
        return {"status": self.status, "name": self.name or None, "key": key}


def known_signers(pool: Pool, own: OwnSigner | None) -> dict[bytes, str]:
    """Return the signers that a pool knows, and whoever asks. Damaged, TooNew."""
    found = {signer.key: signer.name for signer in list_signers(pool)}
    key = own.public() if own is not None else None
    if key is not None and own is not None:
        found.setdefault(key, own.name)
    return found


def look_at_signature(revision: Revision, signers: Signers) -> Signature:
    """Return whose signature a revision has, and whether it is genuine."""
    try:
        key = find_signer(revision)
    except Damaged:
        return Signature(status=BAD)
    if key is None:
        return Signature(status=UNSIGNED)
    if key in signers:
        return Signature(status=SIGNED, name=signers[key], key=key)
    return Signature(status=UNKNOWN, key=key)


def signature_problem(revision: Revision) -> str | None:
    """Return what is wrong with a revision's signature, or None; to have none is not wrong."""
    try:
        find_signer(revision)
    except Damaged as error:
        return str(error)
    return None
