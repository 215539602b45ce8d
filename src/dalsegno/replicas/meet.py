"""Bring a few replicas of a volume to one head, whatever their roles: a standby and its origin, a server that moves."""

from collections.abc import Sequence
from contextlib import closing

from dalsegno.replicas.context import ReplicaContext
from dalsegno.replicas.contract import Site
from dalsegno.replicas.heads import bring_head, newest_heads, plan_heads
from dalsegno.replicas.sources import SitesSource
from dalsegno.terms.errors import Refused
from dalsegno.trees.read import read_revision
from dalsegno.volumes.ancestry import between, find_revision, merge_bases
from dalsegno.volumes.state import VolumeState


def merge_replicas(volume: str, sites: Sequence[Site], context: ReplicaContext) -> None:
    """Bring replicas to one head, merging what diverged; the first one is changed last.

    Refused when they have no state in common any more; otherwise any error of a server.
    """
    states = {site.name: site.state(volume) for site in sites}
    source = SitesSource(volume, sites, context.realm)
    source.load_more = lambda: _load_revisions(source, sites, states)
    heads = [state.head for state in states.values() if state.head]
    if not heads:
        return
    _require_kinship(volume, source, newest_heads(source, heads), sites)
    plan = plan_heads(source, context.realm, heads, context.merge)
    with closing(plan):
        holders = {top: [site for site in sites if states[site.name].head == top] for top in plan.tops}
        # Backwards: the one that only follows first, so that what was merged is in two places before it is used.
        for site in reversed(sites):
            bring_head(volume, plan, to=site, state=states[site.name], holders=holders, owner="", report=context.report)


def _load_revisions(source: SitesSource, sites: Sequence[Site], states: dict[str, VolumeState]) -> None:
    for site in sites:
        source.load_revisions(site, states[site.name])


def _require_kinship(volume: str, source: SitesSource, tops: Sequence[bytes], sites: Sequence[Site]) -> None:
    """Refuse heads whose common past is gone: all that changed since would look like a conflict, and deleted files come
    back. Heads that never had one (both began with an empty volume) are merged."""
    for other in tops[1:]:
        if not merge_bases(source, tops[0], other) and (_is_cut_off(source, tops[0]) or _is_cut_off(source, other)):
            names = " and ".join(site.name for site in sites)
            raise Refused(
                f"{volume}: {names} have no state in common any more: one was away for longer than the other keeps "
                "its history; `dal follow --anew` begins again from nothing"
            )


def _is_cut_off(source: SitesSource, head: bytes) -> bool:
    return any(
        find_revision(source, parent) is None
        for identity in between(source, head, ())
        for parent in read_revision(source, identity).parents
    )
