"""Estimate dumps of several levels at once, from the comparison of trees: no file data is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dalsegno.dumps.plan import choose_base
from dalsegno.pool.copy import PoolMarks
from dalsegno.pool.pool import Pool
from dalsegno.trees.closure import new_objects
from dalsegno.volumes.state import VolumeState

Count = Callable[[bytes | None], tuple[int, int]]
"""Return how many objects of how many bytes a dump carries that builds on this revision; None: on nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a dump of `level` would carry, before compression; `possible` is False without a base."""

    level: int
    base_dump: bytes
    object_count: int
    raw_bytes: int
    possible: bool = True


def estimate_levels(state: VolumeState, *, levels: Sequence[int], count: Count, recorder: str = "") -> list[Estimate]:
    """Return one estimate per level; levels with the same base share one comparison."""
    counted: dict[bytes | None, tuple[int, int]] = {}
    estimates = []
    for level in levels:
        base = choose_base(state.dumps, level=level, recorder=recorder)
        if level > 0 and base is None:
            estimates.append(Estimate(level=level, base_dump=b"", object_count=0, raw_bytes=0, possible=False))
            continue
        key = base.revision if base else None
        if key not in counted:
            counted[key] = count(key)
        object_count, raw_bytes = counted[key]
        dump_id = base.dump_id if base else b""
        estimates.append(Estimate(level=level, base_dump=dump_id, object_count=object_count, raw_bytes=raw_bytes))
    return estimates


def count_in_pool(pool: Pool, target: bytes) -> Count:
    """Return what counts the objects that a dump of `target` would carry, all of which the pool has."""

    def count(base: bytes | None) -> tuple[int, int]:
        seen = PoolMarks(pool)
        raw_bytes = 0

        def visit(kind: int, identity: bytes) -> bool:
            nonlocal raw_bytes
            if not seen.add(identity):
                return False
            location = pool.index.lookup(identity)
            raw_bytes += location.length if location is not None else 0
            return True

        new_objects(pool, target, base, visit=visit)
        return seen.count, raw_bytes

    return count
