"""`dal status`: how the site stands; without a policy, the volumes of the pool."""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from dalsegno.actions.policy import find_policy
from dalsegno.cli.choice import has_policy
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import POLICY_HELP, Parser
from dalsegno.terms.errors import BadInput


def add_status(parser: Parser) -> None:
    """Define the arguments of `dal status`."""
    parser.add_argument("--policy", metavar="FILE", help=POLICY_HELP)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="NAME", help="only this set")
    parser.add_argument(
        "--check", action="store_true", help="print one line, exit with 0, 1, 2 or 3, as Nagios expects"
    )
    parser.add_argument(
        "--max-age",
        default="2d",
        metavar="TIME",
        help="without a policy: warn of directories whose last backup is older (2d)",
    )
    parser.add_argument("--prometheus", type=Path, metavar="FILE", help="write metrics there, for a textfile collector")
    parser.set_defaults(run=_status)


def _status(arguments: argparse.Namespace, terminal: Terminal) -> int:
    if arguments.check and terminal.json:
        raise BadInput("--check prints one line for monitors: leave --json away")
    if not has_policy(arguments):
        if arguments.policy or arguments.prometheus or arguments.sets:
            find_policy(arguments.policy)  # says where it was looked for
        pool_status: int = import_module("dalsegno.cli.pool_status").pool_status(arguments, terminal)
        return pool_status
    site_status: int = import_module("dalsegno.cli.site_status").site_status(arguments, terminal)
    return site_status


def paint(text: str, colour: int) -> str:
    """Return text in a colour of the terminal, where the output is one and nobody asked for none (NO_COLOR)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"
