"""Power cuts and kills while a volume's older clones move to their table, or leave it."""

import random

import pytest
from commands import backup, clone, gc, unclone
from explorer import SEED, Command, Explorer, shown
from machine import Machine

SMALL_REFS = "from dalsegno.volumes import clones; clones.NEWEST_MAX, clones.NEWEST_KEPT = 2, 1"
"""So that the third clone moves two others."""


@pytest.mark.parametrize("command", [clone("moves"), unclone("one"), gc()], ids=lambda command: command.name)
def test_clones_of_a_table_are_there_after_a_power_cut(machine: Machine, command: Command) -> None:
    machine.before = SMALL_REFS
    explorer = Explorer(machine, seed=SEED)
    base, promise = explorer.prepared(backup("one"), backup("two"), backup("three"), clone("four"))
    explorer.cut_one(base, promise, command, random.Random(SEED), 2)
    assert not explorer.failures, shown(explorer.failures)


def test_a_table_that_a_killed_command_wrote_is_durable_before_something_rests_on_it(machine: Machine) -> None:
    machine.before = SMALL_REFS
    explorer = Explorer(machine, seed=SEED)
    base, promise = explorer.prepared(backup("one"), backup("two"))
    chance = random.Random(SEED)
    explorer.kill_then(base, promise, clone("moves"), clone("again"), chance, 2)
    explorer.kill_then(base, promise, clone("moves"), gc(), chance, 1)
    assert not explorer.failures, shown(explorer.failures)
