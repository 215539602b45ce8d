"""Node numbers: of 63 bits, never 0, never the same in a parent and its child."""

import os

from dalsegno.world.chance import NODES_AT_ONCE, random_node


def test_nodes_are_distinct_numbers_of_63_bits() -> None:
    nodes = [random_node() for _ in range(3 * NODES_AT_ONCE)]
    assert len(set(nodes)) == len(nodes)
    assert all(0 < node < 2**63 for node in nodes)
    assert max(nodes) > 2**62


def test_a_forked_child_gives_other_nodes_than_its_parent() -> None:
    random_node()  # numbers are at hand when the process forks
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, random_node().to_bytes(8, "big"))
        os._exit(0)
    os.waitpid(child, 0)
    assert int.from_bytes(os.read(reading, 8), "big") not in [random_node() for _ in range(NODES_AT_ONCE)]
    os.close(reading)
    os.close(writing)
