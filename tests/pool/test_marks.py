"""Marks answer as a set would, one by one or many at a time, also for ids that begin alike."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dalsegno.pool.marks import Marks, find_rows

identities = st.builds(lambda a, b: bytes([a] * 8 + [b] * 24), st.integers(0, 3), st.integers(0, 4)) | st.binary(
    min_size=32, max_size=32
)


class Sorted:
    """An index of a few ids."""

    def __init__(self, ids: set[bytes]) -> None:
        self.ids = sorted(ids)
        self.object_count = len(ids)
        self.table = np.frombuffer(b"".join(self.ids), np.uint8).reshape(-1, 32)

    def find(self, identity: bytes, /) -> int | None:
        return self.ids.index(identity) if identity in self.ids else None

    def find_rows(self, ids: np.ndarray, /) -> np.ndarray:
        prefixes = np.ascontiguousarray(self.table[:, :8]).view(">u8").astype(np.uint64).reshape(-1)
        return find_rows(prefixes, self.table[:, 8:], ids, self.find)


@given(st.lists(st.sets(identities, max_size=12), max_size=3), st.lists(st.tuples(identities, st.booleans())))
def test_marks_answer_as_a_set(contents: list[set[bytes]], steps: list[tuple[bytes, bool]]) -> None:
    lookups = [Sorted(content) for content in contents]
    marks, model = Marks(lookups), set()
    for identity, later in steps:
        if later:
            marks.add_later(identity)
        else:
            marks.settle()
            assert marks.add(identity) == (identity not in model)
        model.add(identity)
    assert marks.count == len(model)
    found: list[bytes] = []
    for number, lookup in enumerate(lookups):
        found += [identity for identity, met in zip(lookup.ids, marks.mask(number), strict=True) if met]
    assert sorted([*found, *marks.elsewhere]) == sorted(model)
    assert marks.elsewhere == model - set().union(*contents)


@given(st.sets(identities), st.lists(identities))
def test_rows_are_found_many_at_a_time_as_one_by_one(content: set[bytes], asked: list[bytes]) -> None:
    lookup = Sorted(content)
    rows = lookup.find_rows(np.frombuffer(b"".join(asked), np.uint8).reshape(-1, 32)).tolist()
    assert rows == [-1 if (row := lookup.find(identity)) is None else row for identity in asked]
