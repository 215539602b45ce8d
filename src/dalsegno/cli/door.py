"""The way in: from a command's words to the open house."""

import argparse
import os
from importlib import import_module
from pathlib import Path

from dalsegno.actions.session import House
from dalsegno.assembly.local import open_dumps, open_pool
from dalsegno.chunks.realm import Realm
from dalsegno.chunks.recipients import holds_identity, read_identity
from dalsegno.cli.choice import Choice, chosen, joined_realms, key_path, pool_path
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import is_passphrase_given, read_passphrase
from dalsegno.formats.pack_header import decode_front, read_front
from dalsegno.pool.keys import read_key_text, read_realm
from dalsegno.pool.known import Differs, refuse
from dalsegno.pool.pack_read import open_as_reader
from dalsegno.pool.settings import is_pool, read_settings
from dalsegno.terms.errors import BadInput, Damaged, NoAccess, NotFound, TooNew
from dalsegno.terms.events import Note


def open_house(arguments: argparse.Namespace, terminal: Terminal, *, differs: Differs | None = None) -> House:
    """Open the pool that the command is about; what is wrong with it is said with which one it is, and why.

    `differs` is called when it is another pool, or an older one, than was seen there; without, that is Refused.
    """
    choice = chosen(arguments)
    assert choice.pool is not None
    realms = joined_realms()
    if realms and not arguments.pool_path and not is_pool(choice.pool):
        raise NotFound(
            f"{choice.pool}: no pool here, and this is about a pool: name it with --pool, or make one (`dal init`); "
            f"what is on the servers of {', '.join(realms)} shows `dal realm status`"
        )
    return open_chosen(arguments, terminal, choice, differs=differs)


def open_chosen(
    arguments: argparse.Namespace, terminal: Terminal, choice: Choice, *, differs: Differs | None = None
) -> House:
    """Open a pool that was chosen; what is wrong with it is said with which one it is, and why."""
    assert choice.pool is not None
    terminal.about = str(choice) if choice.others else ""
    try:
        house = open_pool(
            choice.pool,
            passphrase=read_passphrase,
            key_path=key_path(arguments),
            is_sealed=is_passphrase_given(),
            differs=differs or when_it_differs(arguments, terminal),
            report=terminal.report,
        )
    except (NoAccess, NotFound, Damaged) as error:
        error.args = (f"{error} ({choice})",)
        raise
    if house.pool.realm.only_writes:
        house.__exit__(None, None, None)
        raise NoAccess(f"{house.pool.key_path}: only writes, through a server (`dal realm join`); it opens no pool")
    return house


def when_it_differs(arguments: argparse.Namespace, terminal: Terminal) -> Differs:
    """Return what happens when a pool is another or older than was seen: Refused, or a notice with --trust-pool."""
    if not arguments.trust_pool:
        return refuse

    def tell(text: str) -> None:
        place, _, what = text.partition(": ")
        terminal.report(Note(severity="notice", path=os.fsencode(place), text=f"{what} (taken, as you say)"))

    return tell


def open_volumes(arguments: argparse.Namespace, terminal: Terminal, *words: str) -> House:
    """Open the house in which the volumes are that `words` (addresses, names of volumes, dumps) name.

    That is a realm's cache house for `//SERVER/VOLUME`, and for a volume's name when DAL_REALM says so, or when the
    user's own pool has none of this name and the only realm that he joined has; else the user's own pool.
    """
    if words and all(map(_dump_file, words)):
        return open_dumps_house(arguments, terminal, str(_dump_file(words[0])))
    places = [word for word in words if word.startswith("//")]
    realm = realm_of_addresses(places) if places else None
    if realm is None and not arguments.pool_path:
        realm = default_realm(arguments)
        if realm is None and len(profiles := joined_realms()) == 1:
            return _open_nearer(arguments, terminal, words, profiles[0])
    if realm is None:
        return open_house(arguments, terminal)
    return open_realm_house(realm, arguments, terminal)


def open_dumps_house(arguments: argparse.Namespace, terminal: Terminal, file: Path | str) -> House:
    """Open the house that has the key of a dump: the key that was given, where there is no pool or when it is the
    user's own (age, ssh); DAL_REALM or the user's own pool, else a realm that he joined."""
    realm = realm_of_key(arguments, Path(file))
    if realm is not None:
        return open_dumps(realm, report=terminal.report)
    realm_id = _realm_of_dump(file) if not arguments.pool_path and joined_realms() else None
    if realm_id is not None:
        fitting = _realms_with_id(realm_id)
        own = pool_path(arguments)
        if os.environ.get("DAL_REALM") in fitting:
            return open_realm_house(os.environ["DAL_REALM"], arguments, terminal)
        if is_pool(own) and _realm_of_pool(own) == realm_id:
            return open_house(arguments, terminal)
        if fitting:
            return open_realm_house(fitting[0], arguments, terminal)
        if is_pool(own):
            return open_house(arguments, terminal)
    if not pool_path(arguments).exists() and not arguments.pool_path:
        raise NotFound(no_key_for(file))
    return open_volumes(arguments, terminal)


def no_key_for(file: Path | str) -> str:
    """Return what to say of a dump that nothing here opens."""
    return (
        f"{file}: no pool here to read it with: give the key, --key FILE: the private key for which it was made, or "
        "the exported key of its pool"
    )


def realm_of_key(arguments: argparse.Namespace, file: Path) -> Realm | None:
    """Return what reads a dump by the key that was given alone; None when it is read by a pool or a joined realm.

    The key is the reader's own (age or ssh), for whom the dump was made; or the exported one of a pool elsewhere.
    """
    key = key_path(arguments)
    if key is None:
        return None
    try:
        text = read_key_text(key)
    except NotFound:
        raise NoAccess(f"key file {key}: not there; give its place with --key or put back your copy") from None
    if text.startswith(("age1", "ssh-")):
        raise NoAccess(f"{key}: holds a public key; what was made for it opens with the private one")
    if holds_identity(text):
        try:
            return open_as_reader(file, read_identity(text, passphrase=read_passphrase))
        except (BadInput, NoAccess) as error:
            raise error if str(file) in str(error) else type(error)(f"{key}: {error}") from None
    return None if is_pool(pool_path(arguments)) else read_realm(key)


def _dump_file(word: str) -> str | None:
    """Return the first file of a dump or a chain of dumps, with a clone and a path behind it or without."""
    if word.startswith("//"):
        return None
    head = word.partition(":/")[0]
    for text in (word, head, head.rpartition("@")[0]):
        for file in (text, text.partition("+")[0]):
            if file and os.path.isfile(file) and _realm_of_dump(file) is not None:
                return file
    return None


def _realm_of_dump(file: Path | str) -> bytes | None:
    """Return the id of the realm that a dump belongs to, as its head says, or None for what is no dump."""
    try:
        with open(file, "rb") as stream:
            return decode_front(read_front(stream.read)).realm
    except (OSError, Damaged, TooNew):
        return None  # whoever reads the dump says what is wrong with it


def _realm_of_pool(place: Path) -> bytes:
    return read_settings(place).realm_id


def _realms_with_id(realm_id: bytes) -> list[str]:
    found: list[str] = import_module("dalsegno.cli.realm").realms_with_id(realm_id)
    return found


def default_realm(arguments: argparse.Namespace) -> str | None:
    """Return the realm that a command about volumes is about, or None when that is a pool."""
    return chosen(arguments, about_volumes=True).realm or None


def open_realm_house(realm: str, arguments: argparse.Namespace, terminal: Terminal) -> House:
    """Open the cache house of a realm."""
    # What belongs to realms takes long to load: only who uses one waits for it.
    differs = when_it_differs(arguments, terminal)
    house: House = import_module("dalsegno.assembly.realm").open_realm(realm, differs=differs, report=terminal.report)
    return house


def realm_of_addresses(words: list[str]) -> str:
    """Return the joined realm that has the servers of these `//SERVER/VOLUME`."""
    realm: str = import_module("dalsegno.cli.realm").realm_of_addresses(words)
    return realm


def volume_of(word: str) -> str:
    """Return the name of the volume in an address."""
    return word.partition(":/")[0].partition("@")[0]


def _open_nearer(arguments: argparse.Namespace, terminal: Terminal, words: tuple[str, ...], realm: str) -> House:
    """Open the user's own pool, or the realm when only that has a volume of these names."""
    house = open_house(arguments, terminal)
    try:
        names = {volume_of(word) for word in words if _dump_file(word) is None}
        here = {state.name for state in house.volumes.list()} if names else set()
        if not names or names & here or not names <= _names_in(realm):
            return house
    except BaseException as error:
        house.__exit__(type(error), error, None)
        raise
    house.__exit__(None, None, None)
    return open_realm_house(realm, arguments, terminal)


def _names_in(realm: str) -> set[str]:
    names: set[str] = import_module("dalsegno.cli.realm").volumes_of_realm(realm)
    return names
