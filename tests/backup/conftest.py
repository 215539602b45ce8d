"""Fixtures of room backup: databases to test with, small disks, dumps of any size."""

import contextlib
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_kit import Disk, mount_disk

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
def disks(tmp_path: Path) -> Iterator["DiskMaker"]:
    maker = DiskMaker(tmp_path)
    yield maker
    maker.close()


class DiskMaker:
    """Makes small real file systems, so that full is full; plain directories when it may not, and says so."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.disks: list[Disk] = []

    def real(self, name: str, *, mib: float) -> Disk:
        disk = mount_disk(self.directory / name, mib=mib)
        if disk is None:
            warnings.warn("!!! may not mount here: full disks ARE NOT TESTED", stacklevel=2)
            pytest.skip("!!! may not mount here: full disks ARE NOT TESTED")
        self.disks.append(disk)
        return disk

    def close(self) -> None:
        for disk in self.disks:
            disk.unmount()
