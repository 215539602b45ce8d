"""Which states were of a source that had lost most of its files."""

import pytest

from dalsegno.volumes.shrunk import find_dips


@pytest.mark.parametrize(
    ("counts", "expected", "dips"),
    [
        ([], None, ""),
        ([100, 100, 90], None, "..."),
        ([100, 0, 0], 100, ".xx"),
        ([100, 5, 0, 100], None, ".xx."),
        ([100, 5, 5], None, "..."),
        ([100, 5, 5, 6], 100, ".xxx"),
        ([100, None, 5, None, 100], None, "..x.."),
        ([0, 100], None, ".."),
        ([10, 3, 10], None, "..."),
        ([10, 0, 10], None, ".x."),
        ([3, 0], 3, ".x"),
    ],
)
def test_state_is_a_dip_when_there_was_more_before_and_is_more_afterwards(
    counts: list[int | None], expected: int | None, dips: str
) -> None:
    assert "".join("x" if dip else "." for dip in find_dips(counts, expected=expected)) == dips
