"""Media written by earlier versions are read forever; every damaged header is told as damaged."""

import sys
from pathlib import Path

import pytest
from blake3 import blake3

from dalsegno.archive.parts import iterate_slice, read_part_header
from dalsegno.archive.share_files import ShareReader, decode_stripe
from dalsegno.formats import media
from dalsegno.terms.errors import Damaged, TooNew
from dalsegno.terms.events import silent

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from make_media_v1 import DUMP, LABEL, K, N, header, shares, slices  # noqa: E402


def test_version_1_label_is_read_and_written_the_same() -> None:
    data = (GOLDEN / "media-v1.label").read_bytes()
    assert media.decode_label(data) == LABEL and media.encode_label(LABEL) == data


def test_version_1_note_is_read_and_written_the_same() -> None:
    found, encoded = read_part_header(GOLDEN / "media-v1.note")
    assert found == header() and encoded == (GOLDEN / "media-v1.note").read_bytes() == media.encode_part_header(found)


def test_version_1_slices_are_read_and_written_the_same() -> None:
    places = [GOLDEN / f"media-v1.s{part:03d}" for part in range(2)]
    assert b"".join(b"".join(iterate_slice(place, report=silent, phase="t")) for place in places) == DUMP
    assert [place.read_bytes() for place in places] == slices()


def test_version_1_shares_are_read_and_written_the_same() -> None:
    places = [GOLDEN / f"media-v1.share{part:03d}" for part in range(N)]
    assert [place.read_bytes() for place in places] == shares()
    for left_out in range(N):
        readers = [ShareReader(place) for number, place in enumerate(places) if number != left_out]
        count = media.stripe_count(readers[0].header)
        assert len(readers) == K
        assert b"".join(b"".join(decode_stripe(readers, stripe)) for stripe in range(count))[: len(DUMP)] == DUMP
        for reader in readers:
            reader.close()


def test_every_flipped_bit_of_a_header_is_found() -> None:
    data = (GOLDEN / "media-v1.note").read_bytes()
    for position in range(len(data) * 8):
        torn = bytearray(data)
        torn[position // 8] ^= 1 << position % 8
        with pytest.raises((Damaged, TooNew)):
            media.decode_part_header(bytes(torn))
    for length in range(len(data)):
        with pytest.raises(Damaged):
            media.decode_part_header(data[:length])


@pytest.mark.parametrize(
    "changes",
    [
        {"length": 1},
        {"kind": media.PART_SLICE, "length": 0},
        {"kind": media.PART_SLICE, "length": len(DUMP), "offset": 1},
        {"kind": media.PART_SHARE, "needed": 3, "parts": 2, "length": 1},
        {"kind": media.PART_SHARE, "needed": 1, "parts": 256, "length": 1},
        {"kind": media.PART_SHARE, "needed": 2, "parts": 3, "part": 3, "length": 1},
        {"kind": media.PART_SHARE, "needed": 2, "parts": 3, "length": media.SHARE_CHUNK_BYTES_MAX + 1},
        {"dump_id": b"short"},
        {"dump_digest": b"short"},
        {"copy": 0},
        {"part": -1},
        {"kind": 9},
    ],
)
def test_impossible_values_are_refused_although_the_digest_is_right(changes: dict[str, object]) -> None:
    with pytest.raises((Damaged, TooNew)):
        media.decode_part_header(media.encode_part_header(header(**changes)))


@pytest.mark.parametrize("version", ["inf", "nan", '"x"', "[1]", "[" * 5000, "9" * 5000, "2099-01-01"])
def test_a_label_of_odd_values_is_damaged_although_the_checksum_is_right(version: str) -> None:
    """Kind: what TOML can say and int() cannot read, and lists in lists."""
    lines = [f"version = {version}\n", *media.encode_label(LABEL).decode().splitlines(keepends=True)[2:-1]]
    body = "".join(lines)
    with pytest.raises(Damaged):
        media.decode_label(f'{body}checksum = "{blake3(body.encode()).hexdigest(16)}"\n'.encode())
