"""Large directories are stored and packed as they grow, and come out as if they had been made in one go."""

import os
from functools import partial
from pathlib import Path
from random import Random

import pytest
from host_kit import Machine, MemoryStore

from dalsegno.formats.objects import ENTRY_FIFO, Entry
from dalsegno.host import listing


def grow(random: Random, root: Path) -> None:
    for _ in range(300):
        place = root / f"{random.randrange(1000):03}"
        kind = random.random()
        if place.is_symlink() or place.exists():
            continue
        if kind < 0.03:
            place.mkdir()
            (place / "inside").write_text(str(kind))
        elif kind < 0.1:
            place.symlink_to("elsewhere")
        elif kind < 0.2 and (root / "first").exists():
            os.link(root / "first", place)
        else:
            place.write_text(str(kind))
            if kind > 0.9:
                (root / "first").unlink(missing_ok=True)
                os.link(place, root / "first")


@pytest.mark.parametrize("seed", range(4))
def test_a_directory_is_the_same_whether_it_is_made_in_one_go_or_relieved(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    root = tmp_path / "root"
    root.mkdir()
    results = []
    machines = []
    for name in ("whole", "relieved"):
        (tmp_path / name).mkdir()
        machines.append(Machine(tmp_path / name))
    for step in range(4):
        grow(random, root)
        for victim in random.sample(sorted(root.iterdir()), 10):
            if victim.is_dir() and not victim.is_symlink():
                (victim / "more").write_text("x")
            else:
                victim.unlink()
        for machine, limit in zip(machines, (100_000, 16), strict=True):
            numbers = Random(seed * 100 + step)
            result = machine.scan(root, node_source=partial(numbers.getrandbits, 63), large_entries=limit)
            again = machine.scan(root)
            assert again.root == result.root and again.directories_reused > 0 and again.files_read == 0
            results.append((result.root, result.links, result.entry_count, result.total_bytes))
        assert results[-1] == results[-2]


def test_what_was_lost_leaves_no_trace_in_a_relieved_directory() -> None:
    for lost in ({3}, {0, 9}, set(range(10)), set()):
        ends = []
        for limit in (100, 4):
            store, made = MemoryStore(), listing.Listing()
            for number in range(10):
                entry = Entry(name=b"%d" % number, kind=ENTRY_FIFO)
                made.entries.append(None if number in lost else entry)
                made.keys += bytes([number]) * listing.KEY_BYTES
                if len(made.entries) - made.packed_count >= limit:
                    made.relieve(store, has_subdirectories=True, large=limit)
            ends.append(made.finish(store))
        assert ends[0] == ends[1] and len(ends[0][2]) == (10 - len(lost)) * listing.KEY_BYTES
