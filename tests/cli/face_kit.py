"""A person at a shell, at a real terminal, or with a hand on Ctrl-C."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalsegno.cli.main import main
from kit import readable

SOURCE = Path(__file__).resolve().parents[2] / "src"
COMMAND = [sys.executable, "-m", "dalsegno.cli.main"]
PATIENCE_SECONDS = 30


def environment(home: Path, **more: str) -> dict[str, str]:
    base = {key: value for key, value in os.environ.items() if not key.startswith(("DAL_", "XDG_"))}
    return {**base, "HOME": str(home), "PYTHONPATH": str(SOURCE), "TERM": "xterm", **more}


@dataclass
class Person:
    """A person with a home directory of their own."""

    home: Path

    def run(
        self, *words: str, code: int = 0, data: bytes = b"", cwd: Path | None = None, **more: str
    ) -> subprocess.CompletedProcess[bytes]:
        done = run_forked(list(words), cwd or self.home, environment(self.home, **more), data)
        assert done.returncode == code, (words, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        assert b"Traceback" not in done.stderr
        return done

    def value(self, *words: str) -> Any:
        return json.loads(self.run("--json", *words).stdout)

    def interrupt(self, *words: str, when: Callable[[], bool], number: int = signal.SIGINT) -> bytes:
        """Press Ctrl-C (or send another signal) once `when` holds; return what the command said."""
        process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.home,
            env=environment(self.home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            wait_for(lambda: when() or process.poll() is not None)
            assert process.poll() is None, (words, "was done before it could be interrupted", process.communicate())
            process.send_signal(number)
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
        assert process.returncode == 130, (words, process.returncode, errors)
        assert b"Traceback" not in errors and b"Exception" not in errors
        return errors


def run_forked(
    words: list[str], cwd: Path, variables: dict[str, str], data: bytes
) -> subprocess.CompletedProcess[bytes]:
    """Run one command line in a child that has the program loaded: a tenth of what a new interpreter costs."""
    files = [os.memfd_create(name) for name in ("input", "output", "errors")]
    os.write(files[0], data)
    os.lseek(files[0], 0, os.SEEK_SET)
    child = os.fork()
    if child == 0:
        code = 99
        try:
            for number, fd in enumerate(files):
                os.dup2(fd, number)
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(variables)
            time.tzset()
            sys.stdin, sys.stdout, sys.stderr = (open(number, mode, closefd=False) for number, mode in enumerate("rww"))  # noqa: SIM115
            code = main(words)
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = [os.pread(fd, os.fstat(fd).st_size, 0) for fd in files[1:]]
    for fd in files:
        os.close(fd)
    return subprocess.CompletedProcess(words, code, *said)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


class Session:
    """One program at a terminal of its own."""

    def __init__(self, person: Person, words: list[str], **more: str) -> None:
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(person.home)
                os.execvpe(words[0], words, environment(person.home, **more))
            finally:
                os._exit(127)

    def expect(self, text: bytes) -> None:
        """Read until `text` was shown since the last one."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.seen:
            assert self._read(deadline), (text, self.seen)
        self.seen = self.seen.partition(text)[2]

    def _read(self, deadline: float) -> bool:
        ready = readable([self.fd], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # Linux says EIO when the other side is gone
            return False
        self.seen += data
        return bool(data)

    def send(self, text: bytes) -> None:
        os.write(self.fd, text)

    def finish(self) -> tuple[int, bytes]:
        """Return exit code and all that was shown and not expected."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._read(deadline):
            pass
        assert time.monotonic() < deadline, self.seen
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code, self.seen

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)
