"""What retention removes of a whole installation, decided from values: no pool, no catalog, no disk."""

from dataclasses import replace
from pathlib import Path

import pytest

from dalsegno.backup.members import Member
from dalsegno.backup.policy import DirectoryPolicy, Keep, KeepRules, Policy, SetPolicy, SpoolPolicy
from dalsegno.backup.prune_plan import ARCHIVE, SPOOL, Coming, plan_prune, removal_name
from dalsegno.backup.records import GOOD, SPOOL_TARGET, Copy, DumpEntry
from dalsegno.volumes.state import VolumeState

DAY_NS = 86400 * 10**9
NOW_NS = 100 * DAY_NS
VOLUME = b"volume of tests!"


def policy(keep: KeepRules, *, targets: tuple[str, ...] = ("disks",)) -> Policy:
    return Policy(
        path=Path("/policy"),
        state_dir=Path("/s"),
        catalog_url="",
        timezone="UTC",
        spool=SpoolPolicy(path=Path("/s/spool")),
        targets={"disks": DirectoryPolicy(name="disks", paths=(Path("/a"),))},
        sets={"homes": SetPolicy(name="homes", volumes=("*",), targets=targets, keep=keep)},
    )


def dump(day: int, *, base: int | None = None) -> DumpEntry:
    return DumpEntry(
        dump_id=bytes([day]) * 16,
        volume_id=VOLUME,
        volume_name="home",
        level=0 if base is None else 1,
        revision=bytes([day]) * 32,
        base_dump=bytes([base]) * 16 if base is not None else b"",
        base_revisions=(bytes([base]) * 32,) if base is not None else (),
        cloned_at_ns=day * DAY_NS,
        taken_at_ns=day * DAY_NS,
        received_at_ns=day * DAY_NS,
        size_bytes=10,
        digest=b"",
        set_name="homes",
    )


def copy(entry: DumpEntry, target: str) -> Copy:
    return Copy(
        dump_id=entry.dump_id,
        target=target,
        medium=target,
        place="x",
        size_bytes=10,
        written_at_ns=1,
        checked_at_ns=1,
        verdict=GOOD,
    )


def removed(chosen: Policy, days: dict[int, tuple[str, ...]], *, members: bool = True, **more: object) -> list[tuple]:
    entries = [dump(day) for day in days]
    copies = {entry.dump_id: [copy(entry, name) for name in days[entry.dump_id[0]]] for entry in entries}
    states = [VolumeState(id=VOLUME, name="home", kind="native", source=b"", created_ns=1)] if members else []
    of_set = [Member(set_name="homes", volume="home")] if members else []
    found = plan_prune(chosen, states, of_set, dumps=entries, copies=copies, now_ns=NOW_NS, **more)
    return sorted((each.place, bytes.fromhex(each.name)[0]) for each in found.removals)


BOTH = (SPOOL_TARGET, "disks")


@pytest.mark.parametrize("members", [True, False])
def test_what_is_safe_leaves_the_spool_and_rules_alone_remove_from_the_archive(members: bool) -> None:
    days = {90: BOTH, 91: (SPOOL_TARGET,), 92: ("disks",)}
    assert removed(policy(KeepRules()), days, members=members) == [(SPOOL, 90)]
    last = KeepRules(archive=Keep(last=1))
    assert removed(policy(last), days, members=members) == [(ARCHIVE, 90), (ARCHIVE, 91)]


def test_without_targets_the_spool_is_the_archive() -> None:
    days = {90: (SPOOL_TARGET,), 91: (SPOOL_TARGET,)}
    assert removed(policy(KeepRules(), targets=()), days) == []
    assert removed(policy(KeepRules(archive=Keep(last=1)), targets=()), days) == [(ARCHIVE, 90)]


def test_what_a_coming_increment_rests_on_stays() -> None:
    days = {90: ("disks",), 91: ("disks",)}
    keep = policy(KeepRules(archive=Keep(last=1)))
    ahead = {"home": [Coming(received_ns=NOW_NS - 1, level=0)]}
    assert removed(keep, days, coming=ahead) == [(ARCHIVE, 90), (ARCHIVE, 91)]
    ahead = {"home": [Coming(received_ns=NOW_NS - 1, level=1)]}
    assert removed(keep, days, coming=ahead) == [(ARCHIVE, 90)]


def test_a_removal_is_named_with_what_holds_it() -> None:
    entry, newer = dump(90), dump(91)
    copies = {entry.dump_id: [copy(entry, "disks"), replace(copy(entry, "disks"), number=2, medium="week-2")]}
    copies[newer.dump_id] = [copy(newer, "disks")]
    keep = policy(KeepRules(archive=Keep(last=1)))
    found = plan_prune(keep, [], [], dumps=[entry, newer], copies=copies, now_ns=NOW_NS)
    assert [removal_name(each) for each in found.removals] == [f"home level 0 dump {'5a' * 6} (disks, week-2)"]
    assert found.kept == {"clones": 0, "spool": 0, "archive": 1}
