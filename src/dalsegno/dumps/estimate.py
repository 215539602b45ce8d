"""Estimate dumps of several levels at once, from the comparison of trees: no file data is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dalsegno.dumps.plan import choose_base, recorded_by
from dalsegno.pool.contract import Source
from dalsegno.pool.marks import Marks
from dalsegno.trees.closure import new_objects
from dalsegno.volumes.state import VolumeState


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a dump of `level` would carry, before compression; `possible` is False without a base."""

    level: int
    base_dump: bytes
    object_count: int
    raw_bytes: int
    possible: bool = True


def estimate_levels(
    source: Source,
    state: VolumeState,
    *,
    target: bytes,
    levels: Sequence[int],
    new_marks: Callable[[], Marks],
    object_bytes: Callable[[bytes], int],
    recorder: str = "",
) -> list[Estimate]:
    """Return one estimate per level; levels with the same base share one comparison."""
    counted: dict[bytes | None, tuple[int, int]] = {}
    estimates = []
    for level in levels:
        base = choose_base(recorded_by(state.dumps, recorder), level=level)
        if level > 0 and base is None:
            estimates.append(Estimate(level=level, base_dump=b"", object_count=0, raw_bytes=0, possible=False))
            continue
        key = base.revision if base else None
        if key not in counted:
            counted[key] = _count(source, target, key, new_marks(), object_bytes)
        count, raw_bytes = counted[key]
        dump_id = base.dump_id if base else b""
        estimates.append(Estimate(level=level, base_dump=dump_id, object_count=count, raw_bytes=raw_bytes))
    return estimates


def _count(
    source: Source, target: bytes, base: bytes | None, seen: Marks, object_bytes: Callable[[bytes], int]
) -> tuple[int, int]:
    raw_bytes = 0

    def visit(kind: int, identity: bytes) -> bool:
        nonlocal raw_bytes
        if not seen.add(identity):
            return False
        raw_bytes += object_bytes(identity)
        return True

    new_objects(source, target, base, visit=visit)
    return seen.count, raw_bytes
