"""A pool's settings, `pool.toml`: its ids, and who holds its key. Bytes only; what opens them is in holders.py."""

import hmac
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from dalsegno.backends.address import open_backend
from dalsegno.backends.contract import Backend
from dalsegno.chunks.realm import SECRET_BYTES
from dalsegno.terms.errors import BadInput, Damaged, Full, NotFound, TooNew
from dalsegno.terms.ids import UUID_BYTES

SETTINGS_NAME: Final = "pool.toml"
SETTINGS_VERSION: Final = 3
REFS_VERSION: Final = 2
"""Of the seals of refs that are written."""
SETTINGS_BYTES_MAX: Final = 64 * 1024
ENCRYPTIONS: Final = ("passphrase", "keyfile", "none")
PASSPHRASE: Final = "passphrase"
KEY_FILE: Final = "keyfile"
RECIPIENT: Final = "recipient"
HOLDERS_MAX: Final = 64
GENERATIONS_MAX: Final = 256
OLDER_OVERHEAD_BYTES: Final = 28
"""Nonce and tag of the sealed older secrets."""
NAME_LENGTH_MAX: Final = 64
SALT_BYTES: Final = 16
KDF_MEMORY_KIB_MAX: Final = 1024 * 1024
KDF_PASSES_MAX: Final = 16
KDF_LANES_MAX: Final = 16
KDF_WORK_KIB_MAX: Final = 4 * 1024 * 1024
"""Memory times passes of all passphrases: some seconds at most, whoever wrote the pool.toml."""
_TITLE: Final = "# Dal Segno pool (docs/formats/pool.md). "
_TITLE_1: Final = f"{_TITLE}Written once; without it the pool cannot be opened: keep a copy.\n"
_TITLE_2: Final = f"{_TITLE}Changed by `dal key`; without it the pool cannot be opened: keep a copy.\n"


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
            and self.work_kib <= KDF_WORK_KIB_MAX
        )

    @property
    def work_kib(self) -> int:
        """Memory times passes."""
        return self.memory_kib * self.passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One way to a realm's secret: a passphrase, a key file that holds it, or a public key to which it is sealed."""

    name: str
    kind: str
    cost: KdfCost = KdfCost()
    salt: bytes = b""
    wrapped_secret: bytes = b""
    """passphrase: nonce and AES-256-GCM under the passphrase's key; recipient: an age file."""
    recipient: str = ""
    is_old: bool = False
    """From settings of version 1: the wrapped secret is bound to the pool, not to the holder's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """What pool.toml says. Without holders the pool is not encrypted."""

    pool_id: bytes
    realm_id: bytes
    plain_secret: bytes = b""
    holders: tuple[Holder, ...] = ()
    version: int = 1
    signed: str = ""
    """From version 2 on: what `proof` speaks for, which is what was read, and not the lines in which it stood."""
    proof: str = ""
    generation: int = 1
    """How many secrets the pool's key has; more than one from version 3 on."""
    refs_since: int = 1
    """Refs that are sealed under a secret of a generation before this one are not believed."""
    changed_ns: int = 0
    """When the key was changed last."""
    older: bytes = b""
    """The secrets before the newest, sealed under that (generations.py)."""
    refs: int = 1
    """The oldest version of seals of refs that is believed: 2 when none of version 1 is left, or never was there."""

    @property
    def encryption(self) -> str:
        """In a word how the pool is opened: the first of keyfile, passphrase, recipient that there is; or none."""
        kinds = {holder.kind for holder in self.holders}
        return next((kind for kind in (KEY_FILE, PASSPHRASE, RECIPIENT) if kind in kinds), "none")

    def is_genuine(self, secret: bytes) -> bool:
        """Tell whether somebody who had the realm's secret wrote these settings; those of version 1 do not say."""
        return self.version == 1 or hmac.compare_digest(self.proof, _proof(self.signed, secret))


def check_name(name: str) -> str:
    """Return a holder's name; BadInput for one that cannot be written down."""
    is_plain = name.isprintable() and name == name.strip() and not set(name) & set("\"'\\")
    if not is_plain or not 0 < len(name) <= NAME_LENGTH_MAX:
        raise BadInput(f"name {name!r}: 1 to {NAME_LENGTH_MAX} printable characters, no quotes or backslash")
    return name


def encode_settings(settings: PoolSettings, secret: bytes = b"") -> bytes:
    """Return pool.toml, small and readable, with a checksum over its lines; from version 2 on the secret signs it.

    Full: more holders than a pool has room for.
    """
    ids = [f'pool_id = "{settings.pool_id.hex()}"', f'realm_id = "{settings.realm_id.hex()}"']
    if settings.version == 1:
        lines = ["version = 1", *ids, *_refs_lines(settings), f'encryption = "{settings.encryption}"']
        for holder in settings.holders:
            lines += _passphrase_lines(holder) if holder.kind == PASSPHRASE else []
        if settings.plain_secret:
            lines.append(f'secret = "{settings.plain_secret.hex()}"')
        body = _join(lines)
        return f'{_TITLE_1}{body}checksum = "{_checksum(body)}"\n'.encode()
    head, holders = _signed_lines(settings)
    proof = f'proof = "{_proof(_join(head + holders), secret)}"'
    checksum = f'checksum = "{_checksum(_join([*head, proof, *holders]))}"'
    text = _join([*head, proof, checksum, *holders]).replace("[[holder]]\n", "\n[[holder]]\n")
    data = (_TITLE_2 + text).encode()
    if len(data) > SETTINGS_BYTES_MAX or len(settings.holders) > HOLDERS_MAX:
        raise Full(f"{SETTINGS_NAME} has no room for another holder: `dal key remove NAME` makes some")
    if _work_kib(settings.holders) > KDF_WORK_KIB_MAX:
        raise Full("so many passphrases would take too long to try: `dal key remove NAME` takes one away")
    return data


def _signed_lines(settings: PoolSettings) -> tuple[list[str], list[str]]:
    """Return the lines that are signed from version 2 on: the first ones, and those of the holders."""
    holders = []
    for holder in settings.holders:
        holders += _holder_lines(holder)
    ids = [f'pool_id = "{settings.pool_id.hex()}"', f'realm_id = "{settings.realm_id.hex()}"']
    generations = _generation_lines(settings) if settings.version > 2 else []
    return [f"version = {settings.version}", *ids, *_refs_lines(settings), *generations], holders


def _refs_lines(settings: PoolSettings) -> list[str]:
    return [f"refs = {settings.refs}"] if settings.refs > 1 else []


def _join(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _work_kib(holders: tuple[Holder, ...]) -> int:
    return sum(holder.cost.work_kib for holder in holders if holder.kind == PASSPHRASE)


def _passphrase_lines(holder: Holder) -> list[str]:
    return [
        'kdf = "argon2id"',
        f"kdf_memory_kib = {holder.cost.memory_kib}",
        f"kdf_passes = {holder.cost.passes}",
        f"kdf_lanes = {holder.cost.lanes}",
        f'kdf_salt = "{holder.salt.hex()}"',
        f'wrapped_secret = "{holder.wrapped_secret.hex()}"',
    ]


def _generation_lines(settings: PoolSettings) -> list[str]:
    return [
        f"generation = {settings.generation}",
        f"refs_since = {settings.refs_since}",
        f"changed_ns = {settings.changed_ns}",
        f'older_secrets = "{settings.older.hex()}"',
    ]


def _holder_lines(holder: Holder) -> list[str]:
    lines = ["[[holder]]", f'name = "{holder.name}"', f'kind = "{holder.kind}"']
    if holder.kind == PASSPHRASE:
        return [*lines, f"binding = {1 if holder.is_old else 2}", *_passphrase_lines(holder)]
    if holder.kind == RECIPIENT:
        return [*lines, f'recipient = "{holder.recipient}"', f'sealed_secret = "{holder.wrapped_secret.hex()}"']
    return lines


def _checksum(body: str) -> str:
    return blake3(body.encode()).hexdigest(16)


def _proof(body: str, secret: bytes) -> str:
    """Return what only somebody writes who has the realm's secret."""
    key = blake3(secret, derive_key_context="dalsegno 2026-11 pool settings").digest()
    return blake3(body.encode(), key=key).hexdigest()


def decode_settings(data: bytes, path: Path) -> PoolSettings:
    """Return the settings in `data`; Damaged and TooNew name `path`."""
    try:
        text = data.decode()
        table: dict[str, Any] = tomllib.loads(text)
        version = table["version"]
        if type(version) is not int or version < 1:
            raise ValueError("version is not a number")
        if version > SETTINGS_VERSION:
            raise TooNew(f"{path}: pool version {version}, this program reads {SETTINGS_VERSION}: update the program")
        refs = table.get("refs", 1)
        if type(refs) is not int or refs < 1:
            raise ValueError("refs is out of bounds")
        if refs > REFS_VERSION:
            raise TooNew(f"{path}: refs of version {refs}, this program reads {REFS_VERSION}: update the program")
        lines = [line + "\n" for line in text.splitlines() if line and not line.startswith(("#", "checksum"))]
        if table["checksum"] != _checksum("".join(lines)):
            raise ValueError("the checksum is wrong")
        settings = PoolSettings(
            pool_id=bytes.fromhex(table["pool_id"]),
            realm_id=bytes.fromhex(table["realm_id"]),
            plain_secret=_read_plain_secret(table) if version == 1 else b"",
            holders=_read_holder_1(table) if version == 1 else _read_holders(table["holder"]),
            version=version,
            refs=refs,
            proof=_text(table["proof"]) if version > 1 else "",
            **(_read_generations(table) if version > 2 else {}),
        )
        if version > 1:
            head, holders = _signed_lines(settings)
            settings = replace(settings, signed=_join(head + holders))
        if not len(settings.pool_id) == len(settings.realm_id) == UUID_BYTES:
            raise ValueError("a value is out of bounds")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, BadInput) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise Damaged(f"{path}: {' '.join(reason.split())}: put back your copy of it") from None
    return settings


def _read_generations(table: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: table[name] for name in ("generation", "refs_since", "changed_ns")}
    if any(type(number) is not int for number in numbers.values()):
        raise ValueError("a value is no number")
    generation, older = numbers["generation"], bytes.fromhex(table["older_secrets"])
    fits = len(older) == (generation - 1) * SECRET_BYTES + OLDER_OVERHEAD_BYTES
    if not 2 <= generation <= GENERATIONS_MAX or not fits or not 1 <= numbers["refs_since"] <= generation:
        raise ValueError("a value is out of bounds")
    if not 0 <= numbers["changed_ns"] < 2**63:
        raise ValueError("a value is out of bounds")
    return {**numbers, "older": older}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isascii():
        raise ValueError("a value is no text")
    return value


def _read_plain_secret(table: dict[str, Any]) -> bytes:
    if table["encryption"] != "none":
        return b""
    secret = bytes.fromhex(table["secret"])
    if len(secret) != SECRET_BYTES:
        raise ValueError("a value is out of bounds")
    return secret


def _read_holder_1(table: dict[str, Any]) -> tuple[Holder, ...]:
    encryption = table["encryption"]
    if encryption not in ENCRYPTIONS:
        raise ValueError("a value is out of bounds")
    if encryption == PASSPHRASE:
        return (_read_passphrase_holder(table, name=PASSPHRASE, is_old=True),)
    return (Holder(name=KEY_FILE, kind=KEY_FILE),) if encryption == KEY_FILE else ()


def _read_passphrase_holder(table: dict[str, Any], *, name: str, is_old: bool) -> Holder:
    if table["kdf"] != "argon2id":
        raise ValueError(f"unknown kdf {table['kdf']!r}")
    cost = KdfCost(
        memory_kib=int(table["kdf_memory_kib"]), passes=int(table["kdf_passes"]), lanes=int(table["kdf_lanes"])
    )
    salt, wrapped = bytes.fromhex(table["kdf_salt"]), bytes.fromhex(table["wrapped_secret"])
    if not cost.is_sane() or len(salt) != SALT_BYTES:
        raise ValueError("a value is out of bounds")
    return Holder(name=name, kind=PASSPHRASE, cost=cost, salt=salt, wrapped_secret=wrapped, is_old=is_old)


def _read_holders(tables: list[dict[str, Any]]) -> tuple[Holder, ...]:
    """Return the holders of versions 2 and 3: each name once, and not more work than one passphrase may be."""
    holders = []
    for table in tables:
        name, kind = check_name(table["name"]), table["kind"]
        if kind == PASSPHRASE:
            if table["binding"] not in (1, 2):
                raise ValueError("a value is out of bounds")
            holders.append(_read_passphrase_holder(table, name=name, is_old=table["binding"] == 1))
        elif kind == RECIPIENT:
            sealed = bytes.fromhex(table["sealed_secret"])
            recipient = _text(table["recipient"])
            holders.append(Holder(name=name, kind=RECIPIENT, recipient=recipient, wrapped_secret=sealed))
        elif kind == KEY_FILE:
            holders.append(Holder(name=name, kind=KEY_FILE))
        else:
            raise ValueError(f"holder {name!r} is of an unknown kind")
    names = {holder.name for holder in holders}
    if not 0 < len(names) == len(holders) <= HOLDERS_MAX or _work_kib(tuple(holders)) > KDF_WORK_KIB_MAX:
        raise ValueError("a value is out of bounds")
    return tuple(holders)


def not_genuine(place: Path | Backend) -> str:
    """Return what to say of settings that are not genuine."""
    return f"{place}/{SETTINGS_NAME}: changed without the key: put back your copy of it"


def is_pool(place: Path | Backend) -> bool:
    """Return whether there is a pool at a place, whatever its state."""
    return open_backend(place).has(SETTINGS_NAME)


def read_settings(place: Path | Backend) -> PoolSettings:
    """Return the settings of the pool at a place. NotFound, Damaged, TooNew."""
    backend = open_backend(place)
    path = Path(backend.where(SETTINGS_NAME))
    try:
        data = backend.read(SETTINGS_NAME, 0, SETTINGS_BYTES_MAX + 1)
    except NotFound:
        if next(backend.list("packs/"), None) is not None:
            raise Damaged(
                f"{path}: lost, its packs are there: put back your copy of that file, or restore the volumes from "
                "dumps into a new pool"
            ) from None
        raise NotFound(
            f"{place}: no pool here (no {SETTINGS_NAME}): `dal backup DIR` or `dal init` makes one"
        ) from None
    if len(data) > SETTINGS_BYTES_MAX:
        raise Damaged(f"{path}: too large: put back your copy of it")
    return decode_settings(data, path)
