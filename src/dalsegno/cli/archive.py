"""`dal archive`, `retrieve`, `history`, `media`, `catalog`: dumps, where their copies are, and what knows of them."""

import argparse
import os
from pathlib import Path
from typing import Any

from dalsegno.actions import archive as actions
from dalsegno.actions import catalog as catalog_actions
from dalsegno.actions.archive import Archived, copies_text
from dalsegno.actions.retrieve import find_and_plan, plan_retrieve, retrieve
from dalsegno.archive.installation import Installation
from dalsegno.assembly.installation import open_installation
from dalsegno.backup.chains import State
from dalsegno.backup.records import MEDIUM_ACTIVE, Copy, DumpEntry
from dalsegno.cli.dated import plan_lines, plan_value
from dalsegno.cli.door import open_volumes
from dalsegno.cli.site import add_policy, asker, is_run_at_work, open_all, policy_if_any, read_policy
from dalsegno.cli.terminal import Terminal, show
from dalsegno.cli.words import POLICY_HELP, Parser
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, BadInput, Damaged, NotFound
from dalsegno.terms.ids import hex_short
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import format_time, show_time
from dalsegno.volumes.address import parse_address, plain_name

DUMP_DIGITS_MIN = 6


def add_archive(parser: Parser) -> None:
    """Define the arguments of `dal archive`."""
    add_policy(parser)
    parser.add_argument("--target", action="append", default=[], metavar="NAME", help="only to this target")
    parser.add_argument("files", nargs="*", type=Path, metavar="DUMP", help="default: all that a target should hold")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only show what is missing where")
    parser.set_defaults(run=_archive)


def add_retrieve(parser: Parser) -> None:
    """Define the arguments of `dal retrieve`."""
    add_policy(parser)
    parser.add_argument("what", metavar="VOLUME[@DATE]|DUMP-ID", help="a state with all its dumps, or one dump")
    parser.add_argument("-o", "--to", type=Path, metavar="DIR", help="default: the spool")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only show which dumps and media are needed")
    parser.set_defaults(run=_retrieve)


def add_history(parser: Parser) -> None:
    """Define the arguments of `dal history`."""
    add_policy(parser)
    parser.add_argument("volume", nargs="?", metavar="VOLUME", help="default: all volumes")
    parser.set_defaults(run=_history)


def add_media(parser: Parser) -> None:
    """Define the arguments of `dal media`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|label|lost|found")
    verbs.add_parser("list", help="show all media", epilog="example: dal media list").set_defaults(run=_media_list)
    label = verbs.add_parser(
        "label", help="label a new medium", epilog="example: dal media label /mnt/a week-1 --target disks"
    )
    label.add_argument("path", type=Path, metavar="DIR")
    label.add_argument("label", metavar="LABEL")
    label.add_argument("--target", required=True, metavar="NAME", help="the target of the policy that it belongs to")
    label.set_defaults(run=_media_label)
    lost = verbs.add_parser("lost", help="mark a medium as permanently lost", epilog="example: dal media lost week-1")
    lost.add_argument("label", metavar="LABEL")
    lost.set_defaults(run=_media_lost)
    found = verbs.add_parser("found", help="mark a lost medium as found", epilog="example: dal media found week-1")
    found.add_argument("label", metavar="LABEL")
    found.set_defaults(run=_media_found)
    _add_policy(parser, verbs.choices.values())


def add_catalog(parser: Parser) -> None:
    """Define the arguments of `dal catalog`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="rebuild|check")
    rebuild = verbs.add_parser(
        "rebuild", help="rebuild it from dumps and media", epilog="example: dal catalog rebuild --add"
    )
    rebuild.add_argument("--add", action="store_true", help="keep entries of media that are not present")
    rebuild.set_defaults(run=_catalog_rebuild)
    check = verbs.add_parser("check", help="compare it with the media", epilog="example: dal catalog check --read")
    check.add_argument("--read", action="store_true", help="read every byte of every reachable copy")
    check.set_defaults(run=_catalog_check)
    _add_policy(parser, verbs.choices.values())


def _add_policy(parser: Parser, verbs: Any) -> None:
    parser.set_defaults(policy=None)
    for verb in verbs:
        verb.add_argument("--policy", metavar="FILE", default=argparse.SUPPRESS, help=POLICY_HELP)


def _site(arguments: argparse.Namespace, terminal: Terminal, *, create: bool = True) -> Installation:
    return open_installation(read_policy(arguments), ask=asker(terminal), create=create)


def _title(entry: DumpEntry) -> str:
    return f"{entry.volume_name} level {entry.level} of {show_time(entry.taken_at_ns)}"


def copy_value(copy: Copy) -> dict[str, Any]:
    """Return what programs want to know about a copy."""
    return {
        "target": copy.target,
        "copy": copy.number,
        "part": copy.part,
        "parts": copy.parts,
        "needed": copy.needed,
        "medium": copy.medium,
        "place": copy.place,
        "bytes": copy.size_bytes,
        "verdict": copy.verdict,
        "checked": format_time(copy.checked_at_ns) if copy.checked_at_ns else None,
    }


def entry_value(entry: DumpEntry) -> dict[str, Any]:
    """Return what programs want to know about a dump in the catalog."""
    return {
        "dump": entry.dump_id.hex(),
        "volume": entry.volume_name,
        "level": entry.level,
        "state_at": format_time(entry.cloned_at_ns),
        "taken": format_time(entry.taken_at_ns),
        "received": format_time(entry.received_at_ns),
        "clone": entry.clone_name or None,
        "revision": entry.revision.hex(),
        "base_dump": entry.base_dump.hex() or None,
        "bytes": entry.size_bytes,
        "set": entry.set_name or None,
        "host": entry.host or None,
        "verdict": entry.verdict,
    }


def _archived(results: list[Archived], terminal: Terminal) -> int:
    lines, code = [], EXIT_DONE
    for each in results:
        if each.copies:
            first, count = each.copies[0], len(each.copies)
            made = f"now in {'; '.join(copies_text(each.copies))}"
            if first.needed < first.parts > count and not each.error:
                made = f"{first.target}: {count} of {first.parts} shares made again"
            lines.append(f"{_title(each.entry)}: {made}")
        if each.error:
            of = "" if each.error.startswith(f"target {each.target}") else f"target {each.target}: "
            terminal.fail(f"{_title(each.entry)}: {of}{each.error}")
            code = each.error_code if len(results) == 1 else EXIT_PARTIAL
    if not results:
        lines.append("every dump is where it should be")
    value = [
        {
            **entry_value(each.entry),
            "target": each.target,
            "copies": [copy_value(copy) for copy in each.copies],
            "error": each.error or None,
        }
        for each in results
    ]
    terminal.result(value, [] if terminal.quiet else lines)
    return code or terminal.done()


def _archive(arguments: argparse.Namespace, terminal: Terminal) -> int:
    files = list(arguments.files)
    if files[:1] == [Path("repair")] and not files[0].exists():  # `dal archive repair [TARGET...]`
        arguments.target += [str(name) for name in files[1:]]
        files = []
    if files:
        if arguments.dry_run:
            raise BadInput("--dry-run belongs to `dal archive` without DUMP")
        with open_all(arguments, terminal, read_policy(arguments)) as (house, site):
            results = []
            for path in files:
                if not path.is_file():
                    raise NotFound(f"{path}: no such file")
                results += actions.archive_file(
                    site, path, house.pool.realm, names=arguments.target, report=terminal.report
                )
        return _archived(results, terminal)
    with _site(arguments, terminal) as site:
        wanted = actions.find_wanted(site, arguments.target, report=terminal.report)
        if not arguments.dry_run:
            return _archived(actions.archive_wanted(site, wanted, report=terminal.report), terminal)
    lines = [
        f"{_title(each.entry)}: " + ("; ".join(copies_text(each.copies)) or f"{each.target}: not there yet")
        for each in wanted
    ]
    value = [{**entry_value(each.entry), "target": each.target} for each in wanted]
    terminal.result(value, lines or ["every dump is where it should be"])
    return terminal.done()


def _retrieve(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with _site(arguments, terminal, create=False) as site:
        named = site.catalog.find_dumps(arguments.what) if len(arguments.what) >= DUMP_DIGITS_MIN else []
        if len(named) == 1:
            state = State(chain=(named[0],), revision=named[0].revision)
            plan = plan_retrieve(site, state, report=terminal.report)
        else:
            address = parse_address(arguments.what)
            if address.path:
                raise BadInput(f"{arguments.what}: dumps are fetched whole: leave :/PATH away, or use `dal restore`")
            plan = find_and_plan(site, plain_name(address.volume), address.selector, report=terminal.report)
        lines = plan_lines(plan, terminal, title=arguments.what)
        value = plan_value(plan)
        if arguments.dry_run:
            terminal.result({**value, "dry_run": True}, lines)
            return EXIT_DONE
        for line in lines:
            terminal.note(line)
        found = retrieve(site, plan, directory=arguments.to, report=terminal.report)
    text = "+".join(map(str, found.paths))
    terminal.result({**value, "paths": list(found.paths)}, [text])
    return EXIT_DONE


def _history(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if policy_if_any(arguments) is None:
        return _pool_history(arguments, terminal)
    with _site(arguments, terminal, create=False) as site:
        entries = site.catalog.dumps(plain_name(arguments.volume) if arguments.volume is not None else None)
        copies = site.catalog.copies_of(entry.dump_id for entry in entries)
    if not entries and arguments.volume is not None:
        raise NotFound(f"no dump of volume {arguments.volume!r} in the catalog: `dal history` shows all there are")
    rows = [
        [
            entry.volume_name,
            show_time(entry.taken_at_ns),
            str(entry.level),
            show_time(entry.cloned_at_ns),
            format_size(entry.size_bytes),
            hex_short(entry.dump_id),
            "; ".join(copies_text(copies.get(entry.dump_id, []))) or "no copy",
        ]
        for entry in entries
    ]
    value = [
        {**entry_value(entry), "copies": [copy_value(copy) for copy in copies.get(entry.dump_id, [])]}
        for entry in entries
    ]
    head = [["volume", "dumped", "level", "state of", "size", "dump", "copies"]] if rows else []
    terminal.result(value, terminal.table([*head, *rows], right=(2, 4)) or ["no dump yet"])
    return EXIT_DONE


def _pool_history(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Show the dumps that a pool's volumes have recorded, where no policy names a catalog."""
    with open_volumes(arguments, terminal, arguments.volume or "") as house:
        states = [house.volumes.get(arguments.volume)] if arguments.volume is not None else house.volumes.list()
    found = [(state, record) for state in states for record in state.dumps]
    value = [
        {
            "dump": record.dump_id.hex(),
            "volume": state.name,
            "level": record.level,
            "taken": format_time(record.taken_at_ns),
            "revision": record.revision.hex(),
            "base_dump": record.base_dump.hex() or None,
            "bytes": record.size_bytes,
            "path": record.path,
        }
        for state, record in found
    ]
    rows = [
        [
            state.name,
            show_time(record.taken_at_ns),
            str(record.level),
            format_size(record.size_bytes),
            hex_short(record.dump_id),
            show(record.path),
        ]
        for state, record in found
    ]
    headings = ["volume", "dumped", "level", "size", "dump", "written to"]
    terminal.result(value, terminal.listing(headings, rows, right=(2, 3)) or ["no dump yet"])
    return EXIT_DONE


def _media_list(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with _site(arguments, terminal) as site:
        facts = actions.list_media(site, report=terminal.report)
    rows = []
    for each in facts:
        medium = each.medium
        state = "here" if each.is_here else "away"
        if medium.state != MEDIUM_ACTIVE:
            state = medium.state
        free = format_size(medium.capacity_bytes - medium.used_bytes) + " free" if medium.capacity_bytes else ""
        seen = "" if each.is_here or not medium.last_seen_ns else f"last seen {show_time(medium.last_seen_ns)}"
        size = format_size(each.stored_bytes)
        rows.append([medium.target, medium.label, state, f"{each.file_count:,}", size, free, each.problem or seen])
    value = [
        {
            "label": each.medium.label,
            "target": each.medium.target,
            "kind": each.medium.kind,
            "id": each.medium.id.hex(),
            "state": each.medium.state,
            "here": each.is_here,
            "files": each.file_count,
            "bytes": each.stored_bytes,
            "capacity_bytes": each.medium.capacity_bytes,
            "used_bytes": each.medium.used_bytes,
            "problem": each.problem or None,
        }
        for each in facts
    ]
    headings = ["target", "label", "is", "files", "size", "", ""]
    lines = terminal.listing(headings, rows, right=(3, 4, 5)) or [
        "no medium yet: `dal media label DIR LABEL --target NAME`"
    ]
    terminal.result(value, lines)
    return terminal.done()


def _media_label(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with _site(arguments, terminal) as site:
        made = actions.label_medium(site, arguments.path, arguments.label, target=arguments.target)
    if not os.path.ismount(arguments.path):
        terminal.note(f"{arguments.path} is no mount point: if a disk belongs there, take the label off and mount it")
    value = {"label": made.label, "target": made.target, "id": made.id.hex(), "path": arguments.path}
    lines = [f"{arguments.path} is medium {made.label!r} of target {made.target}: write that on it, too"]
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_DONE


def _media_lost(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with _site(arguments, terminal) as site:
        here = any(medium.label == arguments.label for target in site.targets.values() for medium in target.present())
        lost = actions.lose_medium(site, arguments.label)
    lines = [f"medium {arguments.label!r} is lost: nothing on it counts any more, and nothing is written to it"]
    if here:
        lines.append(f"it is still in its place: `dal media found {arguments.label}` takes it back")
    lines += [f"  gone for good: {_title(entry)}" for entry in lost]
    lines.append("`dal archive` makes new copies of the other dumps that were on it")
    value = {"label": arguments.label, "is_here": here, "lost": [entry_value(entry) for entry in lost]}
    terminal.result(value, lines)
    return EXIT_PARTIAL if lost else EXIT_DONE


def _media_found(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with _site(arguments, terminal) as site:
        file_count = actions.find_medium(site, arguments.label)
    files = count_of(file_count, "file")
    lines = [f"medium {arguments.label!r} is back, with {files}: `dal catalog check` looks at them"]
    terminal.result({"label": arguments.label, "files": file_count}, [] if terminal.quiet else lines)
    return EXIT_DONE


def _catalog_rebuild(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_all(arguments, terminal, read_policy(arguments)) as (house, site):
        result = catalog_actions.rebuild(site, house.pool.realm, add=arguments.add, report=terminal.report)
    lines = [
        f"the catalog knows {count_of(result.dump_count, 'dump')} in {count_of(result.copy_count, 'file')}, "
        f"on {', '.join(result.media) or 'no media'}"
    ]
    lines += [f"  left out: {text}" for text in result.unreadable]
    lines += [f"  incomplete: {text}" for text in result.incomplete]
    lines += [f"  NOT LOOKED AT: {text}" for text in result.bad_labels]
    terminal.result(result, lines)
    if result.bad_labels:
        return Damaged.exit_code
    return EXIT_PARTIAL if result.unreadable or result.incomplete else EXIT_DONE


def _catalog_check(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with _site(arguments, terminal, create=False) as site:
        found = catalog_actions.check(
            site,
            read=arguments.read,
            is_run_at_work=lambda: is_run_at_work(site.policy),
            report=terminal.report,
        )
    lines = []
    for each in found:
        where = f"{each.medium}: {each.place}".rstrip(": ") if each.medium else f"dump {hex_short(each.dump_id)}"
        lines.append(f"{where}: {each.text}" if each.medium or each.dump_id else each.text)
    value = [
        {"dump": each.dump_id.hex(), "medium": each.medium, "place": each.place, "text": each.text} for each in found
    ]
    terminal.result(value, lines or ["catalog and media agree"])
    return Damaged.exit_code if found else EXIT_DONE
