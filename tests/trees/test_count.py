"""Counting what one tree has more than another looks at what differs alone (test_merge.py compares it with walks)."""

from test_merge import Model, revision

from dalsegno.trees.count import count_more
from kit import DictStore

BRANCHES = 40


class CountingStore(DictStore):
    """Counts the objects that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def get(self, identity: bytes) -> bytes:  # type: ignore[override]
        self.reads += 1
        return super().get(identity)  # type: ignore[arg-type]


def _large(mark: int) -> Model:
    return {"#": mark, **{f"d{n}": {"#": 1000 * mark + n, "f": (5000 * mark + n, b"x" * n)} for n in range(BRANCHES)}}


def _count(old: Model, new: Model) -> tuple[tuple[int, int], int]:
    dag = CountingStore()
    before, after = revision(dag, old), revision(dag, new)
    dag.reads = 0
    return count_more(dag, before, root=after.root, links=b""), dag.reads


def test_what_moved_is_not_entered() -> None:
    moved, reads = _count({"a": _large(1), "b": {}}, {"b": {"c": _large(1)}})
    assert moved == (0, 0) and reads < 8
    # Changed on the way, and under a new node at that.
    changed = {**_large(1), "new": b"12345"}
    assert _count({"a": _large(1), "b": {}}, {"b": {"c": changed}})[0] == (1, 5)
    changed["#"] = 99
    more, reads = _count({"a": _large(1), "b": {}}, {"b": {"c": changed}})
    assert more == (1, 5) and reads < 10


def test_a_copy_counts_as_often_as_it_is_there() -> None:
    size = sum(range(BRANCHES))
    assert _count({"a": _large(1)}, {"a": _large(1), "b": _large(1), "c": _large(1)})[0] == (
        2 * (1 + 2 * BRANCHES),
        2 * size,
    )
    assert _count({"a": _large(1)}, {"a": b"12"})[0] == (-2 * BRANCHES, 2 - size)
    assert _count({"a": _large(1)}, {})[0] == (-1 - 2 * BRANCHES, -size)
