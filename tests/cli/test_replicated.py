"""Commands on realms, with real servers: rights, directories that are away, a user's own pool beside, kill -9."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_kit import KILLED, SOURCE, User
from postgres_kit import Postgres, running_postgres
from realm_kit import Person, Realm, running_realm

STEPS_MAX = 60


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    with running_realm(tmp_path, "s1", "s2", "s3") as made:
        yield made


def files_of(person: Person, **files: str) -> str:
    directory = person.home / "files"
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    return str(directory)


def test_a_realm_goes_on_without_its_postgresql(tmp_path: Path) -> None:
    with running_postgres() as server, running_realm(tmp_path, "s1", "s2", database=server.url) as realm:
        _without_directory(realm, server)


def _without_directory(realm: Realm, server: Postgres) -> None:
    me = realm.client("me")
    me.quick("volume", "create", "home", "--replicas", "s1,s2")
    me.quick("import", "home", files_of(me, a="first\n"))
    server.stop()
    me.quick("import", "home", files_of(me, a="second\n"))
    me.quick("clone", "home", "monday")
    assert me.quick("cat", "home@monday:/a").out == b"second\n"
    assert "cannot be changed now" in me.quick("volume", "create", "other", "--replicas", "s1", code=9).error
    realm.users["s1"].quick("token", "add", "--right", "read", code=9)
    # Restarted while the directory is away, a server goes on from memory: tokens, places and all.
    realm.servers["s1"].stop()
    realm.servers["s1"] = _start_again(realm, "s1")
    assert me.quick("cat", "//s1/home:/a").out == b"second\n"
    server.start()
    for _ in range(600):
        done = me.quick("volume", "create", "other", "--replicas", "s1", code=(0, 9))
        if done.code == 0:
            break
    assert me.quick("volume", "list", "-q").out.decode().split()[0] == "home"


def _start_again(realm: Realm, name: str):  # type: ignore[no-untyped-def]
    from server_kit import start_server

    old = realm.servers[name]
    return start_server(realm.users[name], "--realm", realm.database, name=name, listen=f"127.0.0.1:{old.port}")


def test_rights(realm: Realm) -> None:
    me = realm.client("me")
    for name in ("home", "secret"):
        me.quick("volume", "create", name, "--replicas", "s1,s2,s3")
        me.quick("import", name, files_of(me, a="text\n"))
    reader = realm.client("reader", "read", volumes=("home",))
    assert reader.quick("cat", "home:/a").out == b"text\n"
    assert [each["volume"] for each in reader.ask("volume", "list")] == ["home"]
    assert [each["volume"] for each in reader.ask("realm", "status")["volumes"]] == ["home"]
    reader.quick("ls", "secret", code=8)
    reader.quick("import", "home", files_of(reader, a="mine\n"), code=8)
    reader.quick("clone", "home", code=8)
    reader.quick("volume", "create", "new", "--replicas", "s1", code=8)
    reader.quick("volume", "remove", "home", "--yes", code=8)
    assert reader.ask("realm", "status")["unacknowledged"] == []
    # A reader meets replicas that differ: he sees the newest and brings nobody up to date.
    realm.kill("s3")
    me.quick("import", "home", files_of(me, a="newer\n"))
    realm.start("s3")
    assert reader.quick("cat", "home:/a").out == b"newer\n"
    assert len(realm.heads(me)) == 2
    # Revoked, on all servers.
    tokens = realm.users["s2"].ask("token", "list")
    gone = next(each["id"] for each in tokens if each["volumes"] == ["home"])
    realm.users["s2"].quick("token", "revoke", gone)
    for _ in range(600):
        if reader.quick("ls", "home", code=(0, 8)).code == 8:
            return
    raise AssertionError("a revoked token still opens")


def test_names_of_ones_own_pool_come_first(realm: Realm, tmp_path: Path) -> None:
    me = realm.client("me")
    me.quick("volume", "create", "home", "--replicas", "s1,s2,s3")
    me.quick("import", "home", files_of(me, a="remote\n"))
    assert me.quick("cat", "home:/a").out == b"remote\n"
    me.quick("init")
    assert me.quick("cat", "home:/a").out == b"remote\n"  # only the realm has the name
    (me.home / "own").mkdir()
    (me.home / "own" / "a").write_text("local\n")
    me.quick("--pool", str(me.home / ".local/share/dalsegno/pool"), "import", "home", "own")
    assert me.quick("cat", "home:/a").out == b"local\n"
    assert me.quick("cat", "//site/home:/a").out == b"remote\n"
    assert me.quick("cat", "//s3/home:/a").out == b"remote\n"
    assert me.quick("cat", "home:/a", DAL_REALM="site").out == b"remote\n"
    me.quick("import", "fresh", "own")
    assert [
        each["volume"] for each in me.ask("--pool", str(me.home / ".local/share/dalsegno/pool"), "volume", "list")
    ] == [
        "fresh",
        "home",
    ]


def test_bad_words(realm: Realm) -> None:
    me = realm.client("me")
    me.quick("volume", "create", "home", "--replicas", "s1,s2")
    for words, code in (
        (("ls", "//s9/home"), 6),
        (("ls", "//s1"), 2),
        (("ls", "//s1/"), 2),
        (("ls", "//s1/nothing"), 6),
        (("ls", "nothing"), 6),
        (("volume", "create", "home", "--replicas", "s1"), 4),
        (("volume", "create", "x", "--replicas", "s1,s9"), 6),
        (("volume", "create", "x", "--replicas", ""), 2),
        (("volume", "create", "x", "--replicas", "s1", "--source", "/tmp"), 2),
        (("volume", "create", "../x", "--replicas", "s1"), 2),
        (("volume", "rename", "home", "y"), 4),
        (("replica", "add", "home", "s9"), 6),
        (("replica", "remove", "home", "s3"), 6),
        (("realm", "join", "dal://127.0.0.1:1/?token=x"), 9),
        (("realm", "join", "nothing"), 2),
        (("realm", "status", "other"), 6),
        (("realm", "leave", "other"), 6),
        (("realm", "remove-server", "s1"), 4),
        (("dump", "home", "-o", "x.dump"), 6),
        (("clone", "home", "x"), 4),
    ):
        done = me.quick(*words, code=code)
        assert done.error
    # Joined again with another size of the cache: what servers have does not stay.
    me.quick("realm", "join", realm.join_string(), "--cache", "much", code=2)
    me.quick("realm", "join", realm.join_string(), "--cache", "1K")
    me.quick("realm", "join", realm.join_string())
    me.quick("import", "home", files_of(me, a="text\n" * 1000, b=os.urandom(3000).hex()))
    assert not list((me.home / ".cache/dalsegno/realms/site/pool/packs").rglob("*.pack"))
    wrong = realm.join_string().replace("tls=no", "")
    me.quick("realm", "join", wrong.rstrip("&"), code=(8, 9))
    me.quick("realm", "leave", "site")
    assert not (me.home / ".cache" / "dalsegno" / "realms" / "site").exists()
    assert "was joined here" in me.quick("ls", "//s1/home", code=6).error
    stranger = User(me.home.parent / "stranger", environment={"DAL_POOL": ""})
    stranger.quick("realm", "status", code=6)


def test_replicas_join_with_history_and_a_part_of_it(realm: Realm) -> None:
    me = realm.client("me")
    me.quick("volume", "create", "home", "--replicas", "s1")
    for day in range(4):
        me.quick("import", "home", files_of(me, **{f"f{day}": str(day) * 3000}))
        me.quick("clone", "home", f"daily-{day}")
    me.quick("replica", "add", "home", "s2")
    me.quick("replica", "add", "home", "s3", "--clones", "daily-*@last2")
    listed = {each["server"]: each for each in me.ask("replica", "list", "home")["servers"]}
    assert [listed[name]["clones"] for name in ("s1", "s2", "s3")] == [4, 4, 2]
    assert me.ask("replica", "check", "home", "--deep")[0]["differences"] == []
    # A server that comes back with an empty pool is filled.
    realm.destroy("s2")
    realm.start("s2")
    me.quick("ls", "home")
    assert me.ask("replica", "check", "home", "--deep")[0]["differences"] == []
    assert {each["server"]: each["clones"] for each in me.ask("replica", "list", "home")["servers"]}["s2"] == 4
    # From dumps carried by hand.
    me.quick("dump", "home@daily-1", "-o", "full.dump", "--level", "0")
    me.quick("dump", "home@daily-3", "-o", "incr.dump", "--level", "1")
    realm.start("s4")
    seeded = me.ask("replica", "add", "home", "s4", "--seed", "full.dump+incr.dump")
    assert seeded["seeded"]["objects"] > 0 and seeded["seeded"]["media_bytes"] > 0
    assert me.ask("replica", "check", "home", "--deep")[0]["differences"] == []
    # Gone for good.
    realm.kill("s3")
    me.quick("replica", "remove", "home", "s3", code=9)
    me.quick("replica", "remove", "home", "s3", "--force")
    me.quick("realm", "remove-server", "s3")
    assert [each["server"] for each in me.ask("realm", "status")["servers"]] == ["s1", "s2", "s4"]


def test_a_dump_goes_through_a_pipe(realm: Realm) -> None:
    me = realm.client("me")
    me.quick("volume", "create", "home", "--replicas", "s1,s2")
    me.quick("import", "home", files_of(me, a="text\n" * 1000))
    data = me.quick("dump", "//s2/home", "-o", "-").out
    (me.home / "x.dump").write_bytes(data)
    me.quick("verify", "x.dump")
    assert me.quick("cat", "x.dump:/a").out == b"text\n" * 1000
    me.quick("dump", "home", "-o", "x.dump", code=(0, 4))


def test_a_client_killed_at_any_step_leaves_nothing_half(realm: Realm) -> None:
    """kill -9 before each durable step of an import: what was acknowledged stays, the next import completes."""
    me, other = realm.client("me"), realm.client("other")
    me.quick("volume", "create", "home", "--replicas", "s1,s2,s3")
    me.quick("import", "home", files_of(me, base="base\n"))
    for step in itertools.count(1):
        assert step < STEPS_MAX
        text = f"step {step}\n" * 100
        done = me.quick("import", "home", files_of(me, changed=text), code=(0, KILLED), DAL_FAULT=f"kill:{step}")
        assert other.quick("cat", "home:/base").out == b"base\n"
        if done.code == 0:
            break
        if step % 3 == 0:  # the cache may go, too, when nothing waits in it
            waiting = me.ask("realm", "status", code=(0, 3))["unacknowledged"]
            if not waiting:
                shutil.rmtree(me.home / ".cache")
        me.quick("import", "home", files_of(me))
        assert other.quick("cat", "home:/changed").out.decode() == text
        assert len(realm.heads(other)) == 1
    assert me.ask("realm", "status")["unacknowledged"] == []
    assert me.ask("replica", "check", "home", "--deep")[0]["differences"] == []
    for server in realm.servers.values():
        assert server.is_running()


def test_a_volume_can_be_read_while_a_commit_waits_for_room_on_a_server(tmp_path: Path) -> None:
    """Kind: what cannot be written keeps people from reading."""
    place = tmp_path / "s1"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place], check=False).returncode:
        pytest.skip("A SERVER WITHOUT ROOM IS NOT TESTED: no tmpfs can be mounted")
    try:
        with running_realm(tmp_path, "s1") as realm:
            me, other = realm.client("me"), realm.client("other")
            me.quick("volume", "create", "home", "--replicas", "s1")
            me.quick("import", "home", files_of(me, a="first\n"))
            filler = place / "filler"
            filler.write_bytes(os.urandom(shutil.disk_usage(place).free - 100_000))
            (Path(files_of(me, b="second\n")) / "large").write_bytes(os.urandom(2_000_000))
            said = me.quick("import", "home", files_of(me), code=9).err.decode()
            assert "waits" in said and "disk of server s1 is full" in said and str(place) not in said
            shown = me.quick("cat", "home:/b")
            assert shown.out == b"second\n" and b"waits here" in shown.err and str(place).encode() not in shown.err
            assert me.quick("cat", "home:/a").out == other.quick("cat", "home:/a").out == b"first\n"
            other.quick("cat", "home:/b", code=6)
            filler.unlink()
            me.quick("import", "home", files_of(me, c="third\n"))
            assert other.quick("cat", "home:/b").out == b"second\n"
            assert me.ask("realm", "status")["unacknowledged"] == []
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_coordinator_killed_in_a_clone_freezes_nobody_for_long(realm: Realm) -> None:
    me, other = realm.client("me"), realm.client("other")
    me.quick("volume", "create", "home", "--replicas", "s1,s2,s3")
    me.quick("import", "home", files_of(me, a="first\n"))
    before = (
        "import os, dalsegno.replicas.remote as remote\n"
        "def die(*words, **named): os.kill(os.getpid(), 9)\n"
        "remote.RemoteSite.clone = die\n"
    )
    me.quick("clone", "home", "dies", code=KILLED, before=before)
    # Its leases end by themselves within half a minute; a commit waits for that.
    other.quick("import", "home", files_of(other, a="second\n"))
    assert me.quick("cat", "home:/a").out == b"second\n"
    me.quick("clone", "home", "lives")
    assert [line.split()[0] for line in me.lines("clones", "home", "-q")] == ["home@lives"]


def test_local_commands_load_nothing_of_realms(tmp_path: Path) -> None:
    user = User(tmp_path / "me")
    user.quick("init", "--encryption", "none")
    (user.home / "doc").mkdir()
    user.quick("backup", "doc")
    script = (
        "import sys, json\nfrom dalsegno.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(json.dumps(sorted(name for name in sys.modules if 'dalsegno.replicas' in name or 'sqlalchemy' == name"
        " or name == 'http.client' or 'remote' in name)))\n"
    )
    for words in (["ls"], ["ls", "doc"], ["clones", "doc"], ["volume", "list"], ["log", "doc"], ["clone", "doc", "x"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            env=user.environ({"PYTHONPATH": str(SOURCE)}),
            cwd=user.home,
            capture_output=True,
            check=True,
        )
        assert json.loads(done.stdout.splitlines()[-1]) == [], words
