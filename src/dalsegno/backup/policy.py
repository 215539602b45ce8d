"""Policy: what an administrator sets up once, as values (docs/formats/policy.md). `policy_file.py` reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dalsegno.host.ignore import Rules

TargetKind = Literal["directory", "command", "shares"]
ProgramKind = Literal["planned", "hanoi", "weekdays", "list"]

CYCLE_DAYS_DEFAULT = 14
LEASE_SECONDS_DEFAULT = 30
TURN_SECONDS_DEFAULT = 3 * 24 * 3600
GC_SECONDS_DEFAULT = 30 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How much history stays; a rule that is 0 keeps nothing by itself. All 0: everything stays."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    quarterly: int = 0
    yearly: int = 0
    within_seconds: int = 0

    @property
    def everything(self) -> bool:
        """True when no rule is set, so that nothing is ever removed."""
        return self == Keep()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Shell command lines around one volume's turn; a failing `before` stops that volume."""

    before: tuple[str, ...] = ()
    cloned: tuple[str, ...] = ()
    """As soon as the clone is made, or could not be made: what `before` stopped may go on."""
    after: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    always: tuple[str, ...] = ()
    """`finally` in the file: runs last, whatever happened."""
    timeout_seconds: int = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolPolicy:
    """Where dumps are written before they go to media."""

    path: Path
    max_bytes: int | None = None
    """None: as much as the file system has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPolicy:
    """Media that finished dumps are copied to.

    `directory`: `paths` are where a disk of the set may be mounted, each with a label file; `copies` is on how many
    different disks each dump goes. `shares`: `paths` has n directories, any k of them restore. `command`: command lines
    with the fields {file} {name} {dump} {level} {volume} {size}; `fetch` writes to {file}.
    """

    name: str
    kind: TargetKind
    paths: tuple[Path, ...] = ()
    labels: tuple[str, ...] = ()
    """Labels (globs) of media that belong to the set; empty: any medium whose label file names this target."""
    copies: int = 1
    slice_bytes: int | None = None
    """Largest file on a medium; a larger dump is cut into slices. None: cut only where a medium is full."""
    reserve_bytes: int = 0
    """Bytes that stay free on every medium."""
    k: int = 0
    n: int = 0
    store: str = ""
    fetch: str = ""
    remove: str = ""
    list: str = ""
    timeout_seconds: int = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicy:
    """Volumes that are backed up alike."""

    name: str
    volumes: tuple[str, ...] = ()
    """Names and globs of volumes."""
    sources: tuple[str, ...] = ()
    """Directories and globs of directories, each of which becomes a tracked volume."""
    rules: Rules = field(default_factory=Rules)
    """What the sources leave out."""
    dumps: bool = True
    """False: every night makes a clone, and no dump of it; nothing is read back, and nothing leaves the pool."""
    cycle_days: int = CYCLE_DAYS_DEFAULT
    program: Program = field(default_factory=lambda: Program(kind="planned"))
    targets: tuple[str, ...] = ()
    copies: int = 0
    """How many targets must hold a dump before it counts as safe; 0 means all of them."""
    target_copies: Mapping[str, int] = field(default_factory=dict)
    """How many copies each target is to have of a dump, where it is more than one."""
    keep_clones: Keep = Keep()
    keep_named: bool = True
    """Clones that a person named stay until they say otherwise, whatever `keep_clones` says."""
    keep_spool: Keep = Keep()
    keep_archive: Keep = Keep()
    hooks: Hooks = Hooks()

    @property
    def copies_wanted(self) -> int:
        """How many targets must hold a dump before it counts as safe."""
        return self.copies or len(self.targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may take of the machine."""

    volumes_at_once: int = 1
    bandwidth_bytes: int | None = None
    """Bytes per second to the targets, over all volumes; None: as fast as it goes."""
    nice: int = 0
    """Priority of the coordinator, 0 to 19, with the idle class of I/O at 19."""
    lease_seconds: int = LEASE_SECONDS_DEFAULT
    turn_seconds: int = TURN_SECONDS_DEFAULT
    """How long one volume's turn may take before it fails, so that the others have theirs."""
    gc_seconds: int | None = GC_SECONDS_DEFAULT
    """How long a run may write half-dead packs again, to give back room; None: it collects nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """Whom a run tells. `when`: `failure` (something failed or is at risk), `always`, `never`."""

    mail_to: tuple[str, ...] = ()
    mail_from: str = ""
    smtp: str = ""
    """HOST or HOST:PORT; empty: the machine's sendmail."""
    webhook: str = ""
    when: Literal["failure", "always", "never"] = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The whole file."""

    path: Path
    pool: Path | None = None
    """None: the pool that the command line names."""
    key: Path | None = None
    """The pool's key file; None: the usual place."""
    state_dir: Path
    catalog_url: str
    spool: SpoolPolicy
    timezone: str
    """Days begin at midnight here: an IANA name."""
    targets: dict[str, TargetPolicy] = field(default_factory=dict)
    sets: dict[str, SetPolicy] = field(default_factory=dict)
    limits: Limits = Limits()
    notify: Notify = Notify()

    @property
    def server_volumes(self) -> tuple[str, ...]:
        """The words `//SERVER/VOLUME` of its sets: with them, all of its volumes are a realm's."""
        return tuple(word for each in self.sets.values() for word in each.volumes if word.startswith("//"))
