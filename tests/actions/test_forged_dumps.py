"""What a dump carries, asked of one that was made to keep its reader busy."""

from itertools import islice
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dalsegno.actions import amanda
from dalsegno.dumps import lost
from dalsegno.formats import objects
from dalsegno.formats.objects import (
    DirectoryChild,
    DirectoryLeaf,
    DirectoryList,
    Entry,
    RecipeLeaf,
    RecipeList,
    Revision,
)
from dalsegno.terms.errors import Damaged
from kit import DictStore

KIND = {"kind": objects.ENTRY_DIRECTORY, "content_kind": objects.CONTENT_DIRECTORY}


class Carried(DictStore):
    """Objects as a chain of one dump has them."""

    @property
    def readers(self) -> list[Any]:
        return [SimpleNamespace(find=lambda identity: 0 if identity in self.objects else None)]


def put(dump: Carried, value: Any) -> bytes:
    kind = objects.KIND_RECIPE if isinstance(value, RecipeLeaf | RecipeList) else objects.KIND_DIRECTORY
    return bytes(dump.put(kind, objects.encode(value)))


def lists_of(dump: Carried, below: bytes) -> bytes:
    for level in range(1, 10):
        below = put(dump, DirectoryList(level, [DirectoryChild(b"%03d" % each, 1, below) for each in range(100)]))
    return below


def revision(root: bytes) -> Revision:
    return Revision(
        volume=bytes(16),
        parents=[],
        root=Entry(name=b"", content=root, **cast(Any, KIND)),
        links=b"",
        created_ns=1,
        author="",
        message="",
        entry_count=5,
        total_bytes=0,
    )


def test_what_amanda_asks_of_a_forged_dump_ends() -> None:
    """Kind: a walk as long as forged objects say: lists without names, and directories that name one below often."""
    dump = Carried()
    with pytest.raises(Damaged, match="disagree"):
        list(islice(amanda._carried(cast(Any, dump), revision(lists_of(dump, put(dump, DirectoryLeaf([]))))), 1000))
    assert dump.gets < 50
    below = put(dump, DirectoryLeaf([Entry(name=b"f", kind=objects.ENTRY_FIFO)]))
    for _ in range(9):
        names = [Entry(name=b"%02d" % number, content=below, **cast(Any, KIND)) for number in range(100)]
        below = put(dump, DirectoryLeaf(names))
    met = 0
    with pytest.raises(Damaged, match="beyond the 5 files"):
        for _ in amanda._carried(cast(Any, dump), revision(below)):
            met += 1
            assert met < 2000


def test_what_a_salvaged_dump_lost_is_found_in_the_time_of_its_objects() -> None:
    """Kind: a walk without a memory of what it met: a list may name one below it a hundred times, or itself."""
    dump = Carried()
    top = lists_of(dump, put(dump, DirectoryLeaf([])))
    content = put(dump, RecipeLeaf([1], [b""]))
    for level in range(1, 10):
        ends = [100 ** (level - 1) * (number + 1) for number in range(100)]
        content = put(dump, RecipeList(level, ends, [content] * 100))
    assert not lost._lacks_names(cast(Any, dump), top, lambda identity: True)
    assert not lost._lacks(cast(Any, dump), [(objects.KIND_RECIPE, content)], lambda identity: True)
    assert dump.gets < 50
    dump.objects[bytes(32)] = (
        objects.KIND_DIRECTORY,
        objects.encode(DirectoryList(1, [DirectoryChild(b"z", 1, bytes(32))])),
    )
    assert not lost._lacks_names(cast(Any, dump), bytes(32), lambda identity: True)
