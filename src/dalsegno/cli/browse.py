"""`dal ls`, `cat`, `find`, `diff`, `versions`."""

import argparse
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from dalsegno.actions import browse as actions
from dalsegno.actions.browse import Found, Histories, Row, Version, changed_parts
from dalsegno.actions.session import House
from dalsegno.cli.choice import find_policy_file
from dalsegno.cli.door import open_volumes
from dalsegno.cli.streams import bytes_output, writing_output
from dalsegno.cli.terminal import Terminal, show
from dalsegno.cli.words import POLICY_HELP, Parser
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.terms.errors import EXIT_DONE, BadInput
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import format_time, show_time
from dalsegno.trees.diff import Change

_FORMS = {
    objects.ENTRY_FILE: stat.S_IFREG,
    objects.ENTRY_DIRECTORY: stat.S_IFDIR,
    objects.ENTRY_SYMLINK: stat.S_IFLNK,
    objects.ENTRY_FIFO: stat.S_IFIFO,
    objects.ENTRY_CHAR_DEVICE: stat.S_IFCHR,
    objects.ENTRY_BLOCK_DEVICE: stat.S_IFBLK,
    objects.ENTRY_CONFLICT: stat.S_IFREG,
}
_MOUNT_LETTER = "M"
"""Of a mount point, for which `ls -l` has no letter."""


def add_ls(parser: Parser) -> None:
    """Define the arguments of `dal ls`."""
    parser.add_argument("address", nargs="?", metavar="ADDRESS|DUMPS", help="default: the volumes")
    parser.add_argument(
        "-l", "--long", action="store_true", help="show mode, owner, size (KiB, MiB: no -h needed) and time"
    )
    parser.add_argument("-R", "--recursive", action="store_true", help="list subdirectories recursively")
    parser.add_argument("-a", "--all", action="store_true", help="no effect: hidden names are always listed")
    parser.set_defaults(run=_ls)


def add_cat(parser: Parser) -> None:
    """Define the arguments of `dal cat`."""
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS:/PATH")
    parser.set_defaults(run=_cat)


def add_find(parser: Parser) -> None:
    """Define the arguments of `dal find`."""
    parser.add_argument("pattern", metavar="PATTERN", help="matches a name; with a slash, the whole path")
    parser.add_argument("address", nargs="?", metavar="ADDRESS|DUMPS", help="default: all clones of all volumes")
    parser.add_argument("-i", "--ignore-case", action="store_true", help="match A and a alike")
    _add_dumps(parser)
    parser.set_defaults(run=_find)


def add_diff(parser: Parser) -> None:
    """Define the arguments of `dal diff`."""
    parser.add_argument("old", metavar="ADDRESS")
    parser.add_argument("new", nargs="?", metavar="ADDRESS", help="default: the volume's live source")
    parser.add_argument("--stat", action="store_true", help="show sizes and totals")
    parser.set_defaults(run=_diff)


def add_versions(parser: Parser) -> None:
    """Define the arguments of `dal versions`."""
    parser.add_argument("address", metavar="VOLUME:/PATH")
    _add_dumps(parser)
    parser.set_defaults(run=_versions)


def entry_value(entry: Entry) -> dict[str, Any]:
    """Return what programs want to know about an entry."""
    value: dict[str, Any] = {
        "kind": objects.kind_name(entry),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "owner": entry.owner,
        "group": entry.group,
        "size": entry.size,
        "modified": format_time(entry.mtime_ns),
        "mtime_ns": entry.mtime_ns,
        "btime_ns": entry.btime_ns,
        "node": f"{entry.node:016x}",
    }
    if entry.kind in (objects.ENTRY_SYMLINK, objects.ENTRY_MOUNT):
        value["target"] = entry.content
    if entry.flags:
        value["flags"] = entry.flags
    return value


def entry_line(path: bytes, entry: Entry) -> str:
    """Return one line as `ls -l` writes it."""
    owner = show(entry.owner) or str(entry.uid)
    group = show(entry.group) or str(entry.gid)
    mode = stat.filemode(_FORMS.get(entry.kind, 0) | entry.mode) + ("+" if entry.xattrs else " ")
    if entry.kind == objects.ENTRY_MOUNT:
        mode = _MOUNT_LETTER + mode[1:]
    size = format_size(entry.size) if entry.kind in (objects.ENTRY_FILE, objects.ENTRY_SYMLINK) else "-"
    if objects.is_conflict(entry):
        size = "conflict"
    line = f"{mode} {owner:<8} {group:<8} {size:>10}  {show_time(entry.mtime_ns)}  {show(path)}"
    leads_on = entry.kind in (objects.ENTRY_SYMLINK, objects.ENTRY_MOUNT)
    return f"{line} -> {show(entry.content)}" if leads_on else line


def _ls(arguments: argparse.Namespace, terminal: Terminal) -> int:
    def line(row: Row) -> str:
        if arguments.long:
            return entry_line(row.path, row.entry)
        return show(row.path) + ("/" if row.entry.kind == objects.ENTRY_DIRECTORY else "")

    with open_volumes(arguments, terminal, *([arguments.address] if arguments.address is not None else [])) as house:
        if arguments.address is None:
            names = [state.name for state in house.volumes.list()]
            if not names:
                terminal.note("no volumes yet: `dal backup DIR` makes one")
            terminal.result(names, names)
            return terminal.done()
        rows = actions.ls(house, arguments.address, recursive=arguments.recursive)
        terminal.stream(rows, value=lambda row: {"path": row.path, **entry_value(row.entry)}, line=line)
    return terminal.done()


def _cat(arguments: argparse.Namespace, terminal: Terminal) -> int:
    output = bytes_output()
    with open_volumes(arguments, terminal, *arguments.addresses) as house:
        for address in arguments.addresses:
            for data in actions.iterate_file(house, address):
                if terminal.json:
                    raise BadInput("--json and a file's bytes cannot both go to the output: leave out --json")
                with writing_output():
                    output.write(data)
        with writing_output():
            output.flush()
    return EXIT_DONE


@contextmanager
def _histories(arguments: argparse.Namespace, terminal: Terminal, house: House) -> Iterator[Histories | None]:
    """Give the states in pool and dumps as one history, where a policy has a catalog; None where there is none."""
    policy_path = None if arguments.no_dumps else find_policy_file(arguments.policy)
    if policy_path is None:
        yield None
        return
    # Only now the catalog and all that belongs to it are loaded.
    with import_module("dalsegno.cli.dated").open_dumped(arguments, terminal, house, policy_path) as histories:
        yield histories


def _add_dumps(parser: Parser) -> None:
    parser.add_argument("--policy", metavar="FILE", help=f"to find dumps, too: {POLICY_HELP}")
    parser.add_argument("--no-dumps", action="store_true", help="search the pool only")


def _find(arguments: argparse.Namespace, terminal: Terminal) -> int:
    def value(found: Found) -> dict[str, Any]:
        place = {"volume": found.volume, "first": found.first, "last": found.last, "path": found.path}
        return {**place, "address": found.address, **entry_value(found.entry)}

    def line(found: Found) -> str:
        slash = "/" if found.entry.kind == objects.ENTRY_DIRECTORY else ""
        size = "" if slash else f"  {format_size(found.entry.size)}"
        since = "" if found.first == found.last else f"  since {found.first}"
        clone = f"@{found.last}" if found.last else ""  # a dump's only state needs no name
        return f"{found.volume}{clone}:/{show(found.path)}{slash}{size}{since}"

    places = [arguments.address] if arguments.address is not None else []
    with (
        open_volumes(arguments, terminal, *places) as house,
        _histories(arguments, terminal, house) as histories,
    ):
        found = actions.find(
            house, arguments.pattern, arguments.address, histories=histories, ignore_case=arguments.ignore_case
        )
        if not terminal.stream(found, value=value, line=line):
            terminal.note(f"nothing found: {arguments.pattern}")
    return terminal.done()


def _sign(change: Change) -> str:
    return "+" if change.old is None else "-" if change.new is None else "M"


def change_value(change: Change) -> dict[str, Any]:
    """Return what programs want to know about a change."""
    words = {"+": "added", "-": "removed", "M": "changed"}
    return {
        "path": change.path,
        "change": words[_sign(change)],
        "parts": changed_parts(change),
        "old": entry_value(change.old) if change.old else None,
        "new": entry_value(change.new) if change.new else None,
    }


def change_line(change: Change, *, size: bool = False) -> str:
    """Return a change in one line, with the sizes before and after when `size` is set."""
    entry = change.new or change.old
    slash = "/" if entry is not None and entry.kind == objects.ENTRY_DIRECTORY else ""
    parts = changed_parts(change)
    if size and not slash:
        told = [format_size(each.size) for each in (change.old, change.new) if each is not None]
        parts = [*parts, " -> ".join(dict.fromkeys(told))]
    told_parts = f"  ({', '.join(parts)})" if parts else ""
    return f"{_sign(change)} {show(change.path)}{slash}{told_parts}"


def _file_bytes(entry: Entry | None) -> int:
    return entry.size if entry is not None and entry.kind == objects.ENTRY_FILE else 0


@dataclass
class _Totals:
    """How much differs: entries, and bytes of files that came, went, or have other content."""

    count: Counter[str] = field(default_factory=Counter)
    size: Counter[str] = field(default_factory=Counter)

    def add(self, change: Change) -> None:
        sign = _sign(change)
        self.count[sign] += 1
        old, new = (_file_bytes(each) for each in (change.old, change.new))
        self.size[sign] += new - old if sign == "M" else new or old


def _is_mere_time(change: Change) -> bool:
    entry = change.new or change.old
    is_directory = entry is not None and entry.kind == objects.ENTRY_DIRECTORY
    return is_directory and _sign(change) == "M" and changed_parts(change) == ["times"]


def _diff(arguments: argparse.Namespace, terminal: Terminal) -> int:
    totals = _Totals()

    def counted(changes: Iterator[Change]) -> Iterator[Change]:
        for change in changes:
            if not _is_mere_time(change):
                totals.add(change)
                yield change

    with open_volumes(arguments, terminal, arguments.old, *([arguments.new] if arguments.new else [])) as house:
        changes = actions.diff(house, arguments.old, arguments.new)
        if not arguments.stat:
            terminal.stream(changes, value=change_value, line=change_line)
            return terminal.done()
        if terminal.json:
            for _ in counted(changes):
                pass
        else:
            terminal.stream(counted(changes), value=change_value, line=lambda change: change_line(change, size=True))
    names = {"+": "added", "-": "removed", "M": "changed"}
    value = {names[sign]: {"entries": totals.count[sign], "bytes": totals.size[sign]} for sign in names}
    grown = totals.size["M"]
    lines = [
        f"{totals.count['+']:,} added, {format_size(totals.size['+'])}; "
        f"{totals.count['-']:,} removed, {format_size(totals.size['-'])}; "
        f"{totals.count['M']:,} changed, {'-' if grown < 0 else '+'}{format_size(abs(grown))}"
    ]
    terminal.result(value, lines)
    return terminal.done()


def _versions(arguments: argparse.Namespace, terminal: Terminal) -> int:
    def value(version: Version) -> dict[str, Any]:
        entry = version.entry
        clones = {"first": version.first, "last": version.last, "clones": version.clone_count}
        return {**clones, "present": entry is not None, **(entry_value(entry) if entry is not None else {})}

    with (
        open_volumes(arguments, terminal, arguments.address) as house,
        _histories(arguments, terminal, house) as histories,
    ):
        found = actions.versions(house, arguments.address, histories=histories)
    rows = []
    for version in found:
        entry = version.entry
        there = [format_size(entry.size), show_time(entry.mtime_ns)] if entry is not None else ["not there", ""]
        since = "" if version.first == version.last else version.first
        rows.append([version.last, since, f"{version.clone_count:,}", *there])
    terminal.result(
        [value(version) for version in found],
        terminal.listing(["clone", "since", "clones", "size", "changed"], rows, right=(2, 3)),
    )
    return terminal.done()
