"""Write the golden refs of version 2. Run once when the version was made; their files are read forever."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import msgspec

from dalsegno.pool.pool import Pool
from dalsegno.pool.settings import PoolSettings, encode_settings
from dalsegno.volumes.state import decode_state, encode_state
from dalsegno.volumes.store import Volumes
from kit import REALM, pack_path, ref_path
from make_ref_v1 import REF, STATE

POOL_ID = b"the golden pool."


def make_pool(path: Path) -> Pool:
    """Return an empty pool with the golden realm and id."""
    Pool.create(path, encryption="none", realm=REALM).close()
    settings = PoolSettings(pool_id=POOL_ID, realm_id=REALM.realm_id, plain_secret=REALM.secret)
    (path / "pool.toml").chmod(0o600)
    (path / "pool.toml").write_bytes(encode_settings(settings))
    return Pool.open(path)


def table_clones() -> dict[str, dict[str, object]]:
    """Return the clones of the volume that has a table, with all that a clone may say."""
    return {
        f"clone {number:03}": {
            "revision": bytes([number]) * 32,
            "created_ns": (number - 50) * 10**18 // 50,
            "held": number % 3 == 0,
            "automatic": (None, False, True)[number % 3],
            "entry_count": None if number % 4 == 0 else number * 1000,
            "total_bytes": None if number % 5 == 0 else number * 10**9,
        }
        for number in range(100)
    }


def write_table(scratch: str, name: str) -> None:
    """Write a volume with more clones than its ref holds, and the pack of its table.

    `ref-v2-table` has the large nodes of the first writers, `ref-v2-small-nodes` those of today's.
    """
    with make_pool(Path(scratch)) as pool:
        state = decode_state(msgspec.msgpack.encode({**STATE, "clones": table_clones()}), pool)
        made = Volumes(pool).add(state)
        assert made.clones.table is not None
        (pack,) = pool.list_packs()
        here = Path(__file__).parent
        (here / f"{name}.volume").write_bytes(ref_path(pool, REF).read_bytes())
        (here / f"{name}.pack").write_bytes(pack_path(pool, pack).read_bytes())


def main(scratch: str) -> None:
    """Write ref-v2.volume, the state of version 1 after a write, as it lay under REF."""
    with make_pool(Path(scratch)) as pool:
        state = decode_state(msgspec.msgpack.encode({**STATE, "counter": 3}))
        assert pool.swap_ref(REF, None, encode_state(state))
        (Path(__file__).parent / "ref-v2.volume").write_bytes(ref_path(pool, REF).read_bytes())


if __name__ == "__main__":
    main(sys.argv[1] + "/plain")
    write_table(sys.argv[1] + "/table", "ref-v2-small-nodes")
