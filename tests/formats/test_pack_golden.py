"""Packs written by earlier versions are read forever."""

import sys
from pathlib import Path

import pytest

from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.verify import verify_dump
from dalsegno.formats import objects
from dalsegno.trees.read import iterate_content, read_revision
from dalsegno.trees.walk import walk
from kit import REALM

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from make_pack_v2 import MODEL  # noqa: E402

CLEAR = ["pack-v1-clear.dump", "pack-v2-clear.dump"]
SEALED = ["pack-v1-sealed.dump", "pack-v2-sealed.dump", "pack-v2-reader.dump"]


@pytest.mark.parametrize("name", [*CLEAR, *SEALED])
def test_every_version_is_read(name):
    with DumpChain.open([GOLDEN / name], REALM) as chain:
        assert chain.notes[0].volume_name == "golden" and chain.target.clone == "monday"
        files = {}
        for path, entry in walk(chain, read_revision(chain, chain.target.revision)):
            if entry.kind == objects.ENTRY_FILE:
                files[path] = b"".join(data for _, data in iterate_content(chain, entry))
        assert files == {b"inline": MODEL[b"inline"], b"chunk": MODEL[b"chunk"], b"dir/\xff odd name": b"x"}
    assert list(verify_dump(GOLDEN / name, REALM)) == []


@pytest.mark.parametrize("name", CLEAR)
def test_a_delta_record_is_followed(name):
    base = MODEL[b"chunk"]
    new = base[:3000] + b"changed" + base[3000:]
    with DumpChain.open([GOLDEN / name], REALM) as chain:
        assert chain.get(REALM.identify(objects.KIND_CHUNK, new)) == new
