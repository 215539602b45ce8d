"""The plan of a site: gather what is known of its volumes, and say what the coming days would bring."""

import glob
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from dalsegno.actions.prune import find_removals
from dalsegno.actions.session import House
from dalsegno.archive.installation import Installation
from dalsegno.backup.clones_only import clone_entries
from dalsegno.backup.days import dumped_days, local_day, zone_of
from dalsegno.backup.members import Known, Member, Membership, find_members, path_matches
from dalsegno.backup.plan import Balance, PlanDay, VolumeFacts, balance, plan_days
from dalsegno.backup.policy import Policy
from dalsegno.backup.prune_plan import Coming, PrunePlan
from dalsegno.backup.records import DumpEntry
from dalsegno.terms.errors import DalError
from dalsegno.terms.times import SECOND_NS
from dalsegno.trees.read import read_revision
from dalsegno.volumes.state import VolumeState, holders
from dalsegno.world.errands import look_at_each

RUNS_READ_MAX = 1000
INCREMENTS_LOOKED_AT = 8
DAILY_SHARE_GUESS = 0.01
"""How much of a volume changes in a day, while nothing is known of it."""
DAY_NS = 86400 * SECOND_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePlan:
    """The coming days."""

    days: list[PlanDay]
    balance: Balance
    removals: PrunePlan
    """What retention removes by the end, of what is there now."""
    membership: Membership
    unknown_sizes: list[str]
    """Volumes that were never looked into: they count as nothing."""


def find_directories(policy: Policy) -> list[str]:
    """Return the directories that the sets' sources name now."""
    found = set()
    for chosen in policy.sets.values():
        for source in chosen.sources:
            found |= {os.path.realpath(path) for path in glob.glob(source) if os.path.isdir(path)}
    return sorted(found)


def look_for_directories(
    policy: Policy, *, seconds: float, without: Collection[str]
) -> tuple[list[str], list[str], list[str]]:
    """Return the directories that the sets' sources name now, those of them that say nothing within `seconds`, and the
    globs of which it is not known what they name, for the same reason. Those in `without` are not asked, and named."""
    words = dict.fromkeys(source for chosen in policy.sets.values() for source in chosen.sources)
    asked = (word for word in words if word not in without)
    named, silent_words = look_at_each(asked, glob.glob, seconds=seconds)
    plain = [word for word in silent_words if not glob.has_magic(word)]
    paths = dict.fromkeys(path for each in named.values() for path in each if path not in without)
    real, silent = look_at_each(
        paths, lambda path: os.path.realpath(path) if os.path.isdir(path) else "", seconds=seconds
    )
    silent += plain
    unasked = [path for path in without if path.startswith("/")]
    return sorted({*filter(None, real.values()), *silent, *unasked}), silent, sorted(set(silent_words) - set(plain))


def outside_links(policy: Policy) -> list[tuple[str, str]]:
    """Return the symbolic links that the sources' globs meet, and the directories they lead to, which no source names:
    a volume belongs to the set that names its real directory, so these are in none."""
    words = [word for each in policy.sets.values() for word in each.sources]
    links = {path: os.path.realpath(path) for word in words for path in glob.glob(word) if os.path.islink(path)}
    return sorted(
        (path, real)
        for path, real in links.items()
        if os.path.isdir(real) and not any(path_matches(real, word) for word in words)
    )


def membership(policy: Policy, states: Iterable[VolumeState], directories: Iterable[str] | None = None) -> Membership:
    """Return which volume belongs to which set now; `directories` are those of `find_directories`, if known."""
    known = [
        Known(name=state.name, source=os.fsdecode(state.source), servers=holders(state.replicas)) for state in states
    ]
    return find_members(policy, known, find_directories(policy) if directories is None else directories)


def gather_facts(
    house: House, site: Installation, members: Iterable[Member], states: Iterable[VolumeState]
) -> list[VolumeFacts]:
    """Return what the plan needs to know of each member: what was dumped when, and how large a dump will be."""
    by_name = {state.name: state for state in states}
    entries: dict[bytes, list[DumpEntry]] = {}
    for entry in site.catalog.dumps():
        entries.setdefault(entry.volume_id, []).append(entry)
    runs = site.catalog.runs(count_max=RUNS_READ_MAX)
    facts = []
    for member in members:
        state = None if member.is_new else by_name[member.volume]
        own = entries.get(state.id, []) if state is not None else []
        full_bytes, daily_bytes = _sizes(house, state, own)
        if not site.policy.sets[member.set_name].dumps:
            own = clone_entries(state)[0] if state is not None else []
        facts.append(
            VolumeFacts(
                volume=member.volume if not member.is_new else member.source,
                set_name=member.set_name,
                history=tuple(dumped_days(own, runs, zone_of(site.policy))),
                full_bytes=full_bytes,
                daily_bytes=daily_bytes,
            )
        )
    return facts


def _sizes(house: House, state: VolumeState | None, entries: list[DumpEntry]) -> tuple[int, int]:
    """Return the bytes of a full, and of a day's changes: as they were last, or guessed from the tree."""
    by_id = {entry.dump_id: entry for entry in entries}
    fulls = [entry.size_bytes for entry in entries if entry.is_full]
    full_bytes = fulls[-1] if fulls else 0
    if not fulls and state is not None and state.head:
        try:
            state = house.volumes.get_by_id(state.id) or state
            full_bytes = read_revision(house.pool, state.head).total_bytes
        except DalError:
            full_bytes = 0
    rates = []
    for entry in [entry for entry in entries if not entry.is_full][-INCREMENTS_LOOKED_AT:]:
        base = by_id.get(entry.base_dump)
        if base is not None:
            rates.append(entry.size_bytes / max(1, round((entry.taken_at_ns - base.taken_at_ns) / DAY_NS)))
    return full_bytes, int(sum(rates) / len(rates)) if rates else int(full_bytes * DAILY_SHARE_GUESS)


def plan(house: House, site: Installation, *, day_count: int, now_ns: int) -> SitePlan:
    """Return what the coming days would bring, beginning today. Nothing is changed."""
    states = house.volumes.list()
    found = membership(site.policy, states)
    facts = gather_facts(house, site, found.members, states)
    first_day = local_day(now_ns, zone_of(site.policy))
    days = plan_days(site.policy, facts, first_day=first_day, day_count=day_count)
    coming: dict[str, list[Coming]] = {}
    for day in days:
        for dump in day.dumps:
            at_ns = now_ns + (day.day - first_day) * DAY_NS
            coming.setdefault(dump.volume, []).append(Coming(received_ns=at_ns, level=dump.level or 0))
    end_ns = now_ns + day_count * DAY_NS
    return SitePlan(
        days=days,
        balance=balance(days, facts),
        removals=find_removals(site, states, found.members, now_ns=end_ns, coming=coming),
        membership=found,
        unknown_sizes=sorted(
            each.volume for each in facts if not each.full_bytes and site.policy.sets[each.set_name].dumps
        ),
    )
