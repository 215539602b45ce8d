"""Writers, standbys, read-only sites and moves under lost answers, late messages and dying clients: lives by chance.

Each commit adds a file of its own, so that what was acknowledged can be looked for in the end. A seed replays exactly.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from memory_site import VOLUME, ClientDied
from site_worlds import WORLDS, context, found, peers

from dalsegno.replicas.follow import Follower, promote
from dalsegno.replicas.move import move
from dalsegno.replicas.release import pull, release
from dalsegno.terms.errors import DalError, Moved, NotFound, Unavailable
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import READER, STANDBY, WRITER, ReplicaSet, VolumeState

SECOND_NS = 10**9
HOLDERS = ("s1", "s2", "s3")
SITES = ("ro1", "ro2")
STEPS = 60


class Life:
    """One history."""

    def __init__(self, seed: int, path: Path, kind: str = "memory") -> None:
        self.chance = random.Random(seed)
        self.world = WORLDS[kind](path)
        for name in (*HOLDERS, *SITES):
            self.world.add(name)
            self.world.faulty[name]._chance = self.chance
        self.directory = ReplicaSet(version=1, writers=["s1"], standbys=["s2"], readers=list(SITES))
        self.directory_away = False
        found(self.world, self.directory)
        self.acknowledged: set[bytes] = set()
        self.released: set[bytes] = set()
        self.log: list[str] = []

    def publish(self, change: Callable[[ReplicaSet], ReplicaSet]) -> ReplicaSet:
        if self.directory_away or self.chance.random() < 0.05:
            raise Unavailable("directory: no answer")
        self.directory = change(self.directory)
        if self.chance.random() < 0.05:
            raise Unavailable("directory: no answer (lost)")
        return self.directory

    def state(self, name: str) -> VolumeState | None:
        """Return what a server has of the volume."""
        try:
            return self.world.sites[name].state(VOLUME)
        except NotFound:
            return None

    def sites(self, names: Any) -> list[Any]:
        return [self.world.faulty[name] for name in names]

    def set_faults(self, faults: float, deaths: float) -> None:
        for site in self.world.faulty.values():
            site.faults, site.deaths = faults, deaths

    def write(self) -> None:
        """Commit as a client does: to the writer that it believes in, following what it is told."""
        name = b"f%d" % len(self.log)
        believed = self.directory if self.chance.random() < 0.7 else None
        where = believed.writers[0] if believed is not None else self.chance.choice(HOLDERS)
        for _ in range(4):
            site, faulty = self.world.sites[where], self.world.faulty[where]
            try:
                state = faulty.state(VOLUME)
                if state.replicas is not None and state.replicas.moved_to:
                    where = state.replicas.moved_to
                    continue
                if state.role != WRITER:
                    return
                files = self.world.files(where, state.head) if state.head else {}
                known = self.world.store(where, {**files, name: name}, parents=[state.head] if state.head else [])
                after = faulty.advance(VOLUME, known)
                if after.role == WRITER and after.replicas == state.replicas:
                    self.acknowledged.add(name)
                    if len(after.replicas.writers) == 1:
                        site.agree(VOLUME, known)
                return
            except (NotFound, Moved):
                return

    def step(self) -> None:
        standby = self.chance.choice(HOLDERS)
        origin = self.chance.choice(HOLDERS)
        state = self.state(standby)
        is_standby = state.role == STANDBY if state is not None else standby in self.directory.standbys
        if standby != origin and is_standby and self.state(origin) is not None:
            follower = Follower(VOLUME, self.world.faulty[standby], context(self.world))
            follower.step(self.world.faulty[origin], seconds=0)

    def promote(self) -> None:
        name = self.chance.choice(HOLDERS)
        promote(
            peers(self.world, (*HOLDERS, *SITES), self.directory, owner=f"promote {len(self.log)}"),
            name,
            publish=self.publish,
        )

    def move(self) -> None:
        source, target = self.chance.sample(HOLDERS, 2)
        move(
            peers(self.world, (*HOLDERS, *SITES), self.directory, owner=f"move {len(self.log)}"),
            source,
            target,
            publish=self.publish,
        )

    def release(self) -> None:
        state = self.state(self.directory.writers[0])
        if state is not None and state.head:
            head = state.head
            self.released.add(head)
            release(
                peers(self.world, (*self.directory.writers, *SITES), self.directory),
                head,
                clone="",
                to=SITES,
            )

    def pull(self) -> None:
        reader = self.chance.choice(SITES)
        pull(
            peers(self.world, (*self.directory.writers, *SITES), self.directory),
            reader,
        )

    def clone(self) -> None:
        name = self.directory.writers[0]
        state = self.state(name)
        if state is not None and state.head:
            clone = Clone(revision=state.head, created_ns=self.world.clock.now_ns)
            self.world.faulty[name].clone(VOLUME, f"c{len(self.log)}", clone)

    def check(self) -> None:
        """Check what must hold at every moment."""
        for name in SITES:
            state = self.state(name)
            if state is not None and state.head:
                assert state.role == READER and state.head in self.released, name
                self.world.files(name, state.head)
        for name in HOLDERS:
            state = self.state(name)
            if state is not None:
                for revision in [state.head, *(clone.revision for clone in state.clones.values())]:
                    if revision:
                        self.world.files(name, revision)

    def live(self) -> None:
        moves = [self.write] * 8 + [self.step] * 6 + [self.release, self.pull, self.promote, self.move, self.clone]
        for _ in range(STEPS):
            self.world.clock.now_ns += self.chance.choice((1, 5, 20, 40)) * SECOND_NS
            self.set_faults(self.chance.choice((0.0, 0.0, 0.02, 0.2)), self.chance.choice((0.0, 0.0, 0.02)))
            for site in self.world.faulty.values():
                site.down = self.chance.random() < 0.05
                if self.chance.random() < 0.1:
                    faults, site.faults = site.faults, 0.0
                    site.do_late()
                    site.faults = faults
            self.directory_away = self.chance.random() < 0.05
            do = self.chance.choice(moves)
            try:
                do()
                result = "done"
            except ClientDied:
                result = "died"
            except DalError as error:
                result = f"{type(error).__name__}: {error}"
            self.log.append(f"{do.__name__}: {result}")
            self.check()

    def heal(self) -> None:
        """Peace: everybody answers, and everything that goes on by itself goes on."""
        for site in self.world.faulty.values():
            site.down, site.faults, site.deaths = False, 0.0, 0.0
            site.do_late()
        self.directory_away = False
        self.world.clock.now_ns += 100 * SECOND_NS
        for _ in range(6):
            states = [state for name in self.world.sites if (state := self.state(name)) is not None]
            newest = max((state.replicas for state in states if state.replicas), key=lambda each: each.version)
            newest = max(newest, self.directory, key=lambda each: each.version)
            newest = msgspec.structs.replace(newest, moved_to="")
            self.directory = newest
            for name in (*newest.writers, *newest.standbys):
                if self.state(name) is not None:
                    self.world.sites[name].arrange(VOLUME, newest)
            for name in newest.standbys:
                follower = Follower(VOLUME, self.world.faulty[name], context(self.world))
                follower.step(self.world.faulty[newest.writers[0]], seconds=0)


SEEDS = int(os.environ.get("DAL_SITES_LIVES", "60"))


@pytest.mark.parametrize(
    "seed, kind", [*((seed, "memory") for seed in range(SEEDS)), *((seed, "keeper") for seed in range(SEEDS // 15))]
)
def test_nothing_acknowledged_is_lost_and_readers_show_only_releases(tmp_path: Path, seed: int, kind: str) -> None:
    life = Life(seed, tmp_path, kind)
    try:
        life.live()
        life.heal()
        life.check()
        writer = life.directory.writers[0]
        files = life.world.files(writer, life.world.sites[writer].state(VOLUME).head)
        assert life.acknowledged <= set(files), sorted(life.acknowledged - set(files))
        for name in life.directory.standbys:
            assert life.world.sites[name].state(VOLUME).head == life.world.sites[writer].state(VOLUME).head, name
    except BaseException:
        print(f"seed {seed}")
        print("\n".join(life.log))
        raise
