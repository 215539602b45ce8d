"""Files whose size is not that of their content, and scans that run at the same time."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from host_kit import Machine, MemoryStore

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.host.contents import MISSIZED_BYTES_MAX, READ_TRIES
from dalsegno.host.scan import ScanResult
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.sizes import MIB
from dalsegno.trees.read import iterate_directory, read_content


def entries_of(machine: Machine, result: ScanResult) -> dict[bytes, Entry]:
    return {entry.name: entry for entry in iterate_directory(machine.store, result.root.content)}


def content_of(machine: Machine, entry: Entry) -> bytes:
    return read_content(machine.store, entry, offset=0, length=entry.size)


def test_what_has_more_than_its_size_says_is_stored_whole(machine: Machine) -> None:
    """Kind: the size of a file is believed rather than what can be read of it."""
    for _again in range(2):
        result = machine.scan(b"/proc/sys/kernel/random")
        found = entries_of(machine, result)
        assert content_of(machine, found[b"boot_id"]) == Path("/proc/sys/kernel/random/boot_id").read_bytes()
        assert len(content_of(machine, found[b"uuid"])) == found[b"uuid"].size == 37
        assert b"boot_id" in result.missized and not result.changed
    large = machine.scan(b"/proc/self/net") if os.path.exists("/proc/self/net/dev") else None
    assert large is None or entries_of(machine, large)[b"dev"].size > 100


@pytest.mark.skipif(not os.path.exists("/sys/class/net/lo/mtu"), reason="no sysfs")
def test_what_has_less_than_its_size_says_is_stored_without_zeros(machine: Machine) -> None:
    result = machine.scan(os.path.realpath(b"/sys/class/net/lo"))
    mtu = entries_of(machine, result)[b"mtu"]
    assert content_of(machine, mtu) == Path("/sys/class/net/lo/mtu").read_bytes()
    assert os.stat("/sys/class/net/lo/mtu").st_size > mtu.size == len(content_of(machine, mtu))
    assert b"mtu" in result.missized


class Restless(MemoryStore):
    """A store during whose puts a file changes its size, always the same way."""

    def __init__(self, path: Path, step: int) -> None:
        super().__init__()
        self.path, self.step = path, step

    def put(self, kind: int, payload: bytes) -> ObjectId:
        if kind == objects.KIND_CHUNK and len(payload) > 1000:
            os.truncate(self.path, max(0, self.path.stat().st_size + self.step))
        return super().put(kind, payload)


@pytest.mark.parametrize("size", [100_000, 12 * MIB])
@pytest.mark.parametrize("step", [-1, 1])
def test_of_files_that_grow_or_shrink_all_the_time_what_was_read_is_stored(
    tmp_path: Path, size: int, step: int
) -> None:
    path = tmp_path / "source" / "log"
    path.parent.mkdir()
    path.write_bytes(os.urandom(size))
    machine = Machine(tmp_path)
    machine.store = Restless(path, step * (size // 100))
    result = machine.scan(path.parent)
    assert result.changed == [b"log"] and not result.unreadable
    entry = entries_of(machine, result)[b"log"]
    stored = content_of(machine, entry)
    assert len(stored) == entry.size > 0
    # What was cut off while it was read is not there as zeros.
    assert step > 0 or stored.rstrip(b"\0") == stored
    assert READ_TRIES * entry.size <= MISSIZED_BYTES_MAX


def test_scans_in_two_threads_do_not_mix_their_attributes(tmp_path: Path) -> None:
    """Kind: one buffer for the whole process."""
    for mode in (0o600, 0o640):
        (tmp_path / f"{mode:o}").mkdir()
        for number in range(300):
            os.mkfifo(tmp_path / f"{mode:o}" / str(number), mode)  # of files it is checked while they are read

    def modes(mode: int) -> set[int]:
        place = tmp_path / f"machine{mode:o}"
        place.mkdir()
        machine = Machine(place)
        results = [machine.scan(tmp_path / f"{mode:o}", cached=False) for _ in range(50)]
        return {entry.mode for result in results for entry in entries_of(machine, result).values()}

    with ThreadPoolExecutor(2) as crew:
        assert list(crew.map(modes, (0o600, 0o640))) == [{0o600}, {0o640}]
