"""What a request is refused with: errors of HTTP's own, and the status and headers of every error."""

from typing import Final

from dalsegno.replicas import wire
from dalsegno.replicas.calls import CALLS
from dalsegno.server.bodies import TooLarge, TooSlow
from dalsegno.terms.errors import (
    AlreadyThere,
    BadInput,
    Conflict,
    DalError,
    Damaged,
    Full,
    Moved,
    NoAccess,
    NotFound,
    Refused,
    TooNew,
    Unavailable,
)

STATUS: Final[tuple[tuple[type[DalError], int], ...]] = (
    (TooLarge, 413),
    (TooSlow, 408),
    (BadInput, 400),
    (NotFound, 404),
    (AlreadyThere, 409),
    (Conflict, 409),
    (Moved, 421),
    (Refused, 422),
    (TooNew, 422),
    (NoAccess, 403),
    (Unavailable, 503),
    (Full, 507),
)
BRINGING_OBJECTS: Final = frozenset(call.name for call in CALLS if call.brings_objects)
RETRY_SECONDS: Final = 1


class Stranger(NoAccess):
    """No token, or one that opens nothing."""


class TooMany(Unavailable):
    """More requests than are allowed."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class OldProtocol(BadInput):
    """The client speaks another version."""


class WrongMethod(BadInput):
    """The path is one, but not with this method."""

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


def status_of(error: DalError, call: str) -> int:
    """Return the HTTP status that an error has."""
    if isinstance(error, Stranger):
        return 401
    if isinstance(error, TooMany):
        return 429
    if isinstance(error, OldProtocol):
        return 426
    if isinstance(error, WrongMethod):
        return 405
    if isinstance(error, Damaged) and call in BRINGING_OBJECTS:
        return 422
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def headers_of(error: DalError, status: int) -> dict[str, str]:
    """Return the headers that an error has besides those of every answer."""
    more = {}
    if status == 401:
        more["www-authenticate"] = "Bearer"
    if isinstance(error, TooMany):
        more["retry-after"] = str(max(1, round(error.seconds)))
    elif status == 503:
        more["retry-after"] = str(RETRY_SECONDS)
    if isinstance(error, WrongMethod):
        more["allow"] = error.allowed
    if status == 426:
        more["upgrade"] = f"dal/{wire.PROTOCOL}"
    return more
