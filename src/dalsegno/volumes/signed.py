"""Whose signature a revision has, as far as it is known here, and what a volume that takes only signed ones takes.

A merge of diverged heads has no signature: everybody who merges the same heads must make the same revision. It counts
as signed when what it merged does, and when merging that again makes the same
(docs/decisions/024-revisions-are-signed.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from dalsegno.chunks.realm import Realm
from dalsegno.chunks.signatures import find_signer, fingerprint, public_text
from dalsegno.formats.objects import Revision
from dalsegno.pool.contract import Source
from dalsegno.pool.pool import Pool
from dalsegno.pool.signers import list_signers
from dalsegno.pool.signing_key import OwnSigner
from dalsegno.pool.sources import Scratch
from dalsegno.terms.errors import Damaged, NotFound, Refused, Unsigned
from dalsegno.terms.ids import hex_short
from dalsegno.trees.read import read_revision
from dalsegno.volumes.state import VolumeState

SIGNED: Final = "signed"
UNKNOWN: Final = "unknown"
UNSIGNED: Final = "unsigned"
BAD: Final = "bad"
SETTING: Final = "signed"
"""Key of a volume's settings: REQUIRED, when it takes only revisions of signers that are known."""
REQUIRED: Final = "required"
MERGES_MAX: Final = 64
"""More merges than that are not made again to see whether a head counts as signed."""
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
    found = list_keys(pool)
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


def requires_signatures(state: VolumeState) -> bool:
    """Tell whether a volume takes only revisions of signers that are known."""
    return state.settings.get(SETTING) == REQUIRED


def list_keys(pool: Pool) -> dict[bytes, str]:
    """Return the signers that a pool knows. Damaged, TooNew."""
    return {signer.key: signer.name for signer in list_signers(pool)}


def require_signed(pool: Pool, state: VolumeState, revision: Revision) -> None:
    """Refuse a new revision that is not of a signer whom the pool knows, if the volume takes only such."""
    if requires_signatures(state):
        problem = _problem_of(look_at_signature(revision, list_keys(pool)))
        _raise_for(state.name, problem and f"this one {problem}")


def require_signed_line(
    source: Source, pool: Pool, state: VolumeState, head: bytes, *, is_known: Callable[[bytes], bool] = lambda _: False
) -> None:
    """Refuse a head that is not of a signer whom the pool knows, if the volume takes only such.

    A merge counts as signed when all that it merged is signed, or `is_known`, and when it is what merging makes.
    """
    if requires_signatures(state):
        _raise_for(state.name, find_problem(source, pool.realm, state, head, list_keys(pool), is_known=is_known))


def _raise_for(name: str, problem: str | None) -> None:
    if problem is not None:
        raise Unsigned(f"volume {name!r} takes only signed states: {problem}")


def find_problem(
    source: Source,
    realm: Realm,
    state: VolumeState,
    head: bytes,
    signers: Signers,
    *,
    is_known: Callable[[bytes], bool] = lambda _: False,
) -> str | None:
    """Return why a revision does not count as signed, for this volume, by one of the signers; None when it does.

    NotFound: it, or what it merged, is not here.
    """
    stack, merges, seen = [head], [], {head}
    while stack:
        identity = stack.pop()
        if is_known(identity):
            continue
        revision = read_revision(source, identity)
        if not _is_merge(revision):
            # Behind one that is signed nothing is looked at: its maker went on from there.
            if (problem := _problem_of(look_at_signature(revision, signers))) is not None:
                return f"revision {hex_short(identity)} {problem}"
            if revision.volume != state.id:
                return f"revision {hex_short(identity)} was signed for another volume"
            continue
        merges.append((identity, revision))
        if len(merges) > MERGES_MAX:
            return f"revision {hex_short(head)} has more than {MERGES_MAX} merges behind it that nobody signed"
        for parent in revision.parents:
            if parent not in seen:
                seen.add(parent)
                stack.append(parent)
    for identity, revision in merges:
        if not _is_made_by_merging(source, realm, identity, revision):
            return f"revision {hex_short(identity)} is not what merging its parents makes here, and is not signed"
    return None


def _is_merge(revision: Revision) -> bool:
    return not revision.signature and len(revision.parents) == 2


def _is_made_by_merging(source: Source, realm: Realm, identity: bytes, revision: Revision) -> bool:
    # Loaded only where a volume requires signatures and was merged.
    merge_heads = import_module("dalsegno.volumes.resolve").merge_heads
    beside = Scratch(realm, source)
    try:
        return bool(merge_heads(beside, beside, *revision.parents) == identity)
    except (NotFound, Refused):
        return False


def _problem_of(signature: Signature) -> str | None:
    if signature.status == SIGNED:
        return None
    if signature.status == UNSIGNED:
        return "is not signed"
    if signature.status == BAD:
        return "has a signature that is not genuine"
    key = public_text(signature.key)
    return (
        f"is signed with a key that is not known here; when you know whose it is: `dal key trust-signer NAME '{key}'`"
    )
