"""Heads of replicas: find the newest, merge those that diverged, send what is missing, move the others forward."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from dalsegno.chunks.realm import Realm
from dalsegno.formats.object_rows import ROW_BYTES, Rows, read_rows, row_ids, row_lengths
from dalsegno.formats.objects import Reference
from dalsegno.pool.contract import Source
from dalsegno.replicas.clones import bring_from_any, own_bases
from dalsegno.replicas.context import Merge, ReplicaContext
from dalsegno.replicas.contract import BATCH_IDS_MAX, Site
from dalsegno.replicas.sources import SitesSource, Workbench
from dalsegno.replicas.transfer import Spool, Transferred, bring, fetch, send
from dalsegno.terms.errors import Damaged, Diverged, NotFound, Refused
from dalsegno.terms.events import Report, silent
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.volumes.ancestry import between, find_revision, is_ancestor, merge_bases
from dalsegno.volumes.state import VolumeState

FEW_OBJECTS_MAX: Final = 2_000
FEW_BYTES_MAX: Final = 4 * MIB
"""So few objects, of so few bytes, go in one pack and one call."""
UNASKED_BYTES_MAX: Final = 256 * KIB
"""So few are sent without asking which of them are there already."""


@dataclass(slots=True, kw_only=True)
class HeadPlan:
    """What brings some servers to one head."""

    target: bytes
    """What all come to."""
    tops: list[bytes]
    """The heads that lie behind no other; more than one was merged into `target`."""
    bases: dict[tuple[bytes, bytes], list[bytes]]
    """(a server's head, a top): what both come from, when the head is not behind the top."""
    bench: Workbench
    merged: Spool | None = None
    """A pack of what the merge made."""
    outside: list[Reference] = field(default_factory=list)
    """What the merge names and did not make."""
    bytes_read: int = 0

    def close(self) -> None:
        """Give the room back."""
        self.bench.close()
        if self.merged is not None:
            self.merged.close()


def newest_heads(source: Source, heads: Iterable[bytes]) -> list[bytes]:
    """Return, sorted, those of the heads that lie behind none of the others."""
    distinct = sorted(set(heads))
    return [
        head for head in distinct if not any(other != head and is_ancestor(source, head, other) for other in distinct)
    ]


def unreadable_heads(source: Source, heads: Iterable[bytes]) -> dict[bytes, NotFound | Damaged]:
    """Return the heads whose revisions cannot be read anywhere."""
    found: dict[bytes, NotFound | Damaged] = {}
    for head in sorted(set(heads)):
        try:
            source.get(ObjectId(head))
        except (NotFound, Damaged) as error:
            found[head] = error
    return found


def strangers(source: Source, tops: Sequence[bytes], *, to: bytes) -> set[bytes]:
    """Return the tops that have no state in common with `to` any more, because what they came from is gone.

    Merged all the same, everything that differs would look like a conflict, and deleted files would come back. Two that
    both began with an empty volume are no strangers.
    """
    return {
        top
        for top in tops
        if top != to and not merge_bases(source, top, to) and (_is_cut_off(source, top) or _is_cut_off(source, to))
    }


def _is_cut_off(source: Source, head: bytes) -> bool:
    """Tell whether something that lies behind `head` is not here any more."""
    for identity in between(source, head, ()):
        revision = find_revision(source, identity)
        if revision is None or any(find_revision(source, parent) is None for parent in revision.parents):
            return True
    return False


def plan_heads(source: SitesSource, realm: Realm, heads: Iterable[bytes], merge: Merge) -> HeadPlan:
    """Find out what all heads come to, merging those that diverged. The same heads give the same target everywhere."""
    distinct = sorted(set(heads))
    tops = newest_heads(source, distinct)
    bench = Workbench(source, realm)
    plan = HeadPlan(target=tops[0], tops=tops, bases={}, bench=bench)
    try:
        if len(tops) > 1:
            line = []
            for other in tops[1:]:
                plan.target = bytes(merge(bench, bench, plan.target, other))
                line.append(plan.target)
            plan.merged, plan.outside = bench.pack(line)
            for head in distinct:
                for top in tops:
                    if head != top and not is_ancestor(source, head, top):
                        plan.bases[head, top] = [bytes(base) for base in merge_bases(source, head, top)]
        plan.bytes_read = source.bytes_crossed
    except BaseException:
        plan.close()
        raise
    return plan


def send_head(
    volume: str,
    plan: HeadPlan,
    *,
    to: Site,
    state: VolumeState,
    holders: Mapping[bytes, Sequence[Site]],
    owner: str,
    report: Report,
) -> tuple[VolumeState, Transferred]:
    """Bring one server to the plan's target; `holders` are the sites that have each top whole."""
    done = Transferred()
    own = [state.common, *own_bases(state)]
    for top in plan.tops:
        if top != state.head:
            bases = [*plan.bases.get((state.head, top), ()), *own]
            bases = [base for base in dict.fromkeys(bases) if base]
            done += bring_from_any(volume, [top], bases, sources=holders[top], to=to, report=report)
    if plan.merged is None:
        return to.advance(volume, plan.target, owner=owner), done
    spool = plan.merged
    done += Transferred(bytes_crossed=spool.size_bytes)
    try:
        return to.commit(volume, plan.target, spool.pack_id(), spool.pieces(), owner=owner), done
    except NotFound:
        # A side of a conflict may come from a state that is not whole here.
        with_below = plan.bench.pack_absent(to, volume, plan.outside)
        if with_below is None:
            raise
        with with_below:
            done += Transferred(bytes_crossed=with_below.size_bytes)
            to.adopt(volume, [send(to, volume, with_below)])
        return to.commit(volume, plan.target, spool.pack_id(), spool.pieces(), owner=owner), done


def send_revisions(volume: str, plan: HeadPlan, *, to: Site, state: VolumeState, owner: str) -> Transferred:
    """Bring the revisions between a server's head and the target, without their trees, and advance it.

    Who holds the target may have it without its past, which is on other servers: what was copied from there alone then
    looks as if both had diverged. Diverged when they have.
    """
    if to.state(volume).head != state.head:
        raise Diverged(f"{to.name}: its head moved meanwhile")
    done = Transferred()
    line = [each for each in between(plan.bench, plan.target, [state.head]) if find_revision(plan.bench, each)]
    for start in range(0, len(line), BATCH_IDS_MAX):
        batch = line[start : start + BATCH_IDS_MAX]
        with plan.bench.write_pack(batch) as spool:
            to.adopt(volume, [send(to, volume, spool)])
            done += Transferred(objects=len(batch), bytes_crossed=spool.size_bytes)
    to.advance(volume, plan.target, owner=owner)
    return done


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
            send_head(volume, plan, to=site, state=states[site.name], holders=holders, owner="", report=context.report)


def _load_revisions(source: SitesSource, sites: Sequence[Site], states: dict[str, VolumeState]) -> None:
    for site in sites:
        source.load_revisions(site, states[site.name])


def _require_kinship(volume: str, source: SitesSource, tops: Sequence[bytes], sites: Sequence[Site]) -> None:
    """Refuse heads whose common past is gone: all that changed since would look like a conflict, and deleted files come
    back. Heads that never had one (both began with an empty volume) are merged."""
    if strangers(source, tops, to=tops[0]):
        names = " and ".join(site.name for site in sites)
        raise Refused(
            f"{volume}: {names} have no state in common any more: one was away for longer than the other keeps "
            "its history; `dal follow --anew` begins again from nothing"
        )


def fast_forward(
    volume: str,
    revision: bytes,
    bases: Sequence[bytes],
    *,
    source: Site,
    to: Site,
    common: bytes = b"",
    report: Report = silent,
) -> tuple[VolumeState, Transferred]:
    """Make `revision` whole at `to` and its head, and `common`, which every writer has, too; return the new state.

    Little is asked for once, fetched once and committed in one call: three round trips.
    """
    targets = list(dict.fromkeys([revision, *([common] if common else [])]))
    rows = _few_rows(source.missing(volume, targets, bases), of=source.name)
    if rows is not None:
        done = _commit_few(volume, revision, rows, source=source, to=to, common=common)
        if done is not None:
            return done
    transferred = bring(volume, targets, bases, sources=[source], to=to, report=report)
    state = to.advance(volume, revision)
    if common and common != state.common:
        to.agree(volume, common)
        state = msgspec.structs.replace(state, common=common)
    return state, transferred


def _few_rows(stream: Iterator[bytes], *, of: str) -> Rows | None:
    """Return the rows when they are few, of few bytes; else None."""
    parts: list[Rows] = []
    count = size = 0
    for rows in read_rows(stream, of=of):
        parts.append(rows)
        count += len(rows)
        size += int(row_lengths(rows).sum())
        if count > FEW_OBJECTS_MAX or size > FEW_BYTES_MAX:
            return None
    return np.concatenate(parts) if parts else np.empty((0, ROW_BYTES), np.uint8)


def _commit_few(
    volume: str, revision: bytes, rows: Rows, *, source: Site, to: Site, common: bytes
) -> tuple[VolumeState, Transferred] | None:
    """Send a few objects and commit them; None when something that they name is not there after all."""
    asked = 0
    if int(row_lengths(rows).sum()) > UNASKED_BYTES_MAX:
        ids = row_ids(rows)
        answer = np.frombuffer(to.have(volume, ids), np.uint8)
        asked = len(ids) + len(answer)
        rows = rows[answer == 0]
    if not len(rows):
        return to.commit(volume, revision, b"", (), common=common), Transferred(bytes_crossed=asked)
    with fetch(source, volume, row_ids(rows), payload_bytes=int(row_lengths(rows).sum())) as spool:
        try:
            state = to.commit(volume, revision, spool.pack_id(), spool.pieces(), common=common)
        except NotFound:
            return None
        return state, Transferred(
            objects=len(rows),
            bytes_crossed=asked + spool.size_bytes,
            payload_bytes=int(row_lengths(rows).sum()),
        )
