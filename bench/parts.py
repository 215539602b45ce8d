"""The parts with a table of their own: mounts, replication, odd shapes. Each runs in a process of its own."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import Results, say, table
from sizes import FULL, Sizes
from tools import Run, execute, remove

HERE = Path(__file__).resolve().parent
SHAPES_STEPS = ("first", "unchanged", "one change", "restore", "restore in place", "walk")
SHAPES_OF_DIRECTORIES = ("empty directories", "as many directories as files")
SHAPES_MANY = "hard links, many"


def bench_mounts(results: Results, env: dict[str, str], python: str, disk: Path, sizes: Sizes) -> None:
    """Walk, read and write through mounts of every tool that has them, on the real disk."""
    files, megabytes, many = sizes.tree_files, sizes.mount_megabytes, sizes.mount_many
    say(f"mounts: {files:,} files, {megabytes} MiB")
    place = disk / "mounts"
    place.mkdir()
    numbers = (files, megabytes, sizes.runs, many, sizes.mount_small_files, int(sizes.keeps_caches))
    run = execute([python, str(HERE / "mounts.py"), str(place), *map(str, numbers)], env=env, keep=True)
    found = json.loads(run.output)
    for step, tools in found["seconds"].items():
        for tool, seconds in tools.items():
            for each in seconds:
                results.add(step, tool, Run(each, 0.0))
    results.figures.update(found["figures"])
    results.facts["load at the end"] = f"{results.figures['load']:.1f}, of which this run is about 1"
    results.facts["mounted"] = f"{files:,} files of 100 in a directory; {megabytes} MiB in one file; {many:,} files"
    remove(place)


def bench_replication(results: Results, env: dict[str, str], python: str, place: Path, sizes: Sizes) -> None:
    """Follow, move and commit between real servers on loopback, beside rsync's daemon."""
    files, many, seconds = sizes.tree_files, sizes.replication_many, sizes.feed_seconds
    say(f"replication: {files:,} files; {many:,} files; {seconds} s of commits")
    numbers = (files, sizes.tree_bytes, many, sizes.runs, seconds, sizes.feed_files, sizes.commits)
    run = execute([python, str(HERE / "replication.py"), str(place), *map(str, numbers)], env=env, keep=True)
    found = json.loads(run.output)
    for step, tools in found["seconds"].items():
        for tool, each in tools.items():
            for value in each:
                results.add(step, tool, Run(value, 0.0))
    results.figures.update(found["figures"])
    results.figures["servers_peak_mib"] = max(found["peak_mib"].values())
    for note in found["notes"]:
        results.note(note)
    results.facts["servers"] = "peak MiB: " + ", ".join(
        f"{name} {value:.0f}" for name, value in sorted(found["peak_mib"].items())
    )
    results.facts["feed"] = (
        f"{found['figures']['feed_commits_a_second']:.1f} commits a second; the standby was behind by "
        f"{1000 * found['figures']['feed_lag_p50_seconds']:.0f} ms (median)"
    )
    remove(place)


def bench_shapes(
    results: Results, dal: str, env: dict[str, str], place: Path, sizes: Sizes, *, only: list[str]
) -> None:
    """Back up, restore and mount trees of odd shapes, restic beside it."""
    entries, names = sizes.entries, sizes.names
    say(f"shapes: {entries:,} entries; {names:,} names of hard-linked files")
    remove(place)
    place.mkdir(parents=True)
    room = os.statvfs(place)
    if names and room.f_files and room.f_favail < 2.2 * names:  # a tmpfs counts each name of a hard-linked file
        results.note(f"many hard links: not measured, {place} has room for {room.f_favail:,} names only (nr_inodes=0)")
        names = 0
    words = [sys.executable, str(HERE / "shapes.py"), dal, str(place), str(entries), str(names), *only]
    found = json.loads(execute(words, env=env, keep=True).output)
    for failure in found["failures"]:
        results.fail(failure)
    results.facts["entries"] = f"{entries:,}, a third of that for xattrs, long names and owners; many: {names:,} names"
    shapes_figures(results, found["records"])
    results.table = shapes_table(found["records"])
    remove(place)


def shapes_figures(results: Results, records: list[dict[str, Any]]) -> None:
    """Keep the worst of each promise over all shapes, and say which shape it was."""
    worst: dict[str, tuple[float, str]] = {}

    def note(name: str, value: float, shape: str) -> None:
        worst[name] = max(worst.get(name, (0.0, "")), (value, shape))

    found = {(each["shape"], each["step"], each["tool"]): each for each in records}
    for (shape, step, tool), each in found.items():
        if tool != "dal":
            continue
        other = found.get((shape, step, "restic"))
        is_many = shape == SHAPES_MANY
        if other is not None:
            note("many over restic" if is_many else f"{step} over restic", each["seconds"] / other["seconds"], shape)
        plain = found.get(("plain", step, "dal"))
        if plain is not None and each["entries"] > FULL.entries // 10 and not is_many:
            kind = "directories" if shape in SHAPES_OF_DIRECTORIES else "entries"
            rate = each["seconds"] / each["entries"] / (plain["seconds"] / plain["entries"])
            note("walk over plain" if step == "walk" else f"{kind} over plain", rate, f"{shape}: {step}")
        note("many peak" if is_many else "peak", each["peak_mib"], f"{shape}: {step}")
    for name, (value, shape) in worst.items():
        results.figures[name] = value
        results.facts[f"worst: {name}"] = f"{value:.2f} ({shape})"


def shapes_table(records: list[dict[str, Any]]) -> list[str]:
    """Return one row for each shape: seconds and peak MiB of dal and of what stands beside it."""

    def rows(show: Callable[[dict[str, Any]], str]) -> list[list[str]]:
        found = {(each["shape"], each["step"], each["tool"]): each for each in records}
        shown = []
        for shape in dict.fromkeys(each["shape"] for each in records):
            row = [shape]
            for step in SHAPES_STEPS:
                beside = "the tree itself" if step == "walk" else "restic"
                pair = [found.get((shape, step, tool)) for tool in ("dal", beside)]
                row.append(" / ".join(show(each) for each in pair if each))
            shown.append(row)
        return shown

    head = ["shape", *SHAPES_STEPS]
    return [
        "### Seconds (peak MiB) of dal / of restic; walk: of a mount / of the tree itself",
        "",
        *table(head, rows(lambda each: f"{each['seconds']:.1f} ({each['peak_mib']:.0f})")),
        "### Processor seconds of the same; walk: of the reader and of who serves the mount",
        "",
        *table(head, rows(lambda each: f"{each['processor']:.1f}")),
    ]
