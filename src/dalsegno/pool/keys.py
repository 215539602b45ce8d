"""A pool's settings, `pool.toml`, and its realm's secret: under a passphrase, in a key file, or in the open."""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from dalsegno.chunks.realm import CHUNK_SEED_MAX, SECRET_BYTES, Realm, WriteKey
from dalsegno.chunks.recipients import check_recipient
from dalsegno.terms.errors import AlreadyThere, BadInput, DalError, Damaged, NoAccess, NotFound, TooNew
from dalsegno.terms.ids import UUID_BYTES, hex_short
from dalsegno.terms.times import format_time
from dalsegno.world import places
from dalsegno.world.chance import random_bytes
from dalsegno.world.clock import now_ns
from dalsegno.world.files import file_errors, make_directory, remove_left_behind, settle_file, write_durable

SETTINGS_NAME: Final = "pool.toml"
SETTINGS_VERSION: Final = 1
SETTINGS_BYTES_MAX: Final = 64 * 1024
ENCRYPTIONS: Final = ("passphrase", "keyfile", "none")
SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_KEY_FILE_WORD: Final = "dalsegno-key-1"
_WRITE_KEY_FILE_WORD: Final = "dalsegno-write-key-1"
_WRITE_KEY_FILE_TITLE: Final = "# Key of a machine that writes into a realm of Dal Segno and cannot read from it."
_KEY_FILE_TITLE: Final = "# Key of a Dal Segno pool. Keep it apart from the pool: both together give everything back."


KDF_MEMORY_KIB_MAX: Final = 1024 * 1024
KDF_PASSES_MAX: Final = 16
KDF_LANES_MAX: Final = 16
KDF_WORK_KIB_MAX: Final = 4 * 1024 * 1024
"""Memory times passes: some seconds at most, whoever wrote the pool.toml."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KdfCost:
    """What one guess at the passphrase costs (Argon2id, RFC 9106)."""

    memory_kib: int = 64 * 1024
    passes: int = 3
    lanes: int = 2

    def is_sane(self) -> bool:
        """Return whether a reader may spend this much: a forged pool.toml must not exhaust the machine."""
        return (
            8 * self.lanes <= self.memory_kib <= KDF_MEMORY_KIB_MAX
            and 1 <= self.passes <= KDF_PASSES_MAX
            and 1 <= self.lanes <= KDF_LANES_MAX
            and self.memory_kib * self.passes <= KDF_WORK_KIB_MAX
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """What pool.toml says."""

    pool_id: bytes
    realm_id: bytes
    encryption: str
    cost: KdfCost = KdfCost()
    salt: bytes = b""
    wrapped_secret: bytes = b""
    """Nonce and AES-256-GCM of the secret under the passphrase's key, bound to the pool id."""
    plain_secret: bytes = b""


def encode_settings(settings: PoolSettings) -> bytes:
    """Return pool.toml: small, readable, with a checksum over its lines."""
    lines = [
        f"version = {SETTINGS_VERSION}",
        f'pool_id = "{settings.pool_id.hex()}"',
        f'realm_id = "{settings.realm_id.hex()}"',
        f'encryption = "{settings.encryption}"',
    ]
    if settings.encryption == "passphrase":
        lines += [
            'kdf = "argon2id"',
            f"kdf_memory_kib = {settings.cost.memory_kib}",
            f"kdf_passes = {settings.cost.passes}",
            f"kdf_lanes = {settings.cost.lanes}",
            f'kdf_salt = "{settings.salt.hex()}"',
            f'wrapped_secret = "{settings.wrapped_secret.hex()}"',
        ]
    elif settings.encryption == "none":
        lines.append(f'secret = "{settings.plain_secret.hex()}"')
    body = "".join(line + "\n" for line in lines)
    return (
        "# Dal Segno pool (docs/formats/pool.md). Written once; without it the pool cannot be opened: keep a copy.\n"
        f'{body}checksum = "{_checksum(body)}"\n'
    ).encode()


def _checksum(body: str) -> str:
    return blake3(body.encode()).hexdigest(16)


def decode_settings(data: bytes, path: Path) -> PoolSettings:
    """Return the settings in `data`; Damaged and TooNew name `path`."""
    try:
        text = data.decode()
        table: dict[str, Any] = tomllib.loads(text)
        version = table["version"]
        if not isinstance(version, int):
            raise ValueError("version is not a number")
        if version > SETTINGS_VERSION:
            raise TooNew(f"{path}: pool version {version}, this program reads {SETTINGS_VERSION}: update the program")
        lines = [line + "\n" for line in text.splitlines() if line and not line.startswith(("#", "checksum"))]
        if table["checksum"] != _checksum("".join(lines)):
            raise ValueError("the checksum is wrong")
        encryption = table["encryption"]
        cost = KdfCost()
        salt = wrapped = plain = b""
        if encryption == "passphrase":
            if table["kdf"] != "argon2id":
                raise ValueError(f"unknown kdf {table['kdf']!r}")
            cost = KdfCost(
                memory_kib=int(table["kdf_memory_kib"]), passes=int(table["kdf_passes"]), lanes=int(table["kdf_lanes"])
            )
            salt, wrapped = bytes.fromhex(table["kdf_salt"]), bytes.fromhex(table["wrapped_secret"])
        elif encryption == "none":
            plain = bytes.fromhex(table["secret"])
        settings = PoolSettings(
            pool_id=bytes.fromhex(table["pool_id"]),
            realm_id=bytes.fromhex(table["realm_id"]),
            encryption=encryption,
            cost=cost,
            salt=salt,
            wrapped_secret=wrapped,
            plain_secret=plain,
        )
        sizes_ok = (
            encryption in ENCRYPTIONS
            and len(settings.pool_id) == len(settings.realm_id) == UUID_BYTES
            and len(plain) in (0, SECRET_BYTES)
            and len(salt) == (SALT_BYTES if encryption == "passphrase" else 0)
            and cost.is_sane()
        )
        if not sizes_ok:
            raise ValueError("a value is out of bounds")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise Damaged(f"{path}: {' '.join(reason.split())}: put back your copy of it") from None
    return settings


def default_key_path(pool_id: bytes) -> Path:
    """Return where the key file of a pool is looked for."""
    return places.config_dir() / "keys" / f"{pool_id.hex()}.key"


def passphrase_key(passphrase: str, *, salt: bytes, cost: KdfCost) -> bytes:
    """Return the key that a passphrase stands for."""
    kdf = Argon2id(
        salt=salt,
        length=32,
        iterations=cost.passes,
        lanes=cost.lanes,
        memory_cost=cost.memory_kib,
        ad=None,
        secret=None,
    )
    return kdf.derive(passphrase.encode())


def create_pool_settings(
    *,
    place: Path,
    encryption: str,
    passphrase: str | None,
    key_path: Path | None,
    realm: Realm | None,
    cost: KdfCost,
) -> tuple[PoolSettings, Realm, Path | None]:
    """Return the settings of a new pool, its realm, and its key file, which is written here."""
    if encryption not in ENCRYPTIONS:
        raise BadInput(f"encryption {encryption!r}: expected one of {', '.join(ENCRYPTIONS)}")
    pool_id = random_bytes(UUID_BYTES)
    realm = realm or Realm(random_bytes(SECRET_BYTES))
    secret = realm.secret
    if encryption == "none":
        settings = PoolSettings(pool_id=pool_id, realm_id=realm.realm_id, encryption=encryption, plain_secret=secret)
        return settings, realm, None
    if encryption == "keyfile":
        path = key_path or default_key_path(pool_id)
        write_key_file(path, realm, notes=key_file_notes(pool_id=pool_id, place=place))
        return PoolSettings(pool_id=pool_id, realm_id=realm.realm_id, encryption=encryption), realm, path
    if not passphrase:
        raise BadInput("encryption by passphrase: the passphrase is empty")
    if not cost.is_sane():
        raise BadInput(f"{cost}: out of bounds")
    salt, nonce = random_bytes(SALT_BYTES), random_bytes(_NONCE_BYTES)
    key = passphrase_key(passphrase, salt=salt, cost=cost)
    settings = PoolSettings(
        pool_id=pool_id,
        realm_id=realm.realm_id,
        encryption=encryption,
        cost=cost,
        salt=salt,
        wrapped_secret=nonce + AESGCM(key).encrypt(nonce, secret, pool_id),
    )
    return settings, realm, None


def key_file_notes(*, pool_id: bytes, place: Path, copied: bool = False) -> dict[str, str]:
    """Return what a key file says of itself to who finds it in ten years."""
    when = {"copied" if copied else "made": format_time(now_ns())}
    return {"pool": pool_id.hex(), "place": os.fspath(place.absolute()), "host": os.uname().nodename, **when}


def key_file_text(realm: Realm, notes: Mapping[str, str]) -> bytes:
    """Return the content of a key file (docs/formats/pool.md)."""
    writes = isinstance(realm, WriteKey)
    lines = [_WRITE_KEY_FILE_TITLE if writes else _KEY_FILE_TITLE] if notes else []
    for name, text in notes.items():
        plain = "".join(c if c.isprintable() or 0xDC80 <= ord(c) <= 0xDCFF else "?" for c in text)
        lines.append(f"# {name}: {plain}")
    if writes:
        words = [realm.realm_id.hex(), realm.id_key.hex(), f"{realm.chunk_seed:016x}", realm.recipient]
        text = " ".join([_WRITE_KEY_FILE_WORD, *words, realm.secret.hex()])
        lines.append(f"{text} {_checksum(text)}")
    else:
        lines.append(f"{_KEY_FILE_WORD} {realm.realm_id.hex()} {realm.secret.hex()}")
    return os.fsencode("".join(line + "\n" for line in lines))


def write_key_file(path: Path, realm: Realm, *, notes: Mapping[str, str] | None = None) -> None:
    """Write the secret where only its owner reads it; a file that holds this secret already is fine."""
    make_directory(path.parent, mode=0o700)
    remove_left_behind(path.parent, f"*{path.suffix or '.key'}")
    try:
        write_durable(path, key_file_text(realm, notes or {}), mode=0o600, replace=False)
    except AlreadyThere:
        try:
            there = read_key(path, realm.realm_id)
            if isinstance(there, WriteKey) != isinstance(realm, WriteKey):
                raise NoAccess("the one only writes")
        except NoAccess:
            raise AlreadyThere(f"{path}: exists and holds something else; `dal init --join` takes on its key") from None
        settle_file(path)


def _read_key_words(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the words of a key file and its notes; comments are lines that begin with #."""
    with file_errors(path), open(path, "rb") as file:
        lines = os.fsdecode(file.read(SETTINGS_BYTES_MAX)).splitlines()
    notes = [line[1:].partition(": ") for line in lines if line.startswith("#")]
    words = [word for line in lines if not line.startswith("#") for word in line.split()]
    return words, {name.strip(): text for name, colon, text in notes if colon}


def read_key_notes(path: Path) -> tuple[bytes, dict[str, str]]:
    """Return the realm whose key a file holds, and what the file says of itself; NoAccess for what is no key."""
    words, notes = _read_key_words(path)
    try:
        realm_id = bytes.fromhex(words[1])
    except (IndexError, ValueError):
        raise NoAccess(f"key file {path}: not a key of this program") from None
    read_key(path, realm_id)
    return realm_id, notes


def notes_of_keys_for(place: Path) -> list[dict[str, str]]:
    """Return what your own key files say of themselves whose pools were made at `place`, the oldest first."""
    wanted = os.path.normpath(place.absolute())
    found = []
    for file in (places.config_dir() / "keys").glob("*.key"):
        try:
            _, notes = read_key_notes(file)
        except DalError:
            continue  # what is no key, or not ours to read, tells of no pool
        if "pool" in notes and "place" in notes and os.path.normpath(notes["place"]) == wanted:
            found.append(notes)
    return sorted(found, key=lambda notes: notes.get("made", ""))


def read_realm(path: Path) -> Realm:
    """Return the realm whose key a file holds: that of an exported key, whatever its pool."""
    try:
        realm_id, _ = read_key_notes(path)
    except NotFound:
        raise NotFound(f"key file {path}: no such file") from None
    return read_key(path, realm_id)


def read_key(path: Path, realm_id: bytes) -> Realm:
    """Return what a key file of a realm gives: all, or (a WriteKey) what a machine needs that only writes."""
    try:
        words, _ = _read_key_words(path)
    except NotFound:
        words = []  # said below
    if not words or words[0] != _WRITE_KEY_FILE_WORD:
        return Realm(read_key_file(path, realm_id))
    try:
        _, realm_text, id_key, seed, recipient, secret, checksum = words
        if checksum != _checksum(" ".join(words[:-1])):
            raise ValueError("its checksum is wrong")
        key = WriteKey(
            realm_id=bytes.fromhex(realm_text),
            id_key=bytes.fromhex(id_key),
            chunk_seed=int(seed, 16),
            recipient=check_recipient(recipient),
            secret=bytes.fromhex(secret),
        )
        # The checksum tells what was damaged; who made the file may have written anything.
        if len(key.id_key) != SECRET_BYTES or not 0 <= key.chunk_seed <= CHUNK_SEED_MAX:
            raise ValueError("a value is out of bounds")
    except (ValueError, AssertionError, BadInput):
        raise NoAccess(f"key file {path}: damaged; put back your copy, or join the realm again") from None
    if key.realm_id != realm_id:
        raise NoAccess(f"key file {path}: belongs to another pool's realm, this pool's is {hex_short(realm_id)}")
    return key


def read_key_file(path: Path, realm_id: bytes) -> bytes:
    """Return the secret of a realm; NoAccess says where it was looked for."""
    try:
        words, _ = _read_key_words(path)
    except NotFound:
        raise NoAccess(f"key file {path}: not there; give its place with --key or put back your copy") from None
    if words[:1] == [_WRITE_KEY_FILE_WORD]:
        raise NoAccess(
            f"key file {path}: only writes, through a server (`dal realm join`); it opens no pool and no dump"
        )
    if len(words) != 3 or words[0] != _KEY_FILE_WORD:
        raise NoAccess(f"key file {path}: not a key of this program; put back your copy")
    if words[1] != realm_id.hex():
        raise NoAccess(f"key file {path}: belongs to another pool's realm, this pool's is {hex_short(realm_id)}")
    try:
        secret = bytes.fromhex(words[2])
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES or Realm(secret).realm_id != realm_id:
        raise NoAccess(f"key file {path}: damaged; put back your copy")
    return secret


def _read_settings(pool_path: Path) -> PoolSettings:
    path = pool_path / SETTINGS_NAME
    try:
        with file_errors(path), open(path, "rb") as file:
            data = file.read(SETTINGS_BYTES_MAX + 1)
    except NotFound:
        if any((pool_path / "packs").glob("*/*.pack")):
            raise Damaged(
                f"{path}: lost, its packs are there: put back your copy of that file, or restore the volumes from "
                "dumps into a new pool"
            ) from None
        raise NotFound(
            f"{pool_path}: no pool here (no {SETTINGS_NAME}): `dal backup DIR` or `dal init` makes one"
        ) from None
    if len(data) > SETTINGS_BYTES_MAX:
        raise Damaged(f"{path}: too large: put back your copy of it")
    return decode_settings(data, path)


def open_pool_settings(
    pool_path: Path,
    *,
    passphrase: Callable[[], str] | None,
    key_path: Path | None,
    is_sealed: bool = False,
    check: Callable[[PoolSettings], None] | None = None,
) -> tuple[PoolSettings, Realm, Path | None]:
    """Return a pool's settings, its realm and its key file, asking for the passphrase if one is needed.

    Who gives a key, or says that it `is_sealed`, gets NoAccess for a pool that is not encrypted: somebody else may have
    put it there to read what comes next. `check` looks at the settings before anything is opened with a secret.
    """
    path = pool_path / SETTINGS_NAME
    settings = _read_settings(pool_path)
    if settings.encryption == "none" and (is_sealed or key_path is not None):
        what = f"key {key_path}" if key_path is not None else "a passphrase"
        raise NoAccess(
            f"{pool_path}: this pool is not encrypted, and {what} is given for it: somebody may have exchanged it; "
            "leave the key or passphrase away if it is meant"
        )
    if check is not None:
        check(settings)
    used_path: Path | None = None
    if settings.encryption == "none":
        secret = settings.plain_secret
    elif settings.encryption == "keyfile":
        used_path = key_path or default_key_path(settings.pool_id)
        return settings, read_key(used_path, settings.realm_id), used_path
    else:
        if passphrase is None:
            raise NoAccess(f"{pool_path}: needs its passphrase")
        key = passphrase_key(passphrase(), salt=settings.salt, cost=settings.cost)
        wrapped = settings.wrapped_secret
        try:
            secret = AESGCM(key).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], settings.pool_id)
        except (InvalidTag, ValueError):
            raise NoAccess(
                f"{pool_path}: wrong passphrase (DAL_PASSPHRASE counts, else DAL_PASSPHRASE_FILE, else it is asked for)"
            ) from None
    if len(secret) != SECRET_BYTES or (realm := Realm(secret)).realm_id != settings.realm_id:
        raise Damaged(f"{path}: its secret is not that of its realm: put back your copy of it")
    return settings, realm, used_path
