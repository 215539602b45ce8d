"""Nodes that a server gives along with the one that was asked for, when a writer forged them."""

from pathlib import Path

import pytest

from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryChild, DirectoryLeaf, DirectoryList
from dalsegno.pool.pool import Pool
from dalsegno.replicas import keeper


def test_a_list_that_names_one_below_it_often_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: a walk as long as forged objects say. A block that is asked for kept a server busy for years."""
    with Pool.create(tmp_path / "pool", encryption="none") as pool:
        with pool.writer() as writer:
            below: bytes = writer.put(objects.KIND_DIRECTORY, objects.encode(DirectoryLeaf([])))
            for level in range(1, 10):
                children = [DirectoryChild(b"%03d" % number, 1, below) for number in range(100)]
                below = writer.put(objects.KIND_DIRECTORY, objects.encode(DirectoryList(level, children)))
        kind, payload = pool.get_kind(below)
        decoded = 0
        decode = keeper.decode_directory

        def counting(data: bytes) -> objects.Directory:
            nonlocal decoded
            decoded += 1
            assert decoded < 50
            return decode(data)

        monkeypatch.setattr(keeper, "decode_directory", counting)
        found = keeper._nodes_below(pool, [(kind, below, bytes(payload))], bytes_max=1 << 20)
        assert len({each[1] for each in found}) == len(found) == 9
        decoded = 0
        assert keeper._nodes_below(pool, [(kind, below, bytes(payload)), *found], bytes_max=1 << 20) == []
