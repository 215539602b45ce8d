"""What retention removes: clones, spool files and archived dumps that the policy's rules no longer keep. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from dalsegno.backup.days import zone_of
from dalsegno.backup.members import Member
from dalsegno.backup.policy import Keep, KeepRules, Policy, SetPolicy
from dalsegno.backup.records import BAD, SPOOL_TARGET, Copy, DumpEntry, usable_copies
from dalsegno.backup.retention import Item, apply_keep
from dalsegno.backup.targets import is_safe
from dalsegno.terms.ids import hex_short
from dalsegno.volumes.clones import is_automatic
from dalsegno.volumes.shrunk import shrunk_from
from dalsegno.volumes.state import VolumeState

CLONES = "clones"
SPOOL = "spool"
ARCHIVE = "archive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coming:
    """A clone and a dump that a plan foresees."""

    received_ns: int
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One clone, spool file or archived dump that goes."""

    place: str
    """`clones`, `spool` or `archive`."""
    set_name: str
    volume: str
    name: str
    """Of the clone; for a dump, its id."""
    received_ns: int
    level: int | None = None
    size_bytes: int = 0
    copies: tuple[Copy, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunePlan:
    """What retention would remove, and how much of everything stays."""

    removals: list[Removal]
    kept: Mapping[str, int]
    """How many clones, spool files and archived dumps stay."""


def plan_prune(
    policy: Policy,
    states: Iterable[VolumeState],
    members: Iterable[Member],
    *,
    dumps: Iterable[DumpEntry],
    copies: Mapping[bytes, list[Copy]],
    now_ns: int,
    coming: Mapping[str, list[Coming]] | None = None,
) -> PrunePlan:
    """Return what retention would remove at `now_ns` of volumes and of the catalog's dumps and copies.

    `coming` has, by volume, what will have been made by then.
    """
    zone = zone_of(policy)
    removals: list[Removal] = []
    kept = dict.fromkeys((CLONES, SPOOL, ARCHIVE), 0)
    set_of = {member.volume: member.set_name for member in members if not member.is_new}
    by_volume: dict[bytes, list[DumpEntry]] = {}
    for entry in dumps:
        by_volume.setdefault(entry.volume_id, []).append(entry)
    for state in states:
        if state.name in set_of:
            chosen = policy.sets[set_of[state.name]]
            own = by_volume.pop(state.id, [])
            ahead = (coming or {}).get(state.name, [])
            found = _doomed_clones(state, own, chosen, ahead, now_ns, zone)
            found += _doomed_dumps(own, copies, chosen, ahead, now_ns, zone, state=state)
            _count(kept, state, own, copies, chosen, found)
            removals += found
    for own in by_volume.values():
        # The volume is gone, or in no set any more: its dumps stay under the rules of the set that made them.
        chosen_or_none = policy.sets.get(own[-1].set_name)
        if chosen_or_none is not None:
            found = _doomed_dumps(own, copies, chosen_or_none, [], now_ns, zone)
            _count(kept, None, own, copies, chosen_or_none, found)
            removals += found
    return PrunePlan(removals=removals, kept=kept)


def plan_clones(
    states: Iterable[VolumeState], keep: Keep, *, now_ns: int, zone: ZoneInfo, named: bool = False
) -> PrunePlan:
    """Return which clones of some volumes rules remove that no policy says; `named`: also those that a person named."""
    chosen = SetPolicy(name="", keep=KeepRules(clones=keep, named=not named))
    states = list(states)
    removals = [removal for state in states for removal in _doomed_clones(state, [], chosen, [], now_ns, zone)]
    return PrunePlan(removals=removals, kept={CLONES: sum(len(state.clones) for state in states) - len(removals)})


def _count(
    kept: dict[str, int],
    state: VolumeState | None,
    entries: list[DumpEntry],
    copies: Mapping[bytes, list[Copy]],
    chosen: SetPolicy,
    removals: list[Removal],
) -> None:
    where = [{copy.target for copy in copies.get(entry.dump_id, [])} for entry in entries]
    kept[CLONES] += len(state.clones) if state is not None else 0
    kept[SPOOL] += sum(SPOOL_TARGET in targets for targets in where)
    kept[ARCHIVE] += sum(bool(targets - {SPOOL_TARGET}) or not chosen.targets for targets in where)
    for removal in removals:
        kept[removal.place] -= 1


def _doomed_clones(
    state: VolumeState, entries: list[DumpEntry], chosen: SetPolicy, coming: list[Coming], now_ns: int, zone: ZoneInfo
) -> list[Removal]:
    made = {(entry.clone_name, entry.revision) for entry in entries}
    clones = dict(state.clones.items())
    items = [
        Item(
            key=name,
            received_ns=clone.created_ns,
            held=clone.held,
            named=chosen.keep.named and not is_automatic(name, clone),
            entry_count=clone.entry_count,
            trusted=(name, clone.revision) in made,
        )
        for name, clone in clones.items()
    ]
    ahead = [Item(key=f"/{each.received_ns}", received_ns=each.received_ns) for each in coming]
    found = apply_keep(items + ahead, chosen.keep.clones, now_ns=now_ns, zone=zone, entries_expected=shrunk_from(state))
    return [
        Removal(
            place=CLONES,
            set_name=chosen.name,
            volume=state.name,
            name=name,
            received_ns=clones[name].created_ns,
        )
        for name in found.removed
        if name in clones
    ]


def _doomed_dumps(
    entries: list[DumpEntry],
    copies: Mapping[bytes, list[Copy]],
    chosen: SetPolicy,
    coming: list[Coming],
    now_ns: int,
    zone: ZoneInfo,
    *,
    state: VolumeState | None = None,
) -> list[Removal]:
    by_key = {entry.dump_id.hex(): entry for entry in entries}
    needed = _needed_elsewhere(entries, state)
    items = [_item(entry, copies.get(entry.dump_id, []), held=entry.dump_id in needed) for entry in entries]
    expected = shrunk_from(state) if state is not None else None
    gone = _dump_keys(items + _coming_items(entries, coming), chosen.keep.archive, now_ns, zone, expected)
    removals = []
    for key in sorted(gone, key=lambda key: by_key[key].received_at_ns):
        removals.append(_dump_removal(ARCHIVE, by_key[key], tuple(copies.get(by_key[key].dump_id, [])), chosen))
    if not chosen.targets:
        return removals  # the spool is the archive
    spooled = [
        (item, entry, [copy for copy in copies.get(entry.dump_id, []) if copy.target == SPOOL_TARGET])
        for item, entry in zip(items, entries, strict=True)
        if item.key not in gone and is_safe(copies.get(entry.dump_id, []), chosen)
    ]
    spooled = [each for each in spooled if each[2]]
    alone = [item for item, _, _ in spooled]
    # Without rules nothing stays in the spool that is safe elsewhere.
    leaving = {item.key for item in alone}
    if not chosen.keep.spool.everything:
        leaving = _dump_keys(alone, chosen.keep.spool, now_ns, zone, expected)
    for item, entry, own in spooled:
        if item.key in leaving:
            removals.append(_dump_removal(SPOOL, entry, tuple(own), chosen))
    return removals


def _needed_elsewhere(entries: list[DumpEntry], state: VolumeState | None) -> set[bytes]:
    """Return the dumps that others build on which are no dumps of the cycle: a person made them, and says when they go
    (`dal mark --forget`)."""
    if state is None:
        return set()
    known = {entry.dump_id for entry in entries}
    return {each.base_dump for each in state.dumps if each.dump_id not in known and not each.recorder}


def _dump_keys(items: list[Item], keep: Keep, now_ns: int, zone: ZoneInfo, expected: int | None) -> set[str]:
    found = apply_keep(items, keep, now_ns=now_ns, zone=zone, entries_expected=expected)
    return {key for key in found.removed if not key.startswith("/")}


def _coming_items(entries: list[DumpEntry], coming: list[Coming]) -> list[Item]:
    """Return foreseen dumps with what they will rest on: the newest of a lower level, which may be there already."""
    items: list[Item] = []
    made = sorted(entries, key=lambda entry: entry.taken_at_ns)
    levels = [(entry.level, entry.dump_id.hex()) for entry in made]
    for each in coming:
        key = f"/{each.received_ns}"
        base = next((earlier for level, earlier in reversed(levels) if level < each.level), "")
        items.append(Item(key=key, received_ns=each.received_ns, base=base))
        levels.append((each.level, key))
    return items


def _item(entry: DumpEntry, copies: list[Copy], *, held: bool) -> Item:
    return Item(
        key=entry.dump_id.hex(),
        received_ns=entry.received_at_ns,
        held=held,
        good=entry.verdict != BAD and bool(usable_copies(copies)),
        entry_count=entry.entry_count,
        base=entry.base_dump.hex(),
    )


def _dump_removal(place: str, entry: DumpEntry, copies: tuple[Copy, ...], chosen: SetPolicy) -> Removal:
    return Removal(
        place=place,
        set_name=chosen.name,
        volume=entry.volume_name,
        name=entry.dump_id.hex(),
        received_ns=entry.received_at_ns,
        level=entry.level,
        size_bytes=sum(copy.size_bytes for copy in copies) or entry.size_bytes,
        copies=copies,
    )


def removal_name(removal: Removal) -> str:
    """Return what a person calls it."""
    if removal.place == CLONES:
        return f"{removal.volume}@{removal.name}"
    where = "spool" if removal.place == SPOOL else ", ".join(sorted({copy.medium for copy in removal.copies})) or "-"
    return f"{removal.volume} level {removal.level} dump {hex_short(bytes.fromhex(removal.name))} ({where})"
