"""Write the seeds of the corpora, from golden files and the samples of other tests. What was found since lies beside them."""

import sys
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[1] / room) for room in ("", "fuzz", "golden", "lying", "formats")])

import msgspec
import zstandard
from fuzz_packs import AS_IT_IS, FOOTER, GOLDEN, HEADER, MODEL, MODELS, TRAILER
from fuzz_values import KINDS, NAMES, TABLE
from test_client_calls import ASKED
from test_fuse import REQUESTS

from dalsegno.chunks.realm import WriteKey
from dalsegno.chunks.recipients import age_identity
from dalsegno.chunks.signatures import public_text
from dalsegno.formats import media, messages, objects, pack, pack_block, pack_header, pack_trailer
from dalsegno.formats.join import Join, format_join
from dalsegno.formats.object_records import encode_records
from dalsegno.pool.holders import key_file_holder
from dalsegno.pool.keys import key_file_text
from dalsegno.pool.settings import Holder, KdfCost, PoolSettings, encode_settings
from dalsegno.trees.read import links_key
from kit import REALM, ref_path
from make_ref_v1 import REF
from make_ref_v2 import make_pool
from make_revision_signed import KEY

CORPUS = Path(__file__).parent / "corpus"
GUIDES = Path(__file__).parents[2] / "docs"


def packs() -> Iterator[bytes]:
    for number in range(len(MODEL)):
        yield bytes([number])
        yield bytes([number, HEADER, 3, 0, 1, 1, 0x91, TRAILER, 9, 0, 1, 1, 7, FOOTER, 1, 0, 0, 0])
        yield bytes([number, 0, 5, 0, 2, 2, 0xFF, 0xFF, 1, 3, 0, 1, 0, 2, 1, 0, 1, 1, 9])
        if number < 4:
            yield bytes([AS_IT_IS]) + (GOLDEN / MODELS[number]).read_bytes()


def pack_parts() -> Iterator[bytes]:
    """Yield each part of a pack, behind the letter of what it is."""
    for name in MODELS[:4]:
        data = (GOLDEN / name).read_bytes()
        size = pack.PREAMBLE.size + pack_header.decode_preamble(data)
        yield b"f" + data[: size + pack.HEADER_DIGEST_BYTES]
        yield b"h" + data[pack.PREAMBLE.size : size]
        yield b"e" + data[-200:]
    for model in MODEL[:4]:
        for kind, raw in model.blocks:
            if kind in (pack.BLOCK_METADATA, pack.BLOCK_DATA):
                yield b"r" + raw[:2000]
    content = zstandard.compress(b"a block " * 9)
    body = pack_block.encode_body(content, 72, pack.BLOCK_DATA, padded=True)
    yield b"b" + pack_block.encode_frame(len(body)) + body
    columns = array("Q", [64]), array("I", [80]), array("I", [100])
    yield b"t" + pack_trailer.encode_trailer(*columns, bytearray([pack.BLOCK_INDEX]), [bytes(32)], 1)


def object_payloads() -> Iterator[bytes]:
    for model in MODEL:
        for kind, raw in model.blocks:
            if kind == pack.BLOCK_METADATA:
                at = 0
                while at < len(raw):
                    _, _, length, _ = pack.RECORD.unpack_from(raw, at)
                    yield raw[at + pack.RECORD.size : at + pack.RECORD.size + length]
                    at += pack.RECORD.size + length
    yield pack.DELTA.pack(bytes(32), 8) + zstandard.compress(b"basebase")
    yield objects.encode_xattrs([(b"user.a", b"1"), (b"user.b", b"")])
    yield (GOLDEN / "revision-signed.object").read_bytes()


def trees() -> Iterator[bytes]:
    """Yield a revision with its tree, and a later one, each id being the number of an object."""
    name = [bytes([number]) * 32 for number in range(9)]
    linked = {"kind": objects.ENTRY_FILE, "mode": 0o644, "size": 8, "content_kind": objects.CONTENT_RECIPE}
    a_file = objects.Entry(name=b"f", content=name[4], **linked)
    below = objects.Entry(
        name=b"d", kind=objects.ENTRY_DIRECTORY, content_kind=objects.CONTENT_DIRECTORY, content=name[3]
    )
    root = msgspec.structs.replace(below, name=b"")
    facts = {"volume": bytes(16), "created_ns": 1, "author": "", "message": "", "entry_count": 9, "total_bytes": 99}
    old = objects.Revision(parents=[], root=msgspec.structs.replace(root, content=name[2]), links=name[7], **facts)
    new = objects.Revision(parents=[name[0]], root=msgspec.structs.replace(root, content=name[6]), links=b"", **facts)
    table = msgspec.structs.replace(a_file, name=links_key(5))
    nodes = [
        *(old, new),
        objects.DirectoryLeaf([below, a_file, msgspec.structs.replace(a_file, name=b"g", node=5)]),
        objects.DirectoryLeaf([a_file]),
        objects.RecipeList(1, [4, 8], [name[5], name[5]]),
        objects.RecipeLeaf([2, 4], [b"", name[8]]),
        objects.DirectoryList(1, [objects.DirectoryChild(b"f", 1, name[3])]),
        objects.DirectoryLeaf([table]),
    ]
    encoded = [*map(objects.encode, nodes), b"xy"]
    yield b"".join(len(each).to_bytes(2, "little") + each for each in encoded)


def volume_states() -> Iterator[bytes]:
    for name in ("ref-v1.volume", "ref-v2.volume", "ref-v2-table.volume"):
        with tempfile.TemporaryDirectory() as place, make_pool(Path(place) / "pool") as pool:
            ref_path(pool, REF).parent.mkdir(exist_ok=True)
            ref_path(pool, REF).write_bytes((GOLDEN / name).read_bytes())
            yield pool.get_ref(REF) or b""


def answers() -> Iterator[bytes]:
    for name in NAMES:
        good = ASKED[name][1]
        yield f"{name} 200\n".encode() + (good if isinstance(good, bytes) else messages.encode(good))
    yield b'state 422\n{"error":{"code":"refused","message":"no"}}'
    yield b'state 421\n{"error":{"code":"moved","message":"m"},"moved_to":{"name":"s2","url":"http://h:1"}}'
    yield b"dump raw\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Request-Id: abc\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    yield b'state raw\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"name":"home"}'


def bodies() -> Iterator[bytes]:
    for good in (each for _, each in ASKED.values() if not isinstance(each, bytes)):
        yield type(good).__name__.encode() + b"\n" + messages.encode(good)
    for kind in sorted(KINDS):
        yield kind.encode() + b"\n{}"


def settings() -> Iterator[bytes]:
    yield (GOLDEN / "settings-v3.toml").read_bytes()
    common = {"pool_id": b"p" * 16, "realm_id": REALM.realm_id}
    cost = KdfCost(memory_kib=64, passes=1, lanes=1)
    typed = Holder(name="passphrase", kind="passphrase", cost=cost, salt=b"s" * 16, wrapped_secret=b"w" * 60)
    anna = Holder(name="anna", kind="recipient", recipient=REALM.recipient, wrapped_secret=b"w" * 200)
    yield encode_settings(PoolSettings(holders=(key_file_holder(),), **common))
    yield encode_settings(PoolSettings(plain_secret=REALM.secret, **common))
    yield encode_settings(PoolSettings(holders=(typed,), **common))
    yield encode_settings(PoolSettings(holders=(typed, key_file_holder(), anna), version=2, **common), REALM.secret)


def requests() -> Iterator[bytes]:
    for opcode, _, digits in REQUESTS:
        yield bytes([opcode]) + bytes.fromhex(digits)


def seeds() -> dict[str, list[bytes]]:
    a_pack = list(packs())
    write_key = WriteKey(
        realm_id=REALM.realm_id, id_key=REALM.id_key, chunk_seed=5, recipient=REALM.recipient, secret=bytes(32)
    )
    fingerprint = "sha256:" + "ab" * 32
    token = f"dal_{'0' * 16}_{'x' * 43}"
    toml = [line for page in sorted(GUIDES.rglob("*.md")) for line in page.read_text().split("```toml\n")[1:]]
    words = [
        *("3d", "now", "monday", "2026-11-21", "2026-11-21T02:00", "2026-11-21T02:00:00+01:00", "20261121T0203", "90s"),
        *("10G", "1.5 MiB", "1w", "yesterday", "0001-01-01", "9999-12-31T23:59:59Z"),
    ]
    return {
        "pack": a_pack,
        "pack-stream": a_pack,
        "pack-part": list(pack_parts()),
        "pack-adopt": a_pack,
        "object": list(object_payloads()),
        "tree": list(trees()),
        "state": list(volume_states()),
        "clone-table": [TABLE.get(identity) for identity in sorted(TABLE.ids())],
        "message": list(bodies()),
        "answer": list(answers()),
        "records": [
            encode_records([(1, b"r" * 32, b"x" * 50), (3, b"s" * 32, payload)]) for payload in object_payloads()
        ][:6],
        "words": [
            b"backup\0--level\x002\0--record\0--clone-age\x0030m\0./a\\nb",
            *(b"daily-*@last7,monthly-*", b"block 7\nlost\nunreadable\n", b"root:x:0:0::/:/bin/sh\n"),
            b"25 1 8:1 / /mnt rw,noatime shared:1 - ext4 /dev/sda1 rw\n",
        ],
        "query": [b"00" * 16, b"00" * 32, b"5", b"1.5", b"a line"],
        "join": [
            format_join(Join(host="h", port=1, tls=True, token=token, name="s1", fingerprint=fingerprint)).encode(),
            *(each.encode() for each in ("http://[::1]:80", "https://h:2", fingerprint, token, REALM.recipient)),
            public_text(KEY.public, comment="anna").encode(),
        ],
        "settings": list(settings()),
        "key": [key_file_text(each, {"place": "/p", "made": "x"}) for each in (REALM, write_key)]
        + [(GOLDEN / name).read_bytes() for name in ("key-v2.key", "write-key-v2.key")],
        "identity": [
            age_identity(bytes(32)).encode(),
            b"# comment\n",
            b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
            KEY.text(),
        ],
        "policy": [each.split("```")[0].encode() for each in toml],
        "ignore": [b"*.o\n!keep.o\n/src/**/x\n[[:alpha:]a-z!]*\n\\#x\n", b"**/a/**\n[!a-]\n[\n", b"a*b*c*d*e*?\n*/\n"],
        "label": [(GOLDEN / "media-v1.label").read_bytes()],
        "part": [
            (GOLDEN / name).read_bytes()[media.PREAMBLE.size :][
                : media.part_header_bytes((GOLDEN / name).read_bytes())
                - media.PREAMBLE.size
                - media.HEADER_DIGEST_BYTES
            ]
            for name in ("media-v1.note", "media-v1.s000", "media-v1.share000")
        ],
        "kernel": list(requests()),
        "time": [word.encode() for word in words],
        "name": [each.encode() for each in ("home@daily:/a/b", "//s1/home@#0a1b", "a+b.dump", "u.x.backup", "é ö")],
    }


def main() -> None:
    """Write each seed under corpus/TARGET/seed-NNN."""
    for name, each in seeds().items():
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for old in (CORPUS / name).glob("seed-*"):
            old.unlink()
        for number, data in enumerate(dict.fromkeys(each)):
            (CORPUS / name / f"seed-{number:03}").write_bytes(data)


if __name__ == "__main__":
    main()
