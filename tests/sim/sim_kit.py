"""A world in one process: servers, clients, a network, clocks and disks, all moved by one seed.

The code under test is the real one: Keepers over real pools in memory-backed directories, Groups over Sites. What is
simulated is what lies between: each call from a client to a server passes a `Link`, where it may be delayed, lost, done
twice, done late, or answered to nobody; a server may die at any durable step and come up again from its files; clients
die between any two calls. One thread runs at a time, and who is next is the seed's choice, so a seed replays exactly.
"""

import errno
import os
import random
import shutil
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dalsegno.chunks import realm
from dalsegno.chunks.realm import Realm
from dalsegno.pool import index, pack_write
from dalsegno.pool.pool import Pool
from dalsegno.replicas.keeper import Keeper
from dalsegno.terms.errors import DalError, Unavailable
from dalsegno.volumes import store
from dalsegno.volumes.store import Volumes
from dalsegno.world import chance, files
from dalsegno.world.workers import Lane, Workers

SECOND_NS = 1_000_000_000
START_NS = 1_790_000_000 * SECOND_NS
CALL_NS_MAX = 40_000_000
TIMEOUT_NS = 5 * SECOND_NS
STEPS_MAX = 20_000
"""Calls in one history: more means that something goes round in circles."""
RANDOM_IN = (realm, index, pack_write, store)
STREAMED = {"missing", "objects"}
CHANGING = {"advance", "agree", "freeze", "thaw", "clone", "unclone", "arrange", "switch", "adopt"}


class ServerDied(BaseException):
    """The server that works now is dead: nothing catches this but the world."""


class ClientDied(BaseException):
    """The client that works now is dead."""


@dataclass(kw_only=True)
class Faults:
    """How likely each fault is, per call (or per durable step)."""

    lost_request: float = 0.0
    lost_answer: float = 0.0
    done_twice: float = 0.0
    done_late: float = 0.0
    client_dies: float = 0.0
    server_dies: float = 0.0
    disk_full: float = 0.0


class AtOnce(Workers):
    """A crew, and a lane of it, that does each step when it is given, on the caller's thread.

    Threads would ask chance for the disk's faults in an order of their own, and how much of a pack that failed they
    still write would depend on the load of the machine.
    """

    def __init__(self) -> None:
        self.count = 1

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(function(*args, **kwargs))
        except BaseException as error:  # as a thread does: whoever asks for the result gets it
            done.set_exception(error)
        return done

    def map_ordered(self, function: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
        return map(function, values)

    def lane(self, pending_max: int) -> "LaneAtOnce":
        return LaneAtOnce()


class LaneAtOnce(Lane):
    def __init__(self) -> None:
        pass

    def submit(self, function: Callable[..., None], /, *args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)

    def drain(self) -> None:
        pass

    def close(self) -> None:
        pass


class Baton:
    """Threads of which one runs; who is next is chance's choice."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._waiting: dict[str, threading.Semaphore] = {}
        self._main = threading.Semaphore(0)
        self.running = ""

    def add(self, name: str, function: Callable[[], None]) -> None:
        turn = self._waiting[name] = threading.Semaphore(0)

        def work() -> None:
            turn.acquire()
            self.running = name
            try:
                function()
            finally:
                del self._waiting[name]
                self._pass_on()

        threading.Thread(target=work, name=name, daemon=True).start()

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting[self._chance.choice(sorted(self._waiting))].release()
        else:
            self._main.release()

    @property
    def others(self) -> int:
        """How many besides the one that runs have not ended."""
        return len(self._waiting) - 1

    def switch(self) -> None:
        """Let somebody else, or the same one again, go on."""
        name = self.running
        turn = self._waiting.get(name)
        if turn is None:
            return
        chosen = self._chance.choice(sorted(self._waiting))
        if chosen == name:
            return
        self._waiting[chosen].release()
        turn.acquire()
        self.running = name

    def run(self) -> None:
        """Run all until they end."""
        if self._waiting:
            self._pass_on()
            self._main.acquire()
        self.running = ""


@dataclass
class Server:
    """One server: its files, and while it is up its Keeper."""

    name: str
    path: Path
    keeper: Keeper | None = None
    skew_ns: int = 0
    full: bool = False
    deaths: int = 0


@dataclass
class World:
    """Everything that chance moves."""

    seed: int
    base: Path
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.time_ns = START_NS
        self.baton = Baton(self.chance)
        self.servers: dict[str, Server] = {}
        self.cut: set[frozenset[str]] = set()
        self.dead: set[str] = set()
        self.log: list[str] = []
        self.steps = 0
        self.calm = False
        self.after_call: Callable[[], None] | None = None
        self._at: Server | None = None
        self._late: list[tuple[str, str, tuple[Any, ...], dict[str, Any]]] = []
        self.realm = Realm(self.seed.to_bytes(32, "little"))
        self.workers = AtOnce()
        self.errors: list[str] = []
        files.rehearse(self._durable_step)
        # Ids of packs and names of files come from the seed, too, so that a history replays to the letter.
        ids = random.Random(self.seed)
        for module in RANDOM_IN:
            vars(module)["random_bytes"] = ids.randbytes

    # Time and chance

    def say(self, text: str) -> None:
        text = text.replace(str(self.base), "")
        at = (self.time_ns - START_NS) / SECOND_NS
        self.log.append(f"{at:10.3f} {self.baton.running or 'world':<8} {text}")

    def clock(self, skew_ns: int = 0) -> Callable[[], int]:
        return lambda: self.time_ns + skew_ns

    def pause(self, seconds: float) -> None:
        self.time_ns += int(seconds * SECOND_NS)
        self.baton.switch()

    def happens(self, probability: float) -> bool:
        return not self.calm and probability > 0 and self.chance.random() < probability

    # Servers

    def add_server(self, name: str) -> Server:
        server = self.servers[name] = Server(name=name, path=self.base / name)
        Pool.create(server.path, encryption="none", realm=self.realm).close()
        self.start(server)
        return server

    def start(self, server: Server) -> None:
        if server.keeper is not None:
            return
        pool = Pool.open(server.path)
        server.keeper = Keeper(
            server.name,
            pool,
            Volumes(pool),
            workers=self.workers,
            clock=lambda: self.time_ns + server.skew_ns,
            scratch=server.path / "scratch",
        )
        self.say(f"{server.name} starts")

    def kill(self, server: Server) -> None:
        if server.keeper is not None:
            server.keeper.pool.close()
            server.keeper = None
            server.deaths += 1
            self.say(f"{server.name} dies")

    def _durable_step(self, name: str, writes: bool) -> None:
        server = self._at
        if server is None:
            return
        if writes and (server.full or self.happens(self.faults.disk_full)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.happens(self.faults.server_dies):
            self.say(f"{server.name} dies before {name}")
            raise ServerDied

    def at(self, server: Server, work: Callable[[], Any]) -> Any:
        """Do something on a server; Unavailable when it dies of it."""
        before, self._at = self._at, server
        try:
            return work()
        except ServerDied:
            self.kill(server)
            raise Unavailable(f"{server.name}: no answer") from None
        except OSError as error:
            raise Unavailable(f"{server.name}: {error}") from None
        finally:
            self._at = before

    # The network

    def reaches(self, client: str, server: str) -> bool:
        return frozenset((client, server)) not in self.cut

    def link(self, client: str, server: str) -> Any:
        return Link(self, client, self.servers[server])

    def step(self, client: str) -> None:
        """Somewhere in a client's work: others go on, time passes, the client may die."""
        if client in self.dead:
            raise ClientDied  # what tidies up after a death does not reach the network any more
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise AssertionError(f"seed {self.seed}: {STEPS_MAX} calls and no end")
        self.time_ns += self.chance.randrange(CALL_NS_MAX)
        if self._late and self.happens(0.2):
            self._do_late()
        self.baton.switch()
        if self.happens(self.faults.client_dies):
            self.say(f"{client} dies")
            self.dead.add(client)
            raise ClientDied

    def later(self, server: str, name: str, words: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._late.append((server, name, words, named))

    def _do_late(self) -> None:
        server_name, name, words, named = self._late.pop(self.chance.randrange(len(self._late)))
        server = self.servers[server_name]
        if server.keeper is None:
            return
        self.say(f"late {server_name}.{name}")
        keeper = server.keeper
        try:
            self.at(server, lambda: getattr(keeper, name)(*words, **named))
        except DalError:
            pass

    def run(self, tasks: dict[str, Callable[[], None]]) -> None:
        """Run clients side by side until all have ended."""
        for name, function in tasks.items():
            self.baton.add(name, self._guarded(name, function))
        self.baton.run()
        assert not self.errors, "\n".join(self.errors)

    def _guarded(self, name: str, function: Callable[[], None]) -> Callable[[], None]:
        def work() -> None:
            try:
                function()
            except ClientDied:
                pass
            except BaseException as error:
                self.errors.append(f"{name}: {''.join(traceback.format_exception(error))}")

        return work

    def close(self) -> None:
        files.rehearse(None)
        for module in RANDOM_IN:
            vars(module)["random_bytes"] = chance.random_bytes
        for server in self.servers.values():
            if server.keeper is not None:
                server.keeper.pool.close()
                server.keeper = None
        shutil.rmtree(self.base, ignore_errors=True)


class Link:
    """A Site: a server as one client reaches it."""

    def __init__(self, world: World, client: str, server: Server) -> None:
        self._world = world
        self._client = client
        self._server = server
        self.name = server.name

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in STREAMED:
            return lambda *words, **named: self._stream(name, words, named)
        return lambda *words, **named: self._call(name, words, named)

    def _begin(self, name: str) -> Keeper:
        world, server = self._world, self._server
        world.step(self._client)
        if server.keeper is None or not world.reaches(self._client, server.name):
            world.time_ns += TIMEOUT_NS
            raise Unavailable(f"{server.name}: no answer")
        if world.happens(world.faults.lost_request):
            world.say(f"{server.name}.{name}: request lost")
            raise Unavailable(f"{server.name}: no answer (request lost)")
        return server.keeper

    def _call(self, name: str, words: tuple[Any, ...], named: dict[str, Any]) -> Any:
        world, server = self._world, self._server
        if name == "watch":
            named = {**named, "seconds": 0}
        if name == "upload":
            words = (*words[:3], self._cut_short(words[3]))
        keeper = self._begin(name)
        if name in CHANGING and world.happens(world.faults.done_late):
            world.later(server.name, name, words, named)
        try:
            result = world.at(server, lambda: getattr(keeper, name)(*words, **named))
        except DalError as error:
            world.say(f"{server.name}.{name}: {type(error).__name__}: {error}")
            raise
        if name in CHANGING:
            world.say(f"{server.name}.{name}{tuple(_short(word) for word in (*words, *named.values()))}")
        if world.after_call is not None:
            world.after_call()
        if name in CHANGING and world.happens(world.faults.done_twice):
            try:
                world.at(server, lambda: getattr(keeper, name)(*words, **named))
            except DalError:
                pass
        if world.happens(world.faults.lost_answer):
            world.say(f"{server.name}.{name}: answer lost")
            raise Unavailable(f"{server.name}: no answer (lost)")
        return result

    def _cut_short(self, pieces: Any) -> Iterator[bytes]:
        for piece in pieces:
            if self._world.happens(self._world.faults.lost_request):
                raise Unavailable(f"{self._server.name}: connection lost while uploading")
            yield piece

    def _stream(self, name: str, words: tuple[Any, ...], named: dict[str, Any]) -> Iterator[bytes]:
        world, server = self._world, self._server
        keeper = self._begin(name)
        stream = world.at(server, lambda: iter(getattr(keeper, name)(*words, **named)))
        while True:
            piece = world.at(server, lambda: next(stream, None))
            if piece is None:
                return
            if world.happens(world.faults.lost_answer):
                raise Unavailable(f"{server.name}: connection lost while streaming")
            yield piece


def _short(value: Any) -> Any:
    if isinstance(value, bytes):
        return value[:4].hex()
    return value if isinstance(value, str | int | float) else type(value).__name__
