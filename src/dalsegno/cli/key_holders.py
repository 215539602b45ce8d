"""`dal key passphrase|add|remove`: who holds a pool's key."""

import argparse
import os
from typing import Any

from dalsegno.cli.door import open_house
from dalsegno.cli.terminal import Terminal, show
from dalsegno.cli.words import read_new_passphrase
from dalsegno.pool.holders import (
    change_holders,
    find_holder,
    free_name,
    passphrase_holder,
    recipient_holder,
    with_changed,
    with_holder,
    without_holder,
)
from dalsegno.pool.keys import check_key_file, default_key_path
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import KEY_FILE, PASSPHRASE, RECIPIENT, SETTINGS_NAME, Holder, KdfCost, PoolSettings
from dalsegno.terms.errors import EXIT_DONE, BadInput, NoAccess, NotFound, Refused

OLD_COPIES = f"copies of {SETTINGS_NAME} made before, in backups of the pool too, still open with"


def add_holder_verbs(verbs: Any) -> None:
    """Say what these verbs understand."""
    words = "change a passphrase of the pool"
    change = verbs.add_parser("passphrase", help=words, epilog="example: dal key passphrase")
    change.add_argument("name", nargs="?", metavar="NAME", help="the holder (default: the one that opened the pool)")
    change.set_defaults(run=_passphrase)
    words = "let a passphrase, or a private key of age or ssh, open the pool as well"
    add = verbs.add_parser("add", help=words, epilog="example: dal key add --recipient ~/.ssh/id_ed25519.pub")
    what = add.add_mutually_exclusive_group(required=True)
    what.add_argument("--passphrase", action="store_true", help="a passphrase; the command asks for it")
    what.add_argument("--recipient", metavar="KEY", help="a public key, age1... or ssh-ed25519 ..., or a file with one")
    add.add_argument("--name", metavar="NAME", help="its name here (default: from its kind)")
    add.set_defaults(run=_add)
    words = "let a passphrase or a private key open the pool no more"
    remove = verbs.add_parser("remove", help=words, epilog="example: dal key remove anna@laptop")
    remove.add_argument("name", metavar="NAME", help="one of those that `dal key show` lists")
    remove.set_defaults(run=_remove)


def holder_values(pool: Pool) -> list[dict[str, Any]]:
    """Return what may be told of the holders."""
    return [
        {"name": holder.name, "kind": holder.kind, "recipient": holder.recipient or None} for holder in pool.holders
    ]


def holder_lines(pool: Pool) -> list[str]:
    """Return one line for each holder."""
    words = {
        PASSPHRASE: "a passphrase",
        KEY_FILE: "a key file",
        RECIPIENT: "the private key of ",
    }
    return [f"  {show(each.name)}: {words[each.kind]}{each.recipient}" for each in pool.holders]


def _passphrase(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_house(arguments, terminal) as house:
        pool = house.pool
    before = _whose_passphrase(pool, arguments.name)
    after = _new_passphrase(pool, before.name, before.cost)
    change_holders(pool.backend, pool.realm, lambda settings: with_changed(settings, before, after))
    lines = [f"{show(before.name)}: the new passphrase opens the pool, the old one does not any more"]
    lines += [f"  {OLD_COPIES} the old one", f"  keep a copy of the new {SETTINGS_NAME}"]
    terminal.result({"pool": pool.place, "changed": before.name}, lines)
    return EXIT_DONE


def _whose_passphrase(pool: Pool, name: str | None) -> Holder:
    held = [holder for holder in pool.holders if holder.kind == PASSPHRASE]
    if name is not None:
        held = [holder for holder in held if holder.name == name]
        if not held:
            raise NotFound(f"no passphrase {name!r} here: `dal key show` lists what opens the pool")
    if not held:
        raise Refused("no passphrase opens this pool: `dal key add --passphrase` makes one")
    opened = [holder for holder in held if holder.name == pool.holder]
    if len(held) > 1 and not opened:
        raise BadInput(f"there are several passphrases, name one: {', '.join(show(holder.name) for holder in held)}")
    return (opened or held)[0]


def _new_passphrase(pool: Pool, name: str, cost: KdfCost) -> Holder:
    """Return a holder with the passphrase that is asked for now, which costs no less to guess than `cost`."""
    dearest = max(cost, KdfCost(), key=lambda each: each.work_kib)
    new = read_new_passphrase()
    return passphrase_holder(new, name=name, secret=pool.realm.secret, pool_id=pool.pool_id, cost=dearest)


def _add(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_house(arguments, terminal) as house:
        pool = house.pool
    if not pool.holders:
        raise Refused(f"{pool.place}: nothing is encrypted here: there is no key to hold")
    if arguments.passphrase:
        wanted = arguments.name or free_name(pool.holders, PASSPHRASE)
        new = _new_passphrase(pool, wanted, KdfCost())
    else:
        recipient, comment = read_public_key(arguments.recipient)
        wanted = arguments.name or free_name(pool.holders, comment or recipient[:20])
        new = recipient_holder(recipient, name=wanted, secret=pool.realm.secret)
    change_holders(pool.backend, pool.realm, lambda settings: with_holder(settings, new))
    how = "its passphrase" if new.kind == PASSPHRASE else "`--key` and the private key"
    lines = [f"{show(new.name)} opens the pool from now on, with {how}", f"  keep a copy of the new {SETTINGS_NAME}"]
    terminal.result({"pool": pool.place, "added": new.name, "kind": new.kind}, lines)
    return EXIT_DONE


def read_public_key(given: str) -> tuple[str, str]:
    """Return a public key, given as it is or as a file, and the comment behind it."""
    text = given
    if not given.startswith(("age1", "ssh-")) and os.path.isfile(given):
        try:
            with open(given, encoding="utf-8") as file:
                lines = [line.strip() for line in file.read(64 * 1024).splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{given}: cannot be read as a public key: {error}") from None
        keys = [line for line in lines if line and not line.startswith("#")]
        if len(keys) != 1:
            raise BadInput(f"{given}: {len(keys)} lines, one public key was expected")
        text = keys[0]
    words = text.split()
    is_ssh = text.startswith("ssh-")
    return " ".join(words[: 2 if is_ssh else 1]), " ".join(words[2:]) if is_ssh else ""


def _remove(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_house(arguments, terminal) as house:
        pool = house.pool
    name = arguments.name
    gone: list[Holder] = []

    def change(settings: PoolSettings) -> tuple[Holder, ...]:
        gone[:] = [find_holder(settings, name)]
        left = without_holder(settings, name)
        if left and all(holder.kind == KEY_FILE for holder in left):
            _check_key_file(pool)
        return left

    change_holders(pool.backend, pool.realm, change)
    lines = [f"{show(name)} opens the pool no more"]
    if gone[0].kind == KEY_FILE:
        lines.append("  but every copy of the key file holds the key itself: delete copies that must not be used")
    else:
        lines.append(f"  {OLD_COPIES} it; a former user of it may have kept the key itself (`dal key export`)")
    lines.append(f"  keep a copy of the new {SETTINGS_NAME}")
    terminal.result({"pool": pool.place, "removed": name, "kind": gone[0].kind}, lines)
    return EXIT_DONE


def _check_key_file(pool: Pool) -> None:
    """Refused: only a key file would be left to open the pool, and it is not there or not the right one."""
    is_key_file = any(holder.name == pool.holder and holder.kind == KEY_FILE for holder in pool.holders)
    file = pool.key_path if is_key_file and pool.key_path is not None else default_key_path(pool.pool_id)
    try:
        check_key_file(file, pool.settings)
    except NoAccess as error:
        raise Refused(f"then only a key file would open the pool, and it does not: {error}") from None
