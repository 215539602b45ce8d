"""What was sent and is not used yet takes no more of the disk than one token may have there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_kit import make_user

from dalsegno.pool.pool import Pool
from dalsegno.replicas import keeper
from dalsegno.replicas.keeper import Keeper
from dalsegno.terms.errors import NotFound, Refused
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.volumes.store import Volumes
from dalsegno.world.clock import now_ns
from dalsegno.world.workers import Workers
from server_kit import Server, start_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    user = make_user(tmp_path_factory.mktemp("waiting") / "home")
    with start_server(user, "--dumps-max", "1MiB") as server:
        yield server


def test_dumps_that_nobody_loads_fill_no_disk(server: Server) -> None:
    """Kind of fault: a right to write one volume that takes all of the server's room."""
    site = server.site(server.token("write", volumes=("home",)))
    first, second = os.urandom(16), os.urandom(16)
    site.send_dump(first, 0, [bytes(MIB - 200 * KIB)])
    with pytest.raises(Refused, match="not loaded: at most 1"):
        site.send_dump(second, 0, [bytes(MIB)])
    assert site.dump_size(second) <= 200 * KIB
    with pytest.raises(Refused, match="at most"):  # nor in small steps, nor by many names
        for _ in range(100):
            site.send_dump(os.urandom(16), 0, [b"x"])
    site.drop_dump(first)
    site.send_dump(second, 0, [bytes(300 * KIB)])
    # Who administers everything has no bound, and another token has its own.
    server.site(server.token("administer")).send_dump(os.urandom(16), 0, [bytes(2 * MIB)])
    server.site(server.token("write")).send_dump(os.urandom(16), 0, [bytes(500 * KIB)])


def test_a_dump_that_could_be_loaded_into_nothing_is_not_taken(server: Server) -> None:
    site = server.site(server.token("write", volumes=("elsewhere*",)))
    with pytest.raises(NotFound, match="no volume here"):
        site.send_dump(os.urandom(16), 0, [b"x"])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Keeper]:
    with Workers(2) as crew, Pool.create(tmp_path / "pool", encryption="none") as pool:
        volumes = Volumes(pool)
        for name in ("a", "b"):
            volumes.create(name, kind="native", now_ns=1)
        yield Keeper("s1", pool, volumes, workers=crew, clock=now_ns, scratch=tmp_path / "pool" / "uploads")


def test_uploads_that_nobody_adopts_fill_no_disk(site: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "WAITING_BYTES_MAX", MIB)
    one, two = (site.asked_by(name, sees_all=True) for name in ("one", "two"))
    upload = os.urandom(16)
    one.upload("a", upload, 0, [bytes(700 * KIB)])
    with pytest.raises(Refused, match="wait to be adopted"):
        one.upload("b", os.urandom(16), 0, [bytes(300 * KIB), bytes(300 * KIB)])
    with pytest.raises(Refused, match="wait to be adopted"):
        for _ in range(100):
            one.upload("b", os.urandom(16), 0, [])
    two.upload("a", os.urandom(16), 0, [bytes(700 * KIB)])
    assert two.upload_size("a", upload) == 0, "another's upload is not his"
    # What was adopted, or went, makes room at once.
    for path in (site.pool.backend.directory / "uploads").rglob("one-*"):
        path.unlink()
    one.upload("a", os.urandom(16), 0, [bytes(800 * KIB)])
    site.upload("a", os.urandom(16), 0, [bytes(3 * MIB)])  # who works in the pool itself
