"""The index answers as a dict would, whatever was added, merged or collected."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dalsegno.backends.local import LocalBackend
from dalsegno.pool import index as index_room
from dalsegno.pool.index import SEGMENTS_MAX, Ids, Index, Values, choose_merge
from dalsegno.terms.ids import PackId

# Few prefixes, so that many ids agree in their first 8 bytes.
identities = st.builds(lambda a, b: bytes([a] * 8 + [b] * 24), st.integers(0, 3), st.integers(0, 5)) | st.binary(
    min_size=32, max_size=32
)
packs = st.lists(st.dictionaries(identities, st.integers(0, 2**24 - 1), max_size=8), max_size=20)


def columns(objects: dict[bytes, int]) -> tuple[Ids, Values]:
    ids = np.frombuffer(b"".join(sorted(objects)), np.uint8).reshape(-1, 32)
    values = np.array([[3, objects[i] | 2 << 24, 77, 1] for i in sorted(objects)], np.uint32).reshape(-1, 4)
    return ids, values


@settings(max_examples=40, deadline=None)
@given(packs, st.sets(st.integers(0, 19)), st.booleans(), st.sampled_from([1, 3, 250_000]))
def test_index_answers_as_a_dict(
    contents: list[dict[bytes, int]], gone: set[int], reopened: bool, merge_rows: int
) -> None:
    index_room.MERGE_ROWS = merge_rows  # so few that a merge takes many steps
    on_disk = {PackId(bytes([number] * 16)): content for number, content in enumerate(contents)}

    def make(path: Path) -> Index:
        return Index(
            path,
            backend=LocalBackend(path.parent),
            list_packs=lambda: set(on_disk),
            read_pack=lambda pack_id: columns(on_disk[pack_id]),
            report_damage=lambda pack_id, error: None,
            settle_packs=lambda packs: None,
        )

    with tempfile.TemporaryDirectory() as folder:
        index = make(Path(folder) / "index")
        for pack_id, content in on_disk.items():
            index.add_segment([(pack_id, *columns(content))])
        assert len(index.segments) <= SEGMENTS_MAX
        for number in gone:
            on_disk.pop(PackId(bytes([number] * 16)), None)
        if reopened:
            index = make(Path(folder) / "index")
        index.refresh()
        model: dict[bytes, set[tuple[bytes, int]]] = {}
        for pack_id, content in on_disk.items():
            for identity, offset in content.items():
                model.setdefault(identity, set()).add((pack_id, offset))
        for identity in {identity for content in contents for identity in content}:
            found = {(location.pack_id, location.offset) for location in index.find_all(identity)}
            assert found == model.get(identity, set())
            assert index.contains(identity) == (identity in model)
            assert (identity in index.find_prefix(identity.hex()[:17])) == (identity in model)
            for location in index.find_all(identity):
                assert (location.block_index, location.kind, location.length, location.encoding) == (3, 2, 77, 1)
        assert not index.contains(b"\x07" * 32) or b"\x07" * 32 in model


def test_merging_copies_each_object_few_times() -> None:
    counts: list[int] = []
    copied = 0
    for _ in range(2000):
        counts.append(1)
        chosen = choose_merge(counts)
        copied += sum(counts[position] for position in chosen)
        if chosen:
            merged = sum(counts[position] for position in chosen)
            counts = [count for position, count in enumerate(counts) if position not in chosen] + [merged]
        assert len(counts) < SEGMENTS_MAX
    assert copied < 2000 * 12


def test_a_pack_that_could_not_be_settled_while_others_were_is_not_forgotten(tmp_path: Path) -> None:
    """What one thread adds to a set is lost when another empties it."""
    index = Index(
        tmp_path / "index",
        backend=LocalBackend(tmp_path),
        list_packs=set,
        read_pack=lambda pack_id: columns({}),
        report_damage=lambda pack_id, error: None,
        settle_packs=lambda packs: index.unsettled.add(PackId(bytes(16))),  # another thread, just then
    )
    index.unsettled.add(PackId(b"1" * 16))
    index.settle()
    assert index.unsettled == {bytes(16)}
