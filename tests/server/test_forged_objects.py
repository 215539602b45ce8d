"""What a client with a valid token and the realm's key makes up: nobody else is harmed by it, nor does he learn more."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from forge_kit import Forge, folder, small_file
from http_kit import ask, problem
from served_kit import Served, make_user

from cli_kit import User
from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryLeaf, Entry
from dalsegno.terms.errors import Damaged, Diverged, NotFound, Refused, TooNew
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.sizes import MIB
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import VolumeState
from dalsegno.world.workers import Workers
from server_kit import Server, start_server

SHARED = b"root:x:0:0:root:/root:/bin/bash\n" * 10
SECRET = b"what only Ada may read\n" * 10


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with volumes of two people, who have one file in common."""
    user = User(tmp_path_factory.mktemp("two") / "home")
    user.quick("init", "--encryption", "none")
    for name, other in (("ada", SECRET), ("bob", b"Bob's own\n" * 20)):
        source = user.home / name
        source.mkdir()
        (source / "passwd").write_bytes(SHARED)
        (source / "zeta").write_bytes(other)
        user.quick("volume", "create", name)
        user.quick("import", name, str(source))
    with start_server(user) as server:
        yield server


def test_what_is_stored_beside_an_object_is_given_only_to_who_may_read_it(two: Server) -> None:
    bob, everybody = two.site(two.token("read", volumes=("bob",))), two.site(two.token("read"))
    realm = Forge(bob).store.realm
    shared, secret = (realm.identify(objects.KIND_CHUNK, data) for data in (SHARED, SECRET))
    assert [identity for _, identity, _ in bob.block("bob", shared)] == [shared]
    assert secret in [identity for _, identity, _ in everybody.block("bob", shared)]
    # It has been read once, and stays what it was.
    assert [identity for _, identity, _ in bob.block("bob", shared)] == [shared]


def test_what_was_named_to_a_reader_comes_along(two: Server) -> None:
    token = two.token("read", volumes=("ada",))
    ada = two.site(token)
    realm = Forge(ada).store.realm
    shared, secret = (realm.identify(objects.KIND_CHUNK, data) for data in (SHARED, SECRET))
    assert [identity for _, identity, _ in ada.block("ada", shared)] == [shared]
    head = ObjectId(ada.state("ada").head)
    given = {identity: payload for _, identity, payload in ada.block("ada", head)}
    assert objects.decode_revision(given[head]).root.content in given  # named, and stored beside it
    assert {identity for _, identity, _ in ada.block("ada", shared)} == {shared, secret}
    # What another token was given is not this one's.
    assert len(two.site(two.token("read", volumes=("ada",))).block("ada", shared)) == 1


def test_a_revision_of_another_volume_is_neither_sent_nor_named(two: Server) -> None:
    bob = two.site(two.token("write", volumes=("bob",)))
    head = two.site(two.token("read")).state("ada").head
    with pytest.raises(Refused, match="of another volume"):
        list(bob.missing("bob", [head], []))
    with pytest.raises(Refused, match="of another volume"):
        bob.clone("bob", "stolen", Clone(revision=head, created_ns=1))
    with pytest.raises(Diverged):  # told first: it costs less to find out
        bob.advance("bob", head)
    assert bob.state("bob").clones == {}


def test_a_volume_restored_beside_its_original_is_read_and_cloned(two: Server) -> None:
    user = two.user
    user.quick("dump", "ada", "-o", str(user.home / "ada.dump"), "--no-record")
    user.quick("restore", str(user.home / "ada.dump"), "--volume", "ada-again")
    site = two.site(two.token("write", volumes=("ada-again",)))
    state = site.state("ada-again")
    assert state.head == two.site(two.token("read")).state("ada").head
    assert list(site.missing("ada-again", [state.head], []))
    assert "kept" in site.clone("ada-again", "kept", Clone(revision=state.head, created_ns=1)).clones


def chunk_read_as_directory(forge: Forge) -> bytes:
    nowhere = Entry(name=b"q", kind=objects.ENTRY_FILE, content_kind=objects.CONTENT_CHUNK, content=os.urandom(32))
    hidden = forge.put(objects.KIND_CHUNK, objects.encode(DirectoryLeaf([nowhere])))
    return forge.directory(folder(b"a", hidden, content_kind=objects.CONTENT_CHUNK))


FORGED: dict[str, Callable[[Forge], bytes | Entry]] = {
    "a chunk read as a directory": chunk_read_as_directory,
    "a directory without one": lambda forge: forge.directory(folder(b"a", b"", content_kind=objects.CONTENT_NONE)),
    "a directory inline": lambda forge: forge.directory(folder(b"a", b"zz", content_kind=objects.CONTENT_INLINE)),
    "a file that is a directory": lambda forge: forge.directory(
        small_file(b"a", content_kind=objects.CONTENT_DIRECTORY, content=forge.directory())
    ),
    "content of an unknown kind": lambda forge: forge.directory(small_file(b"a", content_kind=9)),
    "a negative mode": lambda forge: forge.directory(small_file(b"a", mode=-1)),
    "a mode with a file type in it": lambda forge: forge.directory(small_file(b"a", mode=0o100644)),
    "a negative size": lambda forge: forge.directory(small_file(b"a", size=-1)),
    "a size beyond files": lambda forge: forge.directory(small_file(b"a", size=2**63)),
    "an owner beyond numbers": lambda forge: forge.directory(small_file(b"a", uid=2**32)),
    "a negative device": lambda forge: forge.directory(Entry(name=b"a", kind=objects.ENTRY_BLOCK_DEVICE, device=-1)),
    "a way out": lambda forge: forge.directory(small_file(b"..")),
    "a path for a name": lambda forge: forge.directory(small_file(b"a/b")),
    "a name twice": lambda forge: forge.directory(small_file(b"a"), small_file(b"a")),
    "a root that is none": lambda forge: Entry(name=b"", kind=objects.ENTRY_DIRECTORY),
    "a root that is a chunk": lambda forge: folder(
        b"", forge.put(objects.KIND_CHUNK, b"data"), content_kind=objects.CONTENT_CHUNK
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_directory_is_refused_and_the_head_stays(served: Served, what: str) -> None:
    site = served.server.site(served.server.token("append"))
    before = site.state("home")
    forge = Forge(site)
    made = forge.revision(before.id, FORGED[what](forge), parents=[before.head], created_ns=2 << 60)
    upload, data = forge.pack()
    with pytest.raises((Damaged, TooNew)):
        site.commit("home", made, upload, [data])
    with pytest.raises((NotFound, Damaged)):
        site.advance("home", made)
    assert site.state("home") == before
    served.user.quick("ls", "home")


def test_a_revision_at_the_end_of_time_would_be_the_last_and_is_refused(served: Served) -> None:
    site = served.server.site(served.server.token("append"))
    before = site.state("home")
    forge = Forge(site)
    for created_ns in (2**63 - 1, 2**64 - 1, -5):
        made = forge.revision(before.id, forge.directory(), parents=[before.head], created_ns=created_ns)
        upload, data = forge.pack()
        with pytest.raises(Refused):
            site.commit("home", made, upload, [data])
    assert site.state("home") == before


def test_a_volume_made_from_afar_follows_no_directory_of_the_server(two: Server) -> None:
    site = two.site(two.token("administer", volumes=("evil*",)))
    state = msgspec.structs.replace(
        site.create(VolumeState(id=b"e" * 16, name="evil1", kind="native", source=b"", created_ns=1)),
        id=b"f" * 16,
        name="evil2",
        kind="tracked",
        source=b"/etc",
    )
    made = site.create(state)
    assert (made.kind, made.source) == ("native", b"")
    two.user.quick("clone", "evil2", code=4)  # empty: nothing was read


def test_settings_nested_beyond_reason_are_refused(served: Served) -> None:
    for depth in (450, 700, 950, 5000):
        nested = b"[" * depth + b"]" * depth
        body = b'{"id": "%s", "name": "deep", "kind": "native", "source": "", "created_ns": 1, "settings": {"a": %s}}'
        status, _, answer = ask(
            served.server, "POST", "/v1/volumes/deep/create", token=served.token, body=body % (b"ab" * 16, nested)
        )
        assert status == 400
        assert problem(answer)["code"] == "bad-input"


def test_who_may_only_read_is_no_follower(served: Served) -> None:
    server = served.server
    head = server.site(served.token).state("home").head
    server.site(server.token("read")).watch("home", head, seconds=0, follower="nosy")
    server.site(server.token("write")).watch("home", bytes(32), seconds=0, follower="standby")
    pins = list((server.user.home / "pool" / "refs" / "pins").glob("*"))
    assert pins == []


def tedious(forge: Forge, count: int) -> tuple[bytes, bytes]:
    """Return a small pack that takes long to check: directories that name one chunk again and again."""
    chunk = forge.put(objects.KIND_CHUNK, b"y" * 200)
    same = {"size": 200, "content_kind": objects.CONTENT_CHUNK, "content": chunk}
    entries = [small_file(b"%08d" % number, **same) for number in range(40_000)]
    for number in range(count):
        entries[0] = small_file(b"%08d" % 0, node=number, **same)
        forge.directory(*entries)
    return forge.pack()


def test_what_is_named_a_million_times_eats_no_memory(served: Served) -> None:
    server = served.server
    site = server.site(server.token("append"))
    upload, data = tedious(Forge(site), 40)
    assert len(data) < 2 * MIB
    before = server.memory_peak_bytes()
    site.upload("home", upload, 0, [data])
    site.adopt("home", [upload])
    assert server.memory_peak_bytes() < before + 100 * MIB


def test_who_makes_the_server_check_for_long_keeps_nobody_waiting(tmp_path: Path) -> None:
    with start_server(make_user(tmp_path / "home"), limits={"CALL_THREADS": 1, "LONG_CALL_THREADS": 1}) as server:
        site = server.site(server.token("append"))
        forge = Forge(site)
        packs = [tedious(forge, 10) for _ in range(3)]
        for upload, data in packs:
            site.upload("home", upload, 0, [data])
        with Workers(3) as crew:
            checks = [crew.submit(site.adopt, "home", [upload]) for upload, _ in packs]
            answers = 0
            while not all(check.done() for check in checks):
                assert site.state("home").name == "home" and ask(server, "GET", "/health")[0] == 200
                answers += 1
            assert answers > len(checks), "who only asks waited for a check to end"


def test_a_tree_that_stands_for_more_than_it_says_is_refused(served: Served) -> None:
    """Kind: whoever may only append commits what the owner's next search and drill never end in."""
    site = served.server.site(served.server.token("append"))
    before = site.state("home")
    forge = Forge(site)
    below = forge.directory(small_file(b"f"))
    for _ in range(8):
        below = forge.directory(*(folder(b"%02d" % number, below) for number in range(100)))
    made = forge.revision(before.id, below, parents=[before.head], created_ns=time.time_ns())
    upload, data = forge.pack()
    with pytest.raises(Refused, match="goes on beyond the 1 files"):
        site.commit("home", made, upload, [data])
    assert site.state("home").head == before.head
