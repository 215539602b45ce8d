"""The cache house: a realm's volumes as if they lay in a pool of one's own.

Its pool holds what this client wrote, and nothing else needs to be in it: what is not there is read from the nearest
server (replicas/nearest.py). So the pool does not promise what others do, that with a directory all below it is there;
nothing here counts on that, and servers check every commit themselves.

    refs/volumes/   the volumes' states as the servers had them last: a mirror, for when no server answers
    refs/unsent/    revisions that were committed here and not acknowledged: they are brought in at the next occasion
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Final, Protocol, TypeVar, cast

import msgspec

from dalsegno.actions.rules import own_keys
from dalsegno.actions.session import House
from dalsegno.actions.trim import trim
from dalsegno.chunks.signatures import Sign, leave_unsigned
from dalsegno.formats import objects
from dalsegno.formats.objects import Revision
from dalsegno.pool.adopt import UPLOADS
from dalsegno.pool.copy import PoolMarks
from dalsegno.pool.known import Differs, KnownPlace, refuse
from dalsegno.pool.pool import Pool, PoolWriter
from dalsegno.replicas.catchup import CaughtUp
from dalsegno.replicas.context import Merge
from dalsegno.replicas.contract import Reopener, Site
from dalsegno.replicas.followed import Directories, Followed
from dalsegno.replicas.freezing import Cloned
from dalsegno.replicas.group import Group
from dalsegno.replicas.keeper import Keeper
from dalsegno.replicas.nearest import NearestSource, Nearness
from dalsegno.replicas.profile import CACHE_BYTES_MAX_DEFAULT
from dalsegno.replicas.pushing import Pushed
from dalsegno.replicas.replica_sets import writers_needed
from dalsegno.replicas.seen import SeenOnServers
from dalsegno.replicas.servers import Servers
from dalsegno.replicas.tokens import fitting_name
from dalsegno.replicas.wire import ServerInfo
from dalsegno.replicas.writers import States, Writers, list_errors, shared_kind
from dalsegno.terms.errors import (
    AlreadyThere,
    BadInput,
    Conflict,
    DalError,
    Full,
    Moved,
    NoAccess,
    NotFound,
    Refused,
    Unacknowledged,
    Unavailable,
    Unsigned,
)
from dalsegno.terms.events import Note, Report
from dalsegno.terms.ids import OBJECT_ID_BYTES, hex_short
from dalsegno.terms.times import SECOND_NS, time_name
from dalsegno.volumes.ancestry import find_revision, is_ancestor
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.dates import is_future
from dalsegno.volumes.records import DumpRecord, DumpRecords, newest_first
from dalsegno.volumes.reopen import plan_reopened
from dalsegno.volumes.shrunk import SETTING
from dalsegno.volumes.signed import SETTING as SIGNED
from dalsegno.volumes.signed import requires_signatures
from dalsegno.volumes.state import (
    ANY,
    NATIVE,
    READER,
    STANDBY,
    TRACKED,
    WRITER,
    ReplicaSet,
    VolumeState,
    encode_state,
    holders,
    state_ref,
)
from dalsegno.volumes.store import Volumes, check_clone_name, check_volume_name, free_name
from dalsegno.world.chance import random_bytes
from dalsegno.world.clock import now_ns, ticks_ns
from dalsegno.world.workers import Workers, new_lock

LOOK_NS: Final = 2 * SECOND_NS
"""So long a volume's state counts before its servers are asked again."""
UNSENT: Final = "unsent/"
T = TypeVar("T")


def split_place(text: str) -> tuple[str, str]:
    """Return server and volume of `//SERVER/VOLUME`; a name alone has no server."""
    if not text.startswith("//"):
        return "", text
    server, slash, volume = text[2:].partition("/")
    if not server or not slash or not volume:
        raise BadInput(f"{text}: expected //SERVER/VOLUME")
    return server, volume


class LocalCommits(Keeper):
    """This client's own commits as a Site that a Group reads from: what they name and is not here is read elsewhere."""

    def _fitting(self, target: bytes, known: Mapping[bytes, Revision]) -> bytes | None:
        # No tree needs to be here: the comparison reads what it wants from the servers.
        fit = [(is_ancestor(self.pool, base, target), each.created_ns, base) for base, each in known.items()]
        return max(fit)[2] if fit else None

    def objects(self, volume: str, ids: bytes) -> Iterator[bytes]:
        """Return a pack of these objects."""
        marks = PoolMarks(self.pool)
        marks.add_many(ids)
        return self._pack(marks)


class RealmVolumes(Volumes):
    """The volumes of a realm, through its servers: what is changed here is acknowledged by them, or not at all."""

    merges = True

    def __init__(
        self,
        pool: Pool,
        servers: Servers,
        source: NearestSource,
        nearness: Nearness,
        *,
        realm_name: str,
        merge: Merge,
        workers: Workers,
        report: Report,
        cache_bytes_max: int = CACHE_BYTES_MAX_DEFAULT,
        directories: Directories | None = None,
        sign: Sign = leave_unsigned,
        known: KnownPlace | None = None,
        differs: Differs = refuse,
    ) -> None:
        """`differs` is called when servers show less than is `known` of them; None: nothing is remembered."""
        super().__init__(pool, sign=sign)
        self.servers = servers
        self.realm_name = realm_name
        self.cloned: Cloned | None = None
        """How the last clone went."""
        self.pushed: Pushed | None = None
        """How the last commit went."""
        self._mirror = Volumes(pool)
        self._directories = directories
        self._source = source
        self._nearness = nearness
        self._merge = merge
        self._report = report
        self._cache_bytes_max = cache_bytes_max
        self._callers = servers.workers
        self._local = LocalCommits(
            "this client", pool, self._mirror, workers=workers, clock=now_ns, scratch=pool.backend.scratch(UPLOADS)
        )
        self._lock = new_lock()
        self._turns = {"": new_lock()}
        self._groups: dict[str, Group] = {}
        self._servers_of: dict[str, list[str]] = {}
        """Volume: the servers that its group knows."""
        self._looked: dict[str, int] = {}
        self._shown: dict[bytes, tuple[str, VolumeState]] = {}
        """Volumes of which one server's own state was asked for: that server, and its state."""
        self._listed: dict[bytes, VolumeState] = {}
        """Volumes as they were listed, by id."""
        self._behind: set[str] = set()
        """Volumes with servers that lack more than the last commit."""
        self._told: set[str] = set()
        self.seen_on_servers: SeenOnServers | None = None
        if known is not None:
            self.seen_on_servers = SeenOnServers(
                realm_name, pool.realm, pool, place=known, differs=differs, tell=self._tell
            )

    def close(self, *, settle: bool) -> None:
        """Bring servers that were found behind up to date (with `settle`), and give back threads."""
        try:
            for name in sorted(self._behind) if settle else ():
                try:
                    self.bring_together(name)
                except DalError as error:
                    self._tell(name, f"not all servers are up to date: {error}")
            if self.pushed is not None or (self._pool.realm.only_writes and not list_unsent(self._pool)):
                self.trim()
        finally:
            self._nearness.save()
            self.servers.close()

    def trim(self) -> None:
        """Let go of what the servers have, when the pool has become too large; not while somebody writes."""

        def waiting() -> list[bytes]:
            return [revision for _, _, revision in list_unsent(self._pool)]

        try:
            trim(self._pool, waiting, bytes_max=self._cache_bytes_max, report=self._report)
        except Conflict:
            return
        except DalError as error:
            self._tell(self.realm_name, f"the cache is larger than it should be: {error}")

    def _tell(self, volume: str, text: str) -> None:
        """Say something once."""
        with self._lock:
            if (line := f"{volume}: {text}") in self._told:
                return
            self._told.add(line)
        self._report(Note(severity="notice", path=volume.encode(errors="surrogateescape"), text=text))

    def _ask(self, names: Iterable[str], question: Callable[[Site], T]) -> tuple[dict[str, T], dict[str, DalError]]:
        """Ask several servers at once; return what each answered, and what each said no with."""
        answers: dict[str, T] = {}
        errors: dict[str, DalError] = {}

        def ask(name: str) -> T:
            return question(self.servers.site(name))

        asked = [(name, self._callers.submit(ask, name)) for name in names]
        for name, future in asked:
            try:
                answers[name] = future.result()
                self._nearness.lives(name)
            except DalError as error:
                errors[name] = error
                if isinstance(error, Unavailable):
                    self._nearness.failed(name)
        return answers, errors

    # What was seen

    def _compare(self, states: States, again: Callable[[], States], *, one: bool = False) -> States:
        """Compare what servers show of a volume with what was seen of them; see SeenOnServers."""
        if self.seen_on_servers is None or not states:
            return states
        with self._source.looking(next(iter(states.values())).name, states):
            return self.seen_on_servers.look(states, again, one=one)

    def _compare_one(self, server: str, state: VolumeState) -> VolumeState:
        """Compare what one server shows, which may be behind others."""
        site = self.servers.site(server)
        return self._compare({server: state}, lambda: {server: site.state(state.name)}, one=True)[server]

    def _committed(self, servers: Iterable[str], state: VolumeState, revision: bytes) -> None:
        """Remember what this client committed, and who took it."""
        found = find_revision(self._pool, revision) if self.seen_on_servers is not None else None
        if self.seen_on_servers is not None and found is not None:
            self.seen_on_servers.committed(servers, state, revision=revision, created_ns=found.created_ns)

    def made(self, states: States) -> None:
        """Remember what this client made of a volume on servers, in the place of what it was before."""
        if self.seen_on_servers is not None and states:
            with self._source.looking(next(iter(states.values())).name, states):
                self.seen_on_servers.accept(states)

    def accept(self) -> list[str]:
        """Remember all volumes as the servers show them now; return the servers that do not answer."""
        answers, errors = self._ask(self.servers.names(), lambda site: site.states())
        for states in by_volume(answers).values():
            self.made(states)
        return sorted(errors)

    def differences(self) -> None:
        """Compare all volumes, as the servers list them, with what was seen: `differs` is told."""
        answers, _ = self._ask(self.servers.names(), lambda site: site.states())
        for name, states in by_volume(answers).items():
            self._compare(states, partial(self.servers.states, name, list(states)))

    # Groups

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Let one thread at a time work with a volume's servers."""
        with self._lock:
            turn = self._turns.setdefault(name, new_lock())
        with turn:
            yield

    def group(self, name: str) -> Group:
        """Return a volume's servers as one; NotFound when no server that answers has the volume."""
        known = self._groups.get(name)
        if known is not None:
            return known
        placed = self.servers.placed(name)
        mirrored = self._mirrored(name)
        replicas, volume_id = (placed.replicas, placed.id) if placed is not None else (None, b"")
        seen = mirrored.replicas if mirrored is not None and volume_id in (b"", mirrored.id) else None
        if mirrored is not None and seen is not None and (replicas is None or seen.version > replicas.version):
            replicas, volume_id = seen, mirrored.id
        names = self.servers.names()
        if replicas is None:
            names, volume_id, replicas = self._find(name, names)
        return self._make_group(name, names, replicas, volume_id)

    def _make_group(self, name: str, names: Sequence[str], replicas: ReplicaSet | None, volume_id: bytes) -> Group:
        context = self.servers.context(merge=self._merge, workers=self._callers, report=self._report)
        group = Group(
            Writers(
                self.servers.peers(name, names, context, replicas),
                local=self._local,
                volume_id=volume_id,
                publish=lambda new: self.servers.publish(name, new, volume_id=volume_id),
                compare=self._compare,
            )
        )
        self._groups[name] = group
        self._servers_of[name] = list(names)
        return group

    def _find(self, name: str, names: Sequence[str]) -> tuple[list[str], bytes, ReplicaSet | None]:
        """Ask all servers for a volume that the directory does not know."""
        found, errors = self._ask(names, lambda site: site.state(name))
        if not found:
            away = {each: error for each, error in errors.items() if not isinstance(error, NotFound)}
            if away:
                kind = NoAccess if all(isinstance(error, NoAccess) for error in away.values()) else Unavailable
                raise kind(f"volume {name!r} is on no server that answers: {list_errors(away)}")
            raise NotFound(f"no volume {name!r} in realm {self.realm_name}: `dal realm status` shows what there is")
        if len({state.id for state in found.values()}) > 1:
            where = ", ".join(f"//{each}/{name}" for each in sorted(found))
            raise Conflict(f"volume {name!r} is another one on each server: say which: {where}")
        sets = [state.replicas for state in found.values() if state.replicas is not None]
        replicas = max(sets, key=lambda each: each.version, default=None)
        return (list(names) if replicas is not None else sorted(found)), next(iter(found.values())).id, replicas

    def bring_together(self, name: str) -> CaughtUp:
        """Bring all servers of a volume that answer to one head and one set of clones."""
        with self._turn(name):
            return self._bring(name)

    def _bring(self, name: str) -> CaughtUp:
        group = self.group(name)
        mirrored = self._mirrored(name)
        unsent = self._unsent(mirrored.id) if mirrored is not None else []
        caught = group.catch_up()
        for head in unsent:
            head = self._dated_now(caught.state.id, head)
            caught = group.catch_up(head=head)
            if len(caught.reached) >= writers_needed(caught.replicas):
                self._committed(caught.reached, caught.state, head)
                self._drop_unsent(caught.state.id, head)
                self._tell(name, f"brought in commit {hex_short(head)}, which was kept here")
        self._behind.discard(name)
        self._note_answers(name, caught.reached, caught.missing)
        for each, done in sorted(caught.brought.items()):
            self._tell(name, f"{each} was behind: it got {done.objects:,} objects")
        for merged in caught.merged:
            self._tell(name, f"its replicas had diverged: merged as #{hex_short(merged)}")
        polled = group.writers.last
        states = polled.states.values() if polled is not None else ()
        state = self._with_all_dumps(caught.state, states, away=bool(caught.missing))
        self._show(name, state)
        return replace(caught, state=state)

    def _with_all_dumps(self, state: VolumeState, others: Iterable[VolumeState], *, away: bool) -> VolumeState:
        """Return a state with the dumps that any server has noted: one that was away has not heard of all.

        `away`: not all servers were asked, so that those count, too, that are known here.
        """
        dumps = state.dumps
        for each in others:
            dumps = dumps.joined(each.dumps) if each.id == state.id else dumps
        mirrored = self._mirror.get_by_id(state.id) if away else None
        if mirrored is not None:
            dumps = _with_mirrored(dumps, mirrored.dumps)
        return msgspec.structs.replace(state, dumps=dumps)

    def _note_answers(self, name: str, reached: Iterable[str], missing: Mapping[str, DalError]) -> None:
        for each in reached:
            self._nearness.lives(each)
        for each, error in sorted(missing.items()):
            if isinstance(error, Unavailable):
                self._nearness.failed(each)
            told = str(error)
            self._tell(name, "without " + (told if told.startswith(each) else f"{each}: {told}"))

    def _show(self, name: str, state: VolumeState, *, first: str = "") -> None:
        """Keep a state that all servers agree on, and read from them from now on."""
        self._store_mirror(state)
        self._looked[name] = ticks_ns()
        self._place(name, state, first=first)

    def _place(self, name: str, state: VolumeState, *, first: str = "") -> None:
        replicas = state.replicas
        servers = self._servers_of.get(name, [])
        if replicas is not None:
            servers = [*replicas.writers, *replicas.standbys, *replicas.readers]
        self._source.place(name, dict.fromkeys([*([first] if first else []), *servers]), first=first)

    # The mirror

    def _mirrored(self, name: str) -> VolumeState | None:
        try:
            return self._mirror.get(name)
        except NotFound:
            return None

    def _store_mirror(self, state: VolumeState) -> None:
        """Take a state as the servers have it."""
        state = msgspec.structs.replace(state, dumps=state.dumps.mirrored())
        self._set_ref(state_ref(state.id), encode_state(state))
        self._set_ref(self._name_ref(state.name), state.id)

    def _set_ref(self, ref: str, value: bytes | None) -> None:
        self._pool.update_ref(ref, lambda _: value)

    def _unsent(self, volume_id: bytes) -> list[bytes]:
        return _split_unsent(_read_unsent(self._pool, UNSENT + volume_id.hex()))

    def _change_unsent(self, volume_id: bytes, change: Callable[[list[bytes]], list[bytes]]) -> None:
        ref = UNSENT + volume_id.hex()

        def changed(known: bytes | None) -> bytes | None:
            if known:
                self._pool.settle_seen_ref(ref)
            return b"".join(change(_split_unsent(known or b""))) or None

        self._pool.update_ref(ref, changed)

    def _add_unsent(self, volume_id: bytes, revision: bytes, parents: Iterable[bytes]) -> None:
        behind = set(parents)
        self._change_unsent(
            volume_id, lambda known: [*(each for each in known if each not in behind | {revision}), revision]
        )

    def _dated_now(self, volume_id: bytes, head: bytes) -> bytes:
        """Return a commit that waits; one that no server takes, since it is of the future, is made anew.

        Such a one came on top of a head of the future, of a volume that has been reopened since.
        """
        revision = find_revision(self._pool, head)
        if revision is None or not is_future(revision.created_ns, now_ns=now_ns()):
            return head
        state = msgspec.structs.replace(self.known(volume_id), head=head)
        revision = self.sign(plan_reopened(self._pool, state, content=b"", now_ns=now_ns()))
        with self._pool.writer() as writer:
            made = bytes(writer.put(objects.KIND_REVISION, objects.encode(revision)))
        self._change_unsent(volume_id, lambda known: [made if each == head else each for each in known])
        return made

    def _drop_unsent(self, volume_id: bytes, revision: bytes) -> None:
        self._change_unsent(volume_id, lambda known: [each for each in known if each != revision])

    # What Volumes does

    def get(self, name: str) -> VolumeState:
        """Return a volume by name, or as one server has it by `//SERVER/NAME`."""
        server, volume = split_place(name)
        if server and server != self.realm_name:
            return self._with_source(self._get_at(server, volume))
        return self._with_source(self._fresh(volume))

    def _with_source(self, state: VolumeState, known: Mapping[bytes, Followed] | None = None) -> VolumeState:
        """Return a state with the directory of this host that the volume follows, and the rules that are kept here."""
        if known is None:
            known = self._directories.all() if self._directories is not None else {}
        # What a server says of directories, and of what a backup leaves out, is about its own: it never makes this
        # host read one, or leave something out.
        left = local_keys(state.settings) - {SIGNED}
        kept = {key: value for key, value in state.settings.items() if key not in left}
        followed = known.get(state.id)
        if followed is not None and SIGNED in followed.settings:
            kept[SIGNED] = followed.settings[SIGNED]  # of whatever server it is read, and whatever that says
        if followed is None or state.role not in (WRITER, ""):
            return msgspec.structs.replace(state, kind=NATIVE, source=b"", settings=kept)
        kind = TRACKED if followed.source else NATIVE
        return msgspec.structs.replace(state, kind=kind, source=followed.source, settings={**kept, **followed.settings})

    def name_for(self, stem: str) -> str:
        """Return a name like `stem` for a new volume that this client's token has rights on."""
        greeted, errors = self._ask(self.servers.names(), lambda site: _greeter(site).server())
        if not greeted:
            raise shared_kind(errors)(f"volume {stem!r}: {list_errors(errors)}")
        return fitting_name(next(iter(greeted.values())).volumes, stem)

    def _fresh(self, name: str) -> VolumeState:
        """Return a volume as its writers have it now; those that were away are brought up to date on the way."""
        mirrored = self._mirrored(name)
        if mirrored is not None and name in self._looked and ticks_ns() - self._looked[name] < LOOK_NS:
            return mirrored
        with self._turn(name):
            try:
                return self._bring(name).state
            except Unavailable as error:
                return self._without_writers(name, error)
            except NoAccess:
                return self._only_look(name)
            except Full as error:
                return self._read_on(name, error)

    def _only_look(self, name: str) -> VolumeState:
        """Return the newest state that a server has: who may only read, or only append, brings nobody up to date."""
        polled = self.group(name).poll()
        if not polled.states:
            kind = NoAccess if shared_kind(polled.errors) is NoAccess else Unavailable
            raise kind(f"volume {name!r}: {list_errors(polled.errors)}")
        with self._source.looking(name, polled.states):
            state = max(polled.states.values(), key=lambda each: (self._time_of(each.head), each.head))
        state = self._push_waiting(name, state)
        self._show(name, state)
        return state

    def _push_waiting(self, name: str, state: VolumeState) -> VolumeState:
        """Send the commits that wait here, where they continue what the servers have: all that adding asks for."""
        for waiting in self._unsent(state.id):
            head = self._dated_now(state.id, waiting)
            try:
                pushed = self.group(name).push(head)
                state = pushed.state
                self._committed(pushed.acknowledged, state, head)
            except DalError as error:
                self._tell(name, f"commit {hex_short(head)} waits here: {error}")
                break
            self._drop_unsent(state.id, head)
            self._tell(name, f"brought in commit {hex_short(head)}, which was kept here")
        return state

    def _read_on(self, name: str, error: Full) -> VolumeState:
        """Return the newest state although a server has no room for what it lacks: what waits here comes on top."""
        state = self._only_look(name)
        unsent = self._unsent(state.id)
        if not unsent:
            self._tell(name, f"{error}; it can be read")
            return state
        self._tell(name, f"commit {hex_short(unsent[-1])} waits here: {error}")
        return msgspec.structs.replace(state, head=unsent[-1])

    def _time_of(self, head: bytes) -> int:
        revision = self._find_readable(head) if head else None
        return revision.created_ns if revision is not None else 0

    def _without_writers(self, name: str, error: Unavailable) -> VolumeState:
        """Return what standbys or readers have, or what was seen last."""
        mirrored = self._mirrored(name)
        placed = self.servers.placed(name)
        sets = [each.replicas for each in (placed, mirrored) if each is not None and each.replicas is not None]
        replicas = max(sets, key=lambda each: each.version, default=None)
        others = [*replicas.standbys, *replicas.readers] if replicas is not None else []
        answers, _ = self._ask(others, lambda site: site.state(name))
        answers = dict(self._compare(answers, lambda: self._ask(answers, lambda site: site.state(name))[0]))
        if answers:
            best = max(answers, key=lambda each: (answers[each].role == STANDBY, _released(answers[each]), each))
            self._tell(name, f"no writer answers: this is what {best} has")
            self._place(name, answers[best], first=best)
            return answers[best]
        if mirrored is None:
            raise error
        seen = f"no server answers ({error}): this is what was seen last"
        unsent = self._unsent(mirrored.id)
        self._tell(name, seen + (", with what was committed here since" if unsent else ""))
        self._place(name, mirrored)
        return msgspec.structs.replace(mirrored, head=unsent[-1]) if unsent else mirrored

    def _get_at(self, server: str, name: str) -> VolumeState:
        """Return a volume as one server shows it; for a writer that is what all of them have."""
        try:
            state = self.servers.site(server).state(name)
        except Moved as moved:
            self._tell(name, f"has moved from {server} to {moved.server or 'another server'}")
            return self._fresh(name)
        except Unavailable as error:
            return self._get_instead(server, name, error)
        self._nearness.lives(server)
        if state.role in (READER, STANDBY):
            state = self._compare_one(server, state)
            self._shown[state.id] = server, state
            self._place(name, state, first=server)
            return state
        if state.replicas is None and name not in self._groups:
            self._make_group(name, [server], None, state.id)
        self._place(name, state, first=server)
        return self._fresh(name)

    def _get_instead(self, server: str, name: str, error: Unavailable) -> VolumeState:
        self._nearness.failed(server)
        placed = self.servers.placed(name)
        if placed is None:
            raise error
        if server in placed.replicas.readers:
            answers, _ = self._ask(placed.replicas.readers, lambda site: site.state(name))
            if answers:
                best = max(answers, key=lambda each: (_released(answers[each]), each))
                answers[best] = self._compare_one(best, answers[best])
                self._tell(name, f"{server} does not answer: this is what {best} shows")
                self._shown[answers[best].id] = best, answers[best]
                self._place(name, answers[best], first=best)
                return answers[best]
        self._tell(name, f"{server} does not answer: {error}")
        return self._fresh(name)

    def get_by_id(self, volume_id: bytes) -> VolumeState | None:
        """Return a volume by its id, if a server that answers or the directory knows it."""
        shown = self._shown.get(volume_id)
        if shown is not None:
            server, state = shown
            with suppress(Unavailable, NotFound):
                state = self._compare_one(server, self.servers.site(server).state(state.name))
                self._shown[volume_id] = server, state
            return self._with_source(state)
        mirrored = self._mirror.get_by_id(volume_id) or self._listed.get(volume_id)
        if mirrored is None:
            mirrored = next((state for state in self.list() if state.id == volume_id), None)
        if mirrored is None:
            return None
        try:
            state = self._fresh(mirrored.name)
        except NotFound:
            return None
        except Unavailable:
            return self._with_source(mirrored)
        return self._with_source(state) if state.id == volume_id else None

    def create(
        self,
        name: str,
        *,
        kind: str,
        now_ns: int,
        source: bytes = b"",
        volume_id: bytes = b"",
        settings: dict[str, str | int | bool | list[str]] | None = None,
    ) -> VolumeState:
        """Make an empty volume on the server of `//SERVER/NAME`, or on the realm's only one."""
        server, volume = split_place(name)
        names = self.servers.names()
        if server == self.realm_name and server not in names:
            server = ""
        if not server and len(names) != 1:
            then = f", then `dal volume set {volume} --source {os.fsdecode(source)}`" if source else ""
            where = ",".join(names)
            raise Refused(f"volume {volume!r}: say where: `dal volume create {volume} --replicas {where}`{then}")
        if kind != NATIVE and self._directories is None:
            raise Refused(f"volume {volume!r}: follows no directory of this host: `dal import` fills it")
        settings = settings or {}
        own = {key: settings[key] for key in local_keys(settings)}
        state = self.create_replicated(
            volume,
            [server or names[0]],
            now_ns=now_ns,
            volume_id=volume_id,
            settings={key: value for key, value in settings.items() if key not in own},
        )
        if self._directories is not None and (source or own):
            self._directories.put(Followed(volume=state.id, source=source, settings=own))
        return self._with_source(state)

    def create_replicated(
        self,
        name: str,
        writers: Sequence[str],
        *,
        rule: str = ANY,
        now_ns: int,
        volume_id: bytes = b"",
        settings: dict[str, str | int | bool | list[str]] | None = None,
    ) -> VolumeState:
        """Make an empty volume on several servers: first its place in the directory, then itself."""
        check_volume_name(name)
        if len(set(writers)) != len(writers):
            raise BadInput(f"volume {name!r}: a server stands twice in {','.join(writers)}")
        sites = {each: self.servers.site(each) for each in writers}
        found, _ = self._ask(self.servers.names(), lambda site: site.state(name))
        if found or self.servers.placed(name, anew=True) is not None:
            raise AlreadyThere(f"volume {name!r} exists already in realm {self.realm_name}: choose another name")
        state = VolumeState(
            id=volume_id or random_bytes(16),
            name=name,
            kind=NATIVE,
            source=b"",
            created_ns=now_ns,
            settings=settings or {},
            role=WRITER,
            replicas=ReplicaSet(version=1, writers=list(writers), rule=rule),
        )
        assert state.replicas is not None
        with self._turn(name):
            self._groups.pop(name, None)
            self.servers.publish(name, state.replicas, volume_id=state.id)
            group = self._make_group(name, list(sites), state.replicas, state.id)
            try:
                missing = group.create(state)
            except DalError:
                self._groups.pop(name, None)
                with suppress(DalError):
                    self.servers.desk.forget(name)
                raise
            self.made({each: state for each in sites if each not in missing})
            self._note_answers(name, (), missing)
            self._show(name, state)
        return state

    def update(
        self, volume_id: bytes, change: Callable[[VolumeState], VolumeState], *, bytes_max: int | None = None
    ) -> VolumeState:
        """Have the servers record and forget dumps as `change` does; refuse all else, which is not a client's.

        How large a state may be they know themselves.
        """
        state = self.get_by_id(volume_id)
        if state is None:
            raise NotFound("the volume was removed meanwhile")
        changed = change(state)
        self._keep_source(state, changed)
        changed = msgspec.structs.replace(changed, kind=state.kind, source=state.source, settings=state.settings)
        made, gone = changed.dumps.differing(state.dumps)
        for record in made:
            self._record_dump(state, record)
        for record in gone:
            self._forget_dump(state, record.dump_id)
        if changed != state and state.id not in self._shown:
            self._store_mirror(msgspec.structs.replace(self.known(volume_id), dumps=changed.dumps))
        return self._with_source(changed)

    def _keep_source(self, state: VolumeState, changed: VolumeState) -> None:
        """Keep here what a changed state says of this host: the directory that it follows, what is left out of it."""
        own = {key: changed.settings[key] for key in local_keys(changed.settings)}
        others = {key: value for key, value in changed.settings.items() if key not in own}
        kept = {key: value for key, value in state.settings.items() if key not in local_keys(state.settings)}
        same = msgspec.structs.replace(
            changed, kind=state.kind, source=state.source, settings=state.settings, dumps=state.dumps
        )
        if same != state or others != kept:
            raise Refused(f"volume {state.name!r} is on servers: its settings are kept there and not changed from here")
        if (changed.kind, changed.source, changed.settings) == (state.kind, state.source, state.settings):
            return
        if self._directories is None or state.role not in (WRITER, ""):
            raise Refused(f"volume {state.name!r} is on servers: it follows no directory of this host")
        self._directories.put(Followed(volume=state.id, source=changed.source, settings=own))

    def rename(self, old: str, new: str) -> VolumeState:
        """Refuse: a name is what its servers know a volume by."""
        raise Refused(f"volume {old!r} is on servers, which know it by its name: move its content to a new volume")

    def remove(self, name: str, *, force: bool = False) -> VolumeState:
        """Forget a volume on all its servers, which must all answer, unless `force`."""
        volume = split_place(name)[1]
        try:
            state = self.get(name)
            if state.replicas is not None:
                state = self._fresh(volume)
        except NotFound:
            return self._forget_place(volume)
        held = [clone_name for clone_name, clone in state.clones.salvage()[0] if clone.held]
        if held and not force:
            raise Refused(f"volume {volume!r}: clone {held[0]!r} is held; `dal unhold {volume}@{held[0]}` first")
        replicas = state.replicas
        with self._turn(volume):
            self.group(volume)
            names = self._servers_of[volume]
            if replicas is not None:
                names = [*replicas.writers, *replicas.standbys, *replicas.readers]
            there, errors = self._ask(names, lambda site: site.state(volume))
            away = {each: error for each, error in errors.items() if not isinstance(error, NotFound)}
            if away and not force:
                raise Unavailable(f"volume {volume!r}: nothing was removed: {list_errors(away)}")
            if self.servers.view().directory:
                self.servers.desk.forget(volume)
            _, failed = self._ask(there, lambda site: site.remove(volume))
            self._groups.pop(volume, None)
            self._set_ref(state_ref(state.id), None)
            self._set_ref(self._name_ref(volume), None)
            self._set_ref(UNSENT + state.id.hex(), None)
            # What is left of it on a server that was away may be removed, too.
            if self.seen_on_servers is not None and not (failed or away):
                self.seen_on_servers.forget(state.id)
            if failed:
                kind = shared_kind(failed)
                some = "not removed everywhere, run again" if len(failed) < len(there) else "not removed"
                raise kind(f"volume {volume!r}: {some}: {list_errors(failed)}")
        return state

    def _forget_place(self, volume: str) -> VolumeState:
        """Forget a volume that no server has: whoever made it died before it was on one."""
        placed = self.servers.placed(volume, anew=True)
        if placed is None:
            raise NotFound(f"no volume {volume!r} in realm {self.realm_name}: `dal realm status` shows what there is")
        self.servers.desk.forget(volume)
        return VolumeState(id=placed.id, name=volume, kind=NATIVE, source=b"", created_ns=0, replicas=placed.replicas)

    def _find_readable(self, identity: bytes) -> Revision | None:
        """Return a revision; None when it is nowhere, or nowhere where this client may read."""
        try:
            return find_revision(self._pool, identity)
        except NoAccess:
            return None

    def commit_revision(self, writer: PoolWriter, state: VolumeState, revision: Revision) -> tuple[VolumeState, bytes]:
        """Make `revision` part of the volume on all its writers that answer.

        Unacknowledged when those are fewer than its rule asks for: the commit is kept, and brought in later.
        """
        if state.id in self._shown:
            raise Refused(f"volume {state.name!r} is read-only on {self._shown[state.id][0]}: name it without a server")
        parents = [self._find_readable(parent) for parent in revision.parents]
        newest_ns = max((parent.created_ns for parent in parents if parent is not None), default=0)
        revision = self.sign(msgspec.structs.replace(revision, created_ns=max(revision.created_ns, newest_ns + 1)))
        if requires_signatures(state) and not revision.signature:
            raise Unsigned(f"volume {state.name!r} takes only signed states, and there is no key here to sign with")
        identity = bytes(writer.put(objects.KIND_REVISION, objects.encode(revision)))
        writer.flush()
        writer.commit_guard()
        name = state.name
        with self._turn(name):
            if self._mirrored(name) is None:  # what waits here is read as this volume's
                self._store_mirror(
                    self._listed.get(state.id) or msgspec.structs.replace(state, source=b"", settings={})
                )
            self._add_unsent(state.id, identity, revision.parents)
            group = self.group(name)
            try:
                pushed = group.push(identity)
            except (Unavailable, Conflict, Full) as error:
                raise Unacknowledged(f"{error}; the commit waits in {self._pool.place}") from None
            except Unsigned as error:
                raise Unsigned(f"{error}; the commit waits in {self._pool.place} until it is known") from None
            except (NoAccess, Refused, BadInput):
                self._drop_unsent(state.id, identity)
                raise
            self._committed(pushed.acknowledged, pushed.state, identity)
            self._drop_unsent(state.id, identity)
            self.pushed = pushed
            self._note_answers(name, pushed.acknowledged, pushed.missing)
            if pushed.behind:
                self._behind.add(name)
            self._show(name, self._with_all_dumps(pushed.state, (), away=True))
        return pushed.state, identity

    def reopen(self, name: str, clone: str, *, now_ns: int) -> tuple[dict[str, VolumeState], dict[str, DalError]]:
        """Reopen a volume on all its servers that take commits, to the files of a clone or (empty) of its head.

        Return what those that did it have now, and what others said.
        """
        volume = split_place(name)[1]
        with self._turn(volume):
            polled = self.group(volume).poll()
            replicas = polled.replicas
            named = next((state.clones[clone] for state in polled.states.values() if clone in state.clones), None)
            if clone and named is None:
                raise NotFound(f"no clone {volume}@{clone} on a server that answers: `dal clones {volume}` shows them")
            content = named.revision if named is not None else b""
            names = [*replicas.writers, *replicas.standbys] or list(polled.states)

            def step(site: Site) -> VolumeState:
                if not isinstance(site, Reopener):
                    raise Refused(f"{site.name}: reopens no volumes")
                return site.reopen(volume, at_ns=now_ns, content=content)

            done, errors = self._ask(names, step)
            if not done:
                raise shared_kind(errors)(f"volume {volume!r}: {list_errors(errors)}")
            self._groups.pop(volume, None)
            self.made(done)
            self._show(volume, next(iter(done.values())))
        return done, errors

    def add_clone(
        self, name: str, clone_name: str | None, *, now_ns: int, revision: bytes = b"", automatic: bool = False
    ) -> tuple[str, Clone]:
        """Name the head, of one moment on all writers, or `revision`. `automatic`: no person chose `clone_name`."""
        automatic = automatic or clone_name is None
        if revision and revision != self._fresh(name).head:
            return self._clone_older(name, clone_name, now_ns=now_ns, revision=revision, automatic=automatic)
        try:
            with self._turn(name):
                group = self.group(name)
                self.cloned = cloned = group.freeze_and_clone(clone_name, automatic=automatic)
                self._note_answers(name, cloned.cloned, cloned.missing)
                self._look_again(name, group)
            return cloned.name, cloned.clone
        except NoAccess:
            # A token that only appends freezes nobody: it names what it has sent.
            named = revision or self._fresh(name).head
            if not named:
                raise
            return self._clone_older(name, clone_name, now_ns=now_ns, revision=named, automatic=automatic)

    def _look_again(self, name: str, group: Group) -> None:
        polled = group.poll()
        if polled.states:
            state = next(iter(polled.states.values()))
            self._show(name, self._with_all_dumps(state, polled.states.values(), away=bool(polled.errors)))

    def _clone_older(
        self, name: str, clone_name: str | None, *, now_ns: int, revision: bytes, automatic: bool
    ) -> tuple[str, Clone]:
        with self._turn(name):
            group = self.group(name)
            polled = group.poll()
            taken = polled.clone_names
            wanted = clone_name or free_name(time_name(now_ns), taken)
            check_clone_name(wanted)
            if wanted in taken:
                raise AlreadyThere(f"clone {name}@{wanted} exists already: choose another name, or unclone it first")
            if len(polled.states) < polled.needed:
                raise Unavailable(f"volume {name!r}: nothing was cloned: {list_errors(polled.errors)}")
            clone = Clone(revision=revision, created_ns=now_ns, automatic=automatic)
            done, errors = self._ask(polled.states, lambda site: site.clone(name, wanted, clone))
            if not done:
                raise next(iter(errors.values()))
            self._note_answers(name, done, {**polled.errors, **errors})
            self._show(name, self._with_all_dumps(next(iter(done.values())), done.values(), away=True))
        return wanted, clone

    def continued(self, volume_id: bytes, head: bytes) -> bytes:
        """Return the newest commit that waits here and continues `head`, or that."""
        for waiting in reversed(self._unsent(volume_id)):
            if head == waiting or not head or is_ancestor(self._pool, head, waiting):
                return waiting
        return head

    def servers_of(self, state: VolumeState) -> Sequence[str]:
        """Return the servers that hold a volume as it is, the nearest first."""
        replicas = state.replicas
        names = self._servers_of.get(state.name, []) if replicas is None else [*replicas.writers, *replicas.standbys]
        if state.id in self._shown:
            names = [self._shown[state.id][0]]
        return self._nearness.order(names)

    def _record_dump(self, state: VolumeState, record: DumpRecord) -> None:
        """Have the volume's servers note a durable dump as a base of later ones; those that are away hear it later."""
        lineage = lineage_of(state.dumps, record)
        done, errors = self._ask(self.servers_of(state), lambda site: record_lineage(site, state.name, lineage))
        if not done:
            raise shared_kind(errors)(f"volume {state.name!r}: the dump is not recorded: {list_errors(errors)}")
        for each, error in sorted(errors.items()):
            if not isinstance(error, Unavailable):
                self._tell(state.name, f"the dump is not recorded on {each}: {error}")

    def _forget_dump(self, state: VolumeState, dump_id: bytes) -> None:
        """Have the volume's servers forget a dump that is gone."""
        _, errors = self._ask(self.servers_of(state), lambda site: _recorder(site).forget_dump(state.name, dump_id))
        for each, error in sorted(errors.items()):
            self._tell(state.name, f"dump {hex_short(dump_id)} is gone, and not forgotten on {each}: {error}")

    def unclone(self, name: str, clone_name: str) -> Clone:
        """Forget a clone on all writers."""
        self.get(name)
        name = split_place(name)[1]
        with self._turn(name):
            group = self.group(name)
            clone, missing = group.unclone(clone_name)
            self._note_answers(name, (), missing)
            self._look_again(name, group)
        return clone

    def unclone_many(self, name: str, clone_names: Iterable[str]) -> dict[str, DalError | None]:
        """Forget clones on all writers, and return for each why it could not be, or None."""
        done: dict[str, DalError | None] = {}
        for each in dict.fromkeys(clone_names):
            try:
                self.unclone(name, each)
                done[each] = None
            except DalError as error:
                done[each] = error
        return done

    def set_held(self, name: str, clone_name: str, *, held: bool) -> Clone:
        """Hold or unhold a clone on all writers."""
        self.get(name)
        name = split_place(name)[1]
        with self._turn(name):
            group = self.group(name)
            clone, missing = group.set_held(clone_name, held=held)
            self._note_answers(name, (), missing)
            self._look_again(name, group)
        return clone

    def with_waiting(self, state: VolumeState) -> VolumeState:
        """Return a volume with the commits that waited here, brought in first: the next comes on top of them."""
        return self.get(state.name) if self._unsent(state.id) else state

    def list(self) -> list[VolumeState]:
        """Return all volumes of the realm by name, as the servers that answer have them."""
        answers, errors = self._ask(self.servers.names(), lambda site: site.states())
        if not answers:
            for error in errors.values():
                if not isinstance(error, Unavailable):
                    raise error
        if self.seen_on_servers is not None:
            for states in by_volume(answers).values():
                self.seen_on_servers.look_listed(states)
        best: dict[str, VolumeState] = {}
        for name in self._nearness.order(answers):
            for state in answers[name]:
                known = best.get(state.name)
                if known is None or _rank(state) > _rank(known):
                    best[state.name] = state
        errors = {name: error for name, error in errors.items() if isinstance(error, Unavailable)}
        if errors:
            best = {**self._seen_last(set(errors)), **best}
            if not answers and not best:
                raise Unavailable(f"realm {self.realm_name}: no server answers: {list_errors(errors)}")
            what = "no server answers: these are the volumes seen last" if not answers else "not all servers answer"
            self._tell(self.realm_name, f"{what}: {list_errors(errors)}")
        self._listed = {state.id: state for state in best.values()}
        followed = self._directories.all() if self._directories is not None else {}
        return [self._with_source(best[name], followed) for name in sorted(best)]

    def _seen_last(self, away: set[str]) -> dict[str, VolumeState]:
        """Return the volumes of servers that do not answer, as far as they are known here or in the directory."""
        found = {state.name: state for state in self._mirror.list()}
        for placed in self.servers.view().volumes:
            if placed.name not in found and away & set(holders(placed.replicas)):
                found[placed.name] = VolumeState(
                    id=placed.id, name=placed.name, kind=NATIVE, source=b"", created_ns=0, replicas=placed.replicas
                )
        return {name: state for name, state in found.items() if away & set(holders(state.replicas) or away)}


def by_volume(answers: Mapping[str, Iterable[VolumeState]]) -> dict[str, dict[str, VolumeState]]:
    """Return what servers listed by volume: who shows it, and what; of another volume of the same name, the newer."""
    found: dict[str, dict[str, VolumeState]] = {}
    for server, states in answers.items():
        for state in states:
            others = found.setdefault(state.name, {})
            if all(each.id == state.id for each in others.values()):
                others[server] = state
    return found


def _read_unsent(pool: Pool, ref: str) -> bytes:
    """Return the commits of one volume that wait, joined, and durable: whoever is told so counts on it."""
    joined = pool.get_ref(ref) or b""
    if joined:
        pool.settle_seen_ref(ref)
    return joined


def _split_unsent(joined: bytes) -> list[bytes]:
    return [joined[start : start + OBJECT_ID_BYTES] for start in range(0, len(joined), OBJECT_ID_BYTES)]


def list_unsent(pool: Pool) -> list[tuple[bytes, str, bytes]]:
    """Return the commits that wait in a cache pool: volume's id, its name, revision."""
    mirror = Volumes(pool)
    found = []
    for ref in pool.list_refs(UNSENT):
        volume_id = bytes.fromhex(ref.removeprefix(UNSENT))
        state = mirror.get_by_id(volume_id)
        name = state.name if state is not None else volume_id.hex()
        found += [(volume_id, name, revision) for revision in _split_unsent(_read_unsent(pool, ref))]
    return found


def _with_mirrored(dumps: DumpRecords, mirrored: DumpRecords) -> DumpRecords:
    try:
        return dumps.joined(mirrored)
    except DalError:  # the table is on the server that is away
        return dumps.joined(DumpRecords(mirrored.newest))


class Recorder(Protocol):
    """A server that notes dumps."""

    def record(self, volume: str, record: DumpRecord) -> VolumeState:
        """Note a durable dump as a base of later ones; again changes nothing."""
        ...

    def forget_dump(self, volume: str, dump_id: bytes) -> VolumeState:
        """Let no later dump build on this one; again changes nothing."""
        ...


class Greeter(Protocol):
    """A server that says what a token is for."""

    def server(self) -> ServerInfo:
        """Return who answers, and what the token that asks may do."""
        ...


def _greeter(site: Site) -> Greeter:
    if not hasattr(site, "server"):
        raise Refused(f"{site.name}: does not say what a token is for")
    return cast(Greeter, site)


def local_keys(settings: Mapping[str, object]) -> set[str]:
    """Return the keys of settings that say something about a directory of this host, or what is believed here."""
    return {*own_keys(settings), *({SETTING, SIGNED} & set(settings))}


def _recorder(site: Site) -> Recorder:
    if not hasattr(site, "record"):
        raise Refused(f"{site.name}: notes no dumps")
    return cast(Recorder, site)


def lineage_of(records: Iterable[DumpRecord], record: DumpRecord) -> list[DumpRecord]:
    """Return a dump with those that it builds on, as far as they are among `records`, the full one first."""
    lineage = [record]
    for each in newest_first(records):  # a dump is later than what it builds on
        if not lineage[0].base_dump:
            break
        if each.dump_id == lineage[0].base_dump:
            lineage.insert(0, each)
    return lineage


def record_lineage(site: Site, volume: str, lineage: Iterable[DumpRecord]) -> None:
    """Have a server note dumps, each of which builds on the one before; it may have been away when they were made."""
    for record in lineage:
        _recorder(site).record(volume, record)


def _released(state: VolumeState) -> int:
    return state.released.number if state.released is not None else 0


def _rank(state: VolumeState) -> tuple[bool, int, int]:
    return state.role in (WRITER, ""), state.replicas.version if state.replicas is not None else 0, _released(state)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteHouse(House):
    """The open cache house of a realm."""

    realm_name: str
    realm_volumes: RealmVolumes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.realm_volumes.close(settle=kind is None)
        finally:
            House.__exit__(self, kind, error, trace)
