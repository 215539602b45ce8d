"""Give every test the same surroundings, whoever starts it and however, and let every test import the kit.

A run from `nohup`, cron, a container without HOME or somebody's desktop must end alike. So signals, locale, time zone, umask, HOME
and the variables that the program reads are set here, before any test module is imported.
"""

import contextlib
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from surroundings import is_missing_program, remove, settle_environment, settle_signals

FAILED = pytest.StashKey[bool]()
SERVER_KITS = {"realm_kit", "server_kit", "served_kit", "postgres_kit", "amanda_kit"}
"""Whose module takes something from one of these starts servers; so do the cases that ask for PostgreSQL."""
SLOW = (
    "bridges/",
    "crash/",
    "guides/test_guide_",
    "sim/",
    "cli/test_bad_input.py",
    "cli/test_faults.py",
    "cli/test_life.py",
    "cli/test_rehearsal.py",
    "replicas/test_keeper.py",
)
"""Rooms and files whose tests run a command once for each step it may be killed at, or through many histories."""
SLOW_NAMES = ("any_step", "every_step", "any_two_steps", "any_moment")
LONG_SECONDS = 30
REPORT_EVERY_SECONDS = 10


IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
PLACE = Path(os.environ["HOME"]).parent if IS_WORKER else Path(tempfile.mkdtemp(prefix="dal-test-"))
"""Everything that the run leaves on its way: HOME, and what pytest calls basetemp."""
KEPT = PLACE.parent / f"dal-test-kept-{os.getuid()}"
"""What tests that failed left, of the last run that had any."""
OLD_SECONDS = 24 * 3600
(PLACE / "home").mkdir(exist_ok=True)
if not IS_WORKER:
    for left in PLACE.parent.glob("dal-test-*"):
        # Of a run that was killed.
        with contextlib.suppress(OSError):
            if left.stat().st_uid == os.getuid() and time.time() - left.stat().st_mtime > OLD_SECONDS:
                remove(left)
settle_signals()
settle_environment(str(PLACE / "home"))


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
    if IS_WORKER:
        return
    if config.option.basetemp is None:
        config.option.basetemp = str(PLACE / "t")
    if not config.option.collectonly:
        watcher = LongTests(config)
        config.pluginmanager.register(watcher, "long-tests")
        config.add_cleanup(watcher.end)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts servers, and the slow files; single tests carry `@pytest.mark.slow` themselves."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent).as_posix()
        if place.startswith(SLOW) or any(words in item.name for words in SLOW_NAMES):
            item.add_marker("slow")
        assert isinstance(item, pytest.Function)
        from_where = {getattr(value, "__module__", "") for value in vars(item.module).values()}
        on_postgres = "postgresql" in getattr(getattr(item, "callspec", None), "params", {}).values()
        if from_where & SERVER_KITS or on_postgres or place.startswith("server/"):
            item.add_marker("server")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if IS_WORKER:
        return
    remove(PLACE / "home")
    if exitstatus != pytest.ExitCode.TESTS_FAILED:
        remove(PLACE)
        return
    remove(KEPT)
    with contextlib.suppress(OSError):
        PLACE.rename(KEPT)
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"what the failed tests left is in {KEPT}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, FileNotFoundError) and is_missing_program(error.filename):
        # Wherever the test calls it: what a machine has not is skipped and said, and no failure.
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1] or 0, f"!!! NOT TESTED: {error.filename} is not installed")
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a directory of the test's own, which goes when the test passes, however deep and however protected its files are."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    path = tmp_path_factory.mktemp(name)
    yield path
    if FAILED not in request.node.stash:
        remove(path)
