"""Servers of a volume that requires signatures: each looks by itself, whatever another one has taken."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dalsegno.chunks.signatures import Sign, SigningKey, leave_unsigned
from dalsegno.formats import objects
from dalsegno.formats.objects import KIND_REVISION, Entry, Revision
from dalsegno.pool.pool import Pool
from dalsegno.pool.signers import Signer, trust_signer
from dalsegno.replicas.context import ReplicaContext
from dalsegno.replicas.follow import follow
from dalsegno.replicas.heads import merge_replicas
from dalsegno.replicas.keeper import Keeper
from dalsegno.replicas.transfer import copy
from dalsegno.terms.errors import Unsigned
from dalsegno.terms.events import Event, Note
from dalsegno.trees.read import read_revision
from dalsegno.volumes.resolve import merge_heads
from dalsegno.volumes.signed import REQUIRED, SETTING
from dalsegno.volumes.state import NATIVE, Release, ReplicaSet, VolumeState
from dalsegno.volumes.store import Volumes
from dalsegno.world.clock import now_ns
from dalsegno.world.workers import Workers
from kit import REALM, store_model

CONTEXT = ReplicaContext(realm=REALM, owner="test", merge=merge_heads)

ANNA, EVE = SigningKey.generate(), SigningKey.generate()
VOLUME = "home"


class World:
    """Two writers and a read-only site of one volume."""

    def __init__(self, path: Path, workers: Workers) -> None:
        replicas = ReplicaSet(version=1, writers=["a", "b"], readers=["c"])
        self.state = VolumeState(
            id=bytes(range(16)),
            name=VOLUME,
            kind=NATIVE,
            source=b"",
            created_ns=5,
            replicas=replicas,
            settings={SETTING: REQUIRED},
        )
        self.keepers: dict[str, Keeper] = {}
        self.time_ns = now_ns() - 10**12
        for name in ("a", "b", "c"):
            pool = Pool.create(path / name, encryption="none", realm=REALM)
            trust_signer(pool, Signer(name="anna", key=ANNA.public, since_ns=1))
            scratch = path / f"{name}-uploads"
            scratch.mkdir()
            keeper = Keeper(name, pool, Volumes(pool), workers=workers, clock=now_ns, scratch=scratch)
            keeper.create(self.state)
            self.keepers[name] = keeper

    def put(self, name: str, model: Mapping[bytes, Any], *parents: bytes, sign: Sign = ANNA.sign) -> bytes:
        self.time_ns += 10**9
        with self.keepers[name].pool.writer() as writer:
            root = Entry(
                name=b"",
                kind=objects.ENTRY_DIRECTORY,
                mode=0o755,
                content_kind=objects.CONTENT_DIRECTORY,
                content=store_model(writer, dict(model)),
            )
            made = Revision(
                volume=self.state.id,
                parents=list(parents),
                root=root,
                links=b"",
                created_ns=self.time_ns,
                author="anna",
                message="",
                entry_count=len(model),
                total_bytes=0,
            )
            return bytes(writer.put(KIND_REVISION, objects.encode(sign(made))))

    def set_head(self, name: str, revision: bytes) -> None:
        """Move a server's head as who is inside of it can."""
        volumes = self.keepers[name].volumes
        volumes.update(self.state.id, lambda current: msgspec.structs.replace(current, head=revision))

    def heads(self) -> list[bytes]:
        return [self.keepers[name].state(VOLUME).head for name in ("a", "b")]

    def close(self) -> None:
        for keeper in self.keepers.values():
            keeper.pool.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Workers(2) as workers:
        world = World(tmp_path, workers)
        yield world
        world.close()


def together(world: World) -> None:
    a, b, _ = world.keepers.values()
    base = world.put("a", {b"one": b"1"})
    a.advance(VOLUME, base)
    copy(a, b, VOLUME, [base])
    b.advance(VOLUME, base)


def test_heads_that_diverged_are_merged_without_anybodys_key(world: World) -> None:
    together(world)
    (base, _) = world.heads()
    a, b, _ = world.keepers.values()
    a.advance(VOLUME, world.put("a", {b"one": b"1", b"two": b"2"}, base))
    b.advance(VOLUME, world.put("b", {b"one": b"1", b"three": b"3"}, base))
    merge_replicas(VOLUME, [a, b], CONTEXT)
    one, other = world.heads()
    merged = read_revision(a.pool, one)
    assert one == other and len(merged.parents) == 2 and not merged.signature
    a.advance(VOLUME, world.put("a", {b"one": b"1"}, one))


@pytest.mark.parametrize("sign", [leave_unsigned, EVE.sign], ids=["unsigned", "unknown"])
def test_what_a_server_that_was_broken_into_made_up_goes_nowhere(world: World, sign: Sign) -> None:
    together(world)
    (base, _) = world.heads()
    a, b, _ = world.keepers.values()
    forged = world.put("a", {b"one": b"evil"}, base, sign=sign)
    world.set_head("a", forged)
    copy(a, b, VOLUME, [forged], [base])
    with pytest.raises(Unsigned):
        b.advance(VOLUME, forged)
    # Nor as a part of a merge with what is genuine.
    genuine = world.put("b", {b"one": b"1", b"two": b"2"}, base)
    b.advance(VOLUME, genuine)
    with pytest.raises(Unsigned):
        merge_replicas(VOLUME, [a, b], CONTEXT)
    assert world.heads()[1] == genuine


@pytest.mark.parametrize("sign", [leave_unsigned, EVE.sign], ids=["unsigned", "unknown"])
def test_a_read_only_site_shows_no_release_that_nobody_signed(world: World, sign: Sign) -> None:
    """The kind: a way to move what readers see that is no commit."""
    a, _, c = world.keepers.values()
    shown: Callable[[], Release | None] = lambda: c.state(VOLUME).released  # noqa: E731
    genuine = world.put("a", {b"one": b"1"})
    forged = world.put("a", {b"one": b"evil"}, sign=sign)
    for number, revision in enumerate((genuine, forged)):
        copy(a, c, VOLUME, [revision])
        release = Release(number=number + 1, revision=revision, clone=f"r{number}", released_ns=now_ns())
        if revision == genuine:
            c.switch(VOLUME, release)
        else:
            with pytest.raises(Unsigned):
                c.switch(VOLUME, release)
    released = shown()
    assert released is not None and released.revision == genuine


def test_a_standby_follows_the_writer_that_is_honest(world: World) -> None:
    """The kind: one enemy among several, who stops everybody."""
    together(world)
    (base, _) = world.heads()
    a, b, c = world.keepers.values()
    replicas = ReplicaSet(version=2, writers=["a", "b"], standbys=["c"])
    for keeper in (a, b, c):
        keeper.arrange(VOLUME, replicas)
    world.set_head("a", world.put("a", {b"one": b"evil"}, base, sign=leave_unsigned))
    genuine = world.put("b", {b"one": b"1", b"two": b"2"}, base)
    b.advance(VOLUME, genuine)
    told: list[Event] = []
    left = iter(range(10))
    follow(
        VOLUME,
        c,
        lambda: [a, b],
        replace(CONTEXT, pause=lambda _: None, report=told.append),
        ended=lambda: c.state(VOLUME).head == genuine or next(left, None) is None,
        seconds=0,
    )
    assert c.state(VOLUME).head == genuine
    assert any(isinstance(event, Note) and event.severity == "notice" and "signed" in event.text for event in told)


def test_a_new_replica_takes_a_history_that_began_without_signatures(world: World) -> None:
    """The kind: what is required from today on, of what was made before."""
    a, b, _ = world.keepers.values()
    old = world.put("a", {b"one": b"1"}, sign=leave_unsigned)
    world.set_head("a", old)
    new = world.put("a", {b"one": b"1", b"two": b"2"}, old)
    a.advance(VOLUME, new)
    copy(a, b, VOLUME, [new])
    b.advance(VOLUME, new)
    assert b.state(VOLUME).head == new
