"""Fixtures of realms: databases to keep a directory in."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from postgres_kit import Postgres, running_postgres

sys.path.insert(0, str(Path(__file__).parents[1] / "replicas"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The url of an empty database, on each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/directory.db"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = f"d{abs(hash(tmp_path)):x}"
    server.run("createdb", "-h", server.directory, name)
    yield server.url.replace("/postgres?", f"/{name}?")
