"""`dal backup` and `dal import`."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from dalsegno.actions.backup import BackupResult, TakeResult, backup, import_directory
from dalsegno.actions.rules import LARGER_THAN, NO_LIMIT, LeftOut, RulesChange
from dalsegno.actions.session import House
from dalsegno.actions.sources import Ask, nothing_there
from dalsegno.assembly.local import create_pool
from dalsegno.cli.choice import Choice, chosen, joined_realms, key_path
from dalsegno.cli.door import open_chosen, open_realm_house, open_volumes
from dalsegno.cli.terminal import Terminal, format_duration, show
from dalsegno.cli.words import KEEP_THE_KEY, POLICY_HELP, Parser
from dalsegno.host.cache import SCAN_SUFFIX
from dalsegno.host.ignore import check_pattern
from dalsegno.pool.keys import notes_of_keys_for
from dalsegno.pool.settings import is_pool
from dalsegno.terms.counts import count_of, count_of_entries
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, BadInput, DalError, NotFound, Refused
from dalsegno.terms.sizes import format_size, parse_size
from dalsegno.terms.times import show_time
from dalsegno.volumes.state import TRACKED
from dalsegno.world import places
from dalsegno.world.files import file_errors, is_directory

_NO = "none"
_FLAG_WORDS = {
    "exclude_caches": "caches (CACHEDIR.TAG)",
    "one_file_system": "other file systems",
    "nodump": "what has the nodump flag",
}

SHOWN_MAX: Final = 20
UNREADABLE_SHOWN_MAX: Final = 100
PLACES_SHOWN_MAX: Final = 12


def listed(texts: Sequence[str], limit: int) -> list[str]:
    """Return the first lines of a list for people, and how many more there are."""
    more = len(texts) - limit
    return [f"    {text}" for text in texts[:limit]] + (
        [f"    and {more:,} more (`--json` has all)"] if more > 0 else []
    )


def add_rules(parser: argparse.ArgumentParser, title: str) -> None:
    """Add the options that say what to leave out; `title` says for how long they count."""
    group = parser.add_argument_group(title)
    group.add_argument(
        "-e", "--exclude", action="append", default=[], metavar="PATTERN", help="omit files, like a line of .gitignore"
    )
    group.add_argument(
        "--exclude-from",
        action="append",
        default=[],
        metavar="FILE",
        help="omit the patterns of a file (-: standard input)",
    )
    group.add_argument("--exclude-larger-than", metavar="SIZE", help="omit larger files; `none` removes the rule")
    flags = (
        (("--exclude-caches",), "leave out what CACHEDIR.TAG marks as cache"),
        (("-x", "--one-file-system"), "do not enter other file systems"),
        (("--nodump",), "leave out what has the nodump flag (chattr +d)"),
    )
    for names, words in flags:
        group.add_argument(*names, action=argparse.BooleanOptionalAction, default=None, help=words)


def read_rules(arguments: argparse.Namespace) -> RulesChange:
    """Return the rules that the options say."""
    patterns = list(arguments.exclude)
    for place in arguments.exclude_from:
        patterns += _read_patterns(place)
    return RulesChange(
        add=tuple(patterns),
        cache_tags=arguments.exclude_caches,
        one_file_system=arguments.one_file_system,
        larger_than=read_limit(arguments.exclude_larger_than),
        nodump=arguments.nodump,
    )


def read_limit(text: str | None) -> int | None:
    """Return the bytes of `--exclude-larger-than`: NO_LIMIT for `none`, None when it was not given."""
    if text is None:
        return None
    return NO_LIMIT if text == _NO else parse_size(text)


def _read_patterns(place: str) -> list[str]:
    """Return the patterns in a file; lines that are empty or begin with # are passed over, as in a .gitignore."""
    if place == "-":
        text = sys.stdin.buffer.read()
    else:
        with file_errors(place):
            text = Path(place).read_bytes()
    lines = [os.fsdecode(line) for line in text.removeprefix(b"\xef\xbb\xbf").splitlines()]
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            try:
                check_pattern(line)
            except BadInput as error:
                raise BadInput(f"{place}:{number}: {error}") from None
    return [line for line in lines if line.strip() and not line.startswith("#")]


def add_backup(parser: Parser) -> None:
    """Define the arguments of `dal backup`."""
    parser.add_argument("what", nargs="*", metavar="DIR|VOLUME", help="what to back up (default: all tracked volumes)")
    parser.add_argument("--name", metavar="CLONE", help="the clone's name (default: the time)")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only show what would be read and stored")
    parser.add_argument("--accept-shrunk", action="store_true", help="accept that most files of the source are gone")
    add_rules(parser, "what to leave out, this time only (`dal volume set` makes rules that stay)")
    cycle = parser.add_argument_group("the whole cycle of a policy's sets: clone, dump, verify, archive, retain")
    cycle.add_argument("--set", action="append", default=[], metavar="SET", help="back up this set, or `all`")
    cycle.add_argument("--policy", metavar="FILE", help=POLICY_HELP)
    cycle.add_argument("--due", action="store_true", help="omit volumes that have a good dump of today")
    cycle.add_argument("--wait", action="store_true", help="wait for another coordinator instead of failing")
    parser.set_defaults(run=_backup)


def add_import(parser: Parser) -> None:
    """Define the arguments of `dal import`."""
    parser.add_argument("volume", metavar="VOLUME", help="a native volume; created if it does not exist")
    parser.add_argument("directory", metavar="DIR", type=Path)
    add_rules(parser, "what to leave out, this time only")
    parser.set_defaults(run=_import)


def _open_or_create(arguments: argparse.Namespace, terminal: Terminal) -> House:
    if arguments.what and not any(is_directory(what) for what in arguments.what):
        missing = arguments.what[0]
        if os.sep in missing and not missing.startswith("//"):
            raise nothing_there(missing)  # that is what is wrong, whether there is a pool or not
        return open_volumes(arguments, terminal, *arguments.what)
    choice = chosen(arguments, about_volumes=True)
    path, realms = choice.pool, joined_realms()
    if path is None or not arguments.what:
        return open_volumes(arguments, terminal)
    if choice.is_default and realms:
        return _open_where_followed(arguments, terminal, choice, realms)
    if is_pool(path):
        return open_chosen(arguments, terminal, choice)
    _refuse_second_pool(path)
    house = create_pool(path, key_path=key_path(arguments), report=terminal.report)
    terminal.note(f"made a pool in {path}")
    terminal.note(f"its key is {house.pool.key_path}: {KEEP_THE_KEY}")
    return house


def _refuse_second_pool(path: Path) -> None:
    """Refuse to begin anew where a pool was: its disk is away, most likely, and another would fill the one below."""
    # A pool whose making was stopped has a key, too, but no scan: nothing was backed up into it yet.
    used = [
        notes for notes in notes_of_keys_for(path) if any((places.cache_dir() / notes["pool"]).glob(f"*{SCAN_SUFFIX}"))
    ]
    if not used or (path.is_dir() and any(path.iterdir())):
        return
    when, where = used[-1].get("made", "once"), used[-1].get("host", "this machine")
    raise NotFound(
        f"{path}: no pool here, but one was made here ({when} on {where}): is its disk mounted? "
        f"`dal init {shlex.quote(os.fspath(path))}` makes a new one, when the old one is gone for good"
    )


def _open_where_followed(arguments: argparse.Namespace, terminal: Terminal, choice: Choice, realms: list[str]) -> House:
    """Open the pool or the realm of which a volume follows the first directory; nobody is guessed for a new one."""
    assert choice.pool is not None
    first = arguments.what[0]
    place = os.fsencode(os.path.realpath(first))
    followed = import_module("dalsegno.replicas.followed")
    for realm in realms:
        if any(each.source == place for each in followed.Directories(realm).all().values()):
            return open_realm_house(realm, arguments, terminal)
    if is_pool(choice.pool):
        house = open_chosen(arguments, terminal, choice)
        if any(first == state.name or state.source == place for state in house.volumes.list()):
            return house
        house.__exit__(None, None, None)
    words = " or ".join(f"`DAL_REALM={realm} dal backup {first}`" for realm in realms)
    raise Refused(
        f"{first}: no volume follows it yet, so say where it goes: {words} puts it on the servers, "
        f"`dal backup --pool {choice.pool} {first}` into a pool here"
    )


def _backup(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if arguments.set:
        return _backup_sets(arguments, terminal)
    if arguments.due or arguments.wait or arguments.policy:
        raise BadInput("--due, --wait and --policy are about a policy's sets: add `--set all`, or the name of one")
    rules = read_rules(arguments)
    for pattern in rules.add:
        check_pattern(pattern)  # before a pool is made
    if arguments.dry_run:
        return _preview(arguments, terminal, rules)
    code = EXIT_DONE
    with _open_or_create(arguments, terminal) as house:
        targets = arguments.what or [state.name for state in house.volumes.list() if state.kind == TRACKED]
        if not targets:
            raise NotFound("nothing to back up yet: `dal backup DIR` begins with a directory")
        values: list[dict[str, Any]] = []
        lines: list[str] = []
        failed: DalError | None = None
        for what in targets:
            try:
                result = backup(
                    house,
                    what,
                    rules=rules,
                    clone_name=arguments.name,
                    accept_shrunk=arguments.accept_shrunk,
                    ask=asker(terminal),
                    by_name=not arguments.what,
                )
            except DalError as error:
                if len(targets) == 1:
                    raise
                # One volume fails alone; the others are done.
                terminal.fail(str(error))
                values.append({"what": what, "error": {"code": error.code, "message": str(error)}})
                failed = error
                continue
            values.append(backup_value(result))
            lines += backup_lines(result)
            if terminal.verbose and not terminal.json:
                lines += import_module("dalsegno.cli.preview").changed_lines(house, result.taken)
            tell_trouble(result.taken, terminal)
            if result.taken.incomplete:
                code = EXIT_PARTIAL
        terminal.result(values if len(targets) > 1 else values[0], [] if terminal.quiet else lines)
    return failed.exit_code if failed is not None else code if arguments.what else code or terminal.done()


def _preview(arguments: argparse.Namespace, terminal: Terminal, rules: RulesChange) -> int:
    would_make = False
    if any(is_directory(what) for what in arguments.what):
        pool = chosen(arguments, about_volumes=True).pool
        would_make = pool is not None and not is_pool(pool)
    with nullcontext(None) if would_make else _open_or_create(arguments, terminal) as house:
        code: int = import_module("dalsegno.cli.preview").show_preview(arguments, terminal, rules, house)
    return code


def asker(terminal: Terminal) -> Ask | None:
    """Return what puts a question to a person, or None with nobody there."""
    if terminal.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(text: str) -> bool | None:
        terminal.end_progress()
        print(f"{show(text)} [y/n] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline().strip().lower()
        return {"y": True, "yes": True, "n": False, "no": False}.get(answer)

    return ask


def _backup_sets(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if arguments.dry_run:
        raise BadInput("--dry-run is for directories and volumes: `dal plan` shows what a policy would do")
    if arguments.what or arguments.name or not read_rules(arguments).is_empty:
        raise BadInput("--set takes volumes, names and exclusions from the policy: give it without them")
    module = import_module("dalsegno.cli.cycle")  # on use: a catalog takes long to load
    code: int = module.run_sets(arguments, terminal)
    return code


def take_value(taken: TakeResult) -> dict[str, Any]:
    """Return what programs want to know about a take."""
    return {
        "revision": taken.revision.hex(),
        "changed": taken.changed,
        "entries": taken.entry_count,
        "bytes": taken.total_bytes,
        "files_read": taken.files_read,
        "bytes_read": taken.bytes_read,
        "bytes_stored": taken.bytes_stored,
        "healed": taken.healed,
        "unreadable": [{"path": path, "error": text} for path, text in taken.unreadable],
        "changed_while_read": taken.changed_while_read,
        "not_entered": [{"path": path, "reason": reason} for path, reason in taken.not_entered],
        "missized": taken.missized,
        "sockets": taken.socket_count,
        "ignore_problems": [
            {"path": problem.path, "line": problem.line, "reason": problem.reason} for problem in taken.ignore_problems
        ],
        "shrunk": None
        if taken.shrunk is None
        else {"entries_before": taken.shrunk.entries_before, "entries_now": taken.shrunk.entries_now},
        "left_out": [each.value_for_programs() for each in taken.left_out],
    }


def left_out_words(each: LeftOut) -> str:
    """Return what a rule leaves out, for people."""
    if each.rule == LARGER_THAN:
        return f"files over {format_size(int(each.value))}"
    return _FLAG_WORDS.get(each.rule) or show(os.fsencode(str(each.value)))


def left_out_origin(each: LeftOut) -> str:
    """Return who says that something is left out, for people."""
    if each.by == "run":
        return "this time only"
    if each.by == "policy":
        return f"policy's set {each.set_name}"
    return f"since {show_time(each.since_ns)}" if each.since_ns else "always"


def left_out_lines(found: list[LeftOut]) -> list[str]:
    """Return one line that says what was left out and who says so; none when nothing was."""
    groups: dict[str, list[str]] = {}
    for each in found:
        groups.setdefault(left_out_origin(each), []).append(left_out_words(each))
    parts = [f"{', '.join(words)} ({origin})" for origin, words in groups.items()]
    return [f"  leaves out: {'; '.join(parts)}"] if parts else []


def backup_value(result: BackupResult) -> dict[str, Any]:
    """Return what programs want to know about a backup."""
    return {
        "volume": result.volume,
        "source": result.source,
        "created": result.created,
        "clone": result.clone_name,
        "duration_seconds": result.duration_ns / 1e9,
        **take_value(result.taken),
    }


def take_lines(taken: TakeResult) -> list[str]:
    """Return what people want to know about a take."""
    lines = [
        f"  {count_of_entries(taken.entry_count)}, {format_size(taken.total_bytes)}; "
        + (
            f"read {count_of(taken.files_read, 'file')}, {format_size(taken.bytes_read)}; "
            f"stored {format_size(taken.bytes_stored)}"
            if taken.changed
            else "nothing changed" + (f"; {format_size(taken.bytes_stored)} stored again" if taken.healed else "")
        )
    ]
    if taken.ignore_problems:
        lines.append("  of ignore files, these could not be obeyed:")
        lines += listed([f"{show(each.path)}: {each}" for each in taken.ignore_problems], SHOWN_MAX)
    lines += left_out_lines(taken.left_out)
    lines += not_entered_lines(taken.not_entered)
    if taken.socket_count:
        be = "is" if taken.socket_count == 1 else "are"
        lines.append(f"  {count_of(taken.socket_count, 'socket')} {be} left out: no backup holds them (-v names them)")
    if taken.missized:
        lines.append(f"  {len(taken.missized):,} have not the size that they say, stored as they were read:")
        lines += listed(list(map(show, taken.missized)), SHOWN_MAX)
    if taken.changed_while_read:
        files = count_of(len(taken.changed_while_read), "file")
        lines.append(f"  {files} changed while being read, last state kept:")
        lines += listed(list(map(show, taken.changed_while_read)), SHOWN_MAX)
    if taken.unreadable:
        lines.append(f"  {len(taken.unreadable):,} could not be read and are NOT in the backup:")
        lines += unreadable_lines(taken)
    return lines


def not_entered_lines(found: Sequence[tuple[bytes, str]]) -> list[str]:
    """Return one line that says which directories were not entered; none when all were."""
    words = [f"{show(path)} ({reason})" for path, reason in found]
    more = f" and {len(words) - PLACES_SHOWN_MAX:,} more" if len(words) > PLACES_SHOWN_MAX else ""
    return [f"  not entered: {', '.join(words[:PLACES_SHOWN_MAX])}{more}"] if words else []


def unreadable_lines(taken: TakeResult) -> list[str]:
    """Return the first of what could not be read, and how many more there are."""
    return listed([f"{show(path)}: {text}" for path, text in taken.unreadable], UNREADABLE_SHOWN_MAX)


def tell_trouble(taken: TakeResult, terminal: Terminal) -> None:
    """Say on the side that a source lost most of its files and, when nothing else is printed, what is missing."""
    name = taken.state.name
    if taken.shrunk is not None:
        terminal.fail(f"{name}: {taken.shrunk} When it is right so: `dal backup --accept-shrunk {name}`")
    if terminal.quiet:
        for line in unreadable_lines(taken):
            terminal.fail(f"{name}: not in the backup: {line}")


def backup_lines(result: BackupResult) -> list[str]:
    """Return what people want to know about a backup."""
    lines = []
    if result.created:
        lines.append(f"made volume {result.volume} for {show(result.source)}")
    lines.append(f"{result.volume}@{result.clone_name}  in {format_duration(result.duration_ns)}")
    return lines + take_lines(result.taken)


def _import(arguments: argparse.Namespace, terminal: Terminal) -> int:
    rules = read_rules(arguments)
    with open_volumes(arguments, terminal, arguments.volume) as house:
        taken, created = import_directory(house, arguments.volume, arguments.directory, rules=rules)
    lines = [f"made volume {arguments.volume}"] if created else []
    lines += [f"{arguments.volume}  imported {arguments.directory}", *take_lines(taken)]
    value = {"volume": arguments.volume, "created": created, **take_value(taken)}
    tell_trouble(taken, terminal)
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_PARTIAL if taken.incomplete else EXIT_DONE
