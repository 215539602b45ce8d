"""The steps of a turn for volumes that are on a realm's servers (actions/turn.py: Steps).

The clone is made on all of a volume's servers, of one moment; the dump is written by the nearest of them. What it
builds on is chosen from the catalog's dumps, and the server told of them if it was away when they were made.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from blake3 import blake3

from dalsegno.actions.cycle import ENTRY_BYTES_GUESS, HouseSteps, entry_of
from dalsegno.actions.mount import settle
from dalsegno.actions.received import Wanted, receive, require_whole
from dalsegno.actions.remote import RemoteHouse
from dalsegno.actions.remote_dump import ask_dump, count_new, no_dump, servers_that_dump
from dalsegno.actions.turn import Choice, Cloned, Retained
from dalsegno.archive.installation import Installation
from dalsegno.backup.records import BAD, DumpEntry, usable_copies
from dalsegno.dumps.plan import choose_base
from dalsegno.replicas.catchup import FROZEN_SECONDS_MAX
from dalsegno.replicas.remote import RemoteSite
from dalsegno.terms.errors import Conflict, DalError, Damaged, NotFound, Refused, Unavailable
from dalsegno.terms.events import Progress, Report
from dalsegno.terms.times import SECOND_NS
from dalsegno.trees.read import read_revision
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import VolumeState
from dalsegno.world.clock import now_ns, pause, ticks_ns
from dalsegno.world.errands import Fence
from dalsegno.world.files import PRIVATE_FILE, PartialFile

CONFLICT_PAUSE_SECONDS = 0.2
"""Between two tries to clone a volume that somebody else has frozen, or changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealmSteps:
    """The steps of a turn, done to the volumes of a realm."""

    house: RemoteHouse
    site: Installation
    here: HouseSteps
    """What is done alike to all volumes."""

    def within(self, fence: Fence) -> "RealmSteps":
        """Return the same for one turn, which changes nothing any more once `fence` is shut."""
        return replace(self, house=replace(self.house, fence=fence), here=self.here.within(fence))

    def now_ns(self) -> int:
        """Return the time."""
        return now_ns()

    def clone(self, volume_id: bytes, clone_name: str, report: Report) -> Cloned:
        """Name the state of one moment on all servers of the volume. A clone of this name that is there is it."""
        state = self._state(volume_id)
        made = state.clones.get(clone_name)
        if made is None:
            settle(self.house, state)
            made = self._clone(state.name, clone_name)
        root = read_revision(self.house.pool, made.revision)
        return Cloned(
            revision=made.revision,
            cloned_at_ns=made.created_ns,
            total_bytes=root.total_bytes,
            entry_count=root.entry_count,
        )

    def _clone(self, volume: str, clone_name: str) -> Clone:
        """Name a volume's state when nobody else has it frozen: a run that was killed has, until its lease ends."""
        until = ticks_ns() + FROZEN_SECONDS_MAX * SECOND_NS
        while True:
            self.house.fence.require_open()
            try:
                return self.house.volumes.add_clone(volume, clone_name, now_ns=now_ns(), automatic=True)[1]
            except Conflict:
                if ticks_ns() > until:
                    raise
                pause(CONFLICT_PAUSE_SECONDS)

    def _state(self, volume_id: bytes) -> VolumeState:
        """Return a volume with those of its dumps that the catalog knows, and has a copy of.

        One that is lost may still be noted on a server that was away when that was found.
        """
        state = self.house.volumes.get_by_id(volume_id)
        if state is None:
            raise NotFound("the volume was removed meanwhile")
        entries = [entry for entry in self.site.catalog.dumps(volume_id) if entry.verdict != BAD]
        copies = self.site.catalog.copies_of(entry.dump_id for entry in entries)
        known = {entry.dump_id for entry in entries if usable_copies(copies.get(entry.dump_id, []))}
        return msgspec.structs.replace(state, dumps=[each for each in state.dumps if each.dump_id in known])

    def choose(self, volume_id: bytes, revision: bytes, level: int) -> Choice:
        """Estimate the dump of a level, or of 0 when that one has no base any more."""
        state = self._state(volume_id)
        base = choose_base(state.dumps, level=level)
        note = f"level {level} has no base any more" if level and base is None else ""
        if base is not None:
            try:
                _, raw_bytes = count_new(self.house, state, revision, base.revision)
                return Choice(level=level, note="", raw_bytes=raw_bytes)
            except (NotFound, Refused):
                note = f"level {level} has no base any more"
        root = read_revision(self.house.pool, revision)
        return Choice(level=0, note=note, raw_bytes=root.total_bytes + ENTRY_BYTES_GUESS * root.entry_count)

    def dump(
        self, volume_id: bytes, clone_name: str, revision: bytes, level: int, path: Path, report: Report
    ) -> DumpEntry:
        """Have a server write a dump; durable under `path` when this returns, not there in any part when it fails."""
        state = self._state(volume_id)
        base = choose_base(state.dumps, level=level)
        base_dump = base.dump_id if base is not None else b""
        wanted = Wanted(volume=volume_id, revision=revision, level=level, base_dump=base_dump)
        errors: dict[str, DalError] = {}
        for server in servers_that_dump(self.house, state):
            try:
                return self._fetch(server, state, clone_name, wanted, base, path, report)
            except (Unavailable, NotFound, Refused, Conflict, Damaged) as error:
                errors[server.name] = error
        raise no_dump(state, errors)

    def _fetch(
        self,
        server: RemoteSite,
        state: VolumeState,
        clone_name: str,
        wanted: Wanted,
        base: DumpRecord | None,
        path: Path,
        report: Report,
    ) -> DumpEntry:
        """Take a dump: the right one, with a whole index, when it gets its name; the next step reads every byte."""
        hasher = blake3()
        realm = self.house.pool.realm
        with PartialFile(path, mode=PRIVATE_FILE) as file:

            def keep(data: bytes) -> None:
                hasher.update(data)
                file.write(data)
                report(Progress(phase="dump", done_bytes=file.offset))

            pieces = ask_dump(server, state, clone=clone_name, level=wanted.level, base=base)
            found = receive(pieces, keep, realm=realm, wanted=wanted, whole=False)
            require_whole(file.partial_path, realm, wanted=wanted)
            with self.house.fence.step():
                file.commit()
        return entry_of(found.note, dump_id=found.dump_id, size_bytes=found.size_bytes, digest=hasher.digest())

    def read_back(self, path: Path, entry: DumpEntry | None, report: Report) -> DumpEntry:
        """Read a dump whole, from the disk, and return what it is. Damaged when it is not what `entry` says."""
        return self.here.read_back(path, entry, report)

    def record(self, entry: DumpEntry, path: Path) -> None:
        """Let later dumps build on this one."""
        self.here.record(entry, path)

    def forget(self, entry: DumpEntry) -> None:
        """Let no later dump build on this one: it is lost."""
        self.here.forget(entry)

    def retain(self, volume_id: bytes, set_name: str) -> Retained:
        """Apply a set's retention to a volume; return what was removed and what went wrong."""
        return self.here.retain(volume_id, set_name)
