"""Read a policy file: every problem with its line, its key, and what to do (docs/formats/policy.md).

Tables are read by asking for the keys they may have; what nobody asked for is unknown.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dalsegno.backup.members import path_matches
from dalsegno.backup.policy import (
    CYCLE_DAYS_DEFAULT,
    GC_SECONDS_DEFAULT,
    LEASE_SECONDS_DEFAULT,
    TURN_SECONDS_DEFAULT,
    Hooks,
    Keep,
    Limits,
    Notify,
    Policy,
    Program,
    SetPolicy,
    SpoolPolicy,
    TargetKind,
    TargetPolicy,
)
from dalsegno.host.ignore import Rules, check_pattern
from dalsegno.terms.errors import BadInput, DalError, NotFound
from dalsegno.terms.sizes import parse_size
from dalsegno.terms.times import parse_duration_seconds
from dalsegno.world import places
from dalsegno.world.zones import local_zone_name

LEVEL_MAX = 9
CYCLE_DAYS_MAX = 366
SHARES_MAX = 255
VOLUMES_AT_ONCE_MAX = 64
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_KINDS = get_args(TargetKind)
_NAME = re.compile(r"^\w[\w.+-]*\Z")
_WORD = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_ASSIGNED = re.compile(rf"^\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*=")
_SERVER_VOLUME = re.compile(r"^//[^/*?\[]+/[^/]+\Z")
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a policy: `FILE:LINE: KEY: TEXT`."""

    path: Path
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        """Return the problem in one line."""
        return f"{self.path}:{self.line}: {self.key + ': ' if self.key else ''}{self.text}"


def find_policy(given: str | None) -> Path:
    """Return the policy's place: the option, DAL_POLICY, /etc, or the user's own."""
    named = given or os.environ.get("DAL_POLICY")
    if named:
        return Path(named)
    for place in places.policy_files():
        if place.exists():
            return place
    looked = " or ".join(map(str, places.policy_files()))
    raise NotFound(f"no policy in {looked}: write one (docs/guides/run-a-site.md) or give --policy FILE")


def load_policy(path: Path) -> Policy:
    """Return the policy in a file. BadInput names the first problem and how many more there are."""
    policy, problems = examine_policy(path)
    if policy is None:
        more = f" ({len(problems) - 1} more: `dal plan --check` shows all)" if len(problems) > 1 else ""
        raise BadInput(f"{problems[0]}{more}")
    return policy


def examine_policy(path: Path) -> tuple[Policy | None, list[Problem]]:
    """Return the policy in a file, or None and all that is wrong with it."""
    path = Path(os.path.abspath(path))
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise NotFound(f"{path}: no such policy file") from None
    except UnicodeDecodeError as error:
        return None, [Problem(path=path, line=1, key="", text=f"byte {error.start}: not UTF-8: save it as UTF-8")]
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, lists in lists
        found = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", str(error))
        if found is None:
            return None, [Problem(path=path, line=text.count("\n") + 1, key="", text=f"not TOML: {error}")]
        where = int(found.group(2))
        return None, [Problem(path=path, line=where, key="", text=f"column {found.group(3)}: {found.group(1)}")]
    problems = _Problems(path, key_lines(text))
    policy = _read_policy(path, values, problems)
    problems.found.sort(key=lambda problem: problem.line)
    return (None if problems.found else policy), problems.found


def key_lines(text: str) -> dict[Key, int]:
    """Return the line of every key and table header; keys within inline tables are not seen."""
    lines: dict[Key, int] = {}
    table: Key = ()
    open_brackets = 0
    quotes = ""
    for number, line in enumerate(text.splitlines(), 1):
        if quotes:  # within a string of several lines
            if quotes not in line:
                continue
            line, quotes = line.partition(quotes)[2], ""
        elif open_brackets == 0:
            header = re.match(r"^\s*\[\[?([^\]]+)\]\]?\s*(#.*)?$", line)
            if header is not None:
                table = _split_key(header.group(1))
                for depth in range(1, len(table) + 1):
                    lines.setdefault(table[:depth], number)
                continue
            assigned = _ASSIGNED.match(line)
            if assigned is not None:
                key = (*table, *_split_key(assigned.group(1)))
                for depth in range(len(table) + 1, len(key) + 1):
                    lines.setdefault(key[:depth], number)
        for mark in ('"""', "'''"):
            if line.count(mark) % 2:
                quotes, line = mark, line.partition(mark)[0]
        bare = re.sub(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|#.*', "", line)
        open_brackets += sum(map(bare.count, "[{")) - sum(map(bare.count, "]}"))
    return lines


def _split_key(text: str) -> Key:
    return tuple(part.strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[\w-]+", text))


class _Problems:
    """What was found so far, and where the keys stand."""

    def __init__(self, path: Path, lines: dict[Key, int]) -> None:
        self.path = path
        self.lines = lines
        self.found: list[Problem] = []

    def add(self, key: Key, text: str) -> None:
        """Note a problem at a key, or at the nearest table around it that has a line."""
        near = key
        while near and near not in self.lines:
            near = near[:-1]
        self.found.append(Problem(path=self.path, line=self.lines.get(near, 1), key=".".join(key), text=text))


class _Table:
    """One table of the file: asked key by key, and in the end for what nobody asked for."""

    def __init__(self, values: Mapping[str, Any], key: Key, problems: _Problems) -> None:
        self.values = values
        self.key = key
        self.problems = problems
        self.asked: list[str] = []

    def has(self, name: str) -> bool:
        return name in self.values

    def add(self, name: str, text: str) -> None:
        self.problems.add((*self.key, name) if name else self.key, text)

    def _take(self, name: str, kinds: type | tuple[type, ...], expected: str) -> Any:
        self.asked.append(name)
        value = self.values.get(name)
        wrong = value is not None and not isinstance(value, kinds)
        if wrong or (isinstance(value, bool) and kinds is not bool):
            self.add(name, f"expected {expected}, not {value!r}")
            return None
        return value

    def text(self, name: str, default: str = "") -> str:
        value = self._take(name, str, "a text in quotes")
        return default if value is None else str(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._take(name, bool, "true or false")
        return default if value is None else bool(value)

    def number(self, name: str, default: int, *, low: int, high: int) -> int:
        value = self._take(name, int, "a number")
        if value is not None and not low <= value <= high:
            self.add(name, f"{value}: expected {low} to {high}")
            return default
        return default if value is None else int(value)

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            self.add(name, f"{value!r}: expected {' or '.join(choices)}{_meant(value, choices)}")
            return default
        return value

    def size(self, name: str) -> int | None:
        value = self._take(name, (str, int), 'a size, for example "200G"')
        return self._parsed(name, value, parse_size)

    def seconds(self, name: str, default: int) -> int:
        value = self._take(name, (str, int), 'a duration, for example "30s" or "2h"')
        if isinstance(value, int):
            return value
        found = self._parsed(name, value, parse_duration_seconds)
        return default if found is None else found

    def _parsed(self, name: str, value: Any, parse: Any) -> int | None:
        try:
            return None if value is None else int(parse(str(value)))
        except DalError as error:
            self.add(name, str(error))
            return None

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._take(name, (str, list), "a text or a list of texts")
        values = [value] if isinstance(value, str) else value or []
        if not all(isinstance(each, str) and each for each in values):
            self.add(name, "expected texts in quotes, none of them empty")
            return ()
        return tuple(values)

    def path(self, name: str) -> Path | None:
        value = self.text(name)
        return self._absolute(name, value) if value else None

    def paths(self, name: str) -> tuple[Path, ...]:
        found = [self._absolute(name, value) for value in self.texts(name)]
        return tuple(path for path in found if path is not None)

    def _absolute(self, name: str, value: str) -> Path | None:
        if not os.path.isabs(value):
            self.add(name, f"{value!r}: write the whole path, beginning with /")
            return None
        return Path(os.path.normpath(value))

    def table(self, name: str) -> "_Table":
        value = self._take(name, dict, f"a table [{'.'.join((*self.key, name))}]")
        return _Table(value or {}, (*self.key, name), self.problems)

    def tables(self, name: str) -> "dict[str, _Table]":
        whole = self.table(name)
        found = {}
        for each, value in whole.values.items():
            if not isinstance(value, dict):
                whole.add(each, f"expected a table [{name}.{each}]")
            elif not _NAME.match(each):
                whole.add(each, "use letters, digits and . _ + - in the name")
            else:
                found[each] = _Table(value, (*whole.key, each), self.problems)
        return found

    def done(self) -> bool:
        """Report the keys that nobody asked for; tell whether there were none."""
        unknown = [name for name in self.values if name not in self.asked]
        for name in unknown:
            allowed = ", ".join(self.asked)
            self.add(name, f"unknown key{_meant(name, self.asked) or f'; expected one of {allowed}'}")
        return not unknown


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _read_policy(path: Path, values: dict[str, Any], problems: _Problems) -> Policy:
    top = _Table(values, (), problems)
    state_dir = top.path("state") or default_state_dir()
    spool_table = top.table("spool")
    spool = SpoolPolicy(path=spool_table.path("path") or state_dir / "spool", max_bytes=spool_table.size("max"))
    spool_table.done()
    targets = {name: _read_target(name, table) for name, table in top.tables("targets").items()}
    sets = {name: _read_set(name, table, targets) for name, table in top.tables("sets").items()}
    policy = Policy(
        path=path,
        pool=top.path("pool"),
        key=top.path("key"),
        state_dir=state_dir,
        catalog_url=top.text("catalog", f"sqlite:///{state_dir / 'catalog.sqlite'}"),
        spool=spool,
        timezone=_read_zone(top),
        targets=targets,
        sets=sets,
        limits=_read_limits(top.table("limits")),
        notify=_read_notify(top.table("notify")),
    )
    top.done()
    if not sets:
        problems.add(("sets",), 'no set: write a table [sets.NAME] with volumes = ["*"] or sources = ["/home/*"]')
    _check_overlap(policy, problems)
    _check_servers(policy, problems)
    _check_places(policy, problems)
    return policy


def default_state_dir() -> Path:
    """Return where the coordinator keeps its catalog when the policy does not say."""
    if os.geteuid() == 0:
        return places.SITE_STATE_DIR
    return places.state_dir()


def _read_zone(top: _Table) -> str:
    name = top.text("timezone")
    if not name:
        return local_zone_name()
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        top.add("timezone", f'{name!r}: no such time zone; write one like "Europe/Berlin" or "UTC"')
        return "UTC"
    return name


def _read_limits(table: _Table) -> Limits:
    limits = Limits(
        volumes_at_once=table.number("volumes_at_once", 1, low=1, high=VOLUMES_AT_ONCE_MAX),
        bandwidth_bytes=table.size("bandwidth"),
        nice=table.number("nice", 0, low=0, high=19),
        lease_seconds=table.seconds("lease", LEASE_SECONDS_DEFAULT),
        turn_seconds=table.seconds("turn", TURN_SECONDS_DEFAULT),
        gc_seconds=_read_gc(table),
    )
    if limits.bandwidth_bytes is not None and limits.bandwidth_bytes < 1024:
        table.add("bandwidth", f'{limits.bandwidth_bytes} bytes a second would never end: write for example "20M"')
    if not 1 <= limits.lease_seconds <= 3600:
        table.add("lease", f"{limits.lease_seconds} s: expected 1s to 1h")
    if limits.turn_seconds < 1:
        table.add("turn", f'{limits.turn_seconds} s: no volume would ever be done; write for example "12h"')
    table.done()
    return limits


def _read_gc(table: _Table) -> int | None:
    if isinstance(table.values.get("gc"), bool):
        return GC_SECONDS_DEFAULT if table.flag("gc", True) else None
    return table.seconds("gc", GC_SECONDS_DEFAULT)


def _read_notify(table: _Table) -> Notify:
    notify = Notify(
        mail_to=table.texts("mail_to"),
        mail_from=table.text("mail_from"),
        smtp=table.text("smtp"),
        webhook=table.text("webhook"),
        when=cast(Any, table.choice("when", ("failure", "always", "never"), "failure")),
    )
    for name, addresses in (("mail_to", notify.mail_to), ("mail_from", (notify.mail_from,))):
        for address in addresses:
            if not address.isprintable():  # a line break would begin another header
                table.add(name, f"{address!r}: expected a mail address in one line")
    if notify.webhook and not notify.webhook.isprintable():
        table.add("webhook", f"{notify.webhook!r}: expected an address in one line")
    if notify.webhook and not notify.webhook.startswith(("http://", "https://")):
        table.add("webhook", f"{notify.webhook!r}: expected an address beginning with https:// or http://")
    if notify.smtp and not re.match(r"^[^:\s]+(:\d+)?\Z", notify.smtp):
        table.add("smtp", f"{notify.smtp!r}: expected HOST or HOST:PORT")
    table.done()
    return notify


def _read_target(name: str, table: _Table) -> TargetPolicy:
    if not table.has("kind"):
        table.add("", f"kind is missing: expected {' or '.join(_KINDS)}")
    target = TargetPolicy(
        name=name,
        kind=cast(TargetKind, table.choice("kind", _KINDS, "directory")),
        paths=table.paths("paths"),
        copies=table.number("copies", 1, low=1, high=99),
        slice_bytes=table.size("slice"),
        reserve_bytes=table.size("reserve") or 0,
        timeout_seconds=table.seconds("timeout", 24 * 3600),
    )
    if target.kind == "command":
        target = replace(
            target,
            store=table.text("store"),
            fetch=table.text("fetch"),
            remove=table.text("remove"),
            list=table.text("list"),
        )
        for word, line in (("store", target.store), ("fetch", target.fetch)):
            if "{file}" not in line and "DAL_FILE" not in line:
                text = f'expected a command line with {{file}}, for example "{_COMMAND_EXAMPLES[word]}"'
                table.add(word, f"{text}, or one for `sh -c` with $DAL_FILE")
    elif not target.paths:
        table.add("paths", "expected at least one directory")
    if target.kind == "directory":
        target = replace(target, labels=table.texts("labels"))
        if 0 < len(target.paths) < target.copies and not target.labels:
            text = f"{target.copies} copies need as many disks, and there are {len(target.paths)} paths"
            table.add("copies", f"{text}: add paths, or write copies = {len(target.paths)}")
    if target.kind == "shares":
        count = len(target.paths)
        target = replace(
            target,
            n=table.number("n", count, low=1, high=SHARES_MAX),
            k=table.number("k", 0, low=0, high=SHARES_MAX),
        )
        if target.n != count:
            table.add("n", f"{target.n} shares need {target.n} paths, one for each, and there are {count}")
        if not 1 <= target.k <= max(1, target.n):
            table.add("k", f"{target.k}: expected 1 to {target.n}: any k of the n shares restore")
    table.done()
    return target


_COMMAND_EXAMPLES = {"store": "rclone copyto {file} remote:{name}", "fetch": "rclone copyto remote:{name} {file}"}


def _read_set(name: str, table: _Table, targets: Mapping[str, TargetPolicy]) -> SetPolicy:
    cycle_days = table.number("cycle_days", CYCLE_DAYS_DEFAULT, low=1, high=CYCLE_DAYS_MAX)
    keep = table.table("keep")
    chosen = table.texts("targets")
    found = SetPolicy(
        name=name,
        volumes=table.texts("volumes"),
        sources=tuple(os.path.normpath(source) for source in table.texts("sources")),
        rules=_read_rules(table),
        dumps=table.flag("dumps", True),
        cycle_days=cycle_days,
        program=_read_program(table, cycle_days),
        targets=chosen,
        copies=table.number("copies", 0, low=1, high=max(1, len(chosen))),
        target_copies={each: targets[each].copies for each in chosen if each in targets and targets[each].copies > 1},
        keep_clones=_read_keep(keep.table("clones")),
        keep_named=keep.flag("named", True),
        keep_spool=_read_keep(keep.table("spool")),
        keep_archive=_read_keep(keep.table("archive")),
        hooks=_read_hooks(table.table("hooks")),
    )
    keep.done()
    if table.done() and not found.volumes and not found.sources:
        table.add("", 'holds nothing: write volumes = ["NAME"] or sources = ["/directory"]')
    for source in found.sources:
        if not os.path.isabs(source):
            table.add("sources", f"{source!r}: write the whole path, beginning with /")
    for target in chosen:
        if target not in targets:
            known = ", ".join(targets) or "none yet"
            table.add("targets", f"no target {target!r}{_meant(target, list(targets)) or f'; there is {known}'}")
    if not found.dumps:
        for word in ("targets", "copies", "program", "cycle_days", "first_full"):
            if table.has(word):
                table.add(word, "says how dumps are made, and dumps = false makes none: leave one of them away")
        for word in ("spool", "archive"):
            if keep.has(word):
                keep.add(word, "says which dumps stay, and dumps = false makes none: leave one of them away")
    if len(set(chosen)) < len(chosen):
        table.add("targets", "names a target twice: name each once")
    return found


def _read_rules(table: _Table) -> Rules:
    patterns = table.texts("exclude")
    for pattern in patterns:
        try:
            check_pattern(pattern)
        except BadInput as error:
            table.add("exclude", str(error))
    return Rules(
        patterns=patterns,
        cache_tags=table.flag("exclude_caches", False),
        one_file_system=table.flag("one_file_system", False),
        larger_than=table.size("exclude_larger_than"),
        nodump=table.flag("nodump", False),
    )


def _read_program(table: _Table, cycle_days: int) -> Program:
    at_once = table.choice("first_full", ("at once", "spread"), "at once") == "at once"
    value = table._take("program", (str, list, dict), 'a word, a list or a table, for example "planned"')
    if value is None or isinstance(value, str):
        word = value or "planned"
        if word not in ("planned", "hanoi"):
            table.add("program", f'{word!r}: expected "planned", "hanoi", a list of levels, or {{ monday = 0, ... }}')
            word = "planned"
        return Program(kind=cast(Any, word), first_full_at_once=at_once)
    if isinstance(value, dict):
        days = _Table(value, (*table.key, "program"), table.problems)
        numbers = {day: days.number(day, 0, low=0, high=LEVEL_MAX) for day in WEEKDAYS}
        levels: tuple[int | None, ...] = tuple(numbers[day] if days.has(day) else None for day in WEEKDAYS)
        days.done()
        kind = "weekdays"
    else:
        for level in value:
            if isinstance(level, bool) or not isinstance(level, int) or not -1 <= level <= LEVEL_MAX:
                table.add("program", f"level {level!r}: expected 0 to {LEVEL_MAX}, or -1 for a day without a dump")
        levels = tuple(level if isinstance(level, int) and level >= 0 else None for level in value)
        kind = "list"
        if len(levels) != cycle_days:
            table.add(
                "program", f"{len(levels)} levels for a cycle of {cycle_days} days: one for each, or another cycle_days"
            )
    if 0 not in levels:
        table.add("program", "has no full: give one day level 0, or what is restored rests on one dump for ever")
    return Program(kind=cast(Any, kind), levels=levels, first_full_at_once=at_once)


def _read_keep(table: _Table) -> Keep:
    rules = ("last", "hourly", "daily", "weekly", "monthly", "quarterly", "yearly")
    counts = {rule: table.number(rule, 0, low=0, high=100_000) for rule in rules}
    keep = Keep(**counts, within_seconds=table.seconds("within", 0))
    table.done()
    if table.values and keep.everything:
        table.add("", "keeps nothing: give a rule more than 0, or leave the table away to keep everything")
    return keep


def _read_hooks(table: _Table) -> Hooks:
    hooks = Hooks(
        before=table.texts("before"),
        cloned=table.texts("cloned"),
        after=table.texts("after"),
        failed=table.texts("failed"),
        always=table.texts("finally"),
        timeout_seconds=table.seconds("timeout", 3600),
    )
    table.done()
    return hooks


def _check_overlap(policy: Policy, problems: _Problems) -> None:
    """Find what two sets both name; globs are compared again with the volumes there are when a run begins."""
    for word in ("volumes", "sources"):
        holders: dict[str, str] = {}
        for each in policy.sets.values():
            for item in getattr(each, word):
                first = holders.setdefault(item, each.name)
                if first != each.name:
                    key = ("sets", each.name, word)
                    problems.add(key, f"{item!r} is in set {first!r} too: a volume belongs to one set")
                    continue
                for other, holder in holders.items():
                    if holder != each.name and _covers(other, item):
                        text = f"{item!r} is covered by {other!r} of set {holder!r}: a volume belongs to one set"
                        problems.add(("sets", each.name, word), text)


def _covers(first: str, second: str) -> bool:
    """Tell whether one of two patterns matches the other taken as a name."""
    return path_matches(second, first) or path_matches(first, second)


def _check_servers(policy: Policy, problems: _Problems) -> None:
    """Refuse a policy over two pools: its dumps would be of two realms, and no key opened all of them."""
    if not policy.server_volumes:
        return
    text = f"{policy.server_volumes[0]!r} is on a server, and a policy is of one realm's servers or of one pool"
    if policy.pool is not None:
        problems.add(("pool",), f"{text}: leave `pool` away, or write a policy for each")
    for each in policy.sets.values():
        for word in each.volumes:
            if word.startswith("//") and not _SERVER_VOLUME.match(word):
                problems.add(("sets", each.name, "volumes"), f"{word!r}: expected //SERVER/VOLUME")
        plain = [word for word in each.volumes if not word.startswith("//")]
        if plain:
            problems.add(("sets", each.name, "volumes"), f"{text}: write //SERVER/{plain[0]}, or a policy for each")
        if each.sources:
            problems.add(
                ("sets", each.name, "sources"),
                f"{text}: a server's volume follows no directory of this host, `dal import` fills it",
            )


def _check_places(policy: Policy, problems: _Problems) -> None:
    """Refuse to write dumps into what is backed up: every night would back up the nights before."""
    places: list[tuple[Key, Path]] = [(("spool", "path"), policy.spool.path)]
    for target in policy.targets.values():
        places += [(("targets", target.name, "paths"), path) for path in target.paths]
    for each in policy.sets.values():
        for source in each.sources:
            for key, place in places:
                if any(path_matches(str(inside), source) for inside in (place, *place.parents)):
                    text = f"{place} is inside source {source} of set {each.name!r}: dumps would back up themselves"
                    problems.add(key, f"{text}; choose a place outside")
    taken: dict[Path, str] = {}
    for target in policy.targets.values():
        for path in target.paths:
            first = taken.setdefault(path, target.name)
            if first != target.name or target.paths.count(path) > 1:
                problems.add(("targets", target.name, "paths"), f"{path} is used twice: give each its own directory")
                break
