"""Refs written by earlier versions are read forever; what they were bound to is checked."""

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from dalsegno.actions import keep
from dalsegno.assembly.local import open_pool
from dalsegno.formats.messages import convert
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import decode_settings, encode_settings
from dalsegno.pool.signers import SIGNERS_REF, list_signers
from dalsegno.terms.errors import Damaged, Refused, TooNew
from dalsegno.volumes.clones import Clone, Clones
from dalsegno.volumes.records import DumpRecord, DumpRecords
from dalsegno.volumes.state import VolumeState, decode_state
from dalsegno.volumes.store import Volumes
from kit import REALM, DictStore, pack_path, ref_path

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from make_ref_v1 import CLONES, REF, STATE, VOLUME_ID  # noqa: E402
from make_ref_v2 import make_pool, table_clones  # noqa: E402
from make_ref_v3 import table_dumps  # noqa: E402
from make_signers import SIGNER  # noqa: E402


@pytest.fixture
def pool(tmp_path):
    with make_pool(tmp_path / "pool") as pool:
        yield pool


def put(pool: Pool, name: str, ref: str = REF) -> None:
    path = ref_path(pool, ref)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((GOLDEN / name).read_bytes())


def expected(**changes) -> VolumeState:
    clones = {name: msgspec.convert(each, Clone) for name, each in CLONES.items()}
    dumps = [msgspec.convert(each, DumpRecord) for each in STATE["dumps"]]
    state = convert({**STATE, "clones": {}, "dumps": {}}, VolumeState)
    return msgspec.structs.replace(state, clones=clones, dumps=dumps, **changes)


def test_version_1_is_read_and_becomes_version_2_at_the_first_write(pool):
    put(pool, "ref-v1.volume")
    volumes = Volumes(pool)
    assert volumes.known(VOLUME_ID) == expected()
    volumes.update(VOLUME_ID, lambda state: state)
    assert ref_path(pool, REF).read_bytes() == (GOLDEN / "ref-v1.volume").read_bytes()
    volumes.update(VOLUME_ID, lambda state: msgspec.structs.replace(state, name="later"))
    assert volumes.known(VOLUME_ID) == expected(name="later", counter=1)
    with pytest.raises(Damaged):
        REALM.open_value(ref_path(pool, REF).read_bytes(), context=REF.encode())


def test_a_ref_of_version_1_of_another_pool_is_not_believed_once_all_are_of_version_2(tmp_path, monkeypatch):
    """Kind: what is taken for the sake of older pools is taken for ever, and an attacker needs no more than that."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    new = Pool.create(tmp_path / "new", encryption="none", realm=REALM)
    put(new, "ref-v1.volume")
    with new, pytest.raises(Damaged, match="another pool"):
        new.get_ref(REF)
    key = tmp_path / "old.key"
    old = Pool.create(tmp_path / "old", encryption="keyfile", realm=REALM, key_path=key)
    toml = tmp_path / "old" / "pool.toml"
    before = as_version_1(toml.read_bytes())
    old.close()
    toml.write_bytes(before)
    with open_pool(tmp_path / "old", key_path=key) as house:
        put(house.pool, "ref-v1.volume")
        assert house.volumes.known(VOLUME_ID) == expected()
        house.pool.swap_ref(REF, house.pool.get_ref(REF), None)
        keep.gc(house, grace_seconds=0, dry_run=True)
        assert toml.read_bytes() == before
        state = house.volumes.create("a", kind="native", now_ns=1)
        # One of version 1 that is there is sealed anew.
        name = "names/" + "0" * 32
        ref_path(house.pool, name).parent.mkdir(exist_ok=True)
        ref_path(house.pool, name).write_bytes(REALM.seal_value(VOLUME_ID, context=name.encode()))
        keep.gc(house, grace_seconds=0)
        assert b"refs = 2\n" in toml.read_bytes() and house.pool.settings.refs == 2
    with open_pool(tmp_path / "old", key_path=key) as house:
        assert house.volumes.known(state.id) == state
        assert house.pool.get_ref(name) == VOLUME_ID
        put(house.pool, "ref-v1.volume")
        with pytest.raises(Damaged, match="another pool"):
            house.pool.get_ref(REF)
    toml.write_bytes(before)  # and nobody takes that back
    with pytest.raises(Refused, match="settings are older"):
        open_pool(tmp_path / "old", key_path=key)


def as_version_1(data: bytes) -> bytes:
    """Return settings as they were before they said which refs are believed."""
    settings = decode_settings(data, Path("pool.toml"))
    assert settings.refs == 2
    return encode_settings(replace(settings, refs=1))


def test_version_2_is_read(pool):
    put(pool, "ref-v2.volume")
    assert Volumes(pool).known(VOLUME_ID) == expected(counter=3)


def test_a_list_of_signers_is_read(pool):
    put(pool, "ref-v2.signers", SIGNERS_REF)
    assert list_signers(pool) == [SIGNER]


def test_a_list_of_signers_of_a_later_version_is_not_read(pool):
    assert pool.swap_ref(SIGNERS_REF, None, msgspec.msgpack.encode({"version": 2, "people": []}))
    with pytest.raises(TooNew):
        list_signers(pool)


@pytest.mark.parametrize("name", ["ref-v2-table", "ref-v2-small-nodes"])
def test_a_table_of_clones_of_version_2_is_read_and_made_alike(pool, name):
    put(pool, f"{name}.volume")
    with PackReader.open(GOLDEN / f"{name}.pack", REALM) as reader:
        pack_id = reader.pack_id
    pack_path(pool, pack_id).parent.mkdir(parents=True)
    pack_path(pool, pack_id).write_bytes((GOLDEN / f"{name}.pack").read_bytes())
    pool.refresh()
    wanted = {name: msgspec.convert(each, Clone) for name, each in table_clones().items()}
    state = Volumes(pool).known(VOLUME_ID)
    assert dict(state.clones) == wanted and list(state.clones) == list(wanted)
    assert state.clones["clone 007"] == wanted["clone 007"] and len(state.clones.newest) < len(wanted)
    # A writer cuts as the page says, or equal clones would have other ids; the first writers cut larger nodes.
    store = DictStore()
    alike = Clones(wanted, source=store).settle(store, store).table == state.clones.table
    assert alike == (name == "ref-v2-small-nodes")


def test_a_table_of_dumps_is_read_and_made_alike(pool):
    put(pool, "ref-v3.volume")
    with PackReader.open(GOLDEN / "ref-v3.pack", REALM) as reader:
        pack_id = reader.pack_id
    pack_path(pool, pack_id).parent.mkdir(parents=True)
    pack_path(pool, pack_id).write_bytes((GOLDEN / "ref-v3.pack").read_bytes())
    pool.refresh()
    wanted = [msgspec.convert(each, DumpRecord) for each in table_dumps()]
    state = Volumes(pool).known(VOLUME_ID)
    assert list(state.dumps) == wanted and wanted[7] in state.dumps and len(state.dumps.newest) < len(wanted)
    store = DictStore()
    assert DumpRecords(wanted, source=store).settle(store, store).table == state.dumps.table


def test_many_dumps_of_version_2_move_to_a_table_at_the_first_write(pool):
    """Kind: what was written before stays as it was for ever, and its cost with it."""
    wanted = [msgspec.convert(each, DumpRecord) for each in table_dumps()]
    before = msgspec.msgpack.encode({**STATE, "version": 2, "counter": 3, "dumps": table_dumps()})
    assert pool.swap_ref(REF, None, before)
    volumes = Volumes(pool)
    assert list(volumes.known(VOLUME_ID).dumps) == wanted
    volumes.update(VOLUME_ID, lambda state: msgspec.structs.replace(state, name="later"))
    after = pool.get_ref(REF)
    assert len(after) < len(before) / 4 and msgspec.msgpack.decode(after)["version"] == 3
    assert list(volumes.known(VOLUME_ID).dumps) == wanted


def test_a_ref_of_another_pool_of_the_realm_or_of_another_name_is_refused(pool, tmp_path):
    """Kind: a sealed value is taken wherever it is put."""
    put(pool, "ref-v2.volume", REF[:-1] + "0")
    with pytest.raises(Damaged, match="another pool"):
        pool.get_ref(REF[:-1] + "0")
    with Pool.create(tmp_path / "other", encryption="none", realm=REALM) as other:
        put(other, "ref-v2.volume")
        with pytest.raises(Damaged, match="another pool"):
            other.get_ref(REF)
        # Of today, as its own pool opens it.
        name = REF[:-1] + "1"
        assert pool.swap_ref(name, None, b"value") and pool.get_ref(name) == b"value"
        for elsewhere, put_at in ((pool, REF[:-1] + "2"), (other, name)):
            ref_path(elsewhere, put_at).write_bytes(ref_path(pool, name).read_bytes())
            with pytest.raises(Damaged, match="another pool"):
                elsewhere.get_ref(put_at)


def test_a_state_of_a_later_version_is_told_from_a_damaged_one():
    with pytest.raises(TooNew, match="version 4"):
        decode_state(msgspec.msgpack.encode({"version": 4}))
    for bad in ({"version": 2}, {"version": "x"}, []):
        with pytest.raises(Damaged):
            decode_state(msgspec.msgpack.encode(bad))


def test_each_write_counts_and_what_changes_nothing_does_not(pool):
    volumes = Volumes(pool)
    state = volumes.create("a", kind="native", now_ns=1)
    for number in range(1, 4):
        assert volumes.known(state.id).counter == number
        volumes.update(state.id, lambda current: current)
        volumes.update(state.id, lambda current, number=number: msgspec.structs.replace(current, created_ns=-number))
