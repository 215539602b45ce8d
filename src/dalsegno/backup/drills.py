"""Drills: which volume is tried next, which files of it, and whether what came back is what was backed up. Pure."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dalsegno.backup.records import Drill

SAMPLE = "sample"
WHOLE = "whole"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A volume that could be tried."""

    volume_id: bytes
    volume_name: str
    set_name: str
    last: Drill | None


def choose_volumes(candidates: Iterable[Candidate], *, count: int) -> list[Candidate]:
    """Return the volumes whose last drill is longest ago, those that never had one first."""

    def order(each: Candidate) -> tuple[int, str]:
        return each.last.ended_ns if each.last is not None else 0, each.volume_name

    return sorted(candidates, key=order)[:count]


def choose_sample(items: Iterable[T], *, count: int, seed: int) -> list[T]:
    """Return `count` items, each as likely as every other, in their order; all of them when there are fewer."""
    chance = random.Random(seed)
    kept: list[tuple[int, T]] = []
    for number, item in enumerate(items):
        if len(kept) < count:
            kept.append((number, item))
        else:
            place = chance.randrange(number + 1)
            if place < count:
                kept[place] = (number, item)
    return [item for _, item in sorted(kept, key=lambda each: each[0])]


def drill_line(drill: Drill, *, size: str) -> str:
    """Return how a drill ended, in one line."""
    if not drill.findings:
        what = "the whole volume" if drill.kind == WHOLE else "a sample"
        return f"{drill.volume_name}: {drill.file_count:,} files, {size}, {what}: all as it was backed up"
    return f"{drill.volume_name}: {len(drill.findings)} things are wrong: {_joined(drill.findings)}"


def _joined(findings: Sequence[str]) -> str:
    more = f" (and {len(findings) - 3} more)" if len(findings) > 3 else ""
    return "; ".join(findings[:3]) + more
