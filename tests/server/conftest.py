"""A server with one volume, for tests that change nothing which others look at."""

from collections.abc import Iterator

import pytest
from served_kit import Served, make_user

from server_kit import start_server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    user = make_user(tmp_path_factory.mktemp("served") / "home")
    with start_server(user) as server:
        yield Served(server, server.token("administer"))
