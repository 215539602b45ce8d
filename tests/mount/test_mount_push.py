"""Small files are pushed to the kernel for who reads one after the other, and only for him."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mount_kit import mounted, needs_fuse

from cli_kit import User
from dalsegno.formats import fuse, objects
from dalsegno.formats.objects import Entry
from dalsegno.mount.listing import Kept, Listings
from dalsegno.mount.push import PUSHED_FILE_BYTES_MAX, PUSHED_ROWS_FIRST, Pusher
from dalsegno.mount.readonly import ROW_BITS, Owners, Picture, ReadOnly
from dalsegno.pool.pool import Pool
from dalsegno.trees.build import store_directory
from dalsegno.world.workers import Workers

LARGE_ROW, EMPTY_ROW, COUNT = 7, 9, 200


def content_of(row: int) -> bytes:
    if row == LARGE_ROW:
        return bytes(PUSHED_FILE_BYTES_MAX + 1)
    return b"" if row == EMPTY_ROW else b"file %d" % row


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[ReadOnly]:
    """A directory of small files, with a large one and an empty one among them."""
    with Pool.create(tmp_path / "pool", encryption="none") as pool:
        with pool.writer() as writer:
            entries = []
            for row in range(COUNT):
                data = content_of(row)
                entries.append(
                    Entry(
                        name=b"%04d" % row,
                        kind=objects.ENTRY_FILE,
                        mode=0o644,
                        size=len(data),
                        content_kind=objects.CONTENT_CHUNK if data else objects.CONTENT_NONE,
                        content=bytes(writer.put(objects.KIND_CHUNK, data)) if data else b"",
                    )
                )
            content = store_directory(writer, entries)
        root = Entry(
            name=b"",
            kind=objects.ENTRY_DIRECTORY,
            mode=0o755,
            content_kind=objects.CONTENT_DIRECTORY,
            content=content,
        )
        picture = Picture(
            listings=Listings(Kept(pool)),
            root=root,
            tree=content,
            links=b"",
            identity=bytes(32),
            volume_id=b"",
            label="t",
            total_bytes=0,
            entry_count=COUNT,
        )
        yield ReadOnly(picture, None, owners=Owners(), now_ns=1)


class Heard:
    """What the kernel would have been told."""

    def __init__(self) -> None:
        self.files: dict[int, bytes] = {}
        self.wanted = True

    def __call__(self, *pieces: bytes | memoryview) -> bool:
        node, offset, length = fuse.STORE.unpack_from(pieces[0], fuse.REPLY.size)
        data = b"".join(bytes(piece) for piece in pieces[1:])
        assert offset == 0 and length == len(data)
        self.files[(node & ((1 << ROW_BITS) - 1)) - 1] = data
        return self.wanted


def pushed_after(tree: ReadOnly, *rows: int) -> dict[int, bytes]:
    """Return what is pushed, row by row, when these rows are read with a pause after each."""
    heard = Heard()
    for row in rows:
        tree.read_directory(fuse.ROOT_NODE, 0, 4096, plus=True)
        if row == rows[0]:
            pusher = Pusher(tree, heard, None)  # type: ignore[arg-type]
        with Workers(1) as crew:
            pusher._workers = crew
            pusher.noticed(tree.root.number << ROW_BITS | (row + 1))
    return heard.files


def test_second_neighbour_in_order_pushes_the_next_files(tree: ReadOnly) -> None:
    assert pushed_after(tree, 0) == {}
    found = pushed_after(tree, 0, 1)
    assert list(found) == [row for row in range(2, 2 + PUSHED_ROWS_FIRST) if row not in (LARGE_ROW, EMPTY_ROW)]
    assert all(data == content_of(row) for row, data in found.items())


def test_reader_who_comes_to_the_end_of_what_was_pushed_gets_more(tree: ReadOnly) -> None:
    end = 2 + PUSHED_ROWS_FIRST
    found = pushed_after(tree, 0, 1, end)
    assert end not in found and max(found) == end + 2 * PUSHED_ROWS_FIRST


def test_reading_here_and_there_pushes_nothing(tree: ReadOnly) -> None:
    assert pushed_after(tree, 0, 100, 50, 150, 10, 199) == {}


def test_kernel_that_does_not_want_it_ends_the_pushing(tree: ReadOnly) -> None:
    heard = Heard()
    heard.wanted = False
    with Workers(1) as crew:
        pusher = Pusher(tree, heard, crew)
        pusher.noticed(tree.root.number << ROW_BITS | 1)
        pusher.noticed(tree.root.number << ROW_BITS | 2)
    assert len(heard.files) == 1


@needs_fuse
def test_files_that_several_read_in_order_are_right(user: User) -> None:
    doc = user.home / "doc"
    for directory in range(3):
        (doc / f"d{directory}").mkdir(parents=True)
        for number in range(400):
            (doc / f"d{directory}" / f"{number:03}").write_bytes(os.urandom(1) * (number * 7 % 9_000))
    user.quick("backup", str(doc))
    wrong: list[str] = []

    def read(top: Path) -> None:
        for directory, names, files in os.walk(top):
            names.sort()
            for name in sorted(files):
                path = Path(directory) / name
                if path.read_bytes() != (doc / path.relative_to(top)).read_bytes():
                    wrong.append(str(path))

    with mounted(user, "doc@latest") as mount:
        readers = [threading.Thread(target=read, args=(mount.path,)) for _ in range(2)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        mount.end()
    assert wrong == []
