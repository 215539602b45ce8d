"""`dal move`."""

import argparse

from dalsegno.actions import move as actions
from dalsegno.assembly.realm import merge_heads
from dalsegno.cli.realm import open_servers
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import Parser
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import EXIT_DONE, EXIT_PARTIAL
from dalsegno.terms.sizes import format_size


def add_move(parser: Parser) -> None:
    """Define the arguments of `dal move`."""
    parser.add_argument("volume", metavar="VOLUME")
    parser.add_argument("source", metavar="FROM", help="the server to move it from")
    parser.add_argument("target", metavar="TO", help="the server to move it to")
    parser.set_defaults(run=_move)


def _move(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_servers(arguments, terminal) as servers:
        done = actions.move_volume(
            servers, arguments.volume, arguments.source, arguments.target, merge=merge_heads, report=terminal.report
        )
    value = {
        "volume": arguments.volume,
        "from": arguments.source,
        "to": arguments.target,
        "rounds": done.rounds,
        "objects": done.transferred.objects,
        "bytes": done.transferred.bytes_crossed,
        "pause_seconds": done.pause_ns / 1e9,
        "replicas_version": done.replicas.version,
        "not_told": list(done.deaf),
    }
    if done.state is None:
        lines = [f"{arguments.volume} was moved to {arguments.target} before; the rest is done now"]
    else:
        lines = [
            f"moved {arguments.volume} from {arguments.source} to {arguments.target}: "
            f"{count_of(done.transferred.objects, 'object')}, {format_size(done.transferred.bytes_crossed)}, "
            f"{done.rounds} rounds",
            f"  users waited {done.pause_ns / 1e6:.0f} ms",
            f"  {arguments.source} sends its users on; `dal gc` there gives back the room",
        ]
    terminal.result(value, [] if terminal.quiet else lines)
    if done.deaf:
        terminal.fail(f"{', '.join(done.deaf)} did not hear of it: run the same command again later")
        return EXIT_PARTIAL
    return EXIT_DONE
