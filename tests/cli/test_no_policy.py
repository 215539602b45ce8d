"""What a person without a policy has: retention by rules, a history of dumps, and a status that sees when backups stop."""

import json
import shutil
from pathlib import Path

import pytest

from cli_kit import User


@pytest.fixture
def user(tmp_path: Path) -> User:
    made = User(tmp_path, {"DAL_POOL": str(tmp_path / "pool"), "TZ": "UTC"})
    (tmp_path / "doc").mkdir()
    (tmp_path / "doc" / "plan.txt").write_text("plan\n")
    made.quick("init", str(tmp_path / "pool"), "--encryption", "none")
    return made


def day(number: int) -> str:
    return f"2026-11-{number:02}T02:00:00Z"


def clones(user: User) -> list[str]:
    return [each["clone"] for each in json.loads(user.quick("--json", "clones", "doc").out)]


def test_clones_are_thinned_out_by_rules_of_the_command_line(user: User) -> None:
    """Kind: a common task needs a whole site's policy."""
    for number in range(1, 11):
        user.quick("backup", str(user.home / "doc"), DAL_NOW=day(number))
    user.quick("clone", "doc", "keep-me", DAL_NOW=day(3))
    rules = ("--keep-daily", "2", "--keep-weekly", "2")
    shown = json.loads(user.quick("--json", "prune", "doc", *rules, "--dry-run", DAL_NOW=day(11)).out)
    assert len(shown["removed"]) == 7 and len(clones(user)) == 11
    user.quick("prune", "doc", *rules, DAL_NOW=day(11))
    assert clones(user) == ["keep-me", *(f"2026-11-{number:02}T020000Z" for number in (8, 9, 10))]
    user.quick("prune", "doc", "--keep-last", "1", "--named", DAL_NOW=day(11))
    assert clones(user) == ["2026-11-10T020000Z"]
    for words, why in (
        (("prune", "doc"), b"which clones stay"),
        (("prune", "--keep-daily", "7"), b"of which volumes"),
        (("prune", "doc", "--keep-within", "soon"), b"duration"),
    ):
        assert why in user.quick(*words, code=2).err
    assert b"no volume" in user.quick("prune", "docs", "--keep-last", "1", code=6).err
    assert b"`dal prune VOLUME --keep-daily 7`" in user.quick("prune", code=6).err


def test_history_shows_the_recorded_dumps_of_a_pool(user: User) -> None:
    """Kind: a common question needs a whole site's policy."""
    user.quick("backup", str(user.home / "doc"), DAL_NOW=day(1))
    assert user.quick("history").out == b"no dump yet\n"
    user.quick("dump", "doc", "-o", "full.dump", DAL_NOW=day(2))
    (only,) = json.loads(user.quick("--json", "history", "doc").out)
    assert (only["level"], only["taken"], only["volume"]) == (0, day(2), "doc")
    assert b"full.dump" in user.quick("history").out
    user.quick("history", "docs", code=6)
    assert b"`dal verify --pool`" in user.quick("drill", code=6).err


def test_status_sees_that_backups_have_stopped_and_is_not_taken_in_by_a_clock_that_jumped(user: User) -> None:
    """Kind: something that should happen does not, and nothing says so; a time that is wrong counts for ever."""
    user.quick("status", "--check", DAL_NOW=day(1))
    user.quick("volume", "create", "doc", "--source", str(user.home / "doc"), DAL_NOW=day(1))
    assert b"doc: never backed up" in user.quick("status", "--check", code=2, DAL_NOW=day(1)).out
    user.quick("backup", "doc", DAL_NOW=day(1))
    assert user.quick("status", "--check", DAL_NOW=day(2)).out.startswith(b"DALSEGNO OK - 1 volume backed up | ")
    assert b"doc: no backup for 4 days" in user.quick("status", "--check", code=1, DAL_NOW=day(5)).out
    user.quick("status", "--check", "--max-age", "1w", DAL_NOW=day(5))
    assert b"no backup for 4 days" in user.quick("status", DAL_NOW=day(5)).out

    user.quick("backup", "doc", DAL_NOW="2039-01-01T00:00:00Z")
    user.quick("backup", "doc", DAL_NOW=day(6))
    found = json.loads(user.quick("--json", "status", DAL_NOW=day(9)).out)["volumes"][0]
    assert (found["last_clone_at"], found["clones_of_the_future"], found["state"]) == (day(6), 1, "warning")
    assert found["problems"] == ["no backup for 3 days", "1 clone dated later than now: a clock was wrong"]
    assert b"UNKNOWN" in user.quick("status", "--check", "--pool", str(user.home / "none"), code=3).out


def test_estimate_says_what_its_sizes_are_and_tells_equal_levels_once(user: User) -> None:
    """Kind: a figure that is read as another."""
    user.quick("backup", str(user.home / "doc"), DAL_NOW=day(1))
    user.quick("dump", "doc", "-o", "full.dump", DAL_NOW=day(2))
    lines = user.quick("estimate", "doc").out.decode().splitlines()
    assert "before compression" in lines[0] and [line.split()[:3] for line in lines[2:]] == [["1", "to", "9"]]
    assert len(json.loads(user.quick("--json", "estimate", "doc").out)) == 10


def test_drill_of_a_set_without_targets_reads_the_spool_and_links_that_no_set_names_are_told(user: User) -> None:
    """Kind: an alarm about what is as it should be; something is left out without a word."""
    (user.home / "homes").mkdir()
    (user.home / "homes" / "ann").mkdir()
    (user.home / "homes" / "ann" / "letter").write_text("dear\n")
    (user.home / "elsewhere").mkdir()
    (user.home / "homes" / "bob").symlink_to(user.home / "elsewhere")
    (user.home / "site.toml").write_text(
        f'pool = "{user.home}/pool"\nstate = "{user.home}/state"\n[sets.homes]\nsources = ["{user.home}/homes/*"]\n'
    )
    user.environment["DAL_POLICY"] = str(user.home / "site.toml")
    said = user.quick("plan", "--check").out.decode()
    assert f"left out: {user.home}/homes/bob is a link to {user.home}/elsewhere, which no source names" in said
    assert "mail" not in said
    text = (user.home / "site.toml").read_text()
    (user.home / "site.toml").write_text(text + '[notify]\nmail_to = "root"\n')
    there = any(shutil.which("sendmail", path=place) for place in ("/usr/sbin", "/usr/lib", "/sbin"))
    said = user.quick("plan", "--check", PATH="/nowhere").out.decode()
    assert ("notify.mail_to: nobody will get mail" in said) != there
    user.quick("backup", "--set", "all", DAL_NOW=day(1))
    assert b"all as it was backed up" in user.quick("drill", DAL_NOW=day(1)).out


def test_what_lies_in_the_spool_alone_is_not_told_as_lost(user: User) -> None:
    """Kind: an alarm about what is as it should be; a place that is named twice in one line."""
    (user.home / "disk").mkdir()
    (user.home / "site.toml").write_text(
        f'pool = "{user.home}/pool"\nstate = "{user.home}/state"\n'
        f'[sets.docs]\nsources = ["{user.home}/doc"]\ntargets = ["disks"]\n'
        f'[targets.disks]\nkind = "directory"\npaths = ["{user.home}/disk"]\n'
    )
    user.environment["DAL_POLICY"] = str(user.home / "site.toml")
    user.quick("backup", "--set", "all", code=3, DAL_NOW=day(1))
    said = user.quick("drill", code=6, DAL_NOW=day(1)).err
    assert b"in the spool alone: `dal archive`" in said and b"no usable copy" not in said
    said = user.quick("archive", code=9, DAL_NOW=day(1)).err
    assert b"no medium is here" in said and said.count(b"target disks") == 1
    user.quick("media", "label", str(user.home / "disk"), "one", "--target", "disks")
    user.quick("archive", DAL_NOW=day(1))
    user.quick("drill", DAL_NOW=day(1))
    assert b"1 clone, 0 dumps in the spool, 1 dump in the archive" in user.quick("prune", "-n", DAL_NOW=day(1)).out
