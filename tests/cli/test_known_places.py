"""What was seen of a pool's place: another pool, one that is not sealed, or yesterday's refs are not taken for it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from face_kit import Person, Session

from dalsegno.pool.known import LINES_FREE, KnownHead, KnownPlace
from dalsegno.pool.settings import PoolSettings, decode_settings, encode_settings

SECRET = b"TOP-SECRET-4711"
SEALED = "encryption keyfile"


class Disk:
    """A pool at a place that somebody else controls, and a person who backs up to it."""

    def __init__(self, home: Path, *, encryption: str = "keyfile") -> None:
        self.person = Person(home)
        self.home = home
        self.pool = home / "mnt" / "pool"
        (home / "doc").mkdir()
        self.pool.parent.mkdir()
        self.run("init", "--encryption", encryption)
        self.take("first")

    def run(self, *words: str, code: int = 0, **more: str) -> "subprocess.CompletedProcess[bytes]":
        return self.person.run(*words, code=code, DAL_POOL=str(self.pool), **more)

    def refused(self, *words: str, code: int = 4, **more: str) -> str:
        """Run a command that must end in one line, and return that."""
        done = self.run(*words, code=code, **more)
        said = done.stderr.decode()
        assert said.startswith("dal: error: ") and said.count("\n") == 1, said
        return said

    def take(self, text: str) -> None:
        (self.home / "doc" / "plan.txt").write_text(text)
        self.run("backup", "doc", "--name", text)

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.pool, self.home / "aside" / name, symlinks=True))

    def put(self, source: Path) -> None:
        """Let another disk be at the place."""
        shutil.rmtree(self.pool)
        shutil.copytree(source, self.pool, symlinks=True)

    def swap(self, away: str, there: str) -> None:
        """Take the disk away and put another in."""
        aside = self.home / "aside"
        aside.mkdir(exist_ok=True)
        os.rename(self.pool, aside / away)
        os.rename(aside / there, self.pool)

    def text(self) -> bytes:
        return self.run("cat", "doc:/plan.txt").stdout

    def memory(self) -> Path:
        (found,) = (self.home / ".local/state/dalsegno/known").iterdir()
        return found


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "home")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(exist_ok=True)


def open_pool_of_a_stranger(disk: Disk, *, same_id: bool = False) -> Path:
    """Return a pool without encryption that an attacker made; he reads what comes into it."""
    stranger = Person(disk.home.parent / "stranger")
    stranger.home.mkdir()
    stranger.run("init", "p", "--encryption", "none")
    settings = stranger.home / "p" / "pool.toml"
    if same_id:
        own = decode_settings((disk.pool / "pool.toml").read_bytes(), disk.pool)
        his = decode_settings(settings.read_bytes(), settings)
        forged = PoolSettings(pool_id=own.pool_id, realm_id=his.realm_id, plain_secret=his.plain_secret)
        settings.write_bytes(encode_settings(forged))
    return stranger.home / "p"


def holds(pool: Path, secret: bytes) -> bool:
    """Tell whether who has an open pool's files has the secret: packs grow when anything is stored."""
    return any((pool / "packs").rglob("*.pack")) or any((pool / "refs").rglob("*/*"))


@pytest.mark.parametrize("same_id", [False, True])
def test_an_exchanged_pool_that_is_not_sealed_gets_nothing(disk: Disk, same_id: bool) -> None:
    """Kind: whoever controls the storage turns encryption off."""
    theirs = open_pool_of_a_stranger(disk, same_id=same_id)
    disk.put(theirs)
    (disk.home / "doc" / "secret").write_bytes(SECRET)
    said = disk.refused("backup", "doc")
    assert "dal pool trust" in said and str(disk.pool) in said and ("sealed" in said or SEALED in said or "key" in said)
    for words in (["ls", "doc"], ["gc"], ["import", "n", "doc"], ["status"]):
        disk.refused(*words)
    assert not holds(disk.pool, SECRET)
    shown = disk.run("pool", "show", code=1).stdout.decode()
    assert "encryption    none" in shown and ", encryption keyfile, since 2" in shown


def test_a_given_key_or_passphrase_is_never_for_an_open_pool(disk: Disk, tmp_path: Path) -> None:
    """Kind: a secret that was given is silently not used. Also where nothing is known of the place."""
    (key,) = (disk.home / ".config/dalsegno/keys").glob("*.key")
    disk.put(open_pool_of_a_stranger(disk))
    shutil.rmtree(disk.home / ".local/state")
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("x\n")
    disk.refused("backup", "doc", "--key", str(key), code=8)
    for variables in ({"DAL_KEY": str(key)}, {"DAL_PASSPHRASE": "x"}, {"DAL_PASSPHRASE_FILE": str(passphrase)}):
        assert "not encrypted" in disk.refused("backup", "doc", code=8, **variables)
        disk.refused("pool", "trust", "--yes", code=8, **variables)
        disk.refused("backup", "doc", "--trust-pool", code=8, **variables)
    assert not holds(disk.pool, SECRET)


def test_own_key_files_tell_of_a_sealed_pool_when_the_memory_is_lost(disk: Disk) -> None:
    disk.put(open_pool_of_a_stranger(disk))
    shutil.rmtree(disk.home / ".local/state")
    assert "not sealed" in disk.refused("backup", "doc")


def test_refs_of_yesterday_are_noticed_by_every_command(disk: Disk) -> None:
    """Kind: a rollback that nobody notices; a collection after it would delete what is newer."""
    yesterday = disk.copy("yesterday")
    disk.take("second")
    shutil.rmtree(disk.pool / "refs")
    shutil.copytree(yesterday / "refs", disk.pool / "refs")
    packs = sorted(each.name for each in (disk.pool / "packs").rglob("*.pack"))
    for words in (["ls", "doc"], ["backup", "doc"], ["clones"], ["status"], ["gc", "--grace", "0"]):
        said = disk.refused(*words)
        assert "'doc' is older than it was" in said and "seen here on 2" in said and "dal pool trust" in said
    assert packs == sorted(each.name for each in (disk.pool / "packs").rglob("*.pack"))
    found = disk.run("doctor", code=1).stdout.decode()
    assert "older than it was" in found and "all well" not in found
    checked = disk.run("verify", "--pool", code=4).stdout.decode()
    assert "differs: " in checked and "not as it was seen here" in checked


def test_a_clone_that_is_gone_without_a_newer_head_is_noticed(disk: Disk) -> None:
    """Kind: refs of yesterday take a held clone away, and all else looks as it was."""
    yesterday = disk.copy("yesterday")
    disk.run("clone", "doc", "kept", "--no-scan")
    disk.run("hold", "doc@kept")
    disk.run("ls", "doc@kept")
    disk.put(yesterday)
    assert "clones, holds or settings are those of before" in disk.refused("clones", "doc")


def test_a_volume_that_was_removed_does_not_come_back_unnoticed(disk: Disk) -> None:
    """Kind: what is forgotten with a removal is not missed; here the old volume takes the new one's name."""
    yesterday = disk.copy("yesterday")
    disk.run("volume", "remove", "doc", "--yes")
    disk.take("second")
    disk.run("ls", "doc")
    disk.put(yesterday)
    for words in (["ls", "doc"], ["volume", "list"], ["gc", "--grace", "0"]):
        assert "'doc' was removed on 2" in disk.refused(*words)
    disk.run("--trust-pool", "ls", "doc")
    disk.run("pool", "trust", "--yes")
    disk.run("ls", "doc")
    disk.run("volume", "remove", "doc", "--yes")


def test_an_older_state_is_read_after_one_word(disk: Disk) -> None:
    """Kind: a safeguard that stands between a person and his backup."""
    yesterday = disk.copy("yesterday")
    disk.take("second")
    disk.put(yesterday)
    done = disk.run("restore", "doc", "--to", "back", "--trust-pool")
    assert (disk.home / "back" / "plan.txt").read_text() == "first"
    assert b"notice: " in done.stderr and b"older than it was" in done.stderr
    disk.refused("ls", "doc")  # that was for once
    assert b"say --yes" in disk.run("pool", "trust", code=4).stderr
    disk.run("pool", "trust", "--yes")
    assert disk.text() == b"first"
    disk.take("third")
    assert disk.text() == b"third"
    assert b"nothing differs" in disk.run("pool", "trust").stdout


def test_trust_is_explained_and_asked_for_at_a_terminal(disk: Disk) -> None:
    yesterday = disk.copy("yesterday")
    disk.take("second")
    disk.put(yesterday)
    command = [
        *(str(each) for each in ("python3", "-m", "dalsegno.cli.main")),
        "pool",
        "trust",
        "--pool",
        str(disk.pool),
    ]
    import sys

    command[0] = sys.executable
    for answer, code in ((b"n\n", 4), (b"y\n", 0)):
        session = Session(disk.person, command)
        session.expect(b"older than it was")
        session.expect(b"somebody else did")
        session.expect(b"[y/n]")
        session.send(answer)
        assert session.finish()[0] == code
    assert disk.text() == b"first"


def test_two_copies_of_a_pool_are_used_in_turn_at_one_place(disk: Disk) -> None:
    """Kind: a safeguard that refuses rotating disks each week; an older copy of either is refused all the same."""
    disk.copy("b")
    disk.take("a1")
    disk.swap("a", "b")
    disk.refused("backup", "doc")
    disk.run("pool", "trust", "--yes")
    disk.take("b1")
    old_b = disk.copy("old-b")
    for turn in (2, 3):
        disk.swap("b", "a")
        disk.take(f"a{turn}")
        disk.swap("a", "b")
        disk.take(f"b{turn}")
    disk.swap("b", "a")
    disk.text()
    disk.put(old_b)
    disk.refused("ls", "doc")
    lines = (disk.memory() / next(each.name for each in disk.memory().iterdir() if len(each.name) == 32)).read_text()
    assert lines.count('"line":1') >= 3 and '"line":2' not in lines


def test_two_pools_are_used_in_turn_at_one_place(disk: Disk) -> None:
    aside = disk.home / "aside"
    aside.mkdir()
    os.rename(disk.pool, aside / "a")
    disk.run("init")  # this user's own doing
    disk.take("b1")
    disk.swap("b", "a")
    assert disk.text() == b"first"
    disk.swap("a", "b")
    assert disk.text() == b"b1"
    disk.swap("b", "a")
    disk.take("a2")
    assert len(disk.person.value("pool", "show", "--pool", str(disk.pool))["known"]) == 2


def test_a_pool_at_another_place_is_known_there_from_its_first_use_on(disk: Disk) -> None:
    copy = disk.copy("copy")
    disk.take("second")
    assert disk.run("--pool", str(copy), "cat", "doc:/plan.txt").stdout == b"first"
    disk.pool = copy
    disk.take("other")
    assert disk.text() == b"other"


def test_a_symlink_to_another_pool_is_still_the_same_place(disk: Disk) -> None:
    """Kind: a name that the attacker can make lead elsewhere."""
    theirs = open_pool_of_a_stranger(disk)
    os.rename(disk.pool, disk.home / "kept")
    disk.pool.symlink_to(theirs)
    disk.refused("backup", "doc")


def test_what_others_did_meanwhile_is_no_rollback(disk: Disk) -> None:
    """Kind: a false alarm, which stops every nightly backup: others commit, thin out, collect, remove and rename."""
    other = Person(disk.home.parent / "other")
    shutil.copytree(disk.home / ".config", other.home / ".config")
    source = other.home / "doc"
    source.mkdir()
    for number in range(2):
        (source / "plan.txt").write_text(f"other {number}")
        other.run("import", "shared", str(source), "--pool", str(disk.pool))
        other.run("clone", "shared", f"c{number}", "--pool", str(disk.pool))
        if number == 0:
            assert disk.run("cat", "shared:/plan.txt").stdout == b"other 0"
    other.run("unclone", "shared@c0", "--pool", str(disk.pool))
    other.run("unclone", "shared@c1", "--pool", str(disk.pool))
    (source / "plan.txt").write_text("newest")
    other.run("import", "shared", str(source), "--pool", str(disk.pool))
    other.run("gc", "--grace", "0", "--pool", str(disk.pool))
    assert disk.run("cat", "shared:/plan.txt").stdout == b"newest"
    other.run("volume", "rename", "shared", "named", "--pool", str(disk.pool))
    assert disk.run("cat", "named:/plan.txt").stdout == b"newest"
    other.run("volume", "remove", "named", "--yes", "--pool", str(disk.pool))
    disk.run("ls", "doc")
    assert "not there now" in "".join(disk.person.value("doctor", "--pool", str(disk.pool))["hints"])
    disk.run("pool", "trust", "--yes")
    assert "not there now" not in "".join(disk.person.value("doctor", "--pool", str(disk.pool))["hints"])


def test_a_removed_volume_may_come_back_from_a_dump(disk: Disk) -> None:
    disk.run("dump", "doc", "-o", "doc.dump")
    disk.take("second")
    disk.run("volume", "remove", "doc", "--yes")
    disk.run("restore", "doc.dump", "--volume", "doc")
    assert disk.text() == b"first"


@pytest.mark.parametrize("place", ["/proc/nothing", "/dev/null/nothing"])
def test_who_cannot_remember_is_told_and_can_restore(disk: Disk, place: str) -> None:
    """Kind: a restore on a rescue system fails for a file that is not needed."""
    done = disk.run("restore", "doc", "--to", "back", XDG_STATE_HOME=place)
    assert done.stderr.count(b"notice: ") == 1 and b"cannot be remembered" in done.stderr
    assert (disk.home / "back" / "plan.txt").read_text() == "first"
    assert b"error" not in disk.run("backup", "doc", XDG_STATE_HOME=place).stderr


def test_a_torn_memory_is_read_as_far_as_it_goes(disk: Disk) -> None:
    yesterday = disk.copy("yesterday")
    disk.take("second")
    for file in disk.memory().iterdir():
        if file.name != "lock":
            data = file.read_bytes()
            deep = b'{"x": ' + b"[" * 5000
            file.write_bytes(
                b"\x00\xff{]\n" + deep + b"\n" + data + b'\n{"volume": "zz"}\n{"volume": 1}\n[[[[\n{"pool":'
            )
    disk.put(yesterday)
    assert "older than it was" in disk.refused("ls", "doc")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state/dalsegno/known"


def test_the_memory_is_small_its_owners_and_does_not_grow(state: Path) -> None:
    heads = KnownPlace(Path("/mnt/x")).heads(bytes(16))
    for number in range(1500):
        head = KnownHead(head=number.to_bytes(32, "big"), created_ns=number, at_ns=1)
        heads.put(bytes(15) + bytes([number % 5]), 0, head)
    again = KnownPlace(Path("/mnt/x")).heads(bytes(16))
    assert {each: again.of(each) for each in again.volumes()} == {each: heads.of(each) for each in heads.volumes()}
    (file,) = (each for each in state.rglob("0" * 32) if each.is_file())
    assert file.read_bytes().count(b"\n") <= LINES_FREE + 20
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700


def test_several_remember_at_once(state: Path) -> None:
    def work(first: int) -> None:
        heads = KnownPlace(Path("/mnt/x")).heads(bytes(16))
        for number in range(150):
            volume = bytes(14) + bytes([first, number % 7])
            heads.put(volume, 0, KnownHead(head=bytes([number % 256]) * 32, created_ns=number, at_ns=1))

    in_threads([lambda first=first: work(first) for first in range(4)])  # type: ignore[misc]
    again = KnownPlace(Path("/mnt/x")).heads(bytes(16))
    newest = {each[-1]: again.of(each)[0].created_ns for each in again.volumes()}
    assert len(again.volumes()) == 28 and newest == {each: max(range(each, 150, 7)) for each in range(7)}


def test_backups_beside_each_other_raise_no_alarm(disk: Disk) -> None:
    """Kind: what was remembered a moment ago is compared with what was read before it."""
    directories = [disk.home / f"d{number}" for number in range(2)]
    for each in directories:
        each.mkdir()

    def work(directory: Path) -> None:
        for number in range(2):
            (directory / "x").write_text(f"{number}")
            disk.run("backup", str(directory))
            disk.run("status")

    in_threads([lambda each=each: work(each) for each in directories])  # type: ignore[misc]


def in_threads(works: list[Callable[[], None]]) -> None:
    """Do all at once; what one of them raises is raised here."""
    with ThreadPoolExecutor(len(works)) as crew:
        for each in [crew.submit(work) for work in works]:
            each.result()
