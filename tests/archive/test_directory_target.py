"""Labelled disks: real small ones that fill up, are swapped, torn and damaged."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_kit import DiskMaker, directory_policy, flip, label, make_dump, move_disk

from dalsegno.archive.directory import DirectoryTarget
from dalsegno.archive.labels import read_label, write_label
from dalsegno.archive.targets import Incomplete
from dalsegno.backup.media_plan import PlannedPart, Room, plan_parts
from dalsegno.backup.records import BAD, GOOD, MISSING, Copy, DumpEntry
from dalsegno.formats import media as format
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pack_verify import verify
from dalsegno.terms.errors import AlreadyThere, BadInput, DalError, Damaged, Full, Refused, TooNew, Unavailable
from dalsegno.terms.events import Event, Note
from kit import REALM

MIB = 1024 * 1024


def files(root: Path) -> list[str]:
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "LABEL" not in path.name
    )


def fetch(target: DirectoryTarget, copies: list[Copy], entry: DumpEntry, to: Path) -> bytes:
    target.fetch(copies, entry, to)
    return to.read_bytes()


# Deciding what goes where


def rooms(*frees: int) -> list[Room]:
    return [Room(label=f"d{number}", free_bytes=free) for number, free in enumerate(frees)]


@pytest.mark.parametrize(
    ("size", "offset", "frees", "slice_bytes", "planned", "rest"),
    [
        (4 * MIB, 0, (9 * MIB,), None, [("d0", 0, 4 * MIB, True)], 0),
        (4 * MIB, 0, (2 * MIB, 9 * MIB), None, [("d1", 0, 4 * MIB, True)], 0),
        (
            4 * MIB,
            0,
            (3 * MIB, 3 * MIB),
            None,
            [("d0", 0, 3 * MIB - 10, False), ("d1", 3 * MIB - 10, MIB + 10, False)],
            0,
        ),
        (4 * MIB, 3 * MIB, (9 * MIB,), None, [("d0", 3 * MIB, MIB, False)], 0),
        (4 * MIB, 0, (9 * MIB,), 3 * MIB, [("d0", 0, 3 * MIB, False), ("d0", 3 * MIB, MIB, False)], 0),
        (4 * MIB, 0, (3 * MIB,), None, [("d0", 0, 3 * MIB - 10, False)], MIB + 10),
        (4 * MIB, 0, (MIB // 2, 0), None, [], 4 * MIB),
        (100, 0, (), None, [], 100),
        (100, 50, (70,), None, [("d0", 50, 50, False)], 0),
    ],
)
def test_plan_keeps_a_dump_whole_where_it_can(
    size: int, offset: int, frees: tuple[int, ...], slice_bytes: int | None, planned: list, rest: int
) -> None:
    expected = [PlannedPart(label=label, offset=at, length=length, whole=whole) for label, at, length, whole in planned]
    found = plan_parts(size_bytes=size, offset=offset, rooms=rooms(*frees), slice_bytes=slice_bytes, overhead_bytes=10)
    assert found == (expected, rest)


# Labels


def test_a_label_is_written_once_and_read_back(tmp_path: Path) -> None:
    made = write_label(tmp_path, label='week "1" \\', target="disks", kind="directory", now_ns=0)
    assert read_label(tmp_path) == made and made.created == "1970-01-01T00:00:00Z"
    with pytest.raises(AlreadyThere, match="is labelled 'week"):
        write_label(tmp_path, label="other", target="disks", kind="directory", now_ns=0)
    assert read_label(tmp_path) == made


@pytest.mark.parametrize("name", ["", " x", "a\nb", "x" * 101])
def test_a_label_nobody_could_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="label"):
        write_label(tmp_path, label=name, target="disks", kind="directory", now_ns=0)


def test_a_damaged_or_newer_label_is_told(tmp_path: Path) -> None:
    label(tmp_path / "a", "one")
    place = tmp_path / "a" / format.LABEL_NAME
    text = place.read_text()
    place.write_text(text.replace('"one"', '"two"'))
    with pytest.raises(Damaged, match="checksum"):
        read_label(tmp_path / "a")
    place.write_text(text.replace("version = 1", "version = 2"))
    with pytest.raises(TooNew):
        read_label(tmp_path / "a")


def test_an_unlabelled_directory_is_never_written_to(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "a.dump", size_bytes=1000)
    (tmp_path / "mnt").mkdir()
    with pytest.raises(Unavailable, match=r"no medium is here.*dal media label"):
        DirectoryTarget(directory_policy(tmp_path / "mnt")).store(tmp_path / "a.dump", entry, now_ns=1)
    assert list((tmp_path / "mnt").iterdir()) == []


def test_a_disk_of_another_set_is_refused_naming_both(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "a.dump", size_bytes=1000)
    stranger = label(tmp_path / "mnt", "mail-3", target="mails")
    with pytest.raises(Refused, match=r"'mail-3' of target 'mails'.*wanted is .*'disks'") as refused:
        DirectoryTarget(directory_policy(stranger)).store(tmp_path / "a.dump", entry, now_ns=1)
    assert refused.value.exit_code == 4
    ours = label(tmp_path / "week", "week-1")
    with pytest.raises(Refused, match="'week-1'"):
        DirectoryTarget(directory_policy(ours, labels=("month-*",))).store(tmp_path / "a.dump", entry, now_ns=1)
    assert files(stranger) == files(ours) == []


def test_two_disks_with_one_label_are_refused(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "a.dump", size_bytes=1000)
    paths = [label(tmp_path / name, "week-1") for name in "ab"]
    with pytest.raises(Refused, match="two media are labelled 'week-1'"):
        DirectoryTarget(directory_policy(*paths)).store(tmp_path / "a.dump", entry, now_ns=1)


# Whole dumps


def test_a_dump_is_stored_read_back_fetched_and_removed(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=3 * MIB)
    disk = label(tmp_path / "mnt", "week-1")
    target = DirectoryTarget(directory_policy(disk))
    copies = target.store(tmp_path / "home.dump", entry, now_ns=77)
    (copy,) = copies
    assert (copy.medium, copy.size_bytes, copy.verdict, copy.written_at_ns) == ("week-1", entry.size_bytes, GOOD, 77)
    name = f"dumps/home.{entry.dump_id.hex()[:12]}.dump"
    assert copy.place == name and files(disk) == [name, name + ".note"]
    assert target.open_read(copies, entry) == disk / name
    assert fetch(target, copies, entry, tmp_path / "back") == (tmp_path / "home.dump").read_bytes()
    assert target.check(copy, entry) == GOOD
    target.remove(copy)
    assert files(disk) == []
    assert target.check(copy, entry) == MISSING
    target.remove(copy)


def test_copies_go_to_different_disks(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=1000)
    paths = [label(tmp_path / name, name) for name in ("one", "two", "three")]
    target = DirectoryTarget(directory_policy(*paths, copies=2))
    copies = target.store(tmp_path / "home.dump", entry, now_ns=1)
    assert [(copy.medium, copy.number) for copy in copies] == [("one", 1), ("two", 2)]
    assert target.store(tmp_path / "home.dump", entry, now_ns=1) == copies


def test_a_missing_second_disk_leaves_the_first_copy_to_be_recorded(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=1000)
    target = DirectoryTarget(directory_policy(label(tmp_path / "one", "one"), tmp_path / "two", copies=2))
    with pytest.raises(Incomplete, match=r"1 of 2 copies made.*'one' holds a copy already") as incomplete:
        target.store(tmp_path / "home.dump", entry, now_ns=1)
    assert [copy.medium for copy in incomplete.value.copies] == ["one"]
    label(tmp_path / "two", "two")
    assert [copy.medium for copy in target.store(tmp_path / "home.dump", entry, now_ns=1)] == ["one", "two"]


def test_a_dump_that_changed_since_it_was_verified_is_not_archived(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=2 * MIB)
    disk = label(tmp_path / "mnt", "week-1")
    flip(tmp_path / "home.dump", MIB)
    for changes in ({}, {"slice_bytes": MIB}):
        with pytest.raises(Damaged, match="not the dump that was verified"):
            DirectoryTarget(directory_policy(disk, **changes)).store(tmp_path / "home.dump", entry, now_ns=1)
        assert files(disk) == []


def test_damage_on_the_disk_is_found_by_check_fetch_and_store(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=MIB)
    disk = label(tmp_path / "mnt", "week-1")
    target = DirectoryTarget(directory_policy(disk))
    copies = target.store(tmp_path / "home.dump", entry, now_ns=1)
    flip(disk / copies[0].place, 1000)
    assert target.check(copies[0], entry) == BAD
    with pytest.raises(Damaged, match="take another copy"):
        target.fetch(copies, entry, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert target.store(tmp_path / "home.dump", entry, now_ns=2)[0].verdict == GOOD  # written anew, not believed
    assert target.check(copies[0], entry) == GOOD


# Full disks and slices


def test_a_full_disk_leads_to_the_next_of_the_set(tmp_path: Path, disks: DiskMaker) -> None:
    first, second = disks.real("one", mib=2), disks.real("two", mib=8)
    for number, disk in enumerate((first, second), 1):
        label(disk.path, f"week-{number}")
    target = DirectoryTarget(directory_policy(first.path, second.path))
    places = []
    for number in range(3):
        entry = make_dump(tmp_path / f"{number}.dump", size_bytes=int(1.2 * MIB), seed=number)
        places += [copy.medium for copy in target.store(tmp_path / f"{number}.dump", entry, now_ns=1)]
    assert places == ["week-1", "week-2", "week-2"]


def test_a_dump_larger_than_every_disk_spans_them_in_slices(tmp_path: Path, disks: DiskMaker) -> None:
    paths = []
    for number in range(3):
        disk = disks.real(f"disk{number}", mib=2)
        paths.append(label(disk.path, f"week-{number}"))
    entry = make_dump(tmp_path / "home.dump", size_bytes=int(4.5 * MIB))
    target = DirectoryTarget(directory_policy(*paths))
    copies = target.store(tmp_path / "home.dump", entry, now_ns=1)
    assert [copy.medium for copy in copies] == ["week-0", "week-1", "week-2"]
    assert {(copy.parts, copy.needed) for copy in copies} == {(3, 3)}
    assert sum(copy.size_bytes for copy in copies) == entry.size_bytes
    assert fetch(target, copies, entry, tmp_path / "back") == (tmp_path / "home.dump").read_bytes()
    assert target.store(tmp_path / "home.dump", entry, now_ns=1) == copies  # found, not written again
    assert [target.check(copy, entry) for copy in copies] == [GOOD] * 3
    flip(paths[1] / copies[1].place, 4000)
    assert target.check(copies[1], entry) == BAD
    with pytest.raises(Damaged, match="take another copy"):
        target.fetch(copies, entry, tmp_path / "again")
    found = [each.header for each in target.scan()]
    assert [header.offset for header in found] == [0, copies[0].size_bytes, copies[0].size_bytes + copies[1].size_bytes]
    for copy in copies:
        target.remove(copy)
    assert all(files(path) == [] for path in paths)


def test_too_little_room_everywhere_is_said_before_anything_is_written(tmp_path: Path, disks: DiskMaker) -> None:
    disk = disks.real("one", mib=2)
    label(disk.path, "week-1")
    entry = make_dump(tmp_path / "home.dump", size_bytes=5 * MIB)
    with pytest.raises(Full, match=r"'week-1' takes .* MiB.*insert") as full:
        DirectoryTarget(directory_policy(disk.path)).store(tmp_path / "home.dump", entry, now_ns=1)
    assert full.value.exit_code == 10 and files(disk.path) == []


def test_a_disk_that_lies_about_its_room_is_left_for_the_next(tmp_path: Path, disks: DiskMaker) -> None:
    disk, other = disks.real("one", mib=3), disks.real("two", mib=8)
    label(disk.path, "week-1"), label(other.path, "week-2")
    events: list[Event] = []

    entry = make_dump(tmp_path / "home.dump", size_bytes=4 * MIB)
    # What a quota does: statvfs knows nothing of it.
    target = DirectoryTarget(directory_policy(disk.path, other.path), free_bytes=lambda path: 100 * MIB)
    copies = target.store(tmp_path / "home.dump", entry, now_ns=1, report=events.append)
    assert [copy.medium for copy in copies] == ["week-2"]  # whole, although the first took a beginning of it
    assert any(isinstance(event, Note) and "going on with the next" in event.text for event in events)
    assert files(disk.path) == []
    assert fetch(target, copies, entry, tmp_path / "back") == (tmp_path / "home.dump").read_bytes()


def test_a_person_is_asked_for_disk_after_disk(tmp_path: Path, disks: DiskMaker) -> None:
    drive, shelf = tmp_path / "drive", [disks.real(f"disk{number}", mib=2) for number in range(3)]
    for number, disk in enumerate(shelf):
        label(disk.path, f"week-{number}")
    questions: list[str] = []

    def change_disk(to: int) -> None:
        for number, disk in enumerate(shelf):
            if disk.path == drive:
                move_disk(disk, tmp_path / f"disk{number}")
        move_disk(shelf[to], drive)

    def next_disk(question: str) -> bool:
        questions.append(question)
        change_disk(len(questions))
        return True

    entry = make_dump(tmp_path / "home.dump", size_bytes=int(4.5 * MIB))
    change_disk(0)
    target = DirectoryTarget(directory_policy(drive), ask=next_disk)
    copies = target.store(tmp_path / "home.dump", entry, now_ns=1)
    assert [copy.medium for copy in copies] == ["week-0", "week-1", "week-2"]
    assert len(questions) == 2 and "room for" in questions[0] and str(drive) in questions[0]

    def wanted_disk(question: str) -> bool:
        questions.append(question)
        change_disk(int(question.partition("week-")[2][0]))
        return True

    questions.clear()
    target = DirectoryTarget(directory_policy(drive), ask=wanted_disk)
    assert fetch(target, copies, entry, tmp_path / "back") == (tmp_path / "home.dump").read_bytes()
    assert len(questions) == 3  # the drive held the last disk
    with pytest.raises(Refused, match=r"'week-2' of target 'disks'.*wanted is 'week-0'"):
        DirectoryTarget(directory_policy(drive)).fetch(copies, entry, tmp_path / "unasked")
    with pytest.raises(Full):
        DirectoryTarget(directory_policy(drive), ask=lambda _: False).store(
            tmp_path / "home.dump", make_dump(tmp_path / "home.dump", size_bytes=5 * MIB, seed=9), now_ns=1
        )
    assert len(files(drive)) == 1  # what could not be finished gave its room back


def test_a_disk_swapped_while_a_dump_is_written_is_refused_naming_both(tmp_path: Path) -> None:
    drive, other = label(tmp_path / "drive", "week-1"), label(tmp_path / "other", "week-2")
    entry = make_dump(tmp_path / "home.dump", size_bytes=2 * MIB)

    def swap(event: Event) -> None:
        if getattr(event, "phase", "") == "read back":
            shutil.copy(other / format.LABEL_NAME, drive / format.LABEL_NAME)

    with pytest.raises(Refused, match="'week-1' was here, now there is medium 'week-2'"):
        DirectoryTarget(directory_policy(drive)).store(tmp_path / "home.dump", entry, now_ns=1, report=swap)


def test_bytes_that_go_wrong_on_the_way_are_found_by_the_read_back(tmp_path: Path) -> None:
    disk = label(tmp_path / "drive", "week-1")
    entry = make_dump(tmp_path / "home.dump", size_bytes=2 * MIB)
    for changes in ({}, {"slice_bytes": 2 * MIB - 1000}):

        def rot(event: Event) -> None:
            if getattr(event, "phase", "") == "read back" and event.done_bytes == MIB:  # type: ignore[union-attr]
                flip(next(path for path in disk.glob("dumps/*") if "note" not in path.name), -60)

        with pytest.raises(Damaged):
            DirectoryTarget(directory_policy(disk, **changes)).store(
                tmp_path / "home.dump", entry, now_ns=1, report=rot
            )
        assert files(disk) == []


def test_slices_are_read_in_place_as_one_dump(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=3 * MIB)
    paths = [label(tmp_path / name, name) for name in ("one", "two")]
    target = DirectoryTarget(directory_policy(*paths, slice_bytes=700_001))
    copies = target.store(tmp_path / "home.dump", entry, now_ns=1)
    file = target.open_read(copies[::-1], entry)
    data = (tmp_path / "home.dump").read_bytes()
    chance = random.Random(3)
    for _ in range(200):
        offset, length = chance.randrange(len(data) + 10), chance.randrange(MIB)
        assert file.read_at(offset, length) == data[offset : offset + length]
    with PackReader.open(file, REALM) as reader:
        assert list(verify(reader)) == []
    assert target.open_read(copies[1:], entry) is None
    (paths[0] / copies[0].place).unlink()
    assert target.open_read(copies, entry) is None


# Going on after an interruption


def test_an_interrupted_fetch_goes_on_where_it_was(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=5 * MIB)
    disk = label(tmp_path / "drive", "week-1")
    for changes in ({}, {"slice_bytes": 2 * MIB}):
        target = DirectoryTarget(directory_policy(disk, **changes))
        copies = target.store(tmp_path / "home.dump", entry, now_ns=1)
        fetched: list[int] = []

        def stop(event: Event, fetched: list[int] = fetched) -> None:
            fetched.append(event.done_bytes)  # type: ignore[union-attr]
            if len(fetched) == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            target.fetch(copies, entry, tmp_path / "back", report=stop)
        begun = (tmp_path / "back.partial").stat().st_size
        assert 0 < begun < entry.size_bytes
        fetched.clear()
        fetched.extend([0, 0, 0])
        target.fetch(copies, entry, tmp_path / "back", report=stop)
        assert fetched[3] > begun and (tmp_path / "back").read_bytes() == (tmp_path / "home.dump").read_bytes()
        (tmp_path / "back").unlink()
        for copy in copies:
            target.remove(copy)


def test_a_torn_beginning_of_a_fetch_is_fetched_again(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=3 * MIB)
    target = DirectoryTarget(directory_policy(label(tmp_path / "drive", "week-1")))
    copies = target.store(tmp_path / "home.dump", entry, now_ns=1)
    for torn in (b"\0" * MIB, b"\0" * 9 * MIB):
        (tmp_path / "back.partial").write_bytes(torn)
        assert fetch(target, copies, entry, tmp_path / "back") == (tmp_path / "home.dump").read_bytes()


@pytest.mark.parametrize("changes", [{}, {"slice_bytes": 700_000}], ids=["whole", "slices"])
def test_killed_or_full_at_any_step_the_next_run_finishes_and_leaves_nothing_half(
    tmp_path: Path, changes: dict, in_children: Callable
) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=int(1.3 * MIB))
    data = (tmp_path / "home.dump").read_bytes()

    def rehearse(fault: str) -> int:
        work = tmp_path / fault.replace(":", "-")
        disk = label(work / "drive", "week-1")
        target = DirectoryTarget(directory_policy(disk, **changes))

        def whole_run() -> None:
            target.fetch(target.store(tmp_path / "home.dump", entry, now_ns=1), entry, work / "back")

        code = in_children(whole_run, fault)
        if (work / "back").exists():
            assert (work / "back").read_bytes() == data
        copies = target.store(tmp_path / "home.dump", entry, now_ns=2)
        target.fetch(copies, entry, work / "back")
        assert (work / "back").read_bytes() == data
        known = {str(disk / copy.place) for copy in copies}
        stray = [path for path in files(disk) if str(disk / path) not in known and not path.endswith(".note")]
        assert stray == [], fault
        shutil.rmtree(work)
        return code

    step, codes = 1, []
    while True:
        codes.append(rehearse(f"kill:{step}"))
        if codes[-1] == 0:
            break
        assert codes[-1] == -9
        codes.append(rehearse(f"full:{step}"))
        assert codes[-1] in (10, 0), step
        step += 1
    assert step > 10


def test_scan_tells_all_that_the_catalog_knew(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=MIB)
    disk = label(tmp_path / "drive", "week-1")
    target = DirectoryTarget(directory_policy(disk))
    (copy,) = target.store(tmp_path / "home.dump", entry, now_ns=5)
    (disk / "dumps" / "junk.dump").write_bytes(b"junk")
    shutil.copy(tmp_path / "home.dump", disk / "dumps" / "by-hand.dump")
    notes: list[Event] = []
    found = {each.copy.place: each.header for each in target.scan(report=notes.append)}
    assert set(found) == {copy.place, "dumps/by-hand.dump"}
    header = found[copy.place]
    assert (header.dump_id, header.dump_digest, header.dump_bytes) == (entry.dump_id, entry.digest, entry.size_bytes)
    assert (header.set_name, header.host, header.received_at_ns) == ("homes", "tester", entry.received_at_ns)
    assert (header.raw_bytes, header.entry_count, header.written_at_ns) == (70, 7, 5)
    by_hand = found["dumps/by-hand.dump"]
    assert (by_hand.dump_id, by_hand.dump_digest, by_hand.head) == (entry.dump_id, entry.digest, header.head)
    assert [event.path for event in notes if isinstance(event, Note)] == [bytes(disk / "dumps" / "junk.dump")]
    assert target.present()[0].label == "week-1" and target.present()[0].capacity_bytes > 0


def test_unexpected_errors_are_of_our_tree(tmp_path: Path) -> None:
    entry = make_dump(tmp_path / "home.dump", size_bytes=1000)
    disk = label(tmp_path / "drive", "week-1")
    (disk / "dumps").write_text("a file where a directory should be")
    with pytest.raises(DalError):
        DirectoryTarget(directory_policy(disk)).store(tmp_path / "home.dump", entry, now_ns=1)


def test_names_on_media_have_no_colon_and_those_that_have_are_found_and_read(tmp_path: Path) -> None:
    """Kind: a name that other programs and file systems cannot take; what was written under it stays readable."""
    entry = make_dump(tmp_path / "spool" / "home.2026-11-27T02:00:00Z.dump", size_bytes=100_000)
    disk = label(tmp_path / "disk", "d1")
    target = DirectoryTarget(directory_policy(disk))
    (copy,) = target.store(tmp_path / "spool" / "home.2026-11-27T02:00:00Z.dump", entry, now_ns=1)
    assert files(disk) and not any(":" in name for name in files(disk))
    old = [path.rename(path.with_name("home.2026-11-27T02:00:00Z" + path.name[22:])) for path in disk.rglob("home.*")]
    assert all(":" in path.name for path in old)
    (found,) = target.scan()
    assert found.copy.place != copy.place and fetch(target, [found.copy], entry, tmp_path / "back")
    (again,) = target.store(tmp_path / "spool" / "home.2026-11-27T02:00:00Z.dump", entry, now_ns=2)
    assert again.place == found.copy.place, "no second copy is written beside it"
