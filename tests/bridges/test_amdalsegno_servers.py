"""The Amanda application on volumes of a realm's servers: the same calls and answers, and servers that are away."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from amdalsegno_kit import Client, Told

from cli_kit import tree
from dalsegno.actions import amanda as actions
from dalsegno.assembly.realm import open_realm
from dalsegno.terms.errors import Conflict
from realm_kit import Person, Realm, running_realm


@dataclass
class Remote(Client):
    """A host without a pool, whose owner joined a realm."""

    person: Person
    place: str = "//site"

    def command(self, command: str, *options: str, pool: str = "", key: str = "") -> list[str]:
        return super().command(command, *options, pool=pool or self.place, key=key or "-")

    def importing(self, **files: bytes) -> None:
        for name, data in files.items():
            (self.user.home / "doc" / name).write_bytes(data)
        self.person.quick("import", "doc", "doc")

    def restore(self, target: Path, *images: bytes, paths: tuple[str, ...] = (".",)) -> list[Told]:
        target.mkdir()
        words = ("--disk", "doc", "--device", "doc")
        return [
            self.call("restore", *words, "--level", str(level), *paths, stdin=image, cwd=target)
            for level, image in enumerate(images)
        ]


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Realm]:
    with running_realm(tmp_path_factory.mktemp("realm"), "s1", "s2") as made:
        yield made


@pytest.fixture
def client(realm: Realm) -> Iterator[Remote]:
    person = realm.client(f"client{len(realm.clients)}")
    (person.home / "doc" / "d").mkdir(parents=True)
    (person.home / "doc" / "d" / "inner").write_text("inner")
    person.quick("volume", "create", "doc", "--replicas", "s1,s2")
    made = Remote(user=person, person=person)
    made.importing(plan=os.urandom(300_000))
    yield made
    realm.start(*(name for name in realm.servers if not realm.servers[name].is_running()))
    person.quick("volume", "remove", "doc", "--yes")


def records(realm: Realm, server: str) -> list[tuple[int, str]]:
    """Return level and recorder of the dumps that a server noted."""
    return [
        (each["level"], each["path"].rpartition(" ")[0])
        for each in realm.users[server].ask("volume", "show", "doc")["dumps"]
    ]


def test_levels_of_a_volume_on_servers_are_dumped_recorded_there_and_restored(realm: Realm, client: Remote) -> None:
    check = client.call("selfcheck", "--disk", "doc", "--device", "doc")
    assert check.out.decode().splitlines() == ["OK amdalsegno", "OK volume //site/doc"]
    assert [int(line.split()[1]) > 290 for line in client.estimate(0)] == [True]
    full = client.backup(0)
    assert full.code == 0 and not full.err and full.index == ["/", "/d/", "/d/inner", "/plan", "/./"], full.messages
    assert full.messages[-1] == f"sendbackup: size {-(-len(full.out) // 1024)}"
    recorder = "amanda:daily:h:doc"
    assert records(realm, "s1") == records(realm, "s2") == [(0, recorder)]
    clones = client.person.ask("clones", "doc")
    assert [each["clone"] for each in clones] == ["amanda"]
    # Young enough, the clone is dumped again; an older one is replaced, on all servers.
    client.importing(new=os.urandom(20_000))
    assert client.estimate(0, 1)[1] == "1 1 1"
    zero, one, two = client.estimate(0, 1, 2, options=("--clone-age", "0s"))
    assert int(zero.split()[1]) > 310 and 20 <= int(one.split()[1]) < 30 and two.split()[1:] == one.split()[1:]
    increment = client.backup(1)
    assert increment.index == ["/", "/new", "/././"] and len(increment.out) < len(full.out) / 10
    assert records(realm, "s1") == records(realm, "s2") == [(0, recorder), (1, recorder)]
    assert client.call("index", "--disk", "doc", "--level", "1", stdin=increment.out).out.decode().splitlines() == (
        increment.index
    )
    assert client.call("validate", "--disk", "doc", "--level", "1", stdin=increment.out).code == 0
    # Dumps by hand count for themselves.
    assert "no recorded dump below level 1" in client.person.quick("dump", "doc", "--level", "1", code=4).error
    # An increment alone: the servers have the rest.
    (alone,) = client.restore(client.user.home / "alone", increment.out)
    assert alone.code == 0 and tree(client.user.home / "alone") == tree(client.user.home / "doc"), alone.err
    realm.kill("s1", "s2")
    told = client.restore(client.user.home / "back", full.out, increment.out)
    assert [each.code for each in told] == [0, 0] and tree(client.user.home / "back") == tree(client.user.home / "doc")


def test_one_server_is_enough_and_the_other_hears_of_the_dump_later(realm: Realm, client: Remote) -> None:
    recorder = "amanda:daily:h:doc"
    realm.kill("s1")
    full = client.backup(0)
    assert full.code == 0 and records(realm, "s1") == []
    realm.start("s1")
    realm.kill("s2")
    # The one that answers now was away then: it hears of the full, and builds on that.
    client.importing(new=b"new")
    increment = client.backup(1, "--clone-age", "0s")
    assert increment.code == 0 and increment.index == ["/", "/new", "/././"], increment.messages
    assert records(realm, "s1") == [(0, recorder), (1, recorder)]
    realm.start("s2")
    assert client.backup(2, "--clone-age", "0s").code == 0
    assert records(realm, "s1") == records(realm, "s2") == [(0, recorder), (1, recorder), (2, recorder)]
    # A new full takes the place of what is above it, on all of them.
    assert client.backup(0, "--clone-age", "0s").code == 0
    assert records(realm, "s1") == records(realm, "s2") == [(0, recorder), (0, recorder)]


def test_servers_that_are_away_are_said_where_amanda_looks_for_it(realm: Realm, client: Remote) -> None:
    client.backup(0)  # the volume as it was seen last is known here from now on
    realm.kill("s1", "s2")
    told = client.backup(1)
    assert told.code == 2 and not told.out and not told.err and len(told.messages) == 1
    assert told.messages[0].startswith("sendbackup: error [") and "s1" in told.messages[0]
    lines = client.estimate(0, 1)
    assert lines[0].startswith("ERROR ") and lines[1:] == ["0 -1 -1", "1 -1 -1"]
    check = client.call("selfcheck", "--disk", "doc", "--device", "doc")
    assert check.code == 0 and [line[:6] for line in check.out.decode().splitlines()] == ["OK amd", "ERROR "]
    realm.start("s1", "s2")
    status = client.person.ask("realm", "status", code=(0, 3))["volumes"]
    assert [replica["frozen"] for each in status for replica in each["replicas"]] == [False, False]
    assert len(records(realm, "s1")) == len(records(realm, "s2")) == 1


def test_servers_that_die_in_the_middle_of_a_dump_leave_nothing_recorded(realm: Realm, client: Remote) -> None:
    client.importing(big=os.urandom(30_000_000))
    client.estimate(0)
    messages = client.user.home / "messages"
    words = ["sh", "-c", 'exec 3>"$1" 4>/dev/null; shift; exec "$@"', "sh", str(messages)]
    words += client.command("backup", "--disk", "doc", "--level", "0", "--index", "line", "--record")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env=client.environ())
    assert process.stdout is not None and len(process.stdout.read(100_000)) == 100_000
    realm.kill("s1", "s2")
    assert len(process.stdout.read()) < 29_000_000 and process.wait(60) == 2
    told = messages.read_text().splitlines()
    assert len(told) == 1 and told[0].startswith("sendbackup: error ["), told
    realm.start("s1", "s2")
    assert records(realm, "s1") == records(realm, "s2") == []


def test_dump_of_another_state_than_was_planned_is_not_passed_on(
    client: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(client.user.home))
    written: list[bytes] = []
    with open_realm("site") as house:
        fresh = actions.fresh_clone(house, "doc", "amanda", age_seconds=60)
        plan = actions.plan(house, "doc", "amanda", fresh.clone, level=0, recorder="r")
        client.importing(new=b"new")
        client.person.quick("unclone", "doc@amanda")
        client.person.quick("clone", "doc", "amanda")
        with pytest.raises(Conflict, match="it sent revision"):
            actions.write(house, plan, written.append, dense=False)
    assert not written


def test_token_that_may_only_read_is_enough_to_restore_and_not_to_dump(realm: Realm, client: Remote) -> None:
    client.backup(0)
    client.importing(new=b"new")
    increment = client.backup(1, "--clone-age", "0s")
    person = realm.client(f"client{len(realm.clients)}", "read")
    reader = Remote(user=person, person=person)
    told = reader.call("selfcheck", "--disk", "doc", "--device", "doc")
    assert b"\nERROR s" in told.out and b"does not give the right to write" in told.out, told.out
    assert reader.estimate(0)[1:] == ["0 -1 -1"]
    dumped = reader.backup(1)
    assert not dumped.out and "right to write" in dumped.messages[0] and len(dumped.messages) == 1
    (alone,) = reader.restore(person.home / "alone", increment.out)
    assert alone.code == 0 and tree(person.home / "alone") == tree(client.user.home / "doc"), alone.err


def test_servers_and_volumes_are_named_by_properties(client: Remote) -> None:
    client.place = "/nowhere"
    words = ("--disk", "doc", "--device", "doc")
    for server in ("site", "s1"):
        told = client.call("selfcheck", *words, "--server", server)
        assert told.out.decode().splitlines()[1] == f"OK volume //{server}/doc"
    found = json.loads(b"[" + client.call("discover", "--device", "d*", "--server", "site").out + b"]")
    assert [each["dle_name"] for each in found] == ["doc"]
    for options, text in (
        (("--server", "site", "--pool", "/x"), "POOL and SERVER"),
        (("--server", "site", "--compression", "best"), "COMPRESSION best"),
        (("--server", "s9"), "//s9: no server of a realm that was joined here"),
    ):
        told = client.call("selfcheck", *words, *options)
        assert [text in line for line in told.out.decode().splitlines() if line.startswith("ERROR ")] == [True]


def test_install_without_a_pool_takes_the_realm_of_who_installs(client: Remote) -> None:
    if os.getuid() != 0:
        pytest.skip("!!! only root may install the application")
    words = ("amanda", "install", "--applications", str(client.user.home), "--user", "root")
    said = client.person.lines(*words)
    assert said[:2] == [
        f"{client.user.home}/amdalsegno: works on //site, as root joined it",
        "tried as root: it answers",
    ]
    words = (str(client.user.home / "amdalsegno"), "selfcheck", "--config", "daily", "--host", "h", "--disk", "doc")
    told = subprocess.run(words, capture_output=True, env={}, check=True)  # of who installed, nothing but the script
    assert told.stdout.decode().splitlines() == ["OK amdalsegno", "OK volume //site/doc"]
    for pattern in ((), ("//s1/d*",)):
        assert client.person.lines("amanda", "disklist", *pattern) == ["localhost doc dalsegno"]
