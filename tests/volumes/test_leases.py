"""Leases: one holder, an end by itself, and no commit in between."""

from pathlib import Path

import pytest

from dalsegno.actions.backup import import_directory
from dalsegno.assembly.local import create_pool
from dalsegno.terms.errors import Conflict
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.leases import freeze, held, thaw
from dalsegno.volumes.state import VolumeState, decode_state, encode_state
from dalsegno.world.clock import now_ns

STATE = VolumeState(id=bytes(16), name="v", kind="native", source=b"", created_ns=1)
NOW = 10**18


def test_lease_has_one_holder_and_ends_by_itself() -> None:
    frozen = freeze(STATE, owner="one", now_ns=NOW, seconds=30)
    assert held(frozen, now_ns=NOW + 29 * SECOND_NS) is not None
    assert held(frozen, now_ns=NOW + 30 * SECOND_NS) is None
    with pytest.raises(Conflict, match="frozen by one until"):
        freeze(frozen, owner="two", now_ns=NOW + SECOND_NS, seconds=30)
    assert freeze(frozen, owner="one", now_ns=NOW + SECOND_NS, seconds=30).lease.until_ns == NOW + 31 * SECOND_NS
    assert freeze(frozen, owner="two", now_ns=NOW + 31 * SECOND_NS, seconds=30).lease.owner == "two"
    assert thaw(frozen, owner="two").lease is not None and thaw(frozen, owner="one").lease is None


def test_lease_of_a_wrong_clock_freezes_nothing() -> None:
    frozen = freeze(STATE, owner="one", now_ns=NOW + 10**9 * SECOND_NS, seconds=30)
    assert held(frozen, now_ns=NOW) is None


def test_state_with_and_without_lease_is_read_again() -> None:
    for state in (STATE, freeze(STATE, owner="one", now_ns=NOW, seconds=30)):
        assert decode_state(encode_state(state)) == state


def test_frozen_volume_takes_no_commit(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with create_pool(tmp_path / "pool", encryption="none") as house:
        import_directory(house, "v", tmp_path / "d")
        state = house.volumes.get("v")
        house.volumes.update(state.id, lambda s: freeze(s, owner="backup", now_ns=now_ns(), seconds=30))
        (tmp_path / "d" / "new").write_text("x")
        with pytest.raises(Conflict, match="frozen by backup"):
            import_directory(house, "v", tmp_path / "d")
        house.volumes.add_clone("v", "c", now_ns=now_ns())
        house.volumes.update(state.id, lambda s: thaw(s, owner="backup"))
        assert import_directory(house, "v", tmp_path / "d")[0].changed
