"""What the backup cycle's retention leaves alone, and what it says of what it removed."""

import json
import random
from pathlib import Path

import pytest
from cycle_kit import Site, change, make_site, night


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path)
    text = (tmp_path / "site.toml").read_text().partition("cycle_days")[0]
    every_other_day_a_full = 'cycle_days = 2\nprogram = "hanoi"\n'
    (tmp_path / "site.toml").write_text(
        text + every_other_day_a_full + "keep.clones = { last = 1 }\nkeep.archive = { last = 1 }\n"
    )
    return made


def clones(site: Site, volume: str = "ann") -> list[str]:
    return [each["clone"] for each in json.loads(site.quick("--json", "clones", volume).out)]


def test_clone_that_a_person_named_outlives_retention_until_they_say_otherwise(site: Site) -> None:
    """Kind: something that a person made by hand is removed by a rule for what programs make."""
    site.back_up(0)
    site.quick("clone", "ann", "before-upgrade", DAL_NOW=night(0, "03:00"))
    site.quick("backup", "ann", "--name", "2026-11-16", DAL_NOW=night(0, "04:00"))
    site.quick("clone", "ann", "2026-11-16T05:00:00Z", DAL_NOW=night(0, "05:00"))
    site.quick("clone", "ann", DAL_NOW=night(0, "06:00"))
    for day in range(1, 4):
        site.back_up(day)
    assert clones(site)[:3] == ["before-upgrade", "2026-11-16", "2026-11-16T05:00:00Z"] and len(clones(site)) == 4
    site.quick("unclone", "ann@2026-11-16")
    assert "2026-11-16" not in clones(site)
    text = (site.home / "site.toml").read_text()
    (site.home / "site.toml").write_text(text + "keep.named = false\n")
    site.back_up(4)
    assert len(clones(site)) == 1


def test_run_says_what_retention_removed(site: Site) -> None:
    """Kind: something is removed without a word."""
    for day in range(2):
        change(site, f"night {day}")
        report = site.back_up(day)
        removed = {each["volume"]: each["removed"] for each in report["volumes"]}
        assert len([name for name in removed["ann"] if name.startswith("ann@")]) == (day > 0)
    old = clones(site)[0]
    text = site.quick("backup", "--set", "all", DAL_NOW=night(2)).out.decode()
    (line,) = [line for line in text.splitlines() if "removed by retention" in line]
    assert f"ann@{old}" in line and "bob@" in line and "ann level 0 dump" in line


def test_source_that_is_not_mounted_is_told_and_takes_no_place_of_what_was_there(site: Site) -> None:
    """Kind: an empty place counts as a good backup, and thins out those that are."""
    home = site.home / "homes" / "ann"
    site.back_up(0)
    good = clones(site)
    (home / "plan.txt").rename(site.home / "plan.txt")
    for day in range(1, 3):
        report = site.back_up(day, code=3)
        (ann,) = [each for each in report["volumes"] if each["volume"] == "ann"]
        assert "is everything mounted?" in ann["shrunk"] and ann["state"] == "incomplete"
        assert good[0] in clones(site) and len(clones(site)) == 2
    status = json.loads(site.quick("--json", "status", DAL_NOW=night(2)).out)
    found = {each["volume"]: each for each in status["sets"][0]["volumes"]}
    assert (found["ann"]["state"], found["ann"]["source"], found["bob"]["source"]) == ("warning", "shrunk", "ok")
    assert b"shrunk=1" in site.quick("status", "--check", code=1, DAL_NOW=night(2)).out
    assert b"--accept-shrunk ann" in site.quick("status", DAL_NOW=night(2)).out
    assert {entry.level for entry in site.dumps() if entry.volume_name == "ann"} >= {0}

    # Gone altogether: the backup fails, and what was there stays.
    home.rmdir()
    site.back_up(3, code=3)
    assert good[0] in clones(site)
    home.mkdir()
    (site.home / "plan.txt").rename(home / "plan.txt")
    site.back_up(4)
    assert b"shrunk=0" in site.quick("status", "--check", code=(0, 1), DAL_NOW=night(4)).out
    assert len(clones(site)) == 2, "the newest, and the last one while it was empty"


def test_vanished_source_is_a_state_of_its_own_and_a_person_may_accept_what_is_left(site: Site) -> None:
    """Kind: an empty place counts as a good backup, and thins out those that are."""
    site.back_up(0)
    good = clones(site)
    (site.home / "homes" / "ann" / "plan.txt").unlink()
    (site.home / "homes" / "ann").rmdir()
    report = site.back_up(1, code=3)
    (ann,) = [each for each in report["volumes"] if each["volume"] == "ann"]
    assert "is it mounted?" in ann["error"] and "`dal volume set ann --source none`" in ann["error"]
    status = json.loads(site.quick("--json", "status", DAL_NOW=night(1)).out)
    assert [each["source"] for each in status["sets"][0]["volumes"] if each["volume"] == "ann"] == ["shrunk"]
    (site.home / "homes" / "ann").mkdir()
    site.back_up(2, code=3)
    site.quick("backup", "--accept-shrunk", "ann", DAL_NOW=night(2, "03:00"))
    site.back_up(3)
    assert good[0] not in clones(site)
    (site.home / "homes" / "ann").rmdir()
    site.quick("volume", "set", "ann", "--source", "none", DAL_NOW=night(3, "03:00"))
    assert [each["volume"] for each in site.back_up(4)["volumes"]] == ["bob"] and clones(site)


def test_nights_give_back_the_room_of_what_retention_removed(site: Site) -> None:
    """Kind: what is removed takes room for ever."""

    def stored() -> int:
        return sum(path.stat().st_size for path in (site.home / "pool" / "packs").rglob("*") if path.is_file())

    freed, sizes = 0, []
    for day in range(5):
        (site.home / "homes" / "ann" / "data").write_bytes(random.Random(day).randbytes(300_000))
        freed += site.back_up(day)["collected"]["freed_bytes"]
        sizes.append(stored())
    assert freed > 300_000 and sizes[-1] < 1_300_000, sizes
    status = json.loads(site.quick("--json", "status", DAL_NOW=night(4)).out)
    assert status["room"]["given_back"] == night(4) and b"room: " in site.quick("status", DAL_NOW=night(4)).out
    text = (site.home / "site.toml").read_text()
    for word, collects in (("false", False), ('"5m"', True)):
        (site.home / "site.toml").write_text(text + f"[limits]\ngc = {word}\n")
        assert (site.back_up(5)["collected"] is not None) == collects


def test_dump_that_a_hand_made_one_builds_on_outlives_retention(site: Site) -> None:
    """Kind: one thing is removed by a rule, and another becomes useless without a word."""
    site.back_up(0)
    site.quick("dump", "ann", "--level", "1", "-o", "mine.dump", DAL_NOW=night(0, "04:00"))
    for day in range(1, 3):
        change(site, f"night {day}")
        site.back_up(day)
    base = min((entry for entry in site.dumps() if entry.volume_name == "ann"), key=lambda entry: entry.taken_at_ns)
    assert base.level == 0 and len([e for e in site.dumps() if e.volume_name == "bob" and e.level == 0]) == 1
    site.quick("mark", "--forget", "mine.dump")
    site.back_up(3)
    assert base.dump_id not in {entry.dump_id for entry in site.dumps()}


def test_set_without_dumps_keeps_days_in_the_pool_and_pays_once(site: Site) -> None:
    """Kind: who wants one thing must take another with it."""
    site.policy('[sets.homes]\nsources = ["HOME/homes/*"]\ndumps = false\nkeep.clones = { daily = 3 }\n')
    assert b"no mistakes" in site.quick("plan", "--check").out
    for day in range(5):
        change(site, f"night {day}")
        report = site.back_up(day)
        assert report["counts"] == {"done": 2, "incomplete": 0, "failed": 0} and report["at_risk"] == {}
    assert len(clones(site)) == 3 and site.spool() == [] and site.dumps() == []
    assert site.back_up(4, "--set", "all", "--due")["volumes"] == []
    text = site.quick("backup", "--set", "all", DAL_NOW=night(5)).out.decode()
    assert "set homes: 2 of 2 volumes cloned" in text
    status = json.loads(site.quick("--json", "status", DAL_NOW=night(5)).out)["sets"][0]["volumes"][0]
    assert (status["state"], status["last_good_backup"], status["level"], status["dump"]) == (
        "ok",
        night(5),
        None,
        None,
    )
    assert b"in the pool" in site.quick("status", DAL_NOW=night(5)).out
    assert b"no good backup for 4 days" in site.quick("status", "--check", code=2, DAL_NOW=night(9)).out
    days = json.loads(site.quick("--json", "plan", "--days", "2", DAL_NOW=night(6)).out)["days"]
    assert [(dump["level"], dump["bytes"]) for day in days for dump in day["dumps"]] == [(None, 0)] * 4
    site.quick("plan", "-v", DAL_NOW=night(6))
    assert b"no volume of the sets has a dump yet" in site.quick("drill", code=6, DAL_NOW=night(6)).err
    site.policy(
        '[sets.homes]\nsources = ["HOME/homes/*"]\ndumps = false\ncycle_days = 7\nkeep.archive = { last = 1 }\n'
    )
    said = site.quick("plan", "--check", code=2).out.decode()
    assert "cycle_days" in said and "keep.archive" in said and said.count("dumps = false makes none") == 2


def test_backup_from_the_future_does_not_hide_that_backups_have_stopped(site: Site) -> None:
    """Kind: a time that is wrong counts for ever."""
    site.back_up(0)
    site.quick("backup", "--set", "all", DAL_NOW="2039-01-01T02:00:00Z")
    change(site, "the clock is right again")
    site.quick("backup", "--set", "all", code=(0, 3), DAL_NOW=night(1))
    found = json.loads(site.quick("--json", "status", DAL_NOW=night(6)).out)["sets"][0]["volumes"][0]
    assert found["last_good_backup"] == night(1) and found["state"] == "critical"
    assert found["problems"][0] == "no good backup for 5 days"
    assert b"no good backup for 5 days" in site.quick("status", "--check", code=2, DAL_NOW=night(6)).out
