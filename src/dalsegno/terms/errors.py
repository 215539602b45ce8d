"""The error tree, by what the caller does about it.

    DalError
      NotFound      6   it is not there
      Lost        5   it is not there, and something of the pool is lost: it was there
      AlreadyThere  4   it is there already and would be overwritten
      Conflict      7   somebody else changed it: read again
        Diverged    7   both changed it: merge first
      Refused       4   it would be wrong (lineage, realm, not empty, outside the target)
        Moved       4   the volume is on another server now: ask there
        Unsigned    4   the volume takes only states that known signers signed
      BadInput      2   wrong arguments
      Damaged       5   the bytes are not those that were written
      TooNew        4   written by a newer version than this one reads
      NoAccess      8   key, passphrase or rights
      Unavailable   9   try later
        Unacknowledged 9  it is kept here and will be brought to its servers: nothing is lost, nothing is promised
      Full         10   no space

A message says what, where, and what to do next, in one line. `code` is stable and meant for programs.
"""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_INTERRUPTED = 130
EXIT_NO_READER = 141
"""Whoever read the output went away before its end: what a shell says of programs that SIGPIPE ended."""


class DalError(Exception):
    """Anything the system says no with; `exit_code` is what the command line returns."""

    code = "failed"
    exit_code = EXIT_FAILED


class NotFound(DalError):
    code = "not-found"
    exit_code = 6


class Lost(NotFound):
    """An object that is not there, in a pool that has lost something."""

    code = "lost"
    exit_code = 5


class AlreadyThere(DalError):
    code = "already-there"
    exit_code = 4


class Conflict(DalError):
    code = "conflict"
    exit_code = 7


class Diverged(Conflict):
    """A replica's head does not lie behind the revision it was given: both must be merged first."""

    code = "diverged"


class Refused(DalError):
    code = "refused"
    exit_code = 4


class Moved(Refused):
    """A volume is on this server no longer: `server` is the name of the one that has it, if that is known."""

    code = "moved"

    def __init__(self, message: str, *, server: str = "") -> None:
        super().__init__(message)
        self.server = server


class Unsigned(Refused):
    """A volume takes only states that are signed by somebody who is known."""

    code = "unsigned"


class BadInput(DalError):
    code = "bad-input"
    exit_code = EXIT_USAGE


class Damaged(DalError):
    code = "damaged"
    exit_code = 5


class TooNew(DalError):
    code = "too-new"
    exit_code = 4


class NoAccess(DalError):
    code = "no-access"
    exit_code = 8


class Unavailable(DalError):
    """It cannot be done now. `answered`: a server said so, which is itself within reach."""

    code = "unavailable"
    exit_code = 9

    def __init__(self, message: str = "", *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class Unacknowledged(Unavailable):
    """A commit is kept on this machine, and too few of its volume's servers have it yet."""

    code = "unacknowledged"


class Full(DalError):
    code = "full"
    exit_code = 10


def error_kinds() -> dict[str, type[DalError]]:
    """Return the errors by their codes: how one that crossed a process or a network becomes itself again.

    Of a kind and those below it that have its code, the kind itself: theirs may want more than a text.
    """
    found = {DalError.code: DalError}
    waiting = [DalError]
    while waiting:
        below = waiting.pop().__subclasses__()
        for kind in below:
            found.setdefault(kind.code, kind)
        waiting += below
    return found
