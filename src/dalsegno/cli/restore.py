"""`dal restore`: into a directory, or dumps into a volume."""

import argparse
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dalsegno.actions import restore as actions
from dalsegno.actions.session import House
from dalsegno.actions.view import split_dumps
from dalsegno.cli.changes import Shown
from dalsegno.cli.door import open_house, open_volumes
from dalsegno.cli.terminal import Terminal, format_duration, show
from dalsegno.cli.volume import volume_value
from dalsegno.cli.words import POLICY_HELP, Parser, add_trust, path_bytes
from dalsegno.host.changes import Tell
from dalsegno.host.losses import count_words
from dalsegno.host.owners import OwnerMap
from dalsegno.host.untrusted import count_taming
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, BadInput, Damaged, NotFound, Unavailable
from dalsegno.terms.events import Note
from dalsegno.terms.sizes import format_size
from dalsegno.volumes.address import parse_address, resolve
from dalsegno.volumes.state import NATIVE
from dalsegno.world.clock import now_ns

LISTED_MAX = 100


def add_restore(parser: Parser) -> None:
    """Define the arguments of `dal restore`."""
    parser.add_argument("what", nargs="*", metavar="ADDRESS|DUMPS", help="DUMPS: FULL.dump+INCR.dump... or a list")
    parser.add_argument(
        "-t", "--to", "--target", type=Path, metavar="DIR", help="write files there, only those that differ"
    )
    parser.add_argument("--volume", metavar="NAME", help="make a volume from dumps instead")
    parser.add_argument(
        "--server", action="append", default=[], metavar="S,...", help="with --volume: on these servers"
    )
    parser.add_argument("--rule", choices=("any", "majority"), help="with --server: how many must have a commit")
    parser.add_argument("--path", action="append", default=[], metavar="P", help="only this file or directory")
    parser.add_argument(
        "--delete",
        action="store_true",
        help="remove files of DIR that are not in the backup; what the backup omitted or could not read stays",
    )
    parser.add_argument("--delete-excluded", action="store_true", help="the same, including what the backup omitted")
    parser.add_argument("--yes", action="store_true", help="confirm --delete with --to /")
    parser.add_argument("--compare", action="store_true", help="compare file contents, not only size and time")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only show what would be done")
    parser.add_argument(
        "--cross-file-systems", action="store_true", help="also restore into file systems mounted below DIR"
    )
    parser.add_argument("--any-size", action="store_true", help="start even if there seems to be insufficient space")
    add_trust(
        parser,
        untrusted="no set-id bits, devices, security.* and trusted.* attributes, locks; everything belongs to you "
        "(what a dump of a volume that the pool does not know, or for readers, gets without a word)",
        trusted="all that is in it",
    )
    parser.add_argument("--owners", default="name", metavar="name|number|map:FILE", help="the owners of restored files")
    parser.add_argument("--site", action="store_true", help="restore pool, volumes and catalog from the media")
    parser.add_argument("--media", action="append", default=[], metavar="DIR", help="with --site: where a medium is")
    parser.add_argument("--state", type=Path, metavar="DIR", help="with --site and no policy: the catalog's directory")
    parser.add_argument("--policy", metavar="FILE", help=f"to find dumps, too: {POLICY_HELP}")
    parser.set_defaults(run=_restore)


def _owners(text: str) -> OwnerMap:
    if text.startswith("map:"):
        return actions.read_owner_map(Path(text.removeprefix("map:")))
    if text not in ("name", "number"):
        raise BadInput(f"--owners {text}: expected name, number or map:FILE")
    return OwnerMap(mode=text)


def _request(arguments: argparse.Namespace) -> actions.RestoreRequest:
    return actions.RestoreRequest(
        owners=_owners(arguments.owners),
        delete=arguments.delete or arguments.delete_excluded,
        delete_excluded=arguments.delete_excluded,
        sure=arguments.yes,
        dry_run=arguments.dry_run,
        compare=arguments.compare,
        cross_file_systems=arguments.cross_file_systems,
        is_trusted=arguments.is_trusted,
        any_size=arguments.any_size,
    )


def _restore_dated(
    arguments: argparse.Namespace,
    terminal: Terminal,
    house: House,
    what: str,
    request: actions.RestoreRequest,
    tell: Tell | None,
) -> tuple[actions.RestoreOutcome | None, dict[str, Any]] | None:
    """Restore from dumps what the pool does not have, or has older; None when the pool is to be read."""
    if split_dumps(what) is not None:
        return None
    address = parse_address(what)
    try:
        in_pool = resolve(house.pool, house.volumes, address, now_ns=now_ns())
    except NotFound:
        in_pool = None
    except Unavailable as error:
        return _dumps_instead(arguments, terminal, house, what, request, tell, error)
    if in_pool is not None and in_pool.clone in ("", None, address.selector):
        return None
    if in_pool is not None and address.selector in ("", "latest"):
        return None
    # Only now the catalog and all that belongs to it are loaded.
    result: tuple[actions.RestoreOutcome | None, dict[str, Any]] | None
    result = import_module("dalsegno.cli.dated").restore_dated(
        arguments, terminal, house, address, in_pool, request=request, tell=tell
    )
    return result


def _dumps_instead(
    arguments: argparse.Namespace,
    terminal: Terminal,
    house: House,
    what: str,
    request: actions.RestoreRequest,
    tell: Tell | None,
    error: Unavailable,
) -> tuple[actions.RestoreOutcome | None, dict[str, Any]]:
    """Restore from dumps what no server gives; its error when there are none either."""
    if split_dumps(what) is not None:
        raise error
    dated = import_module("dalsegno.cli.dated")
    found: tuple[actions.RestoreOutcome | None, dict[str, Any]] | None
    try:
        found = dated.restore_dated(arguments, terminal, house, parse_address(what), None, request=request, tell=tell)
    except NotFound:
        found = None
    if found is None:
        raise error
    terminal.note(f"{what}: from dumps, because {error}")
    return found


def _restore(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if arguments.site:
        if arguments.what or arguments.to is not None or arguments.volume is not None or arguments.path:
            raise BadInput("--site restores everything: leave ADDRESS, --to, --volume and --path away")
        code: int = import_module("dalsegno.cli.rescue").restore_whole_site(arguments, terminal)
        return code
    if not arguments.what:
        raise BadInput("say what to restore: an ADDRESS, DUMPS, or --site")
    what = "+".join(arguments.what)
    if (arguments.to is None) == (arguments.volume is None):
        raise BadInput("say where to: --to DIR for files, or --volume NAME for a volume")
    if arguments.volume is not None:
        return _restore_volume(arguments, terminal, what)
    request = _request(arguments)
    more: dict[str, Any] = {}
    shown = Shown(terminal, lines=arguments.dry_run or terminal.verbose)
    tell = shown.tell if shown.is_wanted else None
    with open_volumes(arguments, terminal, what) as house:
        dated = _restore_dated(arguments, terminal, house, what, request, tell)
        if dated is not None:
            outcome, more = dated
            if outcome is None:
                return EXIT_DONE
        else:
            try:
                outcome = actions.restore_as(
                    house,
                    what,
                    arguments.to,
                    request,
                    paths=[path_bytes(path) for path in arguments.path],
                    tell=tell,
                )
            except Unavailable as error:
                # No server that has it answers: what backups are for.
                outcome, more = _dumps_instead(arguments, terminal, house, what, request, tell, error)
                if outcome is None:
                    return EXIT_DONE
    _say_failures(terminal, outcome.result.failed)
    terminal.result(
        {**more, **_outcome_value(outcome, dry_run=arguments.dry_run), **shown.value()},
        [] if terminal.quiet else _outcome_lines(outcome, dry_run=arguments.dry_run),
    )
    if outcome.result.damaged_count:
        return Damaged.exit_code
    is_less = arguments.is_trusted is None and bool(outcome.result.tamed)
    partial = outcome.result.failed or outcome.result.lost.unexpected() or is_less
    return EXIT_PARTIAL if partial else EXIT_DONE


def _outcome_value(outcome: actions.RestoreOutcome, *, dry_run: bool) -> dict[str, Any]:
    result = outcome.result
    return {
        "from": outcome.label,
        "to": outcome.target,
        "dry_run": dry_run,
        "created": result.created,
        "updated": result.updated,
        "unchanged": result.unchanged,
        "deleted": result.deleted,
        "bytes_written": result.bytes_written,
        "trusted": outcome.is_trusted,
        "not_trusted": dict(result.tamed),
        "room": outcome.room and {"free_bytes": outcome.room.free_bytes, "free_files": outcome.room.free_files},
        "protected": dict(result.protected.counts),
        "protected_listed": [{"path": path, "reason": why} for path, why in result.protected.listed],
        "failed": [{"path": path, "error": text} for path, text in result.failed],
        "damaged": result.damaged_count,
        "left": [{"path": path, "reason": text} for path, text in result.left],
        "attributes_lost": dict(result.lost.counts),
        "attributes_lost_listed": [
            {"path": loss.path, "attribute": loss.attribute, "error": loss.text} for loss in result.lost.listed
        ],
        "duration_seconds": outcome.duration_ns / 1e9,
    }


def _outcome_lines(outcome: actions.RestoreOutcome, *, dry_run: bool) -> list[str]:
    result = outcome.result
    done = "would restore" if dry_run else "restored"
    lines = [
        f"{done} {outcome.label} to {outcome.target} in {format_duration(outcome.duration_ns)}",
        f"  {result.created:,} created, {result.updated:,} updated, {result.unchanged:,} unchanged, "
        f"{result.deleted:,} deleted; {format_size(result.bytes_written)} {'would be ' if dry_run else ''}written",
    ]
    if dry_run and outcome.room is not None and not actions.fits(result, outcome.room):
        lines.append(f"  there is not enough room: it needs {actions.room_words(result, outcome.room)}")
    if result.tamed:
        lines.append(
            f"  left out, since the backup is not trusted: {count_taming(result.tamed)} (--trusted restores them)"
        )
    if result.lost.expected:
        lines.append(
            f"  not set, because only root can: {count_words(result.lost.expected)}; these files belong to you"
        )
    if result.lost.unexpected():
        lines.append(f"  could not be set: {count_words(result.lost.unexpected())} (-v or --json lists them)")
    if result.protected.count:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(result.protected.counts.items()))
        lines.append(f"  not deleted: {reasons} (-v or --json lists them; --delete-excluded removes them)")
    lines += [f"  {show(path)}: {show(text)}" for path, text in result.left[:LISTED_MAX]]
    if len(result.left) > LISTED_MAX:
        lines.append(f"  {len(result.left) - LISTED_MAX:,} more were left as they are (-v or --json lists them)")
    if result.failed:
        what = count_of(len(result.failed), "is missing or not as it should be", "are missing or not as they should be")
        lines.append(f"  {what}")
    if result.damaged_count:
        lines.append(
            f"  {result.damaged_count:,} of these because the backup is damaged: `dal verify` tells where; "
            "restore them from another copy or an older clone"
        )
    return lines


def _say_failures(terminal: Terminal, failed: Sequence[tuple[bytes, str]]) -> None:
    """Name what failed: all of it with -v, else the first."""
    said_max = len(failed) if terminal.verbose or terminal.json else LISTED_MAX
    for path, text in failed[:said_max]:
        terminal.report(Note(severity="error", path=path, text=text))
    if len(failed) > said_max:
        terminal.fail(f"and {len(failed) - said_max:,} more (-v or --json lists all)")


def _whole_dumps(what: str) -> list[Path]:
    dumps = split_dumps(what)
    if dumps is None:
        raise BadInput(f"{what}: not a dump file; a volume is made of dumps (`dal dump` writes them)")
    paths, clone, inner = dumps
    if clone or inner:
        raise BadInput(f"{what}: a volume is made of whole dumps, without @CLONE or :/PATH")
    return paths


def _restore_on_servers(arguments: argparse.Namespace, terminal: Terminal, what: str) -> int:
    code: int = import_module("dalsegno.cli.replica").restore_on_servers(arguments, terminal, _whole_dumps(what))
    return code


def _restore_volume(arguments: argparse.Namespace, terminal: Terminal, what: str) -> int:
    if arguments.path or arguments.delete or arguments.delete_excluded or arguments.dry_run or arguments.compare:
        raise BadInput("--path, --delete, --compare and --dry-run belong to --to DIR, not to --volume")
    if arguments.server or arguments.volume.startswith("//"):
        return _restore_on_servers(arguments, terminal, what)
    if os.environ.get("DAL_REALM") and not arguments.pool_path:
        raise BadInput(f"--volume {arguments.volume}: say on which servers: --server s1,s2 (or leave DAL_REALM away)")
    with open_house(arguments, terminal) as house:
        state = actions.restore_volume(house, _whole_dumps(what), arguments.volume)
    lines = [f"volume {state.name} holds what {what} carries: {count_of(len(state.clones), 'clone')}"]
    if state.kind == NATIVE:
        lines.append(f"  it follows no directory: `dal volume set {state.name} --source DIR` has it backed up again")
    terminal.result(volume_value(state), [] if terminal.quiet else lines)
    return EXIT_DONE
