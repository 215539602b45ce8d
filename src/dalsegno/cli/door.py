"""The way in: from a command's words to the open house."""

import argparse
import os
from importlib import import_module
from pathlib import Path

from dalsegno.actions.house import House
from dalsegno.assembly import open_pool
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import key_path, pool_path, read_passphrase
from dalsegno.pool.keys import SETTINGS_NAME
from dalsegno.terms.errors import NotFound

PROFILE_SUFFIX = ".json"


def open_house(arguments: argparse.Namespace, terminal: Terminal) -> House:
    """Open the pool that the words name, or the user's own; where neither is, the policy's."""
    place = pool_path(arguments)
    if not arguments.pool_path and not os.environ.get("DAL_POOL") and not (place / SETTINGS_NAME).exists():
        place = _policys_pool(arguments) or place
    return open_pool(place, passphrase=read_passphrase, key_path=key_path(arguments), report=terminal.report)


def open_volumes(arguments: argparse.Namespace, terminal: Terminal, *words: str) -> House:
    """Open the house in which the volumes are that `words` (addresses, names of volumes, dumps) name.

    That is a realm's cache house for `//SERVER/VOLUME`, and for a volume's name when DAL_REALM says so, or when the
    user's own pool has none of this name and the only realm that he joined has; else the user's own pool.
    """
    realm = _realm_of_addresses([word for word in words if word.startswith("//")])
    if realm is None and not arguments.pool_path:
        realm = os.environ.get("DAL_REALM") or None
        profiles = [] if realm is not None else joined_realms()
        if len(profiles) == 1:
            if (pool_path(arguments) / SETTINGS_NAME).exists():
                return _open_nearer(arguments, terminal, words, profiles[0])
            realm = profiles[0]
    if realm is None:
        return open_house(arguments, terminal)
    return _open_realm(realm, terminal)


def _open_realm(realm: str, terminal: Terminal) -> House:
    # What belongs to realms takes long to load: only who uses one waits for it.
    house: House = import_module("dalsegno.assembly_remote").open_realm(realm, report=terminal.report)
    return house


def joined_realms() -> list[str]:
    """Return the realms that this user joined."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    try:
        names = os.listdir(os.path.join(base, "dalsegno", "realms"))
    except OSError:
        return []
    return sorted(name.removesuffix(PROFILE_SUFFIX) for name in names if name.endswith(PROFILE_SUFFIX))


def _realm_of_addresses(words: list[str]) -> str | None:
    if not words:
        return None
    realm: str = import_module("dalsegno.cli.realm").realm_of_addresses(words)
    return realm


def volume_of(word: str) -> str:
    """Return the name of the volume in an address."""
    return word.partition(":/")[0].partition("@")[0]


def _open_nearer(arguments: argparse.Namespace, terminal: Terminal, words: tuple[str, ...], realm: str) -> House:
    """Open the user's own pool, or the realm when only that has a volume of these names."""
    house = open_house(arguments, terminal)
    try:
        names = {volume_of(word) for word in words if not os.path.exists(word)}
        here = {state.name for state in house.volumes.list()} if names else set()
        if not names or names & here or not names <= _names_in(realm):
            return house
    except BaseException as error:
        house.__exit__(type(error), error, None)
        raise
    house.__exit__(None, None, None)
    return _open_realm(realm, terminal)


def _names_in(realm: str) -> set[str]:
    names: set[str] = import_module("dalsegno.cli.realm").volumes_of_realm(realm)
    return names


def _policys_pool(arguments: argparse.Namespace) -> Path | None:
    policy_file = import_module("dalsegno.backup.policy_file")  # only who has no pool of his own waits for it
    try:
        found = policy_file.find_policy(getattr(arguments, "policy", None))
    except NotFound:
        return None
    pool: Path | None = policy_file.load_policy(found).pool
    return pool
