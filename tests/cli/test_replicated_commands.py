"""Commands on volumes that are on servers, by the names that people give them: //SERVER/VOLUME, //REALM/VOLUME, VOLUME."""

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_kit import tree
from dalsegno.world.clock import SECOND_NS, now_ns
from realm_kit import Person, Realm, running_realm
from server_kit import start_server

HAS_FUSE = os.path.exists("/dev/fuse") and os.getuid() == 0
POLICY = """
timezone = "UTC"
state = "{home}/state"
[targets.disks]
kind = "directory"
paths = ["{home}/disk"]
[sets.homes]
volumes = {volumes}
cycle_days = 7
program = {{ monday = 0, tuesday = 2, wednesday = 1, thursday = 2, friday = 2, saturday = 3 }}
targets = ["disks"]
keep.clones = {{ last = 1 }}
keep.archive = {{ last = 2 }}
"""


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    with running_realm(tmp_path, "s1", "s2", "s3") as made:
        yield made


def fill(person: Person, *volumes: str, now: str = "", **files: str) -> None:
    directory = person.home / "files"
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    for volume in volumes:
        person.quick("import", volume, "files", DAL_NOW=now)


def test_every_name_of_a_volume_is_one(realm: Realm) -> None:
    me, other = realm.client("me"), realm.client("other")
    me.quick("volume", "create", "home", "--replicas", "s1,s2,s3")
    me.quick("volume", "create", "//s1/plain")
    # A volume that only its server knows of, not the directory.
    (realm.users["s2"].home / "files").mkdir()
    (realm.users["s2"].home / "files" / "a").write_text("own\n")
    realm.users["s2"].quick("import", "own", "files")
    fill(me, "home", "//s1/plain", a="first\n" * 5000)
    for name in ("home", "//s1/plain", "//s2/own"):
        me.quick("clone", name, "one")
    # All volumes at once, each read where it is, by who has nothing of them.
    assert {line.split("@")[0] for line in other.lines("find", "a")} == {"home", "plain", "own"}
    assert b"writers  s1, s2, s3, rule any" in other.quick("volume", "show", "//site/home").out
    for number, name in enumerate(("home", "//s3/home", "//site/home", "//s1/plain", "//s2/own")):
        # Dumps build on each other whether they went to a file or a pipe, and whoever made them.
        full, incr = f"{number}.full", f"{number}.incr"
        (me.home / full).write_bytes(me.quick("dump", name, "--level", "0", "-o", "-").out)
        recorded = me.ask("volume", "show", name)["dumps"][-1]
        assert (
            recorded["level"] == 0 and recorded["path"] == "-" and recorded["bytes"] == (me.home / full).stat().st_size
        )
        if number:  # of the first volume with the newest state as it was: an increment of nothing
            fill(me, name, a=f"changed {number}\n" * 5000)
        told = me.quick("dump", name, "--level", "1", "-o", incr, "--no-record").out.decode()
        assert "not recorded" in told
        assert other.ask("estimate", name, "--level", "2") == me.ask("estimate", name, "--level", "2")
        assert (other.ask("estimate", name, "--level", "1")[0]["bytes"] > 0) == (number > 0)
        marked = other.ask("mark", str(me.home / incr))
        assert marked["dump"] == me.ask("inspect", incr)["dump"]
        assert me.ask("estimate", name, "--level", "2")[0]["bytes"] == 0
        me.quick("merge", "-o", f"{number}.merged", full, incr)
        assert me.quick("cat", f"{number}.merged:/a").out == me.quick("cat", f"{name}:/a").out
    for words, code, said in (
        (("backup", "home"), 4, "dal import home DIR"),
        (("backup", "//s1/plain"), 4, "dal import //s1/plain DIR"),
        (("backup",), 6, "nothing to back up yet"),
        (("gc",), 6, "dal realm status"),
        (("verify", "--pool"), 6, "dal realm status"),
        (("dump", "home@one..latest", "-o", "x.dump"), 2, "one after the other"),
        (("restore", "0.full", "--volume", "again", "--server", "s1"), 4, "dal volume remove home"),
        (("restore", "0.full", "--volume", "//s2/home"), 4, "choose another name"),
        (("restore", "0.full", "--volume", "//site/again"), 2, "--server"),
    ):
        assert said in me.quick(*words, code=code).error, words
    assert {each["volume"] for each in me.ask("realm", "status")["volumes"]} == {"home", "plain", "own"}
    # On one server, named as everywhere else.
    me.quick("volume", "remove", "plain", "--yes")
    me.quick("restore", "3.full", "3.incr", "--volume", "//s3/plain")
    assert me.quick("cat", "//s3/plain:/a").out == b"changed 3\n" * 5000
    me.quick("hold", "home@one")
    assert "dal unhold home@one" in me.quick("volume", "remove", "home", "--yes", code=4).error


def test_dumps_are_read_with_the_key_of_their_realm(realm: Realm) -> None:
    """Who has a pool of his own beside need not say which pool a dump is of."""
    me = realm.client("me")
    me.quick("volume", "create", "home", "--replicas", "s1,s2")
    fill(me, "home", a="text\n")
    me.quick("dump", "home", "-o", "theirs")
    me.quick("init")
    me.quick("backup", "--pool", str(me.home / ".local/share/dalsegno/pool"), "files")
    me.quick("dump", "files", "-o", "mine")
    for named in ("", "site"):
        for dump in ("theirs", "mine"):
            assert me.quick("cat", f"{dump}:/a", DAL_REALM=named).out == b"text\n"
            for words in (("verify", dump), ("inspect", dump), ("restore", dump, "--to", "back"), ("mark", dump)):
                me.quick(*words, DAL_REALM=named)
    assert "--server" in me.quick("restore", "theirs", "--volume", "x", code=2, DAL_REALM="site").error
    # A file or a directory that is called like a volume does not hide it.
    (me.home / "home").mkdir()
    me.quick("import", "home", "files")
    me.quick("clone", "home", "one")
    assert me.quick("cat", "//site/home@one:/a").out == b"text\n"
    assert [each["volume"] for each in me.ask("volume", "list")] == ["files"]


def test_a_volume_whose_maker_died_is_forgotten(realm: Realm) -> None:
    me = realm.client("me")
    die = (
        "import os, dalsegno.replicas.remote as remote\n"
        "def die(*words, **named): os.kill(os.getpid(), 9)\n"
        "remote.RemoteSite.create = die\n"
    )
    me.quick("volume", "create", "home", "--replicas", "s1,s2", code=-9, before=die)
    me.quick("volume", "create", "home", "--replicas", "s1,s2", code=4)
    me.quick("volume", "remove", "home")
    me.quick("volume", "remove", "home", code=6)
    me.quick("volume", "create", "home", "--replicas", "s1,s2")


def test_removing_a_volume_by_a_read_only_site_asks_for_all_that_there_is(realm: Realm) -> None:
    me = realm.client("me")
    me.quick("volume", "create", "home", "--replicas", "s1")
    fill(me, "home", a="text\n")
    me.quick("clone", "home", "one")
    me.quick("release", "home@one", "--to", "s3")
    assert "1 clone," in me.quick("volume", "remove", "//s3/home", code=4).error
    me.quick("hold", "home@one")
    assert "dal unhold" in me.quick("volume", "remove", "//s3/home", "--yes", code=4).error
    me.quick("unhold", "home@one")
    me.quick("volume", "remove", "//s3/home", "--yes")
    me.quick("ls", "home", code=6)


def test_a_server_that_was_away_builds_on_dumps_it_has_not_heard_of(realm: Realm) -> None:
    me = realm.client("me")
    me.quick("volume", "create", "home", "--replicas", "s1,s2")
    fill(me, "home", a="one\n")
    realm.kill("s2")
    me.quick("dump", "home", "-o", "0.dump")
    fill(me, "home", a="two\n")
    me.quick("dump", "home", "-o", "1.dump")
    # It comes back with another clock, too: as wrong as one may be.
    clock = str(now_ns() - 20 * 3600 * SECOND_NS)
    words = ("--realm", realm.database)
    listen = f"127.0.0.1:{realm.servers['s2'].port}"
    realm.servers["s2"] = start_server(realm.users["s2"], *words, name="s2", listen=listen, DAL_NOW=clock)
    fill(me, "home", a="three\n")
    me.quick("ls", "home")
    realm.kill("s1")
    made = me.ask("dump", "home", "-o", "2.dump")
    assert made["server"] == "s2" and made["level"] == 2
    assert made["taken_ns"] > me.ask("inspect", "1.dump")["taken_ns"]
    assert me.quick("cat", "0.dump+1.dump+2.dump:/a").out == b"three\n"


@pytest.mark.skipif(not HAS_FUSE, reason="!!! no /dev/fuse, or not root: mounts of replicated volumes ARE NOT TESTED")
def test_a_mount_point_leads_to_a_volume_on_a_server(realm: Realm) -> None:
    me = realm.client("me")
    for name, servers in (("home", "s1,s2"), ("plain", "s3")):
        me.quick("volume", "create", name, "--replicas", servers)
        fill(me, name, a=f"of {name}\n")
    (me.home / "mnt").mkdir()
    me.quick("dump", "home", "-o", "home.dump")
    me.quick("mount", "home", "mnt")
    try:
        me.quick("mkmount", "mnt/there", "//s3/plain")
        assert (me.home / "mnt" / "there" / "a").read_text() == "of plain\n"
    finally:
        me.quick("umount", "mnt")
    me.quick("mount", "home.dump", "mnt")
    assert (me.home / "mnt" / "a").read_text() == "of home\n"
    me.quick("umount", "mnt")


class Nights:
    """A client who backs up volumes of servers, one night after the other."""

    def __init__(self, person: Person, volumes: str) -> None:
        self.person = person
        self.day = 0
        self.states: dict[str, dict[str, tuple[object, ...]]] = {}
        self.policy = person.home / "policy.toml"
        self.policy.write_text(POLICY.format(home=person.home, volumes=volumes))
        (person.home / "disk").mkdir()
        self.run("media", "label", f"{person.home}/disk", "disk-a", "--target", "disks")

    def run(self, *words: str, code: int | tuple[int, ...] = 0, hour: int = 2):  # type: ignore[no-untyped-def]
        now = f"2019-01-{7 + self.day:02d}T{hour:02d}:00:00Z"  # a Monday: the program's first day
        return self.person.quick(*words, code=code, DAL_NOW=now, DAL_POLICY=str(self.policy))

    def change(self, *volumes: str) -> None:
        (self.person.home / "files" / "day").write_text(f"{self.day}\n")
        for volume in volumes:
            self.run("import", volume, "files", hour=1)

    def night(self, *changed: str, code: int = 0) -> dict[str, tuple[str, int | None]]:
        """Change volumes, back up, and return state and level by volume."""
        if changed:
            self.change(*changed)
        self.states[f"2019-01-{7 + self.day:02d}"] = tree(self.person.home / "files")
        told = json.loads(self.run("--json", "backup", "--set", "all", code=code).out)
        self.day += 1
        return {each["volume"]: (each["state"], each["level"]) for each in told["volumes"]}


def test_the_cycle_over_servers(realm: Realm, tmp_path: Path) -> None:
    me = realm.client("me")
    me.quick("volume", "create", "home", "--replicas", "s1,s2,s3")
    me.quick("volume", "create", "//s1/plain")
    fill(me, "home", "plain", now="2019-01-06", a="text\n" * 2000)
    # Who has a pool of his own beside has nothing of it in this.
    me.quick("init")
    nights = Nights(me, '["//site/home", "//s1/*"]')
    assert nights.night("home", "plain") == {"home": ("done", 0), "plain": ("done", 0)}
    # Frozen, as a run that is killed leaves a volume for some seconds: that is waited for.
    server = realm.servers["s1"]
    nights.change("home", "plain")
    server.site(server.token("administer")).freeze("plain", owner="who was killed", seconds=6)
    assert nights.night() == {"home": ("done", 2), "plain": ("done", 2)}
    assert [each["clone"] for each in me.ask("clones", "//s2/home")] == ["2019-01-08T020000Z"]  # retention
    # A server of several is away; it hears of the dumps that it missed when it has to write the next one.
    realm.kill("s3")
    assert nights.night("home", "plain") == {"home": ("done", 1), "plain": ("done", 1)}
    realm.start("s3")
    nights.run("ls", "home")
    # Both others are away, and with s1 the only server of a volume: that one fails alone.
    realm.kill("s1", "s2")
    me.quick("realm", "status", code=3)
    assert nights.night("home", code=3) == {"home": ("done", 2), "plain": ("failed", 2)}
    # All of them: each volume fails, in one line, and what was dumped is there.
    realm.kill("s3")
    failed = nights.run("backup", "--set", "all", code=1)
    assert b"home FAILED: volume 'home': 0 of 3 writers answer" in failed.out
    assert b"home" in nights.run("status").out and b"home" in nights.run("plan", "-v").out
    shutil.rmtree(me.home / ".cache")  # all that this client knew of the servers
    for day, volume in (("2019-01-09", "home"), ("2019-01-09", "//s1/plain"), ("2019-01-10", "//site/home")):
        shutil.rmtree(me.home / "back", ignore_errors=True)
        nights.run("restore", f"{volume}@{day}", "--to", "back")
        assert tree(me.home / "back") == nights.states[day]
    told = nights.run("restore", "home", "--to", "newest")
    assert b"from dumps" in told.err and tree(me.home / "newest") == nights.states["2019-01-10"]
    assert "home" in nights.run("drill", "//s1/home").out.decode()
    # Nothing is left of the servers: the volume lives again on others, and its next dump continues the old ones.
    assert "dal catalog rebuild" in nights.run("restore", "--site", code=4).error
    chain = nights.run("retrieve", "//site/home", "-o", "dumps").out.decode().strip()
    realm.destroy("s1", "s2", "s3")
    for path in tmp_path.glob("directory.db*"):
        path.unlink()
    _fresh_servers(realm)
    me.quick("realm", "join", realm.join_string())
    me.quick("restore", chain, "--volume", "//s1/home", "--server", "s2")
    assert nights.night("home") == {"home": ("done", 2)}
    assert nights.night("home") == {"home": ("done", 3)}
    shutil.rmtree(me.home / "dumps")
    chain = nights.run("retrieve", "home", "-o", "dumps").out.decode().strip()
    assert len(chain.split("+")) == 4 and me.quick("cat", f"{chain}:/day").out == b"5\n"


def _fresh_servers(realm: Realm) -> None:
    for name in ("s1", "s2"):
        user = realm.users[name] = Person(realm.path / f"{name}-new")
        user.quick("init", "--join", str(realm.path / "realm.key"))
        if name == "s1":
            user.quick("realm", "init", "--db", realm.database, "--name", "site")
    realm.start("s1", "s2")


def test_a_policy_is_of_one_realm_or_of_one_pool(realm: Realm) -> None:
    me = realm.client("me")
    me.quick("volume", "create", "home", "--replicas", "s1")
    fill(me, "home", a="text\n")
    nights = Nights(me, '["home"]')
    nights.policy.write_text(POLICY.format(home=me.home, volumes='["home", "//s1/home"]'))
    assert "//SERVER/home" in nights.run("plan", code=2).error
    # Without a pool of his own his names are the realm's, as everywhere.
    nights.policy.write_text(POLICY.format(home=me.home, volumes='["home", "gone"]'))
    assert nights.night("home", code=3) == {"home": ("done", 0), "gone": ("failed", None)}
    nights.policy.write_text(POLICY.format(home=me.home, volumes='["//s9/home"]'))
    assert "joined" in nights.run("backup", "--set", "all", code=6).error


def test_a_server_that_lost_a_pack_gets_it_back_when_asked(realm: Realm) -> None:
    """The kind: damage that is named, and no command that mends it."""
    me = realm.client("me")
    me.quick("volume", "create", "home", "--replicas", "s1,s2,s3")
    fill(me, "home", a=random.Random(1).randbytes(200_000).hex())
    assert "nothing is lost" in me.lines("replica", "repair", "home")[0]
    pool = realm.users["s2"].home / "pool"
    max(pool.rglob("*.pack"), key=lambda path: path.stat().st_size).unlink()
    deadline = time.monotonic() + 30
    while not me.ask("replica", "check", "home", "--deep", code=(0, 3))[0]["differences"]:
        assert time.monotonic() < deadline, "the server never looks at its disk"
    assert "`dal replica repair home` brings" in me.lines("replica", "check", "home", "--deep", code=3)[-1]
    (told,) = me.lines("replica", "repair", "home")
    assert told.startswith("home: s2 got back ")
    assert me.ask("replica", "check", "home", "--deep")[0]["differences"] == []
