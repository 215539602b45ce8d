"""The server's log: a line of JSON for each request and each thing that happens, on standard error. No secrets."""

import json
import re
import sys
import traceback
from typing import Any, Final

from dalsegno.terms.times import SECOND_NS, format_time
from dalsegno.world.clock import now_ns

_SECRET: Final = re.compile(rb"(dal_[0-9a-f]{16}_)[A-Za-z0-9_-]{1,43}")
"""Of a token that somebody put where none belongs, or of what was cut off it."""


class Log:
    """Writes lines; a reader that went away is no reason to stop."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def line(self, event: str, **words: Any) -> None:
        """Write what happened."""
        at = now_ns()
        text = {"time": f"{format_time(at)[:-1]}.{at % SECOND_NS // 1_000_000:03d}Z", "event": event, **words}
        try:
            sys.stderr.buffer.write(_SECRET.sub(rb"\1...", json.dumps(text).encode()) + b"\n")
            sys.stderr.buffer.flush()
        except OSError:
            pass

    def request(self, **words: Any) -> None:
        """Write one request that was answered."""
        if not self._quiet:
            self.line("request", **words)

    def crash(self, request_id: str, error: BaseException) -> None:
        """Write an error that is our mistake, with where it happened: here, and in no answer."""
        where = "".join(traceback.format_exception(error))
        self.line("crash", request=request_id, error=f"{type(error).__name__}: {error}", where=where)
