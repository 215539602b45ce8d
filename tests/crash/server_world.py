"""A server's pool on a recorded disk: the calls of replication, and what each acknowledges.

What a call returned was told to another machine, which lets go of its own copy, or tells it to a user. So it must be there after the power
was cut, and so must what a server that was started again tells of a volume.
"""

import hashlib
import json
import os
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from commands import verify
from explorer import Command, Explorer, Promise
from machine import Machine

from dalsegno.actions.serve import incoming_path, receive_dump
from dalsegno.actions.session import House
from dalsegno.assembly.local import open_pool
from dalsegno.chunks.realm import Realm
from dalsegno.cli.serve import open_site
from dalsegno.formats import objects, pack
from dalsegno.formats.objects import Entry, Revision
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.replicas.directory import SqlDirectory
from dalsegno.replicas.keeper import Keeper, take_all
from dalsegno.replicas.member import Member, read_membership, remember_directory
from dalsegno.replicas.tokens import PoolTokens, new_token
from dalsegno.replicas.transfer import Spool
from dalsegno.server.tls import own_certificate
from dalsegno.terms.errors import AlreadyThere, BadInput, Conflict, Diverged, NotFound, Refused
from dalsegno.trees.closure import visit_reachable
from dalsegno.trees.read import read_revision
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import NATIVE, Release, ReplicaSet, VolumeState
from dalsegno.world.clock import now_ns
from kit import DictStore, store_model

SERVER = "s1"
OWNER = "explorer"
GONE = "gone"
VOLUMES = {"home": bytes(15) + b"\1", "alone": bytes(15) + b"\2", "shown": bytes(15) + b"\3"}
"""A replicated volume, one that is not, and one of which this server is a reader."""
CALLS = (
    *("commit", "commit", "upload", "upload", "part", "clone", "unclone", "look"),
    *("freeze", "arrange", "remove", "token", "revoke", "certificate", "incoming", "register"),
)
LAST = "last-calls"
"""Beside the disk: the calls that were made last, for who makes them again."""
NO_ANSWER = (AlreadyThere, BadInput, Conflict, Diverged, NotFound, Refused)
"""What a call may say no with that comes again, or after something else."""
Told = Callable[[str, str, str], object]


@contextmanager
def serving() -> Iterator[tuple[House, Keeper]]:
    """Open the server's pool as `dal serve` does."""
    with open_pool(Path(os.environ["DAL_POOL"])) as house:
        yield house, open_site(house, SERVER)


@dataclass(frozen=True)
class Call:
    """One call with all that it is given, so that it can be made again."""

    name: str
    volume: str = ""
    data: Any = None


# -- what is true of a server


def facts_of(state: VolumeState) -> dict[str, str]:
    """Return what a volume's state says, as facts."""
    facts = {f"volume {state.name}": "there", f"head {state.name}": state.head.hex()}
    facts |= {f"clone {state.name}@{name}": clone.revision.hex() for name, clone in state.clones.items()}
    facts |= {f"clone {state.name}@{name}": GONE for name in state.uncloned if name not in state.clones}
    if state.replicas is not None:
        facts[f"set {state.name}"] = str(state.replicas.version)
    if state.released is not None:
        facts[f"release {state.name}"] = str(state.released.number)
    return facts


def fact(house: House, keeper: Keeper, what: str) -> str:
    """Return how something is now."""
    kind, _, name = what.partition(" ")
    if kind == "token":
        return "there" if PoolTokens(house.pool).find(name) is not None else GONE
    if kind == "certificate":
        return certificate_of(house)
    if kind == "incoming":
        path = incoming_path(house, OWNER, bytes.fromhex(name))
        partial = path.with_name(path.name + ".partial")
        return hashlib.sha256(partial.read_bytes()).hexdigest() if partial.exists() else GONE
    if kind == "member":
        known = read_membership(house.pool)
        return f"{known.name} {known.url}" if known is not None else GONE
    if kind == "registered":
        with SqlDirectory.open(directory_url(), realm_id=house.pool.realm.realm_id) as directory:
            server = directory.view(now_ns=now_ns()).server(name)
        return server.url if server is not None else GONE
    volume, _, upload = name.partition("@")[0].partition("#")
    try:
        state = keeper.state(volume)
        if kind == "upload":
            return str(keeper.upload_size(volume, bytes.fromhex(upload)))
        if kind == "objects":
            return "there" if keeper.have(volume, bytes.fromhex(upload)) == b"\1" else GONE
        if kind == "lease":
            return state.lease.owner if state.lease is not None else ""
    except NotFound:
        return GONE
    return facts_of(state).get(what, GONE)


def directory_url() -> str:
    """Return where the realm's directory is: on the same disk."""
    return f"sqlite:///{os.environ['HOME']}/directory.db"


def certificate_of(house: House) -> str:
    """Return what clients pin; it is made when there is none."""
    return hashlib.sha256(
        own_certificate(house.pool, name=SERVER, host="here", now_ns=now_ns()).certificate
    ).hexdigest()


def check(words: list[str], told: Told) -> int:
    """Compare facts with what is, and read everything that volumes name."""
    facts: dict[str, list[str]] = json.loads(words[0])
    with serving() as (house, keeper):
        wrong = [
            f"{what} is {found}, and was {' or '.join(wanted)}"
            for what, wanted in sorted(facts.items())
            if (found := fact(house, keeper, what)) not in wanted
        ]
        for state in keeper.states():
            read_whole(keeper, {state.head, *(clone.revision for clone in state.clones.values())} - {b""})
    print("\n".join(wrong))
    return 1 if wrong else 0


def read_whole(keeper: Keeper, revisions: set[bytes]) -> None:
    """Read all that revisions name."""
    seen: set[bytes] = set()

    def visit(kind: int, identity: bytes) -> bool:
        if identity in seen:
            return False
        seen.add(identity)
        if kind == objects.KIND_CHUNK:
            keeper.pool.get(objects_id(identity))
        return kind != objects.KIND_CHUNK

    for revision in revisions:
        root = read_revision(keeper.pool, objects_id(revision)).root
        visit_reachable(keeper.pool, [(objects.KIND_DIRECTORY, root.content)], visit)


def objects_id(identity: bytes) -> Any:
    """Return an id as the pool's functions want it."""
    return identity


# -- calls


def made_revision(realm: Realm, state: VolumeState, chance: random.Random, parent_ns: int) -> tuple[bytes, Spool]:
    """Return a new revision on top of a volume's head, and a pack with it and its tree."""
    store = DictStore(realm)
    size = chance.choice((100, 3000, 9000))
    files = {b"a": chance.randbytes(size), b"d": {b"b": chance.randbytes(50)}, b"e": chance.randbytes(2000)}
    root = Entry(
        name=b"",
        kind=objects.ENTRY_DIRECTORY,
        mode=0o755,
        content_kind=objects.CONTENT_DIRECTORY,
        content=store_model(store, files),
    )
    revision = Revision(
        volume=state.id,
        parents=[state.head] if state.head else [],
        root=root,
        links=b"",
        created_ns=max(now_ns(), parent_ns + 1),
        author="test",
        message="",
        entry_count=4,
        total_bytes=1,
    )
    identity = bytes(store.put(objects.KIND_REVISION, objects.encode(revision)))
    spool = Spool()
    # One that is sealed otherwise than the pool becomes part of a new pack.
    header = new_header(realm, kind=pack.PACK_POOL, sealed=chance.random() < 0.6)
    with PackWriter(spool.write, realm=realm, header=header) as writer:
        for name, (kind, payload) in store.objects.items():
            writer.put(kind, name, payload)
        writer.finish()
    return identity, spool


def choose(house: House, keeper: Keeper, chance: random.Random) -> Call:
    """Choose a call that makes sense as the server is now."""
    states = {state.name: state for state in keeper.states()}
    absent = sorted(VOLUMES.keys() - states.keys())
    if not states or (absent and chance.random() < 0.3):
        return Call("create", chance.choice(absent))
    state = states[chance.choice(sorted(states))]
    name = chance.choice(CALLS)
    if name in ("commit", "upload", "part"):
        if state.name == "shown" and name != "part":
            name = "switch"
        parent_ns = read_revision(keeper.pool, objects_id(state.head)).created_ns if state.head else 0
        revision, spool = made_revision(house.pool.realm, state, chance, parent_ns)
        return Call(name, state.name, (revision, spool.pack_id(), spool.read_at(0, spool.size_bytes)))
    if name == "clone" and state.head:
        made = Clone(revision=state.head, created_ns=now_ns())
        return Call(name, state.name, (f"c{chance.randrange(1000)}", made))
    if name == "unclone" and state.clones:
        chosen = chance.choice(sorted(state.clones))
        return Call(name, state.name, (chosen, state.clones[chosen]))
    if name == "token":
        return Call(name, data=new_token(rights=["read"], volumes=["*"], now_ns=now_ns())[0])
    if name == "revoke" and (tokens := PoolTokens(house.pool).all()):
        return Call(name, data=chance.choice(tokens).id)
    if name == "incoming":
        return Call(name, data=(chance.randbytes(16), chance.randbytes(6000)))
    if name == "arrange" and state.replicas is None:
        name = "freeze"
    others = ("freeze", "arrange", "remove", "certificate", "register")
    return Call(name if name in others else "look", state.name)


class Serve:
    """Makes calls, and tells what was acknowledged."""

    def __init__(self, house: House, keeper: Keeper, told: Told) -> None:
        self._house = house
        self._keeper = keeper
        self._told = told

    def run(self, call: Call) -> None:
        """Make a call."""
        getattr(self, f"_{call.name}")(call.volume, call.data)

    def _tell(self, state: VolumeState) -> None:
        for what, value in facts_of(state).items():
            self._told("is", what, value)

    def _create(self, volume: str, _: Any) -> None:
        replicas = None
        if volume != "alone":
            roles = {"writers": [SERVER, "s2"]} if volume == "home" else {"writers": ["s2"], "readers": [SERVER]}
            replicas = ReplicaSet(version=1, **roles)  # type: ignore[arg-type]
        self._told("may", f"volume {volume}", "there")
        self._told("may", f"head {volume}", "")
        self._told("may", f"set {volume}", "1")
        self._tell(
            self._keeper.create(
                VolumeState(
                    id=VOLUMES[volume], name=volume, kind=NATIVE, source=b"", created_ns=now_ns(), replicas=replicas
                )
            )
        )

    def _remove(self, volume: str, _: Any) -> None:
        try:
            facts = facts_of(self._keeper.volumes.get(volume))
        except NotFound:
            facts = {f"volume {volume}": ""}
        for what in facts:
            self._told("may", what, GONE)
        for kind in ("upload", "objects"):
            self._told("ends", f"{kind} {volume}#", "")
        self._keeper.remove(volume)
        for what in facts:
            self._told("is", what, GONE)

    def _commit(self, volume: str, data: Any) -> None:
        revision, upload, packed = data
        self._told("may", f"head {volume}", revision.hex())
        self._tell(self._keeper.commit(volume, revision, upload, [packed], owner=OWNER))

    def _part(self, volume: str, data: Any, half: int = 2) -> None:
        _, upload, packed = data
        end = len(packed) // half
        what = f"upload {volume}#{upload.hex()}"
        start = self._keeper.upload_size(volume, upload)
        if start < end:
            self._told("may", what, str(end))
            size = self._keeper.upload(volume, upload, start, [packed[start:end]])
            self._told("is", what, str(size))

    def _send(self, volume: str, data: Any) -> None:
        revision, upload, _ = data
        for half in (2, 1):
            self._part(volume, data, half)
        self._told("ends", f"upload {volume}#{upload.hex()}", "")
        self._keeper.adopt(volume, [upload])
        self._told("is", f"objects {volume}#{revision.hex()}", "there")

    def _upload(self, volume: str, data: Any) -> None:
        self._send(volume, data)
        self._told("may", f"head {volume}", data[0].hex())
        self._tell(self._keeper.advance(volume, data[0], owner=OWNER))
        self._keeper.agree(volume, data[0])

    def _switch(self, volume: str, data: Any) -> None:
        self._send(volume, data)
        released = self._keeper.state(volume).released
        number = released.number + 1 if released is not None else 1
        self._told("may", f"release {volume}", str(number))
        self._told("may", f"head {volume}", data[0].hex())
        self._tell(
            self._keeper.switch(
                volume, Release(number=number, revision=data[0], clone=f"r{number}", released_ns=now_ns())
            )
        )

    def _clone(self, volume: str, data: Any) -> None:
        name, made = data
        self._told("may", f"clone {volume}@{name}", made.revision.hex())
        self._tell(self._keeper.clone(volume, name, made))

    def _unclone(self, volume: str, data: Any) -> None:
        name, made = data
        self._told("may", f"clone {volume}@{name}", GONE)
        self._tell(self._keeper.unclone(volume, name, made))

    def _look(self, volume: str, _: Any) -> None:
        for each in VOLUMES:
            try:
                self._tell(self._keeper.state(each))
            except NotFound:
                self._told("is", f"volume {each}", GONE)
        for state in self._keeper.states():
            self._tell(state)

    def _freeze(self, volume: str, _: Any) -> None:
        self._told("may", f"lease {volume}", OWNER)
        self._tell(self._keeper.freeze(volume, owner=OWNER))
        self._told("is", f"lease {volume}", OWNER)
        self._told("may", f"lease {volume}", "")
        self._keeper.thaw(volume, owner=OWNER)
        self._told("is", f"lease {volume}", "")

    def _arrange(self, volume: str, _: Any) -> None:
        known = self._keeper.state(volume).replicas
        if known is not None:
            wanted = msgspec.structs.replace(known, version=known.version + 1)
            self._told("may", f"set {volume}", str(wanted.version))
            self._tell(self._keeper.arrange(volume, wanted))

    def _token(self, _: str, token: Any) -> None:
        tokens = PoolTokens(self._house.pool)
        if tokens.find(token.id) is None:
            tokens.add(token)
            self._told("is", f"token {token.id}", "there")

    def _revoke(self, _: str, token_id: str) -> None:
        self._told("may", f"token {token_id}", GONE)
        try:
            PoolTokens(self._house.pool).revoke(token_id)
        except NotFound:
            pass  # who reads that there is none takes it for revoked
        self._told("is", f"token {token_id}", GONE)

    def _incoming(self, _: str, data: Any) -> None:
        dump_id, sent = data
        what = f"incoming {dump_id.hex()}"
        for start, end in ((0, len(sent) // 2), (len(sent) // 2, len(sent))):
            self._told("ends", what, "")
            take_all(receive_dump(self._house, OWNER, dump_id, start), [sent[start:end]])
            self._told("is", what, hashlib.sha256(sent[:end]).hexdigest())

    def _register(self, _: str, __: Any) -> None:
        pool = self._house.pool
        SqlDirectory.create(directory_url(), name="site", realm_id=pool.realm.realm_id).close()
        remember_directory(pool, url=directory_url())
        member = Member.open(pool, url=directory_url(), name=SERVER)
        assert member is not None
        try:
            self._told("is", "member", f"{SERVER} {directory_url()}")
            member.register("http://here:1", "")
            self._told("is", f"registered {SERVER}", "http://here:1")
        finally:
            member.close()

    def _certificate(self, _: str, __: Any) -> None:
        self._told("is", "certificate", certificate_of(self._house))


def serve(words: list[str], told: Told) -> int:
    """Start a server and make calls: `again` first, then those named, or so many by chance."""
    seed, *names = words
    chance = random.Random(seed)
    made: list[Call] = []
    with serving() as (house, keeper):
        calls = Serve(house, keeper, told)
        for name in names:
            if name == "again":
                for call in pickle.loads(Path(LAST).read_bytes()):
                    try:
                        calls.run(call)
                    except NO_ANSWER as error:
                        print(f"{call.name} again: {error}")
                continue
            call = choose(house, keeper, chance)
            for _ in range(200):
                if name in ("any", call.name):
                    break
                call = choose(house, keeper, chance)
            made.append(call)
            Path(LAST).write_bytes(pickle.dumps(made))
            calls.run(call)
    return 0


# -- the explorer


class ServerExplorer(Explorer):
    """Explores the disk of a server."""

    def __init__(self, machine: Machine, *, seed: int) -> None:
        super().__init__(machine, seed=seed)
        machine.environment = {"DAL_POOL": f"{machine.home}/pool"}

    def _broken(self, promise: Promise) -> str:
        facts = json.dumps({what: sorted(wanted) for what, wanted in promise.facts.items()})
        self._generation += 1
        seed = f"{self.seed} {self._generation}"
        commands: list[tuple[str, ...]] = [
            ("@server_world:check", facts),
            ("verify", "--pool"),
            ("@server_world:serve", seed, "any", "any"),
            ("gc", "--grace", "0s"),
            ("verify", "--pool"),
            ("@server_world:check", "{}"),
        ]
        ran = self.machine.run(*commands)
        code, text, _ = ran.done[-1]
        return "" if code == 0 else f"{' '.join(commands[len(ran.done) - 1])[:200]}: exit {code}: {text[-800:]}"


def served(*names: str, seed: int = 0) -> Command:
    """Make calls of these names."""
    return Command(f"serve {seed} {' '.join(names)}", ("@server_world:serve", str(seed), *names))


def collected() -> Command:
    """Collect at once: what nobody named yet may go."""
    unnamed = ("upload ", "objects ")

    def keeps(explorer: Explorer, promise: Promise) -> Promise:
        return replace(
            promise, facts={what: each for what, each in promise.facts.items() if not what.startswith(unnamed)}
        )

    return Command("gc", ("gc", "--grace", "0s"), keeps, forgets=unnamed)


SERVER_MADE = (
    Command("init", ("init",)),
    served("create", "create", "create", "commit", "upload", "clone", "clone", "token", "token", "certificate"),
)
SERVER_COMMANDS = (
    *(served("any", "any", seed=seed) for seed in range(1, 9)),
    *(served("again", "any", seed=seed) for seed in range(9, 13)),
    served("again"),
    served("look"),
    collected(),
    verify(),
)
