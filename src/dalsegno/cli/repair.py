"""`dal repair`."""

import argparse

from dalsegno.actions import repair as actions
from dalsegno.cli.browse import entry_line, entry_value
from dalsegno.cli.door import open_volumes
from dalsegno.cli.terminal import Terminal, show
from dalsegno.cli.words import Parser
from dalsegno.terms.errors import EXIT_DONE
from dalsegno.terms.ids import hex_short


def add_repair(parser: Parser) -> None:
    """Define the arguments of `dal repair`."""
    parser.add_argument("address", metavar="VOLUME[:/PATH]")
    parser.add_argument("--keep", metavar="SIDE|FILE", help="the side, or a local file, that replaces all sides")
    parser.set_defaults(run=_repair)


def _repair(arguments: argparse.Namespace, terminal: Terminal) -> int:
    with open_volumes(arguments, terminal, arguments.address) as house:
        if arguments.keep is None:
            found = list(actions.list_conflicts(house, arguments.address))
            lines: list[str] = []
            for each in found:
                lines.append(f"{show(each.path)}:")
                lines += [f"  {entry_line(side.name, side)}" for side in each.sides]
            value = [
                {"path": each.path, "sides": [{"name": side.name, **entry_value(side)} for side in each.sides]}
                for each in found
            ]
            terminal.result(value, lines or ["no conflicts"])
            return terminal.done()
        done = actions.repair(house, arguments.address, arguments.keep)
    terminal.result(
        {"volume": done.volume, "path": done.path, "kept": done.kept, "revision": done.revision},
        [f"{done.volume}:/{show(done.path)} is {done.kept} now, revision {hex_short(done.revision)}"],
    )
    return EXIT_DONE
