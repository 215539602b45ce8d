"""A volume with more recorded dumps than its ref holds, seen through a server."""

from collections.abc import Iterator

import msgspec
import pytest
from served_kit import count_blocks

from cli_kit import User
from dalsegno.assembly.local import open_pool
from dalsegno.formats import messages
from dalsegno.replicas import calls
from dalsegno.terms.errors import BadInput, Refused
from dalsegno.terms.events import silent
from dalsegno.volumes.records import RECENT_MAX, DumpRecord, DumpRecords
from dalsegno.volumes.state import VolumeState
from server_kit import Server, end_all, start_server

COUNT = 1500


def record(state: VolumeState, number: int, *, base: int = 0, path: str = "/spool/x.dump") -> DumpRecord:
    return DumpRecord(
        dump_id=number.to_bytes(16, "big"),
        level=1 if base else 0,
        revision=state.head,
        base_dump=base.to_bytes(16, "big") if base else b"",
        taken_at_ns=number,
        path=path,
        size_bytes=1,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    user = User(tmp_path_factory.mktemp("many"))
    source = user.home / "doc"
    source.mkdir()
    (source / "file").write_text("x")
    user.run("init", "--encryption", "none")
    user.run("backup", str(source))
    pool = next(user.home.rglob("pool.toml")).parent

    def with_many(state: VolumeState) -> VolumeState:
        records = [record(state, number, path=f"{pool}/{number}.dump") for number in range(1, COUNT + 1)]
        return msgspec.structs.replace(state, dumps=DumpRecords(records))

    with open_pool(pool, report=silent) as house:
        house.volumes.update(house.volumes.get("doc").id, with_many)
    made = start_server(user)
    yield made
    end_all([made])


def test_older_dumps_are_asked_for_when_somebody_wants_them(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    site = server.site(server.token("read", volumes=("doc",)))
    asked = count_blocks(site, monkeypatch)
    state = site.state("doc")
    assert len(state.dumps) == COUNT and len(messages.encode(state)) < 8192
    assert 0 < len(state.dumps.newest) <= RECENT_MAX and state.dumps[-1].taken_at_ns == COUNT and asked == []
    assert record(state, 700) in state.dumps and len(asked) <= 4
    assert [each.taken_at_ns for each in state.dumps] == list(range(1, COUNT + 1)) and len(asked) < COUNT / 50
    # Nobody is shown where dumps lie that are in the server's pool, neither by the ref nor by the table.
    assert {each.path for each in state.dumps} == {""}


def test_who_only_appends_sees_no_dumps(server: Server) -> None:
    assert len(server.site(server.token("append")).state("doc").dumps) == 0


def test_a_dump_of_the_table_is_a_base_and_is_forgotten(server: Server) -> None:
    site = server.site(server.token("write"))
    state = site.state("doc")
    made = record(state, COUNT + 1, base=3)
    assert len(site.record("doc", made).dumps) == COUNT + 1
    assert len(site.record("doc", made).dumps) == COUNT + 1
    left = site.forget_dump("doc", made.dump_id)
    assert len(left.dumps) == COUNT and made not in left.dumps
    left = site.forget_dump("doc", record(state, 3).dump_id)
    assert len(left.dumps) == COUNT - 1
    with pytest.raises(Refused, match="is not recorded here"):
        site.record("doc", record(state, COUNT + 2, base=3))
    site.record("doc", record(state, 3))


def test_a_new_replica_takes_no_table_that_it_has_not(server: Server) -> None:
    """Kind: a value that names objects is believed where these are not."""
    site = server.site(server.token("administer"))
    state = site.state("doc")
    empty = VolumeState(id=b"another volume!!", name="other", kind="native", source=b"", created_ns=1)
    made = site.create(msgspec.structs.replace(empty, dumps=state.dumps))
    assert made.dumps == state.dumps.sent() and len(made.dumps) == 1000
    lying = DumpRecords([], state.dumps.table)
    bare = msgspec.structs.replace(empty, id=b"one more volume!", name="more", dumps=lying)
    with pytest.raises((BadInput, Refused), match="without a table"):
        site._state(calls.CREATE, "more", bare)  # what our own client never sends
