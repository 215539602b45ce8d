"""A restore writes only into files that it made: what somebody puts at the name of its half file is not written to."""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from host_kit import Machine, MemoryStore

from dalsegno.formats.objects import ENTRY_FILE, Entry
from dalsegno.host.batch import Batch, write_batch
from dalsegno.host.restore import restore_tree
from dalsegno.terms.ids import ObjectId

Plant = Callable[[Path, Path], object]
PLANTS: dict[str, Plant] = {
    "symlink": lambda outside, path: path.symlink_to(outside),
    "link": lambda outside, path: path.hardlink_to(outside),
    "symlink to nothing": lambda outside, path: path.symlink_to(outside.parent / "made"),
}


@dataclass
class Watched:
    """A store; whenever it is asked, somebody who may write to the target puts something where half files were before."""

    store: MemoryStore
    target: Path
    plant: Callable[[Path], object]
    planted: int = 0
    seen: frozenset[str] = frozenset()

    def get(self, identity: ObjectId) -> bytes:
        self.seen |= {name for name in os.listdir(self.target) if name.startswith(".dal-restore-")}
        for name in self.seen:
            if not os.path.lexists(self.target / name):
                self.plant(self.target / name)
                self.planted += 1
        return self.store.get(identity)

    def has(self, identity: ObjectId) -> bool:
        return self.store.has(identity)


@pytest.mark.parametrize("kind", PLANTS)
def test_what_is_put_at_the_name_of_a_half_file_gets_nothing(machine: Machine, tmp_path: Path, kind: str) -> None:
    """The kind of fault: a name that was free a moment ago is opened as if it were still."""
    source, target, outside = tmp_path / "source", tmp_path / "target", tmp_path / "outside"
    source.mkdir()
    target.mkdir()
    outside.write_text("precious")
    (source / "a").write_bytes(random.Random(1).randbytes(3_000_000))  # its half file is seen while it is written
    for name in ("b", "c"):
        (source / name).write_bytes(random.Random(name).randbytes(20_000))
    machine.scan(source)
    store = Watched(machine.store, target, lambda path: PLANTS[kind](outside, path))
    assert machine.revision is not None
    result = restore_tree(store, machine.revision, target)
    assert store.planted
    assert outside.read_text() == "precious" and not (tmp_path / "made").exists()
    failed = {path for path, _ in result.failed}
    for name in ("a", "b", "c"):
        whole = not (target / name).is_symlink() and (target / name).is_file()
        assert name.encode() in failed or (whole and (target / name).read_bytes() == (source / name).read_bytes())


@pytest.mark.parametrize("kind", PLANTS)
def test_what_is_put_at_the_name_of_a_batchs_half_file_gets_nothing(tmp_path: Path, kind: str) -> None:
    target, outside = tmp_path / "target", tmp_path / "outside"
    target.mkdir()
    outside.write_text("precious")
    PLANTS[kind](outside, target / "half")
    batch = Batch()
    batch.add(Entry(name=b"a", kind=ENTRY_FILE, mode=0o600, size=3), b"bad", os.getuid(), os.getgid())
    result = write_batch(os.open(target, os.O_RDONLY | os.O_DIRECTORY), b"half", batch)
    assert [entry.name for entry, _ in result.failed] == [b"a"]
    assert outside.read_text() == "precious" and not (tmp_path / "made").exists()
    assert not os.path.lexists(target / "a")
