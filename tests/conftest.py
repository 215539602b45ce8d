"""Give every test the same surroundings, whoever starts it and however, and let every test import the kit.

A run from `nohup`, cron, a container without HOME or somebody's desktop must end alike. So signals, locale, time zone, umask, HOME
and the variables that the program reads are set here, before any test module is imported.
"""

import contextlib
import getpass
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OWN_VARIABLES = ("DAL_SIM_", "DAL_LIFE_", "DAL_CRASH_")
"""These speak to the tests, not to the program."""
LONG_SECONDS = 30
REPORT_EVERY_SECONDS = 10


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


IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
HOME = os.environ["HOME"] if IS_WORKER else tempfile.mkdtemp(prefix="dalsegno-test-home-")
settle_signals()
settle_environment(HOME)


class LongTests:
    """Names the tests that run for long, so that nobody looks at a dot that does not come."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._started: dict[str, float] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @pytest.hookimpl
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        with self._lock:
            self._started[nodeid] = time.monotonic()
        if not self._thread.is_alive() and not self._ended.is_set():
            self._thread.start()

    @pytest.hookimpl
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        with self._lock:
            self._started.pop(nodeid, None)

    def end(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        named: dict[str, int] = {}
        while reporter is not None and not self._ended.wait(REPORT_EVERY_SECONDS):
            now = time.monotonic()
            with self._lock:
                running = {nodeid: int(now - started) for nodeid, started in self._started.items()}
            for nodeid, seconds in running.items():
                if seconds >= max(LONG_SECONDS, 2 * named.get(nodeid, 0)):
                    named[nodeid] = seconds
                    reporter.write_line(f"[{seconds} s so far: {nodeid}]")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if not IS_WORKER and not config.option.collectonly:
        watcher = LongTests(config)
        config.pluginmanager.register(watcher, "long-tests")
        config.add_cleanup(watcher.end)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if IS_WORKER:
        return
    shutil.rmtree(HOME, ignore_errors=True)
    # pytest removed what passed; a directory that is empty now, and its link to the newest run, are nobody's.
    with contextlib.suppress(OSError, KeyError):
        root = Path(tempfile.gettempdir()) / f"pytest-of-{getpass.getuser()}"
        current = root / "pytest-current"
        if current.is_symlink() and not current.exists():
            current.unlink()
        root.rmdir()
