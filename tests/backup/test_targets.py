"""Which targets should hold a dump, and which do, wholly."""

from dataclasses import replace
from pathlib import Path

import pytest

from dalsegno.backup.policy import CommandPolicy, DirectoryPolicy, SetPolicy, SharesPolicy, TargetPolicy
from dalsegno.backup.records import BAD, GOOD, Copy
from dalsegno.backup.targets import is_complete, is_safe, missing_targets, shortfalls, whole_targets

DISK = Copy(
    dump_id=b"d" * 16,
    target="disks",
    medium="a",
    place="x",
    size_bytes=1,
    written_at_ns=1,
    checked_at_ns=1,
    verdict=GOOD,
)
OTHER = replace(DISK, number=2, medium="b")
SHARES = [replace(DISK, target="grid", part=part, needed=2, parts=3, medium=f"g{part}") for part in range(3)]
DISKS = DirectoryPolicy(name="disks", paths=(Path("/a"), Path("/b")), copies=2)
GRID = SharesPolicy(name="grid", paths=(Path("/g0"), Path("/g1"), Path("/g2")), k=2)
TAPE = CommandPolicy(name="tape", store="{file}", fetch="{file}")

# The target, what it holds, the media that are here; whether that is all it should hold.
CASES: list[tuple[TargetPolicy, list[Copy], set[str], bool]] = [
    (TAPE, [], set(), False),
    (TAPE, [replace(DISK, target="tape")], set(), True),
    (DISKS, [DISK], {"a"}, False),
    (DISKS, [DISK, OTHER], set(), True),
    (DISKS, [DISK, replace(OTHER, verdict=BAD)], {"a", "b"}, False),
    (GRID, SHARES, {"g0", "g1", "g2"}, True),
    (GRID, SHARES, {"g0", "g1"}, True),  # one is away, and no other has come in its place
    (GRID, SHARES, {"g0", "g1", "new"}, False),
    (GRID, SHARES[:2], {"g0", "g1", "g2"}, False),
]


@pytest.mark.parametrize(("target", "copies", "here", "complete"), CASES)
def test_a_target_is_complete_with_all_copies_and_shares_that_the_policy_says(
    target: TargetPolicy, copies: list[Copy], here: set[str], complete: bool
) -> None:
    assert is_complete(target, copies, here) is complete


def test_a_dump_is_safe_when_enough_targets_hold_it_wholly() -> None:
    chosen = SetPolicy(name="s", volumes=("*",), targets=("disks", "grid"), target_copies={"disks": 2})
    assert missing_targets([DISK], chosen) == ["grid"] and whole_targets([DISK], chosen) == set()
    held = [DISK, OTHER, *SHARES[:2]]
    assert missing_targets(held, chosen) == [] and whole_targets(held, chosen) == {"disks"}
    assert shortfalls([DISK, *SHARES[:2]], chosen) == ["disks: 1 of 2 copies", "grid: 2 of 3 shares"]
    assert not is_safe(held, chosen) and is_safe([DISK, OTHER, *SHARES], chosen)
    assert not is_safe(held, SetPolicy(name="s", volumes=("*",)))  # without targets the spool is the archive
