"""Write the golden files of media format version 1. Run once when the version was made; they are read forever."""

from pathlib import Path

import zfec
from blake3 import blake3

from dalsegno.formats.media import (
    HEADER_DIGEST_BYTES,
    PART_NOTE,
    PART_SHARE,
    PART_SLICE,
    Label,
    PartHeader,
    chunk_tag,
    encode_label,
    encode_part_header,
)

HERE = Path(__file__).parent
DUMP = (HERE / "pack-v1-sealed.dump").read_bytes()
LABEL = Label(
    label='week "1"',
    target="disks",
    kind="directory",
    id="00112233445566778899aabbccddeeff",
    created="2026-11-21T08:00:00Z",
)
K, N, CHUNK, CUT = 2, 3, 300, 500


def header(**changes: object) -> PartHeader:
    """Return the header of a part of the golden sealed dump."""
    values: dict[str, object] = {
        "kind": PART_NOTE,
        "dump_id": b"golden dump id..",
        "dump_bytes": len(DUMP),
        "dump_digest": blake3(DUMP).digest(),
        "copy": 1,
        "part": 0,
        "needed": 0,
        "parts": 0,
        "offset": 0,
        "length": 0,
        "name": "golden.2026-11-21.l0.dump",
        "head": DUMP[:60],
        "set_name": "homes",
        "host": "höst",
        "received_at_ns": 1_700_000_000_000_000_001,
        "raw_bytes": 12345,
        "entry_count": 5,
        "written_at_ns": 1_700_000_000_000_000_002,
    }
    return PartHeader(**{**values, **changes})  # type: ignore[arg-type]


def slices() -> list[bytes]:
    """Return two slices of the dump."""
    made = []
    for part, (begin, end) in enumerate(((0, CUT), (CUT, len(DUMP)))):
        payload = DUMP[begin:end]
        encoded = encode_part_header(header(kind=PART_SLICE, copy=2, part=part, offset=begin, length=len(payload)))
        made.append(encoded + payload + blake3(payload).digest())
    return made


def shares() -> list[bytes]:
    """Return N shares of the dump, any K of which give it."""
    made = [
        encode_part_header(header(kind=PART_SHARE, part=part, needed=K, parts=N, length=CHUNK)) for part in range(N)
    ]
    digests = [each[-HEADER_DIGEST_BYTES:] for each in made]
    for stripe, begin in enumerate(range(0, len(DUMP), K * CHUNK)):
        data = DUMP[begin : begin + K * CHUNK].ljust(K * CHUNK, b"\0")
        chunks = tuple(data[start : start + CHUNK] for start in range(0, K * CHUNK, CHUNK))
        for part, chunk in enumerate(zfec.Encoder(K, N).encode(chunks)):
            made[part] += chunk + chunk_tag(digests[part], stripe, chunk)
    return made


def main() -> None:
    """Write media-v1.label, .note, .s000, .s001, .share000 to .share002."""
    (HERE / "media-v1.label").write_bytes(encode_label(LABEL))
    (HERE / "media-v1.note").write_bytes(encode_part_header(header()))
    for part, data in enumerate(slices()):
        (HERE / f"media-v1.s{part:03d}").write_bytes(data)
    for part, data in enumerate(shares()):
        (HERE / f"media-v1.share{part:03d}").write_bytes(data)


if __name__ == "__main__":
    main()
