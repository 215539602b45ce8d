"""A realm in one process: real Keepers over pools, a real directory, real cache houses, and a network that can fail."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memory_site import FaultySite

from dalsegno.actions.backup import import_directory
from dalsegno.actions.browse import read_file
from dalsegno.actions.remote import RealmVolumes, RemoteHouse
from dalsegno.pool.known import Differs, KnownPlace, refuse
from dalsegno.pool.pool import Pool
from dalsegno.replicas.directory import SqlDirectory
from dalsegno.replicas.keeper import Keeper
from dalsegno.replicas.nearest import NearestSource, Nearness
from dalsegno.replicas.profile import CACHE_BYTES_MAX_DEFAULT
from dalsegno.replicas.servers import Servers
from dalsegno.replicas.view import Placed, RealmView, Server
from dalsegno.terms.errors import Unavailable
from dalsegno.terms.events import Event, Note
from dalsegno.volumes.resolve import merge_heads
from dalsegno.volumes.store import Volumes
from dalsegno.world.clock import now_ns, ticks_ns
from dalsegno.world.workers import Workers
from kit import REALM


class DirectoryDesk:
    """The directory itself, which can be away; then what was known last is told."""

    def __init__(self, directory: SqlDirectory) -> None:
        self.directory = directory
        self.down = False
        self.known = directory.view(now_ns=now_ns())

    def _require(self) -> None:
        if self.down:
            raise Unavailable("directory: away")

    def view(self) -> RealmView:
        if not self.down:
            self.known = self.directory.view(now_ns=now_ns())
        return self.known

    def publish(self, placed: Placed) -> None:
        self._require()
        self.directory.publish(placed)

    def forget(self, volume: str) -> None:
        self._require()
        self.directory.forget(volume)

    def remove_server(self, name: str) -> None:
        self._require()
        self.directory.remove_server(name)


class Way(FaultySite):
    """The way to a server, whose connections nobody has to give back."""

    def close(self) -> None:
        pass


class RealmWorld:
    """Servers s1, s2, ... and clients."""

    def __init__(self, path: Path, names: list[str], *, seed: int = 0) -> None:
        self.path = path
        self.workers = Workers(2)
        self.chance = random.Random(seed)
        self.directory = SqlDirectory.create(f"sqlite:///{path}/directory.db", name="site", realm_id=REALM.realm_id)
        self.desk = DirectoryDesk(self.directory)
        self.keepers: dict[str, Keeper] = {}
        self.sites: dict[str, Way] = {}
        for name in names:
            self.add_server(name)
        self.notes: list[str] = []

    def add_server(self, name: str, *, at: str = "") -> None:
        """Start a server over an empty pool."""
        pool = Pool.create(self.path / (at or name), encryption="none", realm=REALM)
        keeper = Keeper(
            name, pool, Volumes(pool), workers=self.workers, clock=now_ns, scratch=pool.backend.directory / "uploads"
        )
        self.keepers[name] = keeper
        self.sites[name] = Way(keeper, self.chance)
        self.directory.put_server(Server(name=name, url=f"http://{name}:8420"))

    def close(self) -> None:
        self.workers.__exit__(None, None, None)
        for keeper in self.keepers.values():
            keeper.pool.close()
        self.directory.close()

    def down(self, *names: str) -> None:
        """Cut these servers off, and only these."""
        for name, site in self.sites.items():
            site.down = name in names

    def report(self, event: Event) -> None:
        if isinstance(event, Note):
            self.notes.append(f"{event.path.decode()}: {event.text}")

    @contextmanager
    def client(
        self,
        name: str = "c1",
        *,
        connect: Callable[[Server], object] | None = None,
        cache_bytes_max: int = CACHE_BYTES_MAX_DEFAULT,
        differs: Differs = refuse,
    ) -> Iterator[RemoteHouse]:
        """Open a client's cache house, for one command; it remembers what it sees."""
        path = self.path / name
        path.mkdir(exist_ok=True)
        place = path / "pool"
        pool = Pool.open(place) if place.exists() else Pool.create(place, encryption="none", realm=REALM)
        nearness = Nearness(path / "nearness.json", clock=now_ns)
        servers = Servers(
            self.desk,
            REALM,
            connect=connect or (lambda server: self.sites[server.name]),  # type: ignore[arg-type,return-value]
            owner=f"{name}:{self.chance.random()}",
        )
        source = NearestSource(REALM, site=servers.site, nearness=nearness, ticks=ticks_ns)
        pool.elsewhere = source
        workers = Workers(2)
        volumes = RealmVolumes(
            pool,
            servers,
            source,
            nearness,
            realm_name="site",
            merge=merge_heads,
            workers=workers,
            report=self.report,
            cache_bytes_max=cache_bytes_max,
            known=KnownPlace("realm site", state=path, report=self.report),
            differs=differs,
        )
        with RemoteHouse(
            pool=pool,
            volumes=volumes,
            cache_dir=path / "cache",
            report=self.report,
            workers=workers,
            realm_name="site",
            realm_volumes=volumes,
        ) as house:
            yield house

    def create(self, *writers: str, name: str = "home", rule: str = "any") -> None:
        with self.client() as house:
            house.realm_volumes.create_replicated(name, list(writers), rule=rule, now_ns=now_ns())

    def write(self, client: str, *, cache_bytes_max: int = CACHE_BYTES_MAX_DEFAULT, **files: str) -> None:
        """Change files in a client's directory and import it; the directory begins as the volume is."""
        directory = self.path / f"{client}-files"
        directory.mkdir(exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text)
        time.sleep(0.06)  # what was written just now would be read again by the next import, too
        with self.client(client, cache_bytes_max=cache_bytes_max) as house:
            import_directory(house, "home", directory)

    def read(self, client: str, address: str) -> str:
        with self.client(client) as house:
            return read_file(house, address).decode()

    def heads(self, *names: str) -> set[bytes]:
        return {self.keepers[name].state("home").head for name in names or self.keepers}
