"""Words out: results for people or programs, notes, and progress with the time that is left."""

import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from dalsegno.cli.streams import say_aside, spell_all_names, write_result, writing_output
from dalsegno.terms.errors import EXIT_DONE, DalError, Damaged
from dalsegno.terms.events import Event, Note, Progress
from dalsegno.terms.sizes import format_size
from dalsegno.world.clock import now_ns

REDRAW_NS_MIN = 100_000_000
ETA_AFTER_NS = 2_000_000_000
_UNDECODED: Final = 0xDC00
"""What Python adds to a byte of a name that is not UTF-8."""
_COLOUR: Final = re.compile(r"(\x1b\[[0-9]{1,2}m)")
T = TypeVar("T")


def show(name: bytes | str) -> str:
    """Return a name fit for a terminal: control characters escaped, other bytes as they are.

    Control characters are the bytes 0x80 to 0x9f, too, which a terminal of eight bits obeys (0x9b is ESC and `[`).
    """
    text = os.fsdecode(name)
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(letter: str) -> str:
    byte = ord(letter) - _UNDECODED
    if letter.isprintable() or 0xA0 <= byte <= 0xFF:
        return letter
    return f"\\x{byte:02x}" if 0x80 <= byte < 0xA0 else letter.encode("unicode_escape").decode()


def show_line(text: str) -> str:
    """Return a line fit for standard output, whoever had a say in it; our own colours stay where it is a terminal."""
    if text.isprintable():
        return text
    parts = _COLOUR.split(text) if sys.stdout.isatty() else [text]
    return "".join(part if _COLOUR.fullmatch(part) else show(part) for part in parts)


def as_json(value: Any) -> Any:
    """Return a value as JSON knows it: bytes as text (undecodable ones as lone surrogates), dataclasses as objects."""
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(as_json(key)): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


class Terminal:
    """Where a command's words go."""

    def __init__(self, *, json: bool, quiet: bool, verbose: bool) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self.about = ""
        """Which pool the command is about, where it could have been about another."""
        self.met_damage = False
        """Whether something damaged was said and passed over."""
        self.draws = sys.stderr.isatty() and not quiet and not json and os.environ.get("TERM") != "dumb"
        self._drawn_at_ns = 0
        self._phase = ""
        self._phase_started_ns = 0
        self._line_shown = False
        spell_all_names()

    def result(self, value: Any, lines: Iterable[str]) -> None:
        """Print a result: JSON for programs, lines for people."""
        self.end_progress()
        told = [json.dumps(as_json(value), indent=2)] if self.json else map(show_line, lines)
        write_result("".join(f"{line}\n" for line in told))

    def stream(self, items: Iterable[T], *, value: Callable[[T], Any], line: Callable[[T], str]) -> int:
        """Print items as they come: one JSON list, or a line each; return how many."""
        count = 0
        try:
            for item in items:
                self.end_progress()
                with writing_output():
                    if self.json:
                        print("[\n" if count == 0 else ",\n", json.dumps(as_json(value(item))), sep="", end="")
                    else:
                        print(show_line(line(item)))
                count += 1
        except (DalError, KeyboardInterrupt):
            if self.json and count:  # what came before the error stays readable
                print("\n]")
            raise
        if self.json:
            with writing_output():
                print("\n]" if count else "[]")
        return count

    def table(self, rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
        """Return aligned lines; the columns named in `right` are set right."""
        rows = [row if "".join(row).isprintable() else [show_line(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        line = "  ".join(f"%{'' if column in right else '-'}{width}s" for column, width in enumerate(widths))
        return [(line % tuple(row)).rstrip() for row in rows]

    def listing(
        self, headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
    ) -> list[str]:
        """Return aligned lines with headings above; without them when quiet, and nothing where there is nothing."""
        return self.table(rows if self.quiet or not rows else [headings, *rows], right=right)

    def done(self) -> int:
        """Return the exit code of a command that showed all that is whole: 5 when something was not."""
        return Damaged.exit_code if self.met_damage else EXIT_DONE

    def note(self, text: str) -> None:
        """Tell a person something on the side."""
        if not self.quiet and not self.json:
            self.end_progress()
            say_aside(f"{show(text)}\n")

    def fail(self, text: str) -> None:
        """Tell of something that failed while the rest goes on; programs find it in the result."""
        self.end_progress()
        if not self.json:
            say_aside(f"dal: error: {show(' '.join(text.split()))}\n")

    def report(self, event: Event) -> None:
        """Draw progress and print notes about paths."""
        if isinstance(event, Note):
            self.met_damage |= event.is_damage
            if event.severity == "error" or self.verbose or (event.severity == "notice" and not self.quiet):
                self._say(event)
        elif self.draws:
            self._draw(event)

    def _say(self, event: Note) -> None:
        self.end_progress()
        if self.json:
            say_aside(json.dumps({event.severity: as_json(event)}) + "\n")
        else:
            # One of many that went wrong is no end of the command: only that is called an error.
            kind = "" if event.severity == "error" else f"{event.severity}: "
            say_aside(f"dal: {kind}{show(event.path)}: {show(event.text)}\n")

    def _draw(self, event: Progress) -> None:
        at_ns = now_ns()
        if event.phase != self._phase:
            self._phase, self._phase_started_ns = event.phase, at_ns
        if at_ns - self._drawn_at_ns < REDRAW_NS_MIN:
            return
        self._drawn_at_ns = at_ns
        line = show(progress_line(event, elapsed_ns=at_ns - self._phase_started_ns))
        width = shutil.get_terminal_size().columns - 1
        say_aside(f"\r\x1b[K{line[:width]}")
        self._line_shown = True

    def end_progress(self) -> None:
        """Erase the progress line."""
        if self._line_shown:
            say_aside("\r\x1b[K")
            self._line_shown = False


def progress_line(event: Progress, *, elapsed_ns: int) -> str:
    """Return one line: phase, how far, how fast, how long still."""
    parts = [event.phase]
    if event.done_count:
        parts.append(f"{event.done_count:,}" + (f" of {event.total_count:,}" if event.total_count else "") + " files")
    if event.done_bytes or event.total_bytes:
        of_all = f" of {format_size(event.total_bytes)}" if event.total_bytes else ""
        parts.append(format_size(event.done_bytes) + of_all)
    # Bytes tell better than files how far it is, except where files need no bytes: whichever is further.
    known = [
        done / total
        for done, total in ((event.done_bytes, event.total_bytes), (event.done_count, event.total_count))
        if total
    ]
    share = min(1.0, max(known, default=event.share))
    about = "" if known else "about "
    if elapsed_ns > ETA_AFTER_NS and event.done_bytes:
        parts.append(f"{format_size(event.done_bytes * 1e9 / elapsed_ns)}/s")
    if known or share:
        parts.append(f"{about}{int(100 * share)} %")
        if elapsed_ns > ETA_AFTER_NS and share:
            parts.append(f"{about}{format_duration(int(elapsed_ns * (1 - share) / share))} left")
    return "  ".join(parts)


def format_duration(duration_ns: int) -> str:
    """Return a duration as people say it: `0.4 s`, `3 min 5 s`, `2 h 10 min`."""
    seconds = duration_ns / 1e9
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {int(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"
