"""Who made a state is signed by him: shown by `dal log`, checked by `dal verify`, and nobody has to care."""

import json
from pathlib import Path

import msgspec
import pytest
from signed_kit import key_of, make

import dalsegno
from cli_kit import User
from dalsegno.assembly.local import open_pool
from dalsegno.chunks.signatures import SigningKey
from dalsegno.formats import objects
from dalsegno.trees.read import read_revision


@pytest.fixture
def user(tmp_path: Path) -> User:
    return make(tmp_path)


def forge(user: User, **changes: object) -> None:
    """Put a revision on top as somebody with the pool's key can, the signature of the one before included."""
    with open_pool(user.home / "pool", key_path=next((user.home / ".config/dalsegno/keys").iterdir())) as house:
        state = house.volumes.get("docs")
        with house.pool.writer() as writer:
            head = read_revision(house.pool, state.head)
            changes = {"parents": [state.head], "created_ns": head.created_ns + 1, **changes}
            forged = msgspec.structs.replace(head, **changes)
            made = writer.put(objects.KIND_REVISION, objects.encode(forged))
            writer.flush()
            writer.commit_guard()
            house.volumes.update(state.id, lambda current: msgspec.structs.replace(current, head=bytes(made)))


def signatures(user: User) -> list[str]:
    return [row["signature"]["status"] for row in json.loads(user.quick("--json", "log", "docs").out)]


def test_a_backup_is_signed_without_a_question(user: User) -> None:
    key = key_of(user)
    assert b"(" not in user.quick("log", "docs").out
    assert key.stat().st_mode & 0o777 == 0o600
    (row,) = json.loads(user.quick("--json", "log", "docs").out)
    assert row["signature"] == {"status": "signed", "name": row["author"], "key": row["signature"]["key"]}
    assert row["signature"]["key"].startswith("SHA256:")
    before = key.read_bytes()
    (user.home / "docs" / "letter").write_bytes(b"dear bob,\n")
    user.quick("backup", "docs")
    assert key.read_bytes() == before and signatures(user) == ["signed", "signed"]
    assert user.quick("verify", "--pool").out.endswith(b"whole\n")


def test_every_command_that_makes_a_state_signs_it(user: User) -> None:
    """The kind: a way to commit that goes around the signing."""
    user.quick("import", "native", "docs")
    user.quick("clone", "docs", "named")
    assert [row["signature"]["status"] for row in user.value("log", "native")] == ["signed"]
    assert set(signatures(user)) == {"signed"}


def test_a_volume_that_is_reopened_here_is_signed(user: User) -> None:
    (user.home / "docs" / "letter").write_bytes(b"dear bob,\n")
    user.quick("backup", "docs", DAL_NOW="4000000000000000000")
    user.quick("volume", "reopen", "docs")
    row = user.value("log", "docs")[0]
    assert row["author"] == "dal volume reopen" and row["signature"]["status"] == "signed"


def test_nothing_else_makes_states() -> None:
    """Whoever adds a way to commit has to think of signatures: merges have none, previews are not stored."""
    room = Path(dalsegno.__file__).parent
    makers = {
        str(path.relative_to(room)) for path in room.rglob("*.py") if "put(objects.KIND_REVISION" in path.read_text()
    }
    assert makers == {"actions/remote.py", "volumes/reopen.py", "volumes/resolve.py", "volumes/store.py"}


def test_another_users_signature_is_shown_by_its_fingerprint(user: User, tmp_path: Path) -> None:
    shown = user.value("log", "docs")[0]["signature"]["key"]
    bob = User(
        tmp_path / "bob",
        {"DAL_POOL": str(user.home / "pool"), "DAL_KEY": str(next(key_of(user).parent.glob("keys/*")))},
    )
    (row,) = bob.value("log", "docs")
    assert row["signature"] == {"status": "unknown", "name": None, "key": shown}
    assert shown[:19].encode() in bob.quick("log", "docs").out


@pytest.mark.parametrize("how", ["other", "cut", "flipped"])
def test_a_signature_that_is_not_genuine_is_damage(user: User, how: str) -> None:
    """A state in another's name: a copied signature, a shortened one, one with a flipped bit."""
    with open_pool(user.home / "pool", key_path=next((user.home / ".config/dalsegno/keys").iterdir())) as house:
        signature = read_revision(house.pool, house.volumes.get("docs").head).signature
    bad = {"other": signature, "cut": signature[:-1], "flipped": signature[:-1] + bytes([signature[-1] ^ 1])}
    forge(user, author="mallory", signature=bad[how])
    assert signatures(user) == ["bad", "signed"]
    assert b"BAD SIGNATURE" in user.quick("log", "docs").out
    done = user.quick("verify", "--pool", code=5)
    assert b"signature" in done.out
    user.quick("dump", "docs", "-o", "docs.dump")
    assert b"signature" in user.quick("verify", "docs.dump", code=5).out


def test_a_state_without_a_signature_is_no_damage(user: User) -> None:
    """What was made before there were signatures stays whole."""
    forge(user, signature=b"")
    assert signatures(user) == ["unsigned", "signed"]
    assert b"unsigned" in user.quick("log", "docs").out
    user.quick("verify", "--pool")
    user.quick("dump", "docs", "-o", "docs.dump")
    user.quick("verify", "docs.dump")
    user.quick("restore", "docs", "--to", "back")


@pytest.mark.parametrize("how", ["damaged", "directory", "no place"])
def test_who_has_no_signing_key_backs_up_and_is_told_once(user: User, how: str) -> None:
    """The kind: a backup that fails for something it can do without."""
    key = key_of(user)
    (user.home / "docs" / "letter").write_bytes(b"dear bob,\n")
    key.unlink()
    environment = {}
    if how == "damaged":
        key.write_bytes(b"not a key\n")
    elif how == "directory":
        key.mkdir()
    else:
        environment = {"XDG_CONFIG_HOME": "/proc", "DAL_KEY": str(next(key.parent.glob("keys/*")))}
    done = user.quick("backup", "docs", **environment)
    assert done.err.count(b"not signed") == 1, done.err
    assert signatures(user)[0] == "unsigned"


def test_the_key_is_whole_however_many_make_it_at_once(tmp_path: Path) -> None:
    """The kind: two that both make what there is one of."""
    from concurrent.futures import ThreadPoolExecutor

    from dalsegno.pool.signing_key import make_signing_key

    path = tmp_path / "config" / "signing.key"
    with ThreadPoolExecutor(8) as crew:
        made = set(crew.map(lambda _: make_signing_key(path).public, range(8)))
    assert made == {SigningKey.of_text(path.read_bytes()).public}
    assert [each.name for each in path.parent.iterdir()] == ["signing.key"]


def test_a_signing_key_that_everybody_may_read_is_said(user: User) -> None:
    """The kind: a secret that is none any more is used without a word."""
    key_of(user).chmod(0o644)
    (user.home / "docs" / "letter").write_bytes(b"dear bob,\n")
    assert b"everybody on this machine may read this key" in user.quick("backup", "docs").err
