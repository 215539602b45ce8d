"""The backup cycle over a site: what was begun is finished, then every volume that is due has its turn."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from blake3 import blake3

from dalsegno.actions.archive import Archived, archive_wanted, can_take, find_wanted, see_media
from dalsegno.actions.backup import take
from dalsegno.actions.heal import is_whole
from dalsegno.actions.keep import collect_within
from dalsegno.actions.mount import settle
from dalsegno.actions.plan import gather_facts, look_for_directories, membership
from dalsegno.actions.prune import find_removals, run_prune
from dalsegno.actions.retrieve import bad_labels
from dalsegno.actions.rules import policy_settings
from dalsegno.actions.session import House
from dalsegno.actions.shrunk import require_source
from dalsegno.actions.sources import find_or_create
from dalsegno.actions.turn import (
    BEGUN,
    Choice,
    Cloned,
    Retained,
    Shared,
    Steps,
    Stopped,
    Turn,
    TurnResult,
    format_span,
    leave_turn,
    take_turn,
    within,
)
from dalsegno.actions.turns_at_work import AtWork, TurnLock, hanging_keys, take_turns
from dalsegno.archive.installation import Installation
from dalsegno.archive.parts import file_digest
from dalsegno.backup.clones_only import clone_entries
from dalsegno.backup.days import local_day
from dalsegno.backup.members import Member, choose_sets
from dalsegno.backup.plan import PlannedDump, plan_today
from dalsegno.backup.policy import SetPolicy
from dalsegno.backup.prune_plan import SPOOL, removal_name
from dalsegno.backup.records import (
    BAD,
    DUMP_SUFFIX,
    JOB_DONE,
    JOB_FAILED,
    SPOOL_TARGET,
    DumpEntry,
    Job,
    Run,
    usable_copies,
)
from dalsegno.backup.risks import find_risks
from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.estimate import count_in_pool, estimate_levels
from dalsegno.dumps.plan import forget_dump, plan_dump, record_dump
from dalsegno.dumps.verify import verify_dump
from dalsegno.dumps.write import write_dump
from dalsegno.formats.pack_header import DumpNote
from dalsegno.pool.collect import CollectResult
from dalsegno.terms.errors import DalError, Damaged, NotFound, Refused, Unavailable
from dalsegno.terms.events import Event, Report
from dalsegno.terms.times import format_time, time_name
from dalsegno.trees.read import read_revision
from dalsegno.volumes.leases import freeze, thaw
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import TRACKED, VolumeState
from dalsegno.world.clock import now_ns
from dalsegno.world.errands import Fence, look_at_each
from dalsegno.world.files import PARTIAL_SUFFIX, PRIVATE_FILE, PartialFile, remove_durable

UNREADABLE_KEPT_MAX = 100
SOURCE_SECONDS_MAX: Final = 300
"""A source that tells nothing of itself for so long is not there; disks that start up and automounts are quicker."""
MEDIA_SECONDS_MAX: Final = 3600
TURNS: Final = "turns"
"""The directory of the volumes' locks in the site's state."""
ENTRY_BYTES_GUESS = 256
"""What a file's name and attributes take in a dump, before compression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """How a run ended."""

    run_id: int
    started_ns: int
    ended_ns: int
    results: list[TurnResult]
    idle: list[str]
    """Volumes for which nothing was due."""
    risks: dict[str, list[str]]
    """By volume: what is wrong with its newest good backup."""
    problems: list[str] = field(default_factory=list)
    """What concerns no single volume."""
    brought: list[Archived] = field(default_factory=list)
    """Copies and shares that an earlier run could not make, and this one made or could not make either."""
    collected: CollectResult | None = None
    """What the collector gave back; None when it did not run."""

    @property
    def is_good(self) -> bool:
        """True when everything is as it should be."""
        return not self.risks and not self.problems and all(result.state == "done" for result in self.results)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """What a door gives to follow a run; called from several threads."""

    begin: Callable[[str, str], None]
    """A volume's turn begins: its name, and what it is about to do."""
    report: Callable[[str, Event], None]
    end: Callable[[TurnResult], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HouseSteps:
    """The steps of a turn, done to an open house (actions/turn.py: Steps)."""

    house: House
    site: Installation

    def within(self, fence: Fence) -> "HouseSteps":
        """Return the same for one turn, which changes nothing any more once `fence` is shut."""
        return replace(self, house=replace(self.house, fence=fence))

    def now_ns(self) -> int:
        """Return the time."""
        return now_ns()

    def _state(self, volume_id: bytes) -> VolumeState:
        state = self.house.volumes.get_by_id(volume_id)
        if state is None:
            raise NotFound("the volume was removed meanwhile")
        return state

    def _with_known_dumps(self, volume_id: bytes) -> VolumeState:
        """Return the state with the dumps of the catalog alone: what an increment builds on comes back from media."""
        state = self._state(volume_id)
        known = {entry.dump_id for entry in self.site.catalog.dumps(volume_id)}
        return msgspec.structs.replace(state, dumps=[each for each in state.dumps if each.dump_id in known])

    def _scanning_house(self, report: Report) -> House:
        """Return the house with what a policy adds to the places that no backup holds."""
        policy = self.site.policy
        return replace(self.house, report=report, own_places=(policy.state_dir, policy.spool.path))

    def clone(self, volume_id: bytes, clone_name: str, report: Report) -> Cloned:
        """Take what changed in the source, freeze, name the state, thaw. A clone of this name that is there is it."""
        volumes = self.house.volumes
        state = self._state(volume_id)
        owner = f"the backup cycle on {os.uname().nodename}"
        seconds = self.site.policy.limits.lease_seconds
        bytes_read, unreadable, shrunk = 0, [], ""
        left: tuple[dict[str, Any], ...] = ()
        made = state.clones.get(clone_name)
        try:
            if made is None:
                revision = b""
                if state.kind == TRACKED:
                    require_source(self.house, state)
                    taken = take(self._scanning_house(report), state, state.source, message="backup")
                    revision, bytes_read = taken.revision, taken.bytes_read
                    shrunk = str(taken.shrunk or "")
                    left = tuple(each.value_for_programs() for each in taken.left_out)
                    unreadable = [f"{os.fsdecode(path)}: {text}" for path, text in taken.unreadable]
                else:
                    settle(self.house, state)
                with self.house.fence.step():
                    volumes.update(
                        volume_id, lambda current: freeze(current, owner=owner, now_ns=now_ns(), seconds=seconds)
                    )
                    _, made = volumes.add_clone(
                        state.name, clone_name, now_ns=now_ns(), revision=revision, automatic=True
                    )
        finally:
            # Also what a killed run froze: it is ours.
            with self.house.fence.step():
                volumes.update(volume_id, lambda current: thaw(current, owner=owner))
        root = read_revision(self.house.pool, made.revision)
        return Cloned(
            revision=made.revision,
            cloned_at_ns=made.created_ns,
            total_bytes=root.total_bytes,
            entry_count=root.entry_count,
            bytes_read=bytes_read,
            unreadable=tuple(unreadable[:UNREADABLE_KEPT_MAX]),
            shrunk=shrunk,
            left_out=left,
        )

    def choose(self, volume_id: bytes, revision: bytes, level: int) -> Choice:
        """Estimate the dump of a level, or of 0 when that one has no base any more."""
        pool, state, note = self.house.pool, self._with_known_dumps(volume_id), ""
        try:
            plan = plan_dump(pool, state, targets=[("", revision)], level=level, now_ns=now_ns())
        except Refused:
            level, note, plan = 0, f"level {level} has no base any more", None
        if plan is not None and plan.base is not None and not is_whole(pool, plan.base.revision):
            level, note, plan = 0, f"the base of level {level} is lost in the pool", None
        if plan is None or plan.base is None:
            root = read_revision(pool, revision)
            return Choice(level=level, note=note, raw_bytes=root.total_bytes + ENTRY_BYTES_GUESS * root.entry_count)

        (estimate,) = estimate_levels(state, levels=[level], count=count_in_pool(pool, revision))
        return Choice(level=level, note=note, raw_bytes=estimate.raw_bytes)

    def dump(
        self, volume_id: bytes, clone_name: str, revision: bytes, level: int, path: Path, report: Report
    ) -> DumpEntry:
        """Write a dump; durable under `path` when this returns, and not there in any part when it fails."""
        pool = self.house.pool
        plan = plan_dump(
            pool, self._with_known_dumps(volume_id), targets=[(clone_name, revision)], level=level, now_ns=now_ns()
        )
        hasher = blake3()
        with PartialFile(path, mode=PRIVATE_FILE) as file:

            def write(data: bytes) -> int:
                hasher.update(data)
                return file.write(data)

            summary = write_dump(
                pool,
                plan,
                write,
                realm=pool.realm,
                sealed=pool.encryption != "none",
                workers=self.house.workers,
                report=report,
            )
            with self.house.fence.step():
                file.commit()
        return entry_of(plan.note, dump_id=summary.pack_id, size_bytes=summary.size_bytes, digest=hasher.digest())

    def read_back(self, path: Path, entry: DumpEntry | None, report: Report) -> DumpEntry:
        """Read a dump whole, from the disk, and return what it is. Damaged when it is not what `entry` says."""
        digest = file_digest(path, phase="verify", report=report, fresh=True)
        if entry is not None and digest != entry.digest:
            raise Damaged(f"{path}: reads otherwise than it was written")
        realm = self.house.pool.realm
        for finding in verify_dump(path, realm, workers=self.house.workers, report=report):
            raise Damaged(finding)
        with DumpChain.open([path], realm) as chain:
            reader = chain.readers[0]
            return entry_of(chain.notes[0], dump_id=reader.pack_id, size_bytes=reader.size_bytes, digest=digest)

    def record(self, entry: DumpEntry, path: Path) -> None:
        """Let later dumps build on this one."""
        made = DumpRecord(
            dump_id=entry.dump_id,
            level=entry.level,
            revision=entry.revision,
            base_dump=entry.base_dump,
            taken_at_ns=entry.taken_at_ns,
            path=str(path),
            size_bytes=entry.size_bytes,
        )
        self.house.fence.require_open()
        if self.house.volumes.get_by_id(entry.volume_id) is not None:  # else it was removed meanwhile: nobody builds
            self.house.volumes.update(entry.volume_id, lambda current: record_dump(current, made))

    def forget(self, entry: DumpEntry) -> None:
        """Let no later dump build on this one: it is lost."""
        self.house.fence.require_open()
        self.house.volumes.update(entry.volume_id, lambda current: forget_dump(current, entry.dump_id))

    def retain(self, volume_id: bytes, set_name: str) -> Retained:
        """Apply a set's retention to a volume; return what was removed and what went wrong."""
        self.house.fence.require_open()
        state = self.house.volumes.get_by_id(volume_id)
        if state is None:
            return Retained()
        member = Member(set_name=set_name, volume=state.name)
        found = find_removals(self.site, [state], [member], now_ns=now_ns(), volume_id=volume_id)
        result = run_prune(self.house, self.site, found)
        return Retained(
            # What leaves the spool is in the targets: nothing is lost of it.
            removed=tuple(removal_name(removal) for removal in result.removed if removal.place != SPOOL),
            problems=tuple(f"retention: {removal_name(removal)}: {text}" for removal, text in result.failed),
        )


def entry_of(note: DumpNote, *, dump_id: bytes, size_bytes: int, digest: bytes) -> DumpEntry:
    """Return what the catalog keeps of a dump."""
    target = note.targets[-1]
    return DumpEntry(
        dump_id=dump_id,
        volume_id=note.volume,
        volume_name=note.volume_name,
        level=note.level,
        revision=target.revision,
        base_dump=note.base_dump,
        base_revisions=tuple(note.bases),
        clone_name=target.clone,
        cloned_at_ns=target.created_ns,
        taken_at_ns=note.taken_at_ns,
        received_at_ns=note.taken_at_ns,
        size_bytes=size_bytes,
        digest=digest,
        raw_bytes=target.total_bytes,
        entry_count=target.entry_count,
        host=os.uname().nodename,
    )


def run_backup(
    house: House,
    site: Installation,
    *,
    steps: Steps,
    set_names: Sequence[str],
    listener: Listener,
    due_only: bool = False,
) -> RunReport:
    """Back up sets: finish what was begun, give every volume that is due its turn, report. The caller holds the lock.

    `due_only` leaves out volumes that have a good dump of today.
    """
    return _Cycle(house, site, steps, set_names, listener, due_only).run()


class _Cycle:
    def __init__(
        self,
        house: House,
        site: Installation,
        steps: Steps,
        set_names: Sequence[str],
        listener: Listener,
        due_only: bool,
    ) -> None:
        self.house = house
        self.site = site
        self.chosen = choose_sets(site.policy, set_names)
        self.listener = listener
        self.due_only = due_only
        self.shared = Shared(site)
        self.steps = steps
        self.started_ns = now_ns()
        self.day = local_day(self.started_ns, site.zone)
        self.results: list[TurnResult] = []
        self.idle: list[str] = []
        self.brought: list[Archived] = []
        self.silent: set[str] = set()
        """Sources that do not answer."""
        self.hanging: set[str] = hanging_keys(site.policy.state_dir / TURNS)
        """Sources in which turns of earlier runs hang: nothing more is asked of them."""
        self.directories: list[str] = []
        """What the sources of the sets name now."""
        self.problems: list[str] = []

    def run(self) -> RunReport:
        site = self.site
        site.spool.prepare()
        _sweep(site.spool.path)
        run = self._continued_run()
        done_before = {job.volume_name for job in site.catalog.jobs(run.id) if job.state == JOB_DONE} if run else set()
        resumed = site.catalog.open_jobs()
        self._all([self._turn_of_job(job) for job in resumed])
        done_before |= {job.volume_name for job in resumed if job.data.get("day") == self.day}
        run = run or site.catalog.begin_run(started_ns=self.started_ns)
        states = self.house.volumes.list()
        self.directories, silent, unanswered = look_for_directories(
            site.policy, seconds=SOURCE_SECONDS_MAX, without=self.hanging
        )
        self.silent |= set(silent)
        self.problems += [f"{word}: does not answer: volumes may be missing" for word in unanswered]
        found = membership(site.policy, states, self.directories)
        members = [member for member in found.members if member.set_name in self.chosen]
        facts = gather_facts(self.house, site, members, states)
        due = plan_today(site.policy, facts, day=self.day)
        if self.due_only:
            done_before |= {each.volume for each in facts if each.history and each.history[-1].day == self.day}
        turns: list[tuple[AtWork, Callable[[], TurnResult]]] = []
        for member in members:
            planned = due.get(member.source if member.is_new else member.volume)
            if planned is None or (member.volume in done_before and not member.is_new):
                self.idle.append(member.volume)
            else:
                each = self._at_work(member.set_name, member.volume, member.source)
                work = partial(self._begin, run.id, member, planned, each)
                turns.append((each, partial(self._alone, each, work)))
        self._all(turns)
        self._bring_missing()
        for words in found.empty:
            set_name, _, word = words.partition(": ")
            if set_name in self.chosen:
                absent = TurnResult(set_name=set_name, volume=word)
                absent.error, absent.error_code = "named in the policy and not there", NotFound.code
                self.results.append(absent)
        return self._finish(run)

    def _turn_of_job(self, job: Job) -> tuple[AtWork, Callable[[], TurnResult]]:
        """Return the turn that goes on with a job; behind the clone the source is not needed any more."""
        source = job.data.get("source", "")
        each = self._at_work(job.set_name, job.volume_name, source if job.step == BEGUN else "", about=source)
        return each, partial(self._alone, each, partial(self._resume, job, each))

    def _bring_missing(self) -> None:
        """Make the copies and shares that earlier runs could not make: a target was away, or a medium full."""
        site, away = self.site, set(self.shared.away)
        tried = {(result.volume, result.clone_name) for result in self.results}
        turned = {result.volume for result in self.results}
        for wanted in find_wanted(site):
            entry, target = wanted.entry, wanted.target
            if entry.set_name not in self.chosen or entry.verdict == BAD or target in away:
                continue
            if (entry.volume_name, entry.clone_name) in tried:
                continue  # in this run, just now
            is_part_there = bool(usable_copies(wanted.copies))
            if not is_part_there and (entry.volume_name in turned or not _is_spooled(site, entry)):
                continue  # its turn has brought it, or said why not; or somebody has to bring a medium
            if not can_take(site, wanted):
                continue
            (made,) = archive_wanted(site, [wanted], report=self._report(entry.volume_name))
            if made.error_code == Unavailable.exit_code:
                away.add(target)
            self.brought.append(made)

    def _continued_run(self) -> Run | None:
        """Return the run of today that was killed, to go on with it; close one of an earlier day."""
        runs = self.site.catalog.runs(count_max=1)
        if not runs or runs[0].ended_ns:
            return None
        if local_day(runs[0].started_ns, self.site.zone) == self.day:
            return runs[0]
        self.site.catalog.end_run(runs[0].id, ended_ns=self.started_ns, report={"interrupted": True})
        return None

    def _all(self, turns: Sequence[tuple[AtWork, Callable[[], TurnResult]]]) -> None:
        """Take turns, several at once within the limit; each result is told as it comes."""
        self._find_silent([each.source for each, _ in turns if each.source])

        def stop() -> None:
            self.shared.stop = True

        at_once = self.site.policy.limits.volumes_at_once
        self.results += take_turns(turns, at_once=at_once, leave=self._leave, stop=stop)

    def _find_silent(self, sources: Sequence[str]) -> None:
        """Note the sources that do not answer, before a turn goes there."""
        unknown = dict.fromkeys(source for source in sources if source not in self.silent | self.hanging)
        self.silent |= set(look_at_each(unknown, os.path.isdir, seconds=SOURCE_SECONDS_MAX)[1])

    def _at_work(self, set_name: str, volume: str, source: str, *, about: str = "") -> AtWork:
        seconds, about = self.site.policy.limits.turn_seconds, about or source or volume
        return AtWork(set_name=set_name, volume=volume, source=source, about=about, seconds=seconds)

    def _alone(self, each: AtWork, work: Callable[[], TurnResult]) -> TurnResult:
        """Take a turn of a volume that no other turn is at, and whose source answers."""
        try:
            lock = TurnLock(self.site.policy.state_dir / TURNS, each.about)
            lock.acquire()
        except (DalError, OSError) as error:
            return self._failed(each, error)
        each.lock = lock
        try:
            if each.source in self.silent:
                text = f"{each.source}: does not answer within {format_span(SOURCE_SECONDS_MAX)}"
                return self._failed(each, Unavailable(f"{text}: look at the mount and its server"))
            return work()
        finally:
            lock.release()

    def _failed(self, each: AtWork, error: DalError | OSError) -> TurnResult:
        """Tell how a turn ended that did not begin."""
        result = TurnResult(set_name=each.set_name, volume=each.volume, source=each.source)
        result.error, result.error_code = " ".join(str(error).split()), getattr(error, "code", "failed")
        self.listener.end(result)
        return result

    def _leave(self, each: AtWork) -> TurnResult:
        """Close a turn that hangs; its thread stays behind, with the volume's lock."""
        words = each.overdue_words()
        self.shared.give_back(each.volume)
        if each.lock is not None:
            each.lock.note(f"since {format_time(self.started_ns)} it hangs (process {os.getpid()}): {each.stuck()}")
        if each.turn is None:
            return self._failed(each, Unavailable(words))
        if each.turn.storing:
            self.shared.away[each.turn.storing] = f"target {each.turn.storing}: does not answer"
        result = leave_turn(each.turn, words)
        self.listener.end(result)
        return result

    def _report(self, volume: str) -> Report:
        def report(event: Event) -> None:
            if self.shared.stop:
                raise Stopped
            self.listener.report(volume, event)

        return report

    def _resume(self, job: Job, each: AtWork) -> TurnResult:
        chosen = self.site.policy.sets.get(job.set_name)
        if chosen is None:
            result = TurnResult(set_name=job.set_name, volume=job.volume_name, resumed=True)
            result.error = "was begun, and its set is no longer in the policy: given up"
            result.error_code = Refused.code
            data = {**job.data, "error": result.error}
            self.site.catalog.put_job(replace(job, state=JOB_FAILED, data=data, updated_ns=now_ns()))
            self.listener.end(result)
            return result
        return self._turn(job, chosen, each, resumed=True)

    def _begin(self, run_id: int, member: Member, planned: PlannedDump, each: AtWork) -> TurnResult:
        """Make the volume if it is new, write down that its turn begins, and take it."""
        chosen = self.site.policy.sets[member.set_name]
        try:
            state = self._volume(member, chosen)
            clone_name = _free_name(state, time_name(now_ns()))
            data: dict[str, Any] = {
                "day": self.day,
                "level": planned.level,
                "reason": planned.reason,
                "clone": clone_name,
                "source": os.fsdecode(state.source),
                "file": f"{state.name}.{clone_name}{DUMP_SUFFIX}",
            }
            job = Job(
                run_id=run_id,
                set_name=chosen.name,
                volume_id=state.id,
                volume_name=state.name,
                step=BEGUN,
                data=data,
                updated_ns=now_ns(),
            )
            each.fence.require_open()
            self.site.catalog.put_job(job)
        except (DalError, OSError) as error:
            return self._failed(each, error)
        return self._turn(job, chosen, each, resumed=False)

    def _volume(self, member: Member, chosen: SetPolicy) -> VolumeState:
        if not member.source:
            return self.house.volumes.get(member.volume)
        state = find_or_create(
            self.house, member.source if member.is_new else member.volume, by_name=not member.is_new
        )[0]
        if policy_settings(state.settings, chosen.name, chosen.rules) == state.settings:
            return state
        return self.house.volumes.update(
            state.id,
            lambda current: msgspec.structs.replace(
                current, settings=policy_settings(current.settings, chosen.name, chosen.rules)
            ),
        )

    def _turn(self, job: Job, chosen: SetPolicy, each: AtWork, *, resumed: bool) -> TurnResult:
        words = ("clone" if job.data["level"] is None else f"level {job.data['level']}") + (
            ", goes on" if resumed else ""
        )
        self.listener.begin(job.volume_name, words)
        report = each.listening(within(self._report(job.volume_name), seconds=each.seconds))
        result = TurnResult(set_name=job.set_name, volume=job.volume_name, resumed=resumed)
        each.turn = Turn(job, chosen, self.steps, self.shared, report, result, fence=each.fence)
        take_turn(each.turn)
        self.listener.end(result)
        return result

    def _finish(self, run: Run) -> RunReport:
        site = self.site
        used = {name for chosen in self.chosen for name in site.policy.sets[chosen].targets}
        problems = [*self.problems, *self._media_problems(sorted(used))]
        collected = None
        try:
            collected = self._collect()
        except (DalError, OSError) as error:
            problems.append(f"no room was given back: {error}")
        states = {state.name: state for state in self.house.volumes.list()}
        risks: dict[str, list[str]] = {}
        entries: dict[bytes, list[DumpEntry]] = {}
        for entry in site.catalog.dumps():
            entries.setdefault(entry.volume_id, []).append(entry)
        copies = site.catalog.copies_of(entry.dump_id for each in entries.values() for entry in each)
        for member in membership(site.policy, states.values(), self.directories).members:
            if member.set_name in self.chosen:
                own = entries.get(states[member.volume].id, []) if not member.is_new else []
                chosen = site.policy.sets[member.set_name]
                own_copies = copies
                if not chosen.dumps and not member.is_new:
                    own, own_copies = clone_entries(states[member.volume])
                found = find_risks(member.volume, own, own_copies, chosen, day=self.day, zone=site.zone)
                if found:
                    risks[member.volume] = found
        report = RunReport(
            run_id=run.id,
            started_ns=self.started_ns,
            ended_ns=now_ns(),
            results=self.results,
            idle=sorted(set(self.idle)),
            risks=risks,
            problems=problems,
            brought=self.brought,
            collected=collected,
        )
        site.catalog.end_run(run.id, ended_ns=report.ended_ns, report=report_value(report))
        return report

    def _media_problems(self, targets: list[str]) -> list[str]:
        """Look at the media that are there, and say what is wrong with them."""

        def look(_: str) -> list[str]:
            found = [str(bad.error) for bad in bad_labels(self.site, targets)]
            try:
                see_media(self.site)
            except DalError as error:
                found.append(str(error))
            return found

        found, silent = look_at_each(["media"], look, seconds=MEDIA_SECONDS_MAX)
        return ["the media do not answer: look at the mounts of the targets"] if silent else found["media"]

    def _collect(self) -> CollectResult | None:
        """Give back room within the budget; not on a client of servers, which do that for themselves."""
        budget = self.site.policy.limits.gc_seconds
        if budget is None or self.house.volumes.merges:
            return None
        return collect_within(self.house, budget_seconds=budget)


def collected_value(result: CollectResult) -> dict[str, Any]:
    """Return what programs want to know about the room that a run gave back."""
    return {
        "deleted": result.deleted,
        "freed_bytes": result.freed_bytes,
        "rewritten": result.rewritten,
        "left": result.left,
        "releases": [{"at": format_time(at_ns), "bytes": size} for at_ns, size in result.releases],
    }


def _is_spooled(site: Installation, entry: DumpEntry) -> bool:
    return any(copy.target == SPOOL_TARGET and copy.is_usable for copy in site.catalog.copies(entry.dump_id))


def _free_name(state: VolumeState, wanted: str) -> str:
    name, number = wanted, 2
    while name in state.clones:
        name, number = f"{wanted}-{number}", number + 1
    return name


def _sweep(spool: Path) -> None:
    """Remove the half dumps of a run that was killed; only this run writes here. What was fetched lies elsewhere."""
    for child in spool.iterdir():
        if child.name.endswith(DUMP_SUFFIX + PARTIAL_SUFFIX) and child.is_file():
            remove_durable(child)


def result_value(result: TurnResult) -> dict[str, Any]:
    """Return what programs want to know about a turn."""
    value: dict[str, Any] = msgspec.to_builtins(result)
    return {"state": result.state, **value}


def brought_value(made: Archived) -> dict[str, Any]:
    """Return what programs want to know about a copy that was made for an earlier run."""
    entry = made.entry
    return {
        "volume": entry.volume_name,
        "level": entry.level,
        "state_at": format_time(entry.cloned_at_ns),
        "dump": entry.dump_id.hex(),
        "target": made.target,
        "error": made.error or None,
    }


def report_value(report: RunReport) -> dict[str, Any]:
    """Return what programs want to know about a run."""
    counts = dict.fromkeys(("done", "incomplete", "failed"), 0)
    for result in report.results:
        counts[result.state] += 1
    return {
        "run": report.run_id,
        "started": format_time(report.started_ns),
        "ended": format_time(report.ended_ns),
        "counts": counts,
        "bytes": sum(result.size_bytes for result in report.results),
        "volumes": [result_value(result) for result in report.results],
        "idle": report.idle,
        "at_risk": report.risks,
        "problems": report.problems,
        "brought": [brought_value(made) for made in report.brought],
        "collected": collected_value(report.collected) if report.collected is not None else None,
    }
