"""The steps on one tree, and those on the very large volume, the database, the catalog and the cycle."""

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

from results import Results, say
from sizes import MIB, Sizes
from tools import Dal, Failed, Restic, Run, Tar, Tool, base_env, execute, index_bytes_per_object, remove, shell
from trees import change_one_percent, differences, regular_files

HERE = Path(__file__).resolve().parent


def filesystem_of(path: Path) -> str:
    """Return the type of the file system that holds `path`."""
    found = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


@contextlib.contextmanager
def guarded(results: Results, tools: list[Tool], tool: Tool) -> Iterator[None]:
    """Drop a tool that fails, which fails the run, and let the others go on."""
    try:
        yield
    except (Failed, OSError) as error:
        results.fail(f"{tool.name} was dropped: {error}")
        if tool in tools:
            tools.remove(tool)


def bench_tree(
    results: Results, tools: list[Tool], tar: Tar | None, tree: Path, work: Path, disk: Path, runs: int
) -> None:
    """First, unchanged, changed, restore, one file, read floor, dumps: `runs` times on one tree."""
    files = regular_files(tree)
    middle = min(files, key=lambda path: (abs(path.stat().st_size - 5000), str(path)))
    out = work / "out"
    for run_index in range(runs):
        say(f"  run {run_index + 1} of {runs}")
        floor = execute(shell('find "$1" -type f -print0 | xargs -0 cat > /dev/null', str(tree)), env=base_env(work))
        results.add("first backup", "read floor", floor)
        if tar is not None:
            tar.fresh()
            results.add("first backup", tar.name, tar.backup(tree))
            results.sizes.setdefault("first backup", {})[tar.name] = tar.stored()
        for tool in list(tools):
            with guarded(results, tools, tool):
                tool.fresh()
                results.add("first backup", tool.name, tool.backup(tree))
                results.sizes.setdefault("first backup", {})[tool.name] = tool.stored()
                if isinstance(tool, Dal):
                    results.index_bytes_per_object = index_bytes_per_object(tool.store)
                results.add("unchanged", tool.name, tool.backup(tree))
        dal = next((tool for tool in tools if isinstance(tool, Dal)), None)
        if dal is not None:
            with guarded(results, tools, dal):
                for name in ("full.dump", "incr1.dump", "merged.dump", "cat.out"):
                    remove(disk / name)
                results.add(
                    "dump level 0", "dal", dal.call("dump", tree.name, "--level", "0", "-o", str(disk / "full.dump"))
                )
        count = change_one_percent(files, seed=run_index + 1)
        results.facts["changed files"] = f"{count:,}"
        for tool in list(tools):
            with guarded(results, tools, tool):
                results.add("1 % changed", tool.name, tool.backup(tree))
                results.sizes.setdefault("after 1 % changed", {})[tool.name] = tool.stored()
                remove(out)
                run, place = tool.restore(tree, out)
                results.add("full restore", tool.name, run)
                if run_index == 0 and (found := differences(tree, place)):
                    results.note(f"{tool.name}: the restored tree differs: {found}")
                remove(out)
                run, data = tool.one(tree, middle, out)
                results.add("one file", tool.name, run)
                if data != middle.read_bytes():
                    results.note(f"{tool.name}: the one restored file differs")
                remove(out)
        if tar is not None:
            tar.backup(tree)
            run, place = tar.restore(tree, out)
            results.add("full restore", tar.name, run)
            remove(out)
        if dal in tools and dal is not None:
            with guarded(results, tools, dal):
                bench_dumps(results, dal, tar, tree, disk)


def bench_dumps(results: Results, dal: Dal, tar: Tar | None, tree: Path, disk: Path) -> None:
    """Level 1, merge against `cat` with fsync, verify against b3sum and zstd, on the disk."""
    full, increment, merged, copy = (disk / name for name in ("full.dump", "incr1.dump", "merged.dump", "cat.out"))
    results.add("dump level 1", "dal", dal.call("dump", tree.name, "--level", "1", "-o", str(increment)))
    os.sync()
    results.add("merge", "dal", dal.call("merge", "-o", str(merged), str(full), str(increment)))
    os.sync()
    script = 'cat "$1" "$2" > "$3"; sync "$3"'
    results.add("merge", "cat + fsync", execute(shell(script, str(full), str(increment), str(copy)), env=dal.env))
    results.add("verify", "dal", dal.call("verify", str(merged)))
    if shutil.which("b3sum") and tar is not None:
        hashed = execute(["b3sum", str(merged)], env=dal.env)
        opened = execute(shell('zstd -q -dc "$1" > /dev/null', str(tar.store)), env=dal.env)
        both = Run(hashed.seconds + opened.seconds, max(hashed.peak_mib, opened.peak_mib))
        results.add("verify", "b3sum + zstd -d", both)
    for path in (full, increment, merged):
        results.sizes.setdefault("dumps", {})[path.name] = path.stat().st_size


def bench_cold(results: Results, dal: Dal, tree: Path, disk: Path, runs: int) -> None:
    """First backup from a disk whose cache was just dropped, against `tar | zstd -1 -T2`."""
    caches = Path("/proc/sys/vm/drop_caches")
    if not os.access(caches, os.W_OK):
        return results.note("cold cache: not measured, /proc/sys/vm/drop_caches is not writable here")
    if filesystem_of(disk) == "tmpfs":
        return results.note("cold cache: not measured, --disk is on tmpfs")
    say("cold cache")
    cold = disk / "cold-tree"
    remove(cold)
    execute(["cp", "-a", str(tree), str(cold)], env=dal.env)
    tar = Tar(disk, dal.env, level=1)
    cold_dal = Dal(dal.command, disk, base_env(disk))

    def forget(*words: str) -> None:
        os.sync()
        caches.write_text("3\n")
        execute(list(words), env=dal.env)  # the program itself is warm, the tree is not

    for _ in range(runs):
        tar.fresh()
        forget("bash", "-c", "tar --version; zstd --version")
        results.add("first backup, cold cache", tar.name, tar.backup(cold))
        cold_dal.fresh()
        forget(*dal.command, "--version")
        results.add("first backup, cold cache", "dal", cold_dal.backup(cold))
    for path in (cold, tar.home, cold_dal.home):
        remove(path)
    return None


def bench_database(results: Results, tools: list[Tool], work: Path, versions: int) -> None:
    """Stored size of many versions of one 10 MB SQLite database, 200 random rows changed in each."""
    say(f"{versions} versions of a SQLite database")
    place = work / "sqlite"
    remove(place)
    place.mkdir(parents=True)
    path = place / "history.db"
    chance = random.Random(30)
    row_count = 36_000
    with contextlib.closing(sqlite3.connect(path)) as base, base:
        base.execute("create table record (id integer primary key, name text, body blob)")
        rows = ((index, f"name-{chance.getrandbits(40):x}", chance.randbytes(240)) for index in range(row_count))
        base.executemany("insert into record values (?, ?, ?)", rows)
    results.facts["database bytes"] = f"{path.stat().st_size:,}"
    alive = list(tools)
    for tool in tools:
        with guarded(results, alive, tool):
            tool.fresh()
    for version in range(versions):
        if version:
            with contextlib.closing(sqlite3.connect(path)) as base, base:
                changes = [(chance.randbytes(240), chance.randrange(row_count)) for _ in range(200)]
                base.executemany("update record set body = ? where id = ?", changes)
        for tool in list(alive):
            with guarded(results, alive, tool):
                tool.backup(place)
    for tool in alive:
        results.sizes.setdefault(f"{versions} versions of a database", {})[tool.name] = tool.stored()
    remove(place)


def bench_million(results: Results, tools: list[Tool], work: Path, disk: Path, count: int) -> None:
    """Clone and level-1 dump of a very large native volume, against restic's unchanged backup of the same tree."""
    say(f"native volume of {count:,} files")
    tree = work / "million"
    remove(tree)
    for index in range(count):
        if index % 1000 == 0:
            place = tree / f"{index // 100_000:03d}" / f"{index // 1000:05d}"
            place.mkdir(parents=True)
        (place / f"file-{index:08d}.txt").write_bytes(b"record %d of a very large volume\n" % index)
    step = f"{count:,} files"
    for tool in list(tools):
        if isinstance(tool, Restic):
            with guarded(results, tools, tool):
                tool.fresh()
                results.add(f"{step}: first backup", tool.name, tool.backup(tree))
                results.add(f"{step}: unchanged", tool.name, tool.backup(tree))
                remove(tool.home)
        if isinstance(tool, Dal):
            with guarded(results, tools, tool):
                tool.fresh()
                tool.call("volume", "create", "million")
                results.add(f"{step}: import", tool.name, tool.call("import", "million", str(tree)))
                tool.call("clone", "million", "before")
                tool.call("dump", "million@before", "--level", "0", "-o", str(disk / "million0.dump"))
                for index in range(0, count, max(1, count // 100)):
                    path = tree / f"{index // 100_000:03d}" / f"{index // 1000:05d}" / f"file-{index:08d}.txt"
                    path.write_bytes(b"changed %d\n" % index)
                results.add(f"{step}: import of 100 changes", tool.name, tool.call("import", "million", str(tree)))
                for round_index in range(3):
                    results.add(f"{step}: clone", tool.name, tool.call("clone", "million", f"after{round_index}"))
                    target = disk / f"million1-{round_index}.dump"
                    words = ("dump", "million", "--level", "1", "--no-record", "-o", str(target))
                    results.add(f"{step}: level-1 dump of 100 changes", tool.name, tool.call(*words))
                    remove(target)
                remove(disk / "million0.dump")
    remove(tree)


def bench_startup(results: Results, dal: Dal, python: str) -> None:
    """`dal --version` against an interpreter that does nothing."""
    say("start-up")
    for _ in range(7):
        results.add("start-up", "dal --version", dal.call("--version"))
        results.add("start-up", "python -c pass", execute([python, "-c", "pass"], env=dal.env))


def bench_catalog(results: Results, dal: Dal, python: str, disk: Path, sizes: Sizes) -> None:
    """Look up restores by date in a large catalog, and archive one dump with its read-back, on the real disk."""
    dumps, archive_bytes = sizes.catalog, sizes.archive_bytes
    say(f"catalog of {dumps:,} dumps")
    script = str(HERE / "catalog.py")
    run = execute([python, script, str(disk / "catalog"), str(dumps), str(archive_bytes)], env=dal.env, keep=True)
    results.figures.update(json.loads(run.output))
    results.facts["catalog"] = (
        f"{dumps:,} dumps, {results.figures['catalog_bytes'] / MIB:.0f} MiB; restore by date: median "
        f"{results.figures['chain_ms_median']:.1f} ms, 99 % below {results.figures['chain_ms_p99']:.1f} ms"
    )
    results.facts["archive"] = (
        f"{archive_bytes // MIB} MiB: {results.figures['archive_seconds']:.2f} s with read-back; copy with fsync "
        f"{results.figures['copy_seconds']:.2f} s, one read from the disk {results.figures['read_seconds']:.2f} s"
    )
    remove(disk / "catalog")


def bench_cycle(results: Results, dal: Dal, python: str, disk: Path, sizes: Sizes) -> None:
    """Run the backup cycle over small volumes that did not change, and plan a month, on the real disk."""
    volumes, planned = sizes.cycle_volumes, sizes.cycle_planned
    say(f"cycle of {volumes:,} volumes")
    script = str(HERE / "cycle.py")
    run = execute([python, script, str(disk / "cycle"), str(volumes), str(planned)], env=dal.env, keep=True)
    results.figures.update(json.loads(run.output))
    results.facts["cycle"] = (
        f"{volumes:,} small unchanged volumes: {results.figures['cycle_ms_clone_and_dump']:.1f} ms each for clone and "
        f"dump, {results.figures['cycle_ms_beyond']:.1f} ms beyond; a month of {planned:,} volumes planned in "
        f"{results.figures['plan_seconds']:.1f} s, the busiest day {results.figures['plan_busiest']:.2f} times the mean"
    )
    remove(disk / "cycle")
