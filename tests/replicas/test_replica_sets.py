"""What a replica set becomes is decided without a server: done twice it changes nothing, and no change of another is lost."""

import pytest

from dalsegno.replicas.replica_sets import STEPS_OF_A_FLIP, after_move, moved, promoted, with_readers, without
from dalsegno.volumes.state import ReplicaSet

SET = ReplicaSet(version=4, writers=["s1", "s2"], standbys=["s3"], readers=["ro1"], clones={"s1": "daily-*"})
MOVED = without(moved(SET, source="s1", target="s4"), "s1")


def test_a_promotion_keeps_every_server_and_is_the_same_when_repeated() -> None:
    once = promoted(SET, "s3")
    assert once.version == 5 and once.writers == ["s3"] and sorted(once.standbys) == ["s1", "s2"]
    assert promoted(once, "s3") is once


def test_a_move_takes_two_versions_and_the_patterns_with_it() -> None:
    assert MOVED.version == SET.version + STEPS_OF_A_FLIP
    assert MOVED.writers == ["s4", "s2"] and MOVED.standbys == ["s3"] and MOVED.clones == {"s4": "daily-*"}


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_move_loses_no_change_that_another_made_meanwhile(steps: int) -> None:
    """The kind: a replica set that was read before a change and written after it."""
    latest = SET
    for number in range(steps):
        latest = with_readers(latest, [f"more{number}"])
    after = after_move(latest, MOVED, source="s1", target="s4")
    assert after.writers == ["s4", "s2"] and "s1" not in after.standbys
    assert after.version >= MOVED.version
    assert set(latest.readers) <= set(after.readers)
    assert after_move(after, MOVED, source="s1", target="s4").writers == after.writers
