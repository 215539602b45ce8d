"""`dal pool show|trust`: what is remembered of the place of a pool, and to accept another or an older one there."""

import argparse
from importlib import import_module

from dalsegno.actions.trust import Memory, memory, trust
from dalsegno.cli.door import open_house
from dalsegno.cli.terminal import Terminal, show
from dalsegno.cli.words import Parser
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, EXIT_FAILED, Refused
from dalsegno.terms.ids import hex_short
from dalsegno.terms.times import format_time, show_time


def add_pool(parser: Parser) -> None:
    """Define the arguments of `dal pool`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="show|trust")
    words = "show which pool is here, what was seen here before, and what differs"
    verbs.add_parser("show", help=words, epilog="example: dal pool show").set_defaults(run=_show)
    words = "accept the pool that is here although it is another or an older one than was seen here"
    accept = verbs.add_parser("trust", help=words, epilog="example: dal pool trust --pool /mnt/disk/pool --yes")
    accept.add_argument("--yes", action="store_true", help="do not ask")
    accept.set_defaults(run=_trust)


def _show(arguments: argparse.Namespace, terminal: Terminal) -> int:
    differences: list[str] = []
    with open_house(arguments, terminal, differs=differences.append) as house:
        found = memory(house)
        pool = house.pool
    value = {
        "pool": found.place,
        "id": pool.pool_id.hex(),
        "realm": pool.realm.realm_id.hex(),
        "encryption": pool.encryption,
        "known": _known_values(found),
        "volumes_seen": found.volume_count,
        "absent": [each.hex() for each in found.absent],
        "differences": differences,
    }
    rows = [["pool", show(found.place)], ["id", hex_short(pool.pool_id)], ["encryption", pool.encryption]]
    rows += [
        ["seen here", f"{hex_short(each.pool_id)}, encryption {each.encryption}, since {show_time(each.at_ns)}"]
        for each in found.pools
    ]
    rows.append(["volumes seen", f"{found.volume_count:,}"])
    terminal.result(value, [*terminal.table(rows), *absent_lines(found), *map(show, differences)])
    return EXIT_FAILED if differences else EXIT_DONE


def _known_values(found: Memory) -> list[dict[str, str]]:
    return [
        {
            "id": each.pool_id.hex(),
            "realm": each.realm_id.hex(),
            "encryption": each.encryption,
            "at": format_time(each.at_ns),
        }
        for each in found.pools
    ]


def absent_lines(found: Memory) -> list[str]:
    """Say that volumes are gone that were seen."""
    if not found.absent:
        return []
    ids = ", ".join(hex_short(each) for each in found.absent[:3]) + (" ..." if len(found.absent) > 3 else "")
    count = len(found.absent)
    what = (
        f"{count_of(count, 'volume')} that {'was' if count == 1 else 'were'} seen here {'is' if count == 1 else 'are'}"
    )
    return [f"{what} not there now ({ids}): removed from another machine, or this is an older copy of the pool"]


def _trust(arguments: argparse.Namespace, terminal: Terminal) -> int:
    differences: list[str] = []
    with open_house(arguments, terminal, differs=differences.append) as house:
        found = memory(house)
        differences += absent_lines(found)
        if differences and not arguments.yes:
            ask_to_accept(terminal, found.place, differences, show="dal pool show")
        trust(house)
    value = {"pool": found.place, "id": house.pool.pool_id.hex(), "accepted": differences}
    lines = (
        [f"accepted {found.place} as it is now"] if differences else [f"nothing differs: {found.place} is as it was"]
    )
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_DONE


def ask_to_accept(terminal: Terminal, place: str, differences: list[str], *, show: str) -> None:
    """Ask whether what differs at a place is right; Refused when it is not, or nobody is there to ask."""
    ask = import_module("dalsegno.cli.backup").asker(terminal)  # loads much, and only a person needs it
    for text in differences:
        terminal.note(text)
    if ask is None:
        raise Refused(f"{place}: {count_of(len(differences), 'difference')} (`{show}`): say --yes to accept it")
    terminal.note(
        "That is right when you put back a copy of the pool, made a new one, or use several disks in turn here. If you "
        "did none of these, somebody else did: do not back up to it, and look at the disk, share or server first."
    )
    if not ask("Is it what you mean?"):
        raise Refused(f"{place}: nothing was accepted")
