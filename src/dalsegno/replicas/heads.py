"""Bring the heads of several servers together: those behind go forward, those that diverged are merged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dalsegno.chunks.realm import Realm
from dalsegno.formats.objects import Reference
from dalsegno.pool.contract import Source
from dalsegno.replicas.clones import bring_from_any, own_bases
from dalsegno.replicas.context import Merge
from dalsegno.replicas.contract import BATCH_IDS_MAX, Site
from dalsegno.replicas.sources import SitesSource, Workbench
from dalsegno.replicas.transfer import Spool, Transferred, send
from dalsegno.terms.errors import Damaged, Diverged, NotFound
from dalsegno.terms.events import Report
from dalsegno.terms.ids import ObjectId
from dalsegno.volumes.ancestry import between, find_revision, is_ancestor, merge_bases
from dalsegno.volumes.state import VolumeState


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


def bring_head(
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


def bring_line(volume: str, plan: HeadPlan, *, to: Site, state: VolumeState, owner: str) -> Transferred:
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
