"""A machine that writes and cannot read: all that a thief finds on it, with a copy of the server's disk, opens nothing."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_ssh_private_key
from served_kit import Served

from cli_kit import User, tree
from dalsegno.chunks.realm import Realm, WriteKey
from dalsegno.formats import pack
from dalsegno.formats.join import format_join
from dalsegno.formats.objects import KIND_CHUNK
from dalsegno.pool.keys import read_key, read_key_notes
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.signing_key import SIGNING_KEY_NAME
from dalsegno.terms.errors import DalError, Damaged, NoAccess
from server_kit import start_server

PASSPHRASE = "nothing of this lies on the disk"
NAME, LINE = "diary-of-a-spy", b"the meeting is at the old mill\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose pool opens by a passphrase: its disk alone opens nothing."""
    user = User(tmp_path_factory.mktemp("server") / "home", {"DAL_PASSPHRASE": PASSPHRASE})
    user.quick("init", "--encryption", "passphrase")
    with start_server(user) as server:
        yield Served(server, server.token("administer"))


@pytest.fixture
def laptop(served: Served, tmp_path: Path) -> User:
    token = served.server.token("append", volumes=(f"{tmp_path.name}-*",))
    user = User(tmp_path / "laptop", {"DAL_POOL": ""})
    (user.home / "doc").mkdir()
    (user.home / "doc" / NAME).write_bytes(LINE * 5000)
    (user.home / "doc" / "large").write_bytes(bytes(range(256)) * 8000)
    user.quick("realm", "join", format_join(served.server.join(token)))
    return user


def thief_of(laptop: User) -> list[Realm]:
    """Every key that lies on a machine."""
    keys = []
    for file in sorted(laptop.home.rglob("*.key"), key=lambda file: file.name == SIGNING_KEY_NAME):
        if file.name == SIGNING_KEY_NAME:  # it says who made a revision; here it is tried as a realm's secret
            private = load_ssh_private_key(file.read_bytes(), None)
            keys.append(Realm(private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())))
            continue
        keys.append(read_key(file, read_key_notes(file)[0]))
        keys.append(Realm(keys[-1].secret))
    assert keys and isinstance(keys[0], WriteKey)
    return keys


def packs_below(place: Path) -> list[Path]:
    return [file for file in place.rglob("*") if file.is_file() and file.read_bytes()[:8] == pack.MAGIC]


def opened_by(keys: list[Realm], file: Path) -> PackReader | None:
    for key in keys:
        try:
            return PackReader.open(file, key)
        except DalError:
            continue
    return None


def test_what_is_stolen_from_it_and_from_the_server_opens_nothing(served: Served, laptop: User) -> None:
    """Kind of fault: a token for writing that comes with the key of everything."""
    name = laptop.value("backup", "doc")["volume"]
    (laptop.home / "doc" / NAME).write_bytes(LINE * 6000)
    laptop.quick("backup", "doc", "--name", "second")
    original = tree(laptop.home / "doc")
    shutil.rmtree(laptop.home / "doc")  # what is being backed up is open on its machine, of course

    keys = thief_of(laptop)
    pool = served.user.home / "pool"
    theirs = packs_below(pool)
    assert theirs
    for file in theirs:
        assert opened_by(keys, file) is None, file
    for file in packs_below(laptop.home):
        reader = opened_by(keys, file)
        if reader is not None:
            with reader:
                kinds = {int(kind) for kind in reader.objects()[1][:, 1] >> pack.OFFSET_BITS}
            assert KIND_CHUNK not in kinds, "what has been sent does not stay"
    for place in (pool, laptop.home):
        for file in place.rglob("*"):
            if file.is_file() and file.name not in (".out", ".err"):
                data = file.read_bytes()
                assert LINE not in data and NAME.encode() not in data, file
    for file in (pool / "refs").rglob("*"):
        for key in keys if file.is_file() else ():
            with pytest.raises(Damaged):
                key.open_value(file.read_bytes(), context=str(file.relative_to(pool / "refs")).encode())

    # Over the network the token gives no key either, and no bytes.
    site = served.server.site(json.loads(next(laptop.home.rglob("realms/*.json")).read_bytes())["token"])
    assert isinstance(site.key(), WriteKey)
    for attack in (lambda: site.objects(name, bytes(32)), lambda: site.block(name, bytes(32))):
        with pytest.raises(NoAccess):
            list(attack())  # type: ignore[operator]
    served.user.quick("restore", f"{name}@second", "--to", f"back-{name}")
    assert tree(served.user.home / f"back-{name}") == original
    served.user.quick("verify", "--pool")


def test_it_backs_up_what_changed_and_a_lost_cache_costs_reading_and_no_room(served: Served, laptop: User) -> None:
    first = laptop.value("backup", "doc")
    assert first["bytes_read"] > 2_000_000
    (laptop.home / "doc" / "new").write_bytes(b"some more")
    assert laptop.value("backup", "doc")["bytes_read"] == len(b"some more")
    stored = sum(file.stat().st_size for file in (served.user.home / "pool" / "packs").rglob("*.pack"))
    shutil.rmtree(laptop.home / ".cache")
    again = laptop.value("backup", "doc")
    assert again["bytes_read"] > 2_000_000, "all is read again"
    now = sum(file.stat().st_size for file in (served.user.home / "pool" / "packs").rglob("*.pack"))
    assert now - stored < 8000, "and nothing is stored again"


def test_it_says_that_it_cannot_read(served: Served, laptop: User) -> None:
    name = laptop.value("backup", "doc")["volume"]
    for words in (("restore", name, "--to", "back"), ("cat", f"{name}:/{NAME}")):
        error = laptop.quick(*words, code=8).error
        assert "only writes" in error, error
    served.user.quick("dump", name, "-o", str(laptop.home / "any.dump"), "--no-record")
    assert "does not open" in laptop.quick("ls", "any.dump", code=8).error


def test_what_waits_while_the_server_is_away_is_sent_later_and_does_not_stay(tmp_path: Path) -> None:
    user = User(tmp_path / "server", {"DAL_PASSPHRASE": PASSPHRASE})
    user.quick("init", "--encryption", "passphrase")
    laptop = User(tmp_path / "laptop", {"DAL_POOL": ""})
    (laptop.home / "doc").mkdir()
    (laptop.home / "doc" / NAME).write_bytes(LINE * 5000)
    with start_server(user) as server:
        port = server.port
        laptop.quick("realm", "join", format_join(server.join(server.token("append", volumes=("lap-*",)))))
        laptop.quick("backup", "doc")
    (laptop.home / "doc" / NAME).write_bytes(LINE * 7000)
    laptop.quick("backup", "doc", code=9)
    with start_server(user, listen=f"127.0.0.1:{port}"):
        laptop.quick("backup", "doc")
        assert user.quick("cat", f"lap-doc:/{NAME}").out == LINE * 7000
    for file in packs_below(laptop.home):
        reader = opened_by(thief_of(laptop), file)
        assert reader is None or KIND_CHUNK not in {int(k) for k in reader.objects()[1][:, 1] >> pack.OFFSET_BITS}


def test_a_key_that_only_writes_is_carried_by_hand_where_no_server_shall_give_it(
    served: Served, tmp_path: Path
) -> None:
    served.user.quick("key", "export", "--write-only", "machine.key")
    machine = User(tmp_path / "machine", {"DAL_POOL": ""})
    shutil.copy(served.user.home / "machine.key", machine.home / "machine.key")
    token = served.server.token("append", volumes=("m-*",))
    (machine.home / "doc").mkdir()
    (machine.home / "doc" / "a").write_bytes(LINE)
    machine.quick("--key", "machine.key", "realm", "join", format_join(served.server.join(token)))
    assert machine.value("backup", "doc")["volume"] == "m-doc"
    assert served.user.quick("cat", "m-doc:/a").out == LINE
    # It opens no pool, its own realm's neither.
    told = served.user.quick("--key", "machine.key", "volume", "list", code=0)
    assert told.code == 0  # the passphrase opens it, no key is needed
    owner = User(tmp_path / "owner")
    owner.quick("init")
    owner.quick("key", "export", "--write-only", "w.key")
    assert "only writes" in owner.quick("--key", "w.key", "volume", "list", code=8).error
    assert "only writes" in owner.quick("--key", "w.key", "backup", "--name", "x", ".", code=8).error
    damaged = (owner.home / "w.key").read_text().replace(" age1", " age1q")
    (owner.home / "w.key").write_text(damaged)
    assert "damaged" in owner.quick("--key", "w.key", "volume", "list", code=8).error
