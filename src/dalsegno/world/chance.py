"""Random values, from the system's generator."""

import os

NODE_BITS = 63


def random_bytes(count: int) -> bytes:
    """Return `count` unpredictable bytes."""
    return os.urandom(count)


def random_node() -> int:
    """Return a node number: 63 random bits, never 0."""
    while True:
        node = int.from_bytes(os.urandom(8), "big") >> (64 - NODE_BITS)
        if node:
            return node
