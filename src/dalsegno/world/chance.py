"""Random values, from the system's generator."""

import os
from array import array
from collections.abc import Iterator

NODES_AT_ONCE = 1024


def random_bytes(count: int) -> bytes:
    """Return `count` unpredictable bytes."""
    return os.urandom(count)


def random_share() -> float:
    """Return a number from 0 up to 1, 1 left out."""
    return int.from_bytes(random_bytes(4)) / 2**32


def random_node() -> int:
    """Return a node number: 63 random bits, never 0."""
    global _nodes
    while True:
        for node in _nodes:
            if node >> 1:
                return int(node) >> 1
        # Asking the system for each number costs as much as looking at the file.
        _nodes = iter(array("Q", os.urandom(8 * NODES_AT_ONCE)))


def _forget_nodes() -> None:
    global _nodes
    _nodes = iter(())


_nodes: Iterator[int] = iter(())
os.register_at_fork(after_in_child=_forget_nodes)  # parent and child must not give the same numbers
