"""Drills choose what was tried longest ago, and every file as likely as every other."""

from collections import Counter

from dalsegno.backup.drills import Candidate, choose_sample, choose_volumes
from dalsegno.backup.records import GOOD, Drill


def candidate(name: str, ended_ns: int | None) -> Candidate:
    last = None
    if ended_ns is not None:
        last = Drill(
            volume_id=b"v",
            volume_name=name,
            dump_id=b"d",
            kind="sample",
            started_ns=0,
            ended_ns=ended_ns,
            file_count=0,
            total_bytes=0,
            verdict=GOOD,
        )
    return Candidate(volume_id=name.encode(), volume_name=name, set_name="s", last=last)


def test_what_was_never_tried_comes_first_then_the_longest_ago() -> None:
    known = [candidate("a", 50), candidate("b", 10), candidate("d", None), candidate("c", None)]
    assert [each.volume_name for each in choose_volumes(known, count=3)] == ["c", "d", "b"]
    assert choose_volumes([], count=3) == []


def test_a_sample_is_in_order_and_of_its_size() -> None:
    for count in (1, 5, 99, 100, 500):
        found = choose_sample(range(100), count=count, seed=count)
        assert found == sorted(set(found)) and len(found) == min(count, 100)
    assert choose_sample(range(100), count=5, seed=1) == choose_sample(range(100), count=5, seed=1)


def test_every_file_is_as_likely_as_every_other() -> None:
    counts = Counter(item for seed in range(3000) for item in choose_sample(range(20), count=5, seed=seed))
    assert len(counts) == 20 and all(abs(count - 750) < 120 for count in counts.values())
