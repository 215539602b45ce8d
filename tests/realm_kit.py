"""Realms for tests: real `dal serve` processes with a directory, clients with homes of their own, networks to cut.

realm = Realm(tmp_path)                 # a directory in SQLite
realm.start("s1", "s2", "s3")
me = realm.client("me")                 # joined as an administrator
me.quick("volume", "create", "home", "--replicas", "s1,s2,s3")

With a Network each server and each client is in a network namespace of its own, with a real address.
"""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cli_kit import Done, User
from server_kit import Server, end_all, start_server

WAIT_TRIES = 600
_ENTER = "import ctypes, os; assert ctypes.CDLL(None, use_errno=True).setns(os.open({path!r}, 0), 0x40000000) == 0"


@dataclass
class Person(User):
    """Somebody at a machine: in a network namespace, if he was given one."""

    namespace: str = ""

    def quick(self, *words: str, code: int | tuple[int, ...] = 0, before: str = "", **environment: str) -> Done:
        if self.namespace:
            before = _ENTER.format(path=f"/run/netns/{self.namespace}") + "\n" + before
        return super().quick(*words, code=code, before=before, **environment)

    def ask(self, *words: str, code: int | tuple[int, ...] = 0) -> Any:
        """Return what a command tells programs."""
        return json.loads(self.quick("--json", *words, code=code).out)

    def lines(self, *words: str, code: int | tuple[int, ...] = 0) -> list[str]:
        return self.quick(*words, code=code).out.decode().splitlines()


@dataclass
class Realm:
    """Servers over pools of one realm, and their directory."""

    path: Path
    database: str = ""
    tls: bool = False
    network: "Network | None" = None
    servers: dict[str, Server] = field(default_factory=dict)
    users: dict[str, Person] = field(default_factory=dict)
    clients: dict[str, Person] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = self.database or f"sqlite:///{self.path}/directory.db"

    def make(self, name: str) -> Person:
        """Make a server's pool; the first one makes the realm."""
        namespace = self.network.machine(name) if self.network is not None else ""
        user = self.users[name] = Person(self.path / name, namespace=namespace)
        key = self.path / "realm.key"
        if key.exists():
            user.quick("init", "--join", str(key))
        else:
            user.quick("init")
            user.quick("key", "export", str(key))
            user.quick("realm", "init", "--db", self.database, "--name", "site")
        return user

    def start(self, *names: str) -> None:
        """Start servers for the first time, or again at their old addresses."""
        for name in names:
            user = self.users.get(name) or self.make(name)
            host = self.network.addresses[name] if self.network is not None else "127.0.0.1"
            old = self.servers.get(name)
            prefix = ("nsenter", f"--net=/run/netns/{user.namespace}") if user.namespace else ()
            self.servers[name] = start_server(
                user,
                "--realm",
                self.database,
                name=name,
                tls=self.tls,
                listen=f"{host}:{old.port if old is not None else 0}",
                prefix=prefix,
            )
        self.wait_for(*names)

    def wait_for(self, *names: str) -> None:
        """Wait until these servers stand in the directory with their addresses."""
        first = next(server for server in self.servers.values() if server.is_running())
        wanted = {(name, self.servers[name].url) for name in names}
        for _ in range(WAIT_TRIES):
            status = self.users[first.name].ask("realm", "status", code=(0, 3))
            if wanted <= {(server["server"], server["url"]) for server in status["servers"]}:
                return
        raise AssertionError(f"not registered: {wanted}")

    def kill(self, *names: str) -> None:
        for name in names:
            self.servers[name].kill()

    def destroy(self, *names: str) -> None:
        """End servers and lose their pools, keys and all."""
        for name in names:
            self.servers.pop(name).kill()
            shutil.rmtree(self.users.pop(name).home)

    def join_string(self, *rights: str, volumes: tuple[str, ...] = ("*",)) -> str:
        """Return what a client joins with, made on a server that runs."""
        server = next(server for server in self.servers.values() if server.is_running())
        words = [word for right in rights or ("administer",) for word in ("--right", right)]
        words += [word for pattern in volumes for word in ("--volume", pattern)]
        return str(self.users[server.name].ask("token", "add", *words)["join"])

    def client(self, name: str, *rights: str, volumes: tuple[str, ...] = ("*",)) -> Person:
        """Return a client who has joined."""
        namespace = self.network.machine(name) if self.network is not None else ""
        # No pool of his own, and none by the environment.
        person = Person(self.path / name, environment={"DAL_POOL": ""}, namespace=namespace)
        self.clients[name] = person
        person.quick("realm", "join", self.join_string(*rights, volumes=volumes))
        return person

    def heads(self, person: Person, volume: str = "home") -> set[str]:
        """Return the heads of a volume's replicas that answer."""
        status = person.ask("realm", "status", code=(0, 3))
        found = [each for each in status["volumes"] if each["volume"] == volume]
        return {replica["head"] for each in found for replica in each["replicas"]}

    def end(self) -> None:
        end_all(list(self.servers.values()))


@contextlib.contextmanager
def running_realm(path: Path, *names: str, **options: Any) -> Iterator[Realm]:
    """Give a realm with these servers."""
    realm = Realm(path, **options)
    try:
        realm.start(*names)
        yield realm
        for server in realm.servers.values():
            text = server.log_path.read_text()
            assert '"event": "crash"' not in text and "Traceback" not in text, text[-4000:]
    finally:
        realm.end()


class Network:
    """Two switches with a cable between them, and machines with addresses at one or the other."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.addresses: dict[str, str] = {}
        self._sides: dict[str, str] = {}
        self._made: list[str] = []

    def open(self) -> None:
        self._ip("netns", "add", self._name("hub"))
        for side in ("a", "b"):
            self._in_hub("link", "add", f"sw{side}", "type", "bridge")
            self._in_hub("link", "set", f"sw{side}", "up")
        self._in_hub("link", "add", "cablea", "type", "veth", "peer", "name", "cableb")
        for side in ("a", "b"):
            self._in_hub("link", "set", f"cable{side}", "master", f"sw{side}", "up")

    def place(self, side: str, *names: str) -> None:
        """Say at which switch machines will be."""
        self._sides.update(dict.fromkeys(names, side))

    def machine(self, name: str) -> str:
        """Return the namespace of a machine, which is made on first use."""
        namespace = self._name(name)
        if name in self.addresses:
            return namespace
        self.addresses[name] = f"10.83.0.{len(self.addresses) + 1}"
        self._ip("netns", "add", namespace)
        self._ip("-n", namespace, "link", "set", "lo", "up")
        self._ip(
            "-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", f"p-{name}", "netns", self._made[0]
        )
        self._ip("-n", namespace, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        self._ip("-n", namespace, "link", "set", "eth0", "up")
        self._in_hub("link", "set", f"p-{name}", "master", f"sw{self._sides.get(name, 'a')}", "up")
        return namespace

    def cut(self) -> None:
        """Take the cable out."""
        self._in_hub("link", "set", "cablea", "down")

    def heal(self) -> None:
        self._in_hub("link", "set", "cablea", "up")

    def close(self) -> None:
        for namespace in reversed(self._made):
            subprocess.run(["ip", "netns", "delete", namespace], check=False)

    def _name(self, name: str) -> str:
        return f"dal{self.tag}-{name}"

    def _in_hub(self, *words: str) -> None:
        self._ip("-n", self._made[0], *words)

    def _ip(self, *words: str) -> None:
        if words[:2] == ("netns", "add"):
            self._made.append(words[2])
        subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def running_network() -> Iterator[Network]:
    """Give a network; skip the test, and say so, where none can be made."""
    if os.getuid() != 0 or shutil.which("ip") is None or not hasattr(ctypes.CDLL(None), "setns"):
        pytest.skip("!!! network namespaces need root and iproute2: partitions ARE NOT TESTED")
    network = Network(f"{os.getpid():x}")
    try:
        try:
            network.open()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"!!! no network namespaces here ({error.stderr.decode().strip()}): partitions ARE NOT TESTED")
        yield network
    finally:
        network.close()
