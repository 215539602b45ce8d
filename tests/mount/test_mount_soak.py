"""Hours of random work, builds and git leave a mount small and right.

DAL_SOAK_SECONDS=3600 (or DAL_SOAK_OPERATIONS=10000000) with `-n 0 -s` for a long run, which tells each minute what the
mount keeps; DAL_SOAK_NAMES=40000 for many files and the program's own settings; DAL_SOAK_SEED repeats a run.
"""

import json
import os
import random
from pathlib import Path

import pytest
from mount_kit import Mount, mounted, needs_fuse
from soak_kit import Trades, Work, shape, worked_on

from cli_kit import User
from dalsegno.terms.times import SECOND_NS
from dalsegno.world.clock import ticks_ns

SEED = int(os.environ.get("DAL_SOAK_SEED", "20261130"))
SECONDS = int(os.environ.get("DAL_SOAK_SECONDS", "0"))
OPERATIONS = int(os.environ.get("DAL_SOAK_OPERATIONS", "1000000000" if SECONDS else "40000"))
NAMES_MAX = int(os.environ.get("DAL_SOAK_NAMES", "1500"))
LOOK_EVERY = 2_000
TRADE_EVERY = 1_000
LONG = OPERATIONS > 40_000
RESIDENT_MIB_MAX = 300 if LONG else 220
"""300 are promised. Some 130 are caches with bounds, which fill in the first 500,000 operations, and sooner on a machine
that is busy: commits are made by the clock."""
pytestmark = [needs_fuse, pytest.mark.slow, pytest.mark.timeout(0 if LONG else 900)]

SMALL = """
import dalsegno.mount.commit as commit
import dalsegno.mount.evict as evict

commit.COMMIT_SECONDS = 1
evict.INODES_KEPT_MAX = 500
"""
TELL = """
import gc, json, os, time
from collections import Counter
import dalsegno.mount.evict as evict

look = evict.InodeEvictor.look
said = [0.0]

def tell(changes):
    overlays, still = changes._overlays, changes._still
    kept = {
        "hot": len(changes.hot), "put_away": len(changes._kept), "orphans": len(changes._orphans),
        "dirty": len(changes.dirty_files), "removed": len(changes.removed_folders), "overlays": len(overlays),
        "names": sum(len(each.changes) for each in overlays.values()),
        "positions": sum(len(each.order) for each in overlays.values()),
        "folders": len(still._by_node), "numbers": len(still._folders),
        "spool": changes._spool.tail, "lasting": changes._lasting.tail,
    }
    index = changes.source.source.index
    kept["packs"], kept["objects"] = len(index.packs_on_disk), index.object_count
    kept["types"] = dict(Counter(type(each).__name__ for each in gc.get_objects()).most_common(12))
    with open(os.environ["DAL_KEPT"] + ".new", "w") as file:
        json.dump(kept, file)
    os.rename(os.environ["DAL_KEPT"] + ".new", os.environ["DAL_KEPT"])

def look_and_tell(self):
    look(self)
    if time.monotonic() > said[0] + 50:
        said[0] = time.monotonic()
        with self._changes.lock:
            tell(self._changes)

evict.InodeEvictor.look = look_and_tell
"""


def resident_mib(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) // 1024


class Watch:
    """Looks at the mount's memory, and tells each minute of a long run."""

    def __init__(self, mount: Mount, kept: Path) -> None:
        self.mount = mount
        self.kept = kept
        self.peak = 0
        self.began_ns = ticks_ns()
        self.minute = 0

    @property
    def seconds(self) -> int:
        return (ticks_ns() - self.began_ns) // SECOND_NS

    def look(self, number: int) -> None:
        now = resident_mib(self.mount.process)
        self.peak = max(self.peak, now)
        if self.seconds // 60 > self.minute:
            self.minute = self.seconds // 60
            kept = json.loads(self.kept.read_text()) if self.kept.exists() else {}
            print(f"{self.minute} min, {number} operations, {now} MiB, peak {self.peak}, {kept}", flush=True)
        assert now < RESIDENT_MIB_MAX, f"{now} MiB after {number} operations"


def test_random_work_builds_and_git_leave_a_mount_small_and_as_a_plain_directory(user: User) -> None:
    print(f"seed {SEED}: DAL_SOAK_SEED={SEED} repeats this run", flush=True)
    plain = user.home / "plain"
    plain.mkdir()
    user.quick("init", "--encryption", "none")
    user.quick("volume", "create", "v")
    before = (SMALL if NAMES_MAX < 10_000 else "") + (TELL if LONG else "")
    with mounted(user, "v", before=before, DAL_KEPT=str(user.home / "kept")) as mount:
        roots = (mount.path, plain)
        work = Work(roots, random.Random(SEED), names_max=NAMES_MAX)
        trades = Trades(roots, random.Random(SEED), home=user.home)
        watch = Watch(mount, user.home / "kept")
        number = 0
        while number < OPERATIONS and (not SECONDS or watch.seconds < SECONDS):
            work.step()
            if number % TRADE_EVERY == 0:
                trades.step()
            if number % LOOK_EVERY == 0:
                watch.look(number)
            number += 1
        print(f"peak {watch.peak} MiB after {number} operations and {trades.number} builds and commits", flush=True)
        at_end = shape(mount.path)
        trades.check(mount.path)
        mount.end()
    user.quick("restore", "v", "--to", "back")
    assert shape(user.home / "back") == at_end
    assert worked_on(at_end) == worked_on(shape(plain))
    trades.check(user.home / "back")
