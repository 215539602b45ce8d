"""The header of a scan cache's file, both ways."""

import struct

from dalsegno.formats import scan_cache
from dalsegno.formats.scan_cache import Header


def test_a_header_comes_back_and_says_where_everything_is() -> None:
    header = Header(revision=b"r" * 32, directory_count=3, link_count=2, keys_bytes=440, started_ns=2**63)
    data = scan_cache.encode_header(header)
    assert data == b"DALSCAN2" + b"r" * 32 + struct.pack("<QQQQ", 3, 2, 440, 2**63)
    assert scan_cache.decode_header(data) == header
    assert scan_cache.decode_header(b"DALSCAN3" + data[8:]) is None
    assert (header.directories_start, header.links_start) == (72 + 440, 72 + 440 + 3 * 80)
    assert header.file_bytes == header.links_start + 2 * 68 + 32


def test_an_unproven_key_equals_no_files_and_still_tells_inode_and_birth() -> None:
    key = scan_cache.KEY.pack(7, 100, -5, 999_999_999, 6, 1, 42)
    other = scan_cache.KEY.unpack(scan_cache.unproven(key))
    assert other[:3] == (7, 100, -5) and other[4:] == (6, 1, 42)
    assert other[3] >= 10**9, "no time has so many nanoseconds"
