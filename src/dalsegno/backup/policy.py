"""Policy: what an administrator sets up once, as values (docs/formats/policy.md). `policy_file.py` reads them.

Each struct is one table of the file: its fields are the keys that it may have, with types, bounds and defaults;
`_mistakes` says what is wrong with values of which each by itself is right.
"""

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta, field
from msgspec.structs import force_setattr

from dalsegno.backup.toml_tables import (
    NOT_IN_FILE,
    Given,
    Key,
    Mistake,
    Paths,
    Problems,
    Seconds,
    Size,
    Table,
    Texts,
    Written,
)
from dalsegno.host.ignore import Rules, check_pattern
from dalsegno.terms.errors import BadInput
from dalsegno.terms.times import parse_duration_seconds

ProgramKind = Literal["planned", "hanoi", "weekdays", "list"]

LEVEL_MAX: Final = 9
CYCLE_DAYS_MAX: Final = 366
SHARES_MAX: Final = 255
VOLUMES_AT_ONCE_MAX: Final = 64
BANDWIDTH_BYTES_MIN: Final = 1024
LEASE_SECONDS_MAX: Final = 3600
LEASE_SECONDS_DEFAULT: Final = 30
TURN_SECONDS_DEFAULT: Final = 3 * 24 * 3600
GC_SECONDS_DEFAULT: Final = 30 * 60
COMMAND_SECONDS_DEFAULT: Final = 24 * 3600
HOOK_SECONDS_DEFAULT: Final = 3600
Count = Annotated[int, Meta(ge=0, le=100_000)]
Level = Annotated[int, Meta(ge=0, le=LEVEL_MAX)]
WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Keep(Table, frozen=True, kw_only=True):
    """How much history stays; a rule that is 0 keeps nothing by itself. All 0: everything stays."""

    last: Count = 0
    hourly: Count = 0
    daily: Count = 0
    weekly: Count = 0
    monthly: Count = 0
    quarterly: Count = 0
    yearly: Count = 0
    within_seconds: Seconds = field(default=0, name="within")

    @property
    def everything(self) -> bool:
        """True when no rule is set, so that nothing is ever removed."""
        return self == Keep()

    def _mistakes(self, written: Collection[str]) -> Iterator[Mistake]:
        if written and self.everything:
            yield "", "keeps nothing: give a rule more than 0, or leave the table away to keep everything"


class KeepRules(Table, frozen=True, kw_only=True):
    """How much of what stays."""

    clones: Keep = Keep()
    named: bool = True
    """Clones that a person named stay until they say otherwise, whatever `clones` says."""
    spool: Keep = Keep()
    archive: Keep = Keep()


_Weekdays: type[Table] = msgspec.defstruct(  # type: ignore[assignment]  # its base is Table
    "_Weekdays", [(day, Level | None, None) for day in WEEKDAYS], bases=(Table,), frozen=True, kw_only=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Which level is due on which day.

    `planned`: fulls spread by size over the cycle, Tower of Hanoi between them. `hanoi`: a full every cycle, counted
    from the volume's last one. `weekdays`: `levels` has 7, Monday first. `list`: one level for each day of the cycle,
    which begins on a Monday. A level of None is a day without a dump.
    """

    kind: ProgramKind
    levels: tuple[int | None, ...] = ()
    first_full_at_once: bool = True
    """`planned` only: a volume that has no full gets it on the next run; else the first fulls are spread too."""

    @classmethod
    def read_toml(cls, value: object, key: Key, problems: Problems) -> Self | None:
        """Return the program that the file has as a word, a list of levels or a table of weekdays."""
        if value in ("", "planned", "hanoi"):
            return cls(kind="hanoi" if value == "hanoi" else "planned")
        if isinstance(value, dict):
            days = _Weekdays.read_toml(value, key, problems)
            program = cls(kind="weekdays", levels=msgspec.structs.astuple(days) if days is not None else ())
        elif isinstance(value, list):
            for level in value:
                if isinstance(level, bool) or not isinstance(level, int) or not -1 <= level <= LEVEL_MAX:
                    problems.add(key, f"level {level!r}: expected 0 to {LEVEL_MAX}, or -1 for a day without a dump")
            levels = (level if isinstance(level, int) and level >= 0 else None for level in value)
            program = cls(kind="list", levels=tuple(levels))
        elif isinstance(value, str):
            problems.add(key, f'{value!r}: expected "planned", "hanoi", a list of levels, or {{ monday = 0, ... }}')
            return None
        else:
            problems.add(key, f'expected a word, a list or a table, for example "planned", not {value!r}')
            return None
        if 0 not in program.levels:
            problems.add(key, "has no full: give one day level 0, or what is restored rests on one dump for ever")
        return program


class Hooks(Table, frozen=True, kw_only=True):
    """Shell command lines around one volume's turn; a failing `before` stops that volume."""

    before: Texts = ()
    cloned: Texts = ()
    """As soon as the clone is made, or could not be made: what `before` stopped may go on."""
    after: Texts = ()
    failed: Texts = ()
    always: Texts = field(default=(), name="finally")
    """Runs last, whatever happened."""
    timeout_seconds: Seconds = field(default=HOOK_SECONDS_DEFAULT, name="timeout")


class SpoolPolicy(Table, frozen=True, kw_only=True):
    """Where dumps are written before they go to media."""

    path: Path = Path()
    """Of a file that does not say: `spool` in its state directory."""
    max_bytes: Size | None = field(default=None, name="max")
    """None: as much as the file system has."""


class DirectoryPolicy(Table, frozen=True, kw_only=True, tag_field="kind", tag="directory"):
    """Labelled disks: `paths` are where one of them may be mounted."""

    kind: ClassVar[str] = "directory"
    name: Given
    paths: Paths = ()
    labels: Texts = ()
    """Labels (globs) of media that belong to the set; empty: any medium whose label file names this target."""
    copies: Annotated[int, Meta(ge=1, le=99)] = 1
    """On how many different disks each dump goes."""
    slice_bytes: Size | None = field(default=None, name="slice")
    """Largest file on a medium; a larger dump is cut into slices. None: cut only where a medium is full."""
    reserve_bytes: Size = field(default=0, name="reserve")
    """Bytes that stay free on every medium."""

    @property
    def bytes_for_each(self) -> float:
        """How many bytes the target takes for one byte of a dump."""
        return float(self.copies)

    def _mistakes(self, written: Collection[str]) -> Iterator[Mistake]:
        count = len(self.paths)
        if not count:
            yield "paths", "expected at least one directory"
        elif count < self.copies and not self.labels:
            text = f"{self.copies} copies need as many disks, and there are {count} paths"
            yield "copies", f"{text}: add paths, or write copies = {count}"


class SharesPolicy(Table, frozen=True, kw_only=True, tag_field="kind", tag="shares"):
    """Shares in `n` directories, of which any `k` restore."""

    kind: ClassVar[str] = "shares"
    copies: ClassVar[int] = 1
    labels: ClassVar[tuple[str, ...]] = ()
    name: Given
    paths: Paths = ()
    k: Annotated[int, Meta(ge=0, le=SHARES_MAX)] = 0
    n: Annotated[int, Meta(ge=1, le=SHARES_MAX)] = 0
    """How many shares there are of a dump; when it is not said, as many as `paths`."""

    def __post_init__(self) -> None:
        """Count the paths when nobody said how many shares there are."""
        if not self.n:
            force_setattr(self, "n", len(self.paths))

    @property
    def bytes_for_each(self) -> float:
        """How many bytes the target takes for one byte of a dump."""
        return self.n / self.k if self.k else 1.0

    def _mistakes(self, written: Collection[str]) -> Iterator[Mistake]:
        count = len(self.paths)
        if not count:
            yield "paths", "expected at least one directory"
        if self.n != count:
            yield "n", f"{self.n} shares need {self.n} paths, one for each, and there are {count}"
        if not 1 <= self.k <= max(1, self.n):
            yield "k", f"{self.k}: expected 1 to {self.n}: any k of the n shares restore"


class CommandPolicy(Table, frozen=True, kw_only=True, tag_field="kind", tag="command"):
    """Command lines with the fields {file} {name} {dump} {level} {volume} {size}; `fetch` writes to {file}."""

    kind: ClassVar[str] = "command"
    copies: ClassVar[int] = 1
    paths: ClassVar[tuple[Path, ...]] = ()
    bytes_for_each: ClassVar[float] = 1.0
    name: Given
    store: str = ""
    fetch: str = ""
    remove: str = ""
    list: str = ""
    timeout_seconds: Seconds = field(default=COMMAND_SECONDS_DEFAULT, name="timeout")

    def _mistakes(self, written: Collection[str]) -> Iterator[Mistake]:
        for word, line, example in (
            ("store", self.store, "rclone copyto {file} remote:{name}"),
            ("fetch", self.fetch, "rclone copyto remote:{name} {file}"),
        ):
            if "{file}" not in line and "DAL_FILE" not in line:
                text = f'expected a command line with {{file}}, for example "{example}"'
                yield word, f"{text}, or one for `sh -c` with $DAL_FILE"


TargetPolicy = DirectoryPolicy | CommandPolicy | SharesPolicy
"""Media that finished dumps are copied to."""


class SetPolicy(Table, frozen=True, kw_only=True):
    """Volumes that are backed up alike."""

    name: Given
    volumes: Texts = ()
    """Names and globs of volumes."""
    sources: Texts = ()
    """Directories and globs of directories, each of which becomes a tracked volume."""
    exclude: Texts = ()
    exclude_caches: bool = False
    exclude_larger_than: Size | None = None
    one_file_system: bool = False
    nodump: bool = False
    dumps: bool = True
    """False: every night makes a clone, and no dump of it; nothing is read back, and nothing leaves the pool."""
    cycle_days: Annotated[int, Meta(ge=1, le=CYCLE_DAYS_MAX)] = 14
    program: Program = Program(kind="planned")
    first_full: Literal["at once", "spread"] = "at once"
    """In the file; `program.first_full_at_once` has it."""
    targets: Texts = ()
    copies: Annotated[int, Meta(ge=1)] | None = None
    """How many targets must hold a dump before it counts as safe; None: all of them."""
    target_copies: Annotated[Mapping[str, int], NOT_IN_FILE] = field(default_factory=dict)
    """How many copies each target is to have of a dump, where it is more than one."""
    keep: KeepRules = KeepRules()
    hooks: Hooks = Hooks()

    @property
    def copies_wanted(self) -> int:
        """How many targets must hold a dump before it counts as safe."""
        return self.copies or len(self.targets)

    @property
    def rules(self) -> Rules:
        """What the sources leave out."""
        return Rules(
            patterns=self.exclude,
            cache_tags=self.exclude_caches,
            one_file_system=self.one_file_system,
            larger_than=self.exclude_larger_than,
            nodump=self.nodump,
        )

    def _mistakes(self, written: Collection[str]) -> Iterator[Mistake]:
        if not self.volumes and not self.sources:
            yield "", 'holds nothing: write volumes = ["NAME"] or sources = ["/directory"]'
        for source in self.sources:
            if not posixpath.isabs(source):
                yield "sources", f"{source!r}: write the whole path, beginning with /"
        for pattern in self.exclude:
            try:
                check_pattern(pattern)
            except BadInput as error:
                yield "exclude", str(error)
        if self.copies is not None and self.copies > max(1, len(self.targets)):
            yield "copies", f"{self.copies}: expected 1 to {max(1, len(self.targets))}"
        levels = self.program.levels
        if self.program.kind == "list" and len(levels) != self.cycle_days:
            text = f"{len(levels)} levels for a cycle of {self.cycle_days} days: one for each, or another cycle_days"
            yield "program", text
        if len(set(self.targets)) < len(self.targets):
            yield "targets", "names a target twice: name each once"
        if not self.dumps:
            for word in ("targets", "copies", "program", "cycle_days", "first_full"):
                if word in written:
                    yield word, "says how dumps are made, and dumps = false makes none: leave one of them away"
            for word in ("spool", "archive"):
                if not getattr(self.keep, word).everything:
                    yield f"keep.{word}", "says which dumps stay, and dumps = false makes none: leave one of them away"


def _parse_gc(value: str | bool) -> int | None:
    if isinstance(value, bool):
        return GC_SECONDS_DEFAULT if value else None
    return parse_duration_seconds(value)


class Limits(Table, frozen=True, kw_only=True):
    """What a run may take of the machine."""

    volumes_at_once: Annotated[int, Meta(ge=1, le=VOLUMES_AT_ONCE_MAX)] = 1
    bandwidth_bytes: Size | None = field(default=None, name="bandwidth")
    """Bytes per second to the targets, over all volumes; None: as fast as it goes."""
    nice: Annotated[int, Meta(ge=0, le=19)] = 0
    """Priority of the coordinator, 0 to 19, with the idle class of I/O at 19."""
    lease_seconds: Seconds = field(default=LEASE_SECONDS_DEFAULT, name="lease")
    turn_seconds: Seconds = field(default=TURN_SECONDS_DEFAULT, name="turn")
    """How long one volume's turn may take before it fails, so that the others have theirs."""
    gc_seconds: Annotated[
        int | None, Written('a duration, for example "30s" or "2h"', _parse_gc, takes=(str, bool))
    ] = field(default=GC_SECONDS_DEFAULT, name="gc")
    """How long a run may write half-dead packs again, to give back room; None (`false`): it collects nothing."""

    def _mistakes(self, written: Collection[str]) -> Iterator[Mistake]:
        if self.bandwidth_bytes is not None and self.bandwidth_bytes < BANDWIDTH_BYTES_MIN:
            yield "bandwidth", f'{self.bandwidth_bytes} bytes a second would never end: write for example "20M"'
        if not 1 <= self.lease_seconds <= LEASE_SECONDS_MAX:
            yield "lease", f"{self.lease_seconds} s: expected 1s to 1h"
        if self.turn_seconds < 1:
            yield "turn", f'{self.turn_seconds} s: no volume would ever be done; write for example "12h"'


class Notify(Table, frozen=True, kw_only=True):
    """Whom a run tells. `when`: `failure` (something failed or is at risk), `always`, `never`."""

    mail_to: Texts = ()
    mail_from: str = ""
    smtp: str = ""
    """HOST or HOST:PORT; empty: the machine's sendmail."""
    webhook: str = ""
    when: Literal["failure", "always", "never"] = "failure"

    def _mistakes(self, written: Collection[str]) -> Iterator[Mistake]:
        for name, addresses in (("mail_to", self.mail_to), ("mail_from", (self.mail_from,))):
            for address in addresses:
                if not address.isprintable():  # a line break would begin another header
                    yield name, f"{address!r}: expected a mail address in one line"
        if self.webhook and not self.webhook.isprintable():
            yield "webhook", f"{self.webhook!r}: expected an address in one line"
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            yield "webhook", f"{self.webhook!r}: expected an address beginning with https:// or http://"
        if self.smtp and not re.match(r"^[^:\s]+(:\d+)?\Z", self.smtp):
            yield "smtp", f"{self.smtp!r}: expected HOST or HOST:PORT"


class Policy(Table, frozen=True, kw_only=True):
    """The whole file."""

    path: Annotated[Path, NOT_IN_FILE]
    pool: Path | None = None
    """None: the pool that the command line names."""
    key: Path | None = None
    """The pool's key file; None: the usual place."""
    state_dir: Path = field(name="state")
    catalog_url: str = field(name="catalog")
    timezone: str
    """Days begin at midnight here: an IANA name."""
    spool: SpoolPolicy
    limits: Limits = Limits()
    notify: Notify = Notify()
    targets: dict[str, TargetPolicy] = field(default_factory=dict)
    sets: dict[str, SetPolicy] = field(default_factory=dict)

    @property
    def server_volumes(self) -> tuple[str, ...]:
        """The words `//SERVER/VOLUME` of its sets: with them, all of its volumes are a realm's."""
        return tuple(word for each in self.sets.values() for word in each.volumes if word.startswith("//"))

    def _mistakes(self, written: Collection[str]) -> Iterator[Mistake]:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            yield "timezone", f'{self.timezone!r}: no such time zone; write one like "Europe/Berlin" or "UTC"'
        if not self.sets:
            yield "sets", 'no set: write a table [sets.NAME] with volumes = ["*"] or sources = ["/home/*"]'
