"""Tokens: who may ask what of a server. The secret is shown once; kept is its hash (docs/formats/http.md, "Tokens").

A token is `dal_<id, 16 hexadecimal digits>_<secret, 43 characters of base64url>`. What it may do is a set of rights, on
the volumes whose names fit one of its patterns. Forgetting its record is what revokes it: from that moment it opens
nothing, in a running server either.
"""

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, Protocol

import msgspec
from blake3 import blake3

from dalsegno.formats.objects import UNREADABLE
from dalsegno.pool.pool import Pool
from dalsegno.replicas.server_key import ServerValues, open_server_values
from dalsegno.terms.errors import AlreadyThere, BadInput, Damaged, NoAccess, NotFound
from dalsegno.world.chance import random_bytes

READ: Final = "read"
APPEND: Final = "append"
WRITE: Final = "write"
ADMINISTER: Final = "administer"
RIGHTS: Final = (READ, APPEND, WRITE, ADMINISTER)

MEANS: Final = {
    READ: frozenset((READ,)),
    APPEND: frozenset((APPEND,)),
    WRITE: frozenset((READ, APPEND, WRITE)),
    ADMINISTER: frozenset((READ, APPEND, WRITE, ADMINISTER)),
}
"""What each right holds. Appending is no reading: a stolen token of a writer neither takes away nor gives away."""

PEER_NOTE: Final = "server "
"""How the note of another server's token begins; its name follows."""
ID_BYTES: Final = 8
SECRET_BYTES: Final = 32
PATTERNS_MAX: Final = 64
PATTERN_BYTES_MAX: Final = 200
NOTE_BYTES_MAX: Final = 200
USED_STEP_NS: Final = 60_000_000_000
"""A token's last use is written down at most this often."""
_TOKEN: Final = re.compile(r"dal_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a server keeps of a token."""

    id: str
    digest: bytes
    """BLAKE3 of the secret's 43 characters."""
    rights: list[str]
    volumes: list[str]
    """Patterns of volume names, with `*`, `?` and `[...]`."""
    note: str = ""
    created_ns: int
    expires_ns: int = 0
    """0: never."""
    used_ns: int = 0
    """About when it was last used; 0: never."""
    peer: bool = False
    """It belongs to another server of the realm."""
    signature: bytes = b""
    """In a realm's directory: the public key of the server that made it, and its signature (replicas/makers.py)."""

    def allows(self, right: str, volume: str) -> bool:
        """Tell whether the token gives `right` on a volume."""
        return right in self.effective() and self.covers(volume)

    def covers(self, volume: str) -> bool:
        """Tell whether the token gives any right on a volume."""
        return any(fnmatchcase(volume, pattern) for pattern in self.volumes)

    def effective(self) -> frozenset[str]:
        """Return its rights with those that they hold."""
        return frozenset(right for given in self.rights for right in MEANS.get(given, ()))

    def allows_everywhere(self, right: str) -> bool:
        """Tell whether the token gives `right` on all volumes, made or not."""
        return right in self.effective() and "*" in self.volumes

    def is_expired(self, *, now_ns: int) -> bool:
        """Tell whether its time is over."""
        return bool(self.expires_ns) and now_ns >= self.expires_ns


def fitting_name(patterns: Sequence[str], stem: str) -> str:
    """Return a volume's name like `stem` that fits one of a token's patterns. NoAccess when none can."""
    if any(fnmatchcase(stem, pattern) for pattern in patterns):
        return stem
    for pattern in patterns:
        before, star, behind = pattern.partition("*")
        if star and not set(before + behind) & set("*?["):
            return before + stem + behind
    raise NoAccess(f"no volume like {stem!r}: the token is for {', '.join(map(repr, patterns)) or 'none'}")


class TokenStore(Protocol):
    """Where tokens are kept: a server's pool, or the directory of a realm."""

    def find(self, token_id: str, /) -> Token | None:
        """Return the token with this id as it is now; one that was revoked is None at once."""
        ...

    def all(self) -> list[Token]:
        """Return the tokens, oldest first."""
        ...

    def add(self, token: Token, /) -> None:
        """Keep a new token."""
        ...

    def revoke(self, token_id: str, /) -> Token:
        """Forget a token, whether it counts or not, and return what it was; NotFound."""
        ...

    def problem(self, token: Token, /) -> str:
        """Return why one of `all` opens nothing here, whatever it says; empty for one that counts."""
        ...

    def used(self, token_id: str, *, now_ns: int) -> None:
        """Note that a token was used. May be lost."""
        ...


def new_token(
    *,
    rights: Sequence[str],
    volumes: Sequence[str],
    note: str = "",
    now_ns: int,
    expires_ns: int = 0,
    peer: bool = False,
) -> tuple[Token, str]:
    """Return a token's record and its text, which nobody can make from the record."""
    wrong = [right for right in rights if right not in RIGHTS]
    if wrong or not rights:
        raise BadInput(f"right {wrong[0] if wrong else ''!r}: expected {', '.join(RIGHTS)}")
    if not volumes or len(volumes) > PATTERNS_MAX:
        raise BadInput(f"a token needs 1 to {PATTERNS_MAX} patterns of volumes, for example '*'")
    for pattern in volumes:
        if not pattern or not pattern.isprintable() or len(pattern.encode()) > PATTERN_BYTES_MAX or "/" in pattern:
            raise BadInput(f"volume pattern {pattern[:64]!r}: expected a name, or one with * and ?, like 'home*'")
    if (note and not note.isprintable()) or len(note.encode()) > NOTE_BYTES_MAX:
        raise BadInput(f"a token's note is one line of at most {NOTE_BYTES_MAX} bytes")
    if expires_ns and expires_ns <= now_ns:
        raise BadInput("the token would have expired already")
    secret = urlsafe_b64encode(random_bytes(SECRET_BYTES)).decode().rstrip("=")
    token = Token(
        id=random_bytes(ID_BYTES).hex(),
        digest=_digest(secret),
        rights=sorted(set(rights), key=RIGHTS.index),
        volumes=list(dict.fromkeys(volumes)),
        note=note,
        created_ns=now_ns,
        expires_ns=expires_ns,
        peer=peer,
    )
    return token, f"dal_{token.id}_{secret}"


def _digest(secret: str) -> bytes:
    # The secret has 256 bits of chance in it: nobody guesses it, however quick the hash.
    return blake3(secret.encode()).digest()


def split_token(text: str) -> tuple[str, str] | None:
    """Return the id and the secret of a token, or None when the text is none."""
    match = _TOKEN.fullmatch(text)
    return (match.group(1), match.group(2)) if match is not None else None


_NOBODY: Final = Token(id="", digest=bytes(32), rights=[], volumes=[], created_ns=0)


def check_token(text: str, stores: Iterable[TokenStore], *, now_ns: int) -> tuple[Token, TokenStore] | None:
    """Return the token that `text` is and where it is kept; None for one that is unknown, revoked or expired."""
    parts = split_token(text)
    if parts is None:
        return None
    token_id, secret = parts
    for store in stores:
        token = store.find(token_id)
        # The secret is compared in constant time. Whether an id is known may show in the time: it is no secret.
        fits = hmac.compare_digest(_digest(secret), (token or _NOBODY).digest)
        if token is not None and fits and not token.is_expired(now_ns=now_ns):
            return token, store
    return None


class PoolTokens:
    """The tokens of one server, in its pool, sealed under the server's own key."""

    def __init__(self, pool: Pool, values: ServerValues | None = None) -> None:
        self._values = values if values is not None else open_server_values(pool)

    def find(self, token_id: str, /) -> Token | None:
        """Return the token with this id as it is now."""
        data = self._values.get(f"tokens/{token_id}")
        # An older copy of a record may have been put back.
        return _decode(data) if data is not None and not self._values.is_revoked(token_id) else None

    def all(self) -> list[Token]:
        """Return the tokens, oldest first, with their last use."""
        found = []
        for name in self._values.list("tokens/"):
            data = self._values.get(name)
            if data is None or self._values.is_revoked(name.removeprefix("tokens/")):
                continue
            token = _decode(data)
            used = self._values.get(f"tokens-used/{token.id}")
            found.append(msgspec.structs.replace(token, used_ns=int.from_bytes(used or b"", "little")))
        return sorted(found, key=lambda token: (token.created_ns, token.id))

    def add(self, token: Token, /) -> None:
        """Keep a new token."""
        if not self._values.swap(f"tokens/{token.id}", None, msgspec.msgpack.encode(token)):
            raise AlreadyThere(f"token {token.id} exists already")

    def revoke(self, token_id: str, /) -> Token:
        """Forget a token and return what it was."""
        if not re.fullmatch(r"[0-9a-f]{16}", token_id):
            raise NotFound(f"no token {token_id[:64]!r}: `dal token list` shows what there is")
        name = f"tokens/{token_id}"
        revoked = b""

        def drop(data: bytes | None) -> None:
            nonlocal revoked
            if data is None:
                self._values.settle_seen(name)  # it must not come back
                raise NotFound(f"no token {token_id}: `dal token list` shows what there is")
            self._values.note_revoked(token_id)
            revoked = data

        self._values.update(name, drop, what=f"token {token_id}")
        self._forget_use(token_id)
        return _decode(revoked)

    def _forget_use(self, token_id: str) -> None:
        name = f"tokens-used/{token_id}"
        self._values.swap(name, self._values.get(name), None)

    def problem(self, token: Token, /) -> str:
        """Return the empty string: nobody else writes these."""
        return ""

    def used(self, token_id: str, *, now_ns: int) -> None:
        """Note that a token was used; whoever else notes it now does so instead."""
        name = f"tokens-used/{token_id}"
        self._values.swap(name, self._values.get(name), now_ns.to_bytes(8, "little"))
        if self._values.get(f"tokens/{token_id}") is None:
            self._forget_use(token_id)


def store_of(stores: Sequence[TokenStore], token_id: str) -> TokenStore | None:
    """Return where a token is kept, whether it counts or not."""
    return next((store for store in stores if any(token.id == token_id for token in store.all())), None)


def _decode(data: bytes) -> Token:
    try:
        return msgspec.msgpack.decode(data, type=Token)
    except UNREADABLE as error:
        raise Damaged(f"token record: {error}") from None
