"""A right on one volume opens no other: each test does what somebody with two tokens, or with one and patience, tries."""

import os
from collections.abc import Iterator

import pytest
from forge_kit import Forge, small_file

from cli_kit import User
from dalsegno.formats import objects, pack, pack_header
from dalsegno.formats.pack_header import DumpNote, DumpTarget
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.replicas.remote import RemoteSite
from dalsegno.terms.errors import BadInput, Conflict, DalError, NoAccess, NotFound, Refused
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import VolumeState
from dalsegno.volumes.store import check_clone_name, check_volume_name
from dalsegno.world.clock import now_ns
from server_kit import Server, start_server

SECRET = b"what only Ada may read\n" * 10


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with volumes of two people."""
    user = User(tmp_path_factory.mktemp("two") / "home")
    user.quick("init", "--encryption", "none")
    for name, content in (("ada", SECRET), ("bob", b"Bob's own\n" * 20)):
        source = user.home / name
        source.mkdir()
        (source / "letter").write_bytes(content)
        user.quick("volume", "create", name)
        user.quick("import", name, str(source))
        user.quick("clone", name, "first")
        user.quick("dump", name, "-o", str(user.home / f"{name}.0.dump"))
        (source / "more").write_bytes(content[:50])
        user.quick("import", name, str(source))
    with start_server(user) as server:
        yield server


class Sent:
    """Dumps as an enemy makes them, sent with his token."""

    def __init__(self, site: RemoteSite) -> None:
        self.site = site
        self.forge = Forge(site)

    def send(self, note: DumpNote) -> bytes:
        """Send a dump of the objects that the forge made, and return its id."""
        parts: list[bytes] = []
        realm = self.forge.store.realm
        header = new_header(realm, kind=pack.PACK_DUMP, sealed=False, note=pack_header.encode_note(note))
        with PackWriter(lambda data: parts.append(bytes(data)), realm=realm, header=header) as writer:
            for identity, (kind, payload) in self.forge.store.objects.items():
                writer.put(kind, identity, payload)
            writer.finish()
        self.forge.store.objects.clear()
        upload = os.urandom(16)
        self.site.send_dump(upload, 0, [b"".join(parts)])
        return upload


def increment(state: VolumeState, target: bytes, *, clone: str = "", **more: object) -> DumpNote:
    """Return the note of an increment that takes a volume from its head to `target`."""
    given = {
        "volume": state.id,
        "volume_name": state.name,
        "level": 1,
        "targets": [DumpTarget(revision=target, clone=clone, created_ns=1, entry_count=1, total_bytes=1)],
        "bases": [state.head],
        "base_dump": bytes(16),
        "merged": [],
        "taken_at_ns": now_ns(),
        **more,
    }
    return DumpNote(**given)  # type: ignore[arg-type]


def test_an_increment_without_objects_does_not_make_anothers_head_ones_own(two: Server) -> None:
    """Kind of fault: a second way in that lacks the checks of the first."""
    enemy = Sent(two.site(two.token("write", volumes=("bob",))))
    bob, ada = enemy.site.state("bob"), two.site(two.token("read")).state("ada")
    for volume in (bob.id, ada.id):
        sent = enemy.send(increment(bob, ada.head, volume=volume))
        with pytest.raises(Refused, match="of another volume"):
            enemy.site.load("bob", [sent])
    assert enemy.site.state("bob").head == bob.head


def test_an_increment_counts_on_nothing_that_its_volume_has_not(two: Server) -> None:
    """Kind of fault: who knows the id of a directory has it made part of what he may read."""
    enemy = Sent(two.site(two.token("write", volumes=("bob",))))
    everybody = two.site(two.token("read"))
    bob, ada = enemy.site.state("bob"), everybody.state("ada")
    payload = everybody.block("ada", ObjectId(ada.head))[0][2]
    root = objects.decode_revision(payload).root.content
    made = enemy.forge.revision(bob.id, root, parents=[bob.head], created_ns=now_ns())
    sent = enemy.send(increment(bob, made))
    with pytest.raises(DalError, match="neither in the dumps nor in the state"):
        enemy.site.load("bob", [sent])
    assert enemy.site.state("bob").head == bob.head


def test_a_load_takes_a_head_nowhere_but_forward(two: Server) -> None:
    """Kind of fault: a head that leaves what it came from behind, by a right that only adds."""
    enemy = Sent(two.site(two.token("write", volumes=("bob",))))
    bob = enemy.site.state("bob")
    for parents in ([], [os.urandom(32)]):
        made = enemy.forge.revision(bob.id, enemy.forge.directory(), parents=parents, created_ns=now_ns())
        sent = enemy.send(increment(bob, made))
        with pytest.raises(NoAccess, match="right to administer"):
            enemy.site.load("bob", [sent])
    assert enemy.site.state("bob").head == bob.head
    made = enemy.forge.revision(bob.id, enemy.forge.directory(), parents=[bob.head], created_ns=now_ns())
    assert enemy.site.load("bob", [enemy.send(increment(bob, made))]).head == made


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", "nul\0", "latest", "x\n", "é" * 200])
def test_a_load_brings_no_clone_that_no_clone_may_be_called(two: Server, name: str) -> None:
    enemy = Sent(two.site(two.token("write", volumes=("bob",))))
    bob = enemy.site.state("bob")
    made = enemy.forge.revision(bob.id, enemy.forge.directory(), parents=[bob.head], created_ns=now_ns())
    with pytest.raises(BadInput, match="clone name"):
        enemy.site.load("bob", [enemy.send(increment(bob, made, clone=name))])
    assert enemy.site.state("bob") == bob


@pytest.mark.parametrize("check", [check_volume_name, check_clone_name])
def test_a_name_ends_where_its_line_does(check: object) -> None:
    """Kind of fault: `$` in a pattern lets one line feed through."""
    with pytest.raises(BadInput):
        check("x\n")  # type: ignore[operator]


@pytest.mark.parametrize("ahead_ns", [2 * 86_400 * SECOND_NS, 2**61])
def test_a_load_brings_nothing_of_the_future(two: Server, ahead_ns: int) -> None:
    enemy = Sent(two.site(two.token("write", volumes=("bob",))))
    bob, later = enemy.site.state("bob"), now_ns() + ahead_ns
    made = enemy.forge.revision(bob.id, enemy.forge.directory(), parents=[bob.head], created_ns=later)
    with pytest.raises(Refused, match="cannot be right"):
        enemy.site.load("bob", [enemy.send(increment(bob, made))])
    made = enemy.forge.revision(bob.id, enemy.forge.directory(), parents=[bob.head], created_ns=now_ns())
    with pytest.raises(Refused, match="cannot be right"):
        enemy.site.load("bob", [enemy.send(increment(bob, made, taken_at_ns=later))])
    assert enemy.site.state("bob") == bob


def test_what_was_loaded_does_not_say_where_the_server_kept_it(two: Server) -> None:
    """Kind of fault: places on a server's disks, and ids of tokens, in what every reader sees."""
    token = two.token("write", volumes=("bob",))
    enemy = Sent(two.site(token))
    bob = enemy.site.state("bob")
    made = enemy.forge.revision(bob.id, enemy.forge.directory(), parents=[bob.head], created_ns=now_ns())
    state = enemy.site.load("bob", [enemy.send(increment(bob, made))])
    assert state.dumps[-1].path == ""
    sent = enemy.send(increment(bob, made))
    with pytest.raises(Refused) as told:
        enemy.site.load("bob", [sent])
    token_id = token.split("_")[1]
    assert token_id not in str(told.value) and str(two.user.home) not in str(told.value)


def test_a_token_that_may_not_read_sees_the_least_that_it_needs(two: Server) -> None:
    """Kind of fault: ids of revisions, which are keys to them, shown to who may not read."""
    server = two
    owner = server.site(server.token("read", volumes=("ada",))).state("ada")
    site = server.site(server.token("append", volumes=("ada",)))
    for state in (site.state("ada"), *site.states(), site.watch("ada", b"", seconds=0)):
        assert state.head == owner.head and state.clones.keys() == owner.clones.keys()
        assert {clone.revision for clone in state.clones.values()} == {bytes(32)}
        assert (state.dumps, state.common, state.uncloned, state.source) == ([], b"", {}, b"")
    assert site.advance("ada", owner.clones["first"].revision).dumps == []


def test_a_readers_token_of_one_volume_and_a_writers_of_another_read_no_more(two: Server) -> None:
    """Kind of fault: what one token is told, the other takes."""
    head = two.site(two.token("append", volumes=("ada",))).state("ada").head
    reader = two.site(two.token("read", volumes=("bob",)))
    for attack in (
        lambda: reader.block("bob", ObjectId(head)),
        lambda: list(reader.objects("bob", head)),
        lambda: list(reader.missing("bob", [head], [])),
        lambda: list(reader.dump("bob", clone="#" + head.hex())),
    ):
        with pytest.raises((Refused, NotFound)):
            attack()


def test_a_commit_takes_nobody_elses_past_along(two: Server) -> None:
    """Kind of fault: what a new state names as its parent counts as its own past, and is given to its readers."""
    ada = two.site(two.token("append", volumes=("ada",))).state("ada")
    site = two.site(two.token("write", volumes=("bob",)))
    bob = site.state("bob")
    forge = Forge(site)
    between = forge.revision(bob.id, forge.directory(), parents=[ada.head], created_ns=now_ns())
    for parents in ([bob.head, ada.head], [bob.head, between]):
        made = forge.revision(bob.id, forge.directory(), parents=parents, created_ns=now_ns() + 1)
        upload, data = forge.pack()
        with pytest.raises(Refused, match="of another volume"):
            site.commit("bob", made, upload, [data])
        with pytest.raises(Refused, match="of another volume"):
            site.advance("bob", made)
    assert site.state("bob").head == bob.head
    record = DumpRecord(
        dump_id=os.urandom(16), level=0, revision=ada.head, base_dump=b"", taken_at_ns=1, path="", size_bytes=1
    )
    with pytest.raises(Refused, match="of another volume"):
        site.record("bob", record)


def test_a_copy_beside_its_original_gives_away_nothing_of_the_originals_past(two: Server) -> None:
    """Kind of fault: parents that a restored state names, and that came with nothing."""
    user = two.user
    past = two.site(two.token("read")).state("ada").clones["first"].revision
    user.quick("dump", "ada", "-o", str(user.home / "copy.dump"), "--level", "0", "--no-record")
    user.quick("restore", str(user.home / "copy.dump"), "--volume", "copy")
    site = two.site(two.token("write", volumes=("copy",)))
    state = site.state("copy")
    rows = b"".join(site.missing("copy", [state.head], []))
    ids = {rows[start : start + 32] for start in range(0, len(rows), 36)}
    assert state.head in ids and past not in ids
    assert past not in [identity for _, identity, _ in site.block("copy", ObjectId(state.head))]
    for attack in (
        lambda: list(site.dump("copy", clone="#" + past.hex())),
        lambda: site.block("copy", ObjectId(past)),
        lambda: list(site.objects("copy", past)),
        lambda: list(site.missing("copy", [past], [])),
    ):
        with pytest.raises((Refused, NotFound)):
            attack()
    forge = Forge(site)
    made = forge.revision(state.id, forge.directory(small_file(b"a")), parents=[state.head], created_ns=now_ns())
    upload, data = forge.pack()
    assert site.commit("copy", made, upload, [data]).head == made, "it lives on"
    assert b"".join(site.missing("copy", [made], [state.head]))


def test_only_who_froze_a_volume_commits_into_it_prolongs_and_thaws(two: Server) -> None:
    """Kind of fault: a name that everybody sees is taken for proof."""
    mover, enemy = two.site(two.token("write")), two.site(two.token("write"))
    enemy.url += "/"  # it is another process: what proves a lease is made of another secret
    frozen = mover.freeze("bob", owner="mover", seconds=300)
    assert frozen.lease is not None and (frozen.lease.owner, frozen.lease.proof) == ("mover", b"")
    forge = Forge(enemy)
    made = forge.revision(frozen.id, forge.directory(), parents=[frozen.head], created_ns=now_ns())
    upload, data = forge.pack()
    for attack in (
        lambda: enemy.commit("bob", made, upload, [data], owner="mover"),
        lambda: enemy.advance("bob", made, owner="mover"),
        lambda: enemy.freeze("bob", owner="mover", seconds=1),
    ):
        with pytest.raises((Conflict, NotFound)):
            attack()
    enemy.thaw("bob", owner="mover")
    assert enemy.state("bob").lease == frozen.lease and enemy.state("bob").head == frozen.head
    mover.freeze("bob", owner="mover", seconds=300)
    assert mover.commit("bob", made, upload, [data], owner="mover").head == made
    mover.thaw("bob", owner="mover")
    assert mover.state("bob").lease is None
