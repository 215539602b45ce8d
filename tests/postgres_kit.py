"""A real PostgreSQL server for tests: of Debian's package, on a socket of its own, run as user postgres."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]


class Postgres:
    """A server that can be stopped and started again."""

    def __init__(self) -> None:
        # Not below pytest's directory: user postgres may not enter that.
        made = subprocess.check_output(["mktemp", "-d", "/tmp/dalsegno-postgres-XXXXXX"], text=True)
        self.directory = Path(made.strip())
        shutil.chown(self.directory, "postgres")
        self.url = f"postgresql://postgres@/postgres?host={self.directory}"

    def run(self, *words: object) -> None:
        command = ["runuser", "-u", "postgres", "--", *map(str, words)]
        subprocess.run(command, check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def make(self) -> None:
        self.run(PROGRAMS[0] / "initdb", "-D", self.directory / "data", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def start(self) -> None:
        options = f"-c listen_addresses='' -k {self.directory} -c fsync=off"
        data = self.directory / "data"
        self.run(PROGRAMS[0] / "pg_ctl", "-D", data, "-w", "-l", self.directory / "log", "-o", options, "start")

    def stop(self) -> None:
        self.run(PROGRAMS[0] / "pg_ctl", "-D", self.directory / "data", "-m", "immediate", "-w", "stop")


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Give a server; skip the test, and say so, where there is none."""
    if not PROGRAMS or os.getuid() != 0 or shutil.which("runuser") is None:
        pytest.skip("!!! PostgreSQL is not here (apt-get install postgresql, as root): realms on it ARE NOT TESTED")
    server = Postgres()
    try:
        server.make()
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            server.stop()
        shutil.rmtree(server.directory, ignore_errors=True)
