"""Write the golden packs of format version 2. Run once when the version was made: it writes over none."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import zstandard

from dalsegno.chunks.recipients import age_identity, age_recipient
from dalsegno.dumps.plan import plan_dump
from dalsegno.formats import objects, pack, pack_header
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.trees.closure import new_objects
from dalsegno.volumes.state import VolumeState
from kit import REALM, DictStore, store_revision

MODEL = {b"inline": b"small", b"chunk": bytes(range(256)) * 20, b"dir": {b"\xff odd name": b"x"}}
"""What the golden packs of all versions hold. Those of version 1 were made by the last program that wrote it."""
READER = age_identity(b"the private key of golden reader")


def main() -> None:
    """Write pack-v2-{sealed,clear,reader}.dump, the second with a delta record, the last for one more reader."""
    for name in ("sealed", "clear", "reader"):
        store = DictStore()
        state = VolumeState(id=b"golden volume id", name="golden", kind="native", source=b"", created_ns=0)
        target = store_revision(store, MODEL)
        plan = plan_dump(store, state, targets=[("monday", target)], level=0, now_ns=1_700_000_000_000_000_000)
        with open(Path(__file__).parent / f"pack-v2-{name}.dump", "xb") as stream:
            recipients = [age_recipient(READER)] if name == "reader" else []
            note = pack_header.encode_note(plan.note)
            sealed = name != "clear"
            header = new_header(REALM, kind=pack.PACK_DUMP, sealed=sealed, note=note, recipients=recipients)
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
