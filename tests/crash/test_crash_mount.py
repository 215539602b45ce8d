"""Power cuts, kills and failing syncs in the commits of a writable mount: what a sync or an unmount promised is there.

The kind of fault: a mount shows what an earlier one made and never made durable, and answers a sync of it with "done".
"""

import pytest
from commands import MADE, backup, gc, take_in, verify
from disk import Disk
from explorer import SEED, STATES, Command, explore, shown
from machine import Machine
from mount_world import MountExplorer, worked
from recorder import Op

INIT = Command("init", ("init",))
MOUNT_COMMANDS = (
    *(worked(seed=seed) for seed in range(1, 7)),
    worked(0, seed=7),
    gc(),
    verify(),
    backup("three"),
    take_in(),
    take_in(changes=False),
)


@pytest.fixture
def mount(machine: Machine) -> MountExplorer:
    return MountExplorer(machine, seed=SEED)


@pytest.mark.slow
@pytest.mark.timeout(36000)
def test_what_a_mount_acknowledged_is_there_whatever_fails(mount: MountExplorer) -> None:
    print(f"seed {mount.seed}")
    explore(mount, [INIT, *MADE, worked(seed=0)], MOUNT_COMMANDS, states_min=STATES // 6, on=Disk())
    assert not mount.failures, shown(mount.failures)


def test_what_a_killed_mount_held_is_not_collected_while_that_may_come_back(mount: MountExplorer) -> None:
    base, promise = mount.prepared(INIT, take_in(), worked(seed=0))

    def lets_go(op: Op) -> bool:
        return op[0] == "name" and str(op[1]).startswith("pool/refs/pins") and op[3] is None

    mount.killed_where(base, promise, worked(4, seed=1), gc(), lets_go)
    assert not mount.failures, shown(mount.failures)


def sets_head(op: Op) -> bool:
    """Tell whether an operation sets a volume's ref."""
    return op[0] == "move" and op[3] == "pool/refs/volumes"


@pytest.mark.parametrize("second", [worked(0, seed=7), worked(3, seed=8), gc()])
def test_a_commit_of_a_killed_mount_is_synced_before_the_next_one_promises_it(
    mount: MountExplorer, second: Command
) -> None:
    base, promise = mount.prepared(INIT, take_in(), worked(seed=0))
    mount.killed_where(base, promise, worked(4, seed=1), second, sets_head)
    assert not mount.failures, shown(mount.failures)
