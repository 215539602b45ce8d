"""A person who runs a site: commands within this process, on a day that they choose."""

import contextlib
import io
import json
import os
import shutil
import stat
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalsegno.cli.main import main
from dalsegno.terms.times import format_time
from dalsegno.world import files

DAY_NS = 86400 * 10**9
START_NS = 1_790_000_000 * 10**9  # 2026-09-21T14:13:20Z


def date(day: int) -> str:
    return format_time(START_NS + day * DAY_NS)


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: bytes
    stderr: bytes


@dataclass
class Admin:
    """Their home directory, with `site.toml` in it as the policy, and what day it is."""

    home: Path
    day: int = 0
    last_code: int = 0

    def run(self, *words: object, code: int | tuple[int, ...] = 0, **environment: str) -> Done:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DAL_", "XDG_"))}
        own = {
            "DAL_NOW": str(START_NS + self.day * DAY_NS),
            "DAL_POLICY": str(self.home / "site.toml"),
            "HOME": str(self.home),
        }
        before, streams = dict(os.environ), (sys.stdin, sys.stdout, sys.stderr)
        output, errors = io.BytesIO(), io.BytesIO()
        os.environ.clear()
        os.environ.update({**kept, **own, **environment})
        with contextlib.chdir(self.home), open(os.devnull) as nothing:
            sys.stdin = nothing
            sys.stdout = io.TextIOWrapper(output, "utf-8", write_through=True)
            sys.stderr = io.TextIOWrapper(errors, "utf-8", write_through=True)
            try:
                returncode = main([str(word) for word in words])
                sys.stdout.flush(), sys.stderr.flush()
                done = Done(returncode, output.getvalue(), errors.getvalue())
            finally:
                sys.stdin, sys.stdout, sys.stderr = streams
                os.environ.clear()
                os.environ.update(before)
        self.last_code = done.returncode
        wanted = code if isinstance(code, tuple) else (code,)
        assert done.returncode in wanted, (words, done.returncode, done.stdout[-3000:], done.stderr[-3000:])
        assert b"internal error" not in done.stderr, done.stderr
        return done

    def fault(self, fault: str, *words: object, **environment: str) -> int:
        """Run a command in a child with DAL_FAULT; return its exit code, -9 when it was killed."""
        child = os.fork()
        if child == 0:
            code = 99
            try:
                files._steps_taken = 0
                self.run(*words, code=(0, 3, 9, 10), DAL_FAULT=fault, **environment)
                code = self.last_code
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended != 99, (fault, words)
        return ended

    def text(self, *words: object, code: int | tuple[int, ...] = 0) -> str:
        return self.run(*words, code=code).stdout.decode()

    def error(self, *words: object, code: int) -> str:
        text = self.run(*words, code=code).stderr.decode()
        assert text.strip().splitlines()[-1].startswith("dal: error: ")
        return text

    def value(self, *words: object, code: int = 0) -> Any:
        return json.loads(self.run("--json", *words, code=code).stdout)


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns, data)
    return found


def set_up(home: Path) -> Admin:
    (home / "home" / "sub").mkdir(parents=True)
    (home / "home" / "big.bin").write_bytes(os.urandom(300_000))
    (home / "home" / "sub" / "keep.txt").write_text("stays\n")
    os.symlink("big.bin", home / "home" / "link")
    for name in ("disk1", "disk2", "g1", "g2", "g3", "far"):
        (home / name).mkdir()
    (home / "site.toml").write_text(
        f"""
state = "{home}/state"
pool = "{home}/pool"

[targets.disks]
kind = "directory"
paths = ["{home}/disk1", "{home}/disk2"]

[targets.grid]
kind = "shares"
paths = ["{home}/g1", "{home}/g2", "{home}/g3"]
k = 2
n = 3

[targets.far]
kind = "command"
store = "cp {{file}} {home}/far/{{name}}"
fetch = "cp {home}/far/{{name}} {{file}}"
remove = "rm {home}/far/{{name}}"
list = "ls {home}/far"

[sets.homes]
volumes = ["home"]
targets = ["disks", "grid", "far"]
"""
    )
    admin = Admin(home)
    admin.run("--pool", "pool", "init")
    admin.run("--pool", "pool", "key", "export", home / "site.key")
    admin.run("media", "label", "disk1", "week-1", "--target", "disks")
    for number in (1, 2, 3):
        admin.run("media", "label", f"g{number}", f"grid-{number}", "--target", "grid")
    return admin


def days(admin: Admin, levels: list[int]) -> dict[int, dict[str, tuple[int, int, bytes]]]:
    """Back up, dump and archive on each day; return what the directory was."""
    seen = {}
    (admin.home / "dumps").mkdir(exist_ok=True)
    for level in levels:
        admin.day += 1
        (admin.home / "home" / "today.txt").write_text(f"day {admin.day}\n" * 50)
        (admin.home / "home" / "sub" / f"day{admin.day}.txt").write_text(f"only from day {admin.day} on\n")
        admin.run("--pool", "pool", "backup", "home")
        admin.run("--pool", "pool", "dump", "home", "--level", level, "-o", f"dumps/home.{admin.day}.dump")
        admin.run("archive", f"dumps/home.{admin.day}.dump")
        seen[admin.day] = tree(admin.home / "home")
    return seen


def forget_clones(admin: Admin) -> None:
    for clone in admin.value("--pool", "pool", "clones", "home"):
        admin.run("--pool", "pool", "unclone", f"home@{clone['clone']}")
    shutil.rmtree(admin.home / "dumps")
