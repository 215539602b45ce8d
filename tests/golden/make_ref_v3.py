"""Write the golden ref of version 3. Run once when the version was made; its files are read forever."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import msgspec

from dalsegno.volumes.state import decode_state
from dalsegno.volumes.store import Volumes
from kit import pack_path, ref_path
from make_ref_v1 import REF, STATE
from make_ref_v2 import make_pool


def table_dumps() -> list[dict[str, object]]:
    """Return the recorded dumps of the volume that has a table, with all that a record may say."""
    return [
        {
            "dump_id": bytes([number]) * 16,
            "level": number % 10,
            "revision": bytes([100 + number]) * 32,
            "base_dump": bytes([number - 1]) * 16 if number % 10 else b"",
            "taken_at_ns": (number - 30) * 10**18 // 50,
            "path": ("/spool/é.dump", "", "-")[number % 3],
            "size_bytes": number * 10**9,
            "recorder": "amanda:daily:h:doc" if number % 4 == 0 else "",
        }
        for number in range(60)
    ]


def main(scratch: str) -> None:
    """Write a volume with more recorded dumps than its ref holds, and the pack of its table."""
    with make_pool(Path(scratch)) as pool:
        state = decode_state(msgspec.msgpack.encode({**STATE, "dumps": table_dumps()}), pool)
        made = Volumes(pool).add(state)
        assert made.dumps.table is not None
        (pack,) = pool.list_packs()
        here = Path(__file__).parent
        (here / "ref-v3.volume").write_bytes(ref_path(pool, REF).read_bytes())
        (here / "ref-v3.pack").write_bytes(pack_path(pool, pack).read_bytes())


if __name__ == "__main__":
    main(sys.argv[1])
