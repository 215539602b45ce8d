"""`dal replica`, and what `dal volume`, `dal dump` and `dal restore` do on servers."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from dalsegno.actions import replicated as actions
from dalsegno.actions.remote import RemoteHouse, split_place
from dalsegno.actions.remote_dump import dump_remote
from dalsegno.assembly.realm import open_realm
from dalsegno.cli.door import when_it_differs
from dalsegno.cli.dump import note_value, useless_lines
from dalsegno.cli.realm import chosen_realm, open_volume
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.volume import dump_value, volume_value
from dalsegno.cli.words import Parser
from dalsegno.replicas.catchup import CaughtUp
from dalsegno.replicas.check import OBJECT, check_replicas
from dalsegno.replicas.repair import repair_replicas
from dalsegno.replicas.transfer import Transferred
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, BadInput, DalError, Damaged, Unavailable
from dalsegno.terms.ids import hex_short
from dalsegno.terms.sizes import format_size
from dalsegno.world.clock import now_ns


def add_replica(parser: Parser) -> None:
    """Define the arguments of `dal replica`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="add|remove|list|check|repair|resolve")
    add = verbs.add_parser("add", help="add a writer", epilog="example: dal replica add home s4")
    add.add_argument("volume", metavar="VOLUME")
    add.add_argument("server", metavar="SERVER")
    add.add_argument("--clones", default="", metavar="PATTERN[@lastN],...", help="hold only these clones there")
    add.add_argument("--seed", metavar="DUMPS|DIR", help="fill it first from FULL.dump+INCR.dump... carried there")
    add.set_defaults(run=_add)
    remove = verbs.add_parser(
        "remove", help="remove a writer or a standby", epilog="example: dal replica remove home s2"
    )
    remove.add_argument("volume", metavar="VOLUME")
    remove.add_argument("server", metavar="SERVER")
    remove.add_argument("--force", action="store_true", help="even if it is unreachable: what only it has is lost")
    remove.set_defaults(run=_remove)
    shown = verbs.add_parser("list", help="show a volume's servers", epilog="example: dal replica list home")
    shown.add_argument("volume", metavar="VOLUME")
    shown.set_defaults(run=_list)
    check = verbs.add_parser(
        "check", help="compare the replicas; exit code 3 when they differ", epilog="example: dal replica check home"
    )
    check.add_argument("volumes", nargs="*", metavar="VOLUME", help="(default: all replicated ones)")
    check.add_argument("--deep", action="store_true", help="read every object on every server")
    check.set_defaults(run=_check)
    repair = verbs.add_parser(
        "repair",
        help="restore what servers have lost from the others",
        epilog="example: dal replica repair home",
    )
    repair.add_argument("volumes", nargs="*", metavar="VOLUME", help="(default: all replicated ones)")
    repair.set_defaults(run=_repair)
    resolve = verbs.add_parser(
        "resolve", help="bring replicas to one head; merge what diverged", epilog="example: dal replica resolve home"
    )
    resolve.add_argument("volumes", nargs="*", metavar="VOLUME", help="(default: all replicated ones)")
    resolve.set_defaults(run=_resolve)


def _errors_value(errors: dict[str, DalError]) -> list[dict[str, Any]]:
    return [{"server": name, "code": error.code, "message": str(error)} for name, error in sorted(errors.items())]


def _brought_value(brought: Mapping[str, Transferred]) -> dict[str, Any]:
    return {name: {"objects": done.objects, "bytes": done.bytes_crossed} for name, done in sorted(brought.items())}


def _caught_value(volume: str, caught: CaughtUp) -> dict[str, Any]:
    return {
        "volume": volume,
        "head": caught.head.hex() or None,
        "writers": caught.replicas.writers,
        "reached": list(caught.reached),
        "missing": _errors_value(caught.missing),
        "brought": _brought_value(caught.brought),
        "merged": [revision.hex() for revision in caught.merged],
        "renamed": [{"clone": old, "new_name": new} for old, new, _ in caught.renamed],
    }


def _caught_lines(volume: str, caught: CaughtUp) -> list[str]:
    head = f"#{hex_short(caught.head)}" if caught.head else "empty"
    lines = [f"{volume}: {', '.join(caught.reached)} at {head}"]
    for name, done in sorted(caught.brought.items()):
        lines.append(f"  {name} got {done.objects:,} objects, {format_size(done.bytes_crossed)}")
    lines += [f"  merged what had diverged: #{hex_short(revision)}" for revision in caught.merged]
    lines += [f"  clone {old} meant two states: the later one is {new} now" for old, new, _ in caught.renamed]
    lines += [f"  without {name}: {error}" for name, error in sorted(caught.missing.items())]
    return lines


def _add(arguments: argparse.Namespace, terminal: Terminal) -> int:
    house, name = open_volume(arguments, terminal, arguments.volume)
    with house:
        house.volumes.get(name)
        done = actions.add_replica(house, name, arguments.server, clones=arguments.clones, seed_from=arguments.seed)
    caught, seeded, fetched = done.caught, done.seeded, done.fetched
    value = {**_caught_value(name, caught), "seeded": None, "fetched": None}
    lines = []
    if seeded is not None:
        value["seeded"] = {
            "dumps": [str(path) for path in seeded.dumps],
            "media_bytes": seeded.media_bytes,
            "objects": seeded.objects,
            "sent_bytes": seeded.sent_bytes,
        }
        lines.append(
            f"seeded {arguments.server} from {len(seeded.dumps)} dumps: {seeded.objects:,} objects, "
            f"{format_size(seeded.sent_bytes)} of {format_size(seeded.media_bytes)}"
        )
    lines.append(f"{arguments.server} is a writer of {name} now")
    if fetched is not None:
        value["fetched"] = {"objects": fetched.objects, "payload_bytes": fetched.payload_bytes}
        size = format_size(fetched.payload_bytes)
        lines.append(f"  it fetched {fetched.objects:,} objects from the others, {size} before compression")
    crossed = caught.brought.get(arguments.server)
    if crossed is not None:
        lines.append(f"  {crossed.objects:,} objects, {format_size(crossed.bytes_crossed)} were sent to it from here")
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_PARTIAL if caught.missing else EXIT_DONE


def _remove(arguments: argparse.Namespace, terminal: Terminal) -> int:
    house, name = open_volume(arguments, terminal, arguments.volume)
    with house:
        deaf = house.realm_volumes.group(name).remove_replica(arguments.server, force=arguments.force)
    value = {"volume": name, "server": arguments.server, "missing": _errors_value(deaf)}
    lines = [f"{arguments.server} holds {name} no longer"]
    lines += [f"  {each} has not heard of it yet: {error}" for each, error in sorted(deaf.items())]
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_DONE


def _list(arguments: argparse.Namespace, terminal: Terminal) -> int:
    house, name = open_volume(arguments, terminal, arguments.volume)
    with house:
        house.volumes.get(name)
        polled = house.realm_volumes.group(name).poll()
        replicas = polled.replicas
        others = {}
        for each in (*replicas.standbys, *replicas.readers):
            others.update(house.realm_volumes.servers.states(name, [each]))
    values, rows = [], [["SERVER", "ROLE", "HEAD", "CLONES", "KEEPS", ""]]
    roles = [(each, "writer") for each in replicas.writers]
    roles += [(each, "standby") for each in replicas.standbys] + [(each, "reader") for each in replicas.readers]
    for each, role in roles:
        state = polled.states.get(each) or others.get(each)
        error = polled.errors.get(each)
        keeps = replicas.clones.get(each, "all")
        values.append(
            {
                "server": each,
                "role": role,
                "alive": state is not None,
                "head": state.head.hex() or None if state is not None else None,
                "clones": len(state.clones) if state is not None else None,
                "keeps": keeps,
                "error": str(error) if error is not None else None,
            }
        )
        head = "#" + hex_short(state.head) if state is not None and state.head else "empty" if state else ""
        count = str(len(state.clones)) if state is not None else ""
        rows.append([each, role, head, count, keeps, "" if state is not None else f"AWAY {error or ''}".strip()])
    value = {"volume": name, "rule": replicas.rule, "version": replicas.version, "servers": values}
    terminal.result(value, terminal.table(rows, right=(3,)))
    return EXIT_DONE


def _named(house: RemoteHouse, words: list[str]) -> list[str]:
    if words:
        return words
    return [state.name for state in house.volumes.list() if state.replicas is not None]


def _house_of(arguments: argparse.Namespace, terminal: Terminal, words: list[str]) -> tuple[RemoteHouse, list[str]]:
    if not words:
        return open_realm(chosen_realm(), differs=when_it_differs(arguments, terminal), report=terminal.report), []
    house, first = open_volume(arguments, terminal, words[0])
    return house, [first, *words[1:]]


def _check(arguments: argparse.Namespace, terminal: Terminal) -> int:
    house, names = _house_of(arguments, terminal, arguments.volumes)
    values: list[dict[str, Any]] = []
    lines: list[str] = []
    with house:
        for name in _named(house, names):
            checked = check_replicas(house.realm_volumes.group(name), deep=arguments.deep, report=terminal.report)
            values.append(
                {
                    "volume": name,
                    "servers": list(checked.servers),
                    "objects": checked.objects,
                    "bytes": checked.payload_bytes,
                    "differences": [
                        {"server": each.server, "about": each.about, "text": each.text} for each in checked.differences
                    ],
                }
            )
            read = f", {checked.objects:,} objects read" if arguments.deep else ""
            found = f"{len(checked.differences)} differences" if checked.differences else "all alike"
            lines.append(f"{name}: {', '.join(checked.servers)}: {found}{read}")
            lines += [f"  {each.server}: {each.text}" for each in checked.differences]
            if any(each.about == OBJECT for each in checked.differences):
                lines.append(f"  `dal replica repair {name}` brings what is lost from the others")
    differ = any(value["differences"] for value in values)
    terminal.result(values, lines if differ or not terminal.quiet else [])
    return EXIT_PARTIAL if differ else EXIT_DONE


def _repair(arguments: argparse.Namespace, terminal: Terminal) -> int:
    house, names = _house_of(arguments, terminal, arguments.volumes)
    values: list[dict[str, Any]] = []
    lines: list[str] = []
    code = EXIT_DONE
    with house:
        for name in _named(house, names):
            done = repair_replicas(house.realm_volumes.group(name))
            values.append(
                {
                    "volume": name,
                    "servers": list(done.servers),
                    "brought": _brought_value(done.brought),
                    "missing": _errors_value(done.failed),
                }
            )
            for server, figures in sorted(done.brought.items()):
                size = format_size(figures.bytes_crossed)
                lines.append(f"{name}: {server} got back {count_of(figures.objects, 'object')}, {size}")
            lines += [f"{name}: {server}: {error}" for server, error in sorted(done.failed.items())]
            if not done.brought and not done.failed:
                lines.append(f"{name}: {', '.join(done.servers)}: nothing is lost, as far as they know")
            if done.failed:
                away = all(isinstance(error, Unavailable) for error in done.failed.values())
                code = max(code, EXIT_PARTIAL if away else Damaged.exit_code)
    terminal.result(values, [] if terminal.quiet and code == EXIT_DONE else lines)
    return code


def _resolve(arguments: argparse.Namespace, terminal: Terminal) -> int:
    house, names = _house_of(arguments, terminal, arguments.volumes)
    values: list[dict[str, Any]] = []
    lines: list[str] = []
    missing = False
    with house:
        for name in _named(house, names):
            caught = house.realm_volumes.bring_together(name)
            missing = missing or bool(caught.missing)
            values.append(_caught_value(name, caught))
            lines += _caught_lines(name, caught)
    terminal.result(values, [] if terminal.quiet else lines)
    return EXIT_PARTIAL if missing else EXIT_DONE


# Parts of other commands


def create_replicated(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Make a volume on the servers of `--replicas`."""
    servers = [name for name in arguments.replicas.split(",") if name]
    if not servers:
        raise BadInput("--replicas: name servers, like s1,s2,s3: `dal realm status` shows them")
    if arguments.source is not None:
        raise BadInput("--source: a replicated volume follows no directory of this host: `dal import` fills it")
    house, name = open_volume(arguments, terminal, arguments.name)
    with house:
        state = house.realm_volumes.create_replicated(name, servers, rule=arguments.rule or "any", now_ns=now_ns())
    value = {**volume_value(state), "writers": servers, "rule": arguments.rule or "any"}
    terminal.result(value, [f"made volume {name} on {', '.join(servers)}, rule {arguments.rule or 'any'}"])
    return EXIT_DONE


def restore_on_servers(arguments: argparse.Namespace, terminal: Terminal, paths: list[Path]) -> int:
    """Make a replicated volume of dumps."""
    servers = [name for word in arguments.server for name in word.split(",") if name]
    house, name = open_volume(arguments, terminal, arguments.volume)
    with house:
        place = split_place(arguments.volume)[0]
        if place and place != house.realm_name:
            servers = list(dict.fromkeys([place, *servers]))
        if not servers:
            raise BadInput(f"--volume {arguments.volume}: say on which servers: --server s1,s2")
        done = actions.restore_replicated(house, paths, name, servers, rule=arguments.rule or "any")
    state = done.state
    value = {
        **volume_value(state),
        "servers": list(done.servers),
        "missing": _errors_value(done.missing),
        "media_bytes": done.media_bytes,
        "sent_bytes": done.sent_bytes,
    }
    lines = [f"volume {state.name} lives on {', '.join(done.servers)}: {count_of(len(state.clones), 'clone')}"]
    lines += [f"  without {name}: {error}" for name, error in sorted(done.missing.items())]
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_PARTIAL if done.missing else EXIT_DONE


def dump_from_server(
    arguments: argparse.Namespace,
    terminal: Terminal,
    house: RemoteHouse,
    output: Path | BinaryIO | None,
    *,
    recipients: Sequence[str] = (),
) -> int:
    """Have a server write a dump."""
    done = dump_remote(
        house,
        arguments.address,
        level=arguments.level,
        output=output,
        record=not arguments.no_record,
        force=arguments.force,
        recipients=recipients,
    )
    note = done.note
    if done.path == "-":
        terminal.note(f"level {note.level} of {note.volume_name} from {done.server}, {format_size(done.size_bytes)}")
        return EXIT_DONE
    value = {
        "path": done.path,
        "dump": done.dump_id.hex(),
        "bytes": done.size_bytes,
        "server": done.server,
        "recorded": not arguments.no_record,
        "forgotten": [dump_value(record) for record in done.useless],
        **note_value(note),
    }
    lines = [
        done.path,
        f"  level {note.level} of {note.volume_name} from {done.server}; dump {hex_short(done.dump_id)}, "
        f"{format_size(done.size_bytes)}" + ("; not recorded, `dal mark` does it" if arguments.no_record else ""),
        *useless_lines(done.useless),
    ]
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_DONE
