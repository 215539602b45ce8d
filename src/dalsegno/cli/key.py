"""`dal key show|export|import|list|check`: where keys are, what they open, copies; more in key_holders.py."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from dalsegno.chunks.realm import WriteKey
from dalsegno.cli.choice import key_path, pool_path
from dalsegno.cli.door import open_house
from dalsegno.cli.key_holders import add_holder_verbs, holder_lines, holder_values
from dalsegno.cli.key_rotate import add_rotate, generation_lines, generation_values
from dalsegno.cli.key_signers import add_signer_verbs
from dalsegno.cli.streams import bytes_output
from dalsegno.cli.terminal import Terminal, show
from dalsegno.cli.words import Parser
from dalsegno.pool.generations import fitting_realm, is_of_before
from dalsegno.pool.key_copies import STANDARD_OUTPUT, KeyCopy, list_copies, remember_copy
from dalsegno.pool.keys import (
    check_key_file,
    default_key_path,
    key_file_notes,
    key_file_text,
    key_of_text,
    paper_text,
    read_key,
    read_key_notes,
    write_key_file,
)
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import SETTINGS_BYTES_MAX, not_genuine, read_settings
from dalsegno.terms.errors import EXIT_DONE, BadInput, DalError, Damaged, NoAccess, NotFound, Refused
from dalsegno.terms.times import format_time, show_time
from dalsegno.world import places
from dalsegno.world.clock import now_ns
from dalsegno.world.files import PRIVATE_FILE, file_errors, write_durable

_POOL_KEY = re.compile(r"^([0-9a-f]{32})\.key\Z")
_NO_FILE = {
    "passphrase": "no key file: the passphrase opens the pool",
    "none": "no key: nothing is encrypted",
    "recipient": "no key file: a private key opens the pool",
}


def add_key(parser: Parser) -> None:
    """Define the arguments of `dal key`."""
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="show|export|import|list|check|passphrase|add|remove|rotate|signers"
    )
    verbs.add_parser("show", help="show where the pool's key is", epilog="example: dal key show").set_defaults(
        run=_show
    )
    export = verbs.add_parser(
        "export", help="write a copy of the key", epilog="example: dal key export /media/usb/pool.key"
    )
    export.add_argument("file", metavar="FILE|-", help="where the copy goes; - prints it (| lpr)")
    export.add_argument(
        "--write-only",
        action="store_true",
        help="a key that only writes, through a server: for `dal realm join JOINSTRING --key FILE`",
    )
    export.add_argument("--paper", action="store_true", help="four lines to print, and to type again when needed")
    export.set_defaults(run=_export)
    words = "make a copy of the key, or what was typed from a paper, your key of the pool"
    take = verbs.add_parser("import", help=words, epilog="example: dal key import /media/usb/pool.key")
    take.add_argument("file", metavar="FILE|-", help="the copy; - reads standard input")
    take.set_defaults(run=_import)
    words = "list this user's key files: which pool, on which machine, since when"
    verbs.add_parser("list", help=words, epilog="example: dal key list").set_defaults(run=_list)
    check = verbs.add_parser(
        "check", help="check whether key files open the pool", epilog="example: dal key check /media/usb/pool.key"
    )
    check.add_argument("files", nargs="*", metavar="FILE", help="default: the key in use, and the copies known here")
    check.set_defaults(run=_check)
    add_holder_verbs(verbs)
    add_rotate(verbs)
    add_signer_verbs(verbs)


def _pool_value(pool: Pool) -> dict[str, Any]:
    return {"encryption": pool.encryption, "key": pool.key_path, "realm": pool.realm.realm_id.hex()}


def _copy_value(copy: KeyCopy) -> dict[str, Any]:
    return {"place": copy.place, "at": format_time(copy.at_ns), "apart": copy.is_apart}


def _show(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_house(arguments, terminal) as house:
        pool = house.pool
        generations = generation_values(pool) if pool.realm.generation > 1 else []
    copies = list_copies(pool.pool_id)
    lines = [str(pool.key_path or _NO_FILE[pool.encryption])]
    if generations:
        lines.append(f"the key was changed on {show_time(pool.settings.changed_ns)}; under each generation of it are:")
        lines += generation_lines(generations)
    if len(pool.holders) > 1 or terminal.verbose:
        lines += holder_lines(pool)
    if terminal.verbose:
        lines += [f"  copied to {_place_words(copy)} on {show_time(copy.at_ns)}" for copy in copies]
    value = {**_pool_value(pool), "holders": holder_values(pool), "opened_by": pool.holder}
    value |= {"generation": pool.realm.generation, "generations": generations}
    terminal.result({**value, "copies": [_copy_value(copy) for copy in copies]}, lines)
    return EXIT_DONE


def _place_words(copy: KeyCopy) -> str:
    return "standard output" if copy.place == STANDARD_OUTPUT else show(copy.place)


def _is_apart(file: Path, pool: Path | None) -> bool:
    """Return whether a file is on another disk than a pool."""
    return pool is None or os.stat(file).st_dev != os.stat(pool).st_dev


def _export(arguments: argparse.Namespace, terminal: Terminal) -> int:
    printed = arguments.file == STANDARD_OUTPUT
    if printed and terminal.json:
        raise BadInput("--json and the key cannot both go to the output: name a FILE")
    file = Path(arguments.file).absolute()
    if not printed and (file.is_dir() or arguments.file.endswith("/")):
        raise BadInput(f"{arguments.file}: a directory: name the file that the copy becomes, {file / 'pool.key'}")
    if arguments.paper and arguments.write_only:
        raise BadInput("--paper is for the key that opens the pool, --write-only for one that does not: one of the two")
    with open_house(arguments, terminal) as house:
        pool = house.pool
        notes = key_file_notes(pool_id=pool.pool_id, place=pool.backend.directory or pool.place, copied=True)
        key = WriteKey.of(pool.realm) if arguments.write_only else pool.realm
        text = paper_text(key, notes) if arguments.paper else key_file_text(key, notes)
        if printed:
            output = bytes_output()
            output.write(text)
            output.flush()
        elif arguments.paper:
            write_durable(file, text, mode=PRIVATE_FILE, replace=False)
        else:
            write_key_file(file, key, notes=notes)
        apart = printed or _is_apart(file, pool.backend.directory)
    if arguments.write_only:
        said = f"{arguments.file}: what a machine needs that backs up through a server and reads nothing"
        terminal.result({**_pool_value(pool), "copy": arguments.file, "write_only": True}, [] if printed else [said])
        return EXIT_DONE
    place = STANDARD_OUTPUT if printed else os.fspath(file)
    try:
        remember_copy(pool.pool_id, KeyCopy(place=place, at_ns=now_ns(), is_apart=apart))
    except DalError as error:
        terminal.note(f"the copy is made, but could not be remembered for `dal doctor`: {error}")
    if printed:
        return EXIT_DONE
    lines = [f"the key is in {arguments.file}: keep it apart from the pool"]
    if not apart:
        lines.append("  that is on the same disk as the pool: a copy on another disk, or printed, is one more to keep")
    terminal.result({**_pool_value(pool), "copy": arguments.file, "apart": apart}, lines)
    return EXIT_DONE


def _import(arguments: argparse.Namespace, terminal: Terminal) -> int:
    place = pool_path(arguments)
    typed = arguments.file == STANDARD_OUTPUT
    name = "standard input" if typed else arguments.file
    try:
        with file_errors(name):
            data = sys.stdin.buffer.read(SETTINGS_BYTES_MAX) if typed else Path(name).read_bytes()[:SETTINGS_BYTES_MAX]
    except NotFound:
        raise NotFound(f"{name}: no such file") from None
    key = key_of_text(os.fsdecode(data), name)
    settings = read_settings(place)
    if settings.encryption == "none":
        raise Refused(f"{place}: nothing is encrypted here: there is no key to hold")
    realm = fitting_realm(settings, key)
    if realm is None and key.realm_id == settings.realm_id:
        raise NoAccess(f"{name}: {is_of_before(settings, key)}")
    if realm is None:
        raise NoAccess(f"{name}: belongs to another pool's realm, not to that of {place}")
    if not settings.is_genuine(realm.secret):
        raise Damaged(not_genuine(place))
    file = key_path(arguments) or default_key_path(settings.pool_id)
    whole = key if key.realm_id == realm.realm_id else realm  # of a paper only the first lines may be typed
    write_key_file(file, whole, notes=key_file_notes(pool_id=settings.pool_id, place=place, copied=True))
    terminal.result(
        {"pool": place, "key": file}, [f"{show(os.fspath(file))} opens {show(os.fspath(place))} from now on"]
    )
    return EXIT_DONE


def _list(arguments: argparse.Namespace, terminal: Terminal) -> int:
    config = places.config_dir()
    files = sorted((config / "keys").glob("*.key")) + sorted((config / "realms").glob("*.key"))
    given = key_path(arguments)
    if given is not None and given.absolute() not in files:
        files.insert(0, given)
    values = [_file_value(file) for file in files]
    rows = []
    for value in values:
        opens = f"realm {value['name']}" if value["name"] else f"pool {value['pool'][:12]}" if value["pool"] else ""
        where = " on ".join(show(word) for word in (value["place"], value["host"]) if word)
        rows.append([opens or "?", where, value["since"] or "", value["problem"] or show(os.fspath(value["file"]))])
    if not rows:
        terminal.note(f"no key files in {config / 'keys'}: `dal init` or `dal backup DIR` makes the first")
    terminal.result(values, terminal.listing(["opens", "where", "since", "file"], rows))
    return EXIT_DONE


def _file_value(file: Path) -> dict[str, Any]:
    """Return all that a key file tells: old ones have only their name and their time."""
    value: dict[str, Any] = dict.fromkeys(("realm", "pool", "place", "host", "name", "since", "generation", "problem"))
    value["file"] = file
    named = _POOL_KEY.match(file.name)
    try:
        realm_id, notes = read_key_notes(file)
        with file_errors(file):
            changed_ns = os.stat(file).st_mtime_ns
    except DalError as error:
        return {**value, "problem": str(error)}
    made = notes.get("made") or notes.get("copied") or format_time(changed_ns)
    value.update(
        realm=realm_id.hex(),
        since=made,
        generation=read_key(file, realm_id).generation,
        place=notes.get("place"),
        host=notes.get("host"),
    )
    return {**value, "pool": notes.get("pool") or (named and named[1]), "name": notes.get("realm")}


def _check(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if arguments.files:
        for file in arguments.files:
            arguments.key_path = file
            with open_house(arguments, terminal) as house:
                pool = house.pool
                if pool.key_path is None:  # a passphrase opened it
                    check_key_file(Path(file), pool.settings)
        values = [{"file": file, "opens": True, "problem": None} for file in arguments.files]
    else:
        with open_house(arguments, terminal) as house:
            pool = house.pool
        known = [
            copy.place for copy in list_copies(pool.pool_id) if copy.place not in (str(pool.key_path), STANDARD_OUTPUT)
        ]
        used = [{"file": os.fspath(pool.key_path), "opens": True, "problem": None}] if pool.key_path is not None else []
        values = used + [_checked(file, pool) for file in known]
    lines = []
    for value in values:
        told = {True: f"opens {pool.place}", None: "not here now", False: f"WRONG: {value['problem']}"}
        lines.append(f"{show(str(value['file']))}: {told[value['opens']]}")
    terminal.result(values, lines or [_NO_FILE[pool.encryption]])
    wrong = any(value["opens"] is False for value in values)
    return NoAccess.exit_code if wrong else EXIT_DONE


def _checked(file: str, pool: Pool) -> dict[str, Any]:
    if not os.path.exists(file):
        return {"file": file, "opens": None, "problem": "not here now"}
    try:
        check_key_file(Path(file), pool.settings)
    except DalError as error:
        return {"file": file, "opens": False, "problem": str(error)}
    return {"file": file, "opens": True, "problem": None}
