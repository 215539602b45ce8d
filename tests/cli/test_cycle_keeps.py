"""What the backup cycle's retention leaves alone, and what it says of what it removed."""

import json
from pathlib import Path

import pytest
from cycle_kit import Site, change, make_site, night


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path)
    text = (tmp_path / "site.toml").read_text()
    (tmp_path / "site.toml").write_text(text + "keep.clones = { last = 1 }\nkeep.archive = { last = 1 }\n")
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
    for day in range(7):
        change(site, f"night {day}")
        report = site.back_up(day)
        removed = {each["volume"]: each["removed"] for each in report["volumes"]}
        assert len([name for name in removed["ann"] if name.startswith("ann@")]) == (day > 0)
    old = clones(site)[0]
    text = site.quick("backup", "--set", "all", DAL_NOW=night(7)).out.decode()
    (line,) = [line for line in text.splitlines() if "removed by retention" in line]
    assert f"ann@{old}" in line and "bob@" in line and "ann level 0 dump" in line
