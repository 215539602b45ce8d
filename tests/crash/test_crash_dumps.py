"""Power cuts and kills while a volume's older dump records move to their table, or leave it."""

import random

import pytest
from commands import backup, dump, gc
from explorer import SEED, Command, Explorer, shown
from machine import Machine

SMALL_REFS = "from dalsegno.volumes import records; records.RECENT_MAX, records.RECENT_KEPT = 1, 0"
"""So that the second dump moves both."""


def forget(file: str) -> Command:
    """Forget a dump that was recorded."""
    return Command(f"forget {file}", ("mark", "--forget", "{home}/" + file))


@pytest.mark.parametrize(
    "command",
    [dump("2.dump", "--level", "1", chain="0.dump+"), forget("1.dump"), gc()],
    ids=lambda command: command.name,
)
def test_dumps_of_a_table_are_bases_after_a_power_cut(machine: Machine, command: Command) -> None:
    machine.before = SMALL_REFS
    explorer = Explorer(machine, seed=SEED)
    base, promise = explorer.prepared(
        backup("one"), dump("0.dump", "--level", "0"), dump("1.dump", "--level", "1", chain="0.dump+")
    )
    explorer.cut_one(base, promise, command, random.Random(SEED), 2)
    assert not explorer.failures, shown(explorer.failures)


def test_a_table_that_a_killed_command_wrote_is_durable_before_something_rests_on_it(machine: Machine) -> None:
    machine.before = SMALL_REFS
    explorer = Explorer(machine, seed=SEED)
    base, promise = explorer.prepared(backup("one"), dump("0.dump", "--level", "0"))
    chance = random.Random(SEED)
    moves = dump("1.dump", "--level", "1", chain="0.dump+")
    explorer.kill_then(base, promise, moves, dump("3.dump", "--level", "1", chain="0.dump+"), chance, 2)
    explorer.kill_then(base, promise, moves, gc(), chance, 1)
    assert not explorer.failures, shown(explorer.failures)
