"""The Amanda application, called by nobody but a test: words in, what it says on each descriptor out."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cli_kit import SOURCE, User
from dalsegno.assembly.local import open_pool
from dalsegno.volumes.state import VolumeState


@dataclass(frozen=True)
class Told:
    """What a call left behind."""

    code: int
    out: bytes
    err: bytes
    messages: list[str]
    index: list[str]


@dataclass
class Client:
    """A host with a pool and the application, and nobody but the test as its Amanda."""

    user: User

    @property
    def pool(self) -> Path:
        return self.user.home / "pool"

    @property
    def key(self) -> Path:
        return self.user.home / "pool.key"

    def command(self, command: str, *options: str, pool: str = "", key: str = "", right: str = "full") -> list[str]:
        words = [
            sys.executable,
            "-m",
            "dalsegno.cli.amdalsegno",
            pool or str(self.pool),
            key or str(self.key),
            right,
            command,
        ]
        return [*words, "--config", "daily", "--host", "h", *options]

    def environ(self) -> dict[str, str]:
        return {"PYTHONPATH": str(SOURCE), "TMPDIR": str(self.user.home), "HOME": str(self.user.home)}

    def call(self, command: str, *options: str, stdin: bytes = b"", cwd: Path | None = None, **places: str) -> Told:
        """Call the application with descriptors as sendbackup gives them."""
        messages, index = self.user.home / "messages", self.user.home / "index"
        shell = [  # "sh" puts the descriptors where they belong
            "sh",
            "-c",
            'exec 3>"$1" 4>"$2"; shift 2; exec "$@"',
            "sh",
            str(messages),
            str(index),
        ]
        done = subprocess.run(
            [*shell, *self.command(command, *options, **places)],
            input=stdin,
            capture_output=True,
            env=self.environ(),
            cwd=cwd or self.user.home,
        )
        return Told(
            done.returncode, done.stdout, done.stderr, messages.read_text().splitlines(), index.read_text().splitlines()
        )

    def backup(self, level: int, *options: str, volume: str = "doc", record: bool = True, **places: str) -> Told:
        words = [
            "--message",
            "line",
            "--timestamp",
            "20261121",
            "--disk",
            volume,
            "--device",
            volume,
            "--level",
            str(level),
            "--index",
            "line",
        ]
        return self.call("backup", *words, *(["--record"] if record else []), *options, **places)

    def estimate(self, *levels: int, options: tuple[str, ...] = (), volume: str = "doc", **places: str) -> list[str]:
        words = [word for level in levels for word in ("--level", str(level))]
        told = self.call("estimate", "--disk", volume, "--device", volume, *words, *options, **places)
        assert told.code == 0 and not told.err
        return told.out.decode().splitlines()

    def state(self, volume: str = "doc") -> VolumeState:
        with open_pool(self.pool, key_path=self.key) as house:
            return house.volumes.get(volume)

    def nothing_left(self, *, records: int = 0) -> bool:
        state = self.state()
        return len(state.dumps) == records and state.lease is None
