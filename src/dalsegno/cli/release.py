"""`dal release`."""

import argparse
from typing import Any

from dalsegno.actions import release as actions
from dalsegno.cli.realm import open_servers
from dalsegno.cli.terminal import Terminal, format_duration
from dalsegno.cli.words import Parser
from dalsegno.replicas.release import ALREADY, FAILED, NEWER, RELEASED, SiteOutcome
from dalsegno.replicas.servers import Servers
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL, BadInput
from dalsegno.terms.sizes import format_size
from dalsegno.terms.times import format_time, show_time
from dalsegno.volumes.state import Release

_SAYS = {RELEASED: "shows it now", ALREADY: "showed it already", NEWER: "shows a newer one", FAILED: "FAILED"}


def add_release(parser: Parser) -> None:
    """Define the arguments of `dal release`."""
    parser.add_argument("what", metavar="VOLUME[@CLONE]", help="the state to show; with --pull and --status a VOLUME")
    parser.add_argument(
        "--to", metavar="SERVER,...", default="", help="only these servers; others become read-only replicas"
    )
    parser.add_argument("--pull", action="store_true", help="update read-only replicas that were unreachable")
    parser.add_argument("--status", action="store_true", help="only list what each replica shows")
    parser.set_defaults(run=_release)


def release_value(release: Release | None) -> dict[str, Any] | None:
    """Return what programs want to know about a release."""
    if release is None:
        return None
    return {
        "number": release.number,
        "clone": release.clone,
        "revision": release.revision.hex(),
        "released": format_time(release.released_ns),
    }


def _outcome_value(outcome: SiteOutcome) -> dict[str, Any]:
    return {
        "server": outcome.site,
        "outcome": outcome.outcome,
        "shows": release_value(outcome.shows),
        "objects": outcome.transferred.objects,
        "bytes": outcome.transferred.bytes_crossed,
        "seconds": outcome.duration_ns / 1e9,
        "error": {"code": outcome.error.code, "message": str(outcome.error)} if outcome.error is not None else None,
    }


def _outcome_row(outcome: SiteOutcome) -> list[str]:
    if outcome.error is not None:
        still = f"still shows {actions.describe_release(outcome.shows)}" if outcome.shows is not None else ""
        return [outcome.site, _SAYS[outcome.outcome], still or "shows what it showed", str(outcome.error)]
    size = format_size(outcome.transferred.bytes_crossed) if outcome.transferred.objects else ""
    return [outcome.site, _SAYS[outcome.outcome], size, format_duration(outcome.duration_ns)]


def _finish(terminal: Terminal, value: dict[str, Any], head: list[str], outcomes: tuple[SiteOutcome, ...]) -> int:
    failed = [outcome for outcome in outcomes if outcome.outcome == FAILED]
    terminal.result(
        {**value, "sites": [_outcome_value(outcome) for outcome in outcomes]},
        [] if terminal.quiet else [*head, *(f"  {line}" for line in terminal.table(list(map(_outcome_row, outcomes))))],
    )
    if failed:
        names = ", ".join(outcome.site for outcome in failed)
        terminal.fail(f"not released to {names}; run `dal release --pull` or release again when it is back")
    return EXIT_PARTIAL if failed else EXIT_DONE


def _release(arguments: argparse.Namespace, terminal: Terminal) -> int:
    to = [name for name in arguments.to.split(",") if name]
    if arguments.pull and arguments.status:
        raise BadInput("--pull and --status: choose one")
    if (arguments.pull or arguments.status) and "@" in arguments.what:
        raise BadInput(f"{arguments.what}: what counts is the newest release; name only the volume")
    with open_servers(arguments, terminal) as servers:
        if arguments.status:
            return _status(servers, arguments.what, terminal)
        if arguments.pull:
            outcomes = actions.pull_release(
                servers, arguments.what, to=to, crew=servers.workers, report=terminal.report
            )
            return _finish(terminal, {"volume": arguments.what}, [], tuple(outcomes))
        volume, released = actions.release_to(
            servers, arguments.what, to=to, crew=servers.workers, report=terminal.report
        )
    value = {"volume": volume, "release": release_value(released.release), "noted": list(released.noted)}
    release = released.release
    name = release.clone or "#" + release.revision.hex()[:12]
    head = [f"released {volume}@{name} at {show_time(release.released_ns)}"]
    return _finish(terminal, value, head, released.outcomes)


def _status(servers: Servers, volume: str, terminal: Terminal) -> int:
    status = actions.release_status(servers, volume)
    behind = False
    rows, values = [["SITE", "SHOWS", ""]], []
    for name, shown, error in status.sites:
        current = shown is not None and status.newest is not None and shown.revision == status.newest.revision
        behind = behind or not current
        text = actions.describe_release(shown) if shown is not None else "-"
        rows.append([name, text, str(error) if error is not None else "" if current else "behind"])
        values.append(
            {
                "server": name,
                "shows": release_value(shown),
                "current": current,
                "error": {"code": error.code, "message": str(error)} if error is not None else None,
            }
        )
    lines = terminal.table(rows)
    if status.newest is not None:
        lines.insert(0, f"newest release of {volume}: {actions.describe_release(status.newest)}")
    terminal.result({"volume": volume, "newest": release_value(status.newest), "sites": values}, lines)
    return EXIT_PARTIAL if behind else EXIT_DONE
