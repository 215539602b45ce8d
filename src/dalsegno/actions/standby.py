"""What a server does by itself for volumes whose writers are elsewhere.

It finds out what it is by now (a writer that was away may be a standby since), follows where it is a standby, and
fetches releases where it is a read-only site.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Final

from dalsegno.replicas.context import Merge
from dalsegno.replicas.contract import Site
from dalsegno.replicas.follow import Step, backoff, follow
from dalsegno.replicas.release import pull
from dalsegno.replicas.servers import Servers
from dalsegno.terms.errors import DalError, NotFound
from dalsegno.terms.events import Note, Report
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.state import READER, STANDBY, VolumeState
from dalsegno.world.clock import ticks_ns
from dalsegno.world.workers import Workers

LOOK_SECONDS: Final = 0.5
"""How soon a volume that is new here, or has another role, is taken up."""
WATCH_SECONDS: Final = 5.0
"""How long an origin lets us wait, and a stop of this server with us."""
SETTLE_NS: Final = 60 * SECOND_NS
"""How often the others are asked whether a volume's replica set is still what it is here."""
PULL_NS: Final = 60 * SECOND_NS
SLICE_NS: Final = 10 * SECOND_NS
"""How long one volume is followed before the next one's turn, when there are more than threads."""


class Upkeep:
    """The volumes of one server that are kept up with others, a few at a time."""

    def __init__(
        self,
        servers: Servers,
        here: Site,
        *,
        merge: Merge,
        crew: Workers,
        ended: Callable[[], bool],
        report: Report,
        stepped: Callable[[str, Step], None] = lambda volume, step: None,
    ) -> None:
        """`servers` are the realm as this server sees it; `report` is told what goes wrong and is tried again."""
        self._servers = servers
        self._here = here
        self._crew = crew
        self._ended = ended
        self._report: Report = lambda event: report(event) if isinstance(event, Note) else None
        self._context = servers.context(merge=merge, report=self._report)
        self._stepped = stepped
        self._busy: dict[str, Future[None]] = {}
        self._settled_ns: dict[str, int] = {}
        self._pulled_ns: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._not_before_ns: dict[str, int] = {}

    def run(self) -> None:
        """Look after the volumes until the end; return when nothing goes on any more."""
        while not self._ended():
            try:
                self.look()
            except DalError as error:
                self._tell("", error)
            self._servers.pause(LOOK_SECONDS)
        for future in self._busy.values():
            future.exception()

    def look(self) -> None:
        """Take up every volume that has something to be done and nobody who does it."""
        for state in self._here.states():
            if state.replicas is None or state.replicas.moved_to:
                continue
            busy = self._busy.get(state.name)
            if busy is not None and busy.done():
                busy.result()  # what is no DalError is ours, and must not be passed over
            if (busy is None or busy.done()) and self._is_due(state):
                self._busy[state.name] = self._crew.submit(self._attend, state)

    def _is_due(self, state: VolumeState) -> bool:
        now = ticks_ns()
        if now < self._not_before_ns.get(state.name, now):
            return False
        if state.role == STANDBY or now - self._settled_ns.get(state.name, now - SETTLE_NS) >= SETTLE_NS:
            return True
        return state.role == READER and now - self._pulled_ns.get(state.name, now - PULL_NS) >= PULL_NS

    def _attend(self, state: VolumeState) -> None:
        try:
            state = self._settle(state)
            if state.role == STANDBY:
                self._follow(state.name)
            elif state.role == READER:
                self._pull(state)
        except DalError as error:
            self._tell(state.name, error)
            failures = self._failures[state.name] = self._failures.get(state.name, 0) + 1
            self._not_before_ns[state.name] = ticks_ns() + int(backoff(failures, 1.0) * SECOND_NS)
        else:
            self._failures.pop(state.name, None)

    def _settle(self, state: VolumeState) -> VolumeState:
        """Take the newest replica set that the directory or another server has."""
        now = ticks_ns()
        if now - self._settled_ns.get(state.name, now - SETTLE_NS) < SETTLE_NS:
            return state
        self._settled_ns[state.name] = now
        newest = self._servers.replica_set(state.name)
        if newest is None or state.replicas is None or newest.version <= state.replicas.version:
            return state
        return self._here.arrange(state.name, newest)

    def _follow(self, volume: str) -> None:
        begun = ticks_ns()

        def ended() -> bool:
            if self._ended():
                return True
            waiting = sum(not future.done() for future in self._busy.values()) > self._crew.count
            return waiting and ticks_ns() - begun > SLICE_NS

        def origins() -> list[Site]:
            replicas = self._servers.replica_set(volume)
            return [self._servers.site(name) for name in replicas.writers] if replicas is not None else []

        follow(
            volume,
            self._here,
            origins,
            replace(self._context, pause=self._pause),
            ended=ended,
            stepped=lambda step: self._stepped(volume, step),
            seconds=WATCH_SECONDS,
        )

    def _pause(self, seconds: float) -> None:
        while seconds > 0 and not self._ended():
            self._servers.pause(min(seconds, LOOK_SECONDS))
            seconds -= LOOK_SECONDS

    def _pull(self, state: VolumeState) -> None:
        self._pulled_ns[state.name] = ticks_ns()
        assert state.replicas is not None
        try:
            names = [*state.replicas.writers, *state.replicas.readers]
            peers = self._servers.peers(state.name, names, self._context, state.replicas)
            done = pull(peers, self._here.name)
        except NotFound:
            return  # nothing was released yet
        if done.error is not None:
            raise done.error

    def _tell(self, volume: str, error: DalError) -> None:
        self._report(Note(severity="note", path=volume.encode(), text=str(error)))
