"""Counting hard links goes in steps, so that one `stat` never walks a whole tree."""

from pathlib import Path

import pytest

from dalsegno.formats import objects
from dalsegno.formats.objects import Entry
from dalsegno.mount import listing
from dalsegno.mount.listing import Kept, LinkCounts
from dalsegno.pool.pool import Pool
from dalsegno.trees.build import store_directory


def test_link_counts_grow_in_steps_and_are_exact_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LINK_ENTRIES_A_STEP", 10)
    with Pool.create(tmp_path / "pool", encryption="none") as pool:
        with pool.writer() as writer:
            tops = []
            for number in range(12):
                names = [Entry(name=b"%d" % each, kind=objects.ENTRY_LINK, link=each % 3) for each in range(9)]
                content = store_directory(writer, sorted(names, key=lambda entry: entry.name))
                kind = {"kind": objects.ENTRY_DIRECTORY, "content_kind": objects.CONTENT_DIRECTORY}
                tops.append(Entry(name=b"%02d" % number, content=content, **kind))  # type: ignore[arg-type]
            tree = store_directory(writer, tops)
        counts = LinkCounts(Kept(pool), tree)
        first = counts.count(1, exact=False)
        assert 2 <= first < 36 and not counts.is_complete
        asked = 1
        while not counts.is_complete:
            counts.count(1, exact=False)
            asked += 1
        assert 5 < asked < 20
        assert counts.count(1, exact=False) == 36 and counts.count(99, exact=True) == 1
        whole = LinkCounts(Kept(pool), tree)
        assert whole.count(2, exact=True) == 36 and whole.is_complete
