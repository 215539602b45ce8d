"""`dal backup --set`: the whole cycle in the foreground, with a line for every volume at work."""

import argparse
import os
import shutil
from collections.abc import Sequence
from importlib import import_module

from dalsegno.actions.cycle import HouseSteps, Listener, RunReport, report_value, run_backup
from dalsegno.actions.notify import is_wanted, send
from dalsegno.actions.rules import LeftOut
from dalsegno.actions.session import House
from dalsegno.actions.turn import Steps, TurnResult
from dalsegno.archive.installation import Installation
from dalsegno.cli.backup import left_out_lines
from dalsegno.cli.site import coordinator, open_all, read_policy
from dalsegno.cli.streams import say_aside
from dalsegno.cli.terminal import REDRAW_NS_MIN, Terminal, format_duration, progress_line, show
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, EXIT_FAILED, EXIT_PARTIAL
from dalsegno.terms.events import Event, Note, Progress
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import parse_time_ns, show_time
from dalsegno.world.clock import ticks_ns
from dalsegno.world.workers import new_lock

SHOWN_MAX = 20
LABELS_SHOWN_MAX = 2
GREEN, YELLOW, RED, PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"
_COLOURS = {"done": GREEN, "incomplete": YELLOW, "failed": RED}


class Board:
    """What is at work, one line each, at the bottom of the terminal; what is done scrolls by above."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._speaks = not terminal.json and not terminal.quiet
        self._draws = self._speaks and terminal.draws
        self._lock = new_lock()
        self._lines: dict[str, str] = {}
        self._phases: dict[str, tuple[str, int]] = {}
        self._drawn = 0
        self._drawn_at_ns = 0

    def begin(self, volume: str, words: str) -> None:
        """A volume's turn begins."""
        with self._lock:
            self._lines[volume] = words
            self._draw()

    def report(self, volume: str, event: Event) -> None:
        """Show how far a volume is, or what a person should know about one of its paths."""
        with self._lock:
            if isinstance(event, Note):
                if event.severity == "error" or self._terminal.verbose:
                    self._erase()
                    self._terminal.report(event)
                return
            self._progress(volume, event)

    def _progress(self, volume: str, event: Progress) -> None:
        at_ns = ticks_ns()
        phase, started_ns = self._phases.get(volume, ("", at_ns))
        if phase != event.phase:
            started_ns = at_ns
            self._phases[volume] = (event.phase, at_ns)
        self._lines[volume] = show(progress_line(event, elapsed_ns=at_ns - started_ns))
        if at_ns - self._drawn_at_ns >= REDRAW_NS_MIN:
            self._draw()

    def end(self, result: TurnResult) -> None:
        """A volume's turn is over: say how it ended."""
        with self._lock:
            self._lines.pop(result.volume, None)
            self._phases.pop(result.volume, None)
            if self._speaks:
                self._erase()
                say_aside(turn_line(result, colour=self._draws and not os.environ.get("NO_COLOR")) + "\n")
                self._draw()

    def close(self) -> None:
        """Erase the lines at the bottom."""
        with self._lock:
            self._erase()

    def _erase(self) -> None:
        if self._drawn:
            say_aside(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _draw(self) -> None:
        if not self._draws:
            return
        self._erase()
        self._drawn_at_ns = ticks_ns()
        size = shutil.get_terminal_size()
        names = list(self._lines)[: max(1, size.lines - 2)]
        width = max(map(len, names), default=0)
        for name in names:
            say_aside(f"  {show(name):<{width}}  {self._lines[name]}"[: size.columns - 1] + "\n")
        self._drawn = len(names)


def turn_line(result: TurnResult, *, colour: bool = False) -> str:
    """Return in one line how a turn ended."""
    word = f"{result.state:<10}"
    text = show(f"  {_turn_words(result)}")
    return f"{_COLOURS[result.state]}{word}{PLAIN}{text}" if colour else word + text


def _turn_words(result: TurnResult) -> str:
    parts = [result.volume]
    if result.error:
        return f"{parts[0]}: {result.error}"
    if result.level is None:
        return (
            f"{parts[0]}, a clone{', gone on with' if result.resumed else ''}, in {format_duration(result.duration_ns)}"
        )
    parts.append(f"level {result.level} ({result.reason}{', gone on with' if result.resumed else ''})")
    parts.append(f"{format_size(result.size_bytes)} in {format_duration(result.duration_ns)}")
    # The one medium of a target that is a program has its name.
    where = [t if labels == [t] else f"{t} ({_labels(labels)})" for t, labels in result.media.items()]
    parts.append("on " + " and ".join(where) if where else "in the spool")
    return ", ".join(parts)


def _labels(labels: list[str]) -> str:
    return ", ".join(labels) if len(labels) <= LABELS_SHOWN_MAX else f"{len(labels)} media"


def run_sets(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Run the cycle for the sets that the words name."""
    policy = read_policy(arguments)
    os.nice(policy.limits.nice)
    board = Board(terminal)
    listener = Listener(begin=board.begin, report=board.report, end=board.end)
    with coordinator(policy, terminal, wait=arguments.wait), open_all(arguments, terminal, policy) as (house, site):
        try:
            report = run_backup(
                house,
                site,
                steps=_steps(house, site),
                set_names=arguments.set,
                listener=listener,
                due_only=arguments.due,
            )
        finally:
            board.close()
    value = report_value(report)
    lines = report_lines(report, verbose=terminal.verbose)
    unsent = []
    if is_wanted(policy.notify, failed=not report.is_good):
        host = os.uname().nodename
        unsent = send(policy.notify, subject=f"dal on {host}: {summary(report)}", lines=lines, value=value)
    value["not_told"] = unsent
    terminal.result(value, [] if terminal.quiet and report.is_good else lines)
    for text in unsent:
        terminal.fail(f"nobody was told: {text}")
    return exit_code(report) or (EXIT_PARTIAL if unsent else EXIT_DONE)


def _steps(house: House, site: Installation) -> Steps:
    here = HouseSteps(house=house, site=site)
    if not house.volumes.merges:
        return here
    steps: Steps = import_module("dalsegno.actions.cycle_remote").RealmSteps(house=house, site=site, here=here)
    return steps


def exit_code(report: RunReport) -> int:
    """Return 0 when all is well, 1 when every volume failed, 3 for everything between."""
    if report.results and all(result.state == "failed" for result in report.results):
        return EXIT_FAILED
    return EXIT_DONE if report.is_good else EXIT_PARTIAL


def summary(report: RunReport) -> str:
    """Return in one line how a run ended."""
    counts = {state: sum(result.state == state for result in report.results) for state in _COLOURS}
    words = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "nothing was due"
    at_risk = f", {len(report.risks)} at risk" if report.risks else ""
    return f"{words}{at_risk}"


def _left_out_lines(results: Sequence[TurnResult]) -> list[str]:
    """Say what was left out of which volumes, and who says so."""
    told: dict[str, list[str]] = {}
    for result in results:
        rules = [
            LeftOut(
                rule=each["rule"],
                value=each["value"],
                by=each["by"],
                since_ns=parse_time_ns(each["since"], now_ns=0) or 0 if each["since"] else 0,
                set_name=each["set"] or "",
            )
            for each in result.left_out
        ]
        for line in left_out_lines(rules):
            told.setdefault(line.strip(), []).append(show(result.volume))
    lines = []
    for text, names in told.items():
        more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
        lines.append(f"  {', '.join(names[:SHOWN_MAX])}{more}: {text}")
    return lines


def report_lines(report: RunReport, *, verbose: bool = False) -> list[str]:
    """Return what people want to know about a run: what went wrong, what is at risk, how much in how long."""
    lines = []
    for name in dict.fromkeys(result.set_name for result in report.results):
        own = [result for result in report.results if result.set_name == name]
        size = format_size(sum(result.size_bytes for result in own))
        fulls = sum(result.level == 0 and not result.error for result in own)
        done = sum(not result.error for result in own)
        if all(result.level is None for result in own if not result.error) and done:
            lines.append(f"set {name}: {done} of {count_of(len(own), 'volume')} cloned")
        else:
            lines.append(f"set {name}: {done} of {count_of(len(own), 'volume')} dumped, {fulls} full, {size}")
        for result in own:
            if result.error:
                lines.append(f"  {show(result.volume)} FAILED: {result.error}")
            if result.shrunk:
                lines.append(f"  {show(result.volume)}: {result.shrunk} When it is right so:")
                lines.append(f"    dal backup --accept-shrunk {result.volume}")
            if result.unreadable:
                count = len(result.unreadable)
                lines.append(f"  {show(result.volume)}: {count} could not be read and are NOT in the backup:")
                lines += [f"    {show(text)}" for text in result.unreadable[:SHOWN_MAX]]
        lines += _left_out_lines(own)
        removed = [name for result in own for name in result.removed]
        if removed:
            shown = removed if verbose else removed[:SHOWN_MAX]
            more = f" and {len(removed) - len(shown)} more (`-v` shows all)" if len(shown) < len(removed) else ""
            lines.append(f"  removed by retention: {', '.join(map(show, shown))}{more}")
        told: dict[str, list[str]] = {}
        for result in own:
            for text in (*result.problems, *result.notes):
                told.setdefault(text, []).append(show(result.volume))
        for text, names in told.items():
            more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
            lines.append(f"  {', '.join(names[:SHOWN_MAX])}{more}: {text}")
    for made in report.brought:
        what = f"{show(made.entry.volume_name)} level {made.entry.level} of {show_time(made.entry.cloned_at_ns)}"
        if made.error:
            lines.append(f"still incomplete in {made.target}: {what}: {made.error}")
        else:
            lines.append(f"complete now in {made.target}: {what}")
    lines += [f"note: {text}" for text in report.problems]
    if report.risks:
        lines.append("at risk:")
        lines += [f"  volume {show(volume)}: {', '.join(texts)}" for volume, texts in sorted(report.risks.items())]
    if report.idle:
        lines.append(f"{count_of(len(report.idle), 'volume')} had nothing due")
    room = report.collected
    if room is not None and (room.freed_bytes or room.releases):
        waiting = sum(size for _, size in room.releases)
        more = f", {format_size(waiting)} more from {show_time(room.releases[-1][0])} on" if waiting else ""
        lines.append(f"room: {format_size(room.freed_bytes)} given back{more}")
    lines.append(f"run {report.run_id}: {summary(report)}, in {format_duration(report.ended_ns - report.started_ns)}")
    return lines
