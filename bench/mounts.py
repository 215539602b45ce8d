"""Measure mounts beside ext4, `restic mount` and `borg mount`; prints JSON: seconds by step and tool, and figures.

Root only: caches are dropped between steps. Before each cold reading the bytes below (the file, the archive, the pool)
are read once and the page cache is dropped, so that a virtual disk's own cache helps every side alike. Then memory is
filled once and freed: a virtual machine gives free memory back to its host, and whoever fills the page cache first
would wait for it. `bench/run.py` runs it with the interpreter that has dalsegno.

usage: mounts.py DIRECTORY FILES MEGABYTES RUNS MANY SMALL-FILES KEEP-CACHES

KEEP-CACHES 1 leaves the machine's caches alone: every part is run, and the figures mean nothing.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dalsegno.assembly.local import open_pool
from dalsegno.formats import objects
from dalsegno.formats.objects import Entry, Revision
from dalsegno.trees.build import store_directory

FILES_A_DIRECTORY = 100
SYSTEM_PLACES = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/local")
MANY_A_DIRECTORY = 200
WARM_BYTES = 3 << 30


class Bench:
    """A place to work in, with a pool of its own and whatever other tools are there."""

    def __init__(self, home: Path, *, small_files: int, keeps_caches: bool) -> None:
        self.home = home
        self.small_files = small_files
        self.keeps_caches = keeps_caches
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("DAL_")},
            "HOME": str(home),
            "RESTIC_PASSWORD": "x",
            "BORG_PASSPHRASE": "x",
            "BORG_BASE_DIR": str(home / "borg"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        self.seconds: dict[str, dict[str, list[float]]] = {}
        self.figures: dict[str, float] = {}

    def run(self, *words: str | Path) -> bytes:
        done = subprocess.run([str(word) for word in words], env=self.env, cwd=self.home, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{words}: {done.stderr.decode(errors='replace')[-500:]}")
        return done.stdout

    def dal(self, *words: str | Path) -> bytes:
        return self.run(sys.executable, "-m", "dalsegno.cli.main", *words)

    def time(self, step: str, tool: str, act: Callable[[], object]) -> None:
        """Keep the time that passed, and the processor time of what ran and of whoever serves the mount."""
        busy = self.processor_seconds()
        started = time.perf_counter()
        act()
        self.seconds.setdefault(step, {}).setdefault(tool, []).append(time.perf_counter() - started)
        spent = self.processor_seconds() - busy
        self.seconds.setdefault(f"{step}: processor", {}).setdefault(tool, []).append(spent)

    def processor_seconds(self) -> float:
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = own.ru_utime + own.ru_stime
        mark = os.fsencode(self.home / "mnt")
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (place / "cmdline").read_bytes():
                    words = (place / "stat").read_text().rpartition(")")[2].split()
                    total += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
            except OSError:
                continue
        return total

    @property
    def pool(self) -> Path:
        return self.home / ".local" / "share" / "dalsegno" / "pool"

    def shell(self, script: str, *words: str | Path) -> None:
        self.run("sh", "-c", script, "sh", *words)

    @contextmanager
    def mounted(self, begin: Callable[[Path], object]) -> Iterator[Path]:
        path = self.home / "mnt"
        path.mkdir(exist_ok=True)
        begin(path)
        with self.unmounting(path):
            deadline = time.monotonic() + 60
            while not os.path.ismount(path) and time.monotonic() < deadline:
                time.sleep(0.05)
            yield path

    @contextmanager
    def unmounting(self, path: Path) -> Iterator[None]:
        try:
            yield
        finally:
            words = [sys.executable, "-m", "dalsegno.cli.main", "umount", str(path)]
            subprocess.run(words, env=self.env, capture_output=True)
            if os.path.ismount(path):
                subprocess.run(["umount", "-l", path], capture_output=True)


def drop_caches(bench: Bench, what: int = 3) -> None:
    """Drop the page cache (1), or names and inodes as well (3)."""
    if bench.keeps_caches:
        return
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text(str(what))
    warm_memory(bench)


def warm_memory(bench: Bench) -> None:
    """Fill memory once and free it."""
    if bench.keeps_caches:
        return
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    touch = "import sys; room = bytearray(int(sys.argv[1])); room[::4096] = bytes([1]) * len(room[::4096])"
    subprocess.run([sys.executable, "-c", touch, str(min(WARM_BYTES, free // 2))])


def make_tree(root: Path, count: int) -> None:
    for number in range(count // FILES_A_DIRECTORY):
        directory = root / f"d{number // 50:03}" / f"s{number:05}"
        directory.mkdir(parents=True)
        for each in range(FILES_A_DIRECTORY):
            (directory / f"file-{each:03}.txt").write_bytes(b"%d %d some text\n" % (number, each) * 20)


def make_system(path: Path, megabytes: int) -> None:
    """Write the system's own files one behind the other, which is what large files are like on the whole."""
    script = 'tar cf - "$@" 2>/dev/null | head -c "$size" > "$target"'
    env = {**os.environ, "size": str(megabytes << 20), "target": str(path)}
    subprocess.run(["sh", "-c", script, "sh", *(each for each in SYSTEM_PLACES if os.path.isdir(each))], env=env)


def make_noise(path: Path, megabytes: int) -> None:
    """Write noise, and as much that is nearly all repetition: an unpacker has next to nothing to do but copy."""
    with open(path, "wb") as file:
        for _ in range(megabytes):
            noise = os.urandom(1 << 19)
            file.write(noise + b"".join(noise[at : at + 64] * 2 for at in range(0, 1 << 18, 64)))


def make_many(bench: Bench, count: int) -> None:
    """Store a native volume of many small files straight into a pool of its own."""
    pool = bench.home / "many-pool"
    bench.dal("--pool", pool, "init", "--encryption", "none")
    bench.dal("--pool", pool, "volume", "create", "many")
    number = 0

    def entry(name: bytes, **more: object) -> Entry:
        nonlocal number
        number += 1
        return Entry(name=name, owner=b"root", group=b"root", mtime_ns=number, node=number, **more)  # type: ignore[arg-type]

    with open_pool(pool) as house, house.pool.writer() as writer:
        directory = {"kind": objects.ENTRY_DIRECTORY, "mode": 0o755, "content_kind": objects.CONTENT_DIRECTORY}
        file = {"kind": objects.ENTRY_FILE, "mode": 0o644, "content_kind": objects.CONTENT_INLINE}
        tops = []
        for top in range(count // MANY_A_DIRECTORY):
            names = [
                entry(b"some-file-name-%04d" % each, size=50, content=b"%050d" % number, **file)
                for each in range(MANY_A_DIRECTORY)
            ]
            tops.append(entry(b"directory-%06d" % top, content=store_directory(writer, names), **directory))
        root = entry(b"", content=store_directory(writer, tops), **directory)
        state = house.volumes.get("many")
        revision = Revision(
            volume=state.id,
            parents=[],
            root=root,
            links=b"",
            created_ns=1,
            author="bench",
            message="",
            entry_count=number - 1,
            total_bytes=50 * count,
        )
        house.volumes.commit_revision(writer, state, revision)


def warm_disk(bench: Bench, *places: Path) -> None:
    """Read what lies below once, then drop the page cache."""
    subprocess.run(["sh", "-c", 'find "$@" -type f -exec cat {} + > /dev/null', "sh", *map(str, places)])
    drop_caches(bench)


def measure_walks(bench: Bench, tree: Path) -> None:
    """Walk and read through a mount of each tool, cold."""
    part = max(1, bench.small_files // 2 // FILES_A_DIRECTORY // 50)

    def look(tool: str, top: Path) -> None:
        drop_caches(bench)
        bench.time("find -ls", tool, lambda: bench.shell('find "$1" -ls | wc -l', top))
        directories = sorted(top.iterdir())[:part]
        bench.time("tar of small files", tool, lambda: bench.shell('tar cf - "$@" | wc -c', *directories))

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


def measure_reads(bench: Bench, large: Path, step: str) -> None:
    """Read one large file cold and again."""

    def read(path: Path) -> Callable[[], object]:
        return lambda: bench.shell('dd if="$1" of=/dev/null bs=1M', path)

    packed = bench.home / f"{large.name}.zst"
    if not packed.exists():
        bench.shell('zstd -q -1 -f -k "$1" -o "$2"', large, packed)
    warm_disk(bench, large)
    bench.time(f"{step}, cold", "ext4", read(large))
    warm_disk(bench, packed)
    bench.time(f"{step}, cold", "zstd -dc", lambda: bench.shell('zstd -dc "$1" > /dev/null', packed))
    warm_disk(bench, bench.pool)
    with bench.mounted(lambda path: bench.dal("mount", f"{large.parent.name}@latest", path)) as path:
        drop_caches(bench)
        bench.time(f"{step}, cold", "dal", read(path / large.name))
        drop_caches(bench, 1)
        bench.time(f"{step}, again", "dal", read(path / large.name))


def measure_writes(bench: Bench, large: Path, small: Path) -> None:
    """Write one large file, and copy small ones, warm."""
    write = 'dd if="$1" of="$2" bs=1M conv=fsync'
    copy = 'cp -r "$1" "$2"'
    target = bench.home / "copied"
    for warmed in (large, small):
        subprocess.run(["sh", "-c", 'find "$1" -type f -exec cat {} + > /dev/null', "sh", str(warmed)])
    warm_memory(bench)
    bench.time("write with fsync", "ext4", lambda: bench.shell(write, large, bench.home / "copy"))
    (bench.home / "copy").unlink()
    os.sync()
    bench.time("cp -r of small files", "ext4", lambda: bench.shell(copy, small, target))
    shutil.rmtree(target)
    os.sync()
    warm_memory(bench)
    with bench.mounted(lambda path: bench.dal("mount", "work", path)) as path:
        bench.time("cp -r of small files", "dal", lambda: bench.shell(copy, small, path / "copied"))
        shutil.rmtree(path / "copied")
        bench.time("write with fsync", "dal", lambda: bench.shell(write, large, path / "copy"))
        (path / "copy").unlink()


def measure_many(bench: Bench) -> None:
    """Mount a very large volume, cold, look into it, then walk all of it."""
    path = bench.home / "mnt"
    path.mkdir(exist_ok=True)
    drop_caches(bench)
    done: list[bytes] = []
    words = ("--json", "--pool", bench.home / "many-pool", "mount", "many@latest", path)
    with bench.unmounting(path):
        step = "very large volume: mount to first ls"

        def first_listing() -> None:
            done.append(bench.dal(*words))
            os.listdir(path)

        bench.time(step, "dal", first_listing)
        bench.time("very large volume: find -ls", "dal", lambda: bench.shell('find "$1" -ls | wc -l', path))
        status = Path(f"/proc/{json.loads(done[0])['process']}/status").read_text()
        bench.figures["mount_peak_mib"] = int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    directory = Path(sys.argv[1])
    files, megabytes, runs, many, small_files, keeps_caches = map(int, sys.argv[2:8])
    bench = Bench(directory.resolve(), small_files=small_files, keeps_caches=bool(keeps_caches))
    tree, small = bench.home / "tree", bench.home / "small"
    system, noise = bench.home / "system" / "one", bench.home / "noise" / "half"
    make_tree(tree, files)
    make_tree(small, bench.small_files)
    for path, make in ((system, make_system), (noise, make_noise)):
        path.parent.mkdir(parents=True)
        make(path, megabytes)
        bench.dal("backup", path.parent)
    bench.dal("backup", tree)
    bench.dal("volume", "create", "work")
    if shutil.which("borg"):
        bench.run("borg", "init", "-e", "none", bench.home / "borg-repo")
        bench.run("borg", "create", f"{bench.home / 'borg-repo'}::a", tree)
    if shutil.which("restic"):
        bench.run("restic", "-q", "init", "-r", bench.home / "restic-repo")
        bench.run("restic", "-q", "-r", bench.home / "restic-repo", "backup", tree)
    for _ in range(runs):
        measure_walks(bench, tree)
        measure_reads(bench, system, "read")
        measure_reads(bench, noise, "read of half noise")
        measure_writes(bench, system, small)
    if many:
        make_many(bench, many)
        measure_many(bench)
    bench.figures["load"] = os.getloadavg()[0]
    print(json.dumps({"seconds": bench.seconds, "figures": bench.figures}))


if __name__ == "__main__":
    main()
