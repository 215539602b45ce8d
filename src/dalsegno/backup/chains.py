"""Which dumps restore a state, and from which copies and media. Pure: actions/retrieve.py fetches."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from dalsegno.backup.records import SPOOL_TARGET, Copy, DumpEntry, usable_copies
from dalsegno.terms.errors import NotFound
from dalsegno.terms.ids import hex_short
from dalsegno.terms.times import show_time


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state of a volume that dumps restore."""

    chain: tuple[DumpEntry, ...]
    """The full dump first."""
    revision: bytes

    @property
    def top(self) -> DumpEntry:
        """The dump that brings the state."""
        return self.chain[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Where one dump of a chain is read from."""

    entry: DumpEntry
    copies: tuple[Copy, ...]
    """The usable parts of the copy that was chosen."""
    place: Path | None
    """Where it lies already, whole, in the spool; None: it is on `media`."""
    media: tuple[str, ...]
    """Labels that must be here; of shares, those that are here, or enough to make k."""
    missing: tuple[str, ...]
    """Labels that are not here now."""

    @property
    def fetch_bytes(self) -> int:
        """How much has to be brought to the spool."""
        return 0 if self.place is not None else self.entry.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPlan:
    """How a state comes back."""

    state: State
    readings: tuple[Reading, ...]

    @property
    def fetch_bytes(self) -> int:
        """How much has to be brought to the spool."""
        return sum(reading.fetch_bytes for reading in self.readings)

    @property
    def media(self) -> tuple[str, ...]:
        """Every label that is needed, in the order of reading, each once."""
        return tuple(dict.fromkeys(label for reading in self.readings for label in reading.media))

    @property
    def missing(self) -> tuple[str, ...]:
        """Every label that is needed and not here."""
        return tuple(dict.fromkeys(label for reading in self.readings for label in reading.missing))


def restorable(entries: Sequence[DumpEntry], *, usable: Callable[[DumpEntry], bool]) -> set[bytes]:
    """Return the ids of the dumps that can be restored with all that they build on, when `usable` ones can be read."""
    by_id = {entry.dump_id: entry for entry in entries}
    by_revision: dict[bytes, list[DumpEntry]] = {}
    for entry in entries:
        by_revision.setdefault(entry.revision, []).append(entry)
    known: dict[bytes, bool] = {}

    def good(entry: DumpEntry) -> bool:
        if entry.dump_id not in known:
            known[entry.dump_id] = False  # a ring is no chain
            whole = usable(entry)
            if whole and not entry.is_full:
                below = [by_id[entry.base_dump]] if entry.base_dump in by_id else []
                below += by_revision.get(entry.base_revisions[0], [])
                whole = any(good(base) for base in below)
            known[entry.dump_id] = whole
        return known[entry.dump_id]

    return {entry.dump_id for entry in entries if good(entry)}


def plan_chain(
    state: State,
    copies: Mapping[bytes, Sequence[Copy]],
    *,
    here: Mapping[str, Set[str]],
    lies_at: Callable[[DumpEntry, Sequence[Copy]], Path | None],
    from_media: bool = False,
) -> ChainPlan:
    """Return from which copies the dumps of a state are read.

    `here` has the labels of the media that can be reached, by target; `lies_at` tells where in the spool a dump lies.
    `from_media`: as if the spool was gone. NotFound: a dump has no usable copy.
    """
    readings = []
    for entry in state.chain:
        usable = usable_copies(copies.get(entry.dump_id, ()))
        place = None if from_media else lies_at(entry, [copy for parts in usable for copy in parts])
        if place is not None:
            readings.append(Reading(entry=entry, copies=(), place=place, media=(), missing=()))
            continue
        best = rank_copies(usable, here=here)
        if not best:
            spooled = from_media and any(copy.target == SPOOL_TARGET for parts in usable for copy in parts)
            why = "is in the spool alone: `dal archive` brings it to a medium" if spooled else "has no usable copy left"
            raise NotFound(
                f"dump {hex_short(entry.dump_id)} (level {entry.level} of {entry.volume_name}, "
                f"{show_time(entry.cloned_at_ns)}) {why}"
            )
        media, missing = media_of(best[0], here=here)
        readings.append(Reading(entry=entry, copies=tuple(best[0]), place=None, media=media, missing=missing))
    return ChainPlan(state=state, readings=tuple(readings))


def media_of(parts: Sequence[Copy], *, here: Mapping[str, Set[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which media one copy needs, and which of them are not here."""
    there = here.get(parts[0].target, set())
    labels = list(dict.fromkeys(copy.medium for copy in parts))
    if len(parts) > parts[0].needed or parts[0].parts > parts[0].needed:
        labels.sort(key=lambda label: label not in there)  # any k will do: those that are here first
        labels = labels[: parts[0].needed]
    return tuple(labels), tuple(label for label in labels if label not in there)


def rank_copies(usable: Sequence[Sequence[Copy]], *, here: Mapping[str, Set[str]]) -> list[Sequence[Copy]]:
    """Return copies on media, the one to read from first: fewest media to insert, fewest parts, no command."""
    on_media = [parts for parts in usable if parts[0].target != SPOOL_TARGET and parts[0].target in here]

    def order(parts: Sequence[Copy]) -> tuple[int, bool, int, str]:
        by_command = parts[0].medium == parts[0].target
        return len(media_of(parts, here=here)[1]), by_command, len(parts), parts[0].target

    return sorted(on_media, key=order)
