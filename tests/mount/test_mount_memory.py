"""A walk over many files leaves a mount small."""

import os
from pathlib import Path

import pytest
from mount_kit import mounted, needs_fuse

from cli_kit import User
from dalsegno.assembly import open_pool
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
