"""Mounts for tests: a real `dal mount` that is gone when the test ends, however it ends."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cli_kit import User

LOUD_SKIP = "NOT TESTED: /dev/fuse is not there or not ours: mounts were not tested at all"
_libc = ctypes.CDLL(None, use_errno=True)


def can_mount() -> bool:
    """Tell whether this machine lets us mount."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return False
    return os.geteuid() == 0 or shutil.which("fusermount3") is not None or shutil.which("fusermount") is not None


needs_fuse = pytest.mark.skipif(not can_mount(), reason=LOUD_SKIP)


def needs_program(name: str) -> pytest.MarkDecorator:
    """Skip, loudly, where a program is missing."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"NOT TESTED: {name} is not installed")


def detach(path: Path) -> None:
    """Take every mount at `path` away, also of a server that was killed."""
    while _libc.umount2(os.fsencode(path), 2) == 0:
        pass
    if os.geteuid() != 0 and os.path.ismount(path):
        subprocess.run([shutil.which("fusermount3") or "fusermount", "-uz", str(path)], check=False)


class Mount:
    """A `dal mount` in the background, and its process."""

    def __init__(self, user: User, path: Path, process: int) -> None:
        self.user = user
        self.path = path
        self.process = process

    @property
    def log(self) -> str:
        """What mounts of this user wrote."""
        log = self.user.home / ".cache" / "dalsegno" / "mount.log"
        return log.read_text() if log.exists() else ""

    def is_alive(self) -> bool:
        """Tell whether the server runs."""
        try:
            # The first thread may be gone before the others.
            tasks = [path.read_text() for path in Path(f"/proc/{self.process}/task").glob("*/stat")]
        except (FileNotFoundError, ProcessLookupError):
            return self.is_alive()
        return any(task.rpartition(")")[2].split()[0] not in ("Z", "X") for task in tasks)

    def wait(self) -> None:
        """Wait until the server has ended by itself."""
        deadline = time.monotonic() + 30
        while self.is_alive():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def kill(self) -> None:
        """End the server as a crash would, and take the dead mount away."""
        os.kill(self.process, signal.SIGKILL)
        self.wait()
        detach(self.path)

    def end(self) -> None:
        """Unmount as a user does, and wait for the server."""
        self.user.quick("umount", str(self.path))
        self.wait()


@contextmanager
def mounted(user: User, *words: str, path: Path | None = None, before: str = "", **environment: str) -> Iterator[Mount]:
    """Mount what `words` say at `path` (default: `mnt` at home) until the block ends; `before`: see User.quick."""
    directory = path or user.home / "mnt"
    directory.mkdir(exist_ok=True)
    done = json.loads(user.quick("--json", "mount", *words, str(directory), before=before, **environment).out)
    mount = Mount(user, directory, done["process"])
    try:
        yield mount
    except BaseException:
        # What the test left open keeps the server from ending by itself.
        with suppress(ProcessLookupError):
            os.kill(mount.process, signal.SIGKILL)
        raise
    finally:
        detach(directory)
        mount.wait()
