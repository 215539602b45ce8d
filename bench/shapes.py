"""Measure trees of odd shapes beside restic; prints JSON: one record for each shape, step and tool.

Each shape gets a pool and a repository of its own: first backup, again unchanged, again with one change, restore into
a new directory, restore again over it, and `find -ls` through a mount beside the same over the tree itself. It imports
nothing of dalsegno and holds nothing large, since a child's peak memory begins with its parent's.

usage: shapes.py DAL DIRECTORY ENTRIES NAMES SHAPE...
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILES_A_DIRECTORY = 200
NAMES_A_FILE = 3
NAME_BYTES = 248
DIRECTORIES_A_DIRECTORY = 500
LEVELS_MAX = 3000
MOUNT_SECONDS_MAX = 60


class Failed(Exception):
    """A measured command went wrong; the message says which and how."""


def write(path: str, data: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(data)


def make_plain(root: str, count: int) -> None:
    for number in range(count):
        directory = f"{root}/{number // FILES_A_DIRECTORY:05}"
        if number % FILES_A_DIRECTORY == 0:
            os.mkdir(directory)
        write(f"{directory}/file-{number % FILES_A_DIRECTORY:03}.txt", b"content of file %d\n" % number * 8)


def make_one_directory(root: str, count: int) -> None:
    for number in range(count):
        write(f"{root}/file-{number:07}.txt", b"content of file %d\n" % number * 8)


def make_hard_links(root: str, count: int) -> None:
    """Make `count` names, three of each file, each in another tree: rotating snapshots."""
    make_trees = [f"{root}/snapshot.{which}" for which in range(NAMES_A_FILE)]
    for tree in make_trees:
        os.mkdir(tree)
    for number in range(count // NAMES_A_FILE):
        place = f"{number // FILES_A_DIRECTORY:05}"
        if number % FILES_A_DIRECTORY == 0:
            for tree in make_trees:
                os.mkdir(f"{tree}/{place}")
        name = f"{place}/file-{number % FILES_A_DIRECTORY:03}.txt"
        write(f"{make_trees[0]}/{name}", b"content of file %d\n" % number * 8)
        for tree in make_trees[1:]:
            os.link(f"{make_trees[0]}/{name}", f"{tree}/{name}")


def make_symbolic_links(root: str, count: int) -> None:
    for number in range(count):
        directory = f"{root}/{number // FILES_A_DIRECTORY:05}"
        if number % FILES_A_DIRECTORY == 0:
            os.mkdir(directory)
        os.symlink(f"../elsewhere/target-of-{number}", f"{directory}/link-{number % FILES_A_DIRECTORY:03}")


def make_empty_directories(root: str, count: int) -> None:
    for number in range(count):
        above = f"{root}/{number // DIRECTORIES_A_DIRECTORY:05}"
        if number % DIRECTORIES_A_DIRECTORY == 0:
            os.mkdir(above)
        os.mkdir(f"{above}/empty-{number % DIRECTORIES_A_DIRECTORY:03}")


def make_directories(root: str, count: int) -> None:
    """Make half as many directories as entries, with one file in each."""
    for number in range(count // 2):
        above = f"{root}/{number // DIRECTORIES_A_DIRECTORY:05}"
        if number % DIRECTORIES_A_DIRECTORY == 0:
            os.mkdir(above)
        directory = f"{above}/directory-{number % DIRECTORIES_A_DIRECTORY:03}"
        os.mkdir(directory)
        write(f"{directory}/file.txt", b"content of file %d\n" % number * 8)


def make_xattrs(root: str, count: int) -> None:
    """Make a third as many entries, each with two extended attributes."""
    make_plain(root, count // 3)
    for place, _, names in os.walk(root):
        for name in names:
            os.setxattr(f"{place}/{name}", "user.first", b"value of " + name.encode())
            os.setxattr(f"{place}/{name}", "user.second", b"another value of " + name.encode())


def make_one_content(root: str, count: int) -> None:
    data = b"the same in all of them\n" * 40
    for number in range(count):
        directory = f"{root}/{number // FILES_A_DIRECTORY:05}"
        if number % FILES_A_DIRECTORY == 0:
            os.mkdir(directory)
        write(f"{directory}/file-{number % FILES_A_DIRECTORY:03}.txt", data)


def make_deep(root: str, count: int) -> None:
    fd = os.open(root, os.O_RDONLY)
    for level in range(min(LEVELS_MAX, count // 2)):
        os.mkdir("level", dir_fd=fd)
        below = os.open("level", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        stream = os.open("file", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=fd)
        os.write(stream, b"at level %d\n" % level)
        os.close(stream)
    os.close(fd)


def make_long_names(root: str, count: int) -> None:
    """Make a third as many entries, with names of 248 bytes."""
    for number in range(count // 3):
        directory = f"{root}/{number // FILES_A_DIRECTORY:05}"
        if number % FILES_A_DIRECTORY == 0:
            os.mkdir(directory)
        name = f"{number:08}-".ljust(NAME_BYTES, "n")
        write(f"{directory}/{name}", b"content of file %d\n" % number * 8)


def make_owners(root: str, count: int) -> None:
    """Make a third as many entries, each of another owner and group."""
    make_plain(root, count // 3)
    number = 100_000
    for place, _, names in os.walk(root):
        for name in names:
            os.chown(f"{place}/{name}", number, number)
            number += 1


SHAPES: dict[str, Callable[[str, int], None]] = {
    "plain": make_plain,
    "one directory": make_one_directory,
    "hard links": make_hard_links,
    "symbolic links": make_symbolic_links,
    "empty directories": make_empty_directories,
    "as many directories as files": make_directories,
    "two xattrs a file": make_xattrs,
    "one content in all": make_one_content,
    "3,000 levels deep": make_deep,
    "names of 248 bytes": make_long_names,
    "another owner for each file": make_owners,
}
MANY_NAMES = "hard links, many"
"""The shape that is made with NAMES entries."""


def count_entries(root: str) -> int:
    """Return how many entries are below a directory, however deep."""
    found = subprocess.run(["find", root, "-mindepth", "1", "-printf", "."], capture_output=True, check=True)
    return len(found.stdout)


def remove(path: Path) -> None:
    """Remove a tree if it is there, however deep: shutil's recursion ends at some 1,000 levels."""
    subprocess.run(["rm", "-rf", str(path)], check=True)


class Bench:
    """A place to work in; each shape begins with an empty pool and an empty repository."""

    def __init__(self, dal: str, home: Path) -> None:
        self.home = home
        self.records: list[dict[str, object]] = []
        is_python = Path(dal).name.startswith("python")
        self.dal = [dal, "-m", "dalsegno.cli.main"] if is_python else [dal]
        self.has_restic = shutil.which("restic") is not None
        keep = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH")
        self.env = {key: value for key, value in os.environ.items() if key in keep} | {
            "HOME": str(home / "home"),
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(home / "cache"),
            "RESTIC_REPOSITORY": str(home / "repository"),
        }

    def run(self, *words: str) -> tuple[float, float, float]:
        """Run a command; return seconds, processor seconds, peak MiB of its largest process."""
        errors = self.home / "errors.txt"
        with errors.open("wb") as stream:
            begun = time.perf_counter()
            process = subprocess.Popen(
                words, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stream
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            tail = errors.read_text(errors="replace").strip()[-400:]
            raise Failed(f"`{' '.join(words)[:200]}` exit {process.returncode}: {tail}")
        return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024

    def keep(self, shape: str, step: str, tool: str, cost: tuple[float, float, float], entries: int) -> None:
        """Keep one measurement."""
        seconds, processor, peak = cost
        print(f"    {shape}: {step}: {tool}: {seconds:.2f} s, {peak:.0f} MiB", file=sys.stderr, flush=True)
        self.records.append(
            {
                "shape": shape,
                "step": step,
                "tool": tool,
                "entries": entries,
                "seconds": seconds,
                "processor": processor,
                "peak_mib": peak,
            }
        )

    @contextmanager
    def mounted(self, name: str) -> Iterator[tuple[Path, Path]]:
        """Mount the newest state; give the place, and the /proc directory of who serves it."""
        path = self.home / "mnt"
        path.mkdir(exist_ok=True)
        done = subprocess.run([*self.dal, "--json", "mount", name, str(path)], env=self.env, capture_output=True)
        if done.returncode:
            raise Failed(f"mount: {done.stderr.decode(errors='replace')[-400:]}")
        try:
            until = time.monotonic() + MOUNT_SECONDS_MAX
            while not os.path.ismount(path) and time.monotonic() < until:
                time.sleep(0.02)
            yield path, Path(f"/proc/{json.loads(done.stdout)['process']}")
        finally:
            subprocess.run([*self.dal, "umount", str(path)], env=self.env, capture_output=True)
            if os.path.ismount(path):
                subprocess.run(["umount", "-l", str(path)], capture_output=True)

    def walk(self, shape: str, entries: int, tree: Path) -> None:
        """Walk the tree itself, then a mount of it."""
        self.keep(shape, "walk", "the tree itself", self.run("find", str(tree), "-ls"), entries)
        with self.mounted(f"{tree.name}@latest") as (path, process):
            seconds, processor, _ = self.run("find", str(path), "-ls")
            words = (process / "stat").read_text().rpartition(")")[2].split()
            processor += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
            peak = int((process / "status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
            self.keep(shape, "walk", "dal", (seconds, processor, peak), entries)

    def measure(self, shape: str, count: int, make: Callable[[str, int], None]) -> None:
        """Take all steps on one shape."""
        for each in ("home", "cache", "repository", "tree", "out", "restic-out"):
            remove(self.home / each)
        (self.home / "home").mkdir()
        tree, out, other = self.home / "tree", self.home / "out", self.home / "restic-out"
        tree.mkdir()
        make(str(tree), count)
        entries = count_entries(str(tree))
        restic = self.has_restic and shape != "3,000 levels deep"  # it keeps whole paths, which are too long then
        self.run(*self.dal, "init", "--encryption", "keyfile")
        if restic:
            self.run("restic", "-q", "init")
        for step in ("first", "unchanged", "one change"):
            if step == "one change":
                write(f"{tree}/another", b"one file more\n")
            self.keep(shape, step, "dal", self.run(*self.dal, "backup", str(tree)), entries)
            if restic:
                self.keep(shape, step, "restic", self.run("restic", "-q", "backup", str(tree)), entries)
        words = ("restore", tree.name, "--to", str(out))
        self.keep(shape, "restore", "dal", self.run(*self.dal, *words), entries)
        if restic:
            words = ("restore", "latest", "--target", str(other))
            self.keep(shape, "restore", "restic", self.run("restic", "-q", *words), entries)
            remove(other)
        words = ("restore", tree.name, "--to", str(out))
        self.keep(shape, "restore in place", "dal", self.run(*self.dal, *words), entries)
        remove(out)
        if os.path.exists("/dev/fuse"):
            self.walk(shape, entries, tree)


def main() -> None:
    dal, home, entries, names = sys.argv[1], Path(sys.argv[2]).resolve(), int(sys.argv[3]), int(sys.argv[4])
    wanted = sys.argv[5:] or [*SHAPES, MANY_NAMES]
    bench = Bench(dal, home)
    failures: list[str] = []
    for shape in wanted:
        count = names if shape == MANY_NAMES else entries
        if not count:
            continue
        try:
            bench.measure(shape, count, make_hard_links if shape == MANY_NAMES else SHAPES[shape])
        except Failed as error:
            failures.append(f"{shape}: {error}")
            print(f"    FAILED: {failures[-1]}", file=sys.stderr, flush=True)
    for each in ("home", "cache", "repository", "tree", "out", "restic-out"):
        remove(home / each)
    print(json.dumps({"records": bench.records, "failures": failures}))


if __name__ == "__main__":
    main()
