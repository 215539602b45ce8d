"""Two commands at once, at every step of each: both do what they acknowledge, also when the power goes then.

The kind of fault: a command believes what another that runs beside it made and has not made durable yet, or did away with.
"""

import pytest
from commands import COMMANDS, MADE, READERS
from explorer import SEED, STATES, Explorer, shown
from machine import Machine
from pairs import explore_pairs
from site_world import SITE_COMMANDS, SITE_MADE, SITE_READERS, SiteExplorer

PARTS = 2


@pytest.mark.slow
@pytest.mark.timeout(36000)
@pytest.mark.parametrize("part", range(PARTS))
def test_two_commands_at_once_lose_nothing_whatever_fails(machine: Machine, part: int) -> None:
    print(f"seed {SEED + part}")
    explorer = Explorer(machine, seed=SEED + part)
    pairs = explore_pairs(explorer, MADE, (*COMMANDS, *READERS), states_min=STATES // 4 // PARTS)
    print(f"{explorer.tried} states, {pairs.summary()}")
    assert not explorer.failures, shown(explorer.failures)


@pytest.mark.slow
@pytest.mark.timeout(36000)
def test_two_commands_of_a_site_at_once_lose_nothing_whatever_fails(machine: Machine) -> None:
    print(f"seed {SEED}")
    site = SiteExplorer(machine, seed=SEED)
    pairs = explore_pairs(site, SITE_MADE, (*SITE_COMMANDS, *SITE_READERS), states_min=STATES // 16, on=site.empty())
    print(f"{site.tried} states, {pairs.summary()}")
    assert not site.failures, shown(site.failures)
