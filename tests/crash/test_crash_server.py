"""Power cuts, kills and failing syncs in the calls of a server: what it acknowledged, or told of a volume, is there.

The kind of fault: a server that was started again tells others what the one before it made and never made durable.
"""

from collections.abc import Callable

import pytest
from disk import Disk
from explorer import SEED, STATES, explore, shown
from machine import Machine, cut_state
from recorder import Op
from server_world import SERVER_COMMANDS, SERVER_MADE, ServerExplorer, served


@pytest.fixture
def server(machine: Machine) -> ServerExplorer:
    return ServerExplorer(machine, seed=SEED)


@pytest.mark.slow
@pytest.mark.timeout(36000)
def test_what_a_server_acknowledged_is_there_whatever_fails(server: ServerExplorer) -> None:
    print(f"seed {server.seed}")
    explore(server, SERVER_MADE, SERVER_COMMANDS, states_min=STATES // 6, on=Disk())
    assert not server.failures, shown(server.failures)


def sets_ref(directory: str) -> Callable[[Op], bool]:
    """Return what tells whether an operation sets or removes a ref, or a value of the server's own, in a directory."""
    place = f"pool/{directory}"
    return lambda op: (
        (op[0] == "move" and op[3] == place)
        or (op[0] == "name" and op[1] == place and op[3] is None and not op[2].endswith(".partial"))
    )


def test_bytes_of_a_dump_that_were_acknowledged_are_there(server: ServerExplorer) -> None:
    base, promise = server.prepared(SERVER_MADE[0], served("create", "create", "create"))
    log = server.record(base, served("incoming")).log
    told = [position for position, op in enumerate(log) if op[0] == "told"]
    for cut in (told[1] + 1, told[-1] + 1):
        server.machine.put(cut_state(base, log, (cut, 0.0, 0)))
        server.check(promise.heard(log[:cut]), f"power cut at {cut}")
    assert not server.failures, shown(server.failures)


def creates_upload(op: Op) -> bool:
    """Tell whether an operation begins an upload."""
    return op[0] == "name" and op[1].startswith("pool/uploads/") and isinstance(op[3], int)


@pytest.mark.parametrize(
    ("first", "second", "last"),
    [
        ("commit", "look", "refs/volumes"),
        ("clone", "look", "refs/volumes"),
        ("create", "look", "refs/volumes"),
        ("create", "again", "refs/volumes"),
        ("remove", "again", "refs/volumes"),
        ("remove", "look", "refs/volumes"),
        ("revoke", "again", "server/tokens"),
        ("certificate", "certificate", "server"),
        ("register", "register", "server"),
        ("freeze", "again", "refs/volumes"),
        ("arrange", "again", "refs/volumes"),
        ("switch", "again", "refs/volumes"),
        ("unclone", "again", "refs/volumes"),
    ],
)
def test_what_a_killed_server_set_is_synced_before_the_next_tells_it(
    server: ServerExplorer, first: str, second: str, last: str
) -> None:
    made = ["create", "create"] if first == "create" else ["create", "create", "create", "commit", "commit", "upload"]
    made += {"unclone": ["clone"], "revoke": ["token"]}.get(first, [])
    base, promise = server.prepared(SERVER_MADE[0], served(*made))
    server.killed_where(base, promise, served(first), served(second), sets_ref(last))
    assert not server.failures, shown(server.failures)


def test_an_upload_whose_name_was_not_synced_is_synced_by_who_goes_on_with_it(server: ServerExplorer) -> None:
    base, promise = server.prepared(SERVER_MADE[0], served("create", "create", "create"))
    server.killed_where(base, promise, served("part"), served("again"), creates_upload)
    assert not server.failures, shown(server.failures)
