"""How a site stands, from values: states, the line for monitors, the metrics."""

import re
from dataclasses import replace
from zoneinfo import ZoneInfo

import msgspec
import pytest

from dalsegno.backup.days import Today
from dalsegno.backup.metrics import metrics_text
from dalsegno.backup.policy import Program, SetPolicy
from dalsegno.backup.records import BAD, GOOD, Copy, Drill, DumpEntry, Medium, Run
from dalsegno.backup.status import (
    CRITICAL,
    OK,
    WARNING,
    SetStatus,
    VolumeStatus,
    nagios_line,
    newest_good,
    next_day_due,
    set_status,
    volume_status,
)
from dalsegno.backup.targets import is_safe

UTC = ZoneInfo("UTC")
DAY_NS = 86400 * 10**9
EPOCH = 719_163  # the ordinal of 1970-01-01
HOMES = SetPolicy(name="homes", volumes=("*",), targets=("disks", "grid"))


def dump(day: int, *, level: int = 0, base: int | None = None) -> DumpEntry:
    return DumpEntry(
        dump_id=day.to_bytes(16, "big"),
        volume_id=b"v" * 16,
        volume_name="home",
        level=level,
        revision=day.to_bytes(32, "big"),
        base_dump=b"" if base is None else base.to_bytes(16, "big"),
        base_revisions=() if base is None else (base.to_bytes(32, "big"),),
        cloned_at_ns=day * DAY_NS,
        taken_at_ns=day * DAY_NS,
        received_at_ns=day * DAY_NS,
        size_bytes=1000,
        digest=bytes(32),
    )


def copies(*days: int, targets: tuple[str, ...] = ("disks", "grid"), verdict: str = GOOD) -> dict[bytes, list[Copy]]:
    return {
        day.to_bytes(16, "big"): [
            Copy(
                dump_id=day.to_bytes(16, "big"),
                target=target,
                medium=f"{target}-1",
                place="x",
                size_bytes=1,
                written_at_ns=0,
                checked_at_ns=0,
                verdict=verdict,
            )
            for target in targets
        ]
        for day in days
    }


def drill(day: int, *findings: str) -> Drill:
    return Drill(
        volume_id=b"v" * 16,
        volume_name="home",
        dump_id=b"d" * 16,
        kind="sample",
        started_ns=0,
        ended_ns=day * DAY_NS,
        file_count=1,
        total_bytes=1,
        verdict=BAD if findings else GOOD,
        findings=findings,
    )


def judged(entries: list[DumpEntry], where: dict, *, day: int, last_drill: Drill | None = None) -> VolumeStatus:
    return volume_status("home", entries, where, HOMES, last_drill=last_drill, today=Today(day=EPOCH + day, zone=UTC))


def test_newest_good_needs_its_whole_chain() -> None:
    chain = [dump(10), dump(11, level=1, base=10), dump(12, level=2, base=11)]
    assert newest_good(chain, copies(10, 11, 12)) == chain[2]
    assert newest_good(chain, copies(10, 12)) == chain[0]
    assert newest_good(chain, copies(11, 12)) is None
    assert newest_good(chain, {**copies(10, 11, 12), **copies(11, verdict=BAD)}) == chain[0]
    again = replace(dump(13), revision=chain[0].revision, cloned_at_ns=10 * DAY_NS)
    assert newest_good([*chain, again], copies(11, 12, 13)) == chain[2]  # another full of the same state
    ring = [dump(1, level=1, base=2), dump(2, level=1, base=1)]
    assert newest_good(ring, copies(1, 2)) is None


def test_a_volume_is_well_or_warned_of_or_critical() -> None:
    assert judged([dump(10)], copies(10), day=10).state == OK
    fewer = judged([dump(10)], copies(10, targets=("disks",)), day=10)
    assert fewer.state == WARNING and (fewer.target_count, fewer.targets_wanted) == (1, 2)
    assert judged([], {}, day=10).state == CRITICAL and "never backed up" in judged([], {}, day=10).problems[0]
    assert judged([dump(1)], copies(1), day=10).state == CRITICAL
    assert judged([dump(10)], {}, day=10).state == CRITICAL
    failed = judged([dump(10)], copies(10), day=10, last_drill=drill(9, "a.txt: its bytes are others"))
    assert failed.state == CRITICAL and "its bytes are others" in failed.problems[-1]
    old = judged([dump(200)], copies(200), day=200, last_drill=drill(100))
    assert old.state == WARNING and "no drill for 100 days" in old.problems[0]
    assert judged([dump(200)], copies(200), day=200, last_drill=drill(150)).state == OK


@pytest.mark.parametrize(
    ("levels", "day", "today", "expected"),
    [
        ((), 5, False, 5),
        ((), 5, True, 6),
        ((0, None, None, 1, None, None, None), 1, False, 1),  # ordinal 1 is a Monday
        ((0, None, None, 1, None, None, None), 1, True, 4),
        ((0, None, None, 1, None, None, None), 5, False, 8),
    ],
)
def test_the_next_day_follows_the_program(levels: tuple, day: int, today: bool, expected: int) -> None:
    chosen = msgspec.structs.replace(HOMES, program=Program(kind="weekdays" if levels else "planned", levels=levels))
    assert next_day_due(chosen, day=day, dumped_today=today) == expected


def site(*states: str) -> list[SetStatus]:
    volumes = [
        VolumeStatus(
            set_name="homes",
            volume=f"v{number}",
            state=state,
            problems=() if state == OK else (f"is {state}",),
            last=dump(10),
            last_drill=drill(9),
        )
        for number, state in enumerate(states)
    ]
    return [set_status(HOMES, volumes)]


def test_the_line_for_monitors_names_the_worst() -> None:
    assert nagios_line(site(OK, OK)) == "DALSEGNO OK - 2 volumes backed up | ok=2 warning=0 critical=0 shrunk=0"
    line = nagios_line(site(OK, WARNING, CRITICAL))
    assert line.startswith("DALSEGNO CRITICAL - v2: is critical; v1: is warning | ")
    assert "\n" not in line and "and 2 more" in nagios_line(site(*[WARNING] * 7))


def test_metrics_are_what_prometheus_reads() -> None:
    medium = Medium(label='odd "\\\n label', target="disks", kind="directory", capacity_bytes=10, used_bytes=4)
    text = metrics_text(
        site(OK, CRITICAL), last_run=Run(id=1, started_ns=5 * 10**9), media=[medium], here=[], now_ns=7 * 10**9
    )
    assert 'dalsegno_state{set="homes",volume="v1"} 2\n' in text
    assert f'dalsegno_last_good_backup_timestamp_seconds{{set="homes",volume="v0"}} {10 * 86400}\n' in text
    assert 'dalsegno_medium_here{target="disks",medium="odd \\"\\\\\\n label"} 0\n' in text
    sample = re.compile(r'^[a-z_]+(\{[a-z_]+="(\\.|[^"\\])*"(,[a-z_]+="(\\.|[^"\\])*")*\})? -?[0-9.e+-]+$')
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or sample.match(line), line
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(names) == len(set(names)) and text.endswith("\n")


def test_a_target_that_holds_less_than_the_policy_says_is_a_risk_everywhere() -> None:
    """The kind: some of what redundancy asks for counts as all of it."""
    chosen = msgspec.structs.replace(HOMES, target_copies={"disks": 2})
    found = copies(1)[(1).to_bytes(16, "big")]
    disk, share = found
    twice = [disk, replace(disk, number=2, medium="disks-2")]
    shares = [replace(share, part=part, parts=3, needed=2, medium=f"grid-{part}") for part in range(3)]

    def status_of(held: list[Copy]) -> VolumeStatus:
        return volume_status(
            "home",
            [dump(1)],
            {(1).to_bytes(16, "big"): held},
            chosen,
            today=Today(day=EPOCH + 1, zone=UTC),
        )

    assert (status_of([*twice, *shares]).state, status_of([*twice, *shares]).target_count) == (OK, 2)
    for held, words in (
        ([disk, *shares], "disks: 1 of 2 copies"),
        ([*twice, *shares[:2]], "grid: 2 of 3 shares"),
        ([*twice, replace(shares[0], verdict=BAD), *shares[1:]], "grid: 2 of 3 shares"),
    ):
        status = status_of(held)
        assert (status.state, status.target_count) == (WARNING, 1)
        assert words in status.problems[0]
        assert not is_safe(held, chosen)
    assert "whole in no target" in status_of([disk, *shares[:2]]).problems[0]
