"""First names of hard-linked files: found by number and inode, and a restore that reads the links table once."""

import os
import random
from pathlib import Path

from host_kit import Machine, restore_tree

from dalsegno.host.links import SLOTS_MIN, FirstNames

SEED = 20261130


def test_first_names_are_found_by_number_and_by_the_inode_last_noted(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    names = FirstNames()
    links = chance.sample(range(1, 2**63), 3 * SLOTS_MIN)
    by_inode: dict[int, int] = {}
    for number, link in enumerate(links):
        inode = chance.randrange(1, 2 * SLOTS_MIN)
        names.add(link, b"a/%d" % (number // 7), b"n%d" % number, inode)
        by_inode[inode] = link
    for number, link in enumerate(links):
        row = names.find(link)
        assert row is not None and names.link(row) == link
        assert (names.directory(row), names.name(row)) == (b"a/%d" % (number // 7), b"n%d" % number)
    assert all(names.link_of_inode(inode) == link for inode, link in by_inode.items())
    assert names.find(links[0] ^ 1) is None and names.link_of_inode(5 * SLOTS_MIN) is None


def test_hard_links_of_many_directories_come_back_and_cost_one_reading_of_the_table(
    machine: Machine, tmp_path: Path
) -> None:
    """Kind of fault: a cost for each entry that grows with what lies around it."""
    root = tmp_path / "root"
    for tree in ("one", "two", "three"):
        for directory in range(20):
            (root / tree / f"d{directory:02}").mkdir(parents=True)
    for number in range(300):
        place = f"d{number % 20:02}/f{number:04}"
        (root / "one" / place).write_bytes(b"%d" % number)
        for tree in ("two", "three"):
            os.link(root / "one" / place, root / tree / place)
    machine.scan(root)
    assert machine.revision is not None
    target = tmp_path / "target"
    for _ in range(2):
        machine.store.gets = 0
        result = restore_tree(machine.store, machine.revision, target)
        assert not result.failed and machine.store.gets < 150  # 64 directories, and the table's nodes
        inodes = {os.stat(target / "one" / f"d{n % 20:02}/f{n:04}").st_ino for n in range(300)}
        assert len(inodes) == 300
        for number in range(300):
            place = f"d{number % 20:02}/f{number:04}"
            stats = {os.stat(target / tree / place).st_ino for tree in ("one", "two", "three")}
            assert len(stats) == 1 and (target / "one" / place).stat().st_nlink == 3
    assert (result.created, result.updated, result.deleted) == (0, 0, 0)


def test_a_name_that_stands_in_the_way_of_a_hard_link_is_replaced(machine: Machine, tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "target"
    (root / "b").mkdir(parents=True)
    (root / "a").write_bytes(b"content")
    os.link(root / "a", root / "b" / "also")
    machine.scan(root)
    assert machine.revision is not None
    (target / "b").mkdir(parents=True)
    (target / "b" / "also").write_bytes(b"another")
    result = restore_tree(machine.store, machine.revision, target)
    assert not result.failed
    assert os.stat(target / "a").st_ino == os.stat(target / "b" / "also").st_ino
    assert sorted(os.listdir(target / "b")) == ["also"]
