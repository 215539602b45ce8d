"""Hard links in `diff` and `find`: under their own names, and changed only where something changed."""

import os
from pathlib import Path

import pytest

import dalsegno
from cli_kit import User


@pytest.fixture
def home(tmp_path: Path) -> User:
    user = User(tmp_path / "user")
    docs = user.home / "docs"
    docs.mkdir()
    (docs / "a").write_text("plan")
    os.link(docs / "a", docs / "b")
    user.quick("init", "--encryption", "none")
    user.quick("backup", "docs", "--name", "first")
    return user


def test_diff_with_the_source_invents_no_change_of_links(home: User) -> None:
    """Kind of fault: a number of our own, which nobody sees, is told as a change."""
    docs = home.home / "docs"
    (docs / "a").write_text("junk")
    home.quick("restore", "docs", "--to", "docs")
    assert home.value("diff", "docs") == []
    (docs / "b").unlink()
    (docs / "b").write_text("another")
    found = {each["path"]: each["parts"] for each in home.value("diff", "docs")}
    assert "content" in found["b"] and "links" in found["b"]
    home.quick("backup", "docs", "--name", "second")
    assert {each["path"] for each in home.value("diff", "docs@first", "docs@second")} >= {"b"}


def test_found_addresses_are_taken_by_every_command(home: User) -> None:
    """Kind of fault: what one command prints no other takes."""
    (home.home / "docs" / "new").write_text("1234567")
    home.quick("backup", "docs", "--name", "second")
    lines = home.quick("find", "[bn]*").out.decode().splitlines()
    assert lines == ["docs@second:/b  4 B  since first", "docs@second:/new  7 B"]
    for each in home.value("find", "*"):
        if each["kind"] == "file":
            home.quick("cat", each["address"])
            home.quick("restore", each["address"], "--to", str(home.home / "out"))


def test_python_names_hard_links_as_they_are_named(home: User, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("XDG_", "DAL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home.home))
    with dalsegno.open_pool(home.home / "pool") as house:
        assert {found.entry.name for found in dalsegno.find(house, "[ab]")} == {b"a", b"b"}
        (home.home / "docs" / "a").write_text("changed")
        names = {change.path: change.new.name for change in dalsegno.diff(house, "docs") if change.new is not None}
        assert names == {b"a": b"a", b"b": b"b"}
