"""What every test may rely on, whoever starts the run: signals, variables, locale, time zone, umask, and no trace afterwards."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OWN_VARIABLES = (
    "DAL_TEST_",
    "DAL_SIM_",
    "DAL_SITES_",
    "DAL_LIFE_",
    "DAL_CRASH_",
    "DAL_SOAK_",
    "DAL_IGNORE_",
    "DAL_SEED",
)
"""These speak to the tests, not to the program."""
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
LOCKING_FLAGS = 0x10 | 0x20
"""Immutable, append only: `chattr +i`, `chattr +a`."""


def settle_signals() -> None:
    """Undo what was inherited: a child must meet Ctrl-C and a hang-up as it would at a terminal."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        # Under nohup the run itself goes on after a hang-up; a handler, unlike SIG_IGN, is not inherited by programs.
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def settle_environment(home: str) -> None:
    """Leave no variable of the person who runs the tests, except what finds programs."""
    for name in list(os.environ):
        theirs = name.startswith("DAL_") and not name.startswith(OWN_VARIABLES)
        if (
            theirs
            or name.startswith(("XDG_", "LC_", "GIT_"))
            or name in ("LANG", "LANGUAGE", "TZ", "COLUMNS", "NO_COLOR")
        ):
            del os.environ[name]
    os.environ["HOME"] = home
    os.environ["LC_ALL"] = "C.UTF-8"
    known = os.environ.get("PATH", "").split(":")
    os.environ["PATH"] = ":".join([*filter(None, known), *(p for p in SYSTEM_PATH.split(":") if p not in known)])
    if not os.path.isdir(os.environ.get("TMPDIR", "/tmp")):
        del os.environ["TMPDIR"]
    time.tzset()
    os.umask(0o022)


def is_missing_program(name: object) -> bool:
    """Return whether what could not be started is a program, named without its place, that this machine has not."""
    return isinstance(name, str) and bool(name) and "/" not in name and shutil.which(name) is None


def remove(path: Path) -> None:
    """Remove a directory, also one that is deeper than Python's recursion, longer than a path may be, or has locked files."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)
    if not path.is_symlink() and path.is_dir():
        for place, names, others in os.walk(path):
            for name in (*names, *others, ""):
                _unlock(os.path.join(place, name))
    if path.is_symlink() or path.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", str(path)], stderr=subprocess.DEVNULL)


def _unlock(path: str) -> None:
    """Take the flags away that keep a file from being removed, where there are any."""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            flags = bytearray(8)
            fcntl.ioctl(file, FS_IOC_GETFLAGS, flags)
            value = int.from_bytes(flags, "little")
            if value & LOCKING_FLAGS:
                fcntl.ioctl(file, FS_IOC_SETFLAGS, (value & ~LOCKING_FLAGS).to_bytes(8, "little"))
        finally:
            os.close(file)
