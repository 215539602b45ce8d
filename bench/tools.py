"""The tools that are measured side by side, one class each with the same verbs, and what running a command costs."""

import os
import shutil
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


class Failed(Exception):
    """A measured command went wrong; the message says which and how."""


@dataclass(frozen=True)
class Run:
    """What one command cost."""

    seconds: float
    peak_mib: float
    output: bytes = b""


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


def base_env(work: Path) -> dict[str, str]:
    """Return an environment without anything that would steer a tool."""
    keep = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "PYENV_VERSION", "PYENV_ROOT")
    env = {name: os.environ[name] for name in keep if name in os.environ}
    home = work / "home"
    home.mkdir(parents=True, exist_ok=True)
    return env | {"HOME": str(home), "BENCH_ERRORS": str(work / "errors.txt")}


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
