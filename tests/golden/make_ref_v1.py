"""Write the golden ref of version 1. Run once when the version was current; its file is read forever."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec

from kit import REALM

VOLUME_ID = b"golden volume id"
REF = f"volumes/{VOLUME_ID.hex()}"
CLONES = {
    "2026-11-21T020000Z": {
        "revision": b"\1" * 32, "created_ns": 5, "held": False, "automatic": True, "entry_count": 7,
    },
    "before upgrade": {"revision": b"\2" * 32, "created_ns": 6, "held": True, "automatic": None, "entry_count": None},
}  # fmt: skip
STATE = {
    "id": VOLUME_ID,
    "name": "golden é",
    "kind": "tracked",
    "source": b"/home/\xff",
    "created_ns": 1,
    "head": b"\1" * 32,
    "clones": CLONES,
    "dumps": [
        {
            "dump_id": b"d" * 16, "level": 1, "revision": b"\2" * 32, "base_dump": b"c" * 16, "taken_at_ns": 8,
            "path": "/x.dump", "size_bytes": 9, "recorder": "",
        }
    ],
    "settings": {"quota_bytes": 10, "exclude": ["*.o"], "exclude_caches": True},
    "lease": {"owner": "me", "until_ns": 11},
    "role": "writer",
    "replicas": {
        "version": 2, "writers": ["s1", "s2"], "rule": "any", "readers": [], "standbys": ["s3"],
        "clones": {"s1": "daily-*@last7"}, "moved_to": "",
    },
    "common": b"\3" * 32,
    "uncloned": {"old": [{"revision": b"\4" * 32, "created_ns": -9, "held": False, "automatic": None,
                          "entry_count": None}]},
    "released": {"number": 10, "revision": b"\5" * 32, "clone": "c", "released_ns": 12},
}  # fmt: skip
"""What the program wrote then, field by field."""


def main() -> None:
    """Write ref-v1.volume, sealed as it lay under REF."""
    sealed = REALM.seal_value(msgspec.msgpack.encode(STATE), context=REF.encode())
    (Path(__file__).parent / "ref-v1.volume").write_bytes(sealed)


if __name__ == "__main__":
    main()
