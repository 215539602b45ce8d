"""Write the golden ref of version 2. Run once when the version was made; its file is read forever."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import msgspec

from dalsegno.pool.keys import PoolSettings, encode_settings
from dalsegno.pool.pool import Pool
from dalsegno.volumes.state import VolumeState, encode_state
from kit import REALM
from make_ref_v1 import REF, STATE

POOL_ID = b"the golden pool."


def make_pool(path: Path) -> Pool:
    """Return an empty pool with the golden realm and id."""
    Pool.create(path, encryption="none", realm=REALM).close()
    settings = PoolSettings(pool_id=POOL_ID, realm_id=REALM.realm_id, encryption="none", plain_secret=REALM.secret)
    (path / "pool.toml").chmod(0o600)
    (path / "pool.toml").write_bytes(encode_settings(settings))
    return Pool.open(path)


def main(scratch: str) -> None:
    """Write ref-v2.volume, the state of version 1 after a write, as it lay under REF."""
    with make_pool(Path(scratch)) as pool:
        state = msgspec.structs.replace(msgspec.convert(STATE, VolumeState), counter=3)
        assert pool.swap_ref(REF, None, encode_state(state))
        (Path(__file__).parent / "ref-v2.volume").write_bytes(pool.ref_path(REF).read_bytes())


if __name__ == "__main__":
    main(sys.argv[1])
