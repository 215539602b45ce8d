"""What a server keeps for itself: values in its pool that neither the realm's key nor anybody's token opens.

Its certificate's key, the token that it shows its peers, the records of tokens, and where it and its directory are: all
of these lie in the pool's directory, sealed under a key of the server's own. That key is a file of its own, outside of
the pool (docs/formats/pool.md, "The server's own values"), so that whoever copies the pool, or reads it on another
machine, has none of them, even with the realm's key, which every client gets.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from blake3 import blake3

from dalsegno.chunks.realm import SECRET_BYTES, Realm
from dalsegno.pool.pool import Pool
from dalsegno.pool.swaps import update_value
from dalsegno.terms.errors import Damaged, NoAccess, NotFound
from dalsegno.terms.ids import hex_short
from dalsegno.world import places
from dalsegno.world.chance import random_bytes
from dalsegno.world.files import (
    FileLock,
    file_errors,
    make_directory,
    remove_durable,
    write_durable,
)

SERVER: Final = "server/"
MARK: Final = "server/key"
"""Says which key the values are sealed under: 32 hexadecimal digits that follow from it."""
LOCK: Final = "server"
KEY_SUFFIX: Final = ".server"
REVOKED_SUFFIX: Final = ".revoked"
_WORD: Final = "dalsegno-server-key-1"
_TITLE: Final = "# The own key of a Dal Segno server. Keep it out of the pool, and keep a copy of it."
_KEY_BYTES_MAX: Final = 4096
_CONTEXT: Final = b"dalsegno server value 1\0"
READY: Final = "ready"
MOVING: Final = "moving"
"""What older programs kept under the realm's key is being taken over; in no other state is such a value believed."""

# Where older programs kept the same, as refs under the realm's key: name there, and name here (a prefix for a prefix).
_OLD: Final = {
    "server/tls": "tls",
    "server/address": "address",
    "realm": "realm",
    "tokens/": "tokens/",
    "tokens-used/": "tokens-used/",
}
_OLD_DROPPED: Final = ("realm-peer",)
"""Whoever had a copy of the pool may have it: the server makes itself another one."""


class ServerValues:
    """The values of one pool's server. Threads and processes may share them."""

    def __init__(self, pool: Pool, secret: bytes, key_path: Path) -> None:
        self._backend = pool.backend
        self._pool_id = pool.pool_id
        self._seal = Realm(secret)
        self.key_path = key_path
        self._revoked_path = key_path.with_suffix(REVOKED_SUFFIX)
        self._revoked: tuple[tuple[int, int], frozenset[str]] = ((0, 0), frozenset())

    def _context(self, name: str) -> bytes:
        return _CONTEXT + self._pool_id + name.encode()

    def _read(self, name: str) -> tuple[bytes | None, bytes | None]:
        try:
            sealed = self._backend.read(SERVER + name)
        except NotFound:
            return None, None
        try:
            return sealed, self._seal.open_value(sealed, context=self._context(name))
        except Damaged:
            where = self._backend.where(SERVER + name)
            raise Damaged(f"{where}: damaged, or not this server's: put back a copy of this file") from None

    def get(self, name: str) -> bytes | None:
        """Return a value, or None; Damaged when this server did not write it."""
        return self._read(name)[1]

    def swap(self, name: str, expected: bytes | None, value: bytes | None) -> bool:
        """Set a value if it is as expected (None: absent) and return True; else change nothing. Durable on return."""
        sealed_value = None if value is None else self._seal.seal_value(value, context=self._context(name))
        while True:
            sealed, current = self._read(name)
            if current != expected:
                return False
            if self._backend.swap(SERVER + name, expected=sealed, value=sealed_value):
                return True

    def update(self, name: str, change: Callable[[bytes | None], bytes | None], *, what: str) -> bytes | None:
        """Replace a value by `change(value)`, None meaning absent, and return the new one; as `Pool.update_ref`."""
        return update_value(self, name, change, what=what)

    def settle_seen(self, name: str) -> None:
        """Make a value durable as it is, or absent, before somebody is told."""
        self._backend.settle_seen(SERVER + name)

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin with `prefix`."""
        for name in self._backend.list(SERVER + prefix):
            yield name.removeprefix(SERVER)

    # What was revoked is known outside of the pool, too: an older copy of a record that is put back opens nothing.

    def is_revoked(self, token_id: str) -> bool:
        """Tell whether a token was revoked here."""
        try:
            stat = self._revoked_path.stat()
        except OSError:
            return False
        mark = stat.st_mtime_ns, stat.st_size
        if self._revoked[0] != mark:
            with file_errors(self._revoked_path):
                self._revoked = mark, frozenset(self._revoked_path.read_text("ascii", "replace").split())
        return token_id in self._revoked[1]

    def note_revoked(self, token_id: str) -> None:
        """Remember for ever that a token is revoked; durable on return."""
        with FileLock(self._revoked_path.with_suffix(REVOKED_SUFFIX + ".lock")) as lock:
            lock.acquire()
            if not self.is_revoked(token_id):
                known = self._revoked_path.read_bytes() if self._revoked_path.exists() else b""
                write_durable(self._revoked_path, known + f"{token_id}\n".encode(), mode=0o600)


def key_path_of(pool: Pool) -> Path:
    """Return where the key of a pool's server is made: beside the pool's own key, or among the user's keys."""
    name = f"{pool.pool_id.hex()}{KEY_SUFFIX}"
    candidates = []
    place = pool.backend.directory
    if pool.key_path is not None and (place is None or not pool.key_path.resolve().is_relative_to(place.resolve())):
        candidates.append(pool.key_path.parent / name)
    own = places.find_config_dir() if candidates else places.config_dir()
    if own is not None:
        candidates.append(own / "keys" / name)
    return next((path for path in candidates if path.exists()), candidates[0])


def find_server_values(pool: Pool) -> ServerValues | None:
    """Return the values of a pool's server, or None where none ever ran; NoAccess where its key is not at hand."""
    if _read_mark(pool) is None and not _has_old(pool):
        return None
    return open_server_values(pool)


def open_server_values(pool: Pool) -> ServerValues:
    """Return the values of a pool's server, whose key is made when there is none. NoAccess when it is elsewhere."""
    path = key_path_of(pool)
    try:
        secret, state = _read_key(path, pool.pool_id)
    except NotFound:
        secret, state = b"", MOVING
    mark = _read_mark(pool)
    if state == READY and mark == _mark_of(secret):
        return ServerValues(pool, secret, path)
    with pool.backend.lock(LOCK) as lock:
        lock.acquire()
        return _settle_key(pool, path)


def renew_server_values(pool: Pool) -> ServerValues:
    """Give a pool's server a new key and a new certificate; where the old key is at hand, its tokens stay.

    For who has lost the key, or whose certificate's key somebody else may have.
    """
    kept: dict[str, bytes] = {}
    with pool.backend.lock(LOCK) as lock:
        lock.acquire()
        path = key_path_of(pool)
        try:
            values = _settle_key(pool, path)
            for name in values.list(""):
                value = values.get(name) if name in ("realm", "makers") or name.startswith("tokens") else None
                if value is not None:
                    kept[name] = value
        except (NoAccess, Damaged):
            kept = {}
        with file_errors(path):
            remove_durable(path)
        for name in list(pool.backend.list(SERVER)):
            pool.backend.swap(name, expected=pool.backend.read(name), value=None)
        values = _settle_key(pool, path)
        for name, value in kept.items():
            values.swap(name, None, value)
        return values


def _settle_key(pool: Pool, path: Path) -> ServerValues:
    """Make what is not there, and take over what older programs kept. The pool's lock `server` is held."""
    mark = _read_mark(pool)
    try:
        secret, state = _read_key(path, pool.pool_id)
    except NotFound:
        if mark is not None:
            raise NoAccess(
                f"{path}: the key of this pool's server is not there: work as the user that the server runs as, put "
                "back your copy, or have another made by `dal serve --new-identity`: new certificate, no tokens"
            ) from None
        secret, state = random_bytes(SECRET_BYTES), MOVING
        _write_key(path, pool.pool_id, secret, MOVING)
    if mark not in (None, _mark_of(secret)):
        raise NoAccess(
            f"{path}: is not the key that this pool's server used last: put back your copy, or `dal serve "
            "--new-identity` makes another: new certificate, no tokens"
        )
    if mark is None:
        pool.backend.create(MARK, _mark_of(secret).encode())
    values = ServerValues(pool, secret, path)
    if state == MOVING:
        _take_over(pool, values)
        _write_key(path, pool.pool_id, secret, READY)
    return values


def _take_over(pool: Pool, values: ServerValues) -> None:
    """Move what older programs kept under the realm's key, whatever of it was moved before."""
    for old, new in _OLD.items():
        for ref in list(pool.list_refs(old)):
            if ref != old and not old.endswith("/"):
                continue
            value = pool.get_ref(ref)
            name = new + ref.removeprefix(old)
            if value is not None:
                values.swap(name, None, value)
            pool.swap_ref(ref, value, None)
    for ref in _OLD_DROPPED:
        pool.swap_ref(ref, pool.get_ref(ref), None)


def _has_old(pool: Pool) -> bool:
    return any(next(iter(pool.list_refs(old)), None) is not None for old in _OLD if old != "realm") or (
        pool.get_ref("realm") is not None
    )


def _mark_of(secret: bytes) -> str:
    return blake3(secret, derive_key_context="dalsegno 2026-11 server key id").hexdigest(length=16)


def _read_mark(pool: Pool) -> str | None:
    try:
        return pool.backend.read(MARK).decode("ascii", "replace").strip()
    except NotFound:
        return None


def _read_key(path: Path, pool_id: bytes) -> tuple[bytes, str]:
    with file_errors(path), open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        text = os.fsdecode(file.read(_KEY_BYTES_MAX))
    if mode & 0o077:
        raise NoAccess(f"{path}: others than its owner may read it: `chmod 600` it")
    words = [word for line in text.splitlines() if not line.startswith("#") for word in line.split()]
    try:
        word, digits, secret_digits, state = words
        secret = bytes.fromhex(secret_digits)
    except ValueError:
        raise Damaged(f"{path}: not the key of a server: put back your copy") from None
    if word != _WORD or len(secret) != SECRET_BYTES or state not in (READY, MOVING):
        raise Damaged(f"{path}: not the key of a server that this program reads: put back your copy")
    if digits != pool_id.hex():
        raise NoAccess(f"{path}: is the key of another pool's server, this pool is {hex_short(pool_id)}")
    return secret, state


def _write_key(path: Path, pool_id: bytes, secret: bytes, state: str) -> None:
    make_directory(path.parent, mode=0o700)
    text = f"{_TITLE}\n{_WORD} {pool_id.hex()} {secret.hex()} {state}\n"
    write_durable(path, text.encode(), mode=0o600)
