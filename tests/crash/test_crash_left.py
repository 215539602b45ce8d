"""What a killed command leaves is gone after the next run and a collection: no half files, nothing that a run without the kill lacks.

The kind of fault: a file is named for the process that writes it, and nobody looks for it once that process was killed.
"""

import os
import random
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from commands import COMMANDS, MADE, backup, init
from disk import Disk
from explorer import SEED, STATES, Command, Explorer
from machine import Machine
from recorder import DIRECTORY
from site_world import SITE_COMMANDS, SITE_MADE, SiteExplorer, at_night

KILLS = max(1, STATES // 80)
"""How often each command is killed."""
KEPT = (
    re.compile(r"/packs/../(HEX\.pack)?$"),  # one more pack, where the next run found some of its objects there
    re.compile(r"/(index/HEX\.idx|condemned/objects|damaged/)$"),  # what a collection writes of such packs
    re.compile(r"/keys/HEX\.key$"),  # keys are never removed: who knows what was written with them
    re.compile(r"/refs/names/HEX$"),  # a name without a volume is free
)
"""What may stay, few and small."""


def shape(root: Path) -> Counter[str]:
    """Count the names below a directory, with what is made up by chance or of a time left out."""
    found: Counter[str] = Counter()
    for directory, directories, files in os.walk(root):
        for name in (*files, *(f"{each}/" for each in directories)):
            path = f"/{os.path.relpath(os.path.join(directory, name), root)}{'/' if name.endswith('/') else ''}"
            found[re.sub(r"[0-9a-f]{12,}", "HEX", re.sub(r"/packs/[0-9a-f]{2}/", "/packs/../", path))] += 1
    return found


def left_by_kills(explorer: Explorer, base: Disk, command: Command, environment: Mapping[str, str]) -> list[str]:
    """Kill a command at a few operations, run it again, collect, and return what is there besides."""
    chance = random.Random(f"{SEED} {command.name}")
    later = {"DAL_NOW": "2099-01-01T00:00:00Z"}  # half files count as left behind after a day
    collect = [("gc", "--grace", "0s")] * 2

    def finish(disk: Disk) -> Counter[str]:
        explorer.machine.put(disk)
        words = explorer.words(command)
        explorer.machine.run(words, codes=range(256), **{**environment, **command.environment})
        explorer.machine.run(*collect, **{**environment, **later})
        return shape(explorer.machine.home)

    explorer._prepare(command)
    log = explorer.record(base, command).log
    wanted = finish(base)
    left = []
    # Not after the last one: then the next run is another one, and a site's makes a dump of its own.
    for killed in chance.sample(range(1, len(log)), min(KILLS, len(log) - 1)):
        half = base.copy()
        for op in log[:killed]:
            half.apply(op)
        more = finish(half) - wanted
        left += [f"{command.name} killed at {killed}: {name}" for name in more if not any(k.search(name) for k in KEPT)]
    return left


def test_nothing_is_left_behind_by_a_killed_command(machine: Machine) -> None:
    explorer = Explorer(machine, seed=SEED)
    base, _ = explorer.prepared(*MADE)
    base.names[""]["usb"] = DIRECTORY
    base.names["usb"] = {}
    left = [each for command in COMMANDS for each in left_by_kills(explorer, base, command, {})]
    for command in (init(), backup("zero")):
        left += left_by_kills(explorer, Disk(), command, {})
    assert not left, "\n".join(left)


def test_nothing_is_left_behind_by_a_killed_command_of_a_site(machine: Machine) -> None:
    site = SiteExplorer(machine, seed=SEED)
    base, _ = site.prepared(*SITE_MADE, on=site.empty())
    commands = {command.name: command for command in SITE_COMMANDS}.values()
    left = [each for command in commands for each in left_by_kills(site, base, command, at_night(3))]
    assert not left, "\n".join(left)
