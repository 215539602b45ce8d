"""One history: clients of a replicated volume write, clone, release and catch up while everything fails; then peace.

What must hold is checked after every call (a read-only site shows released revisions and no other) and at the end, when
one client has caught up: all writers have one head, every acknowledged commit is behind it and its file is in it, the
clones are the same everywhere, no lease is left, and every object that anything names is there and is what its id says.
"""

import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from sim_kit import SECOND_NS, START_NS, ClientDied, Faults, Server, World

from dalsegno.actions.keep import gc, verify_pool
from dalsegno.actions.remote import LocalCommits
from dalsegno.actions.session import House
from dalsegno.formats import objects
from dalsegno.formats.objects import ENTRY_DIRECTORY, ENTRY_FILE, Entry, Revision
from dalsegno.pool.contract import Source
from dalsegno.pool.pool import Pool
from dalsegno.replicas.context import ReplicaContext, in_turn
from dalsegno.replicas.group import Group
from dalsegno.replicas.peers import Peers
from dalsegno.replicas.release import release
from dalsegno.replicas.sources import SitesSource
from dalsegno.replicas.writers import Writers
from dalsegno.terms.errors import DalError, NotFound, Unavailable
from dalsegno.terms.events import silent
from dalsegno.trees.edit import edit_directory
from dalsegno.trees.read import lookup, read_revision, resolve_path
from dalsegno.trees.walk import walk
from dalsegno.volumes.leases import held
from dalsegno.volumes.resolve import merge_heads
from dalsegno.volumes.state import ANY, MAJORITY, NATIVE, READER, WRITER, ReplicaSet, VolumeState
from dalsegno.volumes.store import Volumes

VOLUME = "home"
VOLUME_ID = bytes(range(16))
WRITERS = ("s1", "s2", "s3")
READERS = ("r1",)
CLIENTS = ("ann", "bob", "cid")
SHARED_NAMES = 4
CALM = Faults()
DAY_SECONDS = 24 * 3600


def storm(chance: random.Random) -> Faults:
    """Return the faults of one history: each kind is absent from some, so that it is not always the same one that ends."""

    def sometimes(most: float) -> float:
        return chance.choice((0.0, most / 4, most))

    return Faults(
        lost_request=sometimes(0.04),
        lost_answer=sometimes(0.06),
        done_twice=sometimes(0.1),
        done_late=sometimes(0.06),
        client_dies=sometimes(0.01),
        server_dies=sometimes(0.01),
        disk_full=sometimes(0.004),
    )


@dataclass
class Client:
    """Somebody who works with the volume, from a pool of his own in which his commits begin."""

    world: "History"
    name: str
    path: Path
    lives: int = 0
    files: int = 0

    def open(self) -> None:
        """Come up, the first time or after a death."""
        self.lives += 1
        world = self.world
        world.dead.discard(self.name)
        if not self.path.exists():
            Pool.create(self.path, encryption="none", realm=world.realm).close()
        self.pool = Pool.open(self.path)
        self.volumes = Volumes(self.pool)
        if self.volumes.get_by_id(VOLUME_ID) is None:
            self.volumes.create(VOLUME, kind=NATIVE, now_ns=START_NS, volume_id=VOLUME_ID)
        keeper = LocalCommits(
            self.name,
            self.pool,
            self.volumes,
            workers=world.workers,
            clock=world.clock(world.skews[self.name]),
            scratch=self.path / "scratch",
        )
        sites = {name: world.link(self.name, name) for name in (*WRITERS, *READERS)}
        self.sites = sites
        context = ReplicaContext(
            realm=world.realm,
            owner=f"{self.name}-{self.lives}",
            merge=merge_heads,
            clock=world.clock(world.skews[self.name]),
            ticks=lambda: world.time_ns,
            pause=world.pause,
            randomness=world.chance.random,
            parallel=self._in_any_order,
        )
        writers = Peers(volume=VOLUME, sites={name: sites[name] for name in WRITERS}, context=context)
        self.group = Group(Writers(writers, local=keeper, volume_id=VOLUME_ID))
        # As in the cache house: what this client has not got it reads from the servers.
        self.pool.elsewhere = SitesSource(VOLUME, [sites[name] for name in WRITERS], world.realm)

    def _in_any_order(self, steps: Sequence[Callable[[], None]]) -> None:
        chosen = list(steps)
        self.world.chance.shuffle(chosen)
        for step in chosen:
            step()

    def close(self) -> None:
        self.pool.close()

    @property
    def head(self) -> bytes:
        return self.volumes.get(VOLUME).head

    def mirror(self, head: bytes) -> None:
        """Take over what the servers have: what a client does before it begins and after it pushed."""
        self.volumes.update(VOLUME_ID, lambda state: _with_head(state, head))

    def refresh(self) -> None:
        polled = self.group.poll()
        heads = sorted(state.head for state in polled.states.values() if state.head)
        if heads and not self.head:
            self.mirror(heads[0])

    # What people do

    def write(self) -> None:
        """Change one file and push; the commit counts as acknowledged when push returns."""
        world = self.world
        self.refresh()
        parent = self.head
        source = self.pool
        content = f"{self.name} {self.lives} {world.steps}".encode()
        if world.chance.random() < 0.5:
            name = b"shared-%d" % world.chance.randrange(SHARED_NAMES)
        else:
            self.files += 1
            name = b"%s-%d-%d" % (self.name.encode(), self.lives, self.files)
        entry = Entry(
            name=name,
            kind=ENTRY_FILE,
            mode=0o644,
            mtime_ns=world.time_ns,
            size=len(content),
            node=world.chance.getrandbits(60),
            content_kind=objects.CONTENT_INLINE,
            content=content,
        )
        before = read_revision(source, parent) if parent else None
        top = before.root.content if before else b""
        changes: dict[bytes, Entry | None] = {name: entry}
        old = lookup(source, top, name) if top else None
        if old is not None:
            if old.kind == ENTRY_FILE and world.chance.random() < 0.2:
                changes = {name: None}
            elif old.kind == ENTRY_FILE:
                changes = {name: _same_node(entry, old)}
        with self.pool.writer() as writer:
            root = edit_directory(source, writer, top, changes)
            revision = Revision(
                volume=VOLUME_ID,
                parents=[parent] if parent else [],
                root=Entry(
                    name=b"",
                    kind=ENTRY_DIRECTORY,
                    mode=0o755,
                    content_kind=objects.CONTENT_DIRECTORY,
                    content=root,
                ),
                links=b"",
                created_ns=max(world.clock(world.skews[self.name])(), before.created_ns + 1 if before else 0),
                author=self.name,
                message="write",
                entry_count=1,
                total_bytes=0,
            )
            _, identity = self.volumes.commit_revision(writer, self.volumes.get(VOLUME), revision)
        world.say(f"{self.name} commits {identity[:4].hex()} {name.decode()}")
        unique = name if changes[name] is not None and name.startswith(self.name.encode()) else b""
        pushed = self.group.push(identity)
        world.acknowledged[bytes(identity)] = (unique, content)
        world.say(f"{self.name} acknowledged {identity[:4].hex()} head {pushed.head[:4].hex()}")
        self.mirror(pushed.head)

    def clone(self) -> None:
        self.world.clone_count += 1
        made = self.group.freeze_and_clone(f"c{self.world.clone_count}-{self.name}")
        self.world.say(f"{self.name} cloned {made.name} on {made.cloned}")

    def unclone(self) -> None:
        polled = self.group.poll()
        names = sorted({name for state in polled.states.values() for name in state.clones})
        if names:
            self.group.unclone(self.world.chance.choice(names))

    def catch_up(self) -> None:
        caught = self.group.catch_up()
        if not self.head:
            self.mirror(caught.head)

    def release(self) -> None:
        polled = self.group.poll()
        clones = {
            name: clone for state in polled.states.values() for name, clone in state.clones.items() if clone.revision
        }
        if not clones:
            return
        name = self.world.chance.choice(sorted(clones))
        self.world.released.add(clones[name].revision)
        context = replace(self.group.writers.context, parallel=in_turn)
        peers = Peers(volume=VOLUME, sites=self.sites, context=context, replicas=polled.replicas)
        done = release(peers, clones[name].revision, clone=name, to=READERS)
        self.world.say(f"{self.name} released {name}: {[each.outcome for each in done.outcomes]}")


def _with_head(state: VolumeState, head: bytes) -> VolumeState:
    return msgspec.structs.replace(state, head=head)


def _same_node(entry: Entry, old: Entry) -> Entry:
    return msgspec.structs.replace(entry, node=old.node)


@dataclass
class History(World):
    """The world of one replicated volume."""

    acknowledged: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    """Revision: the file that only this commit has, and its content (empty: a name that others change, too)."""
    parents: dict[bytes, list[bytes]] = field(default_factory=dict)
    """Every revision that was ever a head, and those before it: servers may forget what all of them have behind them."""
    released: set[bytes] = field(default_factory=set)
    clone_count: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        chance = self.chance
        self.skews = {name: chance.choice((0, 0, 1, -1)) * chance.randrange(5 * 3600 * SECOND_NS) for name in CLIENTS}
        self.rule = chance.choice((ANY, MAJORITY))
        replicas = ReplicaSet(version=1, writers=list(WRITERS), rule=self.rule, readers=list(READERS))
        for name in (*WRITERS, *READERS):
            server = self.add_server(name)
            server.skew_ns = chance.choice((0, 0, 1, -1)) * chance.randrange(3 * 3600 * SECOND_NS)
            role = WRITER if name in WRITERS else READER
            state = VolumeState(
                id=VOLUME_ID,
                name=VOLUME,
                kind=NATIVE,
                source=b"",
                created_ns=START_NS,
                role=role,
                replicas=replicas,
            )
            assert server.keeper is not None
            server.keeper.create(state)
        self.after_call = self._look

    def _look(self) -> None:
        for name in WRITERS:
            keeper = self.servers[name].keeper
            state = keeper.volumes.get_by_id(VOLUME_ID) if keeper is not None else None
            if keeper is not None and state is not None:
                self._learn(keeper.pool, state.head)
        for name in READERS:
            keeper = self.servers[name].keeper
            if keeper is not None:
                head = keeper.state(VOLUME).head
                assert not head or head in self.released, f"seed {self.seed}: {name} shows what nobody released"

    def _learn(self, source: Source, head: bytes) -> None:
        waiting = [head] if head else []
        while waiting:
            identity = waiting.pop()
            if identity not in self.parents:
                try:
                    self.parents[identity] = read_revision(source, identity).parents
                except NotFound:
                    continue
                waiting += self.parents[identity]

    def _behind(self, head: bytes) -> set[bytes]:
        found: set[bytes] = set()
        waiting = [head]
        while waiting:
            identity = waiting.pop()
            if identity not in found:
                found.add(identity)
                waiting += self.parents.get(identity, [])
        return found

    # What chance does

    def trouble(self) -> None:
        """Servers die and come back, the network is cut and healed, disks fill, time jumps, pools are collected."""
        chance = self.chance
        while self.baton.others:
            for _ in range(chance.randrange(8)):
                self.step("world")
            event = chance.choices(
                ("kill", "start", "cut", "heal", "gc", "jump", "full", "room"), (2, 6, 1, 3, 1, 1, 1, 4)
            )[0]
            server = self.servers[chance.choice((*WRITERS, *READERS))]
            if event == "kill":
                self.kill(server)
            elif event == "start":
                self.start(server)
            elif event == "cut":
                self._cut(chance)
            elif event == "heal":
                self.cut.clear()
                self.say("network whole")
            elif event == "gc" and server.keeper is not None:
                self._collect(server)
            elif event == "jump":
                self.time_ns += chance.randrange(60) * SECOND_NS
            elif event in ("full", "room"):
                server.full = event == "full"

    def _cut(self, chance: random.Random) -> None:
        names = [*WRITERS, *READERS, *CLIENTS]
        side = {name for name in names if chance.random() < 0.5}
        self.cut = {frozenset((one, other)) for one in side for other in names if other not in side}
        self.say(f"cut {sorted(side)} off")

    def _house(self, server: Server) -> House:
        assert server.keeper is not None
        pool = server.keeper.pool
        return House(
            pool=pool, volumes=Volumes(pool), cache_dir=self.base / "cache", report=silent, workers=self.workers
        )

    def _collect(self, server: Server) -> None:
        try:
            self.at(server, lambda: gc(self._house(server), grace_seconds=0))
            self.say(f"{server.name} collected")
        except DalError as error:
            self.say(f"{server.name} gc: {error}")

    # A life, and what is left of it

    def live(self, ops: int = 12) -> None:
        """Let the clients work in the storm, then make peace and check."""
        self.faults = storm(self.chance)
        self.say(f"rule {self.rule}, {self.faults}")
        tasks: dict[str, Callable[[], None]] = {
            name: (lambda name=name: self._work(name, ops))
            for name in CLIENTS  # type: ignore[misc]
        }
        tasks["world"] = self.trouble
        self.run(tasks)
        self._make_peace()
        self._check()

    def _work(self, name: str, ops: int) -> None:
        client = Client(self, name, self.base / name)
        client.open()
        done = 0
        while done < ops:
            done += 1
            client_step = self.chance.choices(
                (client.write, client.clone, client.unclone, client.catch_up, client.release), (6, 2, 1, 2, 1)
            )[0]
            try:
                client_step()
            except ClientDied:
                client.close()
                client.open()
            except DalError as error:
                self.say(f"{name} {client_step.__name__}: {type(error).__name__}: {error}")
        client.close()

    def _make_peace(self) -> None:
        self.calm = True
        self._late.clear()
        self.cut.clear()
        for server in self.servers.values():
            server.full = False
            self.start(server)
        self.time_ns += 60 * SECOND_NS
        self.say("peace")
        if self.rule == MAJORITY and self.chance.random() < 0.3:
            # What a majority has acknowledged outlives the loss of any one server.
            lost = self.servers[self.chance.choice(WRITERS)]
            self.kill(lost)
            shutil.rmtree(lost.path)
            Pool.create(lost.path, encryption="none", realm=self.realm).close()
            self.start(lost)
            self.say(f"{lost.name} is replaced by an empty one")

    def _check(self) -> None:
        client = Client(self, "eve", self.base / "eve")
        self.skews["eve"] = 0
        client.open()
        with ExitStack() as stack:
            stack.callback(client.close)
            try:
                caught = client.group.catch_up()
            except Unavailable as error:
                raise AssertionError(f"seed {self.seed}: in peace: {error}") from error
            assert not caught.missing, f"seed {self.seed}: {caught.missing}"
            states = {name: self._state(name) for name in WRITERS}
            assert len({state.head for state in states.values()}) == 1, f"seed {self.seed}: heads differ"
            clones = [
                {name: (clone.revision, clone.created_ns) for name, clone in state.clones.items()}
                for state in states.values()
            ]
            assert clones[0] == clones[1] == clones[2], f"seed {self.seed}: clones differ: {clones}"
            for name, state in states.items():
                assert held(state, now_ns=self.time_ns + self.servers[name].skew_ns) is None, f"seed {self.seed}: lease"
            again = client.group.catch_up()
            assert again.head == caught.head and not again.merged, f"seed {self.seed}: not at rest"
            self._check_content(client.group.source(WRITERS), caught.head)
        for server in self.servers.values():
            findings = list(verify_pool(self._house(server)))
            assert not [each for each in findings if each.severity == "error"], f"seed {self.seed}: {findings}"

    def _state(self, name: str) -> VolumeState:
        keeper = self.servers[name].keeper
        assert keeper is not None
        return keeper.state(VOLUME)

    def _check_content(self, source: Source, head: bytes) -> None:
        if not head:
            assert not self.acknowledged, f"seed {self.seed}: acknowledged commits, and no head"
            return
        revision = read_revision(source, head)
        behind = self._behind(head)
        for identity, (name, content) in self.acknowledged.items():
            text = f"seed {self.seed}: acknowledged commit {identity[:4].hex()}"
            assert identity in behind, f"{text} is not behind the head"
            if name:
                assert resolve_path(source, revision, name).content == content, f"{text}: its file is gone"
        for path, entry in walk(source, revision):
            assert entry.kind in (ENTRY_DIRECTORY, ENTRY_FILE), f"seed {self.seed}: {path!r}"
