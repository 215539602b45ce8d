"""`dal restore --delete` and the rules of the backup, from the command line."""

import os
from pathlib import Path

import pytest

from cli_kit import User


@pytest.fixture
def home(tmp_path: Path) -> User:
    user = User(tmp_path / "user")
    source = user.home / "docs"
    source.mkdir()
    (source / "a.txt").write_text("a")
    (source / "a.o").write_text("left out")
    user.quick("init", "--encryption", "none")
    user.quick("backup", "docs", "--exclude", "*.o")
    return user


def test_what_an_option_left_out_stays_and_is_counted(home: User) -> None:
    """Kind of fault: what was never looked at is taken for gone."""
    (home.home / "docs" / "new.txt").write_text("new")
    shown = home.quick("restore", "docs", "--to", "docs", "--delete").out.decode()
    assert "1 deleted" in shown and "not deleted: 1 left out by the backup's rules" in shown
    assert sorted(os.listdir(home.home / "docs")) == ["a.o", "a.txt"]
    value = home.value("restore", "docs", "--to", "docs", "--delete-excluded")
    assert (value["deleted"], value["protected"]) == (1, {})
    assert os.listdir(home.home / "docs") == ["a.txt"]


def test_a_pool_within_the_target_is_never_deleted(tmp_path: Path) -> None:
    data = tmp_path / "user" / "data"
    user = User(tmp_path / "user", {"DAL_POOL": str(data / "pool")})
    data.mkdir()
    (data / "keep").write_text("x")
    user.quick("init", "--encryption", "none")
    user.quick("backup", "data")
    for how in ("--delete", "--delete-excluded"):
        (data / "more").write_text("x")
        value = user.value("restore", "data", "--to", "data", how)
        assert (value["deleted"], value["protected"]) == (1, {"the program's own": 1})
        user.quick("verify", "--pool")
    assert sorted(os.listdir(data)) == ["keep", "pool"]
    refused = user.quick("restore", "data", "--to", "data/pool/packs", "--delete", code=4).error
    assert "the program's own files are in" in refused


def test_deleting_below_the_root_asks_for_more(home: User) -> None:
    refused = home.quick("restore", "docs", "--to", "/", "--delete", code=4).error
    assert "--yes" in refused and "--dry-run" in refused
    (home.home / "slash").symlink_to("/")
    home.quick("restore", "docs", "--to", "slash", "--delete-excluded", code=4)


def test_rules_that_changed_make_a_new_state_and_the_same_rules_none(home: User) -> None:
    assert home.value("backup", "docs", "--exclude", "*.o")["changed"] is False
    (home.home / "docs" / "a.o").unlink()
    assert home.value("backup", "docs")["changed"] is True
    assert home.value("backup", "docs")["changed"] is False


def test_a_dry_run_names_each_change_and_changes_nothing(home: User) -> None:
    docs = home.home / "docs"
    for name in ("mode", "gone", "same"):
        (docs / name).write_text(name)
    home.quick("backup", "docs", "--exclude", "*.o")
    (docs / "a.txt").write_text("changed")
    (docs / "mode").chmod(0o600)
    (docs / "gone").unlink()
    (docs / "new").mkdir()
    (docs / "new" / "file").write_text("123")
    before = sorted(str(path) for path in docs.rglob("*"))
    words = ("restore", "docs", "--to", "docs", "--delete")
    lines = home.quick(*words, "-n").out.decode().splitlines()
    shown = [" ".join(line.split()) for line in lines if not line.startswith((" ", "would"))]
    assert shown == [
        "change 1 B a.txt (content)",
        "create 4 B gone",
        "change 4 B mode (mode)",
        "protect 8 B a.o (left out by the backup's rules)",
        "delete 3 B new/file",
        "delete directory new/",
        "change directory ./ (modification time)",
    ]
    assert "5 B would be written" in lines[-2] and sorted(str(path) for path in docs.rglob("*")) == before
    value = home.value(*words, "-n")
    assert [each["action"] for each in value["changes"]] == [line.split()[0] for line in shown]
    assert (value["changes_cut"], value["bytes_written"]) == (False, 5)
    real = home.quick("-v", *words).out.decode().splitlines()
    assert [" ".join(line.split()) for line in real[: len(shown)]] == shown
    assert home.value(*words)["changes"][0]["action"] == "protect"


def test_one_file_is_restored_as_the_file_that_is_named(home: User) -> None:
    docs, out = home.home / "docs", home.home / "out"
    (docs / "letters").mkdir()
    (docs / "letters" / "offer.txt").write_text("offer")
    os.link(docs / "letters" / "offer.txt", docs / "other")
    home.quick("backup", "docs")
    out.mkdir()
    home.quick("restore", "docs:/letters/offer.txt", "--to", "out/offer.txt")
    assert (out / "offer.txt").read_text() == "offer" and os.listdir(out) == ["offer.txt"]
    (out / "offer.txt").write_text("something else")
    home.quick("restore", "docs:/letters/offer.txt", "--to", "out/offer.txt")
    assert (out / "offer.txt").read_text() == "offer"
    home.quick("restore", "docs:/letters/offer.txt", "--to", "nowhere/offer.txt", code=6)
    home.quick("restore", "docs:/letters/offer.txt", "--to", "out/as-before")
    assert (out / "as-before" / "letters" / "offer.txt").read_text() == "offer"
