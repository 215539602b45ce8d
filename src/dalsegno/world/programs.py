"""Other programs: run one to its end, with a limit of time, and keep the end of what it said."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dalsegno.terms.errors import NotFound, Unavailable
from dalsegno.world.files import file_errors

OUTPUT_BYTES_KEPT = 64 * 1024
KILL_SECONDS = 10
SECRETS = frozenset({"DAL_PASSPHRASE", "DAL_NEW_PASSPHRASE"})
"""What is for us alone: anybody who runs as this user can read a program's environment, and programs log theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program ended."""

    code: int
    """Exit code; negative: the signal that ended it."""
    output: bytes
    error: bytes

    @property
    def last_words(self) -> str:
        """The last line it wrote, of its errors if there were any: what people are told."""
        for text in (self.error, self.output):
            lines = text.decode(errors="replace").strip().splitlines()
            if lines:
                return lines[-1].strip()
        return "said nothing"


def environment_of_programs() -> dict[str, str]:
    """Return our environment without what opens the pool."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}


def run_program(
    words: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float | None = None,
    output_bytes_max: int = OUTPUT_BYTES_KEPT,
) -> Outcome:
    """Run a program to its end. `environment` is added to ours, without what opens the pool. Its input is empty.

    NotFound: no such program. Unavailable: it did not end in time; it and its children were killed.
    """
    assert words
    try:
        with file_errors(words[0]):
            process = subprocess.Popen(
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**environment_of_programs(), **(environment or {})},
                start_new_session=True,
            )
    except NotFound:
        raise NotFound(f"{words[0]}: no such program: install it, or correct the policy") from None
    try:
        output, error = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
        raise Unavailable(f"{words[0]}: not done after {timeout_seconds:.0f} s: killed") from None
    except BaseException:
        _kill(process)
        raise
    return Outcome(code=process.returncode, output=output[-output_bytes_max:], error=error[-OUTPUT_BYTES_KEPT:])


def _kill(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.communicate(timeout=KILL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue
