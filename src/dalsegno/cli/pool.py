"""`dal init`, `gc`, `stats`."""

import argparse
from pathlib import Path

from dalsegno.actions import keep
from dalsegno.assembly.local import create_pool
from dalsegno.backends.address import directory_of
from dalsegno.cli.choice import key_path, pool_path
from dalsegno.cli.door import open_house
from dalsegno.cli.terminal import Terminal, as_json
from dalsegno.cli.words import KEEP_THE_KEY, Parser, read_passphrase
from dalsegno.pool.collect import CollectResult
from dalsegno.pool.settings import ENCRYPTIONS
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE
from dalsegno.terms.sizes import GIB, format_size
from dalsegno.terms.times import format_time, parse_duration_seconds

FREE_BYTES_MIN = 1 * GIB


def add_init(parser: Parser) -> None:
    """Define the arguments of `dal init`."""
    parser.add_argument("path", nargs="?", metavar="POOL", help="default: --pool, DAL_POOL, or your own")
    parser.add_argument("--encryption", choices=ENCRYPTIONS, default="keyfile")
    parser.add_argument(
        "--join", type=Path, metavar="FILE", help="create it with an exported key, to read that pool's dumps"
    )
    parser.set_defaults(run=_init)


def add_gc(parser: Parser) -> None:
    """Define the arguments of `dal gc`."""
    parser.add_argument(
        "--grace",
        default="24h",
        metavar="TIME",
        help="how long a condemned pack is kept (default 24h; 0: not at all, while no other process writes)",
    )
    parser.add_argument("--for", dest="budget", metavar="TIME", help="stop after about TIME, for example 30m")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only show what would be done")
    parser.set_defaults(run=_gc)


def add_stats(parser: Parser) -> None:
    """Define the arguments of `dal stats`."""
    parser.add_argument(
        "volumes", nargs="*", metavar="VOLUME", help="show their size, and the space that each uses alone"
    )
    parser.set_defaults(run=_stats)


def _init(arguments: argparse.Namespace, terminal: Terminal) -> int:
    path = directory_of(arguments.path) if arguments.path is not None else pool_path(arguments)
    passphrase = read_passphrase(confirm=True) if arguments.encryption == "passphrase" else None
    with create_pool(
        path,
        encryption=arguments.encryption,
        passphrase=passphrase,
        key_path=key_path(arguments),
        join=arguments.join,
    ) as house:
        pool = house.pool
        value = {
            "pool": pool.place,
            "id": pool.pool_id.hex(),
            "realm": pool.realm.realm_id.hex(),
            "encryption": pool.encryption,
            "key": pool.key_path,
        }
        lines = [f"made a pool in {pool.place}, encryption: {pool.encryption}"]
        if pool.key_path is not None:
            lines.append(f"its key is {pool.key_path}: {KEEP_THE_KEY}")
        elif pool.encryption == "passphrase":
            lines.append("without the passphrase all is lost: keep it where you find it in ten years")
        else:
            lines.append("nothing is encrypted: anyone who can read the pool's files can read the backup")
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_DONE


def _gc(arguments: argparse.Namespace, terminal: Terminal) -> int:
    grace = 0 if arguments.grace == "0" else parse_duration_seconds(arguments.grace)
    with open_house(arguments, terminal) as house:
        result = keep.gc(house, grace_seconds=grace, dry_run=arguments.dry_run, budget_seconds=_budget(arguments))
    value = as_json(result)
    value["releases"] = [{"at": format_time(at_ns), "bytes": size} for at_ns, size in result.releases]
    lines = gc_lines(result, dry_run=arguments.dry_run)
    terminal.result({**value, "dry_run": arguments.dry_run}, [] if terminal.quiet else lines)
    return EXIT_DONE


def _budget(arguments: argparse.Namespace) -> float | None:
    return None if arguments.budget is None else parse_duration_seconds(arguments.budget)


def gc_lines(result: CollectResult, *, dry_run: bool) -> list[str]:
    """Say what a collection gave back, and what is free when."""
    verb = "would delete" if dry_run else "deleted"
    lines = []
    if result.deleted:
        lines.append(f"{verb} {_packs(result.deleted)}, {format_size(result.freed_bytes)}")
    if result.rewritten:
        what = "would be written again" if dry_run else "written again"
        lines.append(f"{_packs(result.rewritten)} {what}, without what is dead in them")
    if result.releases:
        lines.append(_release_line(result.releases))
    if result.left:
        why = "there is no room to write them again yet" if result.out_of_room else "the time was over"
        lines.append(f"{_packs(result.left)} half dead are left as they are: {why}; run again")
    return lines or ["nothing is dead: all that is stored is needed"]


def _release_line(releases: tuple[tuple[int, int], ...]) -> str:
    total = format_size(sum(size for _, size in releases))
    first, last = releases[0], releases[-1]
    when = f"{total} {'is' if len(releases) == 1 else 'are'} free from {format_time(last[0])} on"
    if len(releases) > 1:
        when += f", {format_size(first[1])} of it from {format_time(first[0])} on"
    return f"{when}: run `dal gc` again then, or `dal gc --grace 0` now while no other process writes"


def _packs(count: int) -> str:
    return f"{count:,} pack{'s' * (count != 1)}"


def _volume_stats(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_house(arguments, terminal) as house:
        found = [keep.volume_stats(house, name) for name in arguments.volumes]
    rows = [
        [
            each.volume,
            count_of(each.size.clone_count, "clone"),
            format_size(each.size.total_bytes),
            format_size(each.raw_bytes),
            format_size(each.alone_stored_bytes),
        ]
        for each in found
    ]
    headings = ["volume", "", "newest state", "all states, before compression", "free if removed, about"]
    terminal.result([as_json(each) for each in found], terminal.listing(headings, rows, right=(1, 2, 3, 4)))
    return terminal.done()


def _stats(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if arguments.volumes:
        return _volume_stats(arguments, terminal)
    with open_house(arguments, terminal) as house:
        found = keep.stats(house)
    rows = [
        ["pool", found.path],
        ["encryption", found.encryption],
        ["volumes", f"{found.volume_count:,} with {count_of(found.clone_count, 'clone')}"],
        ["newest states", format_size(found.protected_bytes)],
        ["stored", f"{format_size(found.pack_bytes)} in {count_of(found.pack_count, 'pack')}"],
        ["objects", f"{found.object_count:,}"],
        ["index", format_size(found.index_bytes)],
    ]
    terminal.result({**as_json(found), "pool_id": found.pool_id.hex()}, terminal.table(rows))
    return terminal.done()
