"""Write the golden packs of format version 1. Its files are read forever; run by the last program that wrote that version."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import zstandard

from dalsegno.dumps.plan import plan_dump
from dalsegno.formats import objects, pack
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.trees.closure import new_objects
from dalsegno.volumes.state import VolumeState
from kit import REALM, DictStore, store_revision

MODEL = {b"inline": b"small", b"chunk": bytes(range(256)) * 20, b"dir": {b"\xff odd name": b"x"}}


def main() -> None:
    """Write pack-v1-sealed.dump and pack-v1-clear.dump, the second with a delta record."""
    for sealed in (True, False):
        store = DictStore()
        state = VolumeState(id=b"golden volume id", name="golden", kind="native", source=b"", created_ns=0)
        target = store_revision(store, MODEL)
        plan = plan_dump(store, state, targets=[("monday", target)], level=0, now_ns=1_700_000_000_000_000_000)
        name = f"pack-v1-{'sealed' if sealed else 'clear'}.dump"
        with open(Path(__file__).parent / name, "wb") as stream:
            header = new_header(REALM, kind=pack.PACK_DUMP, sealed=sealed, note=pack.encode_struct(plan.note))
            writer = PackWriter(stream.write, realm=REALM, header=header)
            seen: set[bytes] = set()

            def visit(kind, identity, seen=seen, writer=writer, store=store):
                if identity in seen:
                    return False
                seen.add(identity)
                writer.put(kind, identity, store.get(identity))
                return True

            new_objects(store, target, None, visit=visit)
            if not sealed:
                base = MODEL[b"chunk"]
                new = base[:3000] + b"changed" + base[3000:]
                identity = REALM.identify(objects.KIND_CHUNK, new)
                dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
                body = zstandard.ZstdCompressor(level=6, dict_data=dictionary).compress(new)
                base_id = REALM.identify(objects.KIND_CHUNK, base)
                payload = pack.DELTA.pack(base_id, len(new)) + body
                writer.put(objects.KIND_CHUNK, identity, payload, pack.ENCODING_DELTA)
            writer.finish()


if __name__ == "__main__":
    main()
