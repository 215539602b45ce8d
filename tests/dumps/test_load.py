"""A load that ends anywhere leaves nothing in the pool that seems whole and is not."""

import random
from pathlib import Path
from typing import Any

import pytest

from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.load import transfer
from dalsegno.dumps.plan import plan_dump
from dalsegno.dumps.write import write_dump
from dalsegno.formats import objects
from dalsegno.pool.adopt import NOTHING, Standing, as_ids
from dalsegno.pool.pool import Pool, PoolWriter
from dalsegno.terms.errors import Full
from dalsegno.volumes.state import NATIVE, VolumeState
from kit import REALM, PoolStore, store_revision

SEED = 20261121


def test_a_load_that_is_cut_off_stores_nothing_before_what_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(SEED)
    model: dict[bytes, Any] = {
        b"%02d" % n: {b"f%d" % m: chance.randbytes(300) for m in range(3)} | {b"d": {b"e": chance.randbytes(200)}}
        for n in range(20)
    }
    store = PoolStore(tmp_path / "source")
    revision = store_revision(store, model)
    store.writer.flush()
    state = VolumeState(id=bytes(16), name="home", kind=NATIVE, source=b"", created_ns=1)
    plan = plan_dump(store.pool, state, targets=[("", revision)], level=0, now_ns=1)
    with open(tmp_path / "full.dump", "wb") as file:
        write_dump(store.pool, plan, file.write, realm=REALM, sealed=False)
    monkeypatch.setattr("dalsegno.pool.pool.PACK_OBJECTS_MAX", 7)
    flush = PoolWriter.flush
    for count in range(1, 100):
        left = count

        def limited(writer: PoolWriter) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Full("no space left")
            flush(writer)

        monkeypatch.setattr(PoolWriter, "flush", limited)
        done = False
        with (
            Pool.create(tmp_path / f"pool{count}", encryption="none", realm=REALM) as pool,
            DumpChain.open([tmp_path / "full.dump"], REALM) as chain,
        ):
            try:
                transfer(chain, pool, workers=None)
                done = True
            except Full:
                pass
            standing = Standing(pool)
            for pack_id in pool.list_packs():
                for row in pool._read_columns(pack_id)[0]:
                    below = b"".join(each for _, each in objects.references(*pool.get_kind(row.tobytes())))
                    assert (standing.kinds(as_ids(below)) != NOTHING).all()
            assert standing.is_whole(revision) == done or not done
        if done:
            break
    assert count > 10
