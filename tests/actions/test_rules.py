"""Rules about what is left out: which count for a run, what stays, and who says so."""

import pytest

from dalsegno.actions.rules import (
    NO_LIMIT,
    RulesChange,
    Settings,
    changed_settings,
    left_out,
    own_keys,
    policy_settings,
    rules_of,
)
from dalsegno.host.ignore import Rules
from dalsegno.terms.errors import BadInput, NotFound

THEN, NOW = 1_700_000_000_000_000_000, 1_700_000_009_000_000_000
OLD: Settings = changed_settings(
    {"quota_bytes": 9}, RulesChange(add=("*.gz", "/tmp/"), larger_than=100, nodump=True), now_ns=THEN
)


def said(settings: Settings, run: RulesChange | None = None) -> list[tuple[object, str, int]]:
    return [(each.value, each.by, each.since_ns) for each in left_out(settings, run)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (RulesChange(), [("*.gz", "volume", THEN), ("/tmp/", "volume", THEN), (100, "volume", THEN), (True, "volume", THEN)]),
        (
            RulesChange(add=("a", "*.gz")),
            [("*.gz", "volume", THEN), ("/tmp/", "volume", THEN), ("a", "volume", NOW), (100, "volume", THEN), (True, "volume", THEN)],
        ),
        (RulesChange(remove=("*.gz",), nodump=False), [("/tmp/", "volume", THEN), (100, "volume", THEN)]),
        (RulesChange(clear=True, larger_than=NO_LIMIT), [(True, "volume", THEN)]),
        (RulesChange(clear=True, add=("b",), larger_than=5, nodump=True), [("b", "volume", NOW), (5, "volume", NOW), (True, "volume", THEN)]),
        (RulesChange(clear=True, larger_than=NO_LIMIT, nodump=False, cache_tags=True), [(True, "volume", NOW)]),
    ],
)  # fmt: skip
def test_what_a_volume_keeps_is_added_removed_and_ended_each_with_its_time(
    change: RulesChange, expected: list[tuple[object, str, int]]
) -> None:
    """Kind of fault: options that can be given and never be taken back."""
    settings = changed_settings(OLD, change, now_ns=NOW)
    assert said(settings) == expected
    assert settings["quota_bytes"] == 9 and own_keys(settings) == set(settings) - {"quota_bytes"}
    cleared = changed_settings(
        settings,
        RulesChange(clear=True, larger_than=NO_LIMIT, cache_tags=False, one_file_system=False, nodump=False),
        now_ns=NOW,
    )
    assert cleared == {"quota_bytes": 9}


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (RulesChange(), Rules(patterns=("*.gz", "/tmp/"), ignore_files=True, larger_than=100, nodump=True)),
        (
            RulesChange(add=("!*.gz",), larger_than=NO_LIMIT, nodump=False, one_file_system=True, cache_tags=True),
            Rules(patterns=("*.gz", "/tmp/", "!*.gz"), ignore_files=True, one_file_system=True, cache_tags=True),
        ),
        (RulesChange(larger_than=7), Rules(patterns=("*.gz", "/tmp/"), ignore_files=True, larger_than=7, nodump=True)),
    ],
)
def test_what_is_said_for_one_run_changes_the_rules_of_that_run(run: RulesChange, expected: Rules) -> None:
    """Kind of fault: options of one run that stick."""
    assert rules_of(left_out(OLD, run)) == expected


def test_the_policys_rules_stand_beside_the_volumes_own_and_are_renewed_by_it() -> None:
    """Kind of fault: two who set rules undo each other's."""
    first = policy_settings(OLD, "homes", Rules(patterns=("x",), larger_than=50, cache_tags=True))
    rules = rules_of(left_out(first))
    assert rules.patterns == ("x", "*.gz", "/tmp/") and rules.larger_than == 50 and rules.cache_tags and rules.nodump
    assert {each.set_name for each in left_out(first) if each.by == "policy"} == {"homes"}
    assert policy_settings(first, "homes", Rules(patterns=("y",)))["policy_exclude"] == ["y"]
    assert policy_settings(first, "homes", Rules()) == OLD
    assert changed_settings(first, RulesChange(clear=True), now_ns=NOW)["policy_exclude"] == ["x"]


def test_settings_of_an_earlier_version_count_without_a_time() -> None:
    settings: Settings = {
        "exclude": ["a"],
        "exclude_larger_than": 3,
        "one_file_system": True,
        "exclude_since": ["x", "y"],
    }
    assert said(settings) == [("a", "volume", 0), (3, "volume", 0), (True, "volume", 0)]


@pytest.mark.parametrize("pattern", ["x\\", "!", "a\0"])
def test_a_pattern_that_fits_nothing_is_refused(pattern: str) -> None:
    """Kind of fault: bad input is stored before it is looked at."""
    for change in (RulesChange(add=(pattern,)), RulesChange(add=("good", pattern))):
        with pytest.raises(BadInput, match="pattern"):
            changed_settings({}, change, now_ns=NOW)
        with pytest.raises(BadInput, match="pattern"):
            left_out({}, change)
    with pytest.raises(NotFound, match=r"none of|own \(\*.gz, /tmp/\)"):
        changed_settings(OLD, RulesChange(remove=("*.zip",)), now_ns=NOW)
    with pytest.raises(BadInput, match="UTF-8"):
        changed_settings({}, RulesChange(add=("\udcff",)), now_ns=NOW)
