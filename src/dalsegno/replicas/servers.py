"""The servers of a realm as one: which there are, which of them hold a volume, and the way to each."""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Protocol, Self

from dalsegno.chunks.realm import Realm
from dalsegno.replicas.context import Merge, ReplicaContext, in_turn, never_merge, side_by_side
from dalsegno.replicas.contract import Site
from dalsegno.replicas.peers import Peers
from dalsegno.replicas.pins import believed
from dalsegno.replicas.replica_sets import settle_claims
from dalsegno.replicas.view import Placed, RealmView, Server
from dalsegno.terms.errors import DalError, Moved, NoAccess, NotFound, Refused, Unavailable
from dalsegno.terms.events import Report, silent
from dalsegno.terms.times import SECOND_NS, show_time
from dalsegno.volumes.dates import is_future
from dalsegno.volumes.state import ReplicaSet, VolumeState
from dalsegno.world.clock import now_ns, pause, ticks_ns
from dalsegno.world.workers import Workers, new_lock

CALLERS: Final = 8
VIEW_NS: Final = 5 * SECOND_NS
"""So long a view of the directory is not asked for again, unless something in it was wrong."""


class Desk(Protocol):
    """Where the directory is asked: the database itself, or a server."""

    def view(self) -> RealmView:
        """Return the directory, or what is known of it when it is away."""
        ...

    def publish(self, placed: Placed) -> None:
        """Replace where a volume is; Conflict when somebody was first, Unavailable when the directory is away."""
        ...

    def forget(self, volume: str) -> None:
        """Forget where a volume is."""
        ...

    def remove_server(self, name: str) -> None:
        """Forget a server that holds nothing."""
        ...


class Servers:
    """The servers of a realm. Threads may share it; used in a `with` block, which gives back connections."""

    def __init__(
        self,
        desk: Desk,
        realm: Realm,
        *,
        connect: Callable[[Server], Site],
        owner: str,
        here: str = "",
        local: Site | None = None,
    ) -> None:
        """`connect` makes the way to a server; `local` is the one called `here`, whose pool is at hand."""
        self.desk = desk
        self.realm = realm
        self.owner = owner
        self.here = here
        self.workers = Workers(CALLERS)
        """Threads that ask several servers at once."""
        self._connect = connect
        self._local = local
        self._lock = new_lock()
        self._sites: dict[str, tuple[Server, Site]] = {}
        self._view: RealmView | None = None
        self._viewed_ns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back threads and connections."""
        self.workers.__exit__(None, None, None)
        with self._lock:
            sites, self._sites = self._sites, {}
        for _, site in sites.values():
            close = getattr(site, "close", None)
            if close is not None:
                close()

    def pause(self, seconds: float) -> None:
        """Wait."""
        pause(seconds)

    def context(
        self, *, merge: Merge = never_merge, workers: Workers | None = None, report: Report = silent
    ) -> ReplicaContext:
        """Return what work on these servers uses; without `workers` they are asked one after the other."""
        return ReplicaContext(
            realm=self.realm,
            owner=self.owner,
            merge=merge,
            pause=self.pause,
            parallel=side_by_side(workers) if workers is not None else in_turn,
            report=report,
        )

    def peers(
        self, volume: str, names: Iterable[str], context: ReplicaContext, replicas: ReplicaSet | None = None
    ) -> Peers:
        """Return some servers of a volume; NotFound when the realm has none of a name. Nothing is asked of them yet."""
        sites = {name: self.site(name) for name in dict.fromkeys(names)}
        return Peers(volume=volume, sites=sites, context=context, replicas=replicas)

    # The directory

    def view(self, *, anew: bool = False) -> RealmView:
        """Return the directory as it was some seconds ago at most, or `anew`."""
        with self._lock:
            known = self._view
            if known is not None and not anew and ticks_ns() - self._viewed_ns < VIEW_NS:
                return known
        view = self.desk.view()
        with self._lock:
            self._view, self._viewed_ns = view, ticks_ns()
        return view

    def names(self) -> list[str]:
        """Return the names of all servers."""
        return [server.name for server in self.view().servers]

    def server(self, name: str) -> Server:
        """Return where a server is; NotFound when the realm has none of this name."""
        found = self.view().server(name) or self.view(anew=True).server(name)
        if found is None:
            known = ", ".join(self.names()) or "none"
            raise NotFound(f"no server {name!r} in realm {self.view().name}: it has {known}")
        return found

    def site(self, name: str) -> Site:
        """Return a server; NotFound when the realm has none of this name. Nothing is asked of it yet."""
        if self._local is not None and name == self.here:
            return self._local
        server = self.server(name)
        with self._lock:
            known = self._sites.get(name)
            if known is not None and (known[0].url, known[0].fingerprint) == (server.url, server.fingerprint):
                return known[1]
            site = self._connect(server)
            self._sites[name] = server, site
            return site

    def forget_ways(self, names: Iterable[str]) -> None:
        """Look up again where these servers are: they did not answer and may have moved."""
        with self._lock:
            self._view = None
            for name in names:
                self._sites.pop(name, None)

    # Volumes

    def placed(self, volume: str, *, anew: bool = False) -> Placed | None:
        """Return where a volume is, as the directory says."""
        return self.view(anew=anew).placed(volume)

    def replica_set(self, volume: str) -> ReplicaSet | None:
        """Return a volume's newest replica set that is known, or None when it has none.

        The directory's; that which a server has, when it is newer or there is no directory; of several that claim to be
        the newest what `settle_claims` says.
        """
        view = self.view(anew=True)
        placed = view.placed(volume)
        known = placed.replicas if placed is not None else None
        if view.directory and view.as_of_ns and known is not None:
            names = [*known.writers, *known.standbys]
        else:
            names = [server.name for server in view.servers]
        there = [state.replicas for state in self.states(volume, names).values() if state.replicas is not None]
        return settle_claims([*([known] if known is not None else []), *there])

    def states(self, volume: str, names: Iterable[str]) -> dict[str, VolumeState]:
        """Return the volume's state at those of the servers that answer and have it."""
        found = {}
        for name in names:
            try:
                found[name] = self.site(name).state(volume)
            except (NotFound, Unavailable, NoAccess, Moved):
                continue
        return found

    def publish(self, volume: str, replicas: ReplicaSet, *, volume_id: bytes = b"") -> None:
        """Put a volume's replica set into the directory, if the realm has one."""
        view = self.view()
        if not view.directory:
            return
        placed = view.placed(volume)
        if not volume_id and placed is not None:
            volume_id = placed.id
        if not volume_id:
            states = self.states(volume, [*replicas.writers, *replicas.standbys])
            if not states:
                raise Unavailable(f"volume {volume!r}: none of its servers answers")
            volume_id = next(iter(states.values())).id
        try:
            self.desk.publish(Placed(name=volume, id=volume_id, replicas=replicas))
        finally:
            with self._lock:
                self._view = None


class ServerDesk:
    """The directory as any of its servers tells it, the nearest first."""

    def __init__(
        self,
        known: RealmView,
        *,
        connect: Callable[[Server], "DirectorySite"],
        order: Callable[[Iterable[str]], list[str]],
        failed: Callable[[str], None],
        changed: Callable[[RealmView], None],
        tell: Callable[[str], None] = lambda text: None,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        """`known` is what was known last; `changed` is told what is known now, to be remembered.

        `tell` is told, in a line, what a view says that is not believed.
        """
        self._known = known
        self._connect = connect
        self._order = order
        self._failed = failed
        self._changed = changed
        self._tell_person = tell
        self._clock = clock
        self._told: set[str] = set()
        self._sites: dict[str, tuple[Server, DirectorySite]] = {}

    def _ask(self) -> Iterable[tuple[str, "DirectorySite"]]:
        servers = {server.name: server for server in self._known.servers}
        for name in self._order(servers):
            known = self._sites.get(name)
            if known is None or known[0] != servers[name]:
                known = self._sites[name] = servers[name], self._connect(servers[name])
            yield name, known[1]

    def view(self) -> RealmView:
        """Return the newest view that a server has; what was known last when none answers."""
        for name, site in self._ask():
            try:
                view = site.view()
            except Unavailable:
                self._failed(name)
                continue
            except NotFound:
                # A server without a directory: it alone is the realm that we know.
                return self._known
            if view.realm != self._known.realm:
                raise Refused(f"{name}: answers for another realm than {self._known.name}: join it anew")
            now = self._clock()
            if is_future(view.as_of_ns, now_ns=now):
                self._say(f"{name}: the directory is of {show_time(view.as_of_ns)}, it says: not used")
                continue
            # What was taken from a clock that was wrong gives way.
            if view.as_of_ns >= self._known.as_of_ns or is_future(self._known.as_of_ns, now_ns=now):
                self._take(view)
            return self._known
        return self._known

    def _take(self, view: RealmView) -> None:
        """Take of a view what makes nothing less sure."""
        view, told = believed(self._known, view)
        for text in told:
            self._say(text)
        if view != self._known:
            self._known = view
            self._changed(view)

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell_person(text)

    def _tell(self, tell: Callable[["DirectorySite"], None]) -> None:
        errors: list[DalError] = []
        for name, site in self._ask():
            try:
                return tell(site)
            except Unavailable as error:
                errors.append(error)
                if not error.answered:  # else it is the directory behind it that is away
                    self._failed(name)
        told = "; ".join(map(str, errors)) or "no server is known"
        raise Unavailable(f"realm {self._known.name}: its directory cannot be changed now: {told}")

    def publish(self, placed: Placed) -> None:
        """Have a server replace where a volume is."""
        self._tell(lambda site: site.publish(placed))

    def forget(self, volume: str) -> None:
        """Have a server forget where a volume is."""
        self._tell(lambda site: site.forget(volume))

    def remove_server(self, name: str) -> None:
        """Have a server forget another one."""
        self._tell(lambda site: site.remove_server(name))


class DirectorySite(Protocol):
    """A server, asked for the directory."""

    def view(self) -> RealmView:
        """Return the directory as the server knows it; NotFound when it knows none."""
        ...

    def publish(self, placed: Placed) -> None:
        """Replace where a volume is."""
        ...

    def forget(self, volume: str) -> None:
        """Forget where a volume is."""
        ...

    def remove_server(self, name: str) -> None:
        """Forget a server that holds nothing."""
        ...
