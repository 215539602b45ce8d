"""Levels and lineage: which revisions a dump carries, and which earlier dump it starts from.

Level 0 holds the whole volume; level n holds what changed since the newest recorded dump of a lower level of the same
recorder: what Amanda has on tape is no base of a file made by hand, nor the other way round.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from dalsegno.formats.pack_header import DumpNote, DumpTarget
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import BadInput, NotFound, Refused
from dalsegno.terms.ids import hex_short
from dalsegno.terms.times import show_time
from dalsegno.trees.read import read_revision
from dalsegno.volumes.records import DumpRecord, newest_first
from dalsegno.volumes.state import VolumeState

LEVEL_MAX = 9
RECORDS_NAMED_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpPlan:
    """A dump that could be written."""

    note: DumpNote
    base: DumpRecord | None

    @property
    def target(self) -> bytes:
        """The revision that the dump brings a volume to."""
        return self.note.targets[-1].revision


def recorded_by(history: Iterable[DumpRecord], recorder: str) -> list[DumpRecord]:
    """Return the records of one recorder; empty: those that are files."""
    return [record for record in history if record.recorder == recorder]


def choose_base(history: Iterable[DumpRecord], *, level: int, recorder: str | None = None) -> DumpRecord | None:
    """Return the newest record below `level`, or None when the dump starts from nothing.

    With `recorder` those of others do not count.
    """
    if not 0 <= level <= LEVEL_MAX:
        raise BadInput(f"dump level {level}: expected 0 to {LEVEL_MAX}")
    found = (each for each in newest_first(history) if each.level < level and recorder in (None, each.recorder))
    return next(found, None) if level else None


def choose_level(history: Iterable[DumpRecord], *, recorder: str | None = None) -> int:
    """Return the level of a dump whose level nobody named: 0 at first, then one above the newest."""
    newest = next((each for each in newest_first(history) if recorder in (None, each.recorder)), None)
    return min(LEVEL_MAX, newest.level + 1) if newest is not None else 0


def plan_dump(
    source: Source,
    state: VolumeState,
    *,
    targets: Sequence[tuple[str, bytes]],
    level: int | None,
    now_ns: int,
    recorder: str = "",
) -> DumpPlan:
    """Return the plan of a dump of `targets` (clone name or empty, revision; oldest first). Refused without a base."""
    assert targets
    level = choose_level(state.dumps, recorder=recorder) if level is None else level
    base = choose_base(state.dumps, level=level, recorder=recorder)
    if level > 0 and base is None:
        others = sorted({record.recorder or "dal" for record in state.dumps if record.recorder != recorder})
        but = f" (those recorded by {', '.join(others)} do not count)" if others else ""
        raise Refused(f"volume {state.name!r}: no recorded dump below level {level}{but}; make a level 0 dump first")
    if base is not None:
        try:
            read_revision(source, base.revision)
        except NotFound:
            raise Refused(
                f"volume {state.name!r}: the base of level {level}, dump {hex_short(base.dump_id)} of "
                f"{show_time(base.taken_at_ns)}, is no longer in the pool; make a level 0 dump"
            ) from None
    carried = []
    for clone, revision_id in targets:
        revision = read_revision(source, revision_id)
        carried.append(
            DumpTarget(
                revision=bytes(revision_id),
                clone=clone,
                created_ns=revision.created_ns,
                entry_count=revision.entry_count,
                total_bytes=revision.total_bytes,
            )
        )
    note = DumpNote(
        volume=state.id,
        volume_name=state.name,
        level=level,
        targets=carried,
        bases=[base.revision] if base else [],
        base_dump=base.dump_id if base else b"",
        merged=[],
        # Behind its base also by a clock that was set back, or the chain would seem to be in the wrong order.
        taken_at_ns=max(now_ns, base.taken_at_ns + 1) if base else now_ns,
    )
    return DumpPlan(note=note, base=base)


def record_dump(state: VolumeState, record: DumpRecord) -> VolumeState:
    """Return `state` with `record` as the base of later dumps; recording the same dump twice changes nothing."""
    return msgspec.structs.replace(state, dumps=state.dumps.put(record))


def built_on(history: Iterable[DumpRecord], dump_id: bytes) -> list[DumpRecord]:
    """Return the recorded dumps that cannot be restored without this one, the oldest first."""
    needed, found = {dump_id}, []
    for record in sorted(history, key=lambda record: record.taken_at_ns):
        if record.base_dump in needed and record.dump_id not in needed:
            needed.add(record.dump_id)
            found.append(record)
    return found


def list_records(records: Sequence[DumpRecord]) -> str:
    """Return dumps in words, for people who must see which ones are meant."""
    words = [
        f"level {each.level} of {show_time(each.taken_at_ns)} ({each.path})" for each in records[:RECORDS_NAMED_MAX]
    ]
    more = f" and {len(records) - len(words)} more" if len(records) > len(words) else ""
    return ", ".join(words) + more


def require_unneeded(useless: Sequence[DumpRecord], *, force: bool, what: str) -> None:
    """Refuse to let a dump go that others build on, unless that is what is wanted."""
    if useless and not force:
        raise Refused(
            f"{what}: {list_records(useless)} cannot be restored without it: keep it, or say --force "
            "(`dal mark --forget` tells of dumps that are gone)"
        )


def forget_dump(state: VolumeState, dump_id: bytes) -> VolumeState:
    """Return `state` without a record: the dump is gone, and no later one may build on it."""
    return msgspec.structs.replace(state, dumps=state.dumps.without([dump_id]))


def describe(note: DumpNote, dump_id: bytes) -> str:
    """Return a dump's lineage in words, for people who must see why something was refused."""
    newest = note.targets[-1]
    name = f"{note.volume_name}@{newest.clone}" if newest.clone else f"{note.volume_name}@#{hex_short(newest.revision)}"
    made = f"level {note.level} of {name}, dump {hex_short(dump_id)}, carries revision {hex_short(newest.revision)}"
    if not note.bases:
        return f"{made}, full"
    return f"{made}, made against revision {hex_short(note.bases[0])} of dump {hex_short(note.base_dump)}"
