"""Looking on while a server fetches a volume asks no more of the others than it must."""

from pathlib import Path

import pytest
from realm_world import RealmWorld

from dalsegno.actions import follow as standbys
from dalsegno.actions.follow import StandbyStatus, make_standby, watch_standby, writers_to_follow
from dalsegno.replicas.follow import follow
from dalsegno.replicas.servers import Servers
from dalsegno.volumes.resolve import merge_heads
from kit import REALM

ROUNDS = 12


def test_what_a_standby_lacks_is_listed_when_something_changed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standbys, "MONITOR_SECONDS", 0.001)
    world = RealmWorld(tmp_path, ["s1", "s2"])
    servers = Servers(world.desk, REALM, connect=lambda server: world.sites[server.name], owner="me")
    lists: list[int] = []
    rounds: list[int] = []
    told: list[StandbyStatus] = []

    def ended() -> bool:
        rounds.append(1)
        if len(rounds) == ROUNDS // 2:
            context = servers.context(merge=merge_heads)
            origins = writers_to_follow(servers, "home")
            follow("home", servers.site("s2"), origins, context, ended=lambda: bool(files_there()), seconds=0.0)
        return len(rounds) > ROUNDS

    def files_there() -> bytes:
        return world.keepers["s2"].state("home").head

    try:
        world.create("s1")
        world.write("c1", a="first")
        make_standby(servers, "home", to="s2")
        world.sites["s1"].fail["missing"] = lambda: lists.append(len(rounds))
        watch_standby(servers, "home", "s2", ended=ended, told=told.append)
    finally:
        servers.close()
        world.close()
    assert [status.lag.revisions for status in told if status.lag is not None] == [1, 0]
    assert len([number for number in lists if number < ROUNDS // 2]) == 1
    assert len(rounds) > ROUNDS
