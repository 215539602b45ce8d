"""A laptop with a token that only appends, in a realm with a directory and several servers."""

from pathlib import Path

import pytest

from dalsegno.formats.join import format_join
from dalsegno.replicas.view import Placed
from dalsegno.terms.errors import NoAccess
from dalsegno.volumes.state import ReplicaSet
from realm_kit import Person, Realm, running_realm


def test_a_new_volume_is_placed_on_one_server_and_nothing_that_is_placed_is_moved(tmp_path: Path) -> None:
    """Kind of fault: a right to add that can be used to steer what is there already."""
    with running_realm(tmp_path, "s1", "s2") as realm:
        _laptop(realm, tmp_path)


def _laptop(realm: Realm, tmp_path: Path) -> None:
    admin = realm.client("admin")
    admin.quick("volume", "create", "lap-old", "--replicas", "s1")
    token = realm.servers["s1"].token("append", volumes=("lap-*",))
    laptop = Person(tmp_path / "laptop", {"DAL_POOL": ""})
    (laptop.home / "doc").mkdir()
    (laptop.home / "doc" / "a").write_text("a")
    laptop.quick("realm", "join", format_join(realm.servers["s1"].join(token)))
    error = laptop.quick("backup", "doc", code=4).error
    assert "dal volume create lap-doc --replicas s1,s2" in error and "dal volume set lap-doc --source" in error
    laptop.quick("volume", "create", "lap-doc", "--replicas", "s1,s2", code=8)
    laptop.quick("volume", "create", "lap-doc", "--replicas", "s2")
    laptop.quick("volume", "set", "lap-doc", "--source", "doc")
    assert laptop.ask("backup", "doc")["volume"] == "lap-doc"
    assert admin.quick("cat", "lap-doc:/a").out == b"a"

    site = realm.servers["s1"].site(token)
    view = site.view()
    old = view.placed("lap-old")
    assert old is not None
    for placed in (
        Placed(name="lap-old", id=old.id, replicas=ReplicaSet(version=9, writers=["s2"])),
        Placed(name="lap-x", id=old.id, replicas=ReplicaSet(version=1, writers=["s2"])),
        Placed(name="lap-x", id=bytes(16), replicas=ReplicaSet(version=1, writers=["s1", "s2"])),
        Placed(name="other", id=bytes(16), replicas=ReplicaSet(version=1, writers=["s2"])),
    ):
        with pytest.raises(NoAccess):
            site.publish(placed)
    with pytest.raises(NoAccess):
        site.forget("lap-old")
    assert site.view().placed("lap-old") == old
