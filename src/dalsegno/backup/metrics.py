"""How an installation is, for Prometheus: for the textfile collector of node_exporter. Pure."""

from collections.abc import Iterable, Iterator, Sequence

from dalsegno.backup.records import GOOD, Medium, Run
from dalsegno.backup.status import STATES, SetStatus
from dalsegno.formats.prometheus import Family, render
from dalsegno.terms.times import SECOND_NS


def metrics_text(
    sets: Sequence[SetStatus], *, last_run: Run | None, media: Sequence[Medium], here: Iterable[str], now_ns: int
) -> str:
    """Return all metrics of an installation; `here` has the labels of the media that can be reached."""
    families = [*_of_volumes(sets), *_of_run(last_run), *_of_media(media, set(here))]
    written = Family("dalsegno_status_timestamp_seconds", "When this was written", [({}, now_ns // SECOND_NS)])
    return "\n".join(render([*families, written])) + "\n"


def _of_volumes(sets: Sequence[SetStatus]) -> Iterator[Family]:
    volumes = [({"set": each.name, "volume": volume.volume}, volume) for each in sets for volume in each.volumes]
    lasts = [(labels, volume.last) for labels, volume in volumes if volume.last is not None]
    drills = [(labels, volume.last_drill) for labels, volume in volumes if volume.last_drill is not None]
    states = [(labels, STATES.index(volume.state)) for labels, volume in volumes]
    yield Family("dalsegno_state", "0 ok, 1 warning, 2 critical", states)
    shrunk = [(labels, volume.shrunk_from is not None) for labels, volume in volumes]
    yield Family("dalsegno_source_shrunk", "1 when the source lost most of its files", shrunk)
    made = [(labels, last.made_ns / SECOND_NS) for labels, last in lasts]
    what = "When the newest state that can be restored was frozen"
    yield Family("dalsegno_last_good_backup_timestamp_seconds", what, made)
    yield Family("dalsegno_last_good_backup_level", "Its level", [(labels, last.level) for labels, last in lasts])
    sizes = [(labels, last.size_bytes) for labels, last in lasts]
    yield Family("dalsegno_last_good_backup_bytes", "Size of its dump", sizes)
    held = [(labels, volume.target_count) for labels, volume in volumes]
    yield Family("dalsegno_targets", "How many targets hold it", held)
    wanted = [(labels, volume.targets_wanted) for labels, volume in volumes]
    yield Family("dalsegno_targets_wanted", "How many should hold it", wanted)
    ended = [(labels, drill.ended_ns / SECOND_NS) for labels, drill in drills]
    yield Family("dalsegno_last_drill_timestamp_seconds", "When it was last restored for trial", ended)
    good = [(labels, drill.verdict == GOOD) for labels, drill in drills]
    yield Family("dalsegno_last_drill_good", "1 when what came back was what was backed up", good)


def _of_run(run: Run | None) -> Iterator[Family]:
    if run is not None:
        began, ended = run.started_ns / SECOND_NS, run.ended_ns / SECOND_NS
        what = "When the last run of the cycle began"
        yield Family("dalsegno_last_run_started_timestamp_seconds", what, [({}, began)])
        what = "When it ended; 0 while it goes on, or when it was killed"
        yield Family("dalsegno_last_run_ended_timestamp_seconds", what, [({}, ended)])


def _of_media(media: Sequence[Medium], here: set[str]) -> Iterator[Family]:
    labelled = [({"target": medium.target, "medium": medium.label}, medium) for medium in media]
    sized = [(labels, medium) for labels, medium in labelled if medium.capacity_bytes]
    there = [(labels, medium.label in here) for labels, medium in labelled]
    yield Family("dalsegno_medium_here", "1 when it can be reached", there)
    capacities = [(labels, medium.capacity_bytes) for labels, medium in sized]
    yield Family("dalsegno_medium_capacity_bytes", "Its size", capacities)
    used = [(labels, medium.used_bytes) for labels, medium in sized]
    yield Family("dalsegno_medium_used_bytes", "What is in use", used)
