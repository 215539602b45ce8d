"""Which bytes of a dump go to which medium. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dalsegno.terms.sizes import MIB

SLICE_BYTES_MIN: Final = 1 * MIB
"""A medium with less room than this is full."""
OVERHEAD_BYTES: Final = 64 * 1024
"""What a note or header, a digest and the file system take besides the bytes of a dump and its own header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many bytes a medium takes still."""

    label: str
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPart:
    """Bytes of a dump that go to one medium; the whole dump when `whole`."""

    label: str
    offset: int
    length: int
    whole: bool = False


def plan_parts(
    *,
    size_bytes: int,
    offset: int,
    rooms: Sequence[Room],
    slice_bytes: int | None,
    overhead_bytes: int = OVERHEAD_BYTES,
) -> tuple[list[PlannedPart], int]:
    """Return which bytes go where, and how many are left over when all rooms are full.

    A dump of which nothing is written yet goes whole to the first medium that takes it; else slices fill the media in
    their order.
    """
    if offset == 0 and (slice_bytes is None or size_bytes <= slice_bytes):
        for room in rooms:
            if room.free_bytes >= size_bytes + overhead_bytes:
                return [PlannedPart(label=room.label, offset=0, length=size_bytes, whole=True)], 0
    planned = []
    for room in rooms:
        free = room.free_bytes - overhead_bytes
        while offset < size_bytes and free >= min(SLICE_BYTES_MIN, size_bytes - offset) and free > 0:
            length = min(free, size_bytes - offset, slice_bytes or size_bytes)
            planned.append(PlannedPart(label=room.label, offset=offset, length=length))
            offset += length
            free -= length + overhead_bytes
    return planned, size_bytes - offset
