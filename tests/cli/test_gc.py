"""Collecting from the command line never trusts a stale or broken view."""

import pytest

from dalsegno.actions.keep import gc
from dalsegno.assembly.local import create_pool, open_pool
from dalsegno.formats import objects
from dalsegno.terms.errors import Damaged
from kit import store_revision


def test_a_revision_that_is_missing_stops_the_collection(tmp_path):
    with create_pool(tmp_path / "pool", encryption="none") as house:
        house.volumes.create("home", kind="native", now_ns=1)
        house.volumes.add_clone("home", "lost", now_ns=1, revision=bytes(31) + b"x")
        with pytest.raises(Damaged, match="nothing was collected"):
            gc(house, grace_seconds=0)


def test_what_another_process_committed_is_kept(tmp_path):
    with create_pool(tmp_path / "pool", encryption="none") as stale, open_pool(tmp_path / "pool") as other:
        other.volumes.create("home", kind="native", now_ns=1)
        with other.pool.writer() as writer:
            identity = store_revision(writer, {b"a": b"x" * 500})
            writer.flush()
            writer.commit_guard()
        other.volumes.add_clone("home", "c", now_ns=1, revision=identity)
        gc(stale, grace_seconds=0)
        other.pool.refresh()
        assert objects.decode_revision(other.pool.get(identity))
        with open_pool(tmp_path / "pool") as fresh:
            assert fresh.pool.get(identity)
