"""Files with several names, remembered in arrays: always what a dict would say."""

from random import Random

import pytest

from dalsegno.formats.objects import ENTRY_FILE, Entry
from dalsegno.formats.scan_cache import KEY_BYTES, LINK
from dalsegno.host import linked
from dalsegno.host.linked import LinkedFiles


@pytest.mark.parametrize("seed", range(3))
def test_files_are_found_whatever_their_devices_and_inodes(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(linked, "PACKED_BYTES_MAX", 20_000)
    random = Random(seed)
    devices = [random.getrandbits(40) for _ in range(300)]
    # Some inodes fill all 64 bits, and differ just where devices are told apart.
    inodes = [*range(100), *(number << 56 | 5 for number in range(256)), *(random.getrandbits(64) for _ in range(100))]
    files, expected = LinkedFiles(), {}
    for number in range(6000):
        mark = random.choice(devices), random.choice(inodes)
        if mark in expected:
            continue
        node, key = random.getrandbits(64), number.to_bytes(KEY_BYTES, "big")
        entry = Entry(name=b"%d" % number, kind=ENTRY_FILE, content=bytes(number % 50)) if number % 3 else None
        assert files.find(*mark) is None
        files.add(*mark, node=node, key=key, entry=entry)
        expected[mark] = node, key, entry
    for mark, (node, _, entry) in expected.items():
        row = files.find(*mark)
        assert row is not None and files.node(row) == node and files.entry(row) == entry and files.has_node(node)
    assert not files.has_node(1) and len(files) == len(expected)
    assert [files.node(row) for row in files.rows_by_node()] == sorted(node for node, _, _ in expected.values())
    packed = b"".join(files.records())
    found = {(device, inode): (node, key) for device, inode, node, key in LINK.iter_unpack(packed)}
    assert found == {mark: (node, key) for mark, (node, key, _) in expected.items()}
    assert files.new_count == sum(entry is not None for _, _, entry in expected.values())
