"""A volume with more clones than its ref holds, seen through a server: as it is, in few calls, by whom it may."""

import time
from collections.abc import Iterator

import msgspec
import pytest
from served_kit import count_blocks

from cli_kit import User
from dalsegno.assembly.local import open_pool
from dalsegno.formats import messages
from dalsegno.terms.errors import AlreadyThere
from dalsegno.terms.events import silent
from dalsegno.volumes.clones import NEWEST_MAX, Clone, Clones
from dalsegno.volumes.state import VolumeState
from server_kit import Server, end_all, start_server

COUNT = 2000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    user = User(tmp_path_factory.mktemp("many"))
    source = user.home / "doc"
    source.mkdir()
    (source / "file").write_text("x")
    user.run("init", "--encryption", "none")
    user.run("backup", str(source))

    def with_many(state: VolumeState) -> VolumeState:
        clones = {f"c{number:04}": Clone(revision=state.head, created_ns=number) for number in range(COUNT)}
        return msgspec.structs.replace(state, clones=Clones({**clones, **dict(state.clones)}))

    with open_pool(next(user.home.rglob("pool.toml")).parent, report=silent) as house:
        house.volumes.update(house.volumes.get("doc").id, with_many)
    made = start_server(user)
    yield made
    end_all([made])


def test_older_clones_are_asked_for_when_somebody_wants_them(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    site = server.site(server.token("read", volumes=("doc",)))
    asked = count_blocks(site, monkeypatch)
    state = site.state("doc")
    assert len(state.clones) == COUNT + 1 and len(messages.encode(state)) < 8192
    assert [name for name, _ in zip(state.clones.newest, range(20), strict=False)] and asked == []
    assert state.clones["c0700"].created_ns == 700 and "c9999" not in state.clones
    assert len(asked) <= 4
    names = [name for name, _ in state.clones.by_time()]
    assert names[:COUNT] == [f"c{number:04}" for number in range(COUNT)] and len(asked) < COUNT / 50


def test_who_only_appends_sees_the_newest_and_is_told_of_the_others(server: Server) -> None:
    site = server.site(server.token("append"))
    state = site.state("doc")
    assert 0 < len(state.clones) <= NEWEST_MAX and {clone.revision for clone in state.clones.values()} == {bytes(32)}
    with pytest.raises(AlreadyThere):
        site.clone("doc", "c0001", Clone(revision=state.head, created_ns=5))
    made = site.clone("doc", "mine", Clone(revision=state.head, created_ns=time.time_ns()))
    assert "mine" in made.clones and len(made.clones) <= NEWEST_MAX
