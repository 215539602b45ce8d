"""How a restore's changes are shown: a line each as they come, or a bounded list in the JSON."""

from collections import Counter
from typing import Any, Final

from dalsegno.cli.streams import writing_output
from dalsegno.cli.terminal import Terminal, show, show_line
from dalsegno.host.changes import Change
from dalsegno.terms.sizes import format_size

LISTED_MAX: Final = 10_000


class Shown:
    """What was told of; with `lines` each is printed at once, to people only."""

    def __init__(self, terminal: Terminal, *, lines: bool) -> None:
        self._terminal = terminal
        self._lines = lines and not terminal.json and not terminal.quiet
        self._keeps = terminal.json
        self._listed: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()

    @property
    def is_wanted(self) -> bool:
        """Whether anybody looks."""
        return self._lines or self._keeps

    def tell(self, change: Change) -> None:
        """Show one change."""
        self._counts[change.action] += 1
        if self._lines:
            self._terminal.end_progress()
            with writing_output():
                print(show_line(change_line(change)))
        elif self._keeps and len(self._listed) < LISTED_MAX:
            self._listed.append(
                {
                    "action": change.action,
                    "path": change.path,
                    "kind": change.kind,
                    "bytes": change.size_bytes,
                    "what": list(change.what),
                }
            )

    def value(self) -> dict[str, Any]:
        """Return what belongs into the JSON."""
        return {"changes": self._listed, "changes_cut": self._counts.total() > len(self._listed)}


def change_line(change: Change) -> str:
    """Return one change as a line."""
    slash = "/" if change.kind == "directory" else ""
    size = format_size(change.size_bytes) if change.kind == "file" else change.kind
    what = f"  ({', '.join(change.what)})" if change.what else ""
    return f"{change.action:<7}  {size:>12}  {show(change.path or b'.')}{slash}{what}"
