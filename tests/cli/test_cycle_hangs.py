"""`dal backup --set` beside a source that never answers: no read of it can be ended, and nothing else waits for it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cycle_kit import Site, change, make_site, night

from dalsegno.formats import fuse
from dalsegno.world.files import FileLock
from hang_kit import hanging
from kit import readable

pytestmark = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="NOT TESTED: /dev/fuse is not there or not ours"
)

PATIENT = """
import os, sys, time
import dalsegno.actions.turns_at_work as turns, dalsegno.world.errands as errands
# Once the file system hangs, each look at the clock is a day later: nobody has to wait for days.
days = [0]
def ticks():
    days[0] += os.path.exists({marker!r})
    return time.monotonic_ns() + days[0] * 86400 * 10**9
turns.ticks_ns = ticks
if {looks}:
    errands.ticks_ns = ticks
from dalsegno.cli.main import main
sys.exit(main())
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


def back_up(site: Site, day: int, marker: Path, *, looks: bool = False) -> tuple[int, Any]:
    """Run the cycle as a process of its own, as cron does, with a clock that runs once something hangs."""
    done = subprocess.run(
        [sys.executable, "-c", PATIENT.format(marker=str(marker), looks=looks), "--json", "backup", "--set", "all"],
        cwd=site.home,
        env=site.environ({"DAL_NOW": night(day)}),
        capture_output=True,
        timeout=120,
    )
    assert b"Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def only_ann_fails(report: Any) -> str:
    assert {each["volume"]: each["state"] for each in report["volumes"]} == {"ann": "failed", "bob": "done"}
    return next(str(each["error"]) for each in report["volumes"] if each["error"])


def test_a_read_that_never_ends_fails_its_volume_alone_and_holds_nothing(site: Site) -> None:
    """Kind: a thread in a read that nobody can end, waited for by all others."""
    site.back_up(0)
    change(site, "tuesday")
    ann, marker, turns = site.home / "homes" / "ann", site.home / "hangs", site.home / "state" / "turns"
    with hanging(ann, marker, fuse.READ):
        code, report = back_up(site, 1, marker)
        error = only_ann_fails(report)
        assert code == 3 and error.startswith(f"{ann}/mail: does not answer: not done after 3d"), error

        # What hangs is there still; the site, the pool and the other volumes are free.
        (note,) = (text for path in turns.iterdir() if (text := path.read_text()))
        (stuck,) = map(int, re.findall(r"process (\d+)", note))
        assert Path(f"/proc/{stuck}").exists()
        for path in (site.home / "state" / "coordinator.lock", *(site.home / "pool").rglob("*.lock")):
            with FileLock(path) as free:
                assert free.acquire(wait=False), path
        site.quick("gc", "--grace", "0s", DAL_NOW=night(1, "12:00"))

        report = site.back_up(2, code=3)
        error = only_ann_fails(report)
        assert f"an earlier turn of it is not over: since 2026-11-17T02:00:00Z it hangs (process {stuck})" in error
        assert f"{ann}/mail" in error
        ended = os.pidfd_open(stuck)

    assert readable([ended], 60), "what hung ends when the file system does"
    os.close(ended)
    change(site, "thursday")
    assert site.back_up(3)["counts"] == {"done": 2, "incomplete": 0, "failed": 0}
    found = site.require_whole()
    assert {name: len(entries) for name, entries in found.items()} == {"ann": 2, "bob": 4}
    assert not any(path.read_text() for path in turns.iterdir()), "nobody is at work"


def test_a_source_that_says_nothing_at_all_is_found_before_its_turn(site: Site) -> None:
    """Kind: a look at a path, outside of every limit of time, that never comes back."""
    ann, marker = site.home / "homes" / "ann", site.home / "hangs"
    with hanging(ann, marker, fuse.GETATTR):
        code, report = back_up(site, 0, marker, looks=True)
        assert code == 3 and f"{ann}: does not answer" in only_ann_fails(report)
    assert site.back_up(1)["counts"] == {"done": 2, "incomplete": 0, "failed": 0}
