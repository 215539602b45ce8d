"""The way in: from a command's words to the open house."""

import argparse

from dalsegno.actions.house import House
from dalsegno.assembly import open_pool
from dalsegno.cli.terminal import Terminal
from dalsegno.cli.words import key_path, pool_path, read_passphrase


def open_house(arguments: argparse.Namespace, terminal: Terminal) -> House:
    """Open the pool that the words name."""
    return open_pool(
        pool_path(arguments), passphrase=read_passphrase, key_path=key_path(arguments), report=terminal.report
    )
