"""The key of a pool: key files, and how a pool is opened with one, with a passphrase, or with a private key."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from blake3 import blake3

from dalsegno.backends.contract import Backend
from dalsegno.chunks.realm import CHUNK_SEED_MAX, SECRET_BYTES, Realm, WriteKey
from dalsegno.chunks.recipients import check_recipient, holds_identity, read_identity
from dalsegno.pool.generations import fitting_realm, is_of_before, realm_of, seal_older
from dalsegno.pool.holders import key_file_holder, open_by_identity, open_by_passphrase, passphrase_holder
from dalsegno.pool.paper import is_paper, paper_lines, read_paper
from dalsegno.pool.settings import (
    ENCRYPTIONS,
    GENERATIONS_MAX,
    KEY_FILE,
    PASSPHRASE,
    RECIPIENT,
    REFS_VERSION,
    SETTINGS_BYTES_MAX,
    SETTINGS_NAME,
    Holder,
    KdfCost,
    PoolSettings,
    not_genuine,
    read_settings,
)
from dalsegno.terms.errors import AlreadyThere, BadInput, DalError, Damaged, NoAccess, NotFound, Refused
from dalsegno.terms.ids import UUID_BYTES, hex_short
from dalsegno.terms.times import format_time
from dalsegno.world import places
from dalsegno.world.chance import random_bytes
from dalsegno.world.clock import now_ns
from dalsegno.world.files import file_errors, make_directory, remove_left_behind, settle_file, write_durable

_KEY_FILE_WORD: Final = "dalsegno-key-1"
_KEY_FILE_WORD_2: Final = "dalsegno-key-2"
"""Of a realm whose key was changed: all its secrets, the newest first."""
_WRITE_KEY_FILE_WORD: Final = "dalsegno-write-key-1"
_WRITE_KEY_FILE_WORD_2: Final = "dalsegno-write-key-2"
_WORDS_OF_WRITE_KEYS: Final = (_WRITE_KEY_FILE_WORD, _WRITE_KEY_FILE_WORD_2)
_WRITE_KEY_FILE_TITLE: Final = "# Key of a machine that writes into a realm of Dal Segno and cannot read from it."
_PAPER_TITLE: Final = (
    "# Key of a Dal Segno pool, to be kept on paper apart from the pool: both together give everything back.",
    "# To use it, type the numbered lines below into a file, say FILE (- and capital letters do not matter), and:",
    "#   dal --pool PLACE --key FILE ls      reads the pool",
    "#   dal --pool PLACE key import FILE    makes it your key of the pool again",
    "# A mistyped line is named. The rest of this page is only for you.",
)
_KEY_FILE_TITLE: Final = "# Key of a Dal Segno pool. Keep it apart from the pool: both together give everything back."


def default_key_path(pool_id: bytes) -> Path:
    """Return where the key file of a pool is looked for."""
    return places.config_dir() / "keys" / f"{pool_id.hex()}.key"


def create_pool_settings(
    *,
    place: Path | str,
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
        if realm.generation > 1:
            raise Refused("the key of that realm was changed: a pool that is not encrypted would lay it all open")
        settings = PoolSettings(pool_id=pool_id, realm_id=realm.realm_id, plain_secret=secret, refs=REFS_VERSION)
        return settings, realm, None
    if encryption == KEY_FILE:
        path = key_path or default_key_path(pool_id)
        write_key_file(path, realm, notes=key_file_notes(pool_id=pool_id, place=place))
        return _new_settings(pool_id, realm, key_file_holder()), realm, path
    holder = passphrase_holder(
        passphrase or "", name=PASSPHRASE, secret=secret, pool_id=pool_id, cost=cost, is_old=realm.generation == 1
    )
    return _new_settings(pool_id, realm, holder), realm, None


def _new_settings(pool_id: bytes, realm: Realm, holder: Holder) -> PoolSettings:
    """Return the settings of a new pool: of version 1, unless the key of its realm was changed before."""
    settings = PoolSettings(pool_id=pool_id, realm_id=realm.realm_id, holders=(holder,), refs=REFS_VERSION)
    if realm.only_writes or realm.generation == 1:
        return settings
    return replace(
        settings,
        version=3,
        generation=realm.generation,
        refs_since=realm.generation,
        changed_ns=now_ns(),
        older=seal_older(realm, pool_id),
    )


def key_file_notes(*, pool_id: bytes, place: Path | str, copied: bool = False) -> dict[str, str]:
    """Return what a key file says of itself to who finds it in ten years."""
    when = {"copied" if copied else "made": format_time(now_ns())}
    shown = os.fspath(place.absolute()) if isinstance(place, Path) else place
    return {"pool": pool_id.hex(), "place": shown, "host": os.uname().nodename, **when}


def _note_lines(notes: Mapping[str, str]) -> list[str]:
    plain = {
        name: "".join(c if c.isprintable() or 0xDC80 <= ord(c) <= 0xDCFF else "?" for c in text)
        for name, text in notes.items()
    }
    return [f"# {name}: {text}" for name, text in plain.items()]


def key_file_text(realm: Realm, notes: Mapping[str, str]) -> bytes:
    """Return the content of a key file (docs/formats/pool.md)."""
    writes = realm.only_writes
    lines = [_WRITE_KEY_FILE_TITLE if writes else _KEY_FILE_TITLE] if notes else []
    lines += _note_lines(notes)
    if not writes and realm.generation == 1:
        lines.append(f"{_KEY_FILE_WORD} {realm.realm_id.hex()} {realm.secret.hex()}")
    else:
        text = " ".join(_write_key_words(realm) if writes else _key_words_2(realm))
        lines.append(f"{text} {_checksum(text)}")
    return os.fsencode("".join(line + "\n" for line in lines))


def _key_words_2(realm: Realm) -> list[str]:
    return [_KEY_FILE_WORD_2, realm.realm_id.hex(), *(secret.hex() for secret in realm.secrets)]


def _write_key_words(realm: Realm) -> list[str]:
    words = [realm.realm_id.hex(), realm.id_key.hex(), f"{realm.chunk_seed:016x}", realm.recipient]
    if realm.generation == 1:
        return [_WRITE_KEY_FILE_WORD, *words, realm.secret.hex()]
    return [_WRITE_KEY_FILE_WORD_2, *words, str(realm.generation), realm.secret.hex()]


def write_key_file(path: Path, realm: Realm, *, notes: Mapping[str, str] | None = None) -> None:
    """Write the secret where only its owner reads it; a file that holds this secret already is fine."""
    make_directory(path.parent, mode=0o700)
    remove_left_behind(path.parent, f"*{path.suffix or '.key'}")
    try:
        write_durable(path, key_file_text(realm, notes or {}), mode=0o600, replace=False)
    except AlreadyThere:
        try:
            there = read_key(path, realm.realm_id)
            if there.only_writes != realm.only_writes:
                raise NoAccess("the one only writes")
            if there.generation < realm.generation:
                renew_key_file(path, realm)
            elif not there.succeeds(realm):
                raise NoAccess("they parted")
        except NoAccess:
            raise AlreadyThere(f"{path}: exists and holds something else; `dal init --join` takes on its key") from None
        settle_file(path)


def renew_key_file(path: Path, realm: Realm) -> None:
    """Put the newer key of a realm in the place of the older one in a key file, which keeps its notes and rights.

    NoAccess when that is not the realm's; then, and when the disk is full, it stays as it was.
    """
    there = read_key(path, realm.realm_id)
    _, notes = _read_key_words(path)
    there.take(realm)
    if there.generation == realm.generation and notes.get("generation") == str(realm.generation):
        return  # done already
    notes = {**notes, "generation": str(there.generation), "changed": format_time(now_ns())}
    write_durable(path, key_file_text(there, notes), keep_rights=True)


def _checksum(text: str) -> str:
    return blake3(text.encode()).hexdigest(16)


def paper_text(realm: Realm, notes: Mapping[str, str]) -> bytes:
    """Return the key to be printed: what it is, how it is used, and four lines to type for each secret.

    docs/formats/pool.md, "On paper".
    """
    lines = [*_PAPER_TITLE, *_note_lines(notes), "", *paper_lines(*realm.secrets)]
    return os.fsencode("".join(line + "\n" for line in lines))


def key_of_text(text: str, name: str) -> Realm:
    """Return the realm whose key a text holds, a key file's or the typed lines of a paper; NoAccess names `name`."""
    words, _ = _key_words(text.splitlines(), name)
    try:
        return _realm_of_words(words, name)
    except NoAccess:
        raise NoAccess(f"{name}: not a key of this program that opens a pool") from None


def _read_key_words(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the words of a key file and its notes; comments are lines that begin with #."""
    with file_errors(path), open(path, "rb") as file:
        return _key_words(os.fsdecode(file.read(SETTINGS_BYTES_MAX)).splitlines(), f"key file {path}")


def _key_words(lines: Sequence[str], name: str) -> tuple[list[str], dict[str, str]]:
    """Return the words and notes of a key; of what was typed from a paper those that a key file would have."""
    notes = [line[1:].partition(": ") for line in lines if line.startswith("#")]
    told = {what.strip(): text for what, colon, text in notes if colon}
    plain = [line for line in lines if not line.startswith("#") and line.strip()]
    if is_paper(plain):
        try:
            newest, *older = read_paper(plain)
        except NoAccess as error:
            raise NoAccess(f"{name}: {error}") from None
        words = _key_words_2(Realm(newest, older=older))
        return [*words, _checksum(" ".join(words))], told
    return [word for line in plain for word in line.split()], told


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


def read_key(path: Path, realm_id: bytes | None) -> Realm:
    """Return what a key file of a realm gives: all, or (a WriteKey) what a machine needs that only writes.

    NoAccess says where it was looked for. None: of any realm.
    """
    try:
        words, _ = _read_key_words(path)
    except NotFound:
        raise NoAccess(f"key file {path}: not there; give its place with --key or put back your copy") from None
    if words[:1] and words[0] in _WORDS_OF_WRITE_KEYS:
        key: Realm = _write_key_of(words, path)
        realm_words = key.realm_id.hex()
    else:
        realm_words = "".join(words[1:2])
        if realm_id is not None and words[:1] in ([_KEY_FILE_WORD], [_KEY_FILE_WORD_2]) and len(words) > 2:
            _check_realm(realm_words, realm_id, path)
        return _realm_of_words(words, f"key file {path}")
    if realm_id is not None:
        _check_realm(realm_words, realm_id, path)
    return key


def _check_realm(found: str, realm_id: bytes, path: Path) -> None:
    if found != realm_id.hex():
        raise NoAccess(f"key file {path}: belongs to another pool's realm, this pool's is {hex_short(realm_id)}")


def _realm_of_words(words: Sequence[str], name: str) -> Realm:
    """Return the realm whose secrets the words of a key are; NoAccess."""
    is_1 = words[:1] == [_KEY_FILE_WORD] and len(words) == 3
    is_2 = words[:1] == [_KEY_FILE_WORD_2] and 4 <= len(words) <= GENERATIONS_MAX + 3
    if not is_1 and not is_2:
        raise NoAccess(f"{name}: not a key of this program; put back your copy")
    try:
        newest, *older = [bytes.fromhex(word) for word in (words[2:] if is_1 else words[2:-1])]
        realm_id = bytes.fromhex(words[1])
        is_whole = is_1 or words[-1] == _checksum(" ".join(words[:-1]))
    except ValueError:
        is_whole = False
    if not is_whole or any(len(each) != SECRET_BYTES for each in (newest, *older)):
        raise NoAccess(f"{name}: damaged; put back your copy")
    realm = Realm(newest, older=older)
    if realm.realm_id != realm_id:
        raise NoAccess(f"{name}: damaged; put back your copy")
    return realm


def _write_key_of(words: Sequence[str], path: Path) -> WriteKey:
    try:
        checksum, plain = words[-1], list(words[:-1])
        if checksum != _checksum(" ".join(plain)):
            raise ValueError("its checksum is wrong")
        generation = plain.pop(5) if plain[0] == _WRITE_KEY_FILE_WORD_2 else "1"
        _, realm_text, id_key, seed, recipient, secret = plain
        key = WriteKey(
            realm_id=bytes.fromhex(realm_text),
            id_key=bytes.fromhex(id_key),
            chunk_seed=int(seed, 16),
            recipient=check_recipient(recipient),
            generation=int(generation),
            secret=bytes.fromhex(secret),
        )
        # The checksum tells what was damaged; who made the file may have written anything.
        if len(key.id_key) != SECRET_BYTES or not 0 <= key.chunk_seed <= CHUNK_SEED_MAX or len(key.realm_id) != 16:
            raise ValueError("a value is out of bounds")
        if not 1 <= key.generation <= GENERATIONS_MAX:
            raise ValueError("a value is out of bounds")
    except (ValueError, IndexError, AssertionError, BadInput):
        raise NoAccess(f"key file {path}: damaged; put back your copy, or join the realm again") from None
    return key


def read_key_file(path: Path, realm_id: bytes) -> Realm:
    """Return a realm by its key file; NoAccess also for one that only writes."""
    key = read_key(path, realm_id)
    if key.only_writes:
        raise NoAccess(
            f"key file {path}: only writes, through a server (`dal realm join`); it opens no pool and no dump"
        )
    return key


def check_key_file(path: Path, settings: PoolSettings) -> Realm:
    """Return the realm of a pool by its key file; NoAccess also when that is of before the key was changed."""
    key = read_key_file(path, settings.realm_id)
    return _fitting(settings, key, path)


def _fitting(settings: PoolSettings, key: Realm, path: Path) -> Realm:
    if key.only_writes:
        return key
    realm = fitting_realm(settings, key)
    if realm is None and key.realm_id == settings.realm_id:
        raise NoAccess(f"key file {path}: {is_of_before(settings, key)}")
    if realm is None:
        _check_realm(key.realm_id.hex(), settings.realm_id, path)
    assert realm is not None
    return realm


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A pool's settings, its realm, and what opened it."""

    settings: PoolSettings
    realm: Realm
    key_path: Path | None = None
    """The key file, or the private key of age or ssh."""
    holder: str | None = None
    """The name of the holder; None when a key file did that is none of the pool's, or nothing is encrypted."""
    is_key_ahead: bool = False
    """Whether the key file has a newer secret than the pool: a change of the key was cut off, or undone by somebody."""


def open_pool_settings(
    pool_path: Path | Backend,
    *,
    passphrase: Callable[[], str] | None,
    key_path: Path | None,
    is_sealed: bool = False,
    check: Callable[[PoolSettings], None] | None = None,
) -> Opened:
    """Open a pool's key with a key file, a private key of age or ssh, or a passphrase, which is asked for.

    Who gives a key, or says that it `is_sealed`, gets NoAccess for a pool that is not encrypted: somebody else may have
    put it there to read what comes next. `check` looks at the settings before anything is opened with a secret.
    """
    settings = read_settings(pool_path)
    if settings.encryption == "none" and (is_sealed or key_path is not None):
        what = f"key {key_path}" if key_path is not None else "a passphrase"
        raise NoAccess(
            f"{pool_path}: this pool is not encrypted, and {what} is given for it: somebody may have exchanged it; "
            "leave the key or passphrase away if it is meant"
        )
    if check is not None:
        check(settings)
    if settings.encryption == "none":
        realm = Realm(settings.plain_secret)
        if realm.realm_id != settings.realm_id:
            raise Damaged(f"{pool_path}/{SETTINGS_NAME}: its secret is not that of its realm: put back your copy of it")
        return Opened(settings=settings, realm=realm)
    opened = _open_sealed(pool_path, settings, passphrase, key_path, prefers_passphrase=is_sealed)
    if not opened.realm.only_writes and not settings.is_genuine(opened.realm.secret):
        raise Damaged(not_genuine(pool_path))
    return opened


def _open_sealed(
    pool_path: Path | Backend,
    settings: PoolSettings,
    passphrase: Callable[[], str] | None,
    key_path: Path | None,
    *,
    prefers_passphrase: bool,
) -> Opened:
    """Open by the key that was given, else by the pool's own key file where it is looked for, else by a passphrase."""
    kinds = {holder.kind for holder in settings.holders}
    if key_path is not None:
        try:
            text = read_key_text(key_path)
        except NotFound:
            text = ""  # said below
        # Where a passphrase opens the pool, a file that is no key may be the passphrase's (Amanda's KEY-FILE).
        if PASSPHRASE not in kinds or _looks_like_key(text):
            try:
                opened = _open_by_key(settings, key_path, text, passphrase)
            except NoAccess:
                if not (prefers_passphrase and PASSPHRASE in kinds):
                    raise
            else:
                if not (prefers_passphrase and PASSPHRASE in kinds and opened.realm.only_writes):
                    return opened
    elif PASSPHRASE not in kinds or not prefers_passphrase:
        home = places.find_config_dir()
        if PASSPHRASE not in kinds or (home is not None and os.path.exists(default_key_path(settings.pool_id))):
            return _open_by_own_key(pool_path, settings)
    if passphrase is None:
        raise NoAccess(f"{pool_path}: needs its passphrase")
    found = open_by_passphrase(settings, passphrase())
    if found is None:
        raise NoAccess(
            f"{pool_path}: wrong passphrase (DAL_PASSPHRASE counts, else DAL_PASSPHRASE_FILE, else it is asked for)"
        )
    return Opened(settings=settings, realm=_known(settings, found[0]), holder=found[1].name)


def _known(settings: PoolSettings, secret: bytes) -> Realm:
    realm = realm_of(settings, secret)
    assert realm is not None  # who opened it has looked
    return realm


def _open_by_own_key(pool_path: Path | Backend, settings: PoolSettings) -> Opened:
    """Open by one's own key file, where it is looked for."""
    own = default_key_path(settings.pool_id)
    if not os.path.exists(own) and not any(holder.kind == KEY_FILE for holder in settings.holders):
        raise NoAccess(f"{pool_path}: opens with the private key of {_recipients(settings)}: --key FILE names it")
    return _open_by_key_file(settings, own)


def _open_by_key_file(settings: PoolSettings, path: Path) -> Opened:
    key = read_key(path, None)
    realm = _fitting(settings, key, path)
    names = [holder.name for holder in settings.holders if holder.kind == KEY_FILE]
    return Opened(
        settings=settings,
        realm=realm,
        key_path=path,
        holder=names[0] if names else None,
        is_key_ahead=not realm.only_writes and key.generation > settings.generation,
    )


def _open_by_key(settings: PoolSettings, path: Path, text: str, passphrase: Callable[[], str] | None) -> Opened:
    """Open by a file that was named: a key file, typed lines, or a private key of age or ssh."""
    if holds_identity(text):
        return _open_by_identity(settings, path, text, passphrase)
    return _open_by_key_file(settings, path)


def _recipients(settings: PoolSettings) -> str:
    return " or ".join(holder.name for holder in settings.holders if holder.kind == RECIPIENT)


def _open_by_identity(
    settings: PoolSettings, key_path: Path, text: str, passphrase: Callable[[], str] | None
) -> Opened:
    if not any(holder.kind == RECIPIENT for holder in settings.holders):
        raise NoAccess(f"{key_path}: no private key opens this pool; `dal key add --recipient KEY` lets one")
    try:
        identity = read_identity(text, passphrase=passphrase)
    except (BadInput, NoAccess) as error:
        raise type(error)(f"{key_path}: {error}") from None
    found = open_by_identity(settings, identity)
    if found is None:
        raise NoAccess(f"{key_path}: is not the private key of {_recipients(settings)}")
    return Opened(settings=settings, realm=_known(settings, found[0]), key_path=key_path, holder=found[1].name)


def read_key_text(path: Path) -> str:
    """Return the text of a file that may be a key of any kind."""
    with file_errors(path), open(path, "rb") as file:
        return os.fsdecode(file.read(SETTINGS_BYTES_MAX))


def _looks_like_key(text: str) -> bool:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    is_key = any(line.startswith((_KEY_FILE_WORD, _KEY_FILE_WORD_2, *_WORDS_OF_WRITE_KEYS)) for line in lines)
    return is_key or holds_identity(text) or is_paper([line for line in lines if line.strip()])
