"""What a thief of a token gets that rights do not stop, and what he does not.

What he can do is asserted as well: docs/guides/threats.md says it, and goes wrong when it changes.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from forge_kit import Forge
from served_kit import Served, make_user

from cli_kit import User, tree
from dalsegno.chunks.realm import WriteKey
from dalsegno.chunks.signatures import Sign, SigningKey
from dalsegno.formats.join import format_join
from dalsegno.formats.objects import KIND_CHUNK
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import NoAccess, Refused
from dalsegno.trees.read import read_revision
from dalsegno.world.clock import now_ns
from server_kit import start_server

KNOWN = bytes(range(256)) * 100
LINE = b"nobody but bob may see this\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    user = make_user(tmp_path_factory.mktemp("server") / "home", encryption="keyfile")
    (user.home / "bobs").mkdir()
    (user.home / "bobs" / "letter").write_bytes(LINE * 4000)
    (user.home / "bobs" / "known").write_bytes(KNOWN)
    user.quick("import", "bob", "bobs")
    user.quick("clone", "bob", "kept")
    with start_server(user) as server:
        yield Served(server, server.token("administer"))


def test_an_empty_state_on_top_takes_nothing_away_that_has_a_clone(served: Served) -> None:
    """What a stolen `append` token can do to a volume: its newest state is nothing, its clones are whole."""
    user = served.user
    site = served.server.site(served.server.token("append", volumes=("home",)))
    before = site.state("home")
    forge = Forge(site)
    made = forge.revision(before.id, forge.directory(), parents=[before.head], created_ns=now_ns())
    upload, data = forge.pack(sealed=True)
    assert site.commit("home", made, upload, [data]).head == made
    assert user.quick("ls", "home").out == b""
    user.quick("gc", "--grace", "0s", code=(0, 2))
    user.quick("restore", "home@daily", "--to", "back")
    assert tree(user.home / "back") == tree(user.home / "source")


def test_a_state_in_anothers_name_is_told_by_its_signature(served: Served) -> None:
    """A stolen `append` token makes states that say any author; a genuine signature of his they do not get."""
    site = served.server.site(served.server.token("append", volumes=("bob",)))
    before = site.state("bob")
    (genuine,) = (row["signature"] for row in served.user.value("log", "bob"))
    assert genuine["status"] == "signed"
    (key,) = (served.user.home / ".config" / "dalsegno" / "keys").glob("*.key")
    with Pool.open(served.user.home / "pool", key_path=key) as pool:
        stolen = read_revision(pool, before.head).signature
    forge = Forge(site)

    def commit(sign: Sign) -> bytes:
        made = forge.revision(before.id, forge.directory(), parents=[before.head], created_ns=now_ns(), sign=sign)
        upload, data = forge.pack(sealed=True)
        return bytes(site.commit("bob", made, upload, [data]).head)

    with pytest.raises(Refused, match="signature"):
        commit(lambda revision: msgspec.structs.replace(revision, signature=stolen))
    assert site.state("bob").head == before.head
    commit(SigningKey.generate().sign)
    newest = served.user.value("log", "bob")[0]
    assert newest["author"] == "enemy"
    assert newest["signature"]["status"] == "unknown" and newest["signature"]["key"] != genuine["key"]


def test_a_reader_of_one_volume_with_a_copy_of_the_disk_reads_the_others(served: Served, tmp_path: Path) -> None:
    """One key for a realm: what keeps its members apart is the server, as long as nobody has its disk."""
    site = served.server.site(served.server.token("read", volumes=("home",)))
    for attack in (lambda: site.state("bob"), lambda: list(site.dump("bob"))):
        with pytest.raises(NoAccess):
            attack()
    thief = User(tmp_path / "thief", {"DAL_POOL": ""})
    thief.quick("realm", "join", format_join(served.server.join(served.server.token("read", volumes=("home",)))))
    copy = Path(shutil.copytree(served.user.home / "pool", tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock")))
    opened = 0
    for file in copy.rglob("*.pack"):
        with PackReader.open(file, site.key()):
            opened += 1
    assert opened


def test_who_may_append_fills_the_disk(served: Served, tmp_path: Path) -> None:
    """What is committed stays, for as long as it has a clone: nothing bounds it but retention, which is the owner's."""
    laptop = User(tmp_path / "laptop", {"DAL_POOL": ""})
    (laptop.home / "doc").mkdir()
    token = served.server.token("append", volumes=("fill-*",))
    laptop.quick("realm", "join", format_join(served.server.join(token)))
    stored = []
    for _ in range(2):
        (laptop.home / "doc" / "noise").write_bytes(os.urandom(1_000_000))
        laptop.quick("backup", "doc")
        served.user.quick("gc", "--grace", "0s", code=(0, 2))
        stored.append(sum(path.stat().st_size for path in (served.user.home / "pool" / "packs").rglob("*.pack")))
    assert stored[1] - stored[0] > 900_000


def test_who_may_append_learns_whether_a_file_that_he_has_is_there(served: Served) -> None:
    """The price of storing everything once: a guess of a whole file is confirmed, also of another volume."""
    site = served.server.site(served.server.token("append", volumes=("home",)))
    key = site.key()
    assert isinstance(key, WriteKey)
    known, unknown = (bytes(key.identify(KIND_CHUNK, data)) for data in (KNOWN, KNOWN + b"x"))
    assert site.have("home", known + unknown) == b"\1\0"
