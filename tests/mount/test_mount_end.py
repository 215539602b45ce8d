"""The end of a writable mount: who unmounts hears of it when all that was written is stored, or that it is not."""

import os
import time
from pathlib import Path

import pytest
from mount_kit import detach, mounted, needs_fuse

from cli_kit import User
from dalsegno.cli.mount import _wait_for_end
from dalsegno.mount.kernel import Mounted
from dalsegno.terms.errors import DalError

HELD_UP = """
from pathlib import Path
from dalsegno.actions import mount
from dalsegno.world.clock import pause
store, place = mount.commit_tree, Path({place!r})
def commit_tree(*arguments, **named):
    (place / "reached").touch()
    while not (place / "go").exists():
        pause(0.01)
    return store(*arguments, **named)
mount.commit_tree = commit_tree
"""
"""Each commit waits until it may go on."""


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


@needs_fuse
def test_a_mount_counts_as_ended_when_its_last_commit_is_stored(user: User) -> None:
    """Who unmounts was told that all is done before the last writes were stored."""
    user.quick("init")
    user.quick("volume", "create", "notes")
    before = HELD_UP.format(place=os.fspath(user.home))
    with mounted(user, "notes", before=before) as mount:
        (mount.path / "file").write_text("written last")
        detach(mount.path)  # as `umount` does, without asking for a commit
        wait_for(user.home / "reached")
        sockets = list((user.home / ".cache" / "dalsegno").glob("*/mounts/*.sock"))
        assert len(sockets) == 1
        (user.home / "go").touch()
        mount.wait()
        assert not sockets[0].exists()
    assert user.quick("cat", "notes:/file").out == b"written last"


def test_a_mount_that_could_not_store_its_last_writes_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "volume.sock").touch()  # nobody listens, and nobody holds the lock beside it
    mounted = Mounted(path="/nowhere", label="notes", read_only=False, device="0:0", uid=os.getuid())
    with pytest.raises(DalError, match="could not be stored"):
        _wait_for_end(tmp_path / "volume.sock", mounted)
