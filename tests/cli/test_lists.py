"""Lists for people: headings, widths, counts, and words where there is nothing."""

from pathlib import Path

import pytest
from face_kit import Person

from dalsegno.actions.turn import TurnResult
from dalsegno.cli.cycle import turn_line


@pytest.fixture
def person(tmp_path: Path) -> Person:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "plan.txt").write_text("plan\n")
    return Person(tmp_path)


def test_clones_of_one_volume_or_of_all_fit_a_terminal_and_say_no_time_twice(person: Person) -> None:
    """Kind: a list that says the same in two columns, and breaks on the terminal that most people have."""
    person.run("backup", "documents", DAL_NOW="2026-11-21T02:00:00Z")
    person.run("clone", "documents", "before-upgrade", DAL_NOW="2026-11-22T02:00:00Z")
    person.run("hold", "documents@before-upgrade")
    person.run("volume", "create", "empty")
    lines = person.run("clones", "documents", TZ="UTC").stdout.decode().splitlines()
    assert lines[0].split() == ["clone", "made", "entries", "size"]
    assert lines[1].count("2026") == 1 and lines[2].count("2026") == 1 and lines[2].endswith("held")
    assert all(len(line) <= 80 for line in lines)
    assert person.run("clones", "documents", "-q", TZ="UTC").stdout.split() == " ".join(lines[1:]).encode().split()
    abroad = person.run("clones", "documents", TZ="America/New_York").stdout.decode().splitlines()
    assert "2026-11-20T21:00:00-05:00" in abroad[1]
    every = person.run("clones", TZ="UTC")
    assert every.stdout.decode().split("\n")[0] == lines[0] and every.stderr == b"volume empty: no clones yet\n"
    assert [each["volume"] for each in person.value("clones")] == ["documents", "documents"]


def test_a_list_has_no_column_that_is_empty_for_all(person: Person) -> None:
    """Kind: a heading over nothing: the first list that a newcomer sees."""
    person.run("backup", "documents", DAL_NOW="2026-11-21T02:00:00Z")
    lines = person.run("clones", "documents", TZ="UTC").stdout.decode().splitlines()
    assert [line.split()[:2] for line in lines] == [["clone", "entries"], ["documents@2026-11-21T020000Z", "1"]]


def test_empty_lists_say_so_on_the_side(person: Person) -> None:
    """Kind: nothing, where a person waits for an answer."""
    person.run("init")
    for words in (["volume", "list"], ["clones"], ["ls"]):
        done = person.run(*words)
        assert done.stdout == b"" and b"no volumes yet" in done.stderr
        assert person.value(*words) == []
    person.run("volume", "create", "empty")
    assert b"no revisions yet" in person.run("log", "empty").stderr
    assert b"no clones yet" in person.run("clones", "empty").stderr


def test_a_clone_is_removed_by_its_name_alone(person: Person) -> None:
    """Kind: a word that finds something in one command, and in the next does not say what it would have found."""
    person.run("backup", "documents", "--name", "one")
    for word in ("latest", "today"):
        error = person.run("unclone", f"documents@{word}", code=4).stderr
        assert b"`dal unclone documents@one`" in error
    assert [each["clone"] for each in person.value("clones")] == ["one"]
    person.run("hold", "documents@latest")
    person.run("unclone", "documents@nothing", code=6)


def test_log_names_a_few_clones_of_a_revision(person: Person) -> None:
    for name in "abcde":
        person.run("backup", "documents", "--name", name)
    shown = person.run("log", "documents").stdout.decode().splitlines()
    assert shown[1].endswith("  backup   a, b and 3 more")
    assert str(person.home / "documents") in person.run("log", "documents", "-v").stdout.decode()
    assert person.value("log", "documents")[0]["clones"] == list("abcde")


def test_a_target_that_is_a_program_is_named_once() -> None:
    """Kind: `on tar (tar)`."""
    media = {"tar": ["tar"], "disks": ["week-1"]}
    said = turn_line(TurnResult(set_name="homes", volume="ann", level=0, reason="first full", media=media))
    assert said.endswith(", on tar and disks (week-1)")


def test_one_is_not_many(person: Person) -> None:
    """Kind: `1 clones`."""
    said = person.run("backup", "documents", "--name", "one").stdout.decode()
    assert " 1 file or directory, " in said and " 1 file, " in said
    person.run("dump", "documents", "-o", "0.dump")
    shows = (["stats"], ["inspect", "0.dump"], ["status"], ["volume", "show", "documents"])
    for words in (*shows, ["restore", "0.dump", "--volume", "back"]):
        said = person.run(*words).stdout.decode()
        for many in (" 1 clones", " 1 dumps", " 1 packs", " 1 volumes", " 1 revisions", " 1 objects", " 1 entrys"):
            assert many not in said, (words, said)


def test_ordinary_tables_fit_a_terminal_of_80_columns(person: Person) -> None:
    """The kind: columns that are wider than what they say, so that every line is broken."""
    person.run("backup", "documents")
    log = person.run("log", "documents").stdout.decode().splitlines()
    assert max(map(len, log)) <= 80, log
    status = person.run("status").stdout.decode().splitlines()[1:]
    source = max(line.rfind(" ") for line in status)
    assert source <= 64, status  # how long the place of a source is nobody knows
