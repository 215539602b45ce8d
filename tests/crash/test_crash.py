"""Power cuts, kills, failing syncs and full disks at every point of every command that writes: nothing acknowledged is lost.

    make crash STATES=10000 SEED=1     tries more

The kind of fault: a command believes what an earlier, killed or failing one made and never made durable.
"""

import random
from collections.abc import Callable

import pytest
from commands import (
    COMMANDS,
    MADE,
    add_holder,
    backup,
    clone,
    export_key,
    gc,
    hold,
    init,
    remove_holder,
    remove_volume,
    rotate_key,
    take_in,
    unclone,
    verify,
)
from disk import Disk
from explorer import SEED, STATES, Command, Explorer, Promise, explore, shown
from machine import Machine
from recorder import DIRECTORY, Op

PARTS = 4


@pytest.mark.slow
@pytest.mark.timeout(36000)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_acknowledged_is_lost_whatever_fails_and_the_next_command_goes_on(machine: Machine, part: int) -> None:
    print(f"seed {SEED + part}")
    explorer = Explorer(machine, seed=SEED + part)
    explore(explorer, MADE, COMMANDS, states_min=STATES // PARTS, part=part, parts=PARTS)
    assert not explorer.failures, shown(explorer.failures)


def gives_name(suffix: str) -> Callable[[Op], bool]:
    """Return what tells whether an operation gives a file a name that ends like this."""
    return lambda op: (
        op[0] in ("name", "move") and str(op[2 if op[0] == "name" else 4]).endswith(suffix) and op[-1] is not None
    )


def first_of(fits: Callable[[Op], bool]) -> Callable[[Op], bool]:
    """Return what tells only of the first operation that fits that it does."""
    found: list[Op] = []

    def is_first(op: Op) -> bool:
        if found or not fits(op):
            return False
        found.append(op)
        return True

    return is_first


def makes_directory(name: str) -> Callable[[Op], bool]:
    """Return what tells whether an operation makes a directory of this name."""
    return lambda op: op[0] == "name" and op[2:] == (name, DIRECTORY)


@pytest.mark.parametrize("second", [backup("same", changes=False), take_in(changes=False), clone("named"), gc()])
def test_a_pack_whose_name_was_not_synced_is_synced_by_who_relies_on_it(machine: Machine, second: Command) -> None:
    explorer = Explorer(machine, seed=SEED)
    base, promise = explorer.prepared(backup("one"))
    explorer.killed_where(base, promise, backup("two"), second, gives_name(".pack"))
    assert not explorer.failures, shown(explorer.failures)


def test_a_ref_that_was_not_synced_is_synced_before_something_is_deleted(machine: Machine) -> None:
    explorer = Explorer(machine, seed=SEED)
    base, promise = explorer.prepared(backup("one"), backup("two"))
    explorer.killed_where(base, promise, unclone("one"), gc(), lambda op: op[0] == "move" and "/refs/volumes" in op[3])
    assert not explorer.failures, shown(explorer.failures)


def test_a_ref_that_was_removed_is_gone_before_what_it_named_is_deleted(machine: Machine) -> None:
    """Only directories with refs in them are synced, and the last one was removed."""
    explorer = Explorer(machine, seed=SEED)
    base, promise = explorer.prepared(init(), take_in())
    removed = lambda op: op[0] == "name" and op[1].endswith("/refs/volumes") and op[3] is None  # noqa: E731
    explorer.killed_where(base, promise, remove_volume(), gc(), removed)
    assert not explorer.failures, shown(explorer.failures)


def test_a_ref_that_says_already_what_a_command_wants_is_synced_before_it_is_acknowledged(machine: Machine) -> None:
    explorer = Explorer(machine, seed=SEED)
    base, promise = explorer.prepared(backup("one"))
    explorer.killed_where(base, promise, hold(), hold(), lambda op: op[0] == "move" and "/refs/volumes" in op[3])
    assert not explorer.failures, shown(explorer.failures)


def test_a_pool_that_was_not_synced_when_it_was_made_is_synced_by_its_first_backup(machine: Machine) -> None:
    explorer = Explorer(machine, seed=SEED)
    for last in (gives_name("pool.toml"), gives_name(".key")):
        explorer.killed_where(Disk(), Promise(), init(), backup("one"), last)
    # A directory whose name was not synced: whoever puts something into it has to.
    for folder in ("names", "volumes", "packs", "keys"):
        explorer.killed_where(Disk(), Promise(), backup("zero"), backup("one"), makes_directory(folder))
    assert not explorer.failures, shown(explorer.failures)


@pytest.mark.parametrize("second", [verify(), clone("named")])
def test_a_volume_whose_ref_was_not_synced_is_not_remembered_as_newer_than_what_the_power_leaves(
    machine: Machine, second: Command
) -> None:
    """The kind of fault: what was only seen is written down as what was there, and the disk did not have it yet."""
    explorer = Explorer(machine, seed=SEED)
    base, promise = explorer.prepared(backup("one"), take_in())
    sets_ref = lambda op: op[0] == "move" and "/refs/volumes" in op[3]  # noqa: E731
    explorer.killed_where(base, promise, take_in(), second, sets_ref)
    explorer.killed_where(base, promise, clone("named"), second, sets_ref)
    assert not explorer.failures, shown(explorer.failures)


def test_a_changed_key_that_was_not_synced_is_not_remembered_as_the_pools(machine: Machine) -> None:
    """The same kind: a pool whose settings were seen before they were durable is an older one after a power cut."""
    explorer = Explorer(machine, seed=SEED)
    base, promise = explorer.prepared(backup("one"))
    for replaced in (first_of(gives_name("pool.toml")), gives_name("pool.toml")):
        explorer.killed_where(base, promise, rotate_key(), verify(), replaced)
    assert not explorer.failures, shown(explorer.failures)


def test_an_exported_key_that_was_not_synced_is_synced_by_who_exports_it_again(machine: Machine) -> None:
    explorer = Explorer(machine, seed=SEED)
    base, promise = explorer.prepared(backup("one"))
    base.names[""]["usb"] = DIRECTORY
    base.names["usb"] = {}
    explorer.killed_where(base, promise, export_key(), export_key(), gives_name("realm.key"))
    assert not explorer.failures, shown(explorer.failures)


def test_holders_of_the_key_are_the_old_ones_or_the_new_ones_at_any_point(machine: Machine) -> None:
    """The kind of fault: a power cut takes the file away without which nobody opens the pool."""
    explorer = Explorer(machine, seed=SEED)
    base, promise = explorer.prepared(backup("one"))
    explorer.cut_one(base, promise, add_holder(), random.Random(SEED), 6)
    explorer.killed_where(base, promise, add_holder(), backup("two"), gives_name("pool.toml"))
    held, promise = explorer.prepared(backup("one"), add_holder())
    explorer.cut_one(held, promise, remove_holder(), random.Random(SEED), 6)
    assert not explorer.failures, shown(explorer.failures)


def test_the_recording_is_what_was_done(machine: Machine) -> None:
    explorer = Explorer(machine, seed=SEED)
    base, _ = explorer.prepared(*MADE)
    for command in COMMANDS:
        replayed = base.copy()
        for op in explorer.record(base, command).log:
            replayed.apply(op)
        found = machine.read()
        assert replayed.tree() == found.tree()


def test_a_program_that_does_not_sync_names_is_found_out(machine: Machine) -> None:
    machine.before = "from dalsegno.world import files; files._sync_names = lambda path: None"
    explorer = Explorer(machine, seed=SEED)
    explore(explorer, MADE, COMMANDS, states_min=12)
    assert explorer.failures


def test_a_program_that_does_not_sync_bytes_is_found_out(machine: Machine) -> None:
    machine.before = "from dalsegno.world import files; files._sync = lambda descriptor: None"
    explorer = Explorer(machine, seed=SEED)
    explore(explorer, MADE, COMMANDS, states_min=12)
    assert explorer.failures
