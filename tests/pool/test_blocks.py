"""Blocks are opened once, however many threads ask, and ahead of who reads in order."""

import threading

import numpy as np
import pytest

from dalsegno.pool.blocks import BLOCKS_AHEAD_MAX, BlockCache, Blocks
from dalsegno.terms.errors import Damaged
from dalsegno.world.workers import Workers

DATA, METADATA = 1, 0


class FakePack:
    """A pack whose blocks say their number; each waits until it may be opened."""

    def __init__(self, pack_id: bytes = b"pack", count: int = 40) -> None:
        self.pack_id = pack_id
        self.types = np.array([DATA if number % 4 else METADATA for number in range(count)], np.uint8)
        self.opened: list[int] = []
        self.may_open = threading.Event()
        self.may_open.set()
        self.damaged: set[int] = set()

    def read_block(self, number: int) -> bytes:
        self.may_open.wait(10)
        self.opened.append(number)
        if number in self.damaged:
            raise Damaged(f"block {number}")
        return b"%04d" % number * 250


def test_cache_keeps_what_was_used_last_and_one_block_at_least() -> None:
    cache = BlockCache(10)
    for number in range(3):
        cache.put((b"p", number), bytes(4))
    assert [(b"p", number) in cache for number in range(3)] == [False, True, True]
    assert cache.get((b"p", 1)) == bytes(4)
    cache.put((b"p", 9), bytes(6))
    assert (b"p", 1) in cache and (b"p", 2) not in cache
    cache.put((b"p", 5), bytes(100))
    assert (b"p", 5) in cache and (b"p", 1) not in cache


def test_block_that_several_threads_ask_for_is_opened_once() -> None:
    pack, blocks = FakePack(), Blocks(10_000)
    pack.may_open.clear()
    with Workers(4) as crew:
        asked = [crew.submit(blocks.get, pack, 1) for _ in range(4)]
        pack.may_open.set()
        assert {each.result() for each in asked} == {b"0001" * 250}
    assert pack.opened == [1]


def test_damage_reaches_everybody_who_waits_and_is_not_remembered() -> None:
    pack, blocks = FakePack(), Blocks(10_000)
    pack.damaged = {1}
    pack.may_open.clear()
    with Workers(3) as crew:
        asked = [crew.submit(blocks.get, pack, 1) for _ in range(3)]
        pack.may_open.set()
        for each in asked:
            with pytest.raises(Damaged):
                each.result()
    pack.damaged = set()
    assert blocks.get(pack, 1) == b"0001" * 250


def test_reading_in_order_opens_the_next_blocks_of_the_same_type() -> None:
    pack, blocks = FakePack(), Blocks(1_000_000)
    with Workers(2) as crew:
        blocks.read_ahead(crew)
        blocks.get(pack, 1)
        blocks.get(pack, 2)
        blocks.read_ahead(None)
    following = [number for number in range(3, 40) if number % 4][:BLOCKS_AHEAD_MAX]
    assert sorted(pack.opened) == [1, 2, *following]
    assert blocks.get(pack, 3) == b"0003" * 250
    assert pack.opened.count(3) == 1


def test_reading_here_and_there_opens_nothing_ahead() -> None:
    pack, blocks = FakePack(), Blocks(1_000_000)
    with Workers(2) as crew:
        blocks.read_ahead(crew)
        for number in (1, 30, 5, 39):
            blocks.get(pack, number)
        blocks.read_ahead(None)
    assert pack.opened == [1, 30, 5, 39]


def test_block_that_no_worker_has_begun_is_opened_by_who_wants_it() -> None:
    pack, blocks = FakePack(), Blocks(1_000_000)
    busy = threading.Event()
    with Workers(1) as crew:
        crew.submit(busy.wait, 10)
        blocks.read_ahead(crew)
        blocks.get(pack, 1)
        blocks.get(pack, 2)
        assert blocks.get(pack, 3) == b"0003" * 250, "without waiting for the worker"
        blocks.read_ahead(None)
        busy.set()
    assert pack.opened.count(3) == 1
