"""A network that is cut in two: servers and clients in network namespaces, with real addresses and real silence.

        s1, ada -- switch a == cable == switch b -- s2, s3, bob

The directory is a file that all servers see; that it is not needed is tested in test_replicated.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli_kit import tree
from realm_kit import Network, Realm, running_network, running_realm


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Realm]:
    with running_network() as network:
        network.place("a", "s1", "ada")
        network.place("b", "s2", "s3", "bob")
        with running_realm(tmp_path, "s1", "s2", "s3", tls=True, network=network) as made:
            yield made


def cable(realm: Realm) -> Network:
    assert realm.network is not None
    return realm.network


def write(realm: Realm, name: str, **files: str) -> bytes:
    """Change files of a person's copy and import it; return what was said on the side."""
    person = realm.clients[name]
    directory = person.home / "files"
    directory.mkdir(exist_ok=True)
    for each, text in files.items():
        (directory / each).write_text(text)
    return person.quick("import", "home", "files").err


def test_both_sides_of_a_cut_network_write_and_are_merged(realm: Realm) -> None:
    ada, bob = realm.client("ada"), realm.client("bob")
    assert realm.servers["s2"].url.startswith("https://10.83.")
    ada.quick("volume", "create", "home", "--replicas", "s1,s2,s3")
    write(realm, "ada", common="first\n", plan="first\n")
    bob.quick("restore", "home", "--to", "files")

    cable(realm).cut()
    said = write(realm, "ada", ada="Ada's\n", plan="Ada's plan\n")
    assert b"without s2" in said and b"without s3" in said
    assert b"without s1" in write(realm, "bob", bob="Bob's\n", plan="Bob's plan\n")
    assert ada.quick("ls", "home").out == b"ada\ncommon\nplan\n"
    assert bob.quick("ls", "home").out == b"bob\ncommon\nplan\n"
    status = ada.ask("realm", "status", code=3)
    assert [(each["server"], each["alive"]) for each in status["servers"]] == [
        ("s1", True),
        ("s2", False),
        ("s3", False),
    ]

    cable(realm).heal()
    seen = ada.quick("ls", "home")
    assert b"diverged" in seen.err
    assert seen.out.decode().split() == ["ada", "bob", "common", "plan/"]
    assert len(realm.heads(bob)) == 1
    sides = {line: bob.quick("cat", f"home:/plan/{line}").out for line in bob.lines("ls", "home:/plan")}
    assert {b"Ada's plan\n", b"Bob's plan\n"} <= set(sides.values())
    settled = bob.home / "settled"
    settled.write_text("our plan\n")
    bob.quick("repair", "home:/plan", "--keep", str(settled))
    assert ada.quick("cat", "home:/plan").out == b"our plan\n"
    assert ada.ask("replica", "check", "home", "--deep")[0]["differences"] == []


def test_under_a_majority_only_the_larger_side_writes(realm: Realm) -> None:
    ada, bob = realm.client("ada"), realm.client("bob")
    ada.quick("volume", "create", "home", "--replicas", "s1,s2,s3", "--rule", "majority")
    write(realm, "ada", common="first\n")
    bob.quick("restore", "home", "--to", "files")

    cable(realm).cut()
    (ada.home / "files" / "ada").write_text("Ada's\n")
    refused = ada.quick("import", "home", "files", code=9)
    assert "1 of 3 writers have the commit" in refused.error
    waiting = ada.ask("realm", "status", code=3)["unacknowledged"]
    assert [each["volume"] for each in waiting] == ["home"]
    ada.quick("realm", "leave", "site", code=4)
    ada.quick("clone", "home", "lonely", code=9)
    write(realm, "bob", bob="Bob's\n")
    bob.quick("clone", "home", "kept")
    # What the smaller side has is read all the same, with what waits there.
    assert ada.quick("ls", "home").out == b"ada\ncommon\n"

    cable(realm).heal()
    assert ada.quick("ls", "home").out == b"ada\nbob\ncommon\n"
    assert ada.ask("realm", "status")["unacknowledged"] == []
    assert bob.quick("ls", "home").out == b"ada\nbob\ncommon\n"
    assert [line.split()[0] for line in ada.lines("clones", "home", "-q")] == ["home@kept"]
    assert len(realm.heads(bob)) == 1


def test_reading_goes_on_when_the_network_is_cut_in_the_middle(realm: Realm) -> None:
    ada = realm.client("ada")
    ada.quick("volume", "create", "home", "--replicas", "s1,s2,s3")
    files = ada.home / "files"
    files.mkdir()
    for number in range(30):
        (files / f"f{number}").write_bytes(number.to_bytes(4, "big") * 50_000)
    ada.quick("import", "home", "files")
    cable(realm).cut()
    ada.quick("restore", "//s2/home", "--to", "back")
    assert tree(ada.home / "back") == tree(files)
