"""A client of a realm on a recorded disk: its profile, its cache house, and commits that wait there for servers that are away.

The servers are real Keepers over pools beside the disk, which lose nothing; the network between is left out. A commit that the client says
waits here has to reach them once they are back.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from explorer import Command, Explorer, Promise, fingerprint
from machine import Machine, Ran, remove
from mount_world import Writer

from dalsegno.actions.remote import list_unsent
from dalsegno.assembly import realm
from dalsegno.cli import main as cli
from dalsegno.mount.service import open_writable
from dalsegno.pool.pool import Pool
from dalsegno.replicas.keeper import Keeper, is_behind
from dalsegno.replicas.profile import Profile, read_profile, read_profile_realm, write_profile
from dalsegno.replicas.view import Placed, RealmView, Server
from dalsegno.terms.errors import NotFound, Unacknowledged, Unavailable
from dalsegno.volumes.state import NATIVE, ReplicaSet, VolumeState
from dalsegno.volumes.store import Volumes
from dalsegno.world.clock import now_ns
from dalsegno.world.workers import Workers
from kit import REALM

NAMES = ("s1", "s2")
VOLUME = "native"
VOLUME_ID = bytes(15) + b"\7"
REPLICAS = ReplicaSet(version=1, writers=list(NAMES))
AWAY = "DAL_TEST_AWAY"
"""In the environment: the servers that do not answer."""
Told = Callable[[str, str, str], object]


class Way:
    """The way to a server that may be away."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._keeper: Keeper | None = None

    def __getattr__(self, name: str) -> Any:
        if self.name in os.environ.get(AWAY, "").split(","):
            raise Unavailable(f"{self.name}: no answer")
        if self._keeper is None:
            self._keeper = keeper_of(self.name)
        return getattr(self._keeper, name)

    def view(self) -> RealmView:
        """Say that there is no directory: clients know the servers."""
        raise NotFound(f"{self.name}: no directory")

    def close(self) -> None:
        """Nothing is open."""


def keeper_of(name: str) -> Keeper:
    """Return a server over its pool, which is made on first use, with the volume in it."""
    place = Path.cwd() / name
    if (place / "pool.toml").exists():
        pool = Pool.open(place)
    else:
        pool = Pool.create(place, encryption="none", realm=REALM)
    keeper = Keeper(name, pool, Volumes(pool), workers=Workers(1), clock=now_ns, scratch=place / "uploads")
    keeper.create(VolumeState(id=VOLUME_ID, name=VOLUME, kind=NATIVE, source=b"", created_ns=1, replicas=REPLICAS))
    return keeper


def install() -> None:
    """Lead every command of this process to the servers."""
    realm.remote_site = lambda server, token, nearness, newer_key=None: Way(server.name)  # type: ignore[assignment,return-value]


def join(words: list[str], told: Told) -> int:
    """Keep what `dal realm join` keeps."""
    view = RealmView(
        name="site",
        realm=REALM.realm_id,
        servers=[Server(name=name, url=f"http://{name}:8420") for name in NAMES],
        volumes=[Placed(name=VOLUME, id=VOLUME_ID, replicas=REPLICAS)],
        as_of_ns=1,
        directory=False,
    )
    write_profile(Profile(name="site", token="none", view=view), REALM)
    told("is", "joined", "there")
    return 0


@contextmanager
def away(names: str) -> Iterator[None]:
    """Let servers be away."""
    os.environ[AWAY] = names
    try:
        yield
    finally:
        os.environ[AWAY] = ""


def waiting() -> list[bytes]:
    """Return the commits that this client says wait here."""
    profile = read_profile("site")
    with realm.open_cache_pool(profile, read_profile_realm(profile)) as pool:
        return [revision for _, _, revision in list_unsent(pool)]


def run(words: list[str], told: Told) -> int:
    """Run a command while servers are away; that commits wait is told."""
    names, *command = words
    before = set(waiting()) if command[0] != "realm" else set()
    with away(names):
        code = cli.main(command)
    if code not in (0, 9):
        return code
    for revision in waiting():
        told("is", f"commit {revision.hex()}", "there")
    if code == 0:
        with_head = keeper_of("s1" if "s1" not in names else "s2").state(VOLUME).head
        told("is", f"commit {with_head.hex()}", "there")
    return 0 if code == 0 or set(waiting()) - before or names == ",".join(NAMES) else code


def mount(words: list[str], told: Told) -> int:
    """Work in a mount of the volume while servers are away: what a sync promised, and what waits, is told."""
    names, seed, count = words
    with away(names), realm.open_realm("site") as house:
        with suppress(Unacknowledged), open_writable(house, house.volumes.get(VOLUME)) as opened:
            writer = Writer(opened, random.Random(seed), lambda *what: None)
            for _ in range(int(count)):
                with suppress(Unacknowledged):
                    writer.step()
                    writer.tell(opened.committer.commit)
                    told("is", f"commit {opened.committer.head.hex()}", "there")
        for _, _, revision in list_unsent(house.pool):
            told("is", f"commit {revision.hex()}", "there")
    return 0


def check(words: list[str], told: Told) -> int:
    """Look once with all servers there, then see whether they have what was said."""
    facts: dict[str, list[str]] = json.loads(words[0])
    wrong = []
    code = cli.main(["--quiet", "versions", f"{VOLUME}:/plan"])
    if code not in (0, 6):
        return code
    for name in NAMES:
        keeper = keeper_of(name)
        head = keeper.state(VOLUME).head
        for what in facts:
            kind, _, revision = what.partition(" ")
            if kind == "commit" and not is_behind(keeper.pool, bytes.fromhex(revision), head):
                wrong.append(f"{name} never got {revision}")
    print("\n".join(wrong))
    return 1 if wrong else 0


class ClientExplorer(Explorer):
    """Explores the disk of a client. Everything that he was told waits is brought in."""

    def __init__(self, machine: Machine, *, seed: int) -> None:
        super().__init__(machine, seed=seed)
        machine.before = "import client_world; client_world.install()"
        machine.environment = {"DAL_REALM": "site", AWAY: ""}

    def is_excused(self, ran: Ran) -> bool:
        """Tell whether a command wanted to read what only servers have, of which none was there."""
        return ran.codes[0] == 9 and "no server that can be reached has it" in ran.done[0][1]

    def _broken(self, promise: Promise) -> str:
        if "joined" not in promise.facts:
            self.machine.run(("@client_world:join",))
        out = self.machine.place / "out-tree"
        remove(out)
        facts = json.dumps({what: sorted(wanted) for what, wanted in promise.facts.items()})
        self.change()
        commands: list[tuple[str, ...]] = [
            ("@client_world:check", facts),
            ("import", VOLUME, str(self.doc)),
            ("@client_world:check", facts),
            ("restore", VOLUME, "--to", str(out)),
        ]
        ran = self.machine.run(*commands)
        code, text, _ = ran.done[-1]
        if code != 0:
            return f"{' '.join(commands[len(ran.done) - 1])[:200]}: exit {code}: {text[-800:]}"
        return "" if fingerprint(out) == self.now() else "what is restored is not what was imported last"


def client(*words: str, without: str = "", changes: bool = False) -> Command:
    """Run a command of the client while servers are away."""
    return Command(
        f"{' '.join(words)} without {without or 'none'}", ("@client_world:run", without, *words), changes=changes
    )


def mounted(seed: int, *, without: str = "") -> Command:
    """Work in a mount of the volume while servers are away."""
    return Command(f"mount {seed} without {without or 'none'}", ("@client_world:mount", without, str(seed), "4"))


ALL = ",".join(NAMES)
TAKE_IN = ("import", VOLUME, "{doc}")
JOIN = Command("join", ("@client_world:join",))
CLIENT_MADE = (JOIN, client(*TAKE_IN), client(*TAKE_IN, without=ALL, changes=True))
CLIENT_COMMANDS = (
    client(*TAKE_IN, changes=True),
    client(*TAKE_IN),
    client(*TAKE_IN, without="s1", changes=True),
    client(*TAKE_IN, without=ALL, changes=True),
    client(*TAKE_IN, without=ALL, changes=True),
    client(*TAKE_IN, without=ALL),
    client("versions", f"{VOLUME}:/plan"),
    client("versions", f"{VOLUME}:/plan", without=ALL),
    client("clone", VOLUME, "--no-scan"),
    client("realm", "trust", "site", "--yes"),
    mounted(1),
    mounted(2, without="s2"),
    mounted(3, without=ALL),
    mounted(4, without=ALL),
    JOIN,
)
