"""Whether a head comes after one that was seen: a table of histories, of which not all is here any more."""

import msgspec
import pytest

from dalsegno.formats import objects
from dalsegno.pool.known import KnownHead
from dalsegno.trees.read import read_revision
from dalsegno.volumes.rollback import line_between
from dalsegno.volumes.state import AUTOMATIC
from kit import DictStore, store_revision

#   a (1) - b (2) - c (3) - d (4)
#        `- x (5)                    another way
HISTORY = {"a": (1, ""), "b": (2, "a"), "c": (3, "b"), "d": (4, "c"), "x": (5, "a")}


def known(heads: dict[str, bytes], name: str) -> KnownHead:
    return KnownHead(head=heads[name], created_ns=HISTORY[name][0], at_ns=0)


@pytest.mark.parametrize(
    ("seen", "shown", "gone", "expected"),
    [
        ("b", "b", "", True),
        ("b", "d", "", True),
        ("a", "x", "", True),
        ("d", "b", "", False),
        ("d", "x", "", False),
        ("x", "d", "", False),
        ("b", "d", "c", None),  # thinned out by somebody else
        ("c", "d", "c", True),  # itself gone, and still named
        ("b", "d", "bc", None),
        ("b", "x", "b", None),  # another may have taken its place
        ("d", "b", "d", False),  # but time never goes back
        ("b", "d", "d", None),  # the shown one cannot be read: whoever reads it says so
    ],
)
def test_what_comes_after_what(seen: str, shown: str, gone: str, expected: bool | None) -> None:
    """Kind: a false alarm stops every backup, and a missed one is why there is an alarm."""
    store, heads = DictStore(), {}
    for name, (made_ns, parent) in HISTORY.items():
        parents = (heads[parent],) if parent else ()
        heads[name] = store_revision(store, {name: b""}, parents=parents, created_ns=made_ns)
    for name in gone:
        del store.objects[heads[name]]
    assert line_between(store, known(heads, seen), heads[shown]) is expected  # type: ignore[arg-type]


def test_a_revision_of_a_mount_takes_the_place_of_the_one_before() -> None:
    store = DictStore()
    first = store_revision(store, {}, created_ns=1)
    made = [
        store.put(
            objects.KIND_REVISION,
            objects.encode(
                msgspec.structs.replace(
                    read_revision(store, first), parents=[first], created_ns=at_ns, message=message, author=str(at_ns)
                )
            ),
        )
        for at_ns, message in ((2, AUTOMATIC), (3, AUTOMATIC), (4, "import"))
    ]
    seen = KnownHead(head=made[0], created_ns=2, at_ns=0)
    assert line_between(store, seen, made[1]) is True  # type: ignore[arg-type]
    assert line_between(store, seen, made[2]) is False  # type: ignore[arg-type]
