"""Power cuts, kills and failing syncs in a client of a realm: a commit that was said to wait reaches the servers.

The kind of fault: what a killed command left waiting is told to be there, and was never made durable.
"""

import pytest
from client_world import ALL, CLIENT_COMMANDS, CLIENT_MADE, JOIN, TAKE_IN, VOLUME, ClientExplorer, client, mounted
from disk import Disk
from explorer import SEED, STATES, Command, Promise, explore, shown
from machine import Machine, cut_state
from recorder import Op


@pytest.fixture
def explorer(machine: Machine) -> ClientExplorer:
    return ClientExplorer(machine, seed=SEED)


@pytest.mark.slow
@pytest.mark.timeout(36000)
def test_a_commit_that_waits_at_a_client_reaches_the_servers_whatever_fails(explorer: ClientExplorer) -> None:
    print(f"seed {explorer.seed}")
    explore(explorer, CLIENT_MADE, CLIENT_COMMANDS, states_min=STATES // 6, on=Disk())
    assert not explorer.failures, shown(explorer.failures)


def test_a_directory_that_a_backup_made_for_its_caches_is_durable_for_what_stands_beside_them(
    explorer: ClientExplorer,
) -> None:
    own = {"DAL_REALM": ""}
    log: list[Op] = []
    promise = Promise()
    for command in (
        Command("init", ("init",), environment=own),
        Command("backup", ("backup", "{doc}"), environment=own),
        JOIN,
        client(*TAKE_IN),
        client(*TAKE_IN, without=ALL, changes=True),
    ):
        log, promise, _ = explorer.then(Disk(), log, promise, command, "all from the beginning")
    explorer.machine.put(cut_state(Disk(), log, (len(log), 0.0, 0)))
    explorer.check(promise, "power cut")
    assert any(what.startswith("commit") for what in promise.facts) and not explorer.failures, shown(explorer.failures)


def notes_waiting(op: Op) -> bool:
    """Tell whether an operation notes a commit as waiting."""
    return op[0] == "move" and str(op[3]).endswith("/refs/unsent")


@pytest.mark.parametrize(
    "second",
    [
        client(*TAKE_IN, without=ALL),
        client(*TAKE_IN, without=ALL, changes=True),
        client("versions", f"{VOLUME}:/plan", without=ALL),
        mounted(3, without=ALL),
    ],
)
def test_a_commit_that_a_killed_command_left_waiting_is_synced_before_it_is_told(
    explorer: ClientExplorer, second: Command
) -> None:
    base, promise = explorer.prepared(*CLIENT_MADE[:2])
    explorer.killed_where(base, promise, client(*TAKE_IN, without=ALL, changes=True), second, notes_waiting)
    assert not explorer.failures, shown(explorer.failures)
