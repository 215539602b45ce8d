"""A token that only appends makes volumes that its patterns name and adds to them; it takes nothing away from anybody."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from served_kit import Served

from cli_kit import User, tree
from dalsegno.formats.join import format_join
from dalsegno.replicas.tokens import fitting_name
from dalsegno.terms.errors import AlreadyThere, DalError, NoAccess
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import NATIVE, READER, TRACKED, WRITER, ReplicaSet, VolumeState

NEW = VolumeState(
    id=bytes(range(16)),
    name="lap-new",
    kind=NATIVE,
    source=b"",
    created_ns=1,
    role=WRITER,
    replicas=ReplicaSet(version=1, writers=["s1"]),
)
DUMP = DumpRecord(dump_id=bytes(16), level=0, revision=bytes(32), base_dump=b"", taken_at_ns=1, path="/x", size_bytes=1)


def like(**changes: object) -> VolumeState:
    return msgspec.structs.replace(NEW, **changes)


@pytest.mark.parametrize(
    ("patterns", "name"),
    [
        (["*"], "documents"),
        (["laptop-*"], "laptop-documents"),
        (["x", "laptop-*"], "laptop-documents"),
        (["doc*", "laptop-*"], "documents"),
        (["*-ada"], "documents-ada"),
        (["a-*-b"], "a-documents-b"),
    ],
)
def test_a_new_volume_gets_a_name_that_the_token_is_for(patterns: list[str], name: str) -> None:
    assert fitting_name(patterns, "documents") == name


@pytest.mark.parametrize("patterns", [[], ["home"], ["h?me"], ["[a-z]x*"]])
def test_no_name_is_made_up_where_none_can_fit(patterns: list[str]) -> None:
    with pytest.raises(NoAccess, match="no volume like 'documents'"):
        fitting_name(patterns, "documents")


@pytest.mark.parametrize(
    "state",
    [
        like(name="home"),
        like(name="other"),
        like(settings={"quota_bytes": 1}),
        like(dumps=[DUMP]),
        like(head=bytes(32)),
        like(clones={"x": Clone(revision=bytes(32), created_ns=1)}),
        like(kind=TRACKED, source=b"/etc"),
        like(role=READER),
        like(replicas=None),
        like(replicas=ReplicaSet(version=1, writers=["s2"])),
        like(replicas=ReplicaSet(version=1, writers=["s1", "s2"])),
        like(replicas=ReplicaSet(version=2, writers=["s1"])),
        like(replicas=ReplicaSet(version=1, writers=["s1"], readers=["s2"])),
        like(replicas=ReplicaSet(version=1, writers=["s1"], moved_to="s2")),
        like(replicas=ReplicaSet(version=1, writers=["s1"], clones={"s1": "none"})),
    ],
)
def test_a_volume_that_binds_others_is_not_made(served: Served, state: VolumeState) -> None:
    """Kind of fault: a right to add that can be used to take away or to steer."""
    site = served.server.site(served.server.token("append", volumes=("lap-*",)))
    state = msgspec.structs.replace(state, id=os.urandom(16))
    with pytest.raises(NoAccess):
        site.create(state)
    administrator = served.server.site(served.token)
    assert {each.name for each in administrator.states()} == {"home"}


def test_an_empty_volume_is_made_once_and_no_other_takes_its_place(served: Served) -> None:
    site = served.server.site(served.server.token("append", volumes=("lap-*",)))
    name = served.server.name
    new = msgspec.structs.replace(NEW, replicas=ReplicaSet(version=1, writers=[name]))
    home = served.server.site(served.token).state("home")
    made = site.create(new)
    assert (made.name, made.head, made.settings) == ("lap-new", b"", {}) and site.create(new) == made
    for state in (msgspec.structs.replace(new, id=os.urandom(16)), msgspec.structs.replace(new, name="lap-b")):
        with pytest.raises(AlreadyThere):
            site.create(state)
    with pytest.raises(AlreadyThere, match="lap-home") as told:
        site.create(msgspec.structs.replace(new, name="lap-home", id=home.id))
    assert "'home'" not in str(told.value), "the name of another's volume is not told"
    served.server.site(served.token).remove("lap-new")


@pytest.fixture
def laptop(served: Served, tmp_path: Path) -> User:
    token = served.server.token("append", volumes=("lap-*",))
    user = User(tmp_path / "laptop", {"DAL_POOL": ""})
    (user.home / "doc").mkdir()
    (user.home / "doc" / "a").write_text("a")
    (user.home / "doc" / "b.iso").write_text("b")
    user.quick("realm", "join", format_join(served.server.join(token)))
    return user


def test_a_laptop_backs_up_to_the_server_and_can_take_nothing_away(served: Served, laptop: User) -> None:
    """Kind of fault: a backup that the user believes to be elsewhere; a right to add that takes away."""
    first = laptop.value("backup", "doc", "--exclude", "*.iso", "--name", "one")
    assert (first["volume"], first["created"], first["entries"]) == ("lap-doc", True, 1)
    assert not (laptop.home / ".local/share/dalsegno/pool").exists(), "no pool is made here"
    (laptop.home / "doc" / "a").write_text("changed")
    second = laptop.value("backup", "doc")
    assert (second["volume"], second["created"], second["entries"]) == ("lap-doc", False, 2)
    laptop.quick("clone", "lap-doc", "named")
    laptop.quick("volume", "set", "lap-doc", "--exclude", "*.iso")
    assert laptop.value("backup")["entries"] == 1
    assert "realm" in laptop.quick("status").out.decode()
    admin = served.server.site(served.token)
    before = admin.state("lap-doc")
    assert set(before.clones) > {"one", "named"} and before.settings == {} and before.source == b""

    site = served.server.site(served.server.token("append", volumes=("lap-*",)))
    one = before.clones["one"]
    old = one.revision
    attacks: list[tuple[type[DalError], Callable[[], object]]] = [
        (NoAccess, lambda: site.unclone("lap-doc", "one", one)),
        (NoAccess, lambda: site.remove("lap-doc")),
        (NoAccess, lambda: site.record("lap-doc", DUMP)),
        (NoAccess, lambda: site.forget_dump("lap-doc", bytes(16))),
        (NoAccess, lambda: site.agree("lap-doc", old, uncloned={"one": [one]})),
        (NoAccess, lambda: site.freeze("lap-doc", owner="me")),
        (NoAccess, lambda: site.arrange("lap-doc", ReplicaSet(version=9, writers=["s9"]))),
        (AlreadyThere, lambda: site.clone("lap-doc", "one", Clone(revision=before.head, created_ns=2))),
        (NoAccess, lambda: site.advance("home", before.head)),
        (NoAccess, lambda: site.clone("home", "mine", one)),
        (NoAccess, lambda: site.state("home")),
        (NoAccess, lambda: site.block("lap-doc", before.head)),  # type: ignore[arg-type]
        (NoAccess, lambda: site.load("lap-doc", [bytes(16)])),
    ]
    for kind, attack in attacks:
        with pytest.raises(kind):
            attack()
    assert site.advance("lap-doc", old).head == before.head, "a head does not move back"
    for words, code in (
        (("unclone", "lap-doc@one"), 8),
        (("volume", "remove", "lap-doc", "--yes"), 8),
        (("volume", "rename", "lap-doc", "x"), (4, 8)),
    ):
        assert "run again" not in laptop.quick(*words, code=code).error, "what a token forbids is not worth another try"
    after = admin.state("lap-doc")
    assert (after.head, after.clones, after.replicas) == (before.head, before.clones, before.replicas)

    # The laptop is lost; a new one with the same token goes on with the volume, and reads nothing back.
    new = User(laptop.home.parent / "new", {"DAL_POOL": ""})
    os.rename(laptop.home / "doc", new.home / "doc")
    new.quick("realm", "join", format_join(served.server.join(served.server.token("append", volumes=("lap-*",)))))
    assert "`dal volume set lap-doc --source doc`" in new.quick("backup", "doc", code=4).error
    new.quick("volume", "set", "lap-doc", "--source", "doc")
    assert new.value("backup", "doc", "--name", "again")["volume"] == "lap-doc"
    served.user.quick("restore", "lap-doc@again", "--to", "back")
    assert tree(served.user.home / "back") == tree(new.home / "doc")
    admin.remove("lap-doc")


def test_with_a_pool_and_a_realm_a_new_directory_is_not_guessed(served: Served, laptop: User) -> None:
    """Kind of fault: a backup that goes to another place than its user believes."""
    (laptop.home / "here").mkdir()
    laptop.quick("init", str(laptop.home / ".local/share/dalsegno/pool"), "--encryption", "none")
    error = laptop.quick("backup", "doc", code=4).error
    assert "DAL_REALM=" in error and "--pool" in error
    realm = error.split("DAL_REALM=")[1].split()[0]
    assert laptop.value("--pool", str(laptop.home / ".local/share/dalsegno/pool"), "backup", "here")["volume"] == "here"
    assert laptop.quick("--json", "backup", "doc", DAL_REALM=realm).code == 0
    for name in ("doc", "here", "doc"):
        laptop.quick("backup", name)
    assert [each["volume"] for each in laptop.value("volume", "list")] == ["here"]
    served.server.site(served.token).remove("lap-doc")
