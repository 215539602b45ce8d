"""One volume's turn in the backup cycle, step by step (docs/architecture.md, "A volume's turn").

    begun     the clone's name and the dump's place are chosen
    cloned    the state is frozen in a clone
    dumped    the dump is whole and durable in the spool; small ones are verified before it is written down
    verified  it was read back: every byte, every object
    done      targets hold it and read it back, later dumps may build on it, retention was applied

Each step is written to the journal after it is done, and each can be done again: whoever finds an open job goes on
behind the last step that is written, and finds there either nothing, half of it, or all of it. Between verified and
done, the catalog's own rows are the journal: which targets hold the dump, and whether it is recorded.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

import msgspec

from dalsegno.actions.hooks import HookFailed, run_hooks
from dalsegno.archive.installation import Installation
from dalsegno.archive.targets import Incomplete
from dalsegno.backup.policy import SetPolicy
from dalsegno.backup.records import (
    BAD,
    GOOD,
    JOB_DONE,
    JOB_FAILED,
    JOB_OPEN,
    SPOOL_TARGET,
    Copy,
    DumpEntry,
    Job,
    usable_copies,
)
from dalsegno.backup.targets import missing_targets, shortfalls, whole_targets
from dalsegno.terms.errors import DalError, Damaged, NotFound, Unavailable
from dalsegno.terms.events import Event, Report
from dalsegno.terms.ids import hex_short
from dalsegno.terms.sizes import MIB
from dalsegno.terms.times import SECOND_NS
from dalsegno.world.clock import ticks_ns
from dalsegno.world.errands import Fence
from dalsegno.world.files import remove_durable, settle_file
from dalsegno.world.workers import new_lock

BEGUN: Final = "begun"
CLONED: Final = "cloned"
DUMPED: Final = "dumped"
VERIFIED: Final = "verified"
DONE: Final = "done"
STEPS: Final = (BEGUN, CLONED, DUMPED, VERIFIED, DONE)
SMALL_BYTES_MAX: Final = 64 * MIB
"""A dump up to this size is read again after a crash, rather than written down twice."""
SIZE_MARGIN: Final = 1.1
"""A dump may be this much larger than its volume's last ones let expect."""


class Stopped(Exception):
    """The run is to end: a turn stops where it is, and its job stays open."""


class TurnTooLong(Exception):
    """A turn took longer than it may: its volume fails, and the others have their turn."""


def within(report: Report, *, seconds: int) -> Report:
    """Return a listener that ends what reports to it after so long, wherever it is; TurnTooLong."""
    end_ns = ticks_ns() + seconds * SECOND_NS

    def tell(event: Event) -> None:
        report(event)
        if ticks_ns() > end_ns:
            raise TurnTooLong(
                f"took longer than {format_span(seconds)}, which is what `turn` in [limits] of the policy allows: "
                "the next run begins again, and what was stored is not stored twice"
            )

    return tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloned:
    """A clone that was made for a turn."""

    revision: bytes
    cloned_at_ns: int
    total_bytes: int
    entry_count: int
    bytes_read: int = 0
    unreadable: tuple[str, ...] = ()
    """Paths that are not in the clone."""
    shrunk: str = ""
    """That the source lost most of its files, in words; empty when it did not."""
    left_out: tuple[dict[str, Any], ...] = ()
    """The rules by which things were left out of the clone: rule, value, by, since, set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The level that is possible, and how large the dump will be at most."""

    level: int
    note: str
    """Why it is another level than the one that was due."""
    raw_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    """What retention did to one volume."""

    removed: tuple[str, ...] = ()
    """Clones and dumps that are gone, in the words that people use."""
    problems: tuple[str, ...] = ()


class Steps(Protocol):
    """What a turn does to the pool. Every method may be called again after a crash in its middle."""

    def within(self, fence: Fence) -> "Steps":
        """Return the same for one turn, which changes nothing any more once `fence` is shut: GivenUp."""

    def now_ns(self) -> int:
        """Return the time."""

    def clone(self, volume_id: bytes, clone_name: str, report: Report) -> Cloned:
        """Take what changed in the source, freeze, name the state, thaw. A clone of this name that is there is it."""

    def choose(self, volume_id: bytes, revision: bytes, level: int) -> Choice:
        """Estimate the dump of a level, or of 0 when that one has no base any more."""

    def dump(
        self, volume_id: bytes, clone_name: str, revision: bytes, level: int, path: Path, report: Report
    ) -> DumpEntry:
        """Write a dump; durable under `path` when this returns, and not there in any part when it fails."""

    def read_back(self, path: Path, entry: DumpEntry | None, report: Report) -> DumpEntry:
        """Read a dump whole, from the disk, and return what it is. Damaged when it is not what `entry` says."""

    def record(self, entry: DumpEntry, path: Path) -> None:
        """Let later dumps build on this one."""

    def forget(self, entry: DumpEntry) -> None:
        """Let no later dump build on this one: it is lost."""

    def retain(self, volume_id: bytes, set_name: str) -> Retained:
        """Apply a set's retention to a volume; return what was removed and what went wrong."""


@dataclass(slots=True, kw_only=True)
class TurnResult:
    """How a turn ended. `error` empty: the volume has a new good dump."""

    set_name: str
    volume: str
    source: str = ""
    resumed: bool = False
    level: int | None = None
    reason: str = ""
    clone_name: str = ""
    size_bytes: int = 0
    total_bytes: int = 0
    entry_count: int = 0
    bytes_read: int = 0
    duration_ns: int = 0
    media: dict[str, list[str]] = field(default_factory=dict)
    """Labels of the media that hold the dump, by target."""
    unreadable: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What is not as it should be although the dump is good."""
    shrunk: str = ""
    """That the source lost most of its files, in words."""
    left_out: list[dict[str, Any]] = field(default_factory=list)
    """The rules by which things were left out: rule, value, by, since, set."""
    removed: list[str] = field(default_factory=list)
    """Clones and dumps that retention removed."""
    notes: list[str] = field(default_factory=list)
    """What a person may want to know: targets that are away while enough others hold the dump."""
    error: str = ""
    error_code: str = ""

    @property
    def state(self) -> str:
        """`failed`, `incomplete` (copies or files are missing) or `done`."""
        if self.error:
            return "failed"
        return "incomplete" if self.problems or self.unreadable or self.shrunk else "done"


class Shared:
    """What the turns of one run share: room promised in the spool, targets that are away, whether to stop."""

    def __init__(self, site: Installation) -> None:
        self.site = site
        self.away: dict[str, str] = {}
        self.stop = False
        self._lock = new_lock()
        self._promised: dict[str, int] = {}

    def promise_room(self, volume: str, wanted_bytes: int, *, level: int) -> None:
        """Keep room in the spool for a dump, or refuse it as Full before it begins."""
        with self._lock:
            others = sum(self._promised.values())
            self.site.spool.require_room(wanted_bytes + others, purpose=f"level {level} of {volume}")
            self._promised[volume] = wanted_bytes

    def give_back(self, volume: str) -> None:
        """The dump is written, or will not be."""
        with self._lock:
            self._promised.pop(volume, None)


def take_turn(turn: "Turn") -> TurnResult:
    """Go through a volume's steps from where its job stands, and tell how it ended. Raises Stopped and GivenUp only."""
    started_ns = turn.steps.now_ns()
    result = turn.result
    try:
        turn.archive_pending()
        turn.go()
    except (DalError, OSError) as error:
        result.error, result.error_code = _words(error), getattr(error, "code", "failed")
    except Stopped:
        raise
    except TurnTooLong as error:
        result.error, result.error_code = str(error), Unavailable.code
    except Exception as error:  # a mistake of ours in one volume must not cost the others their backup
        result.error, result.error_code = f"internal error: {type(error).__name__}: {error}", "internal"
    turn.end()
    result.duration_ns = turn.steps.now_ns() - started_ns
    return result


def leave_turn(turn: "Turn", error: str) -> TurnResult:
    """Close, from outside, a turn whose fence was shut: what it would have done at its end, but for the pool."""
    result = replace(turn.result, error=error, error_code=Unavailable.code)
    after = Turn(turn.job, turn.chosen, turn.steps, turn.shared, turn.report, result, fence=Fence())
    if not after.reached(CLONED) and turn.is_prepared:
        after.hook("cloned", turn.chosen.hooks.cloned)
    after.end()
    return result


def format_span(seconds: int) -> str:
    """Return a span of time as a policy writes it."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _words(error: BaseException) -> str:
    if isinstance(error, OSError):
        where = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
        return f"{where}: {error.strerror}" if where else str(error.strerror or error)
    return " ".join(str(error).split())


def _of_target(name: str, error: BaseException) -> str:
    words = _words(error)
    return words if words.startswith(f"target {name}") else f"target {name}: {words}"


def _fill(result: TurnResult, data: Mapping[str, Any]) -> None:
    result.level = data.get("level")
    result.reason = data.get("reason", "")
    result.clone_name = data.get("clone", "")
    result.total_bytes = data.get("total_bytes", 0)
    result.entry_count = data.get("entry_count", 0)
    result.bytes_read = data.get("bytes_read", 0)
    result.unreadable = list(data.get("unreadable", []))
    result.shrunk = data.get("shrunk", "")
    result.left_out = list(data.get("left_out", []))
    result.source = data.get("source", "")


class Turn:
    """One volume's turn, as far as it has come."""

    def __init__(
        self,
        job: Job,
        chosen: SetPolicy,
        steps: Steps,
        shared: Shared,
        report: Report,
        result: TurnResult,
        *,
        fence: Fence,
    ) -> None:
        self.job = job
        self.chosen = chosen
        self.site = shared.site
        self.steps = steps.within(fence)
        self.shared = shared
        self.report = report
        self.result = result
        self.fence = fence
        self.is_prepared = False
        """Whether the hook `before` has begun, so that `cloned` has something to undo."""
        self.storing = ""
        """The target that a dump is being copied to."""
        _fill(result, job.data)
        self.earlier: list[DumpEntry] = []
        """The volume's dumps before this turn, the oldest first."""

    @property
    def path(self) -> Path:
        """The dump's place in the spool: known before it is written, so that a next run finds it."""
        return self.site.spool.place(self.job.data["file"])

    @property
    def entry(self) -> DumpEntry:
        return msgspec.convert(self.job.data["entry"], DumpEntry)

    def reached(self, step: str) -> bool:
        return STEPS.index(self.job.step) >= STEPS.index(step)

    def journal(self, step: str, **data: Any) -> None:
        """Write that a step is done."""
        if self.shared.stop:
            raise Stopped
        self.fence.require_open()
        state = JOB_DONE if step == DONE else self.job.state
        self.job = replace(
            self.job, step=step, data={**self.job.data, **data}, updated_ns=self.steps.now_ns(), state=state
        )
        self.site.catalog.put_job(self.job)

    def go(self) -> None:
        if not self.reached(CLONED):
            self._clone()
        if self.chosen.dumps:
            if not self.reached(DUMPED):
                self._dump()
            if not self.reached(VERIFIED):
                self._verify()
        if not self.reached(DONE):
            if self.chosen.dumps:
                self._archive()
            retained = self.steps.retain(self.job.volume_id, self.job.set_name)
            self.result.removed += retained.removed
            self.result.problems += retained.problems
            self.hook("after", self.chosen.hooks.after)
            self.journal(DONE)

    def end(self) -> None:
        """Run the last hooks, and close the job unless a next run can go on with it."""
        if self.result.error:
            self.hook("failed", self.chosen.hooks.failed)
            if not self.reached(DUMPED) and self.job.state == JOB_OPEN:
                self._close(JOB_FAILED)
                with contextlib.suppress(DalError):  # a next turn makes another dump, under another name
                    remove_durable(self.path)
        self.hook("finally", self.chosen.hooks.always)

    def _close(self, state: str) -> None:
        data = {**self.job.data, "error": self.result.error}
        self.job = replace(self.job, data=data, updated_ns=self.steps.now_ns(), state=state)
        try:
            self.site.catalog.put_job(self.job)
        except DalError as error:
            self.result.problems.append(_words(error))  # the job stays open: a next run looks at it again

    def hook(self, name: str, lines: tuple[str, ...]) -> None:
        """Run a hook other than `before`: what fails is reported, and changes nothing."""
        try:
            self._run_hook(name, lines)
        except HookFailed as error:
            self.result.problems.append(str(error))

    def _run_hook(self, name: str, lines: tuple[str, ...]) -> None:
        self.fence.require_open()
        if not lines:
            return
        environment = {
            "DAL_SET": self.job.set_name,
            "DAL_VOLUME": self.job.volume_name,
            "DAL_SOURCE": self.result.source,
            "DAL_CLONE": self.result.clone_name,
            "DAL_LEVEL": "" if self.result.level is None else str(self.result.level),
            "DAL_ERROR": self.result.error,
        }
        run_hooks(lines, name=name, environment=environment, timeout_seconds=self.chosen.hooks.timeout_seconds)

    def _clone(self) -> None:
        self.is_prepared = True
        self._run_hook("before", self.chosen.hooks.before)
        try:
            made = self.steps.clone(self.job.volume_id, self.job.data["clone"], self.report)
        finally:
            self.hook("cloned", self.chosen.hooks.cloned)
        self.journal(
            CLONED,
            revision=made.revision.hex(),
            cloned_at_ns=made.cloned_at_ns,
            total_bytes=made.total_bytes,
            entry_count=made.entry_count,
            bytes_read=made.bytes_read,
            unreadable=list(made.unreadable),
            shrunk=made.shrunk,
            left_out=list(made.left_out),
        )
        _fill(self.result, self.job.data)

    def _dump(self) -> None:
        data = self.job.data
        revision = bytes.fromhex(data["revision"])
        entry = self._finished_dump(revision)
        if entry is None:
            choice = self.steps.choose(self.job.volume_id, revision, data["level"])
            if choice.level != data["level"]:
                self.result.level = choice.level
                self.result.reason = f"{data['reason']}; {choice.note}"
            wanted = expected_bytes(choice.raw_bytes, self.earlier)
            self.shared.promise_room(self.job.volume_name, wanted, level=choice.level)
            try:
                entry = self.steps.dump(
                    self.job.volume_id, data["clone"], revision, choice.level, self.path, self.report
                )
            finally:
                self.shared.give_back(self.job.volume_name)
        self._keep(replace(entry, set_name=self.job.set_name))
        if entry.size_bytes > SMALL_BYTES_MAX:
            self.journal(DUMPED)
        _fill(self.result, self.job.data)

    def _keep(self, entry: DumpEntry) -> None:
        """Put the dump into the job; the next step that is written takes it along."""
        data = {"entry": msgspec.to_builtins(entry), "level": entry.level, "reason": self.result.reason}
        self.job = replace(self.job, data={**self.job.data, **data})

    def _finished_dump(self, revision: bytes) -> DumpEntry | None:
        """Return the dump that a killed run finished without writing it down; one that is not ours is removed."""
        if not self.path.exists():
            return None
        try:
            found = self.steps.read_back(self.path, None, self.report)
            if found.revision == revision and found.volume_id == self.job.volume_id:
                settle_file(self.path)
                return found
        except Damaged:
            pass
        remove_durable(self.path)
        return None

    def _verify(self) -> None:
        entry = self.entry
        try:
            found = self.steps.read_back(self.path, entry, self.report)
        except (Damaged, NotFound) as error:
            self._throw_away(error)
        at_ns = self.steps.now_ns()
        entry = replace(entry, verdict=GOOD, verified_at_ns=at_ns, received_at_ns=at_ns, digest=found.digest)
        self._keep(entry)
        self.journal(VERIFIED)

    def _throw_away(self, error: DalError) -> NoReturn:
        """Give up a dump that is not what was written: the volume's next turn makes another."""
        self.fence.require_open()
        remove_durable(self.path)
        self._close(JOB_FAILED)
        raise Damaged(f"{error}; the dump was thrown away: look at the spool's disk") from None

    def _archive(self) -> None:
        """Copy the dump to every target that does not hold it, then record it, unless a killed run did."""
        entry = self.entry
        self.result.size_bytes = entry.size_bytes
        catalog, resumed = self.site.catalog, self.result.resumed
        if not resumed or catalog.get_dump(entry.dump_id) is None:
            if not self.path.exists():
                self._throw_away(NotFound(f"{self.path}: gone"))
            for name in missing_targets(catalog.copies(entry.dump_id) if resumed else [], self.chosen):
                try:
                    self.store_in(name, entry, self.path)
                except (Damaged, NotFound) as error:
                    self._throw_away(error)
            self._record(entry)
        copies = catalog.copies(entry.dump_id)
        for copy in copies:
            if copy.target != SPOOL_TARGET:
                labels = self.result.media.setdefault(copy.target, [])
                if copy.medium not in labels:
                    labels.append(copy.medium)
        self._judge(copies)

    def store_in(self, name: str, entry: DumpEntry, path: Path) -> None:
        """Copy a dump to one target; one that is away fails nothing: the spool keeps the dump."""
        if name in self.shared.away:
            self.result.notes.append(self.shared.away[name])
            return
        self.storing = name
        try:
            copies = self.site.target(name).store(path, entry, now_ns=self.steps.now_ns(), report=self.report)
        except Incomplete as error:
            self.fence.require_open()
            self.site.catalog.put_copies(error.copies)
            self.result.notes.append(_of_target(name, error))
            return
        except Unavailable as error:
            self.shared.away[name] = _of_target(name, error)
            self.result.notes.append(self.shared.away[name])
            return
        except (DalError, OSError) as error:
            if isinstance(error, (Damaged, NotFound)):
                self.steps.read_back(path, entry, self.report)  # raises when it is the spool that is to blame
            self.result.notes.append(_of_target(name, error))
            return
        self.fence.require_open()
        self.storing = ""
        self.site.catalog.put_copies(copies)

    def _record(self, entry: DumpEntry) -> None:
        """Let later dumps build on this one, and the catalog know it: it is durable, and was read back."""
        self.fence.require_open()
        spooled = Copy(
            dump_id=entry.dump_id,
            target=SPOOL_TARGET,
            medium=SPOOL_TARGET,
            place=str(self.path),
            size_bytes=entry.size_bytes,
            written_at_ns=entry.taken_at_ns,
            checked_at_ns=entry.verified_at_ns,
            verdict=GOOD,
        )
        self.steps.record(entry, self.path)
        self.site.catalog.put_dump(entry, copies=[spooled])

    def _judge(self, copies: list[Copy]) -> None:
        """A dump in fewer targets than it should be in is a problem: say why."""
        missing = missing_targets(copies, self.chosen)
        held = len(whole_targets(copies, self.chosen))
        if self.chosen.targets and held < self.chosen.copies_wanted:
            why = list(dict.fromkeys(self.result.notes)) or [
                *(f"target {name} does not hold it yet" for name in missing),
                *(f"target {words}" for words in shortfalls(copies, self.chosen)),
            ]
            self.result.problems += why
            self.result.notes.clear()

    def archive_pending(self) -> None:
        """Store what earlier runs had to leave in the spool because a target was away.

        One that is gone from there, NotFound or Damaged, is a problem of the volume. Unavailable: the catalog is.
        """
        self.earlier = self.site.catalog.dumps(self.job.volume_id)
        copies = self.site.catalog.copies_of(entry.dump_id for entry in self.earlier)
        for entry in self.earlier:
            own = copies.get(entry.dump_id, [])
            spooled = next((copy for copy in own if copy.target == SPOOL_TARGET), None)
            missing = missing_targets(own, self.chosen)
            if spooled is None or not spooled.is_usable or not missing or entry.verdict == BAD:
                continue
            try:
                if not spooled.path_in_spool().exists():
                    raise NotFound(f"{spooled.place}: gone")
                for name in missing:
                    self.store_in(name, entry, spooled.path_in_spool())
            except (Damaged, NotFound) as error:
                self.site.catalog.put_copies([replace(spooled, verdict=BAD, checked_at_ns=self.steps.now_ns())])
                words = f"dump {hex_short(entry.dump_id)}: {error}"
                if not usable_copies([copy for copy in own if copy is not spooled]):
                    self.steps.forget(entry)
                    words += "; no target had it yet, and nothing builds on it any more"
                self.result.problems.append(words)


def expected_bytes(raw_bytes: int, entries: list[DumpEntry]) -> int:
    """Return how large a dump of `raw_bytes` will be: as well compressed as the volume's last full, if it has one."""
    for entry in reversed(entries):
        if entry.is_full and entry.raw_bytes:
            return int(raw_bytes * min(1.0, SIZE_MARGIN * entry.size_bytes / entry.raw_bytes))
    return raw_bytes
