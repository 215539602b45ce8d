"""Fixtures of room backup: databases to test with, small disks, dumps of any size."""

import contextlib
import os
import shutil
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archive_kit import DiskMaker

from dalsegno.terms.errors import DalError
from dalsegno.world import files

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server of Debian's package on a socket of its own, run as user postgres."""
    if not POSTGRES or os.getuid() != 0 or shutil.which("runuser") is None:
        pytest.skip("!!! PostgreSQL is not here (apt-get install postgresql, as root): the catalog on it IS NOT TESTED")
    # Not below pytest's directory: user postgres may not enter that.
    directory = Path(subprocess.check_output(["mktemp", "-d", "/tmp/dalsegno-postgres-XXXXXX"], text=True).strip())
    shutil.chown(directory, "postgres")
    data, programs = directory / "data", POSTGRES[0]

    def run(*words: object) -> None:
        command = ["runuser", "-u", "postgres", "--", *map(str, words)]
        subprocess.run(command, check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    try:
        run(programs / "initdb", "-D", data, "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -k {directory} -c fsync=off"
        run(programs / "pg_ctl", "-D", data, "-w", "-l", directory / "log", "-o", options, "start")
        yield f"postgresql://postgres@/postgres?host={directory}"
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            run(programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def in_children() -> Callable[[Callable[[], object], str], int]:
    """Run a function in a child with DAL_FAULT set; return 0, the exit code of an error, or minus a signal."""

    def run(function: Callable[[], object], fault: str) -> int:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                os.environ["DAL_FAULT"] = fault
                files._steps_taken = 0
                function()
                code = 0
            except DalError as error:
                code = error.exit_code
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status != 99
        return status

    return run


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[DiskMaker]:
    maker = DiskMaker(tmp_path)
    yield maker
    maker.close()
