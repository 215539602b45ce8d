"""The cache house: volumes of a realm as if they lay in a pool of one's own, over real Keepers and a directory."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from realm_world import RealmWorld

from dalsegno.actions import browse, clone, mount, restore
from dalsegno.actions.backup import import_directory, take
from dalsegno.actions.mount import Tree, commit_tree
from dalsegno.actions.remote import list_unsent, split_place
from dalsegno.formats.objects import CONTENT_DIRECTORY, ENTRY_DIRECTORY, Entry
from dalsegno.replicas.group import empty_state
from dalsegno.replicas.transfer import copy
from dalsegno.terms.errors import (
    AlreadyThere,
    BadInput,
    Conflict,
    Damaged,
    NotFound,
    Refused,
    Unacknowledged,
    Unavailable,
)
from dalsegno.trees.read import read_revision
from dalsegno.volumes.state import READER, Release, ReplicaSet
from dalsegno.world.clock import now_ns
from kit import store_model


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RealmWorld]:
    made = RealmWorld(tmp_path, ["s1", "s2", "s3"])
    yield made
    made.close()


def unsent(world: RealmWorld, client: str = "c1") -> list[bytes]:
    with world.client(client) as house:
        return [revision for _, _, revision in list_unsent(house.pool)]


def names(world: RealmWorld, client: str, address: str = "home") -> list[str]:
    with world.client(client) as house:
        return [row.path.decode() for row in browse.ls(house, address)]


def test_a_commit_is_on_all_writers_and_any_client_reads_it(world: RealmWorld) -> None:
    world.create("s1", "s2", "s3")
    world.write("c1", a="first", b="x" * 500)
    assert len(world.heads()) == 1
    assert world.read("c2", "home:/a") == "first"
    assert world.read("c2", "//s2/home:/b") == "x" * 500
    assert world.read("c2", "//site/home:/a") == "first"
    assert unsent(world) == []


def test_writing_goes_on_without_a_server_which_the_next_command_catches_up(world: RealmWorld) -> None:
    world.create("s1", "s2", "s3")
    world.write("c1", a="first")
    world.down("s3")
    world.write("c1", a="second")
    assert any("without s3" in note for note in world.notes)
    assert len(world.heads()) == 2
    world.down()
    assert world.read("c2", "home:/a") == "second"  # a mere reader brings it there
    assert len(world.heads()) == 1
    assert any("s3 was behind" in note for note in world.notes)


def test_one_living_server_is_enough_to_read_all(world: RealmWorld, tmp_path: Path) -> None:
    world.create("s1", "s2", "s3")
    world.write("c1", **{f"f{number}": str(number) * 400 for number in range(40)})
    with world.client() as house:
        clone.clone(house, "home", "monday")
    world.write("c1", f0="changed")
    for alive in ("s1", "s2", "s3"):
        world.down(*({"s1", "s2", "s3"} - {alive}))
        client = f"fresh-{alive}"
        assert len(names(world, client)) == 40
        assert world.read(client, "home@monday:/f0") == "0" * 400
        with world.client(client) as house:
            assert len(list(browse.diff(house, "home@monday", "home"))) >= 1
            assert len(list(house.volumes.log(house.volumes.get("home")))) == 2
            restore.restore(house, "home", tmp_path / f"back-{alive}")
        assert (tmp_path / f"back-{alive}" / "f39").read_text() == "39" * 400


def test_a_server_that_dies_in_the_middle_of_a_file_is_failed_over(world: RealmWorld) -> None:
    world.create("s1", "s2", "s3")
    directory = world.path / "big"
    directory.mkdir()
    content = b"".join(bytes([number % 251]) * 7919 + number.to_bytes(4, "big") for number in range(1200))
    (directory / "big").write_bytes(content)
    with world.client() as house:
        import_directory(house, "home", directory)
    with world.client("c2") as house:
        pieces = browse.iterate_file(house, "home:/big")
        read = [next(pieces)]
        order = house.realm_volumes.servers_of(house.volumes.get("home"))
        for name in order[:2]:
            world.sites[name].down = True
            read.append(next(pieces))
        read += pieces
    assert b"".join(read) == content


def test_the_cache_may_be_lost_at_any_time(world: RealmWorld) -> None:
    world.create("s1", "s2", "s3")
    world.write("c1", a="first", b="kept")
    shutil.rmtree(world.path / "c1")
    world.write("c1", a="second")
    assert world.read("c2", "home:/a") == "second" and world.read("c2", "home:/b") == "kept"
    assert len(world.heads()) == 1


def test_a_commit_in_a_partial_pool_sends_only_what_changed(world: RealmWorld) -> None:
    """A client that never read the volume changes one file of many: neither it nor its servers move the rest."""
    world.create("s1", "s2", "s3")
    world.write("c1", **{f"f{number}": str(number) * 3000 for number in range(200)})
    shutil.copytree(world.path / "c1-files", world.path / "c2-files", copy_function=shutil.copy2)
    (world.path / "c2-files" / "f7").write_text("other")
    with world.client("c2") as house:
        state = house.volumes.get("home")
        mirrored = read_revision(house.pool, state.head)
        import_directory(house, "home", world.path / "c2-files")
        pushed = house.realm_volumes.pushed
        assert (
            pushed is not None and pushed.transferred.payload_bytes == 0
        ) or pushed.transferred.bytes_crossed < 200_000
        assert mirrored.entry_count == 200
    assert world.read("c3", "home:/f7") == "other" and world.read("c3", "home:/f199") == "199" * 3000


def test_a_commit_that_nobody_acknowledged_waits_and_is_brought_in(world: RealmWorld) -> None:
    world.create("s1", "s2", "s3")
    world.write("c1", a="first")
    world.down("s1", "s2", "s3")
    with pytest.raises(Unacknowledged, match="waits in"):
        world.write("c1", a="alone")
    assert len(unsent(world)) == 1
    assert world.read("c1", "home:/a") == "alone"  # one's own work is shown, though no server answers
    world.down()
    world.write("c2", b="meanwhile", a="first")
    assert names(world, "c1") == ["a", "b"]
    assert world.read("c2", "home:/a") == "alone"
    assert unsent(world) == [] and len(world.heads()) == 1


def test_a_majority_is_asked_for_when_the_volume_says_so(world: RealmWorld) -> None:
    world.create("s1", "s2", "s3", rule="majority")
    world.write("c1", a="first")
    world.down("s3")
    world.write("c1", a="second")
    world.down("s2", "s3")
    with pytest.raises(Unacknowledged, match="1 of 3 writers"):
        world.write("c1", a="third")
    assert len(unsent(world)) == 1
    world.down("s1")
    world.write("c2", b="other side", a="second")
    world.down()
    assert names(world, "c1") == ["a", "b"] and world.read("c1", "home:/a") == "third"
    assert len(world.heads()) == 1 and unsent(world) == []


def test_clones_are_made_and_forgotten_on_all_writers(world: RealmWorld) -> None:
    world.create("s1", "s2", "s3")
    world.write("c1", a="first")
    with world.client() as house:
        made = clone.clone(house, "home", "monday")
        assert house.realm_volumes.cloned is not None and house.realm_volumes.cloned.pause_ns > 0
        with pytest.raises(AlreadyThere):
            clone.clone(house, "home", "monday")
        clone.set_held(house, "home@monday", held=True)
        with pytest.raises(Refused):
            clone.unclone(house, "home@monday")
    for keeper in world.keepers.values():
        found = keeper.state("home").clones["monday"]
        assert found.held and found.revision == made.clone.revision
        assert keeper.state("home").lease is None
    with world.client() as house:
        clone.set_held(house, "home@monday", held=False)
    world.down("s2")
    with world.client() as house:
        clone.unclone(house, "home@monday")
    world.down()
    with world.client("c2") as house:
        assert house.volumes.get("home").clones == {}
    assert all(keeper.state("home").clones == {} for keeper in world.keepers.values())


def test_an_older_state_is_named_on_all_writers(world: RealmWorld) -> None:
    world.create("s1", "s2", "s3")
    world.write("c1", a="first")
    first = world.heads().pop()
    world.write("c1", a="second")
    with world.client() as house:
        clone.clone(house, f"home@#{first.hex()[:12]}", "before")
        with pytest.raises(AlreadyThere):
            clone.clone(house, f"home@#{first.hex()[:12]}", "before")
    assert all(keeper.state("home").clones["before"].revision == first for keeper in world.keepers.values())
    assert world.read("c2", "home@before:/a") == "first"


def test_a_mount_keeps_its_own_line_while_others_commit(world: RealmWorld) -> None:
    world.create("s1", "s2", "s3")
    world.write("c1", a="first")
    with world.client("mount") as house:
        state = house.volumes.get("home")
        head = state.head

        def commit(text: str) -> None:
            nonlocal head
            directory = world.path / "mounted"
            directory.mkdir(exist_ok=True)
            (directory / "m").write_text(text)
            (directory / "a").write_text("first")

            def build(sink: object) -> Tree:
                local = RealmWorldTree(world, directory)
                return local.build(sink)

            head = commit_tree(house, state.id, build, head=head, refresh=True).revision

        commit("one")
        world.write("c2", a="first", b="other")
        commit("two")
        world.down("s1", "s2", "s3")
        with pytest.raises(Unacknowledged):
            commit("three")
        world.down()
        commit("four")
        waiting = list_unsent(house.pool)
    assert waiting == []
    assert len(world.heads()) == 1
    assert names(world, "c3") == ["a", "b", "m"] and world.read("c3", "home:/m") == "four"
    with world.client("c3") as house:
        assert house.volumes.get("home").clones == {}


class RealmWorldTree:
    """A tree as a mount has it: of a directory's files, inline."""

    def __init__(self, world: RealmWorld, directory: Path) -> None:
        self.files = {path.name.encode(): path.read_bytes() for path in sorted(directory.iterdir())}

    def build(self, sink: object) -> Tree:
        content = store_model(sink, self.files)  # type: ignore[arg-type]
        root = Entry(name=b"", kind=ENTRY_DIRECTORY, mode=0o755, content_kind=CONTENT_DIRECTORY, content=content)
        return Tree(root=root, links=b"", entry_count=len(self.files), total_bytes=1)


def test_a_volume_is_made_where_it_was_told(world: RealmWorld) -> None:
    world.create("s1", "s3", rule="majority")
    with pytest.raises(NotFound):
        world.keepers["s2"].state("home")
    with pytest.raises(AlreadyThere):
        world.create("s2")
    with world.client() as house:
        with pytest.raises(NotFound, match="it has s1, s2, s3"):
            house.realm_volumes.create_replicated("other", ["s1", "s9"], now_ns=1)
        with pytest.raises(BadInput):
            house.realm_volumes.create_replicated("a/b", ["s1"], now_ns=1)
        with pytest.raises(BadInput, match="twice"):
            house.realm_volumes.create_replicated("other", ["s1", "s1"], now_ns=1)
        with pytest.raises(BadInput):
            house.realm_volumes.create_replicated("other", ["s1"], rule="most", now_ns=1)
        with pytest.raises(Refused, match="--replicas"):
            import_directory(house, "new", world.path)
        assert house.realm_volumes.servers.view(anew=True).placed("other") is None


def test_one_is_made_on_the_server_of_an_address(world: RealmWorld) -> None:
    directory = world.path / "d"
    directory.mkdir()
    (directory / "f").write_text("text")
    with world.client() as house:
        import_directory(house, "//s2/alone", directory)
        import_directory(house, "//s2/alone", directory)
    assert world.keepers["s2"].state("alone").head
    assert world.read("c2", "alone:/f") == "text"


def test_nothing_is_placed_when_too_few_servers_could_make_it(world: RealmWorld) -> None:
    world.down("s2", "s3")
    with pytest.raises(Unavailable, match="1 of 3"):
        world.create("s1", "s2", "s3", rule="majority")
    assert world.directory.view(now_ns=1).volumes == []


def test_without_the_directory_reading_and_writing_go_on_and_changes_of_places_do_not(world: RealmWorld) -> None:
    world.create("s1", "s2")
    world.desk.down = True
    world.write("c1", a="first")
    assert world.read("c2", "home:/a") == "first"
    with pytest.raises(Unavailable):
        world.create("s3", name="other")
    with world.client() as house, pytest.raises(Unavailable):
        house.realm_volumes.group("home").add_replica("s3")
    assert world.keepers["s1"].state("home").replicas == ReplicaSet(version=1, writers=["s1", "s2"])


def test_a_client_with_an_old_view_finds_a_new_replica(world: RealmWorld) -> None:
    world.create("s1", "s2")
    world.write("c1", a="first")
    with world.client("old") as old:
        old.volumes.get("home")
        with world.client() as house:
            house.realm_volumes.group("home").add_replica("s3")
            house.realm_volumes.group("home").remove_replica("s1")
        directory = world.path / "late"
        directory.mkdir()
        (directory / "a").write_text("late")
        take(old, old.volumes.get("home"), bytes(directory), message="late")
    assert world.heads("s2", "s3") == {world.keepers["s2"].state("home").head}
    assert world.read("c2", "home:/a") == "late"


def test_a_volume_without_a_place_in_the_directory_is_found_on_its_server(world: RealmWorld, tmp_path: Path) -> None:
    """Made by `dal backup` in the server's own pool, long before there was a realm."""
    keeper = world.keepers["s2"]
    keeper.volumes.create("old", kind="native", now_ns=now_ns())
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x").write_text("text")
    with world.client() as house:
        import_directory(house, "//s2/old", tmp_path / "f")
        assert browse.read_file(house, "old:/x") == b"text"
        clone.clone(house, "old", "c")
    assert set(keeper.state("old").clones) == {"c"} and keeper.state("old").replicas is None
    keeper2 = world.keepers["s3"]
    keeper2.volumes.create("old", kind="native", now_ns=now_ns())
    with world.client("c2") as house, pytest.raises(Conflict, match="//s2/old, //s3/old"):
        house.volumes.get("old")
    assert world.read("c2", "//s2/old:/x") == "text"


def test_a_read_only_site_shows_what_was_released_to_it(world: RealmWorld) -> None:
    world.create("s1", "s2")
    world.write("c1", a="first")
    with world.client() as house:
        released = clone.clone(house, "home", "monday").clone.revision
        group = house.realm_volumes.group("home")
        polled = group.poll()
        group.set_replica_set(ReplicaSet(version=polled.replicas.version + 1, writers=["s1", "s2"], readers=["s3"]))
        world.keepers["s3"].create(empty_state(polled.states["s1"], replicas=group.poll().replicas, role=READER))
    copy(world.keepers["s1"], world.keepers["s3"], "home", [released])
    world.keepers["s3"].switch("home", Release(number=1, revision=released, clone="monday", released_ns=1))
    world.write("c1", a="second")
    assert world.read("c2", "//s3/home:/a") == "first"
    assert world.read("c2", "home:/a") == "second"
    with world.client("c2") as house:
        house.volumes.get("//s3/home")
        with pytest.raises(Refused, match="read-only on s3"):
            import_directory(house, "//s3/home", world.path / "c1-files")
        assert mount.writable_volume(house, "//s3/home") is None
    # No writer answers: what the site has is better than nothing, and is said.
    world.down("s1", "s2")
    assert world.read("c3", "home:/a") == "first"
    assert any("no writer answers: this is what s3 has" in note for note in world.notes)


def test_damage_on_one_server_is_read_around(world: RealmWorld) -> None:
    world.create("s1", "s2", "s3")
    world.write("c1", a="precious" * 100)

    def broken() -> None:
        raise Damaged("s1: block 0: flipped bit")

    for name in ("s1", "s2"):
        world.sites[name].fail["block"] = broken
    assert world.read("c2", "home:/a") == "precious" * 100


def test_removing_a_volume_needs_all_its_servers(world: RealmWorld) -> None:
    world.create("s1", "s2", "s3")
    world.write("c1", a="first")
    world.down("s2")
    with world.client() as house, pytest.raises(Unavailable, match="nothing was removed"):
        house.volumes.remove("home")
    world.down()
    with world.client() as house:
        house.volumes.remove("home")
    assert all(keeper.states() == [] for keeper in world.keepers.values())
    assert world.directory.view(now_ns=1).volumes == []
    with world.client() as house, pytest.raises(NotFound):
        house.volumes.get("home")


def test_what_is_a_servers_is_not_changed_from_here(world: RealmWorld) -> None:
    world.create("s1")
    with world.client() as house:
        state = house.volumes.get("home")
        with pytest.raises(Refused):
            house.volumes.rename("home", "other")
        with pytest.raises(Refused):
            house.volumes.update(state.id, lambda each: msgspec.structs.replace(each, settings={"x": 1}))


@pytest.mark.parametrize("text", ["//", "//s1", "//s1/", "///home"])
def test_addresses_that_name_no_server_or_no_volume(text: str) -> None:
    with pytest.raises(BadInput):
        split_place(text)
