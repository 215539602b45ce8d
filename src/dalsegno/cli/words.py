"""Words in: the parser that every command starts from, and what its words stand for."""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from dalsegno.terms.errors import BadInput
from dalsegno.world import places


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are BadInput: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Say what was wrong with the words."""
        raise BadInput(f"{message}: `{self.prog} --help` shows how")


def new_parser(name: str, line: str, example: str) -> Parser:
    """Return a command's parser with the global options."""
    parser = Parser(
        prog=f"dal {name}",
        description=line[0].upper() + line[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--pool", dest="pool_path", metavar="PATH", help="the pool (else DAL_POOL, else your own)")
    parser.add_argument("--key", dest="key_path", metavar="FILE", help="the pool's key file (else DAL_KEY)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--utc", action="store_true", help="read and show times in UTC, not in the local time zone")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only results and errors")
    parser.add_argument("-v", "--verbose", action="store_true", help="print more")
    return parser


def pool_path(arguments: argparse.Namespace) -> Path:
    """Return the pool's place: the option, DAL_POOL, or the user's data directory."""
    given = arguments.pool_path or os.environ.get("DAL_POOL")
    if given:
        return Path(given)
    return places.data_dir() / "pool"


def key_path(arguments: argparse.Namespace) -> Path | None:
    """Return the key file's place, if one is given."""
    given = arguments.key_path or os.environ.get("DAL_KEY")
    return Path(given) if given else None


def path_bytes(text: str) -> bytes:
    """Return a path within a volume: no slash at either end."""
    return os.fsencode(text).strip(b"/")


def read_passphrase(*, confirm: bool = False) -> str:
    """Return the passphrase from DAL_PASSPHRASE, DAL_PASSPHRASE_FILE, or a person."""
    given = os.environ.get("DAL_PASSPHRASE")
    if given is not None:
        return given
    file = os.environ.get("DAL_PASSPHRASE_FILE")
    if file is not None:
        try:
            lines = Path(file).read_text().splitlines()
        except UnicodeDecodeError:
            raise BadInput(f"{file}: the passphrase file is not a text") from None
        if not lines:
            raise BadInput(f"{file}: the passphrase file is empty")
        return lines[0]
    # A person may be there although the input is a pipe: getpass asks on the terminal itself.
    if not (sys.stdin.isatty() or sys.stderr.isatty()):
        raise BadInput("the pool needs its passphrase: set DAL_PASSPHRASE or DAL_PASSPHRASE_FILE, or use a terminal")
    import getpass  # only a person needs it

    passphrase = getpass.getpass("Passphrase: ")
    if confirm and getpass.getpass("Again: ") != passphrase:
        raise BadInput("the two passphrases differ: nothing was done")
    return passphrase
