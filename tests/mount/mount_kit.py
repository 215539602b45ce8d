"""Mounts for tests: a real `dal mount` that is gone when the test ends, however it ends."""

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli_kit import SOURCE, User

LOUD_SKIP = "NOT TESTED: /dev/fuse is not there or not ours: mounts were not tested at all"
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def can_mount() -> bool:
    """Tell whether this machine lets us mount."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return False
    return os.geteuid() == 0 or shutil.which("fusermount3") is not None or shutil.which("fusermount") is not None


needs_fuse = pytest.mark.skipif(not can_mount(), reason=LOUD_SKIP)


def detach(path: Path) -> None:
    """Take every mount at `path` away, also of a server that was killed."""
    while _libc.umount2(os.fsencode(path), 2) == 0:
        pass
    if os.geteuid() != 0 and os.path.ismount(path):
        subprocess.run(["fusermount", "-uz", str(path)], check=False)


class Mount:
    """A `dal mount --foreground` in a process of its own."""

    def __init__(self, user: User, path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
        self.user = user
        self.path = path
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        """End the server as a crash would, and take the dead mount away."""
        self.process.kill()
        self.process.wait()
        detach(self.path)

    def end(self) -> None:
        """Unmount as a user does, and wait for the server."""
        self.user.run("umount", str(self.path))
        assert self.process.wait(timeout=30) == 0, self.log


@contextmanager
def mounted(user: User, *words: str, path: Path | None = None, **environment: str) -> Iterator[Mount]:
    """Mount what `words` say at `path` (default: `mnt` at home) until the block ends."""
    directory = path or user.home / "mnt"
    directory.mkdir(exist_ok=True)
    log = user.home / f"{directory.name}.{next(_numbers)}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dalsegno.cli.main", "mount", "--foreground", *words, str(directory)],
            cwd=user.home,
            env=user.environ({"PYTHONPATH": str(SOURCE), **environment}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    mount = Mount(user, directory, process, log)
    try:
        deadline = time.monotonic() + 30
        while b"ends it" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        yield mount
    finally:
        detach(directory)
        if process.poll() is None:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
