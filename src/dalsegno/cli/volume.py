"""`dal volume create|set|list|show|rename|remove|reopen`."""

import argparse
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from dalsegno.actions.backup import create_volume
from dalsegno.actions.keep import VolumeSize, volume_size
from dalsegno.actions.reopen import reopen
from dalsegno.actions.rules import left_out, own_keys
from dalsegno.actions.signers import set_signed
from dalsegno.actions.sources import followers, set_rules, set_source
from dalsegno.cli.backup import add_rules, left_out_origin, left_out_words, read_rules
from dalsegno.cli.choice import chosen
from dalsegno.cli.door import open_house, open_volumes
from dalsegno.cli.terminal import Terminal, as_json, show
from dalsegno.cli.words import Parser
from dalsegno.terms.counts import count_of, count_of_entries
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, BadInput, NotFound, Refused
from dalsegno.terms.ids import hex_short
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import format_time, show_time
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import VolumeState


def add_volume(parser: Parser) -> None:
    """Define the arguments of `dal volume`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="create|set|list|show|rename|remove|reopen")
    create = verbs.add_parser("create", help="make a volume", epilog="example: dal volume create home --source /home")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--source", type=Path, metavar="DIR", help="the host directory to follow")
    create.add_argument("--replicas", metavar="SERVER,...", help="create it on these servers of a realm")
    create.add_argument("--rule", choices=("any", "majority"), help="with --replicas: how many must have a commit")
    add_rules(create, "what its backups leave out, from now on")
    create.set_defaults(run=_create)
    change = verbs.add_parser(
        "set",
        help="change its source, its excludes, and whether states must be signed",
        epilog="example: dal volume set home --exclude '*.tmp' --exclude-caches",
    )
    change.add_argument("name", metavar="VOLUME")
    change.add_argument("--source", metavar="DIR", help="the host directory to follow; `none`: stop following")
    add_rules(change, "what its backups leave out, from now on")
    change.add_argument(
        "--remove-exclude", action="append", default=[], metavar="PATTERN", help="remove this --exclude"
    )
    change.add_argument("--clear-excludes", action="store_true", help="remove every --exclude")
    change.add_argument(
        "--signed",
        choices=("required", "optional"),
        help="accept only states signed by known signers (`dal key signers`)",
    )
    change.set_defaults(run=_set)
    verbs.add_parser("list", help="list all volumes", epilog="example: dal volume list").set_defaults(run=_list)
    shown = verbs.add_parser("show", help="show one volume", epilog="example: dal volume show home")
    shown.add_argument("name", metavar="VOLUME")
    shown.set_defaults(run=_show)
    rename = verbs.add_parser("rename", help="rename a volume", epilog="example: dal volume rename home homes")
    rename.add_argument("name", metavar="VOLUME")
    rename.add_argument("new_name", metavar="NEW-NAME")
    rename.set_defaults(run=_rename)
    mend = verbs.add_parser(
        "mend",
        help="rebuild a damaged list of clones or dumps from what can be read",
        epilog="example: dal volume mend home",
    )
    mend.add_argument("name", metavar="VOLUME")
    mend.add_argument("--yes", action="store_true", help="confirm that unreadable clones and dump records are dropped")
    mend.set_defaults(run=_mend)
    remove = verbs.add_parser("remove", help="forget a volume", epilog="example: dal volume remove home --yes")
    remove.add_argument("name", metavar="VOLUME")
    remove.add_argument("--yes", action="store_true", help="confirm that its clones are removed")
    remove.set_defaults(run=_remove)
    again = verbs.add_parser(
        "reopen",
        help="accept commits again after a state dated in the future",
        epilog="example: dal volume reopen home",
    )
    again.add_argument("name", metavar="VOLUME[@CLONE]", help="with a clone: continue with its files, not the newest")
    again.set_defaults(run=_reopen)


def dump_value(record: DumpRecord) -> dict[str, Any]:
    """Return what programs want to know about a recorded dump."""
    return {
        "dump": record.dump_id.hex(),
        "level": record.level,
        "revision": record.revision.hex(),
        "base_dump": record.base_dump.hex() or None,
        "taken": format_time(record.taken_at_ns),
        "taken_ns": record.taken_at_ns,
        "path": record.path,
        "bytes": record.size_bytes,
    }


def volume_value(state: VolumeState) -> dict[str, Any]:
    """Return what programs want to know about a volume."""
    return {
        "volume": state.name,
        "id": state.id.hex(),
        "kind": state.kind,
        "source": state.source or None,
        "created": format_time(state.created_ns),
        "head": state.head.hex() or None,
        "clones": len(state.clones),
        "dumps": [dump_value(record) for record in state.dumps],
        "settings": state.settings,
        "left_out": [each.value_for_programs() for each in left_out(state.settings)],
        "role": state.role or None,
        "replicas": state.replicas.writers if state.replicas is not None else None,
    }


def volume_lines(state: VolumeState, terminal: Terminal) -> list[str]:
    """Return all about one volume, for people."""
    rows = [
        ["name", state.name],
        ["id", state.id.hex()],
        ["kind", state.kind + (f", follows {show(state.source)}" if state.source else "")],
        ["created", show_time(state.created_ns)],
        ["head", "#" + hex_short(state.head) if state.head else "empty"],
        *_replica_rows(state),
        ["clones", str(len(state.clones))],
        *[["leaves out", f"{left_out_words(each)}  ({left_out_origin(each)})"] for each in left_out(state.settings)],
        *[
            [key.replace("_", " "), ", ".join(value) if isinstance(value, list) else str(value)]
            for key, value in state.settings.items()
            if key not in own_keys(state.settings)
        ],
    ]
    lines = terminal.table(rows)
    if state.dumps:
        lines += ["dumps:"]
        lines += terminal.table(
            [
                [
                    f"  level {record.level}",
                    hex_short(record.dump_id),
                    show_time(record.taken_at_ns),
                    format_size(record.size_bytes),
                    f"on {hex_short(record.base_dump)}" if record.base_dump else "full",
                    record.path,
                ]
                for record in state.dumps
            ],
            right=(3,),
        )
    return lines


def _replica_rows(state: VolumeState) -> list[list[str]]:
    replicas = state.replicas
    if replicas is None:
        return []
    rows = [["writers", f"{', '.join(replicas.writers)}, rule {replicas.rule}"]]
    others = (("standbys", replicas.standbys), ("readers", replicas.readers))
    return rows + [[what, ", ".join(names)] for what, names in others if names]


def _create(arguments: argparse.Namespace, terminal: Terminal) -> int:
    rules = read_rules(arguments)
    if arguments.replicas is not None:
        code: int = import_module("dalsegno.cli.replica").create_replicated(arguments, terminal)
        return code
    places = [arguments.name] if arguments.name.startswith("//") else []
    on_servers = places or chosen(arguments, about_volumes=True).realm
    with open_volumes(arguments, terminal, *places) if on_servers else open_house(arguments, terminal) as house:
        state = create_volume(house, arguments.name, source=arguments.source, rules=rules)
    terminal.result(volume_value(state), [f"made {state.kind} volume {state.name}"])
    return EXIT_DONE


def _set(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if "none" in arguments.exclude:
        raise BadInput(
            "--exclude none: --clear-excludes ends each pattern; what is named none is `--exclude '**/none'`"
        )
    change = replace(read_rules(arguments), remove=tuple(arguments.remove_exclude), clear=arguments.clear_excludes)
    if change.is_empty and arguments.source is None and arguments.signed is None:
        raise BadInput(f"say what to change: `dal volume set --help`; `dal volume show {arguments.name}` shows what is")
    with open_volumes(arguments, terminal, arguments.name) as house:
        state = set_rules(house, arguments.name, change)  # first: a bad pattern ends it before anything is changed
        if arguments.signed is not None:
            state = set_signed(house, arguments.name, required=arguments.signed == "required")
        if arguments.source is not None:
            source = None if arguments.source == "none" else Path(arguments.source)
            state = set_source(house, arguments.name, source)
            others = [name for name in followers(house, state.source) if name != state.name]
            if others:
                terminal.note(
                    f"{show(state.source)} is followed by {', '.join(others)}, too: name the volume to back up"
                )
    terminal.result(volume_value(state), [] if terminal.quiet else volume_lines(state, terminal))
    return EXIT_DONE


def _list(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal) as house:
        states = house.volumes.list()
    rows = [[s.name, s.kind, f"{len(s.clones):,}", f"{len(s.dumps):,}", show(s.source)] for s in states]
    if not rows:
        terminal.note("no volumes yet: `dal backup DIR` makes one")
    headings = ["volume", "kind", "clones", "dumps", "source"]
    terminal.result([volume_value(state) for state in states], terminal.listing(headings, rows, right=(2, 3)))
    return terminal.done()


def _show(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal, arguments.name) as house:
        state = house.volumes.get(arguments.name)
    terminal.result(volume_value(state), volume_lines(state, terminal))
    return EXIT_DONE


def _rename(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal, arguments.name) as house:
        state = house.volumes.rename(arguments.name, arguments.new_name)
    terminal.result(volume_value(state), [f"{arguments.name} is now {state.name}"])
    return EXIT_DONE


def _remove(arguments: argparse.Namespace, terminal: Terminal) -> int:
    size: VolumeSize | None = None
    with open_volumes(arguments, terminal, arguments.name) as house:
        if arguments.yes and house.volumes.forget_damaged(arguments.name):
            line = f"forgot volume {arguments.name}, whose ref was damaged: what it named goes with a collection"
            terminal.result({"volume": arguments.name, "removed": None}, [line])
            return EXIT_DONE
        with suppress(NotFound):  # of a realm's volume that nobody has, the place is forgotten
            state = house.volumes.get(arguments.name)
            if state.replicas is not None:
                state = house.volumes.get(state.name)  # all that there is of it, not what the named server shows
            size = volume_size(house, state)
            if state.clones and not arguments.yes:
                raise Refused(f"volume {state.name!r} has {_size_words(size)}: say --yes to forget them all")
        state = house.volumes.remove(arguments.name)
    lines = [f"forgot volume {state.name}"]
    if size is not None:
        when = "a day after the next `dal gc`, or with `dal gc --grace 0` at once"
        lines = [f"forgot volume {state.name} with {_size_words(size)}; what nothing else needs is free {when}"]
    terminal.result({**volume_value(state), "removed": as_json(size) if size is not None else None}, lines)
    return EXIT_DONE


def _reopen(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal, arguments.name) as house:
        result = reopen(house, arguments.name)
    for server, error in sorted(result.missing.items()):
        terminal.note(f"without {server}: {error}")
    where = f" on {', '.join(result.servers)}" if result.servers else ""
    value = {
        **volume_value(result.state),
        "servers": list(result.servers),
        "missing": {server: str(error) for server, error in result.missing.items()},
    }
    head = hex_short(result.state.head)
    terminal.result(value, [f"volume {result.state.name} takes commits again{where}, from #{head}"])
    away = any(not isinstance(error, Refused) for error in result.missing.values())
    return EXIT_PARTIAL if away else EXIT_DONE


def _mend(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal, arguments.name) as house:
        mended = house.volumes.mend_tables(arguments.name, let_go=arguments.yes)
    line = f"volume {arguments.name} has {count_of(mended.clones, 'clone')}"
    value = {
        "volume": arguments.name,
        "clones": mended.clones,
        "lost": mended.clones_lost,
        "dumps": mended.dumps,
        "dumps_lost": mended.dumps_lost,
    }
    for lost, what in ((mended.clones_lost, "clone"), (mended.dumps_lost, "recorded dump")):
        line += f"; {count_of(lost, what)} could not be read, and are let go of" if lost else ""
    terminal.result(value, [line])
    return EXIT_DONE


def _size_words(size: VolumeSize) -> str:
    clones, states = count_of(size.clone_count, "clone"), count_of(size.revision_count, "revision")
    return f"{clones}, {states}, the newest of {count_of_entries(size.entry_count)}, {format_size(size.total_bytes)}"
