"""Words in: the parser that every command starts from, and what its words stand for."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from dalsegno.terms.errors import BadInput


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are BadInput: one line, exit code 2, with what may have been meant."""

    words: Sequence[str] = ()

    def __init__(self, **more: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **more})
        self.register("action", "parsers", Verbs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Remember the words: what is wrong with them is not all in the complaint."""
        self.words = list(args or ())
        return super().parse_known_args(args, namespace)

    def print_help(self, file: Any = None) -> None:
        """Print the help; argparse itself would not say that it could not."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        """Say what was wrong with the words."""
        advice = import_module("dalsegno.cli.hints").advice(self, self.words, message)  # only who errs waits for it
        colon = "" if advice.endswith("?") else ":"
        raise BadInput(f"{message}{advice}{colon} `{self.prog} --help` shows how")


class Verbs(argparse._SubParsersAction):  # type: ignore[type-arg]
    """The verbs of a command, each of which takes the global options, too."""

    def add_parser(self, name: str, **more: Any) -> Parser:
        """Add a verb; its `help` line is its description as well."""
        line: str = more["help"]
        parser: Parser = super().add_parser(name, **{"description": f"{line[0].upper()}{line[1:]}.", **more})
        add_globals(parser, default=argparse.SUPPRESS)  # what stands before the verb is not overwritten
        return parser


def add_trust(parser: argparse.ArgumentParser, *, untrusted: str, trusted: str) -> None:
    """Add how what others made is taken: `is_trusted`, None where nothing was said. The words are the options' help."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--untrusted", dest="is_trusted", action="store_false", default=None, help=untrusted)
    group.add_argument("--trusted", dest="is_trusted", action="store_true", default=None, help=trusted)


def add_globals(parser: argparse.ArgumentParser, *, default: Any = None) -> None:
    """Add the options that every command and every verb takes."""
    flag = default or False
    parser.add_argument("--pool", dest="pool_path", metavar="PATH", default=default, help=_POOL_HELP)
    parser.add_argument("--key", dest="key_path", metavar="FILE", default=default, help="its key file (else DAL_KEY)")
    parser.add_argument("--trust-pool", action="store_true", default=flag, help=_TRUST_HELP)
    parser.add_argument("--json", action="store_true", default=flag, help="print JSON")
    parser.add_argument(
        "--utc", action="store_true", default=flag, help="read and show times in UTC, not in local time"
    )
    parser.add_argument("-q", "--quiet", action="store_true", default=flag, help="print only results and errors")
    parser.add_argument("-v", "--verbose", action="store_true", default=flag, help="print more")


KEEP_THE_KEY = "copy it to another place now (`dal key export FILE`); the backup cannot be read without it"
POLICY_HELP = "the policy (else DAL_POLICY, /etc/dalsegno.toml, your own)"
_TRUST_HELP = "take the pool although another or a newer one was seen there (`dal pool trust`: from now on)"
_POOL_HELP = "the pool to work on (else DAL_POOL, the policy's, your own)"


def new_parser(name: str, line: str, example: str) -> Parser:
    """Return a command's parser with the global options."""
    parser = Parser(prog=f"dal {name}", description=f"{line[0].upper()}{line[1:]}.", epilog=f"example: {example}")
    add_globals(parser)
    return parser


def path_bytes(text: str) -> bytes:
    """Return a path within a volume: no slash at either end."""
    return os.fsencode(text).strip(b"/")


def is_passphrase_given() -> bool:
    """Tell whether the environment has a passphrase, which only a pool that is encrypted needs."""
    return "DAL_PASSPHRASE" in os.environ or "DAL_PASSPHRASE_FILE" in os.environ


def _given_passphrase(variable: str) -> str | None:
    """Return what VARIABLE says, or the first line of the file that VARIABLE_FILE names."""
    given = os.environ.get(variable)
    if given is not None:
        return given
    file = os.environ.get(f"{variable}_FILE")
    if file is None:
        return None
    try:
        lines = Path(file).read_text().splitlines()
    except UnicodeDecodeError:
        raise BadInput(f"{file}: the passphrase file is not a text") from None
    if not lines:
        raise BadInput(f"{file}: the passphrase file is empty")
    return lines[0]


def read_new_passphrase() -> str:
    """Return a new passphrase, from DAL_NEW_PASSPHRASE, DAL_NEW_PASSPHRASE_FILE, or a person, who types it twice."""
    given = _given_passphrase("DAL_NEW_PASSPHRASE")
    if given is not None:
        return given
    if not (sys.stdin.isatty() or sys.stderr.isatty()):
        raise BadInput(
            "the new passphrase is missing: set DAL_NEW_PASSPHRASE or DAL_NEW_PASSPHRASE_FILE, or use a terminal"
        )
    import getpass  # only a person needs it

    passphrase = getpass.getpass("New passphrase: ")
    if getpass.getpass("Again: ") != passphrase:
        raise BadInput("the two passphrases differ: nothing was done")
    return passphrase


def read_passphrase(*, confirm: bool = False) -> str:
    """Return the passphrase from DAL_PASSPHRASE, DAL_PASSPHRASE_FILE, or a person."""
    given = _given_passphrase("DAL_PASSPHRASE")
    if given is not None:
        return given
    # A person may be there although the input is a pipe: getpass asks on the terminal itself.
    if not (sys.stdin.isatty() or sys.stderr.isatty()):
        raise BadInput("the pool needs its passphrase: set DAL_PASSPHRASE or DAL_PASSPHRASE_FILE, or use a terminal")
    import getpass  # only a person needs it

    passphrase = getpass.getpass("Passphrase: ")
    if confirm and getpass.getpass("Again: ") != passphrase:
        raise BadInput("the two passphrases differ: nothing was done")
    return passphrase
