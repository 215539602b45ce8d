"""A machine that can lose its power: commands run on a recorded disk, which can then be cut at any point.

Every command runs in a process of its own, forked from one that has the program loaded. The home with pool, key, caches and dumps is the
disk; the directories that are backed up lie elsewhere.
"""

import atexit
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disk import Disk, after_cut
from recorder import Fault, Op

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"

_SERVER = r"""
import importlib, os, pickle, socket, sys, traceback
from dalsegno.archive import catalog
from dalsegno.cli import main as cli
for name in {row[0] for row in cli.COMMANDS.values()} | {"terminal", "words", "door", "dated", "cycle", "site"}:
    importlib.import_module("dalsegno.cli." + name)
from dalsegno.terms.errors import DalError
from dalsegno.world.files import file_errors
from recorder import Recorder
from turns import Turns
wire_in, wire_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")

def call(words, told):
    # What a test says in Python, `@module:function words...`, ends as a command line does.
    module, _, name = words[0][1:].partition(":")
    try:
        with file_errors(words[0]):
            return getattr(importlib.import_module(module), name)(words[1:], told)
    except DalError as error:
        print(f"{type(error).__name__}: {error}")
        return error.exit_code

def run(job):
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    os.umask(0o022)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    exec(job["before"], {})
    recorder = turns = None
    if job["record"]:
        recorder = Recorder(job["root"], read_only=job["read_only"], fault=job["fault"])
    if job["beside"]:
        catalog.BUSY_SECONDS_MAX = 0.2  # the other does not go on meanwhile
        ours, theirs = socket.socketpair()
        other = os.fork()
        if other == 0:
            ours.close()
            run_beside(job, recorder, theirs)
        theirs.close()
        turns = Turns(recorder, ours, stops_at=job["stops_at"])
    done = []
    for number, words in enumerate(job["commands"]):
        redirect(job["out"])
        if recorder is not None and number == 0:
            recorder.install()
        done.append(one(words, recorder))
        if done[-1][0] not in job["codes"] and job["stop"]:
            break
    found = {"done": done}
    if turns is not None:
        if turns.other_ended is None:
            turns.give(ended=done[0])
        while turns.other_ended is None:
            turns.wait()
        os.waitpid(other, 0)
        found.update(done=[done[0], turns.other_ended], waits=turns.waits)
    if recorder is not None:
        found.update(
            log=recorder.log, known=recorder.known, counts=recorder.counts, calls=recorder.calls, logged_at=recorder.logged_at
        )
    return found

def redirect(path):
    out = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)

def one(words, recorder):
    told = recorder.told if recorder is not None else lambda *what: None
    code = call(words, told) if words[0].startswith("@") else cli.main(words)
    sys.stdout.flush()
    if recorder is not None:
        recorder.watch_databases()
    size = os.fstat(1).st_size
    return code, os.pread(1, size, 0).decode(errors="replace"), len(recorder.log) if recorder else 0

def run_beside(job, recorder, wire):
    try:
        turns = Turns(recorder, wire, stops_at=job["beside"]["stops_at"])
        turns.wait()
        os.environ.clear()
        os.environ.update(job["beside"]["env"])
        redirect(job["out"] + ".beside")
        recorder.install()
        code, text, done_at = one(job["beside"]["words"], recorder)
        turns.give(ended=(code, text, done_at, turns.waits))  # if the other ended, it waits for this
    except BaseException:
        note_error(job)
    finally:
        os._exit(0)

def note_error(job):
    text = traceback.format_exc().encode()
    try:
        with open(job["result"] + ".error", "ab") as file:
            file.write(text)
    except OSError:
        pass

while True:
    try:
        job = pickle.load(wire_in)
    except EOFError:
        break
    child = os.fork()
    if child == 0:
        code = 99
        try:
            found = run(job)
            with open(job["result"], "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                pickle.dump(found, file)
            code = 0
        except BaseException:
            note_error(job)
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    pickle.dump(status, wire_out)
    wire_out.flush()
"""


class _Server:
    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, job: dict[str, Any]) -> int:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": f"{SOURCE}:{HERE}:{HERE.parent}", "PYTHONHASHSEED": "0"},
            )
            atexit.register(self._end)
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump(job, self._process.stdin)
        self._process.stdin.flush()
        return int(pickle.load(self._process.stdout))

    def _end(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()


_server = _Server()


@dataclass(slots=True)
class Ran:
    """What commands did."""

    done: list[tuple[Any, ...]]
    """Exit code, words and how many operations were done by then; of a command beside also how often it waited."""
    log: list[Op] = field(default_factory=list)
    known: dict[int, str] = field(default_factory=dict)
    """File number in `log`: the path that it had before."""
    counts: dict[str, int] = field(default_factory=dict)
    """How many calls there were that may fail in which way."""
    calls: int = 0
    logged_at: list[int] = field(default_factory=list)
    """Calls that did something to the disk."""
    waits: int = 0
    """How often the command waited for one beside it."""

    @property
    def codes(self) -> list[int]:
        """The exit codes."""
        return [each[0] for each in self.done]


@dataclass(slots=True)
class Beside:
    """A command that another one is interrupted for."""

    words: Sequence[str]
    environment: Mapping[str, str]
    at: int
    """Before which recorded call of the other it begins, counted from 1."""
    until: int = 0
    """Before which recorded call of its own it lets the other one go on; 0: it ends first."""


class Machine:
    """A home on a recorded disk, and the directories beside it that do not lose anything."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.home = place / "disk"
        self.aside = place / "aside"
        self.before = ""
        """Python statements that every process runs first: how a test breaks the program on purpose."""
        self.environment: dict[str, str] = {}
        """What every process has in its environment besides."""
        self.aside.mkdir(parents=True)
        self.home.mkdir()

    def run(
        self,
        *commands: Sequence[str],
        record: bool = False,
        fault: Fault | None = None,
        beside: Beside | None = None,
        codes: Sequence[int] = (0,),
        stop: bool = True,
        **environment: str,
    ) -> Ran:
        """Run commands one after the other; with `stop` no more after one that did not end with one of `codes`.

        With `beside`, what is run is one command, and that one while it stands still; both are recorded.
        """
        result = self.place / "result"
        for path in (result, Path(f"{result}.error")):
            path.unlink(missing_ok=True)
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("DAL_", "XDG_"))}
        inherited = {**keep, "HOME": str(self.home), **self.environment}
        status = _server.run(
            {
                "commands": [list(words) for words in commands],
                "record": record,
                "before": self.before,
                "fault": fault,
                "read_only": str(self.aside / "doc"),
                "codes": list(codes),
                "stop": stop,
                "root": str(self.home),
                "cwd": str(self.aside),
                "env": {**inherited, **environment},
                "stops_at": beside.at if beside else 0,
                "beside": beside
                and {
                    "words": list(beside.words),
                    "env": {**inherited, **beside.environment},
                    "stops_at": beside.until,
                },
                "out": str(self.place / "out"),
                "result": str(result),
            }
        )
        error = Path(f"{result}.error")
        assert status == 0, error.read_text(errors="replace") if error.exists() else f"ended by {status}"
        with open(result, "rb") as file:
            return Ran(**pickle.load(file))

    def put(self, disk: Disk) -> None:
        """Make the disk's content the home."""
        disk.write(self.home)

    def read(self) -> Disk:
        """Return what is in the home now."""
        return Disk.read(self.home)


def states(log: Sequence[Op], chance: random.Random, *, count: int, first: int = 0) -> list[tuple[int, float, int]]:
    """Return `count` choices of where the power goes (from `first` on), how much of what was not synced lasts, and a seed."""
    found = []
    for _ in range(count):
        cut = chance.randrange(first, len(log) + 1)
        keep = chance.choice((0.0, 0.0, 1.0, 0.5, 0.9, 0.1))
        found.append((cut, keep, chance.randrange(2**32)))
    return found


def cut_state(base: Disk, log: Sequence[Op], choice: tuple[int, float, int]) -> Disk:
    """Return the disk that a choice of `states` stands for."""
    cut, keep, seed = choice
    return after_cut(base, log, cut, random.Random(seed), keep=keep)


def remove(path: Path) -> None:
    """Remove a directory if it is there."""
    shutil.rmtree(path, ignore_errors=True)
