#!/usr/bin/env python3
"""Measure dal beside restic, borg and `tar | zstd` in one run, and write the table into docs/benchmarks.md.

Standard library only. Every tool works on the same tree in the same minutes, one after the other; figures are medians.
A tool that is missing or fails is named, never guessed. `--quick` checks the bench itself: its figures mean nothing.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import sqlite3
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MIB = 1024 * 1024
TREE_FILES_MIN = 70_000
TREE_BYTES_MIN = 1_100_000_000
TREE_FILE_BYTES_MAX = 16_000_000
TREE_SOURCES = ("/usr/share", "/usr/lib", "/usr/include", "/usr/local")
WORK_BYTES_MIN = 12_000_000_000
SECTIONS = ("results", "results-with-large-files")
"""Marks on the page: the tree as promised, and one with the large files of the system left in."""
MOUNTS_SECTION = "results-mounts"
REPLICATION_SECTION = "results-replication"
SHAPES_SECTION = "results-shapes"
SHAPES_ENTRIES = 150_000
SHAPES_NAMES = 1_500_000
REPLICATION_MANY = 1_000_000
FEED_SECONDS = 60
MEMORY_MIB_MAX = 300
INDEX_BYTES_MAX = 64


class Failed(Exception):
    """A measured command went wrong; the message says which and how."""


@dataclass(frozen=True)
class Run:
    """What one command cost."""

    seconds: float
    peak_mib: float
    output: bytes = b""


@dataclass
class Results:
    """Every measurement, by step and tool; sizes in bytes; notes for people."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    peak_mib: dict[str, dict[str, float]] = field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    index_bytes_per_object: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
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


def say(text: str) -> None:
    """Print progress at once."""
    print(text, flush=True)


def execute(
    command: list[str],
    *,
    env: dict[str, str],
    cwd: Path | None = None,
    keep: bool = False,
    accept: tuple[int, ...] = (0,),
) -> Run:
    """Run a command and return its wall time and the largest resident set of it and its children."""
    read_end, write_end = os.pipe() if keep else (-1, -1)
    errors = Path(env["BENCH_ERRORS"])
    with errors.open("wb") as error_stream:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=write_end if keep else subprocess.DEVNULL,
            stderr=error_stream,
        )
        output = b""
        if keep:
            os.close(write_end)
            with os.fdopen(read_end, "rb") as stream:
                output = stream.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in accept:
        tail = errors.read_text(errors="replace").strip()[-600:]
        raise Failed(f"`{' '.join(command)[:200]}` exit {process.returncode}: {tail}")
    return Run(seconds, usage.ru_maxrss / 1024, output)


def shell(script: str, *arguments: str) -> list[str]:
    """Return a bash command whose pipes fail when any part fails."""
    return ["bash", "-c", "set -eo pipefail; " + script, "bash", *arguments]


def tree_bytes_on_disk(path: Path) -> int:
    """Return the sum of file sizes below `path`."""
    if path.is_file():
        return path.stat().st_size
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(path) for name in names)


def index_bytes_per_object(pool: Path) -> float | None:
    """Return the pool's index bytes over its objects, as the segments' own headers count them."""
    count = size = 0
    for path in (pool / "index").glob("*.idx"):
        size += path.stat().st_size
        with path.open("rb") as stream:
            count += struct.unpack("=QIIQ", stream.read(24))[3]
    return size / count if count else None


def remove(path: Path) -> None:
    """Remove a file or tree if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ---- the trees


def build_tree(target: Path, *, files_min: int, bytes_min: int, file_bytes_max: int | None) -> None:
    """Copy system directories, in name order, until both minimums are reached; larger files are left out."""
    count = size = 0
    for source in TREE_SOURCES:
        for place, directories, names in os.walk(source):
            directories.sort()
            goal = target / place.lstrip("/")
            goal.mkdir(parents=True, exist_ok=True)
            for name in sorted(names):
                path = os.path.join(place, name)
                with contextlib.suppress(OSError):
                    if os.path.islink(path):
                        os.symlink(os.readlink(path), goal / name)
                    elif os.path.isfile(path) and os.path.getsize(path) <= (file_bytes_max or sys.maxsize):
                        shutil.copy2(path, goal / name)
                        count += 1
                        size += os.path.getsize(path)
            if count >= files_min and size >= bytes_min:
                return
    raise SystemExit(f"bench: {TREE_SOURCES} hold only {count} files, {size} bytes: give a tree with --tree")


def regular_files(tree: Path) -> list[Path]:
    """Return all regular files, in one fixed order."""
    found = []
    for place, directories, names in os.walk(tree):
        directories.sort()
        found += [path for name in sorted(names) if (path := Path(place, name)).is_file() and not path.is_symlink()]
    return found


def change_one_percent(files: list[Path], *, seed: int) -> int:
    """Overwrite up to 64 bytes in the middle of one file in a hundred, the same ones for the same seed."""
    chance = random.Random(seed)
    chosen = chance.sample(files, max(1, len(files) // 100))
    for path in chosen:
        size = path.stat().st_size
        with path.open("r+b") as stream:
            stream.seek(size // 2)
            stream.write(chance.randbytes(64))
    return len(chosen)


def differences(first: Path, second: Path) -> str:
    """Return what `diff` finds between two trees, at most a few lines."""
    found = subprocess.run(
        ["diff", "-r", "-q", "--no-dereference", str(first), str(second)], capture_output=True, text=True, check=False
    )
    return found.stdout[:400] + found.stderr[:400]


# ---- the tools: one class each, the same verbs


class Dal:
    """dalsegno as a user runs it: keyfile encryption, everything else by default."""

    name = "dal"

    def __init__(self, command: list[str], work: Path, env: dict[str, str]) -> None:
        self.command, self.home = command, work / "dal"
        self.store = self.home / "pool"
        self.env = env | {
            "DAL_POOL": str(self.store),
            "HOME": str(self.home / "home"),
            **{f"XDG_{kind}_HOME": str(self.home / kind.lower()) for kind in ("DATA", "CONFIG", "CACHE", "STATE")},
        }

    def call(self, *words: str, keep: bool = False) -> Run:
        """Run one dal command; exit 3 (some files unreadable) is a failure here."""
        return execute([*self.command, *words], env=self.env, keep=keep)

    def fresh(self) -> None:
        """Begin with an empty pool."""
        remove(self.home)
        (self.home / "home").mkdir(parents=True)
        self.call("init", "--encryption", "keyfile")

    def backup(self, tree: Path) -> Run:
        """Back up a tree."""
        return self.call("backup", str(tree))

    def restore(self, tree: Path, out: Path) -> tuple[Run, Path]:
        """Restore the newest state and say where the tree is."""
        return self.call("restore", tree.name, "--to", str(out)), out

    def one(self, tree: Path, path: Path, out: Path) -> tuple[Run, bytes]:
        """Restore one file."""
        relative = path.relative_to(tree)
        run = self.call("restore", tree.name, "--to", str(out), "--path", str(relative))
        return run, (out / relative).read_bytes()

    def stored(self) -> int:
        """Return the bytes the pool takes, its local index included."""
        return tree_bytes_on_disk(self.store)


class Restic:
    """restic at its defaults."""

    name = "restic"

    def __init__(self, work: Path, env: dict[str, str]) -> None:
        self.home = work / "restic"
        self.store = self.home / "repository"
        self.env = env | {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(self.home / "cache")}

    def call(self, *words: str, keep: bool = False) -> Run:
        """Run one restic command."""
        return execute(["restic", "-q", "-r", str(self.store), *words], env=self.env, keep=keep)

    def fresh(self) -> None:
        """Begin with an empty repository."""
        remove(self.home)
        self.home.mkdir(parents=True)
        self.call("init")

    def backup(self, tree: Path) -> Run:
        """Back up a tree."""
        return self.call("backup", str(tree))

    def restore(self, tree: Path, out: Path) -> tuple[Run, Path]:
        """Restore the newest state and say where the tree is."""
        return self.call("restore", "latest", "--target", str(out)), Path(f"{out}{tree}")

    def one(self, tree: Path, path: Path, out: Path) -> tuple[Run, bytes]:
        """Read one file out of the newest state."""
        run = self.call("dump", "latest", str(path), keep=True)
        return run, run.output

    def stored(self) -> int:
        """Return the bytes the repository takes."""
        return tree_bytes_on_disk(self.store)


class Borg:
    """borg at its defaults, repokey encryption."""

    name = "borg"

    def __init__(self, work: Path, env: dict[str, str]) -> None:
        self.home = work / "borg"
        self.store = self.home / "repository"
        self.count = 0
        self.env = env | {"BORG_PASSPHRASE": "bench", "BORG_BASE_DIR": str(self.home / "base")}

    def call(self, *words: str, keep: bool = False, cwd: Path | None = None) -> Run:
        """Run one borg command."""
        return execute(["borg", *words], env=self.env, keep=keep, cwd=cwd)

    def fresh(self) -> None:
        """Begin with an empty repository."""
        remove(self.home)
        (self.home / "base").mkdir(parents=True)
        self.call("init", "-e", "repokey", str(self.store))

    def backup(self, tree: Path) -> Run:
        """Back up a tree."""
        self.count += 1
        return self.call("create", f"{self.store}::a{self.count}", str(tree))

    def restore(self, tree: Path, out: Path) -> tuple[Run, Path]:
        """Restore the newest state and say where the tree is."""
        out.mkdir(parents=True)
        return self.call("extract", f"{self.store}::a{self.count}", cwd=out), Path(f"{out}{tree}")

    def one(self, tree: Path, path: Path, out: Path) -> tuple[Run, bytes]:
        """Read one file out of the newest state."""
        run = self.call("extract", "--stdout", f"{self.store}::a{self.count}", str(path).lstrip("/"), keep=True)
        return run, run.output

    def stored(self) -> int:
        """Return the bytes the repository takes."""
        return tree_bytes_on_disk(self.store)


class Tar:
    """`tar | zstd`: no encryption, no history; a floor that people know."""

    name = "tar|zstd -3 -T2"

    def __init__(self, work: Path, env: dict[str, str], *, level: int = 3) -> None:
        self.home, self.env, self.level = work / "tar", env, level
        self.store = self.home / "tree.tar.zst"
        self.name = f"tar|zstd -{level} -T2"

    def fresh(self) -> None:
        """Begin with nothing."""
        remove(self.home)
        self.home.mkdir(parents=True)

    def backup(self, tree: Path) -> Run:
        """Write the whole tree."""
        script = f'tar -C "$1" -cf - "$2" | zstd -q -f -{self.level} -T2 -o "$3"'
        return execute(shell(script, str(tree.parent), tree.name, str(self.store)), env=self.env)

    def restore(self, tree: Path, out: Path) -> tuple[Run, Path]:
        """Read the whole tree back."""
        out.mkdir(parents=True)
        script = 'zstd -q -dc "$1" | tar -C "$2" -xf -'
        return execute(shell(script, str(self.store), str(out)), env=self.env), out / tree.name

    def stored(self) -> int:
        """Return the archive's size."""
        return tree_bytes_on_disk(self.store)


Tool = Dal | Restic | Borg


@contextlib.contextmanager
def guarded(results: Results, tools: list[Tool], tool: Tool) -> Iterator[None]:
    """Drop a tool that fails, loudly, and let the others go on."""
    try:
        yield
    except (Failed, OSError) as error:
        results.note(f"{tool.name} was dropped: {error}")
        if tool in tools:
            tools.remove(tool)


# ---- the steps


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


def bench_catalog(results: Results, dal: Dal, python: str, disk: Path, dumps: int, archive_bytes: int) -> None:
    """Look up restores by date in a large catalog, and archive one dump with its read-back, on the real disk."""
    say(f"catalog of {dumps:,} dumps")
    script = str(ROOT / "bench/catalog.py")
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


def bench_cycle(results: Results, dal: Dal, python: str, disk: Path, volumes: int, planned: int) -> None:
    """Run the backup cycle over small volumes that did not change, and plan a month, on the real disk."""
    say(f"cycle of {volumes:,} volumes")
    script = str(ROOT / "bench/cycle.py")
    run = execute([python, script, str(disk / "cycle"), str(volumes), str(planned)], env=dal.env, keep=True)
    results.figures.update(json.loads(run.output))
    results.facts["cycle"] = (
        f"{volumes:,} small unchanged volumes: {results.figures['cycle_ms_clone_and_dump']:.1f} ms each for clone and "
        f"dump, {results.figures['cycle_ms_beyond']:.1f} ms beyond; a month of {planned:,} volumes planned in "
        f"{results.figures['plan_seconds']:.1f} s, the busiest day {results.figures['plan_busiest']:.2f} times the mean"
    )
    remove(disk / "cycle")


def bench_mounts(results: Results, env: dict[str, str], python: str, disk: Path, *, runs: int, quick: bool) -> None:
    """Walk, read and write through mounts of every tool that has them, on the real disk."""
    files, megabytes, many = (2_000, 32, 20_000) if quick else (TREE_FILES_MIN, 1024, 1_000_000)
    say(f"mounts: {files:,} files, {megabytes} MiB")
    place = disk / "mounts"
    place.mkdir()
    words = [str(place), str(files), str(megabytes), str(runs), str(many)]
    run = execute([python, str(ROOT / "bench/mounts.py"), *words], env=env, keep=True)
    found = json.loads(run.output)
    for step, tools in found["seconds"].items():
        for tool, seconds in tools.items():
            for each in seconds:
                results.add(step, tool, Run(each, 0.0))
    results.figures.update(found["figures"])
    results.facts["load at the end"] = f"{results.figures['load']:.1f}, of which this run is about 1"
    results.facts["mounted"] = f"{files:,} files of 100 in a directory; {megabytes} MiB in one file; {many:,} files"
    remove(place)


def bench_replication(
    results: Results, env: dict[str, str], python: str, place: Path, *, runs: int, quick: bool, many: int
) -> None:
    """Follow, move and commit between real servers on loopback, beside rsync's daemon."""
    files, size, seconds = (3000, 30_000_000, 5) if quick else (TREE_FILES_MIN, TREE_BYTES_MIN, FEED_SECONDS)
    say(f"replication: {files:,} files; {many:,} files; {seconds} s of commits")
    words = [str(place), str(files), str(size), str(many), str(runs), str(seconds)]
    run = execute([python, str(ROOT / "bench/replication.py"), *words], env=env, keep=True)
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
    results: Results, dal: str, env: dict[str, str], place: Path, *, entries: int, names: int, only: list[str]
) -> None:
    """Back up, restore and mount trees of odd shapes, restic beside it."""
    say(f"shapes: {entries:,} entries; {names:,} names of hard-linked files")
    remove(place)
    place.mkdir(parents=True)
    room = os.statvfs(place)
    if names and room.f_files and room.f_favail < 2.2 * names:  # a tmpfs counts each name of a hard-linked file
        results.note(f"many hard links: not measured, {place} has room for {room.f_favail:,} names only (nr_inodes=0)")
        names = 0
    words = [sys.executable, str(ROOT / "bench/shapes.py"), dal, str(place), str(entries), str(names), *only]
    found = json.loads(subprocess.run(words, env=env, stdout=subprocess.PIPE, check=True).stdout)
    for note in found["notes"]:
        results.note(note)
    results.facts["entries"] = f"{entries:,}, a third of that for xattrs, long names and owners; many: {names:,} names"
    shapes_figures(results, found["records"])
    results.table = shapes_table(found["records"])
    remove(place)


SHAPES_STEPS = ("first", "unchanged", "one change", "restore", "restore in place", "walk")
SHAPES_OF_DIRECTORIES = ("empty directories", "as many directories as files")
SHAPES_MANY = "hard links, many"


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
        if plain is not None and each["entries"] > SHAPES_ENTRIES // 10 and not is_many:
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


def read_back_ratio(results: Results) -> float | None:
    """Return what archiving costs beyond the copy, over one read."""
    figures = results.figures
    if "archive_seconds" not in figures:
        return None
    return max(0.0, figures["archive_seconds"] - figures["copy_seconds"]) / figures["read_seconds"]


# ---- the page


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


def render(results: Results, promises: list[Target], *, runs: int) -> str:
    """Return the results as markdown, lost targets as plainly as those that were met."""
    lines = [f"Measured {time.strftime('%Y-%m-%d', time.gmtime())}; medians of {runs}.", ""]
    lines += table(["", ""], [[cell(key), cell(value)] for key, value in results.facts.items()])
    lines += ["### Targets", ""]
    rows, lost = [], []
    for target in promises:
        value = target.measure(results)
        verdict = "not measured" if value is None else "met" if value <= target.limit else "**missed**"
        if value is not None and value > target.limit:
            lost.append(target.text)
        shown = (
            ""
            if value is None
            else f"{value:.4f}"
            if target.limit < 0.1
            else f"{value:.2f}"
            if target.limit < 10
            else f"{value:.0f}"
        )
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
    if results.notes:
        lines += ["### Notes of this run", "", *(f"* {cell(' '.join(note.split()))}" for note in results.notes), ""]
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


# ---- the machine


def filesystem_of(path: Path) -> str:
    """Return the type of the file system that holds `path`."""
    found = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def base_env(work: Path) -> dict[str, str]:
    """Return an environment without anything that would steer a tool."""
    keep = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "PYENV_VERSION", "PYENV_ROOT")
    env = {name: os.environ[name] for name in keep if name in os.environ}
    home = work / "home"
    home.mkdir(parents=True, exist_ok=True)
    return env | {"HOME": str(home), "BENCH_ERRORS": str(work / "errors.txt")}


def first_line(command: list[str]) -> str:
    """Return the first line that a program says of itself."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except OSError as error:
        return f"missing ({error.strerror})"
    return (found.stdout or found.stderr).strip().partition("\n")[0]


def describe(results: Results, dal: list[str], work: Path, disk: Path) -> None:
    """Write down the machine and the versions."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    results.facts |= {
        "machine": f"{os.cpu_count()} x {cpu}, {memory_gib:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "places": f"tree and stores: {filesystem_of(work)}; dumps, merge, verify, cold cache: {filesystem_of(disk)}",
        "dal": first_line([*dal, "--version"]),
        "restic": first_line(["restic", "version"]),
        "borg": first_line(["borg", "--version"]),
        "tar, zstd": first_line(["tar", "--version"]) + "; " + first_line(["zstd", "--version"]),
        "python": platform.python_version(),
    }


def choose_work(quick: bool) -> Path:
    """Return /dev/shm when it is large enough, so that the disk is not what is measured; else /tmp."""
    with contextlib.suppress(OSError):
        if quick or shutil.disk_usage("/dev/shm").free >= WORK_BYTES_MIN:
            return Path(f"/dev/shm/dal-bench-{os.getpid()}")
    return Path(f"/tmp/dal-bench-{os.getpid()}")


def publish(results: Results, promises: list[Target], options: argparse.Namespace, *, section: str, runs: int) -> None:
    """Write results into the page; a quick run prints them."""
    if options.quick:
        results.note("a quick run on a small tree: it checks the bench, its figures mean nothing")
    text = render(results, promises, runs=runs)
    page = options.out or (None if options.quick else ROOT / "docs/benchmarks.md")
    if page is None:
        say("\n" + text)
    else:
        write_page(page, text, section=section)
        say(f"written: {page}")


def read_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--tree", type=Path, help="a directory to COPY and measure on (default: built from system directories)"
    )
    parser.add_argument(
        "--with-large",
        action="store_true",
        help="leave files above 16 MB in the tree that is built, and write the page's second table",
    )
    parser.add_argument("--work", type=Path, help="where to work (default: /dev/shm if large enough, else /tmp)")
    parser.add_argument(
        "--disk",
        type=Path,
        default=Path("/var/tmp"),
        help="a directory on a real disk, for merge, verify and cold cache",
    )
    parser.add_argument("--runs", type=int, help="default 3, with --quick 1")
    parser.add_argument(
        "--dal", default=str(ROOT / ".venv/bin/dal"), help="the dal command, or a python interpreter that has dalsegno"
    )
    parser.add_argument(
        "--million", type=int, help="files in the very large volume, 0 for none (default 1000000, with --quick 0)"
    )
    parser.add_argument(
        "--versions", type=int, help="versions of the database, 0 for none (default 30, with --quick 4)"
    )
    parser.add_argument(
        "--catalog", type=int, help="dumps in the large catalog, 0 for none (default 1000000, with --quick 20000)"
    )
    parser.add_argument("--mounts", choices=("with", "alone", "without"), default="with", help="default: with the rest")
    parser.add_argument(
        "--replication", choices=("with", "alone", "without"), default="with", help="default: with the rest"
    )
    parser.add_argument("--shapes", choices=("with", "alone", "without"), default="with", help="default: with the rest")
    parser.add_argument(
        "--entries", type=int, help=f"of each odd shape (default {SHAPES_ENTRIES}, with --quick {SHAPES_ENTRIES // 50})"
    )
    parser.add_argument(
        "--names",
        type=int,
        help=f"in the tree of very many hard links, 0 for none (default {SHAPES_NAMES}, with --quick 0)",
    )
    parser.add_argument("--shape", action="append", default=[], help="this odd shape only; may be given again")
    parser.add_argument("--only", help="tools, by comma: dal,restic,borg,tar")
    parser.add_argument("--no-cold", action="store_true", help="leave the machine's caches alone")
    parser.add_argument("--quick", action="store_true", help="a small tree, once; prints instead of writing the page")
    parser.add_argument("--out", type=Path, help="the page (default docs/benchmarks.md)")
    parser.add_argument("--json", type=Path, help="write every single measurement here too")
    parser.add_argument("--keep", action="store_true", help="leave the work directory")
    return parser.parse_args()


def part_shapes(
    options: argparse.Namespace, dal: list[str], python: str, env: dict[str, str], *, work: Path, disk: Path, runs: int
) -> None:
    """Measure trees of odd shapes and write their table."""
    shapes = Results()
    describe(shapes, dal, work, disk)
    shapes.facts["places"] = filesystem_of(work)
    entries = options.entries or (SHAPES_ENTRIES // 50 if options.quick else SHAPES_ENTRIES)
    names = options.names if options.names is not None else (0 if options.quick else SHAPES_NAMES)
    try:
        bench_shapes(shapes, options.dal, env, work / "shapes", entries=entries, names=names, only=options.shape)
    except (Failed, OSError, subprocess.CalledProcessError) as error:
        shapes.note(f"shapes: FAILED: {error}")
    publish(shapes, shapes_targets(), options, section=SHAPES_SECTION, runs=1)


def part_mounts(
    options: argparse.Namespace, dal: list[str], python: str, env: dict[str, str], *, work: Path, disk: Path, runs: int
) -> None:
    """Measure mounts and write their table."""
    mounts = Results()
    describe(mounts, dal, disk, disk)
    mounts.facts["places"] = filesystem_of(disk)
    try:
        bench_mounts(mounts, env, python, disk, runs=runs, quick=options.quick)
    except (Failed, OSError) as error:
        mounts.note(f"mounts: FAILED: {error}")
    publish(mounts, mount_targets(), options, section=MOUNTS_SECTION, runs=runs)


def part_replication(
    options: argparse.Namespace, dal: list[str], python: str, env: dict[str, str], *, work: Path, disk: Path, runs: int
) -> None:
    """Measure servers and write their table."""
    between = Results()
    describe(between, dal, work, disk)
    between.facts["places"] = filesystem_of(work)
    quick = options.quick
    many = options.million if options.million is not None else (20_000 if quick else REPLICATION_MANY)
    try:
        bench_replication(between, env, python, work / "between", runs=runs, quick=quick, many=many)
    except (Failed, OSError) as error:
        between.note(f"replication: FAILED: {error}")
    publish(between, replication_targets(many), options, section=REPLICATION_SECTION, runs=runs)


PARTS = {"shapes": part_shapes, "mounts": part_mounts, "replication": part_replication}
"""Parts with a page's table of their own, each of which can be measured alone."""


def main() -> int:
    """Measure, then write the page."""
    options = read_arguments()
    quick = options.quick
    runs = options.runs or (1 if quick else 3)
    million = options.million if options.million is not None else (0 if quick else 1_000_000)
    catalog = options.catalog if options.catalog is not None else (20_000 if quick else 1_000_000)
    versions = options.versions if options.versions is not None else (4 if quick else 30)
    work = (options.work / "dal-bench" if options.work else choose_work(quick)).resolve()
    disk = options.disk.resolve() / f"dal-bench-{os.getpid()}"
    only = set(options.only.split(",")) if options.only else {"dal", "restic", "borg", "tar"}
    is_python = Path(options.dal).name.startswith("python")
    dal_command = [options.dal, "-m", "dalsegno.cli.main"] if is_python else [options.dal]
    python = options.dal if is_python else str(Path(options.dal).with_name("python"))
    results = Results()
    work.mkdir(parents=True, exist_ok=True)
    disk.mkdir(parents=True, exist_ok=True)
    try:
        env = base_env(work)
        dal = Dal(dal_command, work, env)
        describe(results, dal_command, work, disk)
        alone = [part for part in PARTS if getattr(options, part) == "alone"]
        for part, measure in PARTS.items():
            if getattr(options, part) != "without" and alone in ([], [part]):
                measure(options, dal_command, python, dal.env, work=work, disk=disk, runs=runs)
        if alone:
            return 0
        wanted: list[tuple[str, Tool]] = [("restic", Restic(work, env)), ("borg", Borg(work, env)), ("dal", dal)]
        tools: list[Tool] = []
        for program, tool in wanted:
            if program not in only:
                results.note(f"{program}: left out by --only")
            elif shutil.which(options.dal if program == "dal" else program) is None:
                results.note(f"{program}: MISSING, not measured")
            else:
                tools.append(tool)
        tar = Tar(work, env) if "tar" in only and shutil.which("zstd") else None
        say(f"building the tree in {work}")
        tree = work / "tree"
        remove(tree)
        if options.tree:
            execute(["cp", "-a", str(options.tree.resolve()), str(tree)], env=env)
        else:
            small = (3000, 30_000_000)
            files_min, bytes_min = small if quick else (TREE_FILES_MIN, TREE_BYTES_MIN)
            limit = None if options.with_large else TREE_FILE_BYTES_MAX
            build_tree(tree, files_min=files_min, bytes_min=bytes_min, file_bytes_max=limit)
        files = regular_files(tree)
        results.facts["tree"] = f"{len(files):,} files, {sum(path.stat().st_size for path in files):,} bytes"
        say(f"  {results.facts['tree']}")
        bench_tree(results, tools, tar, tree, work, disk, runs)
        if dal in tools:
            with guarded(results, tools, dal):
                bench_startup(results, dal, python)
            if options.no_cold:
                results.note("cold cache: not measured (--no-cold)")
            else:
                with guarded(results, tools, dal):
                    bench_cold(results, dal, tree, disk, runs)
        remove(tree)
        if dal in tools and catalog:
            with guarded(results, tools, dal):
                bench_catalog(results, dal, python, disk, catalog, (32 if quick else 1024) * MIB)
            with guarded(results, tools, dal):
                bench_cycle(results, dal, python, disk, 50 if quick else 1000, 10_000)
        if versions:
            bench_database(results, tools, work, versions)
        if million:
            bench_million(results, tools, work, disk, million)
    finally:
        if not options.keep:
            remove(work)
        remove(disk)
    publish(results, targets(million), options, section=SECTIONS[options.with_large], runs=runs)
    if options.json:
        options.json.write_text(
            json.dumps(
                {
                    "seconds": results.seconds,
                    "peak_mib": results.peak_mib,
                    "sizes": results.sizes,
                    "facts": results.facts,
                    "notes": results.notes,
                },
                indent=1,
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
