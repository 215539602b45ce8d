"""A person at the command line, quick enough to be killed a few hundred times.

`User.run` starts the real `dal`. `User.quick` runs the same `main` in a process of its own, forked from one that has
imported the program already: a real process with real files that a real SIGKILL ends, without the start-up time.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
KILLED = -9

_SERVER = r"""
import importlib, json, os, sys, time
from dalsegno.cli import main as cli
for name in {row[0] for row in cli.COMMANDS.values()} | {"terminal", "words", "door"}:
    importlib.import_module("dalsegno.cli." + name)
wire_in, wire_out = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
for line in wire_in:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.chdir(order["cwd"])
            os.environ.clear()
            os.environ.update(order["env"])
            time.tzset()
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            for number, path in ((1, order["out"]), (2, order["err"])):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
            if order["uid"]:
                os.setgroups([])
                os.setgid(order["uid"])
                os.setuid(order["uid"])
            exec(order["before"], {})
            code = cli.main(order["words"])
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    wire_out.write(json.dumps(os.waitstatus_to_exitcode(status)) + "\n")
    wire_out.flush()
"""


class _Forks:
    """The process that the quick commands are forked from, one for each test process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: subprocess.Popen[str] | None = None

    def run(self, order: dict[str, Any]) -> int:
        with self._lock:
            if self._server is None:
                self._server = subprocess.Popen(
                    [sys.executable, "-c", _SERVER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": str(SOURCE)},
                )
                atexit.register(self._end)
            assert self._server.stdin is not None and self._server.stdout is not None
            self._server.stdin.write(json.dumps(order) + "\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
            assert answer, "the process that forks the commands ended"
            return int(json.loads(answer))

    def _end(self) -> None:
        if self._server is not None and self._server.stdin is not None:
            self._server.stdin.close()
            self._server.wait()


_forks = _Forks()


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    words: tuple[str, ...]
    code: int
    out: bytes
    err: bytes

    def check(self, *codes: int) -> "Done":
        assert self.code in codes, (self.words, self.code, self.out[-1500:], self.err[-1500:])
        assert b"Traceback" not in self.err and b"internal error" not in self.err, (self.words, self.err)
        return self

    @property
    def error(self) -> str:
        """The one line that says what failed; only notes may stand before it."""
        *before, last, end = self.err.decode(errors="replace").split("\n")
        assert last.startswith("dal: error: ") and not end, (self.words, self.err)
        assert not any("error" in line.lower() for line in before), (self.words, self.err)
        return last


@dataclass
class User:
    """A person with a home directory, a pool in it, and no other settings."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    uid: int = 0
    """Whom root becomes for the quick commands."""

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)

    def environ(self, extra: dict[str, str]) -> dict[str, str]:
        base = {key: value for key, value in os.environ.items() if not key.startswith(("DAL_", "XDG_", "PYTEST"))}
        own = {"HOME": str(self.home), "DAL_POOL": str(self.home / "pool"), "PYTHONPATH": str(SOURCE)}
        return {**base, **own, **self.environment, **extra}

    def command(self) -> list[str]:
        return [sys.executable, "-m", "dalsegno.cli.main"]

    def run(self, *words: str, code: int | tuple[int, ...] = 0, **environment: str) -> Done:
        """Run the real command and check its exit code."""
        done = subprocess.run(
            [*self.command(), *words],
            cwd=self.home,
            env=self.environ(environment),
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        codes = code if isinstance(code, tuple) else (code,)
        return Done(words, done.returncode, done.stdout, done.stderr).check(*codes)

    def quick(self, *words: str, code: int | tuple[int, ...] = 0, before: str = "", **environment: str) -> Done:
        """Run the command in a forked process, after the Python statements `before`, and check its exit code."""
        codes = code if isinstance(code, tuple) else (code,)
        return self.quick_any(*words, before=before, **environment).check(*codes)

    def quick_any(self, *words: str, before: str = "", **environment: str) -> Done:
        """Run the command in a forked process, and let whatever it ends with be."""
        out, err = self.home / ".out", self.home / ".err"
        status = _forks.run(
            {
                "words": words,
                "before": before,
                "uid": self.uid,
                "cwd": str(self.home),
                "env": self.environ(environment),
                "out": str(out),
                "err": str(err),
            }
        )
        return Done(words, status, out.read_bytes(), err.read_bytes())

    def value(self, *words: str) -> Any:
        return json.loads(self.quick("--json", *words).out)


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, time and content of everything under `root`."""
    found = {}
    for path in sorted(root.rglob("*")):
        stat = path.lstat()
        data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (stat.st_mode, stat.st_mtime_ns, data)
    return found
