"""Dumps that are sent to a server: what turns out damaged is not kept for whoever sends it again."""

from pathlib import Path

import pytest

from dalsegno.actions.serve import incoming_size, load_dumps, receive_dump
from dalsegno.assembly.local import create_pool
from dalsegno.replicas.keeper import take_all
from dalsegno.terms.errors import Damaged


def test_a_dump_that_arrived_damaged_is_forgotten_so_that_it_can_be_sent_again(tmp_path: Path) -> None:
    """An upload that a power cut left with holes is gone on with for ever."""
    dump_id = bytes(16)
    with create_pool(tmp_path / "pool", encryption="none") as house:
        assert take_all(receive_dump(house, "me", dump_id, 0), [bytes(5000)]) == 5000
        with pytest.raises(Damaged):
            load_dumps(house, "me", [dump_id], "home", may_administer=True, sees_all=True)
        assert incoming_size(house, "me", dump_id) == 0
