"""Measure the coordinator: a run over small unchanged volumes, and planning a month; prints JSON.

`bench/run.py` runs it with the interpreter that has dalsegno.

usage: cycle.py DIRECTORY VOLUMES PLANNED
"""

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dalsegno.actions.cycle import HouseSteps, Listener, run_backup
from dalsegno.actions.policy import load_policy
from dalsegno.archive.labels import write_label
from dalsegno.assembly.installation import open_installation
from dalsegno.assembly.local import create_pool
from dalsegno.backup.plan import VolumeFacts, balance, plan_days

DAYS = 30
FIRST_DAY = 739_000
RUNS = 3

POLICY = """
pool = "HOME/pool"
state = "HOME/state"
[targets.disks]
kind = "directory"
paths = ["HOME/disk"]
[sets.all]
sources = ["HOME/volumes/*"]
targets = ["disks"]
program = "hanoi"
keep.clones = { last = 2 }
"""


@dataclass(frozen=True, kw_only=True)
class TimedSteps(HouseSteps):
    """The cycle's steps, with how long each clone and each dump took."""

    seconds: list[float] = field(default_factory=list)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds.append(time.perf_counter() - started)

    def clone(self, *words: Any, **more: Any) -> Any:
        """Clone a volume."""
        with self._timed():
            return super().clone(*words, **more)

    def dump(self, *words: Any, **more: Any) -> Any:
        """Dump a clone."""
        with self._timed():
            return super().dump(*words, **more)


def measure_run(home: Path, count: int) -> dict[str, float]:
    """Run the cycle over `count` volumes that did not change; count what is spent beyond clone and dump."""
    for number in range(count):
        volume = home / "volumes" / f"v{number:05}"
        volume.mkdir(parents=True)
        (volume / "file").write_text(f"{number}\n" * 50)
    (home / "disk").mkdir()
    write_label(home / "disk", label="disk", target="disks", kind="directory", now_ns=1)
    (home / "policy.toml").write_text(POLICY.replace("HOME", str(home)))
    os.environ["XDG_CACHE_HOME"] = str(home / "cache")
    policy = load_policy(home / "policy.toml")
    quiet = Listener(begin=lambda *_: None, report=lambda *_: None, end=lambda _: None)
    best: list[tuple[float, float]] = []
    with create_pool(home / "pool", encryption="none") as house:
        for day in range(RUNS + 1):
            os.environ["DAL_NOW"] = f"2026-11-{day + 1:02}T02:00:00Z"
            with open_installation(policy) as site:
                steps = TimedSteps(house=house, site=site)
                started = time.perf_counter()
                report = run_backup(house, site, steps=steps, set_names=["all"], listener=quiet)
                total = time.perf_counter() - started
            assert report.is_good
            if day:  # the first night stores everything
                spent = sum(steps.seconds)
                best.append((total - spent, spent))
    beyond, within = min(best)
    return {
        "cycle_volumes": count,
        "cycle_ms_beyond": 1000 * beyond / count,
        "cycle_ms_clone_and_dump": 1000 * within / count,
    }


def measure_plan(home: Path, count: int) -> dict[str, float]:
    """Plan a month for volumes of very unequal sizes."""
    policy = load_policy(home / "policy.toml")
    text = (home / "policy.toml").read_text().replace('program = "hanoi"\n', "")
    (home / "planned.toml").write_text(text)
    policy = load_policy(home / "planned.toml")
    chance = random.Random(1)
    sizes = [int(chance.paretovariate(1.16) * 2**20) for _ in range(count)]
    facts = [
        VolumeFacts(volume=f"v{number}", set_name="all", full_bytes=size, daily_bytes=size // 200)
        for number, size in enumerate(sizes)
    ]
    started = time.perf_counter()
    days = plan_days(policy, facts, first_day=FIRST_DAY, day_count=DAYS)
    seconds = time.perf_counter() - started
    return {"plan_volumes": count, "plan_seconds": seconds, "plan_busiest": balance(days, facts).busiest_to_mean}


def main() -> None:
    home = Path(sys.argv[1]).absolute()
    home.mkdir(parents=True)
    print(json.dumps({**measure_run(home, int(sys.argv[2])), **measure_plan(home, int(sys.argv[3]))}))


if __name__ == "__main__":
    main()
