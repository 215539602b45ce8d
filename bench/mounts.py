"""Measure mounts beside ext4, `restic mount` and `borg mount`; prints JSON: medians in seconds, and ratios.

Root only: caches are dropped between steps. `bench/run.py` may run it with the interpreter that has dalsegno.

usage: mounts.py DIRECTORY FILES MEGABYTES [RUNS]
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILES_A_DIRECTORY = 100
SMALL_FILES_READ = 5_000
SMALL_FILES_WRITTEN = 10_000


class Bench:
    """A place to work in, with a pool of its own and whatever other tools are there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("DAL_")},
            "HOME": str(home),
            "RESTIC_PASSWORD": "x",
            "BORG_PASSPHRASE": "x",
            "BORG_BASE_DIR": str(home / "borg"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        self.seconds: dict[str, list[float]] = {}

    def run(self, *words: str | Path) -> bytes:
        done = subprocess.run([str(word) for word in words], env=self.env, cwd=self.home, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{words}: {done.stderr.decode(errors='replace')[-500:]}")
        return done.stdout

    def dal(self, *words: str | Path) -> bytes:
        return self.run(sys.executable, "-m", "dalsegno.cli.main", *words)

    def time(self, step: str, act: Callable[[], object]) -> None:
        started = time.perf_counter()
        act()
        self.seconds.setdefault(step, []).append(time.perf_counter() - started)

    def shell(self, script: str, *words: str | Path) -> None:
        self.run("sh", "-c", script, "sh", *words)

    @contextmanager
    def mounted(self, begin: Callable[[Path], object]) -> Iterator[Path]:
        path = self.home / "mnt"
        path.mkdir(exist_ok=True)
        begin(path)
        try:
            deadline = time.monotonic() + 60
            while not os.path.ismount(path) and time.monotonic() < deadline:
                time.sleep(0.05)
            yield path
        finally:
            words = [sys.executable, "-m", "dalsegno.cli.main", "umount", str(path)]
            subprocess.run(words, env=self.env, capture_output=True)
            subprocess.run(["umount", "-l", path], capture_output=True)


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def make_tree(root: Path, count: int) -> None:
    for number in range(count // FILES_A_DIRECTORY):
        directory = root / f"d{number // 50:03}" / f"s{number:05}"
        directory.mkdir(parents=True)
        for each in range(FILES_A_DIRECTORY):
            (directory / f"file-{each:03}.txt").write_bytes(b"%d %d some text\n" % (number, each) * 20)


def make_large(path: Path, megabytes: int) -> None:
    """Write text that compresses to a half, as files do: a line of words and a line of chance."""
    with open(path, "wb") as file:
        for _ in range(megabytes):
            noise = os.urandom(1 << 19)
            file.write(noise + b"".join(noise[at : at + 64] * 2 for at in range(0, 1 << 18, 64)))


def measure_walks(bench: Bench, tree: Path) -> None:
    """Walk and read through a mount of each tool, cold."""
    part = SMALL_FILES_READ // FILES_A_DIRECTORY // 50

    def look(tool: str, top: Path) -> None:
        drop_caches()
        bench.time(f"{tool} find", lambda: bench.shell('find "$1" -ls | wc -l', top))
        directories = sorted(top.iterdir())[:part]
        bench.time(f"{tool} tar", lambda: bench.shell('tar cf - "$@" | wc -c', *directories))

    look("ext4", tree)
    with bench.mounted(lambda path: bench.dal("mount", f"{tree.name}@latest", path)) as path:
        look("dal", path)
    if shutil.which("borg"):
        with bench.mounted(lambda path: bench.run("borg", "mount", f"{bench.home / 'borg-repo'}::a", path)) as path:
            look("borg", path / str(tree).lstrip("/"))
    if shutil.which("restic"):
        words = ["restic", "-q", "-r", bench.home / "restic-repo", "mount"]
        with bench.mounted(
            lambda path: subprocess.Popen([*map(str, words), str(path)], env=bench.env, stdout=subprocess.DEVNULL)
        ) as path:
            look("restic", path / "snapshots" / "latest" / str(tree).lstrip("/"))


def measure_large(bench: Bench, large: Path) -> None:
    """Read one large file cold and again, and write one."""

    def read(path: Path) -> Callable[[], object]:
        return lambda: bench.shell('dd if="$1" of=/dev/null bs=1M', path)

    drop_caches()
    bench.time("ext4 read cold", read(large))
    bench.shell('zstd -q -1 -f -k "$1" -o "$2"', large, bench.home / "large.zst")
    drop_caches()
    bench.time("zstd -dc", lambda: bench.shell('zstd -dc "$1" > /dev/null', bench.home / "large.zst"))
    with bench.mounted(lambda path: bench.dal("mount", f"{large.parent.name}@latest", path)) as path:
        drop_caches()
        bench.time("dal read cold", read(path / large.name))
        Path("/proc/sys/vm/drop_caches").write_text("1")
        bench.time("dal read again", read(path / large.name))
    write = 'dd if="$1" of="$2" bs=1M conv=fsync'
    bench.shell('cat "$1" > /dev/null', large)
    bench.time("ext4 write", lambda: bench.shell(write, large, bench.home / "copy"))
    (bench.home / "copy").unlink()
    with bench.mounted(lambda path: bench.dal("mount", "work", path)) as path:
        bench.time("dal write", lambda: bench.shell(write, large, path / "copy"))
        (path / "copy").unlink()


def measure_small_writes(bench: Bench, small: Path) -> None:
    """Copy small files, warm."""
    target = bench.home / "copied"
    bench.shell('cp -r "$1" "$2" && rm -r "$2"', small, target)
    bench.time("ext4 cp -r", lambda: bench.shell('cp -r "$1" "$2"', small, target))
    shutil.rmtree(target)
    with bench.mounted(lambda path: bench.dal("mount", "work", path)) as path:
        bench.time("dal cp -r", lambda: bench.shell('cp -r "$1" "$2"', small, path / "copied"))
        shutil.rmtree(path / "copied")


def main() -> None:
    directory, files, megabytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    runs = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    bench = Bench(directory.resolve())
    tree, small, large = bench.home / "tree", bench.home / "small", bench.home / "large" / "one"
    large.parent.mkdir(parents=True)
    make_tree(tree, files)
    make_tree(small, SMALL_FILES_WRITTEN)
    make_large(large, megabytes)
    bench.dal("backup", tree)
    bench.dal("backup", large.parent)
    bench.dal("volume", "create", "work")
    if shutil.which("borg"):
        bench.run("borg", "init", "-e", "none", bench.home / "borg-repo")
        bench.run("borg", "create", f"{bench.home / 'borg-repo'}::a", tree)
    if shutil.which("restic"):
        bench.run("restic", "-q", "init", "-r", bench.home / "restic-repo")
        bench.run("restic", "-q", "-r", bench.home / "restic-repo", "backup", tree)
    for _ in range(runs):
        measure_walks(bench, tree)
        measure_large(bench, large)
        measure_small_writes(bench, small)
    seconds = {step: round(statistics.median(each), 3) for step, each in bench.seconds.items()}
    others = [seconds[f"{tool} find"] for tool in ("borg", "restic") if f"{tool} find" in seconds]
    others_tar = [seconds[f"{tool} tar"] for tool in ("borg", "restic") if f"{tool} tar" in seconds]
    ratios = {
        "read again, of ext4's speed (0.5 or more)": seconds["ext4 read cold"] / seconds["dal read again"],
        "read cold, of zstd -dc's speed (0.5 or more)": seconds["zstd -dc"] / seconds["dal read cold"],
        "cp -r, of ext4's time (6 or less)": seconds["dal cp -r"] / seconds["ext4 cp -r"],
        "write, of ext4's speed (0.4 or more)": seconds["ext4 write"] / seconds["dal write"],
    }
    if others:
        ratios["find, of the fastest other's time (0.5 or less)"] = seconds["dal find"] / min(others)
        ratios["tar, of the fastest other's time (0.3 or less)"] = seconds["dal tar"] / min(others_tar)
    rounded = {name: round(value, 2) for name, value in ratios.items()}
    print(json.dumps({"seconds": seconds, "ratios": rounded}, indent=1))


if __name__ == "__main__":
    main()
