"""Release, follow, promote and move as an administrator does them, with real servers that are killed and come back."""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli_kit import Done, User
from dalsegno.formats.join import format_join
from dalsegno.replicas.remote import RemoteSite
from server_kit import Server, start_server

FILE_BYTES = 20_000
LEASE_TRIES = 100
"""Half a second each: longer than the lease of a mover that was killed."""
LARGE_BYTES = 3_000_000


@dataclass(frozen=True)
class Crossed:
    sent: float
    received: float


class Realm:
    """Servers over pools of one realm, a directory in SQLite, and an administrator elsewhere."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.servers: dict[str, Server] = {}
        self.users: dict[str, User] = {}
        self.database = f"sqlite:///{home}/realm.db"
        self.me = User(home / "me", environment={"DAL_POOL": ""})
        self.files = home / "files"
        self.files.mkdir()

    def start(self, *names: str) -> None:
        """Start servers for the first time, or again at their old places."""
        for name in names:
            user = self.users.get(name)
            if user is None:
                user = self.users[name] = User(self.home / name)
                if len(self.users) == 1:
                    user.quick("init", "--encryption", "none")
                    user.quick("key", "export", str(self.home / "key"))
                    user.quick("realm", "init", "--db", self.database, "--name", "site")
                else:
                    user.quick("init", "--join", str(self.home / "key"), "--encryption", "none")
            old = self.servers.get(name)
            place = f"127.0.0.1:{old.port}" if old is not None else "127.0.0.1:0"
            self.servers[name] = start_server(user, "--realm", self.database, name=name, listen=place)

    def join(self) -> None:
        """Make the administrator a client of the realm, once all servers have told that they are there."""
        first = next(iter(self.servers.values()))
        site = self.site(first.name)
        while len(site.view().servers) < len(self.servers):
            pass
        self.me.run("realm", "join", format_join(first.join(self.token(first.name))))

    def token(self, name: str) -> str:
        return self.servers[name].token("administer")

    def site(self, name: str) -> RemoteSite:
        return self.servers[name].site(self.token(name))

    def stop(self) -> None:
        for server in self.servers.values():
            server.kill()

    def write(self, name: str, text: str = "") -> None:
        """Change a file and commit."""
        (self.files / name).write_bytes((text or name).encode() + os.urandom(FILE_BYTES))
        self.do("import", "home", str(self.files))

    def do(self, *words: str, code: int | tuple[int, ...] = 0) -> Done:
        return self.me.quick(*words, code=code)

    def value(self, *words: str, code: int | tuple[int, ...] = 0) -> Any:
        return json.loads(self.do("--json", *words, code=code).out)

    def crossed(self, name: str) -> "Crossed":
        """Return what went over the network to and from a server."""
        bearer = {"Authorization": f"Bearer {self.token(name)}"}
        with urllib.request.urlopen(
            urllib.request.Request(self.servers[name].url + "/metrics", headers=bearer)
        ) as answer:
            text = answer.read().decode()
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return Crossed(
            sent=float(values["dalsegno_sent_bytes_total"]), received=float(values["dalsegno_received_bytes_total"])
        )

    def names(self, name: str) -> set[str]:
        """Return the files of the volume as one server has it."""
        return set(self.do("ls", f"//{name}/home:/").out.decode().split())


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    made = Realm(tmp_path)
    try:
        made.start("s1", "s2", "s3")
        made.join()
        yield made
    finally:
        made.stop()


def test_release_with_a_site_that_is_down(realm: Realm) -> None:
    """A dead site fails alone, with exit 3; when it is back one command shows the newest content everywhere."""
    realm.do("volume", "create", "home", "--replicas", "s1")
    realm.write("monday")
    realm.do("clone", "home", "monday")
    realm.do("release", "home", code=2)  # to nobody
    first = realm.value("release", "home@monday", "--to", "s2,s3")
    assert {site["server"]: site["outcome"] for site in first["sites"]} == {"s2": "released", "s3": "released"}
    assert realm.names("s2") == realm.names("s3") == {"monday"}
    realm.servers["s3"].kill()
    realm.write("tuesday")
    realm.do("clone", "home", "tuesday")
    second = realm.do("--json", "release", "home@tuesday", code=3)
    sites = {site["server"]: site for site in json.loads(second.out)["sites"]}
    assert sites["s2"]["outcome"] == "released" and sites["s3"]["outcome"] == "failed"
    assert sites["s3"]["error"]["code"] == "unavailable"
    assert 0 < sites["s2"]["bytes"] < first["sites"][0]["bytes"] + FILE_BYTES
    text = realm.do("release", "home@tuesday", code=3)
    assert "not released to s3" in text.error
    status = realm.do("--json", "release", "home", "--status", code=3)
    assert {site["server"]: site["current"] for site in json.loads(status.out)["sites"]} == {"s2": True, "s3": False}
    realm.start("s3")
    pulled = realm.value("release", "home", "--pull", "--to", "s3")
    assert pulled["sites"][0]["outcome"] in ("released", "already")  # its own server may have pulled before
    assert realm.names("s3") == {"monday", "tuesday"}
    # Back to the older clone, everywhere.
    realm.do("release", "home@monday")
    assert realm.names("s2") == realm.names("s3") == {"monday"}
    realm.do("release", "home", "--status")
    refused = realm.do("release", "home@monday", "--to", "s1", code=4)
    assert "s1" in refused.error
    realm.do("release", "home@never", code=6)
    realm.do("release", "home@monday", "--pull", code=2)
    realm.do("release", "home:/x", code=2)


def test_standby_is_followed_promoted_and_fails_back(realm: Realm) -> None:
    realm.do("volume", "create", "home", "--replicas", "s1")
    for number in range(3):
        realm.write(f"f{number}")
        realm.do("clone", "home", f"c{number}")
    lines = [json.loads(line) for line in realm.do("--json", "follow", "home", "--to", "s2", "--once").out.splitlines()]
    assert lines[-1] == {"volume": "home", "server": "s2", "ended": "done"}
    assert realm.names("s2") == {"f0", "f1", "f2"}
    assert set(realm.site("s2").state("home").clones) == {"c0", "c1", "c2"}
    status = realm.value("follow", "home", "--status")["standbys"]
    assert [(each["server"], each["revisions_behind"], each["clones_missing"]) for each in status] == [("s2", 0, 0)]
    # The standby's server dies while users write, and catches up by itself when it is back.
    realm.servers["s2"].kill()
    realm.write("while-s2-was-away")
    status = realm.do("--json", "follow", "home", "--status", code=3)
    assert json.loads(status.out)["standbys"][0]["error"]["code"] == "unavailable"
    realm.start("s2")
    realm.do("follow", "home", "--to", "s2", "--once")
    assert "while-s2-was-away" in realm.names("s2")
    # The writer dies with a commit that the standby has not: it is killed before it can follow.
    realm.servers["s2"].kill()
    realm.write("only-on-s1")
    realm.servers["s1"].kill()
    realm.start("s2")
    promoted = realm.value("promote", "home", "--server", "s2")
    assert promoted["writer"] == "s2" and promoted["away"] == ["s1"] and promoted["kept"]
    (realm.files / "only-on-s1").unlink()
    realm.write("only-on-s2")
    assert realm.names("s2") == {"f0", "f1", "f2", "while-s2-was-away", "only-on-s2"}
    # The old writer comes back, finds out that it is a standby, and what only it had is merged.
    realm.start("s1")
    realm.do("follow", "home", "--to", "s1", "--once")
    both = {"f0", "f1", "f2", "while-s2-was-away", "only-on-s1", "only-on-s2"}
    assert realm.names("s1") == realm.names("s2") == both
    # Fail back: one command.
    back = realm.do("promote", "home", "--server", "s1")
    assert b"s1 is the writer of home now" in back.out
    assert realm.value("promote", "home", "--server", "s1")["writer"] == "s1"  # again: nothing to do
    realm.do("unclone", f"home@{promoted['kept']}")
    realm.write("after")
    realm.do("follow", "home", "--to", "s2", "--once")
    assert "after" in realm.names("s2")
    assert realm.site("s1").state("home").head == realm.site("s2").state("home").head


def test_command_follows_itself_where_no_server_runs(realm: Realm) -> None:
    """A standby whose machine only runs `dal follow`, with the pool at hand."""
    realm.do("volume", "create", "home", "--replicas", "s1")
    realm.write("one")
    realm.servers["s2"].stop()
    s2 = realm.users["s2"]
    done = s2.quick("--json", "--pool", str(s2.home / "pool"), "follow", "home", "--to", "s2", "--once")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert lines[0]["news"] and lines[0]["origin"] == "s1" and lines[-1]["ended"] == "done"
    realm.write("two")
    process = subprocess.Popen(
        [*s2.command(), "--json", "--pool", str(s2.home / "pool"), "follow", "home"],
        cwd=s2.home,
        env=s2.environ({}),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    head = realm.site("s1").state("home").head.hex()
    while json.loads(process.stdout.readline())["head"] != head:
        pass
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130
    realm.start("s2")
    assert realm.names("s2") == {"one", "two"}


def test_volume_moves_while_a_writer_runs_and_movers_are_killed(realm: Realm) -> None:
    realm.do("volume", "create", "home", "--replicas", "s1")
    for number in range(5):
        realm.write(f"f{number}")
    realm.do("clone", "home", "before")
    written: list[str] = []
    failed: list[Done] = []
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            name = f"w{len(written)}"
            (realm.files / name).write_bytes(os.urandom(FILE_BYTES))
            done = realm.me.run("import", "home", str(realm.files), code=(0, 7, 9))
            if done.code:
                failed.append(done)
            written.append(name)

    writer = threading.Thread(target=work)
    writer.start()
    try:
        for delay in (0.3, 0.6, 0.9):
            mover = subprocess.Popen(
                [*realm.me.command(), "move", "home", "s1", "s2"],
                cwd=realm.me.home,
                env=realm.me.environ({}),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                mover.wait(delay)
            except subprocess.TimeoutExpired:
                mover.kill()
                mover.wait()
        for _ in range(LEASE_TRIES):  # who was killed in the frozen moment leaves a lease, which ends by itself
            done = realm.me.quick("--json", "move", "home", "s1", "s2", code=(0, 7))
            if done.code == 0:
                break
            time.sleep(0.5)
        moved = json.loads(done.out)
        assert moved["pause_seconds"] >= 0 and not moved["not_told"]
    finally:
        ended.set()
        writer.join()
    realm.write("after")
    assert realm.names("s2") == {*(f"f{number}" for number in range(5)), *written, "after"}
    assert set(realm.site("s2").state("home").clones) == {"before"}
    assert realm.site("s1").state("home").replicas.moved_to == "s2"  # type: ignore[union-attr]
    again = realm.value("move", "home", "s1", "s2")
    assert again["rounds"] == 0
    back = realm.value("move", "home", "s2", "s1")
    assert back["bytes"] < 5 * FILE_BYTES  # most of it is there still
    assert realm.names("s1") == {*(f"f{number}" for number in range(5)), *written, "after"}
    realm.do("move", "home", "s1", "s1", code=2)
    realm.do("move", "home", "s9", "s1", code=6)
    realm.do("move", "home", "s2", "s3", code=4)


def test_new_replica_fetches_the_volume_itself_and_all_crosses_the_network_once(realm: Realm) -> None:
    """The command only looks on: nothing of the volume goes through the client, and nothing goes twice."""
    realm.do("volume", "create", "home", "--replicas", "s1")
    for number in range(2):
        (realm.files / f"large{number}").write_bytes(os.urandom(LARGE_BYTES))
        realm.write(f"f{number}")
        realm.do("clone", "home", f"daily-{number}")
    volume_bytes = 2 * (LARGE_BYTES + FILE_BYTES)
    sent, received = (realm.crossed(name) for name in ("s1", "s2"))
    added = realm.value("replica", "add", "home", "s2", "--clones", "daily-*@last1")
    assert volume_bytes <= added["fetched"]["payload_bytes"] < 1.1 * volume_bytes
    assert added["brought"].get("s2", {"bytes": 0})["bytes"] < FILE_BYTES
    assert volume_bytes <= realm.crossed("s1").sent - sent.sent < 1.2 * volume_bytes
    assert realm.crossed("s2").received - received.received < 0.1 * volume_bytes
    assert set(realm.site("s2").state("home").clones) == {"daily-1"}
    assert realm.site("s2").state("home").role == "writer"
    realm.do("replica", "check", "home", "--deep")
    # A reader that becomes a writer, and one that is a writer already.
    realm.do("release", "home@daily-1", "--to", "s3")
    sent = realm.crossed("s1")
    assert realm.value("replica", "add", "home", "s3")["writers"] == ["s1", "s2", "s3"]
    assert realm.crossed("s1").sent - sent.sent < 1.2 * volume_bytes
    again = realm.value("replica", "add", "home", "s3")
    assert again["fetched"] is None and not again["brought"]


def test_new_replica_is_seeded_from_dumps_and_only_the_rest_crosses_the_network(realm: Realm) -> None:
    realm.do("volume", "create", "home", "--replicas", "s1")
    for number in range(10):
        realm.write(f"f{number}")
    realm.do("clone", "home", "full")
    place = realm.home / "media"
    place.mkdir()
    realm.do("dump", "home@full", "--level", "0", "-o", str(place / "full.dump"))
    realm.write("incremental")
    realm.do("clone", "home", "incr")
    realm.do("dump", "home@incr", "--level", "1", "-o", str(place / "incr.dump"))
    realm.write("rest")
    added = realm.value("replica", "add", "home", "s2", "--seed", str(place))
    seeded = added["seeded"]
    assert [Path(path).name for path in seeded["dumps"]] == ["full.dump", "incr.dump"]
    assert seeded["media_bytes"] > 11 * FILE_BYTES
    # Its server fetches the rest.
    assert added["fetched"]["payload_bytes"] < 3 * FILE_BYTES
    assert added["brought"].get("s2", {"bytes": 0})["bytes"] < FILE_BYTES
    assert set(realm.site("s2").state("home").clones) == {"full", "incr"}
    assert realm.names("s2") == realm.names("s1")
    realm.do("replica", "check", "home", "--deep")


def test_words_that_are_wrong(realm: Realm) -> None:
    realm.do("follow", "nothing", code=4)
    realm.do("promote", "nothing", code=4)
    realm.do("release", "nothing", "--to", "s2", code=4)
    realm.do("move", "nothing", "s1", "s2", code=6)
    realm.do("volume", "create", "home", "--replicas", "s1")
    realm.do("promote", "home", code=2)
    realm.do("follow", "home", "--to", "s1", code=4)
    realm.do("follow", "home", "--to", "s9", code=6)
    realm.do("follow", "home", "--from", "s2", "--to", "s3", code=4)
    realm.do("follow", "home", "--status", "--once", code=2)
    assert b"no standbys" in realm.do("follow", "home", "--status").out
    realm.do("release", "home", "--pull", "--status", code=2)
    realm.do("release", "home", "--to", "s2", code=4)  # empty
    realm.do("follow", "home", "--to", "s2", "--once")
    assert realm.value("promote", "home")["writer"] == "s2"
