#!/usr/bin/env python3
"""Measure dal beside restic, borg and `tar | zstd` in one run, and write the tables into docs/benchmarks.md.

Standard library only. Every tool works on the same tree in the same minutes, one after the other; figures are medians.
A tool that is missing is named, never guessed. When a tool or a part fails, the run ends with 1, what the part did not
measure counts as missed, and the page keeps the table that it has. `--quick` and `--tiny` check the bench itself: their
figures mean nothing.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from parts import bench_mounts, bench_replication, bench_shapes
from results import (
    Results,
    Target,
    mount_targets,
    render,
    replication_targets,
    say,
    shapes_targets,
    targets,
    write_page,
)
from sizes import FULL, QUICK, TINY, Sizes
from steps import (
    bench_catalog,
    bench_cold,
    bench_cycle,
    bench_database,
    bench_million,
    bench_startup,
    bench_tree,
    filesystem_of,
    guarded,
)
from tools import Borg, Dal, Restic, Tar, Tool, base_env, execute, remove
from trees import TREE_FILE_BYTES_MAX, build_tree, regular_files

ROOT = Path(__file__).resolve().parent.parent
WORK_BYTES_MIN = 12_000_000_000
SECTIONS = ("results", "results-with-large-files")
"""Marks on the page: the tree as promised, and one with the large files of the system left in."""
MOUNTS_SECTION = "results-mounts"
REPLICATION_SECTION = "results-replication"
SHAPES_SECTION = "results-shapes"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every part is run with."""

    options: argparse.Namespace
    sizes: Sizes
    dal: Dal
    python: str
    """The interpreter that has dalsegno."""
    work: Path
    disk: Path


def first_line(command: list[str]) -> str:
    """Return the first line that a program says of itself."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except OSError as error:
        return f"missing ({error.strerror})"
    return (found.stdout or found.stderr).strip().partition("\n")[0]


def describe(results: Results, setting: Setting, *, places: str) -> None:
    """Write down the machine and the versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    results.facts |= {
        "machine": f"{os.cpu_count()} x {models[0] if models else platform.machine()}, {memory_gib:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "places": places,
        "dal": first_line([*setting.dal.command, "--version"]),
        "restic": first_line(["restic", "version"]),
        "borg": first_line(["borg", "--version"]),
        "tar, zstd": first_line(["tar", "--version"]) + "; " + first_line(["zstd", "--version"]),
        "python": platform.python_version(),
    }


def choose_work(*, small: bool) -> Path:
    """Return /dev/shm when it is large enough, so that the disk is not what is measured; else /tmp."""
    with contextlib.suppress(OSError):
        if small or shutil.disk_usage("/dev/shm").free >= WORK_BYTES_MIN:
            return Path(f"/dev/shm/dal-bench-{os.getpid()}")
    return Path(f"/tmp/dal-bench-{os.getpid()}")


def publish(results: Results, promises: list[Target], setting: Setting, *, section: str) -> bool:
    """Write results into the page; print those of a small run, and of one that failed. Return whether it did not."""
    options = setting.options
    small = setting.sizes != FULL and (options.quick or options.tiny)
    if small:
        results.note("a run on a small tree: it checks the bench, its figures mean nothing")
    text = render(results, promises, runs=setting.sizes.runs)
    page = options.out or (None if small else ROOT / "docs/benchmarks.md")
    if page is None or results.failures:
        say("\n" + text)
    if results.failures:
        say(f"FAILED: {section}: {'; '.join(results.failures)[:1000]}\nThe page keeps the table that it has.")
    elif page is not None:
        write_page(page, text, section=section)
        say(f"written: {page}")
    return not results.failures


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
    parser.add_argument(
        "--dal", default=str(ROOT / ".venv/bin/dal"), help="the dal command, or a python interpreter that has dalsegno"
    )
    for name in ("runs", "million", "versions", "catalog", "entries", "names"):
        parser.add_argument(f"--{name}", type=int, help=f"default {getattr(FULL, name)} (bench/sizes.py)")
    for part in ("main", *PARTS):
        choices = ("with", "alone", "without")
        parser.add_argument(f"--{part}", choices=choices, default="with", help="default: with the rest")
    parser.add_argument("--shape", action="append", default=[], help="this odd shape only; may be given again")
    parser.add_argument("--only", help="tools, by comma: dal,restic,borg,tar")
    parser.add_argument("--no-cold", action="store_true", help="leave the machine's caches alone")
    small = parser.add_mutually_exclusive_group()
    small.add_argument("--quick", action="store_true", help="a small tree, once; prints instead of writing the page")
    small.add_argument("--tiny", action="store_true", help="the same on as little as possible")
    parser.add_argument("--out", type=Path, help="the page (default docs/benchmarks.md)")
    parser.add_argument("--json", type=Path, help="write every single measurement here too")
    parser.add_argument("--keep", action="store_true", help="leave the work directory")
    return parser.parse_args()


def choose_sizes(options: argparse.Namespace) -> Sizes:
    """Return the sizes that the options ask for."""
    sizes = QUICK if options.quick else TINY if options.tiny else FULL
    given = {name: getattr(options, name) for name in asdict(sizes) if getattr(options, name, None) is not None}
    if "million" in given:
        given["replication_many"] = given["million"]
    return replace(sizes, **given, keeps_caches=sizes.keeps_caches or options.no_cold)


@contextlib.contextmanager
def failing(results: Results, part: str) -> Iterator[None]:
    """Keep that a part failed, whatever the reason, so that the others are measured all the same."""
    try:
        yield
    except Exception as error:
        results.fail(f"{part}: {type(error).__name__}: {error}")


def part_shapes(setting: Setting) -> bool:
    """Measure trees of odd shapes and write their table."""
    shapes, sizes = Results(), setting.sizes
    describe(shapes, setting, places=filesystem_of(setting.work))
    with failing(shapes, "shapes"):
        place = setting.work / "shapes"
        bench_shapes(shapes, setting.options.dal, setting.dal.env, place, sizes, only=setting.options.shape)
    return publish(shapes, shapes_targets(), replace(setting, sizes=replace(sizes, runs=1)), section=SHAPES_SECTION)


def part_mounts(setting: Setting) -> bool:
    """Measure mounts and write their table."""
    mounts = Results()
    describe(mounts, setting, places=filesystem_of(setting.disk))
    with failing(mounts, "mounts"):
        bench_mounts(mounts, setting.dal.env, setting.python, setting.disk, setting.sizes)
    return publish(mounts, mount_targets(), setting, section=MOUNTS_SECTION)


def part_replication(setting: Setting) -> bool:
    """Measure servers and write their table."""
    between = Results()
    describe(between, setting, places=filesystem_of(setting.work))
    with failing(between, "replication"):
        bench_replication(between, setting.dal.env, setting.python, setting.work / "between", setting.sizes)
    promises = replication_targets(setting.sizes.replication_many)
    return publish(between, promises, setting, section=REPLICATION_SECTION)


def choose_tools(results: Results, setting: Setting) -> tuple[list[Tool], Tar | None]:
    """Return the tools that are asked for and there."""
    work, env = setting.work, base_env(setting.work)
    only = set(setting.options.only.split(",")) if setting.options.only else {"dal", "restic", "borg", "tar"}
    tools: list[Tool] = []
    for tool in (Restic(work, env), Borg(work, env), setting.dal):
        program = setting.options.dal if tool.name == "dal" else tool.name
        if tool.name not in only:
            results.note(f"{tool.name}: left out by --only")
        elif shutil.which(program) is None:
            results.note(f"{tool.name}: MISSING, not measured")
        else:
            tools.append(tool)
    return tools, Tar(work, env) if "tar" in only and shutil.which("zstd") else None


def make_main_tree(results: Results, setting: Setting) -> Path:
    """Make the tree that the tools are measured on."""
    tree = setting.work / "tree"
    say(f"building {tree}")
    remove(tree)
    if setting.options.tree:
        execute(["cp", "-a", str(setting.options.tree.resolve()), str(tree)], env=base_env(setting.work))
    else:
        limit = None if setting.options.with_large else TREE_FILE_BYTES_MAX
        sizes = setting.sizes
        build_tree(tree, files_min=sizes.tree_files, bytes_min=sizes.tree_bytes, file_bytes_max=limit)
    files = regular_files(tree)
    results.facts["tree"] = f"{len(files):,} files, {sum(path.stat().st_size for path in files):,} bytes"
    say(f"  {results.facts['tree']}")
    return tree


def bench_main(results: Results, setting: Setting) -> None:
    """Measure every tool on one tree, and dal's own steps."""
    sizes, dal, disk = setting.sizes, setting.dal, setting.disk
    tools, tar = choose_tools(results, setting)
    tree = make_main_tree(results, setting)
    bench_tree(results, tools, tar, tree, setting.work, disk, sizes.runs)
    if sizes.keeps_caches:
        results.note("cold cache: not measured")
    steps: list[tuple[bool, Callable[[], None]]] = [
        (True, lambda: bench_startup(results, dal, setting.python)),
        (not sizes.keeps_caches, lambda: bench_cold(results, dal, tree, disk, sizes.runs)),
        (True, lambda: remove(tree)),
        (bool(sizes.catalog), lambda: bench_catalog(results, dal, setting.python, disk, sizes)),
        (bool(sizes.catalog), lambda: bench_cycle(results, dal, setting.python, disk, sizes)),
    ]
    for wanted, step in steps:
        if wanted and dal in tools:
            with guarded(results, tools, dal):
                step()
    remove(tree)
    if sizes.versions:
        bench_database(results, tools, setting.work, sizes.versions)
    if sizes.million:
        bench_million(results, tools, setting.work, disk, sizes.million)


def part_main(setting: Setting) -> bool:
    """Measure the tools side by side and write their table."""
    results = Results()
    places = f"{filesystem_of(setting.work)}; dumps, merge, verify, cold cache: {filesystem_of(setting.disk)}"
    describe(results, setting, places=f"tree and stores: {places}")
    with failing(results, "main"):
        bench_main(results, setting)
    if setting.options.json:
        setting.options.json.write_text(json.dumps(asdict(results), indent=1))
    section = SECTIONS[setting.options.with_large]
    return publish(results, targets(setting.sizes.million), setting, section=section)


PARTS: dict[str, Callable[[Setting], bool]] = {
    "shapes": part_shapes,
    "mounts": part_mounts,
    "replication": part_replication,
}
"""Parts with a table of their own beside the main one; each, the main one too, can be measured alone."""


def main() -> int:
    """Measure, and write the page; 1 when something failed."""
    options = read_arguments()
    work = (options.work / "dal-bench" if options.work else choose_work(small=options.quick or options.tiny)).resolve()
    disk = options.disk.resolve() / f"dal-bench-{os.getpid()}"
    is_python = Path(options.dal).name.startswith("python")
    command = [options.dal, "-m", "dalsegno.cli.main"] if is_python else [options.dal]
    python = options.dal if is_python else str(Path(options.dal).with_name("python"))
    parts = {**PARTS, "main": part_main}
    alone = [part for part in parts if getattr(options, part) == "alone"]
    wanted = alone or [part for part in parts if getattr(options, part) != "without"]
    for place in (work, disk):
        place.mkdir(parents=True, exist_ok=True)
    try:
        dal = Dal(command, work, base_env(work))
        setting = Setting(options=options, sizes=choose_sizes(options), dal=dal, python=python, work=work, disk=disk)
        good = [parts[part](setting) for part in wanted]
    finally:
        if not options.keep:
            remove(work)
        remove(disk)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
