"""What every test may rely on, whoever starts the run: tests/conftest.py.

The kind of fault: a test that passes in one person's terminal and fails under nohup, cron or a desktop's variables.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surroundings import is_missing_program, remove

ROOT = Path(__file__).parents[1]
CHILD = "import signal; print(*(int(signal.getsignal(n)) for n in (signal.SIGHUP, signal.SIGTERM)), signal.getsignal(signal.SIGINT).__name__)"


def test_a_child_meets_signals_as_at_a_terminal() -> None:
    said = subprocess.check_output([sys.executable, "-c", CHILD], text=True)
    assert said.split() == ["0", "0", "default_int_handler"]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_nothing_of_whoever_runs_the_tests_is_seen() -> None:
    assert [name for name in os.environ if name.startswith("XDG_")] == []
    assert "/dal-test-" in os.environ["HOME"]
    assert os.umask(0o022) == 0o022 and time.tzname[0] == "UTC" and os.environ["LC_ALL"] == "C.UTF-8"


def test_a_run_without_home_with_ignored_signals_and_strange_variables_passes(tmp_path: Path) -> None:
    begin = "trap '' INT HUP TERM QUIT PIPE CHLD; umask 077; exec \"$@\""
    strange = {
        "XDG_CONFIG_HOME": "/nowhere",
        "DAL_POOL": "/nowhere",
        "TZ": "Asia/Tokyo",
        "LC_ALL": "xx_YY",
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        ["setsid", "bash", "-c", begin, "-", sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0",
         "-k", "child_meets or nothing_of or interrupted_dump_into_a_pipe", __file__, "tests/cli/test_face.py"],
        cwd=ROOT, env=strange, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.listdir(tmp_path) == [], "a run leaves nothing behind"


def test_a_tree_deeper_than_recursion_and_longer_than_a_path_is_removed(tmp_path: Path) -> None:
    """The kind of fault: what cleans up fails on what the tests are for, and ends the whole run."""
    deep = tmp_path / "deep"
    deep.mkdir()
    here = os.open(deep, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d" * 9, dir_fd=here)
        below = os.open("d" * 9, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove(deep)
    assert not deep.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lock files")
def test_a_tree_with_locked_files_is_removed(tmp_path: Path) -> None:
    (tmp_path / "locked" / "d").mkdir(parents=True)
    (tmp_path / "locked" / "d" / "file").write_text("x")
    if subprocess.run(["chattr", "-R", "+i", tmp_path / "locked"], capture_output=True).returncode:
        pytest.skip("this file system keeps no immutable flag")
    remove(tmp_path / "locked")
    assert not (tmp_path / "locked").exists()


def test_only_what_is_no_path_and_not_installed_is_a_missing_program() -> None:
    """The kind of fault: a test fails on a small machine for what the machine has not."""
    assert is_missing_program("no-such-program-anywhere")
    assert not is_missing_program("sh") and not is_missing_program("/no/such/file") and not is_missing_program(None)


def test_test_modules_have_names_of_their_own() -> None:
    """Of two with one name in two rooms pytest would import one, and then collect nothing at all."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
