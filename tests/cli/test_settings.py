"""What a backup leaves out is said, counts for one run unless it is set for the volume, and can be taken back."""

import os
from pathlib import Path

import pytest
from face_kit import COMMAND, Person, Session

from cli_kit import User

NOW = {"DAL_NOW": "2026-11-21T02:00:00Z"}


@pytest.fixture
def user(tmp_path: Path) -> User:
    user = User(tmp_path / "home")
    s = user.home / "s"
    (s / "cache").mkdir(parents=True)
    (s / "small").write_text("small")
    (s / "big").write_bytes(bytes(5000))
    (s / "a.gz").write_text("gz")
    (s / "cache" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
    (s / "cache" / "c").write_text("c")
    for path in s.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))
    return user


def names(user: User, volume: str = "s") -> set[str]:
    return {os.fsdecode(row["path"]) for row in user.value("ls", "-R", volume)}


ALL = {"small", "big", "a.gz", "cache", "cache/CACHEDIR.TAG", "cache/c"}
ONCE = [
    (["--exclude", "*.gz"], {"a.gz"}, "*.gz (this time only)"),
    (["--exclude-larger-than", "1000"], {"big"}, "files over 1000 B (this time only)"),
    (["--exclude-caches"], {"cache/c"}, "caches (CACHEDIR.TAG) (this time only)"),
    (["--one-file-system"], set(), "other file systems (this time only)"),
    (["--nodump"], set(), "what has the nodump flag (this time only)"),
    (["--exclude-from", "list"], {"a.gz", "big"}, "*.gz, /big (this time only)"),
]


@pytest.mark.parametrize(("words", "missing", "said"), ONCE)
def test_what_is_said_for_one_backup_counts_for_that_one(
    user: User, words: list[str], missing: set[str], said: str
) -> None:
    """Kind of fault: options that stick, or that the scan cache carries into the next run."""
    (user.home / "list").write_text("# comment\n*.gz\n\n/big\n")
    user.quick("backup", "s", "--exclude", "/s*")
    for _ in range(2):  # with and without a cache of a run with other rules
        done = user.quick("backup", "s", *words)
        assert f"leaves out: {said}\n" in done.out.decode()
        assert names(user) == ALL - missing
        plain = user.quick("backup", "s")
        assert b"leaves out" not in plain.out and names(user) == ALL
    assert user.value("volume", "show", "s")["settings"] == {}
    assert user.quick("import", "n", "s", *words) and names(user, "n") == ALL - missing
    user.quick("import", "n", "s")
    assert names(user, "n") == ALL


@pytest.mark.parametrize("words", [["--exclude", "x\\"], ["--exclude", "!"], ["--exclude-from", "list"]])
def test_a_bad_pattern_is_refused_before_anything_is_made(user: User, words: list[str]) -> None:
    """Kind of fault: bad input is stored before it is looked at."""
    (user.home / "list").write_text("good\nx\\\n")
    for command in (["backup", "s"], ["volume", "create", "v", "--source", "s"], ["import", "n", "s"]):
        refused = user.quick(*command, *words, code=2).error
        assert "pattern" in refused and ("list:2: " in refused) == (words[1] == "list")
        assert not (user.home / "pool").exists() or command[0] != "backup"
        user.quick("init", code=(0, 4))
    assert user.value("volume", "list") == []
    user.quick("backup", "s")
    user.quick("volume", "set", "s", *words, code=2)
    user.quick("backup", "s")
    assert names(user) == ALL and user.value("volume", "show", "s")["settings"] == {}


def test_a_volumes_own_rules_are_set_shown_and_said_by_each_backup(user: User) -> None:
    """Kind of fault: rules that nobody sees, and that nobody can take back."""
    user.quick("backup", "s")
    user.quick("volume", "set", "s", code=2)
    user.quick("volume", "set", "s", "--remove-exclude", "*.gz", code=6)
    user.quick("volume", "set", "s", "--exclude", "*.gz", "--exclude-larger-than", "1000", "--exclude-caches", **NOW)
    shown = user.quick("volume", "show", "s").out.decode()
    assert "True" not in shown and "exclude_" not in shown
    for words in ("*.gz  (since 2026-11-21", "files over 1000 B  (since 2026-11-21", "caches (CACHEDIR.TAG)  (since"):
        assert words in shown
    done = user.quick("backup", "s", "--exclude", "/small").out.decode()
    assert "leaves out: *.gz, files over 1000 B, caches (CACHEDIR.TAG) (since 2026-11-21" in done
    assert done.count("leaves out") == 1 and "/small (this time only)" in done
    assert names(user) == {"cache", "cache/CACHEDIR.TAG"}
    value = user.value("backup", "s")
    assert {(each["rule"], each["by"]) for each in value["left_out"]} == {
        ("exclude", "volume"), ("exclude_larger_than", "volume"), ("exclude_caches", "volume"),
    }  # fmt: skip
    assert names(user) == {"cache", "cache/CACHEDIR.TAG", "small"}
    user.quick("backup", "s", "--no-exclude-caches", "--exclude-larger-than", "none", "--exclude", "!a.gz")
    assert names(user) == ALL
    assert b"leaves out" in user.quick("clone", "s", "one").out
    user.quick("volume", "set", "s", "--no-exclude-caches", "--exclude-larger-than", "none", "--remove-exclude", "*.gz")
    assert b"leaves out" not in user.quick("backup", "s").out and names(user) == ALL
    assert user.value("volume", "show", "s")["settings"] == {}
    user.quick("volume", "create", "v", "--source", "s", "--exclude", "*.gz", "--nodump")
    assert {each["rule"] for each in user.value("volume", "show", "v")["left_out"]} == {"exclude", "nodump"}
    user.quick("volume", "set", "v", "--clear-excludes", "--no-nodump")
    assert user.value("volume", "show", "v")["left_out"] == []


def test_a_word_that_ends_one_setting_is_not_silently_a_pattern_for_another(user: User) -> None:
    """Kind of fault: `none` ends --source and --exclude-larger-than, and left out what is named none with --exclude."""
    user.quick("backup", "s")
    assert b"--clear-excludes" in user.quick("volume", "set", "s", "--exclude", "none", code=2).err
    assert user.value("volume", "show", "s")["left_out"] == []
    user.quick("volume", "set", "s", "--exclude", "**/none")
    assert b"`dal volume set s`" in user.quick("volume", "create", "s", "--source", "s", code=4).err


# -- which directory


def test_after_a_total_loss_a_volume_follows_its_directory_again(user: User) -> None:
    """Kind of fault: one history is split in two without a word."""
    user.quick("init", "--encryption", "none")
    user.quick("volume", "create", "docs", "--source", "s")
    user.quick("clone", "docs", "one")
    user.quick("dump", "docs", "-o", "all.dump")
    user.quick("volume", "remove", "docs", "--yes")
    done = user.quick("restore", "all.dump", "--volume", "again").out.decode()
    assert "dal volume set again --source DIR" in done
    for words in (("backup", "s"), ("backup", str(user.home / "s"))):
        error = user.quick(*words, code=4).error
        assert f"`dal volume set again --source {words[1]}`" in error and "`dal volume create NAME --source" in error
    assert "dal volume set again --source DIR" in user.quick("backup", "again", code=4).error
    assert [each["volume"] for each in user.value("volume", "list")] == ["again"]
    user.quick("volume", "set", "again", "--source", "s")
    value = user.value("backup", "s")
    assert (
        value["volume"] == "again"
        and not value["changed"]
        and {"one"} < {each["clone"] for each in user.value("clones", "again")}
    )
    user.quick("volume", "set", "again", "--source", "none")
    assert user.value("volume", "show", "again")["kind"] == "native"
    user.quick("volume", "set", "again", "--source", "nowhere", code=6)
    user.quick("volume", "set", "again", "--source", "pool", code=4)


def test_two_volumes_that_follow_one_directory_are_named(user: User) -> None:
    """Kind of fault: of several that fit, the first of the alphabet is taken."""
    user.quick("backup", "s")
    user.quick("volume", "create", "d2", "--source", "s")
    error = user.quick("backup", "./s", code=4).error
    assert "`dal backup d2` or `dal backup s`" in error and "--source none" in error
    assert user.value("backup", "s")["volume"] == "s" and user.value("backup", "d2")["volume"] == "d2"
    user.quick("volume", "set", "d2", "--source", "none")
    assert b"is followed by s, too" in user.quick("volume", "set", "d2", "--source", "s").err
    user.quick("volume", "set", "d2", "--source", "cache", code=6)


def test_a_volumes_name_means_the_volume_wherever_the_command_runs(user: User) -> None:
    """Kind of fault: what a nightly command does depends on the current directory."""
    (user.home / "other" / "s").mkdir(parents=True)
    (user.home / "other" / "s" / "x").write_text("x")
    user.quick("backup", "other/s")
    assert names(user) == {"x"}
    done = user.quick("backup", "s")
    assert b"the directory here is ./s" in done.err and names(user) == {"x"}
    assert user.value("backup", "./s")["volume"] == "s-2" and names(user, "s-2") == ALL
    done = user.quick("backup")
    assert done.err == b"" and [each["volume"] for each in user.value("backup")] == ["s", "s-2"]
    (user.home / "s" / "f").mkdir()
    assert "is a file" in user.quick("backup", "s/small", code=6).error


@pytest.mark.parametrize(("answer", "code", "volumes"), [(b"y", 0, ["s"]), (b"n", 0, ["s", "s-2"]), (b"", 4, ["s"])])
def test_at_a_terminal_a_person_is_asked_whether_the_old_history_goes_on(
    user: User, answer: bytes, code: int, volumes: list[str]
) -> None:
    """Kind of fault: one history is split in two without a word."""
    user.quick("backup", "s")
    user.quick("volume", "set", "s", "--source", "none")
    person = Person(user.home)
    session = Session(person, [*COMMAND, "--pool", str(user.home / "pool"), "backup", "./s"])
    session.expect(b"Volume s has the history of ")
    session.expect(b"[y/n] ")
    session.send(answer + b"\n")
    assert session.finish()[0] == code
    assert [each["volume"] for each in user.value("volume", "list")] == volumes
    assert user.value("volume", "show", "s")["kind"] == ("tracked" if answer == b"y" else "native")
