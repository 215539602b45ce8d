"""The scan cache in bounded memory: pieces set aside read back as they were."""

from pathlib import Path

import pytest

from dalsegno.formats.scan_cache import KEY, KEY_BYTES
from dalsegno.host import cache
from dalsegno.host.cache import CacheBuilder, ScanCache, load_cache

REVISION = b"r" * 32


def build(path: Path, directory_count: int) -> bytes:
    builder = CacheBuilder(7)
    for number in range(directory_count):
        keys = bytes([number % 251]) * KEY_BYTES * (number % 9)
        builder.add_directory(device=1, inode=number, names_hash=b"n" * 16, identity=b"i" * 32, keys=keys)
    builder.save(path, revision=REVISION)
    return path.read_bytes()


def kept(path: Path, before: ScanCache, directory_count: int) -> bytes:
    builder = CacheBuilder(7)
    for number in range(directory_count):
        record = before.directory(1, number)
        assert record is not None
        if number % 3:
            builder.keep_directory(before, record, identity=b"i" * 32)
        else:
            builder.add_directory(
                device=1, inode=number, names_hash=b"n" * 16, identity=b"i" * 32, keys=bytes(before.keys(record))
            )
    builder.save(path, revision=REVISION)
    return path.read_bytes()


@pytest.mark.parametrize("piece_bytes", [1, 500, 10_000])
def test_pieces_set_aside_make_the_same_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    whole = build(tmp_path / "whole", 300)
    monkeypatch.setattr(cache, "PIECE_BYTES_MAX", piece_bytes)
    monkeypatch.setattr(cache, "TOUCHED_BYTES_MAX", piece_bytes)
    assert build(tmp_path / "pieces", 300) == whole
    before = load_cache(tmp_path / "whole", revision=REVISION)
    assert before is not None
    assert kept(tmp_path / "kept", before, 300) == whole


def test_without_room_to_set_aside_the_cache_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(tmp_path / "whole", 300)
    monkeypatch.setattr(cache, "PIECE_BYTES_MAX", 500)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    assert build(tmp_path / "memory", 300) == whole


@pytest.mark.parametrize("file_count", [1, 2, 3])
def test_files_of_a_single_directory_are_found(tmp_path: Path, file_count: int) -> None:
    builder = CacheBuilder(7)
    keys = [KEY.pack(100 + number, 1, 2, 3, 4, 5, 6) for number in range(file_count)]
    builder.add_directory(device=1, inode=9, names_hash=b"n" * 16, identity=b"i" * 32, keys=b"".join(keys))
    builder.save(tmp_path / "cache", revision=REVISION)
    loaded = load_cache(tmp_path / "cache", revision=REVISION)
    assert loaded is not None
    for number, key in enumerate(keys):
        (place,) = loaded.find(1, 100 + number, 6)
        assert (place.directory, place.position, place.key) == (b"i" * 32, number, key)
