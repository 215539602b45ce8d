"""A person who runs a site: commands within this process, on a day that they choose."""

import contextlib
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalsegno.cli.main import main
from dalsegno.terms.times import format_time

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

    def run(self, *words: object, code: int = 0, **environment: str) -> Done:
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
        assert done.returncode == code, (words, done.returncode, done.stdout[-3000:], done.stderr[-3000:])
        assert b"internal error" not in done.stderr, done.stderr
        return done

    def text(self, *words: object, code: int = 0) -> str:
        return self.run(*words, code=code).stdout.decode()

    def error(self, *words: object, code: int) -> str:
        text = self.run(*words, code=code).stderr.decode()
        assert text.strip().splitlines()[-1].startswith("dal: error: ")
        return text

    def value(self, *words: object, code: int = 0) -> Any:
        return json.loads(self.run("--json", *words, code=code).stdout)
