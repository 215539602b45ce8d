"""What a pack's fields say and hide: sizes, keys, and fields that lie."""

import io
import random
import re
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from dalsegno.chunks.realm import Realm
from dalsegno.chunks.recipients import age_identity, age_recipient, check_recipient, open_sealed, read_identity, seal_to
from dalsegno.formats import objects, pack, pack_block, pack_header
from dalsegno.pool.pack_read import PackReader, pack_key
from dalsegno.pool.pack_write import PackWriter, new_header
from dalsegno.terms.errors import BadInput, Damaged, NoAccess
from kit import REALM

OTHER = Realm(b"another realm's secret, 32 bytes")


def pack_of(payloads: list[bytes], header: tuple[pack_header.PackHeader, bytes] | None = None) -> bytes:
    stream = io.BytesIO()
    header = header or new_header(REALM, kind=pack.PACK_POOL, sealed=True)
    with PackWriter(stream.write, realm=REALM, header=header) as writer:
        for payload in payloads:
            writer.put(objects.KIND_CHUNK, REALM.identify(objects.KIND_CHUNK, payload), payload)
        writer.finish()
    return stream.getvalue()


def seen_by_a_stranger(data: bytes) -> list[int]:
    """All sizes that stand in a pack in the clear."""
    at = pack.PREAMBLE.size + pack_header.decode_preamble(data) + pack.HEADER_DIGEST_BYTES
    sizes = []
    while at < len(data) - pack.FOOTER.size:
        (stored,) = pack.FRAME.unpack_from(data, at)
        sizes.append(stored)
        at += pack.FRAME.size + stored
    return sizes


def test_a_stranger_cannot_tell_the_size_of_a_single_file() -> None:
    """The kind: lengths in the clear. A file of 54,321 bytes was recognized by the size of its pack."""
    chance = random.Random(54321)
    seen = {tuple(seen_by_a_stranger(pack_of([chance.randbytes(size)]))) for size in range(54_000, 55_000, 50)}
    assert len(seen) <= 2, "a thousand sizes look like one or two"


def test_a_stranger_cannot_tell_how_well_a_file_is_compressed_from_its_sizes_in_the_clear() -> None:
    data = pack_of([b"0" * 100_000])
    assert all(size % 16 == 0 for size in seen_by_a_stranger(data))
    assert (100_000 + pack.RECORD.size).to_bytes(4, "little") not in data[-pack.FOOTER.size :]
    assert max(seen_by_a_stranger(data)) < 1000  # that it is small is seen, not what it was made of


def test_a_stranger_can_tell_how_many_objects_a_pack_has_from_the_size_of_its_index() -> None:
    """The other side, said in docs/guides/threats.md: ids do not compress, and a row of the index is longer than a step."""
    chance = random.Random(7)
    indexes = [seen_by_a_stranger(pack_of([chance.randbytes(2000) for _ in range(n)]))[-2] for n in (1, 2, 3, 5, 10)]
    assert indexes == sorted(set(indexes))


@given(st.integers(0, 30_000_000))
def test_padding_costs_little_and_never_takes(length: int) -> None:
    padded = pack_block.padded_bytes(length)
    assert 0 <= padded - length < max(32, min(length / 8, pack.PADDING_BYTES_MAX) + 1)
    assert pack_block.padded_bytes(padded) == padded


def test_padding_of_full_blocks_costs_less_than_a_hundredth() -> None:
    chance = random.Random(1)
    lengths = [chance.randrange(1_500_000, 4_200_000) for _ in range(1000)]
    assert sum(pack_block.padded_bytes(length) for length in lengths) < 1.01 * sum(lengths)


def test_a_reader_of_the_realm_opens_what_is_sealed_to_its_public_key_alone(tmp_path: Path) -> None:
    header, key = new_header(REALM, kind=pack.PACK_POOL, sealed=True)
    sealed = seal_to([REALM.recipient], pack.SEALED_KEY.pack(header.pack_id, key, REALM.id_key))
    header = msgspec.structs.replace(header, keys=[(99, b"of a later version"), (pack.KEY_AGE, sealed)])
    (tmp_path / "one.pack").write_bytes(pack_of([b"content"], (header, key)))
    with PackReader.open(tmp_path / "one.pack", REALM) as reader:
        assert reader.get(REALM.identify(objects.KIND_CHUNK, b"content")) == b"content"
    for stolen in (
        # Another pack's key under this pack's name; one that another realm opens; no key at all; damage.
        seal_to([REALM.recipient], pack.SEALED_KEY.pack(bytes(16), key, REALM.id_key)),
        seal_to([OTHER.recipient], pack.SEALED_KEY.pack(header.pack_id, key, REALM.id_key)),
        seal_to([REALM.recipient], b"short"),
        b"",
        sealed[:-1],
    ):
        with pytest.raises(NoAccess):
            pack_key(msgspec.structs.replace(header, keys=[(pack.KEY_AGE, stolen)]), REALM)


def test_a_dump_opens_by_the_key_of_each_recipient() -> None:
    identities = [age_identity(bytes([n]) * 32) for n in range(3)]
    recipients = [age_recipient(identity) for identity in identities]
    header, key = new_header(REALM, kind=pack.PACK_DUMP, sealed=True, note=b"note", recipients=recipients[:2])
    (sealed,) = header.keys_of(pack.KEY_AGE)
    for identity in identities[:2]:
        opened = pack.SEALED_KEY.unpack(open_sealed(sealed, [read_identity(f"# a comment\n{identity}\n")]))
        assert opened == (header.pack_id, key, REALM.id_key)
    with pytest.raises(NoAccess):
        open_sealed(sealed, [read_identity(identities[2])])
    assert pack_key(header, REALM) == key


@pytest.mark.parametrize(
    "text", ["", "age1", "age1notakey", "ssh-ed25519 AAAA", "me@host", "age1" + "q" * 58, "age1\udcff", "ssh-\ud800"]
)
def test_what_is_no_recipient_is_said(text: str) -> None:
    with pytest.raises(BadInput, match=re.escape(repr(text))):
        check_recipient(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "# nothing", "AGE-SECRET-KEY-1AAA", "AGE-SECRET-KEY-1\udcff"),
        *("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "-----BEGIN OPENSSH PRIVATE KEY-----\n\udcff\n"),
    ],
)
def test_what_is_no_identity_is_said(text: str) -> None:
    with pytest.raises(BadInput):
        read_identity(text)


def test_a_private_key_in_place_of_a_public_one_is_not_repeated() -> None:
    secret = age_identity(b"s" * 32)
    with pytest.raises(BadInput) as caught:
        check_recipient(secret)
    assert secret not in str(caught.value)


BODY = pack_block.encode_body(b"zstd", 100, pack.BLOCK_DATA, padded=True)


@pytest.mark.parametrize(
    "body",
    [
        pack.BODY.pack(0, 100, 4) + b"zstd",
        pack.BODY.pack(5, 100, 4) + b"zstd",
        pack.BODY.pack(pack.BLOCK_DATA, 100, 5) + b"zstd",
        pack.BODY.pack(pack.BLOCK_DATA, 100, 0) + b"zstd",
        pack.BODY.pack(pack.BLOCK_DATA, pack.BLOCK_RAW_BYTES_MAX + 1, 4) + b"zstd",
        pack.BODY.pack(pack.BLOCK_TRAILER, pack.TRAILER_RAW_BYTES_MAX + 1, 4) + b"zstd",
        pack.BODY.pack(pack.BLOCK_DATA, 0, 2**17) + bytes(2**17),
    ],
)
def test_a_body_that_lies_is_damaged(body: bytes) -> None:
    frame = pack.FRAME.pack(len(body) + pack.TAG_BYTES)
    assert pack_block.decode_body(pack.LAYOUTS[2], frame, BODY, offset=0).content == b"zstd"
    with pytest.raises(Damaged, match="offset 77"):
        pack_block.decode_body(pack.LAYOUTS[2], frame, body, offset=77)


@pytest.mark.parametrize("stored", [0, 16, pack.TAG_BYTES + pack.BODY.size, 2**32 - 1])
def test_a_frame_that_lies_is_damaged_before_anything_is_read(stored: int) -> None:
    with pytest.raises(Damaged, match="offset 5"):
        pack_block.decode_frame(pack.LAYOUTS[2], pack.FRAME.pack(stored), offset=5)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_sealed_key_of_another_length_is_damaged(tmp_path: Path, length: int) -> None:
    """The kind: a value behind a right seal that nobody looked at. Without a key, blocks would count as not sealed."""
    header, _ = new_header(REALM, kind=pack.PACK_POOL, sealed=True)
    wrapped = REALM.wrap_key(bytes(length), context=header.pack_id)
    front = pack_header.encode_front(msgspec.structs.replace(header, keys=[(pack.KEY_REALM, wrapped)]))
    (tmp_path / "odd").write_bytes(front + bytes(200))
    with pytest.raises(Damaged, match=f"a key of {length} bytes"):
        PackReader.open(tmp_path / "odd", REALM)


def test_a_header_of_another_version_than_its_preamble_is_damaged(tmp_path: Path) -> None:
    golden = (Path(__file__).parents[1] / "golden" / "pack-v1-sealed.dump").read_bytes()
    size = pack_header.decode_preamble(golden)
    head = pack.PREAMBLE.pack(pack.MAGIC, 2, 0, size) + golden[16 : 16 + size]
    (tmp_path / "odd").write_bytes(head + blake3(head).digest(16) + golden[16 + size + 16 :])
    with pytest.raises(Damaged, match="another version"):
        PackReader.open(tmp_path / "odd", REALM)
