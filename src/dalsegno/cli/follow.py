"""`dal follow` and `dal promote`."""

import argparse
import json
from typing import Any

from dalsegno.actions import follow as actions
from dalsegno.actions.follow import StandbyStatus
from dalsegno.assembly.realm import merge_heads
from dalsegno.cli.realm import open_servers
from dalsegno.cli.terminal import Terminal, format_duration
from dalsegno.cli.words import Parser
from dalsegno.replicas.follow import DISMISSED, PROMOTED, WATCH_SECONDS, Step, follow
from dalsegno.replicas.servers import Servers
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, BadInput
from dalsegno.terms.sizes import format_size

_ENDS = {
    PROMOTED: "{name} is the writer of {volume} now: there is nothing to follow",
    DISMISSED: "{name} is no standby of {volume} any more",
}


def add_follow(parser: Parser) -> None:
    """Define the arguments of `dal follow`."""
    parser.add_argument("volume", metavar="VOLUME")
    parser.add_argument("--from", dest="origin", metavar="SERVER", default="", help="this writer only (default: any)")
    parser.add_argument("--to", metavar="SERVER", default="", help="the standby; created if it is none yet")
    parser.add_argument("--once", action="store_true", help="end as soon as the standby has everything")
    parser.add_argument("--anew", action="store_true", help="start over: its own history is lost")
    parser.add_argument("--status", action="store_true", help="only show how far each standby is behind")
    parser.set_defaults(run=_follow)


def add_promote(parser: Parser) -> None:
    """Define the arguments of `dal promote`."""
    parser.add_argument("volume", metavar="VOLUME")
    parser.add_argument("--server", metavar="SERVER", default="", help="the standby to promote")
    parser.set_defaults(run=_promote)


def _step_value(step: Step) -> dict[str, Any]:
    return {
        "origin": step.origin,
        "head": step.here.head.hex(),
        "news": step.news,
        "objects": step.transferred.objects,
        "bytes": step.transferred.bytes_crossed,
        "lag_seconds": step.lag_ns / 1e9,
    }


def _follow(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if arguments.status and (arguments.once or arguments.anew or arguments.to or arguments.origin):
        raise BadInput("--status tells about all standbys: leave the other options away")
    volume = arguments.volume
    with open_servers(arguments, terminal) as servers:
        if arguments.status:
            return _status(servers, volume, terminal)
        name, _ = actions.make_standby(servers, volume, to=arguments.to, origin=arguments.origin)
        if arguments.anew:
            actions.begin_standby_anew(servers, volume, name, report=terminal.report)
        tell = _Teller(volume, name, once=arguments.once, terminal=terminal)
        if arguments.origin or not actions.keeps_up_by_itself(servers.site(name)):
            reason = follow(
                volume,
                servers.site(name),
                actions.writers_to_follow(servers, volume, arguments.origin),
                servers.context(merge=merge_heads, report=terminal.report),
                ended=tell.is_enough,
                stepped=tell.step,
                seconds=0.0 if arguments.once else WATCH_SECONDS,
            )
        else:
            reason = actions.watch_standby(servers, volume, name, ended=tell.is_enough, told=tell.status)
    text = _ENDS.get(reason, "{name} has all of {volume}").format(name=name, volume=volume)
    value = {"volume": volume, "server": name, "ended": reason or "done"}
    if terminal.json:
        print(json.dumps(value), flush=True)
    else:
        terminal.result(value, [] if terminal.quiet else [text])
    return EXIT_DONE


class _Teller:
    """Says how a standby comes on: to programs a line of JSON for each change, to people when there is something."""

    def __init__(self, volume: str, name: str, *, once: bool, terminal: Terminal) -> None:
        self._volume = volume
        self._name = name
        self._once = once
        self._terminal = terminal
        self._reached = False
        self._last: dict[str, Any] = {}

    def is_enough(self) -> bool:
        """Return whether what was asked for is reached."""
        return self._once and self._reached

    def step(self, step: Step) -> None:
        """Tell of a step that was done here."""
        self._reached = not step.ended and not step.news
        if not step.news:
            return
        if self._terminal.json:
            print(json.dumps(_step_value(step)), flush=True)
        elif self._terminal.verbose:
            self._terminal.note(
                f"{step.here.head.hex()[:12]} from {step.origin}: {count_of(step.transferred.objects, 'object')}, "
                f"{format_size(step.transferred.bytes_crossed)}, {format_duration(step.lag_ns)}"
            )

    def status(self, status: StandbyStatus) -> None:
        """Tell how far a standby is that its server keeps up."""
        self._reached = status.lag is not None and not status.lag.revisions and not status.clones_missing
        value = _status_value(status)
        changed = {**value, "seconds_behind": 0} != {**self._last, "seconds_behind": 0}
        self._last = value
        if not changed:
            return
        if self._terminal.json:
            print(json.dumps(value), flush=True)
        elif status.error is not None:
            self._terminal.note(f"{self._name}: {status.error}")
        elif status.lag is not None:
            behind = f"{count_of(status.lag.revisions, 'revision')}, {status.lag.seconds:.1f} s behind {status.origin}"
            self._terminal.note(
                f"{self._name}: {behind if status.lag.revisions else f'at the state of {status.origin}'}"
            )


def _status_value(status: StandbyStatus) -> dict[str, Any]:
    return {
        "server": status.server,
        "origin": status.origin or None,
        "revisions_behind": status.lag.revisions if status.lag is not None else None,
        "seconds_behind": status.lag.seconds if status.lag is not None else None,
        "clones_missing": status.clones_missing,
        "error": {"code": status.error.code, "message": str(status.error)} if status.error is not None else None,
    }


def _status(servers: Servers, volume: str, terminal: Terminal) -> int:
    found = actions.standby_status(servers, volume)
    values = [_status_value(each) for each in found]
    rows = [["STANDBY", "OF", "REVISIONS BEHIND", "SECONDS BEHIND", "CLONES MISSING", ""]]
    for each in found:
        behind = [str(each.lag.revisions), f"{each.lag.seconds:.1f}"] if each.lag is not None else ["?", "?"]
        behind.append(str(each.clones_missing) if each.lag is not None else "?")
        rows.append([each.server, each.origin or "-", *behind, str(each.error) if each.error is not None else ""])
    lines = terminal.table(rows, right=(2, 3, 4)) if found else [f"{volume} has no standbys"]
    terminal.result({"volume": volume, "standbys": values}, lines)
    return EXIT_PARTIAL if any(each.error is not None for each in found) else EXIT_DONE


def _promote(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_servers(arguments, terminal) as servers:
        name, done = actions.promote_standby(
            servers, arguments.volume, name=arguments.server, merge=merge_heads, report=terminal.report
        )
    value = {
        "volume": arguments.volume,
        "writer": name,
        "standbys": done.replicas.standbys,
        "replicas_version": done.replicas.version,
        "head": done.state.head.hex(),
        "reached": list(done.reached),
        "away": list(done.away),
        "kept": done.kept or None,
        "pause_seconds": done.pause_ns / 1e9,
        "not_told": list(done.deaf),
    }
    lines = [f"{name} is the writer of {arguments.volume} now"]
    if done.reached:
        lines.append(f"  it has all that {', '.join(done.reached)} had; users waited {done.pause_ns / 1e6:.0f} ms")
    if done.away:
        lines.append(f"  {', '.join(done.away)} did not answer: what only it has is merged when it comes back")
    if done.kept:
        lines.append(f"  clone {arguments.volume}@{done.kept} keeps what that merge begins from: remove it afterwards")
    if done.deaf:
        lines.append(f"  {', '.join(done.deaf)} did not hear of it yet, and will find out")
    terminal.result(value, [] if terminal.quiet else lines)
    return EXIT_DONE
