"""The plan of a month: fulls spread by size, catching up, what each target takes in, and how long planning takes."""

import random
import time
from pathlib import Path

import pytest

from dalsegno.backup.levels import Dumped
from dalsegno.backup.plan import VolumeFacts, balance, even_out, plan_days, plan_today
from dalsegno.backup.policy import DirectoryPolicy, Policy, Program, SetPolicy, SharesPolicy, SpoolPolicy

TODAY = 739_000
MIB = 1 << 20


def policy_of(*sets: SetPolicy) -> Policy:
    targets = {
        "disks": DirectoryPolicy(name="disks", paths=(Path("/a"), Path("/b")), copies=2),
        "shares": SharesPolicy(name="shares", k=3, n=5),
    }
    return Policy(
        path=Path("/p"),
        state_dir=Path("/s"),
        catalog_url="",
        spool=SpoolPolicy(path=Path("/s/spool")),
        timezone="UTC",
        targets=targets,
        sets={each.name: each for each in sets},
    )


def pareto_facts(count: int, *, seed: int, alpha: float, cycle_days: int, daily: float = 0.005) -> list[VolumeFacts]:
    """Return volumes of very unequal sizes, none of them larger than a mean day (what nothing could even out)."""
    chance = random.Random(seed)
    sizes = [int(chance.paretovariate(alpha) * MIB) for _ in range(count)]
    while max(sizes) > 0.9 * sum(sizes) / cycle_days:
        sizes[sizes.index(max(sizes))] //= 2
    return [
        VolumeFacts(volume=f"v{index:05}", set_name="all", full_bytes=size, daily_bytes=int(size * daily))
        for index, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("alpha", [0.6, 0.8, 1.0, 1.16, 2.0])
@pytest.mark.parametrize("cycle_days", [7, 14, 28])
def test_busiest_day_is_at_most_1_3_times_the_mean(alpha: float, cycle_days: int) -> None:
    policy = policy_of(SetPolicy(name="all", volumes=("*",), cycle_days=cycle_days))
    for seed in range(2):
        facts = pareto_facts(1000, seed=seed, alpha=alpha, cycle_days=cycle_days)
        days = plan_days(policy, facts, first_day=TODAY, day_count=1 + 2 * cycle_days)
        found = balance(days, facts)
        assert found.busiest_to_mean <= 1.3, (alpha, cycle_days, seed, found)
        assert len([day for day in days if day.dumps]) == len(days)


def test_no_volume_waits_longer_than_its_cycle_for_a_full() -> None:
    policy = policy_of(SetPolicy(name="all", volumes=("*",), cycle_days=10))
    facts = pareto_facts(300, seed=3, alpha=0.9, cycle_days=10)
    last = {each.volume: TODAY for each in facts}
    for day in plan_days(policy, facts, first_day=TODAY, day_count=45):
        for dump in day.dumps:
            if dump.level == 0:
                assert day.day - last[dump.volume] <= 10
                last[dump.volume] = day.day
        assert {dump.volume for dump in day.dumps} == {each.volume for each in facts}
    assert min(last.values()) >= TODAY + 35


def test_volume_larger_than_a_mean_day_is_reported_and_the_rest_is_even() -> None:
    policy = policy_of(SetPolicy(name="all", volumes=("*",), cycle_days=10))
    facts = [*pareto_facts(500, seed=4, alpha=1.2, cycle_days=10)]
    whale = VolumeFacts(volume="whale", set_name="all", full_bytes=sum(each.full_bytes for each in facts))
    days = plan_days(policy, [*facts, whale], first_day=TODAY, day_count=21)
    assert balance(days, [*facts, whale]).oversize == ("whale",)
    others = [
        sum(dump.size_bytes for dump in day.dumps if dump.volume != "whale")
        for day in days[1:]
        if not any(dump.volume == "whale" and dump.level == 0 for dump in day.dumps)
    ]
    assert max(others) <= 1.3 * sum(others) / len(others)


def test_first_fulls_come_at_once_or_are_spread() -> None:
    facts = pareto_facts(200, seed=5, alpha=1.2, cycle_days=14)
    at_once = policy_of(SetPolicy(name="all", volumes=("*",)))
    assert len(plan_today(at_once, facts, day=TODAY)) == 200
    spread = policy_of(SetPolicy(name="all", program=Program(kind="planned", first_full_at_once=False)))
    days = plan_days(spread, facts, first_day=TODAY, day_count=28)
    fulls = [sum(dump.size_bytes for dump in day.dumps if dump.level == 0) for day in days]
    assert max(fulls) <= 1.3 * sum(each.full_bytes for each in facts) / 14
    assert {dump.volume for day in days[:15] for dump in day.dumps if dump.level == 0} == {f.volume for f in facts}


def test_even_days_are_left_alone() -> None:
    days = [[(10, f"v{index}")] for index in range(7)]
    before = [list(members) for members in days]
    even_out(days, mean=10)
    assert days == before


def test_full_is_never_made_later_to_even_out() -> None:
    days = [[(100, "a"), (100, "b")], [], []]
    even_out(days, mean=200 / 3)
    assert days == [[(100, "a"), (100, "b")], [], []]


def test_targets_count_every_copy_and_share() -> None:
    chosen = SetPolicy(name="all", volumes=("v",), targets=("disks", "shares"))
    facts = [VolumeFacts(volume="v", set_name="all", full_bytes=3000)]
    (day,) = plan_days(policy_of(chosen), facts, first_day=TODAY, day_count=1)
    assert day.size_bytes == 3000 and day.target_bytes == {"disks": 6000, "shares": 5000}


def test_increment_is_estimated_from_its_base() -> None:
    chosen = SetPolicy(name="all", volumes=("v",), program=Program(kind="hanoi"), cycle_days=8)
    facts = [
        VolumeFacts(
            volume="v", set_name="all", full_bytes=1000, daily_bytes=10, history=(Dumped(day=TODAY - 1, level=0),)
        )
    ]
    days = plan_days(policy_of(chosen), facts, first_day=TODAY, day_count=8)
    assert [(dump.level, dump.size_bytes) for day in days for dump in day.dumps] == [
        (3, 10), (2, 20), (3, 10), (1, 40), (3, 10), (2, 20), (3, 10), (0, 1000),
    ]  # fmt: skip


def test_month_of_10_000_volumes_is_planned_in_5_seconds() -> None:
    policy = policy_of(SetPolicy(name="all", volumes=("*",), targets=("disks",)))
    facts = pareto_facts(10_000, seed=6, alpha=1.0, cycle_days=14)
    started = time.process_time()
    days = plan_days(policy, facts, first_day=TODAY, day_count=30)
    assert time.process_time() - started < 5
    assert len(days) == 30 and all(len(day.dumps) == 10_000 for day in days)
