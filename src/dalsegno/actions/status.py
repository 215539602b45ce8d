"""How the site stands now: gathered from catalog, drives and policy."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dalsegno.actions.plan import membership
from dalsegno.actions.retrieve import bad_labels, media_here
from dalsegno.archive.installation import Installation
from dalsegno.backup.clones_only import clone_entries
from dalsegno.backup.days import Today, local_day
from dalsegno.backup.drills import Candidate
from dalsegno.backup.members import Member
from dalsegno.backup.records import Copy, DumpEntry, Medium, Run
from dalsegno.backup.status import SetStatus, set_status, volume_status
from dalsegno.terms.errors import DalError
from dalsegno.terms.events import Report
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.shrunk import shrunk_from
from dalsegno.volumes.state import VolumeState

DAY_NS = 86400 * SECOND_NS
CYCLES_LOOKED_AT = 3
DAYS_LOOKED_AT_MIN = 40
RUNS_LOOKED_AT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """How a site stands."""

    sets: tuple[SetStatus, ...]
    last_run: Run | None
    open_job_count: int
    media: tuple[Medium, ...]
    media_here: tuple[str, ...]
    collected: Run | None
    """The last run that gave back room."""
    bad_labels: tuple[str, ...]
    """Media whose label cannot be read, in words."""
    outside: tuple[str, ...]
    """Volumes of the pool that belong to no set: nobody backs them up."""


def status(site: Installation, states: Iterable[VolumeState], *, now_ns: int, report: Report) -> SiteStatus:
    """Return how the site stands."""
    states = list(states)
    members = membership(site.policy, states).members
    ids = {state.name: state.id for state in states}
    by_name = {state.name: state for state in states}
    shrunk = {state.name: shrunk_from(state) for state in states}
    today = Today(day=local_day(now_ns, site.zone), zone=site.zone)
    sets = []
    for chosen in site.policy.sets.values():
        own = [member for member in members if member.set_name == chosen.name]
        days = max(DAYS_LOOKED_AT_MIN, CYCLES_LOOKED_AT * chosen.cycle_days)
        entries, copies = _recent(site, own, ids, since_ns=now_ns - days * DAY_NS)
        volumes = []
        for member in own:
            volume_id = ids.get(member.volume, b"") if not member.is_new else b""
            mine, own_copies = entries.get(volume_id, []), copies
            if not chosen.dumps and volume_id:
                mine, own_copies = clone_entries(by_name[member.volume])
            volumes.append(
                volume_status(
                    member.volume if not member.is_new else member.source,
                    mine,
                    own_copies,
                    chosen,
                    today=today,
                    last_drill=site.catalog.last_drill(volume_id) if volume_id else None,
                    shrunk_from=shrunk.get(member.volume) if not member.is_new else None,
                )
            )
        sets.append(set_status(chosen, volumes))
    runs = site.catalog.runs(count_max=RUNS_LOOKED_AT)
    collected = next((run for run in runs if run.report.get("collected")), None)
    here = media_here(site, report=report)
    inside = {member.volume for member in members}
    return SiteStatus(
        sets=tuple(sets),
        last_run=runs[0] if runs else None,
        open_job_count=len(site.catalog.open_jobs()),
        media=tuple(_media(site)),
        media_here=tuple(sorted(set().union(*here.values()))) if here else (),
        collected=collected,
        bad_labels=tuple(str(each.error) for each in bad_labels(site)),
        outside=tuple(sorted(state.name for state in states if state.name not in inside)),
    )


def _recent(
    site: Installation, members: Iterable[Member], ids: dict[str, bytes], *, since_ns: int
) -> tuple[dict[bytes, list[DumpEntry]], dict[bytes, list[Copy]]]:
    """Return the dumps of the last cycles by volume; of a volume that has none, all."""
    entries: dict[bytes, list[DumpEntry]] = {}
    for entry in site.catalog.dumps(since_ns=since_ns):
        entries.setdefault(entry.volume_id, []).append(entry)
    for member in members:
        volume_id = ids.get(member.volume)
        if volume_id is None or member.is_new:
            continue
        known = entries.get(volume_id, [])
        bottom = {entry.dump_id for entry in known}
        # A chain that begins before the window is read whole.
        if not known or any(not entry.is_full and entry.base_dump not in bottom for entry in known):
            entries[volume_id] = site.catalog.dumps(volume_id)
    return entries, site.catalog.copies_of(entry.dump_id for each in entries.values() for entry in each)


def _media(site: Installation) -> list[Medium]:
    """Return the media that the catalog knows, those in a drive as they are now."""
    known = {medium.label: medium for medium in site.catalog.media()}
    for target in site.targets.values():
        try:
            for medium in target.present():
                before = known.get(medium.label, medium)
                known[medium.label] = replace(medium, state=before.state)
        except DalError:
            continue
    return list(known.values())


def drill_candidates(site: Installation, states: Iterable[VolumeState], *, sets: Iterable[str] = ()) -> list[Candidate]:
    """Return the volumes of some sets (all by default) that have dumps, with their last drill."""
    states = list(states)
    ids = {state.name: state.id for state in states}
    wanted = set(sets) or set(site.policy.sets)
    found = []
    with_dumps = {volume_id for volume_id, _ in site.catalog.volumes()}
    for member in membership(site.policy, states).members:
        volume_id = ids.get(member.volume)
        if member.set_name in wanted and volume_id in with_dumps and not member.is_new:
            assert volume_id is not None
            last = site.catalog.last_drill(volume_id)
            found.append(Candidate(volume_id=volume_id, volume_name=member.volume, set_name=member.set_name, last=last))
    return found
