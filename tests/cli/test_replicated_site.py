"""docs/guides/replicated-site.md, step by step, with real servers: what a new user does on one machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_kit import tree
from realm_kit import Person, Realm, running_realm

HAS_FUSE = os.path.exists("/dev/fuse") and os.getuid() == 0


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    with running_realm(tmp_path, "s1", "s2", "s3", tls=True) as made:
        yield made


class Mounted:
    """A volume that a person has mounted."""

    def __init__(self, person: Person, volume: str = "home") -> None:
        self.person = person
        self.path = person.home / "mnt"
        self.path.mkdir(exist_ok=True)
        person.quick("mount", volume, str(self.path))

    def write(self, name: str, text: str) -> None:
        """Write a file as who wants it to be safe: when this returns it is acknowledged."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(descriptor, text.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def end(self) -> None:
        self.person.quick("umount", str(self.path))


@pytest.mark.skipif(not HAS_FUSE, reason="!!! no /dev/fuse, or not root: mounts of replicated volumes ARE NOT TESTED")
def test_the_guide(realm: Realm, tmp_path: Path) -> None:
    # Join as a client.
    ada = realm.client("ada")
    status = ada.ask("realm", "status")
    assert [(each["server"], each["alive"]) for each in status["servers"]] == [("s1", True), ("s2", True), ("s3", True)]

    # Make a volume, mount it, write.
    assert (
        "made volume home on s1, s2, s3" in ada.quick("volume", "create", "home", "--replicas", "s1,s2,s3").out.decode()
    )
    home = Mounted(ada)
    home.write("doc/plan.txt", "the plan\n")
    assert len(realm.heads(ada)) == 1
    assert ada.quick("cat", "home:/doc/plan.txt").out == b"the plan\n"
    assert ada.quick("cat", "//s2/home:/doc/plan.txt").out == b"the plan\n"

    # Kill one, write on, restart it, see it caught up.
    realm.kill("s3")
    home.write("more", "more\n")
    realm.start("s3")
    assert len(realm.heads(ada)) == 2
    shown = ada.quick("ls", "home")
    assert b"s3 was behind" in shown.err and shown.out == b"doc/\nmore\n"
    assert len(realm.heads(ada)) == 1
    checked = ada.ask("replica", "check", "home", "--deep")
    assert checked[0]["differences"] == [] and checked[0]["objects"] > 0

    # Two sides that do not see each other: here by turns, in test_partition.py by a network that is cut.
    bob = realm.client("bob")
    realm.kill("s2", "s3")
    home.write("ada", "Ada's\n")
    home.write("doc/plan.txt", "Ada's plan\n")
    realm.kill("s1")
    realm.start("s2", "s3")
    (bob.home / "files").mkdir()
    bob.quick("restore", "home", "--to", "files")
    (bob.home / "files" / "bob").write_text("Bob's\n")
    (bob.home / "files" / "doc" / "plan.txt").write_text("Bob's plan\n")
    bob.quick("import", "home", "files")
    realm.start("s1")
    seen = bob.quick("ls", "home")
    assert b"diverged" in seen.err
    assert seen.out.decode().split() == ["ada", "bob", "doc/", "more"]
    conflicts = bob.ask("repair", "home")
    assert [each["path"] for each in conflicts] == ["doc/plan.txt"]
    sides = {side["name"]: bob.quick("cat", f"home:/doc/plan.txt/{side['name']}").out for side in conflicts[0]["sides"]}
    assert {b"Ada's plan\n", b"Bob's plan\n"} <= set(sides.values())
    mine = next(name for name, content in sides.items() if content == b"Ada's plan\n")
    bob.quick("repair", "home:/doc/plan.txt", "--keep", mine)
    assert bob.quick("cat", "home:/doc/plan.txt").out == b"Ada's plan\n"
    home.end()
    assert ada.quick("cat", "home:/doc/plan.txt").out == b"Ada's plan\n"
    assert len(realm.heads(ada)) == 1

    # Clone and dump.
    monday = ada.ask("clone", "home", "monday")
    assert monday["servers"] == ["s1", "s2", "s3"] and 0 < monday["pause_seconds"] < 30
    full = ada.ask("dump", "home@monday", "-o", "home.0.dump", "--level", "0")
    (bob.home / "files" / "bob").write_text("on Tuesday\n")
    bob.quick("restore", "home", "--to", "files", "--path", "doc")
    bob.quick("import", "home", "files")
    bob.quick("clone", "home", "tuesday")
    incr = ada.ask("dump", "home@tuesday", "-o", "home.1.dump", "--level", "1")
    assert full["level"] == 0 and incr["level"] == 1
    inspected = ada.quick("inspect", "home.1.dump").out.decode()
    assert "made against" in inspected and full["dump"][:12] in inspected
    ada.quick("verify", "home.0.dump", "home.1.dump")
    ada.quick("restore", "home@tuesday", "--to", "before")
    before = tree(ada.home / "before")

    # Lose everything.
    dumps = tmp_path / "media"
    dumps.mkdir()
    for name in ("home.0.dump", "home.1.dump"):
        (ada.home / name).rename(dumps / name)
    realm.destroy("s1", "s2", "s3")
    for path in tmp_path.glob("directory.db*"):
        path.unlink()
    _fresh_realm(realm, "s1", "s2", "s3")

    # And come back, on three fresh servers, with the dumps and the key.
    eve = realm.client("eve")
    words = ["restore", str(dumps / "home.0.dump"), str(dumps / "home.1.dump"), "--volume", "home"]
    back = eve.ask(*words, "--server", "s1,s2,s3")
    assert back["servers"] == ["s1", "s2", "s3"] and back["missing"] == []
    assert {line.split()[0] for line in eve.lines("clones", "home", "-q")} == {"home@monday", "home@tuesday"}
    eve.quick("restore", "home@tuesday", "--to", "after")
    assert tree(eve.home / "after") == before
    assert eve.ask("replica", "check", "home", "--deep")[0]["differences"] == []
    # It lives: it is written, and its lineage goes on.
    again = Mounted(eve)
    again.write("new", "new\n")
    again.end()
    assert eve.quick("cat", "home:/new").out == b"new\n" and len(realm.heads(eve)) == 1
    eve.quick("clone", "home", "wednesday")
    third = eve.ask("dump", "home@wednesday", "-o", "home.2.dump", "--level", "2")
    assert incr["dump"][:12] in eve.quick("inspect", "home.2.dump").out.decode() and third["level"] == 2

    # More replicas, fewer replicas.
    realm.start("s4")
    eve.quick("replica", "add", "home", "s4")
    assert eve.ask("replica", "check", "home", "--deep")[0]["servers"] == ["s1", "s2", "s3", "s4"]
    eve.quick("replica", "remove", "home", "s2")
    listed = eve.ask("replica", "list", "home")
    assert [(each["server"], each["clones"]) for each in listed["servers"]] == [("s1", 3), ("s3", 3), ("s4", 3)]


def _fresh_realm(realm: Realm, *names: str) -> None:
    """Make servers of the realm anew from the exported key."""
    key = realm.path / "realm.key"
    for name in names:
        user = realm.users[name] = Person(realm.path / name)
        user.quick("init", "--join", str(key))
        if name == names[0]:
            user.quick("realm", "init", "--db", realm.database, "--name", "site")
    realm.start(*names)
