"""A walk over many files leaves a mount small."""

import os
import time
from pathlib import Path

import pytest
from mount_kit import Mount, mounted, needs_fuse

from cli_kit import User
from dalsegno.assembly.local import open_pool
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision
from dalsegno.trees.build import store_directory

pytestmark = needs_fuse

DIRECTORIES = 1_000
FILES = 200
RESIDENT_MIB_MAX = 200
"""For 200,000 files; 300 are promised for 1,000,000, and only folders cost anything for good."""


@pytest.fixture
def many(user: User) -> User:
    """A user with a native volume of 200,000 small files."""
    user.quick("init", "--encryption", "none")
    user.quick("volume", "create", "many")
    with open_pool(user.home / "pool") as house, house.pool.writer() as writer:
        state = house.volumes.get("many")
        number = 0

        def entry(name: bytes, **more: object) -> Entry:
            nonlocal number
            number += 1
            return Entry(name=name, owner=b"root", group=b"root", mtime_ns=number, node=number, **more)  # type: ignore[arg-type]

        tops = []
        for directory in range(DIRECTORIES):
            files = [
                entry(
                    b"some-file-name-%04d" % each,
                    kind=objects.ENTRY_FILE,
                    mode=0o644,
                    size=50,
                    content_kind=objects.CONTENT_INLINE,
                    content=b"%050d" % number,
                )
                for each in range(FILES)
            ]
            content = store_directory(writer, files)
            kind = {"kind": objects.ENTRY_DIRECTORY, "content_kind": objects.CONTENT_DIRECTORY, "content": content}
            tops.append(entry(b"directory-%04d" % directory, mode=0o755, **kind))
        kind = {"kind": objects.ENTRY_DIRECTORY, "content_kind": objects.CONTENT_DIRECTORY}
        root = entry(b"", mode=0o755, content=store_directory(writer, tops), **kind)
        house.volumes.commit_revision(
            writer,
            state,
            Revision(
                volume=state.id,
                parents=[],
                root=root,
                links=b"",
                created_ns=1,
                author="test",
                message="",
                entry_count=DIRECTORIES * (FILES + 1),
                total_bytes=50 * DIRECTORIES * FILES,
            ),
        )
    return user


def resident_mib(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


@pytest.mark.parametrize("words", [["many"], ["many", "--read-only"]], ids=["writable", "read-only"])
def test_walk_over_200_000_files_leaves_a_mount_small(many: User, words: list[str]) -> None:
    with mounted(many, *words) as mount:
        count = 0
        for directory, names, files in os.walk(mount.path):
            count += len(names) + len(files)
            with os.scandir(directory) as entries:
                assert all(entry.stat(follow_symlinks=False).st_mode for entry in entries)
        assert count == DIRECTORIES * (FILES + 1)
        assert resident_mib(mount.process) < RESIDENT_MIB_MAX


SHEDDING = """
import dalsegno.mount.commit as commit
import dalsegno.mount.evict as evict

commit.COMMIT_SECONDS = 1
evict.INODES_KEPT_MAX = 500
"""

TOLD = """
import sys

look = evict.InodeEvictor.look
def look_and_tell(self):
    look(self)
    words = len(self._changes.hot), len(self._changes.removed_folders)
    print("remembered", *words, file=sys.stderr, flush=True)
evict.InodeEvictor.look = look_and_tell
"""


def wait_until_few_are_remembered(mount: Mount) -> None:
    deadline = time.monotonic() + 60
    while not mount.log.strip() or int(mount.log.split()[-2]) > 600:
        assert time.monotonic() < deadline, mount.log[-500:]
        time.sleep(0.1)


def test_new_files_that_are_stored_cost_no_memory_for_long(user: User) -> None:
    """The server counts what it remembers in its log; the kernel is asked to forget, or made to where it is older."""
    user.quick("init", "--encryption", "none")
    user.quick("volume", "create", "v")
    with mounted(user, "v", before=SHEDDING + TOLD) as mount:
        for directory in range(20):
            (mount.path / f"d{directory}").mkdir()
            for number in range(200):
                (mount.path / f"d{directory}" / f"{number}").write_bytes(b"%d" % number)
        open_file = os.open(mount.path / "d0" / "0", os.O_RDWR)
        wait_until_few_are_remembered(mount)
        os.write(open_file, b"written later")
        os.close(open_file)
        assert sum(len(files) for _, _, files in os.walk(mount.path)) == 4_000
        for directory in range(20):
            for number in range(1 if directory == 0 else 0, 200, 7):
                assert (mount.path / f"d{directory}" / f"{number}").read_bytes() == b"%d" % number
        os.rename(mount.path / "d3", mount.path / "d4" / "moved")
        (mount.path / "d5" / "11").unlink()
        mount.end()
    rows = {row["path"] for row in user.value("ls", "-R", "v")}
    assert len(rows) == 4_000 - 1 + 20 and "d4/moved/7" in rows and "d5/11" not in rows
    assert user.quick("cat", "v:/d0/0").out == b"written later"


def test_what_was_there_before_and_hard_links_cost_little_once_their_changes_are_stored(user: User) -> None:
    """Kind: what is remembered for each file that was ever changed, for as long as the mount lasts."""
    files = user.home / "files"
    for directory in range(10):
        (files / f"d{directory}").mkdir(parents=True)
        for number in range(100):
            (files / f"d{directory}" / f"{number}").write_bytes(b"%d" % number)
            os.link(files / f"d{directory}" / f"{number}", files / f"d{directory}" / f"{number}-again")
    user.quick("init", "--encryption", "none")
    user.quick("import", "v", str(files))
    with mounted(user, "v", before=SHEDDING + TOLD) as mount:
        for directory in range(10):
            place = mount.path / f"d{directory}"
            for number in range(100):
                os.utime(place / f"{number}", ns=(1, 1_000_000_000 + number))
                (place / f"new{number}").write_bytes(b"new %d" % number)
                os.link(place / f"new{number}", place / f"new{number}-again")
        for number in range(50):
            (mount.path / f"gone{number}").mkdir()
            (mount.path / f"gone{number}").rmdir()
        wait_until_few_are_remembered(mount)
        assert int(mount.log.split()[-1]) == 0  # removed directories
        # Everything can be used on, by either name.
        for directory in range(10):
            place = mount.path / f"d{directory}"
            for number in range(0, 100, 3):
                status = os.stat(place / f"{number}-again")
                assert (status.st_mtime_ns, status.st_nlink) == (1_000_000_000 + number, 2)
                with open(place / f"new{number}-again", "ab") as file:
                    file.write(b" and more")
                assert (place / f"new{number}").read_bytes() == b"new %d and more" % number
            (place / "new1").rename(place / "moved")
            (place / "new2").unlink()
            (place / "4").unlink()
        wait_until_few_are_remembered(mount)
        assert os.stat(mount.path / "d3" / "4-again").st_nlink == 1
        assert os.stat(mount.path / "d3" / "moved").st_ino == os.stat(mount.path / "d3" / "new1-again").st_ino
        mount.end()
    user.quick("restore", "v", "--to", "back")
    for directory in range(10):
        place = user.home / "back" / f"d{directory}"
        assert len(os.listdir(place)) == 400 - 2
        assert (place / "moved").read_bytes() == (place / "new1-again").read_bytes() == b"new 1"
        assert (place / "new3-again").read_bytes() == b"new 3 and more"
        assert os.stat(place / "7").st_mtime_ns == 1_000_000_007 and os.stat(place / "7").st_nlink == 2
        assert os.stat(place / "4-again").st_nlink == os.stat(place / "new2-again").st_nlink == 1
