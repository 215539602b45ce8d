"""Times that prove nothing, renames, and what the rules leave out, on real file systems."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from host_kit import REVISION_ID, Machine, MemoryStore, revision_of

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.host.cache import load_cache
from dalsegno.host.scan import RACY_NS, ScanResult, scan_tree
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.read import iterate_directory, links_key, lookup

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")


class BusyStore(MemoryStore):
    """A store at which the world changes: `act(payload)` is called before an object is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.act: Callable[[bytes], None] = lambda payload: None

    def put(self, kind: int, payload: bytes) -> ObjectId:
        self.act(payload)
        return super().put(kind, payload)


def scan_now(machine: Machine, root: Path) -> ScanResult:
    """Scan with the clock as it is."""
    result = scan_tree(
        root,
        sink=machine.store,
        cutter=machine.cutter,
        previous=machine.revision,
        source=machine.store,
        cache=load_cache(machine.cache_path, revision=REVISION_ID),
    )
    machine.revision = revision_of(result)
    result.cache.save(machine.cache_path, revision=REVISION_ID)
    return result


def entry_at(machine: Machine, path: bytes) -> Entry:
    assert machine.revision is not None
    entry = lookup(machine.store, machine.revision.root.content, path)
    assert entry is not None, path
    return entry


def content_at(machine: Machine, path: bytes) -> bytes:
    entry = entry_at(machine, path)
    if entry.content_kind == objects.CONTENT_INLINE:
        return entry.content
    assert entry.content_kind == objects.CONTENT_CHUNK
    return machine.store.get(ObjectId(entry.content))


def grow_old() -> None:
    time.sleep(2.5 * RACY_NS / 1e9)


# -- times that prove nothing


def test_second_scan_right_after_the_first_reads_nothing(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(20):
        (root / f"{number}").write_bytes(b"%d" % number * 200)
    grow_old()
    assert scan_now(machine, root).files_read == 20
    again = scan_now(machine, root)
    assert again.files_read == 0 and again.directories_reused == 1


def test_same_size_change_right_after_a_scan_is_never_missed(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    file = root / "file"
    file.write_bytes(b"----")
    os.link(file, root / "other-name")
    os.utime(file, ns=(1, 1))
    for number in range(60):
        scan_now(machine, root)
        with open(file, "r+b") as stream:
            stream.write(b"%04d" % number)
        os.utime(file, ns=(1, 1))
        scan_now(machine, root)
        assert machine.revision is not None
        link = entry_at(machine, b"file")
        table = {entry.name: entry for entry in iterate_directory(machine.store, machine.revision.links)}
        assert table[links_key(link.link)].content == b"%04d" % number


@as_root
def test_same_size_change_within_the_second_of_a_coarse_file_system_is_never_missed(
    machine: Machine, tmp_path: Path
) -> None:
    """Inodes of 128 bytes have no room for less than a second."""
    root, image = tmp_path / "tree", tmp_path / "image"
    root.mkdir()
    image.write_bytes(bytes(4 << 20))
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", image], check=True, stderr=subprocess.DEVNULL)
    if subprocess.run(["mount", "-o", "loop", image, root], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (root / "file").write_bytes(b"one")
        assert (root / "file").stat().st_ctime_ns % 10**9 == 0
        grow_old()
        for content in (b"two", b"six", b"ten", b"one"):
            scan_now(machine, root)
            (root / "file").write_bytes(content)
            scan_now(machine, root)
            assert content_at(machine, b"file") == content
    finally:
        subprocess.run(["umount", root], check=True)


def test_file_that_changed_during_a_scan_is_read_again_at_the_next(tmp_path: Path) -> None:
    """Its directory was listed with old times; what counts are those of the last look."""
    machine = Machine(tmp_path)
    store = machine.store = BusyStore()
    root = tmp_path / "tree"
    root.mkdir()
    file = root / "file"
    file.write_bytes(b"a" * 200)
    grow_old()

    def overwrite(payload: bytes) -> None:
        if payload == b"a" * 200:
            file.write_bytes(b"b" * 200)

    store.act = overwrite
    first = scan_now(machine, root)
    assert content_at(machine, b"file") == b"b" * 200 and first.changed == []
    grow_old()
    assert scan_now(machine, root).files_read == 1
    assert scan_now(machine, root).files_read == 0


def test_file_that_never_rests_is_reported_and_read_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = machine.store = BusyStore()
    root = tmp_path / "tree"
    root.mkdir()
    file = root / "busy"
    file.write_bytes(bytes(200))
    (root / "calm").write_bytes(b"calm")
    grow_old()
    rounds = iter(range(1, 250))

    def overwrite(payload: bytes) -> None:
        if len(payload) == 200:
            file.write_bytes(bytes([next(rounds)]) * 200)

    store.act = overwrite
    assert scan_now(machine, root).changed == [b"busy"]
    store.act = lambda payload: None
    grow_old()
    again = scan_now(machine, root)
    assert (again.changed, again.files_read) == ([], 1)
    assert content_at(machine, b"busy") == file.read_bytes()
