"""A new replica whose server fetches the volume by itself: how much it lacks, and how far it has come.

Nobody says so: a sample of the objects that it lacks is looked for there now and then.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dalsegno.formats.object_rows import read_rows, row_ids, row_lengths
from dalsegno.replicas.clones import STEPS_AT_ONCE
from dalsegno.replicas.contract import BATCH_IDS_MAX, Site
from dalsegno.replicas.histories import kept
from dalsegno.replicas.transfer import Origin
from dalsegno.terms.events import Progress, Report, silent
from dalsegno.terms.ids import OBJECT_ID_BYTES
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.state import VolumeState

SAMPLE_MAX: Final = 1024
"""Objects that are looked for, at most twice as many."""
assert 2 * SAMPLE_MAX <= BATCH_IDS_MAX
LOOK_SECONDS: Final = 0.5
STALLED_NS: Final = 120 * SECOND_NS
"""When nothing has come for so long, somebody else has to bring it: one group of chunks on a slow line takes less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """What a site lacks of a volume."""

    here: VolumeState
    there: VolumeState
    """The volume as others have it."""
    names: frozenset[str]
    """Those of its clones that the site is to keep."""
    objects: int
    payload_bytes: int
    sample: bytes
    """Some of their ids, evenly spread over the order in which they come, joined."""


def survey(volume: str, there: VolumeState, *, origin: Origin, to: Site, clones: str = "") -> Lacking:
    """Find out what `to` lacks of the head and of those clones of `there` that the patterns `clones` name."""
    here = to.state(volume)
    names = kept(clones, there.clones)
    revisions = {there.head, *(there.clones[name].revision for name in names)} - {b""}
    bases = {here.head, *(clone.revision for clone in here.clones.values())} - {b""}
    count = size = 0
    sample: list[bytes] = []
    step = 1
    rows_of = missing_of_many(volume, sorted(revisions), sorted(bases), origin) if revisions else iter(())
    for rows in read_rows(rows_of, of=origin.name):
        for start in range(0, len(rows), BATCH_IDS_MAX):
            batch = rows[start : start + BATCH_IDS_MAX]
            answer = to.have(volume, row_ids(batch))
            wanted = batch[[not there_already for there_already in answer]]
            picked = row_ids(wanted[-count % step :: step])
            sample += [picked[at : at + OBJECT_ID_BYTES] for at in range(0, len(picked), OBJECT_ID_BYTES)]
            while len(sample) > 2 * SAMPLE_MAX:
                sample, step = sample[::2], 2 * step
            count += len(wanted)
            size += int(row_lengths(wanted).sum())
    return Lacking(
        here=here, there=there, names=frozenset(names), objects=count, payload_bytes=size, sample=b"".join(sample)
    )


def missing_of_many(volume: str, revisions: Sequence[bytes], bases: Sequence[bytes], origin: Origin) -> Iterator[bytes]:
    """Yield the rows of what is missing; where there are very many revisions, some stand in it more than once."""
    for start in range(0, len(revisions), STEPS_AT_ONCE):
        known = [*bases[:STEPS_AT_ONCE], *revisions[max(0, start - 1) : start]]
        yield from origin.missing(volume, revisions[start : start + STEPS_AT_ONCE], known)


def await_filled(
    volume: str,
    lacking: Lacking,
    *,
    site: Site,
    ticks: Callable[[], int],
    pause: Callable[[float], None],
    report: Report = silent,
) -> bool:
    """Wait until a standby has fetched what it lacked; return False when nothing comes any more."""
    count, moved_ns = 0, ticks()
    while lacking.sample:
        state = site.state(volume)
        head_there = state.head == lacking.there.head or state.head not in (b"", lacking.here.head)
        if head_there and all(name in state.clones or name in state.uncloned for name in lacking.names):
            break
        now_there = sum(site.have(volume, lacking.sample))
        if now_there > count:
            count, moved_ns = now_there, ticks()
        elif ticks() - moved_ns > STALLED_NS:
            return False
        share = count * OBJECT_ID_BYTES / len(lacking.sample)
        report(Progress(phase=f"{site.name} fetches {volume}", share=share))
        pause(LOOK_SECONDS)
    return True
