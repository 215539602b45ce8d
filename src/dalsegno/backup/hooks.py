"""Hooks: command lines around one volume's turn. A failing `before` stops the volume, any other is reported."""

from collections.abc import Mapping, Sequence

from dalsegno.terms.errors import DalError
from dalsegno.world.programs import run_program


class HookFailed(DalError):
    """A hook ended with an error."""

    code = "hook-failed"


def run_hooks(lines: Sequence[str], *, name: str, environment: Mapping[str, str], timeout_seconds: int) -> None:
    """Run command lines in order, each by the shell, up to the first that fails."""
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
