"""One loop changes what several processes change: nothing of another's change is lost, and losing too often is said."""

from collections.abc import Iterator

import pytest

from dalsegno.backends.contract import Backend
from dalsegno.pool.pool import Pool
from dalsegno.pool.swaps import SWAP_TRIES_MAX
from dalsegno.terms.errors import Conflict, Refused


@pytest.fixture
def pool(place: Backend) -> Iterator[Pool]:
    with Pool.create(place, encryption="none") as pool:
        yield pool


def test_a_change_is_made_again_on_what_another_wrote(pool: Pool) -> None:
    """A change that overwrites another's."""
    seen = []

    def add(known: bytes | None) -> bytes:
        seen.append(known)
        if known is None:
            assert pool.swap_ref("a", None, b"theirs ")
        return (known or b"") + b"ours"

    assert pool.update_ref("a", add) == b"theirs ours" == pool.get_ref("a")
    assert seen == [None, b"theirs "]


def test_a_value_goes_by_an_update_and_one_that_stays_is_not_written(pool: Pool) -> None:
    sealed = []
    assert pool.update_ref("a", lambda known: b"1") == b"1"
    for _ in range(2):
        assert pool.update_ref("a", lambda known: known) == b"1"
        sealed.append(pool.backend.read("refs/a"))
    assert sealed[0] == sealed[1], "each write seals with another nonce"
    assert pool.update_ref("a", lambda known: None) is None
    assert pool.get_ref("a") is None


def test_losing_each_time_is_a_conflict(pool: Pool) -> None:
    """A loop that ends without having written, and says nothing."""
    tries = []

    def late(known: bytes | None) -> bytes:
        tries.append(known)
        pool.swap_ref("a", known, b"%d" % len(tries))
        return b"ours"

    with pytest.raises(Conflict, match="the list changes too fast"):
        pool.update_ref("a", late, what="the list")
    assert len(tries) == SWAP_TRIES_MAX


def test_what_a_change_raises_leaves_the_value(pool: Pool) -> None:
    def refuse(known: bytes | None) -> bytes:
        raise Refused("no")

    pool.swap_ref("a", None, b"1")
    with pytest.raises(Refused):
        pool.update_ref("a", refuse)
    assert pool.get_ref("a") == b"1"
