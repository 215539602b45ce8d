"""Dumps of strangers as mounts: their mount points open nothing of the mounter's, their rights mean nothing."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from mount_kit import mounted, needs_fuse

from cli_kit import User
from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryLeaf

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from test_bad_input import Forger, a_directory, a_file

pytestmark = [needs_fuse, pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: set-id files of others need root")]


@pytest.fixture
def home(user: User) -> User:
    """Somebody with a volume `ada`, who was sent a dump with a mount point that leads to `ada`."""
    user.quick("init")
    (user.home / "ada").mkdir()
    (user.home / "ada" / "diary").write_text("secret")
    user.quick("import", "ada", str(user.home / "ada"))
    user.quick("key", "export", str(user.home / "pool.key"))
    stranger = User(user.home / "stranger")
    stranger.quick("init", "--join", str(user.home / "pool.key"))
    stranger.quick("volume", "create", "sent")
    with mounted(stranger, "sent") as mount:
        stranger.quick("mkmount", str(mount.path / "way"), "ada")
        (mount.path / "shell").write_text("x")
        (mount.path / "shell").chmod(0o4755)
        os.chown(mount.path / "shell", 12345, 12345)
        (mount.path / "shell").chmod(0o4755)
        mount.end()
    stranger.quick("dump", "sent", "-o", str(user.home / "sent.dump"))
    return user


def test_a_mount_point_in_a_dump_leads_nowhere(home: User) -> None:
    """Kind: a stranger's dump, shown to others, opens the mounter's own volumes."""
    with mounted(home, "sent.dump", "--allow-other") as mount:
        assert os.readlink(mount.path / "way") == "#ada"
        assert not (mount.path / "way" / "diary").exists()
        shown = (mount.path / "shell").stat()
        assert (stat.S_IMODE(shown.st_mode), shown.st_uid) == (0o755, 0)
        assert subprocess.run(["cat", str(mount.path / "way" / "diary")], capture_output=True).returncode
    with mounted(home, "sent.dump", "--follow", "--trusted") as mount:
        assert (mount.path / "way" / "diary").read_text() == "secret"
        assert (mount.path / "shell").stat().st_uid == 12345


def test_a_tree_that_goes_on_for_ever_ends_in_a_mount(user: User) -> None:
    """Kind: a search through a mount of two kilobytes never ends."""
    user.quick("init", "--encryption", "none")
    forger = Forger(user)
    below = forger.put(objects.KIND_DIRECTORY, DirectoryLeaf([a_file(b"f")]))
    for _ in range(8):
        leaf = DirectoryLeaf([a_directory(b"%02d" % number, below) for number in range(100)])
        below = forger.put(objects.KIND_DIRECTORY, leaf)
    forger.write(forger.revision(below))
    with mounted(user, "evil.dump") as mount:
        met = failed = 0
        for _, names, _ in os.walk(mount.path, onerror=lambda error: None):
            met += 1
            failed += not names
            if met > 3000:
                break
        assert met <= 3000
