"""Shares k of n: any k restore, lost and damaged ones are made again."""

import itertools
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_kit import DiskMaker, flip, label, make_dump

from dalsegno.archive.shares import SharesTarget
from dalsegno.archive.targets import Incomplete
from dalsegno.backup.policy import SharesPolicy
from dalsegno.backup.records import BAD, GOOD, MISSING, usable_copies
from dalsegno.formats.media import LABEL_NAME
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pack_verify import verify
from dalsegno.terms.errors import Damaged, Full, Refused, Unavailable
from dalsegno.terms.events import Event
from kit import REALM

MIB = 1024 * 1024


def shares(root: Path, *, k: int = 3, n: int = 5, labelled: bool = True) -> SharesTarget:
    paths = tuple(root / f"dir{number}" for number in range(n))
    for number, path in enumerate(paths):
        if labelled and not (path / LABEL_NAME).exists():
            label(path, f"share-{number}", target="grid", kind="shares")
    return SharesTarget(SharesPolicy(name="grid", paths=paths, k=k, n=n))


def files(root: Path) -> list[str]:
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "LABEL" not in path.name
    )


def lose(root: Path, number: int) -> None:
    shutil.rmtree(root / f"dir{number}")
    (root / f"dir{number}").mkdir()


@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 3), (2, 2), (3, 5), (20, 30)])
@pytest.mark.parametrize("size", [0, 1, 700_001, 3 * MIB + 17])
def test_any_k_shares_give_the_dump(tmp_path: Path, k: int, n: int, size: int) -> None:
    target = shares(tmp_path, k=k, n=n)
    entry = make_dump(tmp_path / "home.dump", size_bytes=size)
    data = (tmp_path / "home.dump").read_bytes()
    copies = target.store(tmp_path / "home.dump", entry, now_ns=3)
    assert [(copy.part, copy.parts, copy.needed) for copy in copies] == [(part, n, k) for part in range(n)]
    taken = [(tmp_path / f"dir{copy.part}" / copy.place).stat().st_size for copy in copies]
    assert all(0 < room - copy.size_bytes < 2000 for room, copy in zip(taken, copies, strict=True)), (taken, copies)
    chance = random.Random(1)
    for some in [copies[:k], copies[-k:], *(chance.sample(copies, k) for _ in range(10))]:
        target.fetch(some, entry, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data
    if k > 1:
        with pytest.raises(Unavailable, match=f"{k - 1} of {k} needed shares"):
            target.fetch(copies[: k - 1], entry, tmp_path / "back")


def test_lost_directories_are_rebuilt_byte_for_byte(tmp_path: Path) -> None:
    target = shares(tmp_path)
    entry = make_dump(tmp_path / "home.dump", size_bytes=2 * MIB)
    copies = target.store(tmp_path / "home.dump", entry, now_ns=3)
    before = [(tmp_path / f"dir{number}" / copies[number].place).read_bytes() for number in range(5)]
    for first, second in itertools.combinations(range(5), 2):
        lose(tmp_path, first), lose(tmp_path, second)
        target = shares(tmp_path)
        rest = [copy for copy in copies if copy.part not in (first, second)]
        made = target.repair(rest, entry, now_ns=3)
        assert [copy.part for copy in made] == [first, second]
        assert [(tmp_path / f"dir{number}" / copies[number].place).read_bytes() for number in range(5)] == before
    assert target.repair(copies, entry, now_ns=3) == []


def test_a_lost_directory_given_a_new_name_takes_the_lost_share(tmp_path: Path) -> None:
    target = shares(tmp_path)
    entry = make_dump(tmp_path / "home.dump", size_bytes=1000)
    copies = target.store(tmp_path / "home.dump", entry, now_ns=3)
    lose(tmp_path, 1)
    label(tmp_path / "dir1", "new-disk", target="grid", kind="shares")
    (made,) = target.repair([copy for copy in copies if copy.part != 1], entry, now_ns=3)
    assert (made.medium, made.part) == ("new-disk", 1)


def test_damage_in_every_share_is_survived_where_k_chunks_of_a_stripe_are_whole(tmp_path: Path) -> None:
    target = shares(tmp_path)
    entry = make_dump(tmp_path / "home.dump", size_bytes=4 * MIB)
    copies = target.store(tmp_path / "home.dump", entry, now_ns=3)
    size = (tmp_path / "dir0" / copies[0].place).stat().st_size
    for number in range(5):  # another stripe in each share
        flip(tmp_path / f"dir{number}" / copies[number].place, size - 1000 - number * 270_000)
    assert [target.check(copy, entry) for copy in copies] == [BAD] * 5
    target.fetch(copies, entry, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "home.dump").read_bytes()
    made = target.repair(copies, entry, now_ns=3)
    assert [copy.part for copy in made] == [0, 1, 2, 3, 4]
    assert [target.check(copy, entry) for copy in copies] == [GOOD] * 5


def test_too_much_damage_is_told_and_nothing_is_given(tmp_path: Path) -> None:
    target = shares(tmp_path)
    entry = make_dump(tmp_path / "home.dump", size_bytes=1000)
    copies = target.store(tmp_path / "home.dump", entry, now_ns=3)
    for number in range(3):
        flip(tmp_path / f"dir{number}" / copies[number].place)
    with pytest.raises(Damaged, match="2 whole chunks, 3 are needed"):
        target.fetch(copies, entry, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_shares_of_another_dump_do_not_mix_in(tmp_path: Path) -> None:
    target = shares(tmp_path)
    one = make_dump(tmp_path / "one.dump", size_bytes=1000, seed=1)
    two = make_dump(tmp_path / "two.dump", size_bytes=1000, seed=2)
    copies = target.store(tmp_path / "one.dump", one, now_ns=3)
    others = target.store(tmp_path / "two.dump", two, now_ns=3)
    for number in range(3):
        shutil.copy(tmp_path / f"dir{number}" / others[number].place, tmp_path / f"dir{number}" / copies[number].place)
    assert target.check(copies[0], one) == BAD
    with pytest.raises(Unavailable, match="2 of 3 needed shares"):
        target.fetch(copies, one, tmp_path / "back")


def test_absent_directories_are_told_and_repaired_later(tmp_path: Path) -> None:
    target = shares(tmp_path)
    (tmp_path / "dir2").rename(tmp_path / "away2")
    (tmp_path / "dir4").rename(tmp_path / "away4")
    entry = make_dump(tmp_path / "home.dump", size_bytes=1000)
    with pytest.raises(Incomplete, match="3 of 5 shares are stored") as short:
        target.store(tmp_path / "home.dump", entry, now_ns=3)
    copies = short.value.copies
    assert [copy.part for copy in copies] == [0, 1, 3] and len(usable_copies(copies)) == 1
    (tmp_path / "dir3").rename(tmp_path / "away3")
    with pytest.raises(Unavailable, match=r"2 of 5 directories.*at least 3 must"):
        target.store(tmp_path / "home.dump", entry, now_ns=3)
    with pytest.raises(Unavailable, match="not here: share-3"):
        target.fetch(copies, entry, tmp_path / "back")
    for number in (2, 3, 4):
        (tmp_path / f"away{number}").rename(tmp_path / f"dir{number}")
    assert [copy.part for copy in target.repair(copies, entry, now_ns=3)] == [2, 4]


def test_directories_of_another_target_are_refused(tmp_path: Path) -> None:
    paths = tuple(label(tmp_path / f"dir{number}", f"x{number}", target="other", kind="shares") for number in range(3))
    target = SharesTarget(SharesPolicy(name="grid", paths=paths, k=2, n=3))
    entry = make_dump(tmp_path / "home.dump", size_bytes=1000)
    with pytest.raises(Refused, match=r"'x0' of target 'other'.*'grid'"):
        target.store(tmp_path / "home.dump", entry, now_ns=3)


def test_a_full_directory_loses_its_share_only(tmp_path: Path, disks: DiskMaker) -> None:
    disks.real("dir1", mib=1)
    target = shares(tmp_path)
    entry = make_dump(tmp_path / "home.dump", size_bytes=6 * MIB)
    with pytest.raises(Incomplete, match="4 of 5 shares are stored") as short:
        target.store(tmp_path / "home.dump", entry, now_ns=3)
    copies = short.value.copies
    assert [copy.part for copy in copies] == [0, 2, 3, 4] and files(tmp_path / "dir1") == []
    target.fetch(copies, entry, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "home.dump").read_bytes()
    with pytest.raises(Full):
        target.repair(copies, entry, now_ns=3)
    assert files(tmp_path / "dir1") == []


def test_an_interrupted_fetch_of_shares_goes_on_where_it_was(tmp_path: Path) -> None:
    target = shares(tmp_path)
    entry = make_dump(tmp_path / "home.dump", size_bytes=5 * MIB)
    copies = target.store(tmp_path / "home.dump", entry, now_ns=3)
    seen: list[int] = []

    def stop(event: Event) -> None:
        seen.append(event.done_bytes)  # type: ignore[union-attr]
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        target.fetch(copies, entry, tmp_path / "back", report=stop)
    begun = (tmp_path / "back.partial").stat().st_size
    with open(tmp_path / "back.partial", "ab") as file:
        file.write(b"torn")
    target.fetch(copies, entry, tmp_path / "back", report=lambda event: seen.append(event.done_bytes))  # type: ignore[union-attr]
    assert seen[3] > begun and (tmp_path / "back").read_bytes() == (tmp_path / "home.dump").read_bytes()
    (tmp_path / "back").rename(tmp_path / "back.partial")
    flip(tmp_path / "back.partial", 10)
    target.fetch(copies, entry, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "home.dump").read_bytes()


def test_shares_are_read_in_place_as_one_dump(tmp_path: Path) -> None:
    target = shares(tmp_path)
    entry = make_dump(tmp_path / "home.dump", size_bytes=3 * MIB)
    copies = target.store(tmp_path / "home.dump", entry, now_ns=3)
    lose(tmp_path, 1)
    flip(tmp_path / "dir0" / copies[0].place)
    data = (tmp_path / "home.dump").read_bytes()
    file = target.open_read(copies, entry)
    chance = random.Random(3)
    for _ in range(50):
        offset, length = chance.randrange(len(data) + 10), chance.randrange(MIB)
        assert file.read_at(offset, length) == data[offset : offset + length]
    with PackReader.open(file, REALM) as reader:
        assert list(verify(reader)) == []
    lose(tmp_path, 2), lose(tmp_path, 3)
    assert target.open_read(copies, entry) is None


def test_scan_tells_all_from_any_share(tmp_path: Path) -> None:
    target = shares(tmp_path)
    entry = make_dump(tmp_path / "home.dump", size_bytes=1000)
    copies = target.store(tmp_path / "home.dump", entry, now_ns=3)
    found = list(target.scan())
    assert [each.copy.place for each in found] == [copy.place for copy in copies]
    for each in found:
        assert (each.header.dump_digest, each.header.set_name) == (entry.digest, "homes")
        assert each.header.head == (tmp_path / "home.dump").read_bytes()[: len(each.header.head)] != b""
    target.remove(copies[0])
    assert target.check(copies[0], entry) == MISSING and len(list(target.scan())) == 4
    assert len(target.present()) == 5


def test_killed_or_full_at_any_step_shares_are_finished_by_the_next_run(
    tmp_path: Path, in_children: Callable[[Callable[[], object], str], int]
) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=300_000)
    data = (tmp_path / "home.dump").read_bytes()
    step = 0
    while True:
        step += 1
        codes = []
        for fault in (f"kill:{step}", f"full:{step}"):
            work = tmp_path / fault.replace(":", "-")
            target = shares(work, k=2, n=3)

            def whole_run(target: SharesTarget = target, work: Path = work) -> None:
                target.fetch(target.store(tmp_path / "home.dump", entry, now_ns=1), entry, work / "back")

            codes.append(in_children(whole_run, fault))
            copies = target.store(tmp_path / "home.dump", entry, now_ns=2)
            assert len(copies) == 3
            target.fetch(copies, entry, work / "back")
            assert (work / "back").read_bytes() == data
            assert sum(len(files(work / f"dir{number}")) for number in range(3)) == 3, fault
            shutil.rmtree(work)
        if codes == [0, 0]:
            break
        assert codes[0] == -9 and codes[1] in (0, 9, 10), (step, codes)
    assert step > 15
