"""Changes of values that several processes change: compare and swap, again until nobody was faster."""

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from dalsegno.terms.errors import Conflict

SWAP_TRIES_MAX: Final = 100

Result = TypeVar("Result")


class Swappable(Protocol):
    """Values by name that are changed by compare-and-swap: a pool's refs, a server's own values."""

    def get(self, name: str, /) -> bytes | None:
        """Return a value, or None when there is none."""
        ...

    def swap(self, name: str, expected: bytes | None, value: bytes | None, /) -> bool:
        """Set a value if it is as expected (None: absent) and return True; else change nothing."""
        ...


def until_swapped(attempt: Callable[[], Result | None], *, what: str) -> Result:
    """Return the first result of `attempt` that is not None; Conflict when another was faster each time.

    `attempt` reads a value, decides, and swaps; it returns None when the value had changed in between. `what` is the
    subject of the error's sentence. At most SWAP_TRIES_MAX attempts, without pauses: each lost one means that another
    process got on.
    """
    for _ in range(SWAP_TRIES_MAX):
        if (result := attempt()) is not None:
            return result
    raise Conflict(f"{what} changes too fast: try again")


def update_value(
    values: Swappable, name: str, change: Callable[[bytes | None], bytes | None], *, what: str
) -> bytes | None:
    """Replace a value by `change(value)`, None meaning absent, and return the new one; Conflict as `until_swapped`.

    `change` may be called several times; what it raises leaves the value as it was. A value that stays as it is is not
    written: whoever relies on it makes it durable first.
    """

    def attempt() -> tuple[bytes | None] | None:
        known = values.get(name)
        wanted = change(known)
        return (wanted,) if wanted == known or values.swap(name, known, wanted) else None

    return until_swapped(attempt, what=what)[0]
