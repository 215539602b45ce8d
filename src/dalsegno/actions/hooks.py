"""Hooks: command lines around one volume's turn. A failing `before` stops the volume, any other is reported."""

from collections.abc import Mapping, Sequence
from typing import Final

from dalsegno.terms.errors import DalError
from dalsegno.terms.names import is_file_name
from dalsegno.world.programs import run_program

NAMES: Final = ("DAL_VOLUME", "DAL_CLONE")
"""Variables that scripts make paths and words of."""


class HookFailed(DalError):
    """A hook ended with an error."""

    code = "hook-failed"


def run_hooks(lines: Sequence[str], *, name: str, environment: Mapping[str, str], timeout_seconds: int) -> None:
    """Run command lines in order, each by the shell, up to the first that fails; none for a name that is none."""
    for key in NAMES:
        if environment.get(key) and not is_file_name(environment[key]):
            raise HookFailed(f"hook {name}: {environment[key][:80]!r} is no name of a volume or a clone: not run")
    for line in lines:
        try:
            outcome = run_program(
                ["/bin/sh", "-c", line],
                environment={"DAL_HOOK": name, **environment},
                timeout_seconds=timeout_seconds,
            )
        except DalError as error:
            raise HookFailed(f"hook {name} `{line}`: {error}") from None
        if outcome.code != 0:
            raise HookFailed(f"hook {name} `{line}`: exit code {outcome.code}: {outcome.last_words}")
