"""How a site stands, in Prometheus' text format: for the textfile collector of node_exporter. Pure."""

from collections.abc import Iterable, Sequence

from dalsegno.backup.records import GOOD, Medium, Run
from dalsegno.backup.status import STATES, SetStatus
from dalsegno.terms.times import SECOND_NS

Labels = dict[str, str]


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def family(name: str, help_text: str, samples: Iterable[tuple[Labels, float]]) -> list[str]:
    """Return one metric: its help, its type, and a line for each sample."""
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        number = f"{value:.0f}" if value == int(value) else repr(value)
        lines.append(f"{name}{{{inside}}} {number}" if inside else f"{name} {number}")
    return lines


def render(
    sets: Sequence[SetStatus], *, last_run: Run | None, media: Sequence[Medium], here: Iterable[str], now_ns: int
) -> str:
    """Return all metrics of a site."""
    volumes = [({"set": each.name, "volume": volume.volume}, volume) for each in sets for volume in each.volumes]
    lasts = [(labels, volume.last) for labels, volume in volumes if volume.last is not None]
    drills = [(labels, volume.last_drill) for labels, volume in volumes if volume.last_drill is not None]
    there = set(here)
    lines = family(
        "dalsegno_state",
        "0 ok, 1 warning, 2 critical",
        [(labels, STATES.index(volume.state)) for labels, volume in volumes],
    )
    lines += family(
        "dalsegno_source_shrunk",
        "1 when the source lost most of its files",
        [(labels, volume.shrunk_from is not None) for labels, volume in volumes],
    )
    lines += family(
        "dalsegno_last_good_backup_timestamp_seconds",
        "When the newest state that can be restored was frozen",
        [(labels, last.made_ns / SECOND_NS) for labels, last in lasts],
    )
    lines += family("dalsegno_last_good_backup_level", "Its level", [(labels, last.level) for labels, last in lasts])
    lines += family(
        "dalsegno_last_good_backup_bytes", "Size of its dump", [(labels, last.size_bytes) for labels, last in lasts]
    )
    lines += family(
        "dalsegno_targets", "How many targets hold it", [(labels, volume.target_count) for labels, volume in volumes]
    )
    lines += family(
        "dalsegno_targets_wanted",
        "How many should hold it",
        [(labels, volume.targets_wanted) for labels, volume in volumes],
    )
    lines += family(
        "dalsegno_last_drill_timestamp_seconds",
        "When it was last restored for trial",
        [(labels, last_drill.ended_ns / SECOND_NS) for labels, last_drill in drills],
    )
    lines += family(
        "dalsegno_last_drill_good",
        "1 when what came back was what was backed up",
        [(labels, last_drill.verdict == GOOD) for labels, last_drill in drills],
    )
    if last_run is not None:
        lines += family(
            "dalsegno_last_run_started_timestamp_seconds",
            "When the last run of the cycle began",
            [({}, last_run.started_ns / SECOND_NS)],
        )
        lines += family(
            "dalsegno_last_run_ended_timestamp_seconds",
            "When it ended; 0 while it goes on, or when it was killed",
            [({}, last_run.ended_ns / SECOND_NS)],
        )
    labelled = [({"target": medium.target, "medium": medium.label}, medium) for medium in media]
    lines += family(
        "dalsegno_medium_here",
        "1 when it can be reached",
        [(labels, medium.label in there) for labels, medium in labelled],
    )
    sized = [(labels, medium) for labels, medium in labelled if medium.capacity_bytes]
    lines += family(
        "dalsegno_medium_capacity_bytes", "Its size", [(labels, medium.capacity_bytes) for labels, medium in sized]
    )
    lines += family(
        "dalsegno_medium_used_bytes", "What is in use", [(labels, medium.used_bytes) for labels, medium in sized]
    )
    lines += family("dalsegno_status_timestamp_seconds", "When this was written", [({}, now_ns // SECOND_NS)])
    return "\n".join(lines) + "\n"
