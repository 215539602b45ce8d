"""What was measured, what was promised, and the page that shows both, the lost targets as plainly as the others."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sizes import MIB
from tools import Run

MEMORY_MIB_MAX = 300
INDEX_BYTES_MAX = 64


def say(text: str) -> None:
    """Print progress at once."""
    print(text, flush=True)


@dataclass
class Results:
    """Every measurement, by step and tool; sizes in bytes; notes for people."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    peak_mib: dict[str, dict[str, float]] = field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    index_bytes_per_object: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """What could not be measured though it should: the page keeps its last table then."""
    facts: dict[str, str] = field(default_factory=dict)
    table: list[str] = field(default_factory=list)
    """Lines that stand in the place of the table of seconds."""

    def add(self, step: str, tool: str, run: Run) -> None:
        """Keep one measurement."""
        self.seconds.setdefault(step, {}).setdefault(tool, []).append(run.seconds)
        peaks = self.peak_mib.setdefault(step, {})
        peaks[tool] = max(peaks.get(tool, 0.0), run.peak_mib)
        say(f"    {step}: {tool}: {run.seconds:.2f} s, {run.peak_mib:.0f} MiB")

    def median(self, step: str, tool: str) -> float | None:
        """Return the median seconds of a step, or None when it was not measured."""
        values = self.seconds.get(step, {}).get(tool)
        return statistics.median(values) if values else None

    def note(self, text: str) -> None:
        """Keep a remark that must reach the reader."""
        say(f"  NOTE: {text}")
        self.notes.append(text)

    def fail(self, text: str) -> None:
        """Keep what went wrong: no figure of this run replaces one of an earlier run."""
        say(f"  FAILED: {text}")
        self.failures.append(text)


@dataclass(frozen=True)
class Target:
    """One line of what was promised: `dal`'s figure at most `limit` times the other's."""

    text: str
    limit: float
    measure: Callable[[Results], float | None]


def ratio(step: str, other: str, *, tool: str = "dal") -> Callable[[Results], float | None]:
    """Return a measure: seconds of `tool` over seconds of `other` in one step."""

    def measure(results: Results) -> float | None:
        ours, theirs = results.median(step, tool), results.median(step, other)
        return ours / theirs if ours and theirs else None

    return measure


def size_ratio(step: str, other: str) -> Callable[[Results], float | None]:
    """Return a measure: stored bytes of dal over those of `other`."""

    def measure(results: Results) -> float | None:
        sizes = results.sizes.get(step, {})
        return sizes["dal"] / sizes[other] if sizes.get("dal") and sizes.get(other) else None

    return measure


def net_ratio(step: str, other_step: str) -> Callable[[Results], float | None]:
    """Return a measure: dal's step less its start-up, over restic's unchanged backup."""

    def measure(results: Results) -> float | None:
        ours, theirs = results.median(step, "dal"), results.median(other_step, "restic")
        start = results.median("start-up", "dal --version") or 0.0
        return max(0.0, ours - start) / theirs if ours and theirs else None

    return measure


def memory(results: Results) -> float | None:
    """Return dal's largest peak over all steps."""
    peaks = [tools["dal"] for tools in results.peak_mib.values() if "dal" in tools]
    return max(peaks) if peaks else None


def fastest(step: str) -> Callable[[Results], float | None]:
    """Return a measure: dal's seconds over those of the faster of `borg mount` and `restic mount`."""

    def measure(results: Results) -> float | None:
        others = [found for tool in ("borg", "restic") if (found := results.median(step, tool)) is not None]
        ours = results.median(step, "dal")
        return ours / min(others) if ours and others else None

    return measure


def again(results: Results) -> float | None:
    """Return dal's second reading over ext4's with the page cache dropped."""
    ours, theirs = results.median("read, again", "dal"), results.median("read, cold", "ext4")
    return ours / theirs if ours and theirs else None


def read_back_ratio(results: Results) -> float | None:
    """Return what archiving costs beyond the copy, over one read."""
    figures = results.figures
    if "archive_seconds" not in figures:
        return None
    return max(0.0, figures["archive_seconds"] - figures["copy_seconds"]) / figures["read_seconds"]


def targets(million: int) -> list[Target]:
    """Return every promise, in the order of the page."""
    tar3 = "tar|zstd -3 -T2"
    step = f"{million:,} files"
    return [
        Target("first backup, time over restic's", 0.40, ratio("first backup", "restic")),
        Target(f"first backup, time over `{tar3}`", 1.2, ratio("first backup", tar3)),
        Target("first backup, stored size over restic's", 0.85, size_ratio("first backup", "restic")),
        Target("nothing changed, time over restic's", 0.35, ratio("unchanged", "restic")),
        Target("1 % changed, time over restic's", 0.40, ratio("1 % changed", "restic")),
        Target("full restore, time over restic's", 0.60, ratio("full restore", "restic")),
        Target("one file, time over restic's", 0.50, ratio("one file", "restic")),
        Target("merge, time over `cat` with fsync", 2.0, ratio("merge", "cat + fsync")),
        Target("verify, time over `b3sum` plus `zstd -d`", 1.5, ratio("verify", "b3sum + zstd -d")),
        Target(
            "clone of a very large volume, over restic's unchanged backup",
            0.01,
            net_ratio(f"{step}: clone", f"{step}: unchanged"),
        ),
        Target(
            "level-1 dump of 100 changes in it, over the same",
            0.01,
            net_ratio(f"{step}: level-1 dump of 100 changes", f"{step}: unchanged"),
        ),
        Target("`dal --version` over `python -c pass`", 6.0, ratio("start-up", "python -c pass", tool="dal --version")),
        Target(
            "cold cache first backup, over `tar|zstd -1 -T2`",
            0.60,
            ratio("first backup, cold cache", "tar|zstd -1 -T2"),
        ),
        Target("restore by date, look-up in a large catalog, ms", 50, lambda each: each.figures.get("chain_ms_p99")),
        Target(
            "backup cycle beyond clone and dump, ms per small volume",
            15,
            lambda each: each.figures.get("cycle_ms_beyond"),
        ),
        Target("planning a month for 10,000 volumes, s", 5, lambda each: each.figures.get("plan_seconds")),
        Target("archive beyond a copy with fsync, over one read from the disk", 1.2, read_back_ratio),
        Target("peak memory of dal in any step, MiB", MEMORY_MIB_MAX, memory),
        Target("index on disk, bytes per object", INDEX_BYTES_MAX, lambda results: results.index_bytes_per_object),
    ]


def mount_targets() -> list[Target]:
    """Return the promises of mounts; what was promised as a part of another's speed is its inverse in time."""
    return [
        Target("read cold, time over `zstd -dc`", 2.0, ratio("read, cold", "zstd -dc")),
        Target("read cold of half noise, time over `zstd -dc`", 2.0, ratio("read of half noise, cold", "zstd -dc")),
        Target("read again, time over ext4's cold", 2.0, again),
        Target("`find -ls`, time over the faster other mount", 0.5, fastest("find -ls")),
        Target("tar of 5,000 small files, time over the faster other mount", 0.3, fastest("tar of small files")),
        Target("`cp -r` of 10,000 small files, time over ext4's", 6.0, ratio("cp -r of small files", "ext4")),
        Target("write with fsync, time over ext4's", 2.5, ratio("write with fsync", "ext4")),
        Target(
            "very large volume: mount to first ls, s",
            1.0,
            lambda results: results.median("very large volume: mount to first ls", "dal"),
        ),
        Target(
            "very large volume: peak memory after walking all of it, MiB",
            MEMORY_MIB_MAX,
            lambda results: results.figures.get("mount_peak_mib"),
        ),
    ]


def replication_targets(many: int) -> list[Target]:
    """Return the promises of replication."""

    def figure(name: str) -> Callable[[Results], float | None]:
        return lambda results: results.figures.get(name)

    return [
        Target("initial transfer of the tree, time over `rsync -a`", 1.5, ratio("initial transfer", "rsync -a")),
        Target(
            f"100 changed of {many:,} files, time over `rsync -a`",
            0.1,
            ratio(f"{many:,} files: 100 changed", "rsync -a"),
        ),
        Target("standby at 20 commits a second: behind, 99th percentile, s", 1.0, figure("feed_lag_p99_seconds")),
        Target("clone on two writers: users wait, s", 0.5, figure("clone_pause_seconds")),
        Target("move of the tree: users wait, s", 0.5, figure("move_pause_seconds")),
        Target(
            "commit of one small file to 3 servers over 1",
            4.0,
            ratio("commit of one small file", "dal, servers: 1", tool="dal, servers: 3"),
        ),
        Target("servers: peak memory, MiB", MEMORY_MIB_MAX, figure("servers_peak_mib")),
    ]


def shapes_targets() -> list[Target]:
    """Return the promises of odd shapes: of each the worst of all shapes."""

    def figure(name: str) -> Callable[[Results], float | None]:
        return lambda results: results.figures.get(name)

    return [
        *(
            Target(f"{step}, time over restic's", 1.0, figure(f"{step} over restic"))
            for step in ("first", "unchanged", "one change", "restore")
        ),
        Target("backup or restore of an entry, time over a plain tree's", 1.5, figure("entries over plain")),
        Target(
            "backup or restore of a directory, time over a plain tree's entry", 2.0, figure("directories over plain")
        ),
        Target("a mount's walk, time for each entry over a plain tree's", 2.0, figure("walk over plain")),
        Target("peak memory, MiB", 128, figure("peak")),
        Target("many hard links: any step, time over restic's", 1.0, figure("many over restic")),
        Target("many hard links: peak memory, MiB", 200, figure("many peak")),
    ]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def cell(text: str) -> str:
    """Return text that does not end a table's cell."""
    return text.replace("|", "\\|")


MISSED = "**missed**"


def judge(value: float | None, limit: float, *, failed: bool) -> str:
    """Return the verdict on a target; one that a failed run did not measure is missed."""
    if value is None:
        return MISSED if failed else "not measured"
    return "met" if value <= limit else MISSED


def render(results: Results, promises: list[Target], *, runs: int) -> str:
    """Return the results as markdown, lost targets as plainly as those that were met."""
    lines = [f"Measured {time.strftime('%Y-%m-%d', time.gmtime())}; medians of {runs}.", ""]
    lines += table(["", ""], [[cell(key), cell(value)] for key, value in results.facts.items()])
    lines += ["### Targets", ""]
    rows, lost = [], []
    for target in promises:
        value = target.measure(results)
        verdict = judge(value, target.limit, failed=bool(results.failures))
        if verdict == MISSED:
            lost.append(target.text)
        shown = "" if value is None else f"{value:.{4 if target.limit < 0.1 else 2 if target.limit < 10 else 0}f}"
        rows.append([cell(target.text), f"≤ {target.limit:g}", shown, verdict])
    lines += table(["what", "target", "measured", ""], rows)
    lines += [f"Missed: {cell('; '.join(lost))}." if lost else "No measured target was missed.", ""]
    lines += results.table or seconds_table(results)
    if results.sizes:
        lines += ["### Stored bytes", ""]
        rows = [
            [step, "; ".join(f"{cell(name)} {size:,} ({size / MIB:.1f} MiB)" for name, size in sizes.items())]
            for step, sizes in results.sizes.items()
        ]
        lines += table(["what", "bytes"], rows)
    remarks = [*(f"FAILED: {each}" for each in results.failures), *results.notes]
    if remarks:
        lines += ["### Notes of this run", "", *(f"* {cell(' '.join(each.split()))}" for each in remarks), ""]
    return "\n".join(lines)


def seconds_table(results: Results) -> list[str]:
    """Return what every step took, by tool."""
    lines = ["### Seconds (peak MiB of the largest process)", ""]
    names = list(dict.fromkeys(name for tools in results.seconds.values() for name in tools))
    common = [
        name for name in names if name in ("dal", "restic", "borg", "tar|zstd -3 -T2", "tar|zstd -1 -T2", "read floor")
    ]
    others = [name for name in names if name not in common]
    rows = []
    for step, tools in results.seconds.items():
        shown = [step]
        for name in common:
            median = results.median(step, name)
            peak = results.peak_mib[step].get(name)
            shown.append("" if median is None else f"{median:.2f}" + (f" ({peak:.0f})" if peak else ""))
        extra = [f"{cell(name)}: {results.median(step, name):.3f} s" for name in others if name in tools]
        rows.append([*shown, "; ".join(extra)])
    return [*lines, *table(["step", *(cell(name) for name in common), "beside it"], rows)]


def write_page(page: Path, text: str, *, section: str) -> None:
    """Put the results between the section's two marks; the words around them stay."""
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    old = page.read_text() if page.exists() else "# Benchmarks\n"
    if begin not in old:
        old += f"\n{begin}\n{end}\n"
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")
