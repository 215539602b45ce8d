"""A kilobyte that stands for more files than any disk holds: walks end, and it is measured without walking."""

from itertools import islice

import msgspec
import pytest

from dalsegno.formats import objects
from dalsegno.formats.objects import DirectoryChild, DirectoryLeaf, DirectoryList, Entry, Revision
from dalsegno.terms.errors import Damaged
from dalsegno.trees.claim import false_claim
from dalsegno.trees.count import STEPS_MAX, count_more
from dalsegno.trees.diff import diff_revisions
from dalsegno.trees.edit import edit_directory
from dalsegno.trees.measure import measure_tree
from dalsegno.trees.read import iterate_directory
from dalsegno.trees.walk import walk
from kit import DictStore

LEVELS, NAMES = 9, 100


def directory(name: bytes, content: bytes) -> Entry:
    return Entry(
        name=name, kind=objects.ENTRY_DIRECTORY, mode=0o755, content_kind=objects.CONTENT_DIRECTORY, content=content
    )


def revision(root: bytes, *, entry_count: int, total_bytes: int = 0) -> Revision:
    return Revision(
        volume=bytes(16),
        parents=[],
        root=directory(b"", root),
        links=b"",
        created_ns=1,
        author="",
        message="",
        entry_count=entry_count,
        total_bytes=total_bytes,
    )


def store(dag: DictStore, *entries: Entry) -> bytes:
    return bytes(dag.put(objects.KIND_DIRECTORY, objects.encode(DirectoryLeaf(list(entries)))))


def bomb(dag: DictStore) -> bytes:
    """Store nine directories, each of which names the one below a hundred times, and return the top one."""
    below = store(dag, Entry(name=b"f", kind=objects.ENTRY_FILE, size=1, content_kind=1, content=b"x"))
    for _ in range(LEVELS):
        below = store(dag, *(directory(b"%02d" % number, below) for number in range(NAMES)))
    return below


def test_a_walk_ends_where_the_revision_ends() -> None:
    """Kind: a count that everybody writes and nobody looks at."""
    dag = DictStore()
    made = revision(bomb(dag), entry_count=5)
    met = 0
    with pytest.raises(Damaged, match="beyond the 5 files"):
        for _ in walk(dag, made):
            met += 1
            assert met < 2000
    assert met > 1000  # room for a count that is somewhat wrong
    empty = revision(store(dag), entry_count=0)
    for pair in ((empty, made), (made, empty), (None, made)):
        with pytest.raises(Damaged, match="more names differ"):
            assert len(list(islice(diff_revisions(dag, *pair), 5000))) < 5000


def test_a_tree_is_measured_by_its_objects_and_not_by_its_names() -> None:
    dag = DictStore()
    top = bomb(dag)
    names = sum(NAMES**level for level in range(1, LEVELS + 1)) + NAMES**LEVELS
    dag.gets = 0
    assert measure_tree(dag, directory(b"", top), b"") == (names, NAMES**LEVELS)
    assert dag.gets == LEVELS + 1
    said = revision(top, entry_count=names, total_bytes=NAMES**LEVELS)
    assert false_claim(dag, said, None) is None
    for wrong in ({"entry_count": names // 3}, {"total_bytes": NAMES**LEVELS // 3}):
        assert false_claim(dag, msgspec.structs.replace(said, **wrong), None) is not None


def test_beside_a_known_revision_only_what_differs_is_measured() -> None:
    dag = DictStore()
    quiet = store(dag, *(directory(b"%03d" % number, store(dag)) for number in range(300)))
    known = revision(store(dag, directory(b"quiet", quiet)), entry_count=301)
    grown = store(dag, directory(b"new", bomb(dag)), directory(b"quiet", quiet))
    dag.gets = 0
    assert false_claim(dag, revision(grown, entry_count=302), known) is not None
    assert dag.gets < 20
    assert false_claim(dag, revision(store(dag, directory(b"quiet", quiet)), entry_count=301), known) is None


def test_directories_that_name_all_below_them_are_counted_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind: a memo that an order of names defeats: each directory names all deeper ones, the deepest first."""
    monkeypatch.setattr("dalsegno.trees.count.STEPS_MAX", 100)
    assert STEPS_MAX > 100
    dag = DictStore()
    deeper: list[bytes] = [store(dag)]
    for _ in range(60):
        deeper.append(store(dag, *(directory(b"%03d" % at, each) for at, each in enumerate(deeper))))
    old = revision(store(dag), entry_count=0)
    dag.gets = 0
    entries, _ = count_more(dag, old, root=directory(b"", deeper[-1]), links=b"")
    assert entries == 2**60 - 1 and dag.gets < 300


@pytest.mark.parametrize("leaf", [[], [directory(b"a", bytes(32))]], ids=["empty", "the same again"])
def test_lists_that_name_one_node_again_and_again_are_damage(leaf: list[Entry]) -> None:
    """Kind: a walk that yields nothing to who counts. Ten objects stood for 10^18 leaves without a name."""
    dag = DictStore()
    below = store(dag, *leaf)
    for level in range(1, 10):
        children = [DirectoryChild(b"%03d" % number, 1, below) for number in range(100)]
        below = bytes(dag.put(objects.KIND_DIRECTORY, objects.encode(DirectoryList(level, children))))
    dag.gets = 0
    with pytest.raises(Damaged, match="its parent's word disagree"):
        list(islice(iterate_directory(dag, below), 1000))
    with pytest.raises(Damaged, match="its parent's word disagree"):
        edit_directory(dag, dag, below, {b"x": None})
    assert dag.gets < 50
    told: list[Exception] = []
    met = list(islice(iterate_directory(dag, below, unreadable=told.append), 1000))
    assert len(told) <= 100 and not met and dag.gets < 300


def test_a_list_that_is_below_itself_is_not_edited_for_ever() -> None:
    class Itself(DictStore):
        def get(self, identity: bytes) -> bytes:
            return objects.encode(DirectoryList(2, [DirectoryChild(b"z", 9, identity)]))

    with pytest.raises(Damaged, match="level"):
        edit_directory(Itself(), DictStore(), bytes(32), {b"x": None})
