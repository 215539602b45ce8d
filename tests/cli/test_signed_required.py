"""`dal volume set --signed required` and `dal key signers`: only states of known signers are taken, and read."""

from pathlib import Path

import pytest
from signed_kit import key_of, make

from cli_kit import User


def other(user: User, tmp_path: Path) -> User:
    """Return somebody else with the pool's key."""
    (key,) = (user.home / ".config" / "dalsegno" / "keys").glob("*.key")
    return User(tmp_path / "bob", {"DAL_POOL": str(user.home / "pool"), "DAL_KEY": str(key)})


def change(user: User) -> None:
    with open(user.home / "docs" / "letter", "ab") as file:
        file.write(b"more\n")


def test_nobody_else_commits_until_he_is_known(tmp_path: Path) -> None:
    """The kind: a policy that binds only whoever keeps it."""
    anna = make(tmp_path)
    bob = other(anna, tmp_path)
    shown = anna.quick("volume", "set", "docs", "--signed", "required").out
    assert b"signed   required" in shown
    change(anna)
    anna.quick("backup", "docs")
    change(anna)
    done = bob.quick("backup", "docs", code=4)
    assert "takes only signed states" in done.error and "dal key trust-signer NAME 'ssh-ed25519 " in done.error
    assert len(anna.value("log", "docs")) == 2
    key = bob.value("key", "signers")["own"]["key"]
    anna.quick("key", "trust-signer", "bob", key)
    bob.quick("backup", "docs")
    assert next(row["signature"]["name"] for row in anna.value("log", "docs")) == "bob"
    assert b"(signed by bob)" in anna.quick("log", "docs").out
    listed = anna.value("key", "signers")
    assert {each["name"]: each["own"] for each in listed["signers"]} == {"bob": False, listed["own"]["name"]: True}
    anna.quick("key", "remove-signer", "bob")
    assert "bob" not in [each["name"] for each in anna.value("key", "signers")["signers"]]
    change(anna)
    bob.quick("backup", "docs", code=4)


@pytest.mark.parametrize("verb", ["restore", "mount"])
def test_what_is_not_signed_by_somebody_known_is_not_read_without_a_word(tmp_path: Path, verb: str) -> None:
    anna = make(tmp_path)
    anna.quick("volume", "set", "docs", "--signed", "required")
    bob = other(anna, tmp_path)
    # As one with the pool's key can, who then puts himself into the list: there it is seen.
    bob.quick("volume", "set", "docs", "--signed", "optional")
    change(anna)
    bob.quick("backup", "docs")
    assert "back up again" in anna.quick("volume", "set", "docs", "--signed", "required", code=4).error
    bob.quick("volume", "set", "docs", "--signed", "required")
    anna.quick("restore", "docs", "--to", "before")
    anna.quick("key", "remove-signer", next(row["signature"]["name"] for row in anna.value("log", "docs")))
    if verb == "mount":
        (anna.home / "mnt").mkdir()
        done = anna.quick("mount", "docs", "mnt", code=(0, 4))
        anna.quick("umount", "mnt", code=(0, 6)) if done.code == 0 else None
        assert done.code == 4
        assert "key that is not known" in done.error
        return
    done = anna.quick("restore", "docs", "--to", "back", code=4)
    assert "key that is not known" in done.error and "--untrusted or --trusted" in done.error
    assert not (anna.home / "back").exists()
    anna.quick("restore", "docs", "--to", "back", "--untrusted")
    assert (anna.home / "back" / "letter").read_bytes().endswith(b"more\n")


def test_a_mount_that_could_not_commit_does_not_begin(tmp_path: Path) -> None:
    """The kind: what is found out when there is something to lose."""
    anna = make(tmp_path)
    bob = other(anna, tmp_path)
    anna.quick("volume", "create", "notes")
    anna.quick("import", "notes", "docs")
    anna.quick("volume", "set", "notes", "--signed", "required")
    (bob.home / "mnt").mkdir()
    done = bob.quick("mount", "notes", "mnt", "--trusted", code=4)
    assert "no signer whom it knows" in done.error and "--read-only" in done.error


def test_a_state_from_before_is_backed_up_again_before_signatures_are_required(tmp_path: Path) -> None:
    anna = make(tmp_path)
    key_of(anna).rename(anna.home / "old.key")  # a new machine, say
    done = anna.quick("volume", "set", "docs", "--signed", "required", code=4)
    assert "back up again" in done.error
    change(anna)
    anna.quick("backup", "docs")
    anna.quick("volume", "set", "docs", "--signed", "required")
    anna.quick("restore", "docs", "--to", "back")


def test_a_dump_of_a_state_that_is_not_signed_is_not_loaded_into_such_a_volume(tmp_path: Path) -> None:
    """The kind: a second way in that does not ask."""
    anna = make(tmp_path)
    bob = other(anna, tmp_path)
    anna.quick("volume", "create", "notes")
    anna.quick("import", "notes", "docs")
    anna.quick("dump", "notes", "-o", "0.dump")
    (key,) = (anna.home / ".config" / "dalsegno" / "keys").glob("*.key")
    second = User(anna.home, {"DAL_POOL": str(tmp_path / "second")})
    second.quick("init", "--join", str(key), "--encryption", "keyfile")
    second.quick("restore", "0.dump", "--volume", "notes")
    second.quick("volume", "set", "notes", "--signed", "required")
    change(anna)
    bob.quick("import", "notes", str(anna.home / "docs"))
    anna.quick("dump", "notes", "--level", "1", "-o", "1.dump")
    before = second.value("volume", "show", "notes")["head"]
    done = second.quick("restore", "1.dump", "--volume", "notes", code=4)
    assert "takes only signed states" in done.error
    assert second.value("volume", "show", "notes")["head"] == before
    second.quick("key", "trust-signer", "bob", bob.value("key", "signers")["own"]["key"])
    second.quick("restore", "1.dump", "--volume", "notes")
    assert second.value("volume", "show", "notes")["head"] != before


@pytest.mark.parametrize("text", ["", "ssh-ed25519 AAAA", "no-such-file", "age1xyz"])
def test_what_is_no_key_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    user = User(tmp_path)
    user.quick("init", "--encryption", "keyfile")
    assert "expected ssh-ed25519" in user.quick("key", "trust-signer", "anna", text, code=2).error
    assert "no signer 'anna'" in user.quick("key", "remove-signer", "anna", code=6).error


def test_who_has_signed_nothing_yet_is_told_so(tmp_path: Path) -> None:
    user = User(tmp_path)
    user.quick("init", "--encryption", "keyfile")
    assert b"signed nothing yet" in user.quick("key", "signers").out
    assert user.value("key", "signers") == {"own": None, "signers": []}
